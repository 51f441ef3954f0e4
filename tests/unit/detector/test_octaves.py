"""Whole mantissas: what their octaves say, and what has edges or grids instead."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from safemodel import detect
from safemodel._detector import octaves, smooth
from safemodel._detector.counts import Counter
from safemodel._detector.results import Verdict
from safemodel._detector.statistics import examine
from safemodel._detector.weights import Weights
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import (
    encrypted,
    matrices_like,
    weights_like,
)
from tests.unit.detector.helpers_detector import generator, items, trained

MANTISSA = {
    torch.float64: 52, torch.float32: 23, torch.float16: 10, torch.bfloat16: 7,
}  # fmt: skip
FLOATS = pytest.mark.parametrize("dtype", MANTISSA, ids=lambda dtype: str(dtype)[6:])


def hidden(weights, bits, share=1.0):
    """Return weights with encrypted data in the low bits of the last of them."""
    size = sum(one.numel() for one in weights.values())
    start = int((1 - share) * size)
    method = stego.Lsb(bits=bits, start=start)
    return stego.embed(weights, encrypted((size - start) * bits // 8), method)[0]


def octaves_of(values, shape=(-1, 100)):
    """Return what the octaves of float32 or float16 values say, by replaced bits."""
    words, shape = values.view(f"u{values.itemsize}"), values.reshape(shape).shape
    item = Weights("w", str(values.dtype), words, "weight", shape, 0, words.size)
    return examine([item]).tensors[0].octaves


def density_of(values):
    """Return the density of float32 values."""
    counter = Counter()
    tensor = None
    for item in items({"w": values.view(np.uint32)}):
        tensor = tensor or counter.start(item)
        counter.piece(tensor, item.bits)
        counter.marks()
    counter.finish(tensor)
    return smooth.density_of(tensor)


def naive(rows, exponents, kept, left):
    """Return the two sums, a cell after the other, as the rules say."""
    cells, within = [], 1 << kept - left
    for row, exponent in zip(rows, exponents, strict=True):
        for place in range(1 << left):
            part = row[place * within : (place + 1) * within]
            width = 2.0**exponent / (1 << left)
            start = 2.0**exponent + place * width
            cells.append((start, start + width, part))
    seen = expected = 0.0
    for before, here, after in zip(cells, cells[1:], cells[2:], strict=False):
        if before[1] != here[0] or here[1] != after[0]:
            continue
        counts = [float(part.sum()) for _, _, part in (before, here, after)]
        if min(counts) < 200:
            continue
        middles = [(one[0] + one[1]) / 2 for one in (before, here, after)]
        density = [count / (one[1] - one[0]) for count, one in
                   zip(counts, (before, here, after), strict=True)]  # fmt: skip
        fell, falls = (math.log(one / other) for one, other in
                       pairwise(density))  # fmt: skip
        chance = [math.sqrt(1 / one + 1 / other) for one, other in
                  pairwise(counts)]  # fmt: skip
        squares = [middle * middle for middle in middles]
        normal = (squares[2] - squares[1]) / (squares[1] - squares[0])
        if fell <= 3 * chance[0] or falls <= 3 * chance[1]:
            continue
        if falls >= 1.5 * normal * fell:
            continue
        ends = np.interp(here[:2], middles, density)
        slope = max((ends[1] - ends[0]) / density[1], -1.5)
        where = (np.arange(within) + 0.5) / within - 0.5
        seen += slope * float(here[2] @ where)
        expected += slope**2 * counts[1] * float((where**2).mean())
    return seen, expected


@pytest.mark.parametrize("size", [3_000, 100_000])
@pytest.mark.parametrize("left", octaves.LEFT)
def test_sums_are_those_of_a_slow_reckoning(size, left, rand):
    """Of two tensors, one of which has an octave that is missing."""
    random = generator(rand)
    first, second = trained(random, size), trained(random, size) * np.float32(3)
    second = second[(abs(second) < 0.03125) | (abs(second) >= 0.0625)]
    some = [density_of(first), density_of(second)]
    made = smooth.uniformities(some)
    for density, found in zip(some, made, strict=True):
        exponents = density.exponents.astype(int) - 127
        seen, expected = naive(density.rows, exponents, density.kept, left)
        one = found.octaves[density.bits - left]
        assert one.seen == pytest.approx(seen, rel=1e-9, abs=1e-9)
        assert one.expected == pytest.approx(expected, rel=1e-9)
        assert size < 100_000 or expected > 50


@FLOATS
@pytest.mark.parametrize("left", octaves.LEFT)
def test_encrypted_data_in_nearly_whole_mantissas_is_found(dtype, left, draws):
    """And in most of the weights; clean ones have all of their slope."""
    weights = matrices_like(draws, {"a": 100_000, "b": 300_000}, dtype)
    bits = MANTISSA[dtype] - left
    assert detect(weights).verdict is Verdict.NO_EVIDENCE
    for share in (1.0, 0.8):
        found = detect(hidden(weights, bits, share))
        assert found.verdict is Verdict.SUSPICIOUS, share
        even = [one for one in found.evidence if one.test == "too-uniform"]
        assert abs(even[0].bits - bits) <= 2
        assert "b" in {one.tensor for one in even}


@FLOATS
def test_tensors_of_nothing_but_encrypted_data_are_found(dtype):
    """Signs and exponents too: most numbers are far too large, or are none."""
    data = bytearray(encrypted(400_000))
    weights = torch.frombuffer(data, dtype=dtype).reshape(-1, 100)
    found = detect({"layer.weight": weights})
    assert found.verdict is Verdict.SUSPICIOUS


@pytest.mark.parametrize("kind", ["normal", "Laplace", "heavy"])
def test_smooth_densities_have_all_of_their_slope(kind, draws):
    """A density that is not a line has more of it, and none much less."""
    random = generator(draws)
    values = {
        "normal": random.standard_normal(300_000),
        "Laplace": random.laplace(size=300_000),
        "heavy": random.standard_t(3, 300_000),
    }[kind]
    found = octaves_of((values * 0.03).astype(np.float32))
    assert {bits: one.apart > 20 for bits, one in found.items()} == dict.fromkeys(
        (21, 22, 23), True
    )
    assert all(0.85 < one.share < 1.6 for one in found.values())


@pytest.mark.parametrize("edge", [1 / 16, 0.05, 0.09])
@pytest.mark.parametrize("trained_for", [0.0, 0.01, 0.05])
def test_edges_are_no_steps(edge, trained_for, draws):
    """Drawn evenly up to a power of two, or not; as it was drawn, or after training."""
    random = generator(draws)
    values = random.uniform(-edge, edge, 400_000)
    values += random.standard_normal(values.size) * edge * trained_for
    for bits, one in octaves_of(values.astype(np.float32)).items():
        lacks = (1 - one.share) * one.apart
        assert one.share > 0.6 or lacks < 4, (bits, one)


def test_two_values_that_weights_lie_around_are_no_steps(draws):
    """The density rises and falls: it is read where it falls all the way, only."""
    random = generator(draws)
    for middle in (0.3, 0.5, 0.7, 1.0):
        values = random.choice([-middle, middle], 300_000)
        values = values + random.standard_normal(values.size) * 0.1
        for one in octaves_of(values.astype(np.float32)).values():
            assert one.share > 0.6 or one.apart < 10, (middle, one)


def test_numbers_of_few_bits_say_nothing(draws):
    """Of four bits that are left, no cell tells where in it a word is."""
    values = weights_like(draws, {"w": 100_000}, torch.float8_e4m3fn)["w"]
    found = octaves_of(values.to(torch.float16).numpy())
    assert found == {}


def test_other_octaves_of_other_tensors_are_no_neighbours(rand):
    """The last octave of a tensor, and the first of the next, are not one density."""
    random = generator(rand)
    tensors = [trained(random, 5_000) * np.float32(2.0**-at) for at in range(6)]
    alone = [smooth.uniformities([density_of(one)])[0].octaves for one in tensors]
    together = smooth.uniformities([density_of(one) for one in tensors])
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.octaves.keys()
        for bits, known in one.items():
            assert known.seen == pytest.approx(other.octaves[bits].seen, abs=1e-6)
            assert known.expected == pytest.approx(other.octaves[bits].expected)


def test_layers_laid_flat_in_one_tensor_are_not_looked_at():
    """Drawn evenly up to 1/8, 1/16 and 1/32: the steps are there, as if replaced."""
    torch.manual_seed(1)
    sizes = ((64, 1024), (256, 256), (1024, 256))  # each of whole blocks
    flat = torch.cat([torch.nn.Linear(*size).weight.reshape(-1) for size in sizes])
    values = flat.detach().numpy()
    assert octaves_of(values, (-1,)) == {}
    assert detect({"flat_param": flat.detach()}).verdict is Verdict.NO_EVIDENCE
    found = octaves_of(values, (-1, 128))
    whole = found[max(found)]
    assert whole.share < 0.1
    assert whole.apart > 50


def test_rows_that_are_too_few_have_no_slope():
    """No octave, one, and two: there is no cell with a neighbour on either side."""
    for number in range(3):
        rows = np.full((number, 128), 100.0)
        cells = smooth.Cells(rows, 7).joined(0)
        made = octaves.sums(cells, np.zeros(number, int), np.arange(number))
        assert [each.tolist() for each in made] == [[0.0] * number] * 2
