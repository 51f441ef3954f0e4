"""Is a tensor of integers too uniform? As `smooth`, for types without an exponent.

1. Numbers of 8 bits: slopes come from the two cells on either side of each cell, and
   from itself.
2. Of 4 bits there are only sixteen values, and the density bends within a cell. But
   weights are about as often positive as negative, and the cells of two's complement
   lie differently on both sides of zero: {0, 1} and {-2, -1}. So the counts of single
   values follow from those of cells, from the ends inwards.
3. A spike, as pruning and clipping make it, is no slope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from safemodel._detector.slopes import STEEPEST, shrunk
from safemodel._detector.smooth import Uniformity, summed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_APART = 3.0
_SLACK = 0.05
_AROUND = 2
"""Cells on either side that a slope comes from."""
_FEWEST = 30
"""Words of a cell below which it is not used."""


def pairs(counts: NDArray[np.int64], bits: int) -> Uniformity:
    """Return what numbers of 8 bits say about replaced bits (rule 1).

    Args:
        counts: How often each value occurs, in the order of the values.
        bits: Replaced bits.
    """
    within = 1 << bits
    cells = counts.reshape(-1, within).astype(np.float64)
    totals = cells.sum(1)
    if totals.size < 5:
        return Uniformity()
    around = [totals[at : totals.size - 4 + at] for at in range(5)]
    middle = np.median(np.stack(around), 0)
    inner = totals[2:-2]
    steady = np.zeros(totals.size, np.bool_)
    steady[2:-2] = (inner < 3 * middle + _FEWEST) & (3 * inner + _FEWEST > middle)
    slope, error = _local(totals, steady & (totals >= _FEWEST))
    steady[1:-1] &= steady[:-2] & steady[2:]
    steady &= totals >= _FEWEST
    weight = np.where(steady, shrunk(slope, error, totals * steady), 0.0)
    return summed(cells, totals, np.clip(weight, -STEEPEST, STEEPEST))


def mirrored(counts: NDArray[np.int64]) -> Uniformity:
    """Return what numbers of 4 bits say about their lowest one (rule 2).

    Args:
        counts: How often each value from -8 to 7 occurs, in that order.
    """
    counts = counts.astype(np.float64)
    cells = counts.reshape(8, 2).sum(1)
    if counts[1:].sum() < 1000:
        return Uniformity()
    # Values by their size, from the largest: 7 shares the cell {-8, -7} with 8, which
    # symmetric quantisation leaves empty; 6 shares {6, 7} with 7; and so on.
    value, error = np.zeros(9), np.zeros(9)
    for size in range(7, -1, -1):
        cell = cells[4 + size // 2] if size % 2 == 0 else cells[4 - (size + 1) // 2]
        value[size] = cell - value[size + 1]
        error[size] = cell + error[size + 1]
    # Where one side of zero is unlike the other, what follows is not falling outwards.
    noise = 3 * np.sqrt(error[:7] + 1) + _SLACK * value[:7]
    if (value < -3 * np.sqrt(error + 1)).any() or (
        value[1:7] > value[:6] + noise[:6]
    ).any():
        return Uniformity()
    seen = expected = 0.0
    for low in range(-8, 8, 2):
        total = cells[(low + 8) // 2]
        if total < _FEWEST:
            continue
        near, far = abs(low + 1), abs(low)
        step = float(np.clip(value[near] - value[far], -total, total))
        noise = 4 * max(error[near], error[far])
        slope = step / total * max(0.0, 1 - noise / max(step * step, 1e-9))
        seen += slope * (counts[low + 9] - counts[low + 8])
        expected += slope * slope * total
    return Uniformity(float(seen), float(expected))


def narrow(counts: NDArray[np.int64]) -> Uniformity:
    """Return what numbers of 4 bits say: rules 1 and 2, whichever finds less.

    Neither rule fits all tensors: one side of zero may be unlike the other, and where
    the density bends, neighbours say little.
    """
    found = [mirrored(counts), pairs(counts, 1)]
    apart = [one for one in found if one.apart >= _APART]
    return max(apart, key=lambda one: one.share) if apart else found[0]


def by_value(top: NDArray[np.int64], dtype: str) -> NDArray[np.int64]:
    """Return counts of words in the order of the numbers they are."""
    from safemodel._detector.layouts import PACKED, SIGNED

    if dtype in PACKED:
        words = top.reshape(16, 16)
        both: NDArray[np.int64] = words.sum(0) + words.sum(1)
        return both
    rolled: NDArray[np.int64] = np.roll(top, top.size // 2)
    return rolled if dtype in SIGNED else top


def _local(
    totals: NDArray[np.float64], used: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return relative slopes from the cells around each, and their variances.

    A line through the logarithms of their counts, each as sure as it is large. Both are
    zeros where there is no other cell.
    """
    place = np.arange(-_AROUND, _AROUND + 1.0)
    weights = np.where(used, totals, 0.0)
    values = np.where(used, np.log(np.maximum(totals, 1.0)), 0.0)
    some, level = (
        sliding_window_view(np.pad(one, _AROUND), place.size)
        for one in (weights, values)
    )
    number, first, second = some.sum(1), some @ place, some @ (place * place)
    product = some * level
    least = number * second - first * first
    known = least > 1e-6 * number * number
    least = np.where(known, least, 1.0)
    slope = (number * (product @ place) - first * product.sum(1)) / least
    return np.where(known, slope, 0.0), np.where(known, number / least, 0.0)
