"""Lowest bits that have another share of ones in some columns than in others.

Rule 2 of `streams` holds for whole rows. Where inputs of a layer never change, it is
columns that are still as they were drawn, and many of their words end in zeros. Eight
neighbouring bits then have no order that does not matter: which of them are zeros
depends on the column in which the first one is. So what is expected of them is made of
the shares of their columns.

A message makes columns uneven, too, if a row has as many weights as a byte has bits,
or a multiple of it: the highest bits of its bytes are in the same columns. But where it
takes one bit of each weight, the bit above it knows nothing of its columns, and that of
drawn weights does: half of what ends in zeros ends in two at least.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ODD = 2.5
"""Standard deviations from which on packed bits are worth a look at their columns."""
_ROWS = 16
"""Fewest of a block, for a share of each column to be known."""
_WIDEST = 4096
_CERTAIN = 5.0
"""Standard deviations that columns must be apart in the bit above the lowest."""


def period_of(words: NDArray[Any], start: int, shape: tuple[int, ...]) -> int:
    """Return after how many words a column comes again; 0 if columns are alike.

    Args:
        words: Of a block.
        start: Number of the first one in its tensor.
        shape: Of the tensor.
    """
    widths = (prod(shape[axis:]) for axis in range(1, len(shape)))
    most = min(_WIDEST, words.size // _ROWS)
    width = next((width for width in widths if 1 < width <= most), 0)
    if not width:
        return 0
    column = (np.arange(words.size) + start) % width
    number = np.bincount(column, minlength=width)
    apart = _apart(words >> words.dtype.type(1), column, number)
    return width if apart > _CERTAIN else 0


def _apart(
    words: NDArray[Any], column: NDArray[np.int64], number: NDArray[np.int64]
) -> float:
    """Return how many standard deviations beyond chance columns are apart."""
    ones = np.bincount(column, words & words.dtype.type(1), number.size)
    share = ones.sum() / words.size
    spread = max(share * (1 - share), 1e-9)
    chi, df = ((ones - number * share) ** 2 / (number * spread)).sum(), number.size - 1
    return float((chi - df) / (2 * df) ** 0.5)


def packed_model(
    words: NDArray[Any], start: int, usable: NDArray[np.bool_], period: int
) -> NDArray[np.float64]:
    """Return (8, 256): what is expected of packed bits by phase, from their columns.

    Args:
        words: Of a block.
        start: Number of the first one in its tensor.
        usable: Which words may take part.
        period: See `period_of`.
    """
    number = np.arange(words.size) + start
    column = number % period
    counts = np.bincount(column, usable, period)
    ones = np.bincount(column, usable & (words & words.dtype.type(1) == 1), period)
    shares = (ones + 0.5) / (counts + 1)
    whole = usable.copy()
    for away in range(1, 8):
        whole[:-away] &= usable[away:]
        whole[-away:] = False
    key = (number % 8 * period + column)[whole]
    starts = np.bincount(key, minlength=8 * period).reshape(8, period)
    chances = np.ones((period, 256))
    values, columns = np.arange(256), np.arange(period)
    for place in range(8):
        bit = values >> 7 - place & 1 == 1
        share = shares[(columns + place) % period, None]
        chances *= np.where(bit, share, 1 - share)
    model: NDArray[np.float64] = starts @ chances
    return model
