"""A file beside one that is trusted: what is conclusive, and what training does."""

import numpy as np
import pytest
import torch

from safemodel import Verdict, detect, disarm
from safemodel._detector import reference as module
from safemodel._detector.weights import Weights
from safemodel.evaluation import stego
from safemodel.scrub import Scrub
from tests.unit.detector.helpers_detection import encrypted, weights_like
from tests.unit.detector.helpers_detector import generator

SIZES = {"a.weight": 40_000, "a.bias": 300, "b.weight": 20_000}
DTYPES = [
    (torch.float32, [1, 4, 8, 16, 20]), (torch.bfloat16, [1, 2, 4]),
    (torch.float16, [1, 5]), (torch.float64, [1, 12, 40]),
]  # fmt: skip


def states(found):
    """Return what became of each tensor, by name."""
    return {one.name: one.state for one in found.changes}


@pytest.mark.parametrize(
    ("dtype", "bits"), [(dtype, bits) for dtype, every in DTYPES for bits in every]
)
def test_replaced_bits_are_counted_and_placed(draws, dtype, bits):
    """Encrypted, in a part of one tensor: exactly so many bits, exactly there."""
    trusted = weights_like(draws, SIZES, dtype)
    data = encrypted(1_000)
    method = stego.Lsb(bits=bits, start=5_000)
    hidden, where = stego.embed(trusted, data, method, tensors=["a.weight"])
    found = detect(hidden, reference=trusted)
    assert found.verdict is Verdict.SUSPICIOUS
    assert (found.score, found.bits) == (1.0, bits)
    assert states(found) == {
        "a.weight": "replaced", "a.bias": "equal", "b.weight": "equal",
    }  # fmt: skip
    change = found.changes[0]
    before, after = (one["a.weight"].view(-1) for one in (trusted, hidden))
    apart = torch.nonzero(before != after).flatten()
    assert change.changed == len(apart)
    assert (change.start, change.end) == (int(apart[0]), int(apart[-1]) + 1)
    assert change.share == 1.0
    assert change.start >= where.where[0].start
    assert change.end <= where.where[0].stop
    assert [one.name for one in found.by_tensor if one.suspicious] == ["a.weight"]
    (evidence,) = [one for one in found.evidence if one.test == "reference"]
    assert (evidence.tensor, evidence.bits) == ("a.weight", bits)
    assert evidence.p_value < 1e-9


@pytest.mark.parametrize("step", [1e-7, 1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_is_no_evidence(draws, step, dtype):
    """However small its steps: changes reach above any bit as often as not."""
    trusted = weights_like(draws, SIZES, dtype)
    random = generator(draws)
    tuned = {}
    for name, one in trusted.items():
        steps = torch.from_numpy(random.standard_normal(tuple(one.shape)))
        tuned[name] = (one.double() * (1 + step * steps)).to(dtype)
    found = detect(tuned, reference=trusted)
    # What other tests say of made-up weights is theirs, at a rate of their own.
    assert "reference" not in {one.test for one in found.evidence}
    assert set(states(found).values()) <= {"values", "equal"}


@pytest.mark.parametrize("shift", [-3, -1, 1, 5])
def test_a_step_of_all_numbers_in_one_direction_is_no_evidence(draws, shift):
    """As rounding in another order gives; half of the sums carry."""
    trusted = weights_like(draws, SIZES)
    step = np.uint32(shift % 2**32)
    moved = {
        name: torch.from_numpy((one.numpy().view("u4") + step).view("f4"))
        for name, one in trusted.items()
    }
    assert detect(moved, reference=trusted).verdict is Verdict.NO_EVIDENCE


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_cast_to_half_and_back_is_rounding(draws, half):
    """To the nearest; the zeros that are left hold nothing."""
    trusted = weights_like(draws, SIZES)
    back = {name: one.to(half).float() for name, one in trusted.items()}
    found = detect(back, reference=trusted)
    assert found.verdict is Verdict.NO_EVIDENCE
    assert set(states(found).values()) == {"rounded"}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_copy_in_another_dtype_is_compared(draws, half):
    """With what the trusted one is in that dtype; and bits in it are seen."""
    trusted = weights_like(draws, SIZES)
    cast = {name: one.to(half) for name, one in trusted.items()}
    assert set(states(detect(cast, reference=trusted)).values()) == {"equal"}
    wide = {name: one.float() for name, one in cast.items()}
    assert set(states(detect(wide, reference=cast)).values()) == {"equal"}
    hidden, _ = stego.embed(wide, encrypted(2_000), stego.Lsb(bits=8))
    found = detect(hidden, reference=cast)
    assert found.verdict is Verdict.SUSPICIOUS
    assert found.bits == 8


@pytest.mark.parametrize("method", ["zero", "round"])
def test_a_scrub_with_zeros_is_rounding(draws, tmp_path, method):
    """One with random bits is as conclusive as a payload: the bits were replaced."""
    trusted = weights_like(draws, SIZES)
    torch.save(trusted, tmp_path / "a.pt")
    for how, state in ((method, "rounded"), ("random", "replaced")):
        scrub = Scrub(bits=8, method=how)
        disarm(tmp_path / "a.pt", tmp_path / "b.pt", scrub=scrub, overwrite=True)
        found = detect(tmp_path / "b.pt", reference=tmp_path / "a.pt")
        assert states(found)["a.weight"] == state
        assert found.reference == str(tmp_path / "a.pt")


def test_tensors_are_added_gone_and_renamed(rand):
    """By name, then by its end, then by the upper halves of all words."""
    trusted = weights_like(rand, {**SIZES, "gone": 100})
    hidden, _ = stego.embed(
        {name: trusted[name] for name in SIZES}, encrypted(2_000), stego.Lsb(bits=4)
    )
    prefixed = {f"module.{name}": one for name, one in hidden.items()}
    found = detect({**prefixed, "new": trusted["gone"] * 2}, reference=trusted)
    assert states(found) == {
        "new": "added", "module.a.weight": "replaced", "module.a.bias": "equal",
        "module.b.weight": "equal", "gone": "missing",
    }  # fmt: skip
    renamed = {f"x{at}": one for at, one in enumerate(hidden.values())}
    found = detect(renamed, reference=trusted)
    assert {one.name: one.reference for one in found.changes if one.reference} == {
        "x0": "a.weight", "x1": "a.bias", "x2": "b.weight",
    }  # fmt: skip
    assert states(found)["x0"] == "replaced"


def test_one_that_has_another_size_or_kind_is_not_compared(rand):
    """It is another tensor, or of numbers that mean something else."""
    trusted = weights_like(rand, {"w": 2_000, "v": 500})
    other = {"w": trusted["w"][:1_000], "v": (trusted["v"] * 100).to(torch.int8)}
    found = detect(other, reference=trusted)
    assert states(found) == {"w": "added", "v": "incomparable"} | {"w": "missing"}
    assert [one.state for one in found.changes] == ["added", "incomparable", "missing"]


def test_masks_and_counters_that_move_are_no_evidence(draws):
    """Of few different upper parts: 0 becomes 1, and never 2."""
    random = generator(draws)
    mask = torch.from_numpy(random.integers(0, 2, 5_000).astype(bool))
    steps = torch.arange(3)
    ones = torch.ones(5_000)
    trusted = {"mask": mask, "steps": steps, "ones": ones}
    up = torch.from_numpy(random.integers(0, 9, 5_000).astype(np.int32))
    raised = (ones.view(torch.int32) + up).view(torch.float32)
    found = detect(
        {"mask": ~mask, "steps": steps + 1, "ones": raised}, reference=trusted
    )
    assert not [one for one in found.evidence if one.test == "reference"]
    assert set(states(found).values()) == {"values"}


def test_a_tuned_model_with_some_frozen_layers_is_judged_layer_by_layer(draws):
    """The frozen one gives it away, whatever the others do."""
    trusted = weights_like(draws, SIZES)
    tuned = {**trusted, "b.weight": trusted["b.weight"] * 1.001}
    hidden, _ = stego.embed(tuned, encrypted(2_000), stego.Lsb(bits=2))
    found = detect(hidden, reference=trusted)
    assert states(found)["a.weight"] == "replaced"
    assert states(found)["b.weight"] == "values"


def test_the_p_value_is_that_of_so_few_heads(draws):
    """By hand: a thousand coins of which none, a tenth, and half fall right."""
    words = np.arange(1000, dtype=np.uint32) << np.uint32(12)

    def tally(apart):
        one = Weights("w", "float32", words ^ np.asarray(apart, np.uint32), "weight",
                      (1000,), 0, 1000)  # fmt: skip
        made = module._Tally(one, "w")
        made.take(one, one._replace(bits=words))
        return made

    none = tally(np.full(1000, 0b1001))
    assert none.cut == 4
    assert none.log_p(4) == pytest.approx(-1000 * np.log(2))
    tenth = tally([0b1000 if at % 10 else 0b10000 for at in range(1000)])
    known = 0.1 * np.log(0.1) + 0.9 * np.log(0.9)
    assert tenth.log_p(4) == pytest.approx(-1000 * (np.log(2) + known))
    half = tally([0b1000 if at % 2 else 0b10000 for at in range(1000)])
    assert half.log_p(4) == 0.0


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_the_highest_bit_of_a_word_is_found(itemsize):
    """Of every width, and beside what a float64 would round to."""
    kind = np.dtype(f"u{itemsize}")
    words = [0, 1]
    for bit in range(1, 8 * itemsize):
        words += [1 << bit, (1 << bit) - 1, (1 << bit) + 1]
    words.append((1 << 8 * itemsize) - 1)
    found = module._bit_lengths(np.array(words, kind))
    assert found.tolist() == [word.bit_length() for word in words]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_reference_is_converted_as_torch_does(rand, dtype):
    """To the nearest, ties to even, subnormal numbers and infinities included."""
    random = generator(rand)
    words = random.integers(0, 1 << 32, 20_000, dtype=np.uint64).astype(np.uint32)
    values = torch.from_numpy(words.view(np.float32))
    values = values[~values.isnan()]
    given = Weights("w", "float32", values.numpy().view("u4"), "weight")
    made = module._converted(given, dtype)
    expected = values.to(getattr(torch, dtype)).view(torch.uint8).numpy()
    assert (made.view(np.uint8) == expected).all()
