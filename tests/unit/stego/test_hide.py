"""Files that hold a payload, and what defences leave of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from safemodel import Scrub, disarm, safe_load, state_dict
from safemodel.evaluation import payload_recovery
from safemodel.evaluation.stego import (
    ByteSubstitution,
    Lsb,
    SpreadSpectrum,
    embed,
    extract,
    hide,
    payload,
    recovery,
)
from safemodel.scrub import scrub_array
from tests.conftest import ROOT

KEY = bytes(32)


def network():
    """Return the state of a network with tied weights."""
    torch.manual_seed(0)
    shared = torch.randn(300, 40) * 0.05
    return {
        "embed.weight": shared,
        "body.weight": torch.randn(40, 40) * 0.05,
        "body.count": torch.tensor(3),
        "head.weight": shared,
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_a_file_holds_the_payload(tmp_path, suffix):
    """`safe_load` opens it and the payload comes out; ties stay where they can."""
    path = tmp_path / f"model{suffix}"
    data = payload("program", 13_000)
    embedding = hide(network(), path, data, Lsb(bits=8))
    assert embedding.weights == 13_600
    weights = safe_load(path)
    assert torch.equal(weights["head.weight"], weights["embed.weight"])
    tensors = ["embed.weight", "body.weight"]
    if suffix == ".safetensors":
        tensors.sort()  # the order of the file
    assert extract(weights, Lsb(bits=8), 13_000, tensors=tensors) == data
    tied = weights["head.weight"].data_ptr() == weights["embed.weight"].data_ptr()
    assert tied == (suffix != ".safetensors")
    assert weights["body.count"] == 3


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_a_file(tmp_path, suffix):
    """The weights are found in a checkpoint; what else was in it is not written."""
    source = tmp_path / f"source{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": network()}, source)
    else:
        save_file({"w.weight": torch.zeros(2000)}, source)
    out = tmp_path / "out.pt"
    hide(str(source), str(out), b"payload", Lsb(bits=4, key=b"k"), dtype="float32")
    weights = safe_load(out)
    assert "epoch" not in weights
    assert extract(weights, Lsb(bits=4, key=b"k"), 7) == b"payload"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_is_read_in_its_own_order(tmp_path, suffix):
    """Whatever the order of the mapping was: nothing but the method is needed."""
    weights = {name: torch.zeros(100) for name in ("b", "B", "a.10", "a.2", "ä")}
    weights["a.1"] = torch.zeros(100, dtype=torch.float16)
    path = tmp_path / f"model{suffix}"
    data = payload("script", 400)
    embedding = hide(weights, path, data, Lsb(bits=8))
    assert extract(safe_load(path), Lsb(bits=8), 400) == data
    first = "B" if suffix == ".safetensors" else "b"
    assert embedding.where[0].tensor == first


def test_a_real_file_holds_a_program(zoo, tmp_path):
    """One that detectors are trained on; the report says in which tensor it is."""
    side = (ROOT / "training" / "split.csv").read_text(encoding="utf-8")
    assert "akamaster/pytorch_resnet_cifar10,train\n" in side
    source = zoo / (
        "files/akamaster+pytorch_resnet_cifar10/pretrained_models/resnet20-12fca82f.th"
    )
    data = payload("program", 9000)
    name = "module.layer2.1.conv2.weight"
    for suffix in (".pt", ".safetensors"):
        out = tmp_path / f"stego{suffix}"
        embedding = hide(source, out, data, Lsb(bits=8), tensors=[name])
        assert [span.tensor for span in embedding.where] == [name]
        assert embedding.written == 9000 < embedding.weights == 9216
        weights, clean = safe_load(out), state_dict(safe_load(source))
        assert extract(weights, Lsb(bits=8), 9000, tensors=[name]) == data
        assert weights.keys() == clean.keys()
        differing = [key for key in clean if not torch.equal(weights[key], clean[key])]
        assert differing == [name]


def test_arrays_become_tensors(tmp_path):
    """A mapping of numpy arrays, one of them under two names."""
    array = np.zeros(100, np.float32)
    hide({"a": array, "b": array}, tmp_path / "m.pt", b"payload", Lsb(bits=8))
    weights = safe_load(tmp_path / "m.pt")
    assert weights["a"].data_ptr() == weights["b"].data_ptr()
    assert extract(weights, Lsb(bits=8), 7) == b"payload"


def test_nothing_is_written_over(tmp_path):
    """Nor to a name that says no format, nor where the payload does not fit."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        hide(network(), path, b"payload", Lsb(bits=8))
    assert path.read_bytes() == b"mine"
    with pytest.raises(ValueError, match=r"model\.gguf"):
        hide(network(), tmp_path / "model.gguf", b"payload", Lsb(bits=8))
    with pytest.raises(ValueError, match="do not fit"):
        hide(network(), tmp_path / "small.pt", bytes(99_999), Lsb(bits=8))
    with pytest.raises(TypeError, match="no tensor"):
        hide({**network(), "x": "text"}, tmp_path / "x.safetensors", b"a", Lsb(bits=8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_disarm_leaves_nothing_of_it(tmp_path):
    """Of an encrypted payload in scrubbed bits, half the bits are wrong."""
    method = Lsb(bits=8, fill=True)
    data = payload("encrypted", 2000, key=KEY)
    hide(network(), tmp_path / "stego.pt", data, method)
    kept, scrubbed = tmp_path / "kept.pt", tmp_path / "scrubbed.pt"
    disarm(tmp_path / "stego.pt", kept)
    disarm(tmp_path / "stego.pt", scrubbed, scrub=Scrub(bits=8))
    before = safe_load(tmp_path / "stego.pt")
    left = recovery(before, safe_load(kept), data, method)
    assert (left.recovered, left.bit_errors, left.capacity) == (True, 0, 1)
    left = recovery(before, safe_load(scrubbed), data, method)
    assert not left.recovered
    assert left.bits == 6 * 16_000  # whole copies in 13,600 bytes
    assert abs(left.bit_error_rate - 0.5) < 5 * 0.5 / np.sqrt(left.bits)
    assert left.capacity_low == 0
    assert len(left.error_rates) == 8


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_recovery_is_that_of_payload_recovery(bits):
    """The same numbers, where both can be asked."""
    before = np.random.default_rng(5).normal(0, 1, 8000).astype(np.float32)
    data = payload("random", bits * 250, key=KEY)
    method = Lsb(bits=bits, fill=True)
    hidden, _ = embed(before, data, method)
    after = hidden.copy()
    scrub_array(after[: after.size // 2], "float32", Scrub(bits=2))
    expected = payload_recovery(hidden, after, data, bits=bits, copies=4)
    assert recovery(hidden, after, data, method) == expected
    assert 0 < expected.bit_error_rate < 0.5


CASES = {
    "in a row": Lsb(bits=3),
    "keyed": Lsb(bits=3, key=b"k", share=0.5),
    "the lowest bit first": Lsb(bits=3, bit_order="little"),
    "matched": Lsb(bits=3, matching=True),
    "substituted": ByteSubstitution(count=3),
    "with ones left out": Lsb(bits=3, skip_exact=True),
}


@pytest.mark.parametrize("method", CASES.values(), ids=CASES)
def test_each_bit_of_a_weight_is_counted_apart(method):
    """The lowest bit is flipped everywhere: it is wrong, and no other."""
    weights = np.random.default_rng(6).normal(0, 1, 5000).astype(np.float32)
    weights[::10] = 1
    data = payload("random", 400, key=KEY)  # no multiple of three bits, nor of bytes
    hidden, _ = embed(weights, data, method)
    after = (hidden.view(np.uint32) ^ np.uint32(1)).view(np.float32)
    left = recovery(hidden, after, data, method)
    assert left.error_rates[0] == 1
    assert set(left.error_rates[1:]) == {0}
    assert left.bits == 3200
    last = 3200 % len(left.error_rates)
    assert left.bit_errors == 3200 // len(left.error_rates) + bool(
        last and isinstance(method, Lsb)
    )
    assert recovery(hidden, hidden, data, method).recovered


def test_a_payload_that_was_cut_counts_as_far_as_it_was_written():
    """One copy of it, and no decoding."""
    weights = np.zeros(100, np.float32)
    data = payload("random", 1000, key=KEY)
    hidden, _ = embed(weights, data, Lsb(bits=8, fill=True))
    left = recovery(hidden, hidden, data, Lsb(bits=8, fill=True))
    assert (left.bits, left.bit_errors) == (800, 0)


def test_spread_spectrum_survives_a_scrub():
    """A few of the bits that are sent are read wrong, and the code corrects them."""
    weights = np.random.default_rng(7).normal(0, 0.05, 100_000).astype(np.float32)
    data = b"payload"
    for method in (SpreadSpectrum(), SpreadSpectrum(coded=False)):
        hidden, embedding = embed(weights, data, method)
        after = hidden.copy()
        scrub_array(after, "float32", Scrub(bits=12))
        left = recovery(hidden, after, data, method)
        assert left.bits == embedding.bits
        assert 0 < left.bit_error_rate < 0.06
        assert left.capacity > 0.5
        assert left.recovered == (left.decoded_error_rate == 0)
        if method.coded:
            assert left.recovered


def test_spread_spectrum_that_is_gone():
    """Of weights that never held it, half of the bits; and nothing is decoded."""
    weights = np.random.default_rng(7).normal(0, 0.05, 30_000).astype(np.float32)
    method = SpreadSpectrum(gamma=0.005, chunk_bits=512)
    hidden, _ = embed(weights, b"payload", method)
    left = recovery(hidden, weights, b"payload", method)
    assert not left.recovered
    assert abs(left.bit_error_rate - 0.5) < 0.1
    assert left.decoded_error_rate > 0.2
    with pytest.raises(ValueError, match="does not hold"):
        recovery(weights, hidden, b"payload", method)


def test_a_comparison_that_shows_nothing_is_an_error():
    """Weights that never held the payload, or are not the same weights."""
    weights = np.zeros(100, np.float32)
    method = Lsb(bits=8)
    hidden, _ = embed(weights, b"payload", method)
    assert recovery(hidden, weights, b"payload", method).bit_errors > 0
    with pytest.raises(ValueError, match="does not hold"):
        recovery(weights, hidden, b"payload", method)
    with pytest.raises(TypeError, match="not the same"):
        recovery(hidden, weights[1:], b"payload", method)
    with pytest.raises(TypeError, match="not the same"):
        recovery(hidden, weights.astype(np.float16), b"payload", method)
    for data, confidence in ((b"", 0.5), (b"payload", 0), (b"payload", 1)):
        with pytest.raises(ValueError, match="nothing to compare"):
            recovery(hidden, weights, data, method, confidence=confidence)
