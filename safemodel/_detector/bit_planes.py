"""How often each bit of a tensor is set, along the tensor, while it streams by.

Rules:

1. A tensor is cut into *cells* of as many weights, a power of two; there are at most
   `CELLS`. Only the counts of each are kept, so memory does not depend on the tensor.
2. What is shown of a cell is how many standard deviations the count is from that of a
   fair coin, on a scale that ends at `FULL`. So noise looks flat, however long a cell
   is. Of cells of few weights the scale is shorter: a single bit is black or white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.weights import Weights

CELLS = 4096
FULL = 6.0
LEVELS = 16
_LANES = np.uint64(0x0101010101010101)
_ADDED = 128
"""Words whose lanes are added up: 255 would still fit into a byte."""


class BitPlanes:
    """The counts of one tensor.

    Args:
        size: Weights of the tensor.
        itemsize: Bytes of each.

    Attributes:
        cell: Weights of a cell; the last one may have fewer.
        ones: (cells, bits); weights whose bit is set, bit 0 first.
    """

    def __init__(self, size: int, itemsize: int) -> None:
        self.size, self.itemsize = size, itemsize
        self.cell = 1 << max(-(-size // CELLS) - 1, 0).bit_length()
        cells = -(-size // self.cell)
        self.ones = np.zeros((cells, 8 * itemsize), np.int64)

    def add(self, piece: Weights) -> None:
        """Count a piece; but the last, pieces are whole cells or parts of one."""
        first = piece.start // self.cell
        words = piece.bits
        each = min(self.cell, 1 << max(words.size - 1, 0).bit_length())
        spare = -words.size % each
        if spare:
            words = np.append(words, np.zeros(spare, words.dtype))
        counted = _ones(words, each)
        self.ones[first : first + len(counted)] += counted

    def weights(self) -> NDArray[np.int64]:
        """Return how many weights each cell has, (cells,)."""
        found = np.full(len(self.ones), self.cell)
        found[-1] = self.size - self.cell * (len(self.ones) - 1)
        return found

    def columns(self, most: int) -> tuple[NDArray[np.uint8], int]:
        """Return levels along the tensor, (bits, columns), and weights of a column.

        The highest bit comes first, as people write numbers.
        """
        together = -(-len(self.ones) // most)
        starts = np.arange(0, len(self.ones), together)
        ones = np.add.reduceat(self.ones, starts, axis=0)
        weights = np.add.reduceat(self.weights(), starts)
        return levels(ones, weights).T[::-1], together * self.cell

    def plane(self, bit: int) -> NDArray[np.uint8]:
        """Return the levels of a bit, (cells,), in the order of the tensor."""
        return levels(self.ones[:, bit : bit + 1], self.weights())[:, 0]

    def whole(self) -> NDArray[np.uint8]:
        """Return a level for each bit of all weights together, the highest first."""
        return levels(self.ones.sum(0)[None], np.array([self.size]))[0, ::-1]

    def shares(self) -> NDArray[np.float64]:
        """Return the part of weights whose bit is set, (bits,), bit 0 first."""
        found: NDArray[np.float64] = self.ones.sum(0) / self.size
        return found


def levels(ones: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return gray levels from 0 to 15 (rule 2).

    Args:
        ones: (cells, bits).
        weights: (cells,).
    """
    roots = np.sqrt(weights)[:, None]
    away = (2 * ones - weights[:, None]) / roots / np.minimum(roots, FULL)
    middle = (LEVELS - 1) / 2
    return np.rint(middle * (1 + np.clip(away, -1, 1))).astype(np.uint8)


def _ones(words: NDArray[Any], cell: int) -> NDArray[np.int64]:
    """Return how many words of each cell have each bit set, (cells, bits)."""
    width = words.dtype.itemsize
    cells = words.size // cell
    found = np.zeros((cells, 8 * width), np.int64)
    if cell * width < 8:
        for bit in range(8 * width):
            set_there = words >> words.dtype.type(bit) & words.dtype.type(1)
            found[:, bit] = set_there.reshape(cells, cell).sum(1, dtype=np.int64)
        return found
    lanes = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view("<u8")
    each = min(cell * width // 8, _ADDED)
    for bit in range(8):
        # The same bit of eight bytes at a time: a sum of at most 128 stays in its lane.
        kept = (lanes >> np.uint64(bit) & _LANES).reshape(-1, each)
        sums = kept.sum(1, dtype=np.uint64).astype("<u8").view(np.uint8)
        by_byte = sums.reshape(cells, -1, width).sum(1, dtype=np.int64)
        found[:, bit::8] = by_byte
    return found
