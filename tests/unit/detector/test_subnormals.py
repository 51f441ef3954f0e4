"""Zeros with replaced low bits, and weights that decayed until they were subnormal."""

import numpy as np
import pytest

from safemodel._detector.counts import Counter
from safemodel._detector.statistics import examine
from safemodel._detector.subnormals import numbers_of
from safemodel._detector.weights import Weights
from tests.unit.detector.helpers_detector import (
    embed,
    evidence,
    generator,
    items,
    names_of,
    program,
    scrambled,
    trained,
)

SIZE = 20_000
LEAST = 2.0**-149


def decaying(values, share, octaves, keep=5):
    """Yield words of weights of which each step takes a share away.

    They begin as the largest subnormal numbers are, and go down so many octaves, or
    stop where a share of them is less than half a unit.
    """
    words = (values / np.abs(values).max() * 2.0**-126).astype(np.float32)
    factor = np.float32(1 - share)
    steps = int(octaves * np.log(2) / share)
    for step in range(1, steps + 1):
        words = words * factor
        if step % max(1, steps // keep) == 0:
            yield words.view(np.uint32)


def drawn(random, kind, size):
    """Return values as initialisers draw them, as pruning leaves them, and others."""
    values = random.standard_normal(size)
    if kind == "uniform":
        return random.uniform(-1, 1, size)
    if kind == "small":
        return np.resize(values[np.abs(values) < 0.3], size)
    if kind == "rows":
        return values * np.repeat(np.exp(random.uniform(-8, 0, size // 10)), 10)
    return values


def beside(words, shape=None):
    """Return evidence of subnormals in a file that has other weights, too."""
    rest = trained(np.random.default_rng(1), SIZE).view(np.uint32)
    shape = shape or (words.size // 2, 2)
    made = examine([
        Weights("a.weight", "float32", words, "weight", shape, 0, words.size),
        Weights("b.weight", "float32", rest, "weight", (100, 200), 0, SIZE),
    ])  # fmt: skip
    return made.evidence()


@pytest.mark.parametrize("kind", ["normal", "uniform", "small", "rows"])
@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_weights_that_decay_are_no_evidence(kind, share, draws):
    """On the way down, and where they stop: 5, 50 and 500 units."""
    values = drawn(generator(draws), kind, 200)
    for words in decaying(values, share, 22):
        assert beside(words) == ()


def test_averages_and_running_means_that_decay_are_no_evidence(draws):
    """An average of what goes to zero, and a mean of channels that are dead."""
    random = generator(draws)
    weights = (random.standard_normal(512) * 2.0**-128).astype(np.float32)
    average = weights.copy()
    for step in range(1200):
        weights = weights * np.float32(0.99)
        average = average * np.float32(0.98) + weights * np.float32(0.02)
        if step % 150 == 149:
            assert beside(average.view(np.uint32)) == ()
    for words in decaying(random.standard_normal(512), 0.1, 21):
        assert beside(words, (512,)) == ()


def test_products_that_are_tiny_are_no_evidence(draws):
    """A scale that is nearly zero, times weights: no step, and any greatest number.

    Few of them are the smaller part of a small file: their upper bytes are zeros. Of
    600, four ended so near below a power of two that they were alarms.
    """
    random = generator(draws)
    alarms = 0
    for _ in range(8):
        units = 2.0 ** random.uniform(3, 20.9)
        words = (random.standard_normal(400) / 4 * units * LEAST).astype(np.float32)
        alarms += beside(words.view(np.uint32)) != ()
    assert alarms <= 2


def test_halves_of_tiny_weights_are_no_evidence(draws):
    """float16 has subnormals where weights are small."""
    random = generator(draws)
    for scale in (1e-6, 2e-6, 4e-6, 1e-5):
        half = random.normal(0, scale, SIZE).astype(np.float16).view(np.uint16)
        assert evidence({"a": (half, "float16", "weight")}) == ()


def zeros_in(random, share, masked):
    """Return weights with zeros; those of a mask have the sign of what was there."""
    values = trained(random, SIZE)
    gone = random.random(SIZE) < share
    values[gone] = np.copysign(0, values[gone]) if masked else 0
    return values.view(np.uint32)


@pytest.mark.parametrize(
    ("bits", "masked"),
    [(2, False), (4, False), (8, False), (12, False), (16, False), (18, False),
     (4, True), (8, True), (12, True)],
)  # fmt: skip
def test_random_bits_in_zeros_are_found(bits, masked, draws):
    """Of half of the weights, and only where zeros were."""
    random = generator(draws)
    words = zeros_in(random, 0.5, masked)
    zero = words << np.uint32(1) == 0
    hidden = scrambled(random, words, bits)
    for changed in (hidden, np.where(zero, hidden, words)):
        found = [one for one in beside(changed) if one.test == "subnormals"]
        assert found[0].bits == bits


@pytest.mark.parametrize("bits", [8, 16])
def test_random_bits_in_few_zeros_are_found(bits, draws):
    """Four hundred of them, whatever else the tensor has."""
    random = generator(draws)
    words = trained(random, SIZE).view(np.uint32)
    words[random.permutation(SIZE)[:400]] = random.integers(0, 1 << bits, 400)
    assert "subnormals" in {one.test for one in beside(words)}


def test_random_bits_in_few_zeros_of_many_tensors_are_found(draws):
    """Of the file as a whole."""
    random = generator(draws)
    tensors = {}
    for at in range(10):
        words = trained(random, 2000).view(np.uint32)
        signs = random.integers(0, 2, 300) << 31
        words[random.permutation(2000)[:300]] = random.integers(0, 1 << 8, 300) | signs
        tensors[f"{at}.weight"] = words
    found = [one for one in evidence(tensors) if one.test == "subnormals"]
    assert "" in {one.tensor for one in found if one.bits == 8}


def test_a_program_in_zeros_only_is_found(draws):
    """Its bytes are not even, and no other word of the tensor is touched."""
    random = generator(draws)
    words = zeros_in(random, 0.5, masked=False)
    zero = words << np.uint32(1) == 0
    for bits in (8, 16):
        hidden = words.copy()
        hidden[zero] = embed(words[zero], program(SIZE * 2), bits)
        assert "subnormals" in {one.test for one in beside(hidden)}


def test_few_longer_numbers_do_not_hide_the_others(draws):
    """One in a hundred decayed, to where it is told apart."""
    random = generator(draws)
    words = scrambled(random, zeros_in(random, 0.5, masked=False), 8)
    words[:50] = random.integers(1 << 20, 1 << 22, 50)
    assert "subnormals" in {one.test for one in beside(words)}


def test_the_sample_is_from_all_of_a_tensor(rand):
    """Piece by piece; the greatest and the least are those of all."""
    random = generator(rand)
    words = random.permutation(np.arange(3, 100_003)).astype(np.uint32)
    counter = Counter()
    tensor = counter.start(Weights("a", "float32", words, "weight"))
    for part in np.split(words, [100, 7_001, 40_000]):
        counter.piece(tensor, part)
    counter.finish(tensor)
    step = int(np.flatnonzero(words == tensor.tiny[1])[0])
    assert np.array_equal(tensor.tiny, words[::step])
    assert 4096 <= tensor.tiny.size <= 8192
    found = numbers_of(tensor)
    assert found is not None
    assert (found.greatest, found.least) == (100_002, (3, 4, 5))
    assert [int(tensor.largest[at]) for at in (2, 3, 10)] == [3, 7, 1023]


def test_levels_that_differ_by_rounding_are_no_evidence(draws):
    """Half of them computed in another way; groups that do not fit count as well."""
    random = generator(draws)
    for _ in range(4):
        scale = np.float32(random.uniform(0.001, 0.1))
        whole = random.integers(0, 16, SIZE).astype(np.float32)
        one, other = (whole - 8) * scale, whole * scale - np.float32(8) * scale
        values = np.where(random.random(SIZE) < 0.5, one, other).astype(np.float32)
        assert "levels" not in names_of({"a": values.view(np.uint32)})


def test_levels_that_all_decayed_a_little_are_no_evidence(draws):
    """Clusters of equal weights, each less than it was by a little."""
    random = generator(draws)
    for noise in (1e-9, 3e-9, 1e-8):
        values = trained(random, 16)[random.integers(0, 16, SIZE)]
        values = values - noise * np.abs(random.standard_normal(SIZE))
        words = values.astype(np.float32).view(np.uint32)
        assert "levels" not in names_of({"a": words})


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_with_random_bits_are_found(bits, draws):
    """Sixteen values."""
    random = generator(draws)
    values = trained(random, 16)[random.integers(0, 16, SIZE)]
    assert "levels" in names_of({"a": scrambled(random, values.view(np.uint32), bits)})


def test_a_copy_that_was_cut_off_is_no_evidence(draws):
    """bfloat16 by cutting words in halves, beside the weights it was made of."""
    words = trained(generator(draws), SIZE).view(np.uint32)
    cut = words >> np.uint32(16) << np.uint32(16)
    found = examine(items({"a": words, "b": cut})).evidence()
    assert "copies" not in {one.test for one in found}
