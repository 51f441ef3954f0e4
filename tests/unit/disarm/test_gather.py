"""Elements that do not lie densely, row by row, against numpy's own copy."""

from __future__ import annotations

import random

import numpy as np
import pytest

from safemodel._rewrite import gather

SIZES = [(32 << 20, 32 << 20, 32768), (64, 64, 4), (1024, 256, 16), (16, 1 << 20, 1)]


def check(read_sizes, shape, stride, offset, itemsize, numel=1000):
    """Assert that what is gathered is what numpy's copy of the same view holds."""
    raw = np.random.default_rng(0).integers(0, 256, numel * itemsize, dtype=np.uint8)

    def read(at, target):
        read_sizes.append(target.size)
        target[:] = raw[at : at + target.size]

    axes = tuple(zip(shape, stride, strict=True))
    got = b"".join(bytes(p) for p in gather.gathered(read, itemsize, offset, axes))
    steps = [step * itemsize for step in stride]
    view = np.ndarray(shape, f"V{itemsize}", raw, offset * itemsize, steps)
    assert got == view.tobytes(), (shape, stride, offset, itemsize)


@pytest.mark.parametrize("sizes", SIZES)
def test_elements_come_in_row_major_order(monkeypatch, sizes):
    """Whatever the shape and strides, and however little may be in memory."""
    names = ("_BLOCK", "_SPAN", "_READ")
    for name, size in zip(names, sizes, strict=True):
        monkeypatch.setattr(gather, name, size)
    chance = random.Random(1)  # noqa: S311 - shapes, not secrets
    for _ in range(800):
        axes = range(chance.randrange(5))
        shape = tuple(chance.choice([0, 1, 2, 3, 5, 7]) for _ in axes)
        stride = tuple(chance.choice([0, 1, 2, 3, 10, 35]) for _ in axes)
        itemsize = chance.choice([1, 2, 4, 8, 16])
        reads: list[int] = []
        check(reads, shape, stride, chance.randrange(5), itemsize)
        assert max(reads, default=0) <= max(sizes[1], itemsize)


def test_no_more_is_read_than_is_worth_it():
    """Two elements far apart are two reads; a transposed matrix is read in rows."""
    reads: list[int] = []
    check(reads, (2,), (1 << 22,), 0, 4, (1 << 22) + 1)
    assert reads == [4, 4]
    reads.clear()
    check(reads, (512, 300), (1, 512), 0, 4, 512 * 300)
    assert sum(reads) == 512 * 300 * 4
    reads.clear()
    check(reads, (100, 1000), (0, 0), 7, 8)
    assert reads == [8]
