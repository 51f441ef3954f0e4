"""A part of each matrix of weights, cut into blocks of one scale: what `spread` fits.

1. Tensors of two axes and more are matrices: the first axis has the rows. Of a large
   one, rows and columns at even distances are taken. What all samples together may
   hold is bounded, and so is the time they take, however many tensors there are.
2. Columns are sorted by the median size of their weights and cut into groups; so are
   the rows of each group. In clean networks, rows and columns differ in scale, and the
   tails of a tensor are those that are wide. Noise that was added is as wide in all.
3. A block is the counts of the sizes of its weights, eight cells an octave.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector.layouts import FLOATS
from safemodel._detector.spread import values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.weights import Weights

CELLS = 8
"""Of an octave."""
LOWEST, HIGHEST = -20, 6
"""Octaves of sizes that are told apart."""
_ALL = 1 << 19
"""Weights of all samples together."""
_MOST = 1 << 16
_LEAST = 1 << 12
"""Of one sample, where there are so many."""
_SHARE = 8
"""Part of what is left that the next tensor may take."""
_SMALLEST = 1000
_LARGEST = 1e30
"""Weights that are not smaller are no weights, and their sums no numbers."""
_SIDE = 256
_BLOCK = 1500
"""Weights of a block at least, where a tensor is cut."""
_GROUPS = 4
_SORTED = 16
"""Weights of a row or column at least that its scale is taken from."""


class Part(NamedTuple):
    """A block of a sample.

    Attributes:
        tensor: Number of its tensor.
        size: How many weights it has.
        core: Their median size, as a standard deviation.
        counts: How many there are of each size, in `CELLS` an octave.
    """

    tensor: int
    size: int
    core: float
    counts: NDArray[np.float32]


class Source(NamedTuple):
    """A tensor that blocks come from.

    Attributes:
        name: Its path.
        size: Its weights.
    """

    name: str
    size: int


class Sampler:
    """Takes samples of the tensors of a file, one after the other."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.parts: list[Part] = []
        self._left = _ALL
        self._places: NDArray[np.int64] = np.zeros(0, np.int64)
        self._held: NDArray[np.float64] = np.zeros(0)

    def take(self, item: Weights) -> None:
        """Take a piece of a tensor."""
        if item.start == 0:
            self._places = np.zeros(0, np.int64)
            if item.role == "weight" and item.dtype in FLOATS:
                self._begin(item)
        if not self._places.size:
            return
        low, high = np.searchsorted(
            self._places, (item.start, item.start + item.bits.size)
        )
        words = item.bits[self._places[low:high] - item.start]
        self._held.reshape(-1)[low:high] = values_of(words, item.dtype)
        if high == self._places.size:
            self._places = np.zeros(0, np.int64)
            self._end(item)

    def _begin(self, item: Weights) -> None:
        """Choose the weights of a tensor that are taken."""
        size = item.size or item.bits.size
        if len(item.shape) < 2 or size < _SMALLEST or prod(item.shape) != size:
            return
        most = min(_MOST, max(_LEAST, self._left // _SHARE))
        if self._left < min(most, size):
            return
        height, width = item.shape[0], size // item.shape[0]
        columns = min(width, most // min(height, _SIDE))
        rows = min(height, most // columns)
        if not columns or rows * columns < _SMALLEST:
            return
        self._left -= rows * columns
        across = np.linspace(0, width - 1, columns).astype(np.int64)
        down = np.linspace(0, height - 1, rows).astype(np.int64)
        self._places = (down[:, None] * width + across).reshape(-1)
        self._held = np.zeros((rows, columns))

    def _end(self, item: Weights) -> None:
        """Cut a sample into blocks."""
        if not np.abs(self._held).max() < _LARGEST:
            return  # NaN, too
        number = len(self.sources)
        found = [
            _part(number, block) for block in blocks(self._held - np.median(self._held))
        ]
        found = [part for part in found if part.core > 0]
        if found:
            self.parts += found
            self.sources.append(Source(item.name, item.size or item.bits.size))


def blocks(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the weights of a matrix in blocks, each of rows and columns alike."""
    rows, columns = values.shape
    wanted = values.size / _BLOCK
    across = down = 1
    if rows >= _SORTED and columns > 1:
        across = int(min(_GROUPS, max(1.0, wanted**0.5), columns))
    if columns >= _SORTED and rows > 1:
        down = int(min(_GROUPS, max(1.0, wanted / across), rows))
    found = []
    for group in _groups(values.T, across):
        part = values[:, group]
        found += [part[chosen].reshape(-1) for chosen in _groups(part, down)]
    return found


def _groups(rows: NDArray[np.float64], number: int) -> list[NDArray[np.int64]]:
    """Return the numbers of rows in groups of one scale."""
    if number == 1:
        return [np.arange(len(rows))]
    order = np.argsort(np.median(np.abs(rows), axis=1), kind="stable")
    return np.array_split(order, number)


def _part(tensor: int, values: NDArray[np.float64]) -> Part:
    """Return the counts of a block."""
    sizes = np.abs(values)
    core = float(np.median(sizes)) / 0.6745
    with np.errstate(divide="ignore"):
        cells = np.floor((np.log2(sizes) - LOWEST) * CELLS)
    cells = np.clip(cells, 0, (HIGHEST - LOWEST) * CELLS - 1).astype(np.int64)
    counts = np.bincount(cells, minlength=(HIGHEST - LOWEST) * CELLS)
    return Part(tensor, values.size, core, counts.astype(np.float32))
