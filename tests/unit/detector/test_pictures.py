"""Pictures of weights: right counts, the right tensors, and marks where data is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safemodel import detect
from safemodel._detector.bit_planes import CELLS, BitPlanes, levels
from safemodel._detector.pictures import Amount, chosen, pictures, spans_of
from safemodel._detector.results import Verdict
from safemodel._detector.weights import PIECE
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import weights_like
from tests.unit.detector.helpers_detector import generator, items, program

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@pytest.mark.parametrize("itemsize", list(WORDS))
@pytest.mark.parametrize(
    "size", [1, 63, CELLS, CELLS + 1, 3 * CELLS + 5, 200_003, PIECE + 17]
)
def test_ones_are_counted_cell_by_cell(rand, itemsize, size):
    """As a slow count says, of every width, with cells of one weight and of many."""
    words = generator(rand).integers(0, 256, size * itemsize, dtype=np.uint8)
    words = words.view(WORDS[itemsize])
    planes = BitPlanes(size, itemsize)
    for piece in items({"w": (words, "any", "weight")}):
        planes.add(piece)
    assert len(planes.ones) <= CELLS
    starts = np.arange(0, size, planes.cell)
    for bit in range(8 * itemsize):
        is_set = (words >> words.dtype.type(bit) & words.dtype.type(1)).astype(int)
        assert np.array_equal(planes.ones[:, bit], np.add.reduceat(is_set, starts))
    assert planes.weights().sum() == size


def test_noise_is_flat_and_structure_is_not():
    """A fair coin is middle gray; a count far from it black or white, whatever n."""
    for weights in (1, 16, 10_000):
        none, every = np.array([[0]]), np.array([[weights]])
        assert levels(none, np.array([weights])).item() == 0
        assert levels(every, np.array([weights])).item() == 15
    ones = np.array([[5_000], [5_050], [5_300], [4_600]])
    found = levels(ones, np.full(4, 10_000))[:, 0].tolist()
    assert found[0] in (7, 8)
    assert found[1] in (8, 9)
    assert found[2:] == [15, 0]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Return a file with a program in one of three tensors, and what was found."""
    import random

    path = tmp_path_factory.mktemp("pictures") / "hidden.pt"
    sizes = {"first": 70_000, "second": 400_000, "third": 80_000}
    seeded = random.Random(5)  # noqa: S311 - weights, not keys
    weights = weights_like(seeded, sizes)
    method = stego.Lsb(bits=4, start=70_000 + 140_000)
    embedding = stego.hide(weights, path, program(60_000), method)
    return path, detect(path), embedding


def test_marks_are_where_the_program_is(hidden):
    """They cover it but for what lies in blocks it hardly reaches, and little else."""
    path, found, embedding = hidden
    (span,) = embedding.where
    assert found.verdict is Verdict.SUSPICIOUS
    drawn = {found.by_tensor[one.at].name: one for one in pictures(found, path)}
    assert list(drawn) == ["first", "second", "third"]
    assert drawn["first"].marks == drawn["third"].marks == ()
    second = drawn["second"]
    width = second.column * second.map.width
    (mark,) = second.marks
    start, end = mark.start * width, mark.end * width
    block = 1 << 16
    assert start == pytest.approx(span.start // block * block)
    assert span.start + span.weights - block < end < span.start + span.weights + block
    (begin,) = second.begins
    assert begin.start * width == pytest.approx(span.start)


def test_the_map_shows_the_program_where_it_is(hidden):
    """Low bits are far from even within it, and flat before it and after it."""
    path, found, embedding = hidden
    (span,) = embedding.where
    second = pictures(found, path)[1]
    rows = np.frombuffer(second.map.levels, np.uint8).reshape(32, second.map.width)
    low = np.abs(rows[-4:].astype(int) - 7.5).mean(0)
    first = span.start // second.column + 1
    last = (span.start + span.weights) // second.column - 1
    assert low[first:last].mean() > 5
    assert low[: first - 2].mean() < 2
    assert low[last + 3 :].mean() < 2
    assert second.planes[-1].bit == 0
    assert second.planes[-1].share < 0.45
    assert [label for label, _ in second.near.parts][-1] == "4 lowest bits"
    assert second.near.start < span.start < second.near.end


def test_a_reference_says_where_to_the_number(tmp_path, draws):
    """Encrypted data that only a reference shows is marked where it begins and ends."""
    weights = weights_like(draws, {"w": 50_000})
    secret = stego.payload("encrypted", 5_000, key=bytes(32))
    stego.hide(weights, tmp_path / "copy.pt", secret, stego.Lsb(bits=2, start=10_000))
    found = detect(tmp_path / "copy.pt", reference=weights)
    ((start, end),) = spans_of(found, found.by_tensor[0])
    # Of two bits, one replaced weight in four is as it was.
    assert 10_000 <= start < 10_030
    assert 29_970 < end <= 30_000


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool]
)
def test_every_dtype_is_drawn(rand, dtype):
    """The bits that a number has, its fields, and the lowest four bytes at most."""
    weights = {"w": (weights_like(rand, {"w": 9_000})["w"] * 100).to(dtype)}
    (one,) = pictures(detect(weights), weights)
    bits = weights["w"].element_size() * 8
    assert one.bits == bits == sum(many for _, many in one.fields)
    assert len(one.map.levels) == bits * one.map.width
    assert [plane.bit for plane in one.planes] == list(reversed(range(min(bits, 32))))
    assert len(one.near.parts) == min(bits // 8, 4)


def test_the_bytes_of_numbers_are_those_of_the_file():
    """The published test vector: 0.123 is 61, 251, 231, 109."""
    weights = {"w": torch.full((100,), 0.123)}
    (one,) = pictures(detect(weights), weights)
    parts = {label: picture.levels[0] for label, picture in one.near.parts}
    assert list(parts.values()) == [61, 251, 231, 109]
    assert list(parts) == ["byte 3", "byte 2", "byte 1", "lowest byte"]


def test_suspicious_tensors_come_before_large_ones(hidden):
    """However few are drawn, it is those."""
    path, found, _ = hidden
    assert chosen(found, 1, 0) == [1]
    assert chosen(found, 1, 1) == [1, 2]
    amount = Amount(rows=1, suspicious=1, others=0)
    (one,) = pictures(found, path, amount=amount)
    assert found.by_tensor[one.at].name == "second"


def test_other_weights_are_an_error(hidden, rand):
    """Pictures of one file are none of another: has it changed?"""
    _, found, _ = hidden
    with pytest.raises(ValueError, match="not the weights of this detection"):
        pictures(found, weights_like(rand, {"first": 70_000}))
    with pytest.raises(ValueError, match="has the file changed"):
        found.to_html(weights_like(rand, {"first": 70_000}))
