"""What clean files do by themselves is no evidence, and hides none.

Each oddity of `detection.md`, sections 10 and 8.3 (d), and those that were found while
the tests were tuned, first clean and then with a program in it.
"""

import numpy as np
import pytest

from safemodel._detector.statistics import examine
from tests.unit.detector.helpers_detector import (
    bfloat16,
    embed,
    evidence,
    generator,
    items,
    names_of,
    program,
    scrambled,
    trained,
)

SIZE = 150_000


def upcast(random):
    """float16 stored as float32: 13 zeros at the end of each word."""
    return trained(random, SIZE).astype(np.float16).astype(np.float32)


def seven_zeros(random):
    """Another number of zeros at the end of each word."""
    return (trained(random, SIZE).view(np.uint32) >> 7 << 7).view(np.float32)


def fresh(random):
    """Weights as `torch.nn.Linear` draws them, hardly any changed since."""
    bound = np.float32(1 / 28)
    drawn = random.integers(0, 1 << 24, SIZE).astype(np.float32) * np.float32(2**-24)
    return (drawn * (2 * bound) - bound).astype(np.float32)


def dead_inputs(random):
    """The same in some columns, trained weights in the others."""
    values = fresh(random).reshape(-1, 400)
    live = trained(random, SIZE, 0.02).reshape(-1, 400)
    return np.where(np.arange(400) % 7 < 2, values, live).reshape(-1)


def scaled(random):
    """Normal numbers times 0.02: every few low bits of a product never occur."""
    return random.standard_normal(SIZE).astype(np.float32) * np.float32(0.02)


def averaged(random):
    """A slow copy that has come to rest just short of what it follows."""
    target = fresh(random)
    copy = target * np.float32(0.9)
    for _ in range(3000):
        copy = (copy * np.float32(0.995) + target * np.float32(0.005)).astype(
            np.float32
        )
    return copy


def fake_quantised(random):
    """212 values."""
    levels = (np.arange(212) - 100).astype(np.float32) * np.float32(0.0037)
    return levels[random.binomial(211, 0.47, SIZE)]


def repeated(random):
    """Equal rows."""
    return np.tile(trained(random, 3000), 50)


def pruned(random):
    """Exact zeros in nine of ten places."""
    return np.where(random.random(SIZE) < 0.9, 0, trained(random, SIZE)).astype("f4")


def not_finite(random):
    """NaN, infinities and bounds beside weights."""
    values = trained(random, SIZE)
    values[::50], values[1::50], values[2::50] = np.nan, np.inf, -np.inf
    return values


ODDITIES = [upcast, seven_zeros, fresh, dead_inputs, scaled, averaged, fake_quantised,
            repeated, pruned, not_finite, lambda r: trained(r, SIZE)]  # fmt: skip


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_clean_oddity_gives_no_evidence(oddity, draws):
    """None at a thousandth, over all tests of the file."""
    words = oddity(generator(draws)).view(np.uint32)
    assert evidence({"layer.weight": words}) == ()


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_program_in_it_is_found(oddity, draws):
    """The bits of a program in the lowest byte of each weight, whatever was there."""
    words = oddity(generator(draws)).view(np.uint32)
    words = embed(words, program(SIZE), 8)
    assert evidence({"layer.weight": words})


def test_moments_of_an_optimiser_are_no_evidence(draws):
    """Denormals of dead units, with a spike where they stop decaying."""
    random = generator(draws)
    moments = trained(random, SIZE, 1e-4)
    moments[: SIZE // 2] = 0
    decayed = random.integers(1, 1 << 20, SIZE // 4).astype(np.uint32)
    words = moments.view(np.uint32).copy()
    words[: SIZE // 4] = np.where(random.random(SIZE // 4) < 0.6, 4, decayed)
    assert evidence({"state.0.exp_avg": (words, "float32", "optimiser")}) == ()


def test_moments_of_filters_with_equal_gradients_are_no_evidence(draws):
    """32 filters of nearly the same gradients, kept in bfloat16 beside the weights."""
    random = generator(draws)
    row = trained(random, 9 * 64) ** 2
    near = row * (1 + random.normal(0, 1e-3, (32, row.size)))
    moments = bfloat16(near.astype(np.float32).reshape(-1))
    role = {"w": (moments, "bfloat16", "weight")}
    assert names_of(role)  # of weights, it would be
    assert not names_of({"exp_avg_sq": (moments, "bfloat16", "optimiser")})


def test_slack_is_not_judged_by_its_bits(draws):
    """Left-over bytes of any kind are no evidence; only what lies in them may be."""
    words = np.frombuffer(program(4 * SIZE, skip=100), np.uint32)
    assert evidence({"storage 0": (words, "float32", "slack")}) == ()


def test_half_precision_is_no_evidence(draws):
    """bfloat16, float16 with subnormals and a clamped value, and integers."""
    random = generator(draws)
    values = trained(random, SIZE)
    half = np.clip(values, -0.05, 0.05).astype(np.float16).view(np.uint16)
    small = (values * 1e-3).astype(np.float16).view(np.uint16)
    integers = np.clip(np.rint(values / 0.001), -128, 127).astype(np.int8)
    assert evidence({
        "a": (bfloat16(values), "bfloat16", "weight"),
        "b": (half, "float16", "weight"), "c": (small, "float16", "weight"),
        "d": (integers.view(np.uint8), "int8", "weight"),
    }) == ()  # fmt: skip


@pytest.mark.parametrize("scale", [0.025, 0.05, 0.1, 0.2])
def test_numbers_that_were_multiplied_are_no_evidence(scale, draws):
    """0.1 is 8/5 times a power of two: of what it multiplies, low bits are uneven."""
    drawn = generator(draws).standard_normal(90_000, dtype=np.float32)
    words = (drawn * np.float32(scale)).view(np.uint32)
    assert evidence({"w": words}) == ()


def test_float32_made_float64_is_no_evidence(draws):
    """It has 29 constant bits, and was not rounded to 16: 3 of 100 were alarms."""
    from safemodel import detect
    from safemodel._detector.results import Verdict

    random = generator(draws)
    for size in (20_000, 100_000, 400_000):
        values = trained(random, size).astype(np.float64)
        assert detect({"w": values}).verdict is Verdict.NO_EVIDENCE, size


def test_a_layer_as_torch_draws_it_is_no_evidence(draws):
    """Its bound is 1/20: numbers from 0 to 0.1, less half of that."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(draws.getrandbits(32))
    words = torch.nn.Linear(400, 400).weight.detach().numpy()
    assert evidence({"w": words.reshape(-1).view(np.uint32)}) == ()


def test_many_tensors_are_no_evidence(draws):
    """A file of 300 clean tensors: the p-values are corrected for all of them."""
    random = generator(draws)
    tensors = {
        f"{at}.weight": trained(random, 2000).view(np.uint32) for at in range(300)
    }
    assert evidence(tensors) == ()


def test_p_values_are_rare_in_clean_files(draws):
    """Of 30 clean files at most one gives evidence at a hundredth: 0.3 expected."""
    random = generator(draws)
    found = sum(
        bool(evidence({"a": trained(random, 20_000).view(np.uint32)}, 0.01))
        for _ in range(30)
    )
    assert found <= 3


def test_encrypted_low_bits_of_float32_stay_unseen(draws):
    """The blind spot: 8 random bits leave no trace here, and that is what is said."""
    random = generator(draws)
    words = scrambled(random, trained(random, SIZE).view(np.uint32), 8)
    assert evidence({"a": words}) == ()
    apart = examine(items({"a": words})).uniformity
    assert min(bits for _, bits in apart) == 15
    assert apart["float32", 15].apart < 2


def test_zeros_turned_subnormal_are_a_fact(draws):
    """Random bits in pruned weights leave numbers that nothing else makes."""
    random = generator(draws)
    words = scrambled(random, pruned(random).view(np.uint32), 8)
    assert "subnormals" in names_of({"a": words})


def test_a_broken_upcast_is_a_fact(draws):
    """Random bits below the zeros of float16 stored as float32."""
    random = generator(draws)
    words = scrambled(random, upcast(random).view(np.uint32), 8)
    assert "gap" in names_of({"a": words})


def test_values_around_one_number_are_no_gap(draws):
    """Scales that decayed together: they agree in bits that are zero in all of them."""
    random = generator(draws)
    near = 0x3F7CF2C0 + np.rint(random.normal(0, 80, 384)).astype(np.int64)
    assert evidence({"scale": near.astype(np.uint32)}) == ()


def test_infinities_turned_nan_are_a_fact(draws):
    """No arithmetic gives such NaN."""
    random = generator(draws)
    words = scrambled(random, not_finite(random).view(np.uint32), 8)
    assert "nan" in names_of({"a": words})


def test_copies_that_differ_in_low_bits_only_are_a_fact(draws):
    """Tied weights, one of them with random low bits; an average is no such copy."""
    random = generator(draws)
    words = trained(random, SIZE).view(np.uint32)
    assert "copies" in names_of({"a": words, "b": scrambled(random, words, 8)})
    near = (words.view(np.float32) * np.float32(1 + 1e-4)).view(np.uint32)
    assert "copies" not in names_of({"a": words, "b": near, "c": words})


def test_many_tiny_tensors_are_no_evidence(draws):
    """Biases and scales of forty numbers, most of them never changed since."""
    random = generator(draws)
    tensors = {}
    for at in range(200):
        value = np.float32(random.choice([0.1, 1.0, 0.3]))
        tensors[f"{at}.scale"] = np.full(40, value, np.float32).view(np.uint32)
        tensors[f"{at}.bias"] = trained(random, 40).view(np.uint32)
    assert evidence(tensors) == ()
