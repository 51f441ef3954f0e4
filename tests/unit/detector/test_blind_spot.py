"""Where encrypted data could lie unseen: how much, where, and what takes it away."""

import shlex

import numpy as np
import pytest
import torch

from safemodel import Scrub, Verdict, detect, disarm, safe_load
from safemodel._cli import main
from safemodel._detector.room import Judged, Stretch, Way, ways, width_of
from safemodel._detector.smooth import Uniformity
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import (
    encrypted,
    filled,
    int8_like,
    matrices_like,
    weights_like,
)

SIZES = {"a.weight": 60_000, "a.bias": 300, "b.weight": 30_000}
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def rooms_of(found):
    """Return the rooms of a detection by dtype and kind."""
    return {(one.dtype, one.kind): one for one in found.blind_spot.rooms}


def name_of(dtype):
    """Return torch's name without prefix."""
    return str(dtype).removeprefix("torch.")


def everything(draws, dtype):
    """Return a checkpoint: weights, biases, a buffer, and state of an optimiser."""
    weights = weights_like(draws, SIZES, dtype)
    state = weights_like(draws, {"exp_avg": 500}, dtype)
    return {
        **weights,
        "bn.running_mean": weights_like(draws, {"m": 400}, dtype)["m"],
        "state": {0: state}, "param_groups": [{"lr": 0.1}],
    }  # fmt: skip


def flat(checkpoint):
    """Return the tensors of such a checkpoint by their paths."""
    state = checkpoint["state"][0]["exp_avg"]
    tensors = {k: v for k, v in checkpoint.items() if isinstance(v, torch.Tensor)}
    return {**tensors, "state.0.exp_avg": state}


def nested(tensors):
    """Return the checkpoint of such tensors."""
    rest = {k: v for k, v in tensors.items() if not k.startswith("state.")}
    state = {0: {"exp_avg": tensors["state.0.exp_avg"]}}
    return {**rest, "state": state, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_what_fills_exactly_the_room_is_gone_after_the_call_that_is_named(
    draws, tmp_path, monkeypatch, dtype
):
    """Weights, biases, buffers and optimiser state; as Python, and as a command."""
    monkeypatch.chdir(tmp_path)
    tensors = flat(everything(draws, dtype))
    torch.save(nested(tensors), "model.pt")
    rooms = rooms_of(detect("model.pt"))
    room, small = rooms[name_of(dtype), "weights"], rooms[name_of(dtype), "untested"]
    large = ["a.weight", "b.weight"]
    others = [name for name in tensors if name not in large]
    assert room.numbers == 90_000
    assert small.numbers == sum(tensors[name].numel() for name in others)
    assert small.bits == width_of(name_of(dtype), 4)
    hidden, first, method = filled(tensors, max(room.bits, 1), large)
    hidden, second, other = filled(hidden, small.bits, others)
    torch.save(nested(hidden), "model.pt")
    spot = detect("model.pt").blind_spot
    assert spot.bits[name_of(dtype)] >= room.bits
    eval(spot.call, {"disarm": disarm, "Scrub": Scrub})  # noqa: S307 - our own words
    after = flat(safe_load("model-scrubbed.pt"))
    torch.save(nested(hidden), "model.pt")
    command = shlex.split(spot.command)
    assert main([*command[1:], "--overwrite"]) == 0
    again = flat(safe_load("model-scrubbed.pt"))
    for left in (after, again):
        for data, how, names in ((first, method, large), (second, other, others)):
            was = stego.recovery(hidden, hidden, data, how, tensors=names)
            now = stego.recovery(hidden, left, data, how, tensors=names)
            assert was.recovered
            assert was.bit_error_rate == 0
            assert not now.recovered
            assert now.bit_error_rate == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_of_float32_eight_bits_are_always_in_the_blind_spot(draws, bits):
    """Before the data is there, and after; and the mildest call removes it."""
    weights = matrices_like(draws, {"w": 90_000})
    hidden, data, method = filled(weights, bits)
    for one in (weights, hidden):
        found = detect(one)
        assert found.verdict is Verdict.NO_EVIDENCE
        assert found.blind_spot.bits["float32"] >= 8
        assert found.blind_spot.bytes >= len(data)
    mildest = found.blind_spot.remedies[0]
    assert mildest.bits >= bits
    scrubbed = {"w": hidden["w"].clone()}
    from safemodel.scrub import scrub_array

    scrub_array(scrubbed["w"].numpy(), "float32", Scrub(bits=mildest.bits))
    left = stego.recovery(hidden, scrubbed, data, method)
    assert left.bit_error_rate == pytest.approx(0.5, abs=0.02)
    most = float(((scrubbed["w"] - hidden["w"]) / hidden["w"]).abs().max())
    assert most <= mildest.change["float32"]


def test_of_integers_nothing_is_removed_and_that_is_said(rand, tmp_path, monkeypatch):
    """A scrub leaves them alone; so does the text leave no doubt."""
    monkeypatch.chdir(tmp_path)
    weights = {
        "q": int8_like(rand, 60_000), "steps": torch.tensor([5, 6]),
        "mask": torch.ones(80, dtype=torch.bool),
    }  # fmt: skip
    torch.save(weights, "q.pt")
    found = detect("q.pt")
    rooms = rooms_of(found)
    spot = found.blind_spot
    assert rooms["int8", "weights"].scrubbed == 0
    assert rooms["int64", "untested"].bytes == 16
    assert rooms["bool", "untested"].bytes == 10
    assert spot.remedies == ()
    assert (spot.call, spot.command) == ("", "")
    assert spot.left == spot.bytes
    assert "no scrub reaches" in str(found)
    data = encrypted(1_000)
    method = stego.Lsb(bits=1)
    hidden, _ = stego.embed({"q": weights["q"]}, data, method)
    torch.save(hidden, "h.pt")
    disarm("h.pt", "s.pt", scrub=Scrub(bits=23))
    assert stego.recovery(hidden, safe_load("s.pt"), data, method).bit_error_rate == 0


def test_slack_is_room_until_a_file_is_disarmed(rand, tmp_path, monkeypatch):
    """Bytes that no tensor reaches; a plain call leaves them behind."""
    monkeypatch.chdir(tmp_path)
    wide = weights_like(rand, {"w": 50_000})["w"]
    torch.save({"w": wide[:2_000]}, "view.pt")
    spot = detect("view.pt").blind_spot
    rooms = {one.kind: one for one in spot.rooms}
    assert rooms["slack"].bytes == 4 * 48_000
    first = spot.remedies[0]
    assert (first.bits, first.change) == (0, {"float32": 0.0})
    assert first.left == spot.bytes - 4 * 48_000
    assert main(shlex.split(first.command)[1:]) == 0
    kinds = {one.kind for one in detect("view-scrubbed.pt").blind_spot.rooms}
    assert "slack" not in kinds


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_one_bit_more_than_the_blind_spot_is_found(draws, dtype):
    """What is not in it, a test sees: the figure is a limit, not a precaution.

    Of two draws: one in a hundred is clean by chance.
    """

    def answers():
        size = 400_000
        weights = matrices_like(draws, {"w": size}, dtype)
        found = detect(weights)
        room = found.blind_spot.rooms[0]
        assert room.bits < {torch.float32: 20, torch.float16: 6}.get(dtype, 3)
        hidden, _, _ = filled(weights, room.bits + 1)
        return found.verdict, detect(hidden).verdict

    right = (Verdict.NO_EVIDENCE, Verdict.SUSPICIOUS)
    assert right in (answers() for _ in range(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16],
                         ids=name_of)  # fmt: skip
def test_more_bytes_than_the_blind_spot_says_are_found(draws, dtype):
    """However many bits of a weight they take, all of the mantissa at most."""
    size = 1_000_000
    weights = matrices_like(draws, {"w": size}, dtype)
    room = detect(weights).blind_spot.rooms[0]
    width = room.partly
    tried = 0
    for bits in range(width - 5, width + 1):
        part = 1.04 * room.bytes * 8 / bits / size
        if part < 1:
            method = stego.Lsb(bits=bits, start=int((1 - part) * size))
            data = encrypted(int(part * size) * bits // 8)
            hidden, _ = stego.embed(weights, data, method)
            assert detect(hidden).verdict is Verdict.SUSPICIOUS, bits
            tried += 1
    assert tried >= 3


def test_whole_integers_can_be_replaced_and_a_bit_of_each_cannot(draws):
    """Levels that are even are those of a layer that was drawn evenly."""
    weights = {"w": int8_like(draws, 400_000)}
    room = detect(weights).blind_spot.rooms[0]
    assert (room.bits, room.bytes) == (8, 400_000)
    for bits in (1, 4, 7, 8):
        seen = detect(filled(weights, bits)[0]).verdict is Verdict.SUSPICIOUS
        assert seen is (bits < 7), bits


def test_what_is_equal_to_the_reference_is_no_room(draws):
    """It holds what the trusted file holds, and no more."""
    weights = weights_like(draws, SIZES)
    assert detect(weights, reference=weights).blind_spot.rooms == ()
    changed = {**weights, "a.bias": weights["a.bias"] * 1.01}
    rooms = detect(changed, reference=weights).blind_spot.rooms
    assert [(one.kind, one.numbers) for one in rooms] == [("untested", 300)]


def test_constant_zeros_hold_nothing(draws):
    """Half precision in float32: the zeros are seen, and what is above them counts."""
    half = matrices_like(draws, {"w": 90_000}, torch.float16)["w"].float()
    found = detect({"w": half})
    room = found.blind_spot.rooms[0]
    assert room.bytes <= 90_000 * 10 // 8
    assert room.bits >= 13
    full = detect({"w": matrices_like(draws, {"w": 90_000})["w"]})
    assert full.blind_spot.rooms[0].bytes > room.bytes


def test_the_slowest_tensors_are_taken_first():
    """By hand: a flat tensor says nothing, so all of it can be replaced."""
    known = {3: Uniformity(400.0, 400.0), 7: Uniformity(400.0, 400.0)}
    flat_one = Judged(1000, 0, {3: Uniformity(0.0, 0.0), 7: Uniformity(0.0, 0.0)})
    steep, whole = Judged(1000, 0, known), known
    first, *others = ways("bfloat16", 7, [steep, flat_one], whole, (5.0, 5.0))
    assert first.bits == 2
    assert first.nbytes() == 2000 * 2 / 8
    last = others.pop(-2)
    # Of the steep one, the tolerance and five standard deviations of 20.
    assert [one.bits for one in others] == [3, 4, 5, 7]
    for way in others:
        assert [one.numbers for one in way.stretches] == [1000, pytest.approx(750)]
        assert way.share == pytest.approx(0.875)
        assert way.nbytes() == pytest.approx(1750 * way.bits / 8)
    # With one bit that is left there is nothing to compare with, if nobody looked.
    assert (last.bits, last.share) == (6, 1.0)


def test_where_whole_numbers_are_not_looked_at_all_of_them_are_room():
    """As of integers: what is known of fewer bits says nothing then."""
    known = {1: Uniformity(900.0, 900.0), 3: Uniformity(400.0, 400.0)}
    (way,) = ways("int8", 8, [Judged(1000, 0, known)], known, (5.0, 5.0))
    assert (way.bits, way.share, way.nbytes()) == (8, 1.0, 1000)


def test_whole_mantissas_are_no_room_where_their_octaves_tell():
    """What is known of all bits counts, not what is known of fewer."""
    steep = [
        Judged(1000, 0, {3: Uniformity(400.0, 400.0), 7: Uniformity(900.0, 900.0)})
    ]
    whole = {3: Uniformity(400.0, 400.0), 7: Uniformity(900.0, 900.0)}
    found = ways("bfloat16", 7, steep, whole, (5.0, 5.0))
    assert {one.bits: round(one.share, 4) for one in found} == {
        2: 1.0, 3: 0.75, 4: 0.75, 5: 0.75, 6: 1.0, 7: round(0.5 + 5 / 30, 4),
    }  # fmt: skip


def test_constant_bits_are_not_replaced():
    """Of 29 of 52 that are constant, 23 are left, and of all of them octaves tell."""
    some = {20: Uniformity(400.0, 400.0), 23: Uniformity(400.0, 400.0)}
    found = ways("float64", 52, [Judged(1000, 29, some)], some, (5.0, 5.0))
    assert [one.bits for one in found] == [19, 20, 21, 22, 23]
    (stretch,) = found[-1].stretches
    assert (stretch.low, stretch.top) == (29, 52)


def test_a_tensor_bears_less_than_its_share_if_the_file_does(draws):
    """The file is judged as a whole, too."""
    one, all_of_them = Uniformity(400.0, 400.0), Uniformity(40_000.0, 40_000.0)
    steep = [Judged(1000, 0, {3: one, 7: one}) for _ in range(100)]
    whole = {3: all_of_them, 7: all_of_them}
    _, way, *_ = ways("bfloat16", 7, steep, whole, (5.0, 5.0))
    assert way.share == pytest.approx(0.5 + 5 / 200)


def test_what_a_scrub_leaves_of_a_stretch():
    """Bits between the constant ones and the top, less those that are overwritten."""
    one = Stretch(800, 2, 6)
    assert [one.nbytes(bits) for bits in range(8)] == [
        400, 400, 400, 300, 200, 100, 0, 0,
    ]  # fmt: skip
    assert Way(4, 1.0, (one, one)).nbytes(5) == 200


@pytest.mark.parametrize(
    ("dtype", "itemsize", "bits"),
    [("float32", 4, 23), ("float64", 8, 52), ("bfloat16", 2, 7), ("float16", 2, 10),
     ("int8", 1, 8), ("quint4x2", 1, 4), ("bool", 1, 1), ("int64", 8, 64),
     ("float8_e4m3fn", 1, 3), ("float8_e8m0fnu", 1, 0)],
)  # fmt: skip
def test_how_many_bits_of_a_number_count(dtype, itemsize, bits):
    """The mantissa of floats; all of integers, and one of booleans."""
    assert width_of(dtype, itemsize) == bits


def test_names_that_would_break_a_command_are_quoted(rand, tmp_path, monkeypatch):
    """The command is one word a name, whatever the name is."""
    monkeypatch.chdir(tmp_path)
    name = "a b'; true #.pt"
    torch.save(weights_like(rand, {"w": 2_000}), name)
    spot = detect(name).blind_spot
    words = shlex.split(spot.command)
    assert words[:3] == ["safemodel", "disarm", name]
    assert main(words[1:]) == 0
    torch.save(weights_like(rand, {"w": 2_000}), "-q.pt")
    command = detect("-q.pt").blind_spot.command
    assert main(shlex.split(command)[1:]) == 0
    (tmp_path / "-q.pt").rename("a\nb.pt")
    assert detect("a\nb.pt").blind_spot.command.startswith("safemodel disarm SRC DST")


def test_every_format_gets_a_name_that_disarm_can_write(rand, tmp_path, monkeypatch):
    """The command that is shown works as it stands."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    weights = weights_like(rand, {"w": 2_000})
    torch.save(weights, "a.ckpt")
    save_file(weights, "b.safetensors")
    np.savez("c.npz", w=weights["w"].numpy())
    np.save("d.npy", weights["w"].numpy())
    for name in ("a.ckpt", "b.safetensors", "c.npz", "d.npy"):
        command = detect(name).blind_spot.command
        assert main(shlex.split(command)[1:]) == 0, command
