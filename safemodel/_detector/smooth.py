"""Is a tensor *too uniform*? The test for encrypted data in the upper low bits.

Weights have a smooth density. Within a cell (all words of one exponent and equal upper
mantissa bits) it is not flat but has a slope, so what comes next in the mantissa is not
quite uniform: in the cells below the peak lower values are more frequent. Whoever
replaces the X lowest bits by random ones makes each cell flat.

1. A *cell* is what X bits leave alone. The slope of the density in each is estimated
   from the counts of cells alone, which the attack does not change: a polynomial of
   degree two is fitted over the mantissa, for each exponent by itself.
2. For each word, u in [-1/2, 1/2] says where in its cell it is. With slope s, relative
   to the density and the width of a cell, the mean of u is s / 12, and its variance
   1/12. So the sum of s u over all words has mean and variance I = sum s^2 / 12 in a
   clean tensor, mean 0 and the same variance in an attacked one: I is all there is to
   know, and it adds up over exponents and tensors. sqrt(I) is how many standard
   deviations the two are apart.
3. Estimated slopes are too steep by their error, so they are shrunk (James and Stein).
4. Numbers of 16 bits are rounded to. The interval that is rounded to a power of two is
   a quarter shorter, so mantissa 0 is rarer by a quarter: in the cell that begins there
   the same sum is taken over that *notch*, as deep as the count of the cell says.
5. Rows that lie on a grid coarser than the cells say nothing, and are left out.

`integers` does the same for numbers without an exponent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector.layouts import layout_of
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.counts import Tensor
    from safemodel._detector.layouts import Layout

_LEAST = 200
"""Words of a row below which it says too little to fit anything."""
_BINS = 32
"""Cells of a row are put together into at most so many for the fit."""
STEEPEST = 0.9
_BELOW = (6, 5, 3, 1)
"""Of wide floats, what is looked at, below the most that can be: float32: 15, 16 ..."""
_AROUND = 8
_SPIKE = 8
"""Times the mean of values around that make a spike of one."""
_SHORTER = 0.25
_ROUNDED = 13
"""Constant bits that wide floats have once they have been rounded to 16 bits."""


class Uniformity(NamedTuple):
    """What words say for and against X replaced bits.

    Attributes:
        seen: The sum of s u; about `expected` if clean, about 0 if replaced.
        expected: I: mean of a clean tensor, and the variance of either.
    """

    seen: float = 0.0
    expected: float = 0.0

    def plus(self, other: Uniformity) -> Uniformity:
        """Return what both say together."""
        return Uniformity(self.seen + other.seen, self.expected + other.expected)

    @property
    def apart(self) -> float:
        """How many standard deviations clean and replaced are apart."""
        return float(self.expected**0.5)

    @property
    def share(self) -> float:
        """Estimated share of the words that were *not* replaced; 1 if unknown."""
        return self.seen / self.expected if self.expected else 1.0

    def z(self, tolerance: float) -> float:
        """Return how far below a clean tensor this is, in standard deviations.

        Args:
            tolerance: Part of `expected` that a clean tensor may lack.
        """
        if self.expected <= 0:
            return 0.0
        return ((1 - tolerance) * self.expected - self.seen) / self.apart


def constant_bits(tensor: Tensor) -> int:
    """Return how many of the lowest bits are zeros in every word."""
    layout = tensor.layout
    if layout.kind == "float":
        for at, counts in enumerate(tensor.lows[: layout.itemsize - 2]):
            used = np.flatnonzero(counts)
            if used.size > 1 or (used.size and used[0]):
                joined = int(np.bitwise_or.reduce(used))
                return 8 * at + (joined & -joined).bit_length() - 1
    used = np.flatnonzero(rows_of(tensor).sum(0))
    joined = int(np.bitwise_or.reduce(used)) if used.size else 0
    below = layout.mantissa - layout.kept
    return below + (joined & -joined).bit_length() - 1 if joined else layout.mantissa


def replaceable(layout: Layout, constant: int = 0) -> tuple[int, ...]:
    """Return the numbers of replaced bits that are looked at."""
    hidden = max(0, constant - (layout.mantissa - layout.kept))
    most = layout.mantissa - constant - 2
    every = range(max(1, most + 3 - layout.kept + hidden), most + 1)
    if layout.kind == "float" and constant < _ROUNDED:
        # Those between say nothing that their neighbours do not, and each takes time.
        return tuple(bits for bits in every if most - bits in _BELOW)
    return tuple(every)


def layout_of_dtype(dtype: str) -> Layout:
    """Return how words of a dtype are read."""
    return layout_of(dtype, DTYPE_ITEMSIZE.get(dtype, 1))


class Density:
    """The rows of a tensor that can be used, for several numbers of replaced bits.

    Args:
        tensor: Of floats, read to the end.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.constant = constant_bits(tensor)
        layout = tensor.layout
        hidden = max(0, self.constant - (layout.mantissa - layout.kept))
        rows = rows_of(tensor)
        rows = rows.reshape(rows.shape[0], -1, 1 << hidden)[:, :, 0]
        used = rows.sum(1) >= _LEAST
        used[0] = used[-1] = False
        used &= rows[:, 1::2].sum(1) > 0
        self._rows = _without_spikes(rows[used])
        self._bits = layout.mantissa - self.constant
        self._kept = layout.kept - hidden
        self._notched = layout.kind == "short" or self.constant >= _ROUNDED
        self.replaceable = replaceable(layout, self.constant)
        """Numbers of bits that something can be said about."""

    def uniformity(self, bits: int) -> Uniformity:
        """Return what the tensor says about so many replaced bits (rules 1 to 5)."""
        left = self._bits - bits
        within = self._kept - left
        if left < 2 or within < 1 or not self._rows.size:
            return Uniformity()
        total = _of_rows(self._rows, left, within)
        if self._notched:
            total = total.plus(_notch(self._rows, within))
        return total


def rows_of(tensor: Tensor) -> NDArray[np.int64]:
    """Return counts by exponent and kept bits of the mantissa, signs together."""
    layout = tensor.layout
    if layout.kind == "float":
        return tensor.top
    half = tensor.top.size // 2
    joined = tensor.top[:half] + tensor.top[half:]
    return joined.reshape(1 << layout.exponent, 1 << layout.mantissa)


def _without_spikes(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows in which values far more frequent than others around are like them.

    Clamped weights are one value, and so are layers that were set to one number. Rows
    that are mostly spikes are left out.
    """
    if not rows.size or rows.shape[1] <= _AROUND:
        return rows
    wide = np.concatenate(
        (rows[:, _AROUND:0:-1], rows, rows[:, -2 : -_AROUND - 2 : -1]), axis=1
    )
    sums = np.cumsum(wide, axis=1)
    span = 2 * _AROUND + 1
    around = sums[:, span - 1 :].copy()
    around[:, 1:] -= sums[:, :-span]
    mean = (around - rows) / (span - 1)
    spikes = rows > _SPIKE * (mean + 2)
    if not spikes.any():
        return rows
    less = np.where(spikes, np.rint(mean), rows).astype(np.int64)
    kept: NDArray[np.int64] = less[less.sum(1) > rows.sum(1) / 2]
    return kept


def _of_rows(rows: NDArray[np.int64], left: int, within: int) -> Uniformity:
    """Return what the words of each exponent say, together."""
    if not rows.size:
        return Uniformity()
    cells = rows.reshape(len(rows), 1 << left, 1 << within)[:, 1:].astype(np.float64)
    totals = cells.sum(2)
    slope, error = _fitted(totals, left)
    weight = np.clip(shrunk(slope, error, totals), -STEEPEST, STEEPEST)
    return summed(cells, totals, weight)


def summed(
    cells: NDArray[np.float64], totals: NDArray[np.float64], slope: NDArray[np.float64]
) -> Uniformity:
    """Return rule 2, given the slopes."""
    within = cells.shape[-1]
    place = (np.arange(within) + 0.5) / within - 0.5
    variance = (1 - within**-2.0) / 12
    seen = float((slope * (cells @ place)).sum())
    return Uniformity(seen, float((totals * slope * slope).sum()) * variance)


def _fitted(
    totals: NDArray[np.float64], left: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the relative slope within each cell, and the variance of that estimate.

    totals: (rows, cells), the first cell of each row left out.
    """
    width, number = 2.0**-left, totals.shape[1]
    middle = (np.arange(number) + 1.5) * width - 0.5
    starts = np.arange(0, number, max(1, (number + 1) // _BINS))
    sizes = np.diff(np.append(starts, number))
    density = np.add.reduceat(totals, starts, axis=1) / sizes
    powers = np.vander(np.add.reduceat(middle, starts) / sizes, 3, increasing=True)
    floor = 0.05 * density.mean(1, keepdims=True) + 1e-9
    fit = np.maximum(density.mean(1, keepdims=True), floor) + 0 * density
    for _ in range(2):
        weighted = powers * (sizes / fit)[:, :, None]
        normal = np.einsum("rki,kj->rij", weighted, powers)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        right = np.einsum("rki,rk->ri", weighted, density)
        factors = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        fit = np.maximum(factors @ powers.T, floor)
    level = np.maximum(factors @ np.vander(middle, 3, increasing=True).T, floor)
    slope = (factors[:, 1:2] + 2 * factors[:, 2:] * middle) / level * width
    spread = np.linalg.inv(normal)[:, :, :, None]
    error = spread[:, 1, 1] + 4 * middle * (spread[:, 1, 2] + middle * spread[:, 2, 2])
    return slope, error * (width / level) ** 2


def shrunk(
    slope: NDArray[np.float64], error: NDArray[np.float64], totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return slopes times how much of them is not their error (rule 3), by rows."""
    power = (totals * slope * slope).sum(-1, keepdims=True)
    noise = (totals * error).sum(-1, keepdims=True)
    less: NDArray[np.float64] = np.maximum(0.0, 1 - noise / np.maximum(power, 1e-300))
    return slope * less


def _depth(rows: NDArray[np.int64], within: int) -> float:
    """Return by how much of itself the first value of a row is rarer (rule 4)."""
    size = 1 << within
    first = rows[:, :size].sum(1).astype(np.float64)
    near = rows[:, size : 2 * size].sum(1).astype(np.float64)
    step = near - rows[:, 2 * size : 3 * size].sum(1)
    expected = near + step
    used = (expected >= 30) & (near >= 30)
    if not used.any():
        return 0.0
    first, expected = first[used], expected[used]
    lacks = size * (1 - first / expected)
    error = size * size * (first + 6 * expected) / expected**2
    mean = float((lacks / error).sum() / (1 / error).sum())
    power = max(0.0, 1 - 1 / float((1 / error).sum()) / max(mean * mean, 1e-12))
    return float(np.clip(mean * power, 0.0, _SHORTER))


def _notch(rows: NDArray[np.int64], within: int) -> Uniformity:
    """Return what the first value of the first cell of each row says (rule 4)."""
    depth, size = _depth(rows, within), 1 << within
    total, first = float(rows[:, :size].sum()), float(rows[:, 0].sum())
    # Were the first value rarer by `depth`, so many of the cell's words would be
    # missing there; and by chance the variance is that of a binomial.
    missing = depth * (size - 1) / (size * (size - depth))
    variance = (1 - 1 / size) / size
    weight = missing / variance
    return Uniformity(weight * (total / size - first), weight * missing * total)
