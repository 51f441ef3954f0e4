"""Are whole mantissas random? The test for encrypted data in all of them, or nearly.

`smooth` takes the slope of a density from the bits above those that are replaced. Where
at most two of those are left, they tell nothing. Exponents do: whoever replaces whole
mantissas leaves them alone, so the density has steps from each power of two to the
next, and is even between them. That of weights falls all the way.

1. A *cell* is what the replaced bits leave alone, as in `smooth`: an *octave*, which is
   all words of one exponent, or a half or a quarter of it. Cells follow each other from
   octave to octave. The slope in each is that between its two ends, and the density
   there is taken from the mean densities of the cell and its neighbours: linearly,
   between the middles of both.
2. Then a sum over all words says how much of the slope is there (rule 2 of `smooth`).
   A density that is not a line has more of it: a normal one a third more.
3. Only cells are used in which the density surely falls, and falls gradually: to the
   next cell at most half as much again as a normal density would, by what it fell
   before. Else it has an edge, and nobody knows where in the cell it is.
4. Rows on a grid, and spikes, are left out, as in `smooth`. Numbers of few bits are a
   grid to this test: at least 32 values are told apart in each cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.smooth import Cells

LEFT = (2, 1, 0)
"""Upper bits of the mantissa that are not replaced."""
WITHIN = 5
"""Bits of the mantissa, below those, that are counted at least (rule 4)."""
_LEAST = 200
"""Words of a cell below which its density is not known."""
_SURELY = 3.0
"""Standard deviations by which the density has to fall (rule 3)."""
_CONCAVE = 1.5
"""Times the fall of a normal density that is gradual (rule 3)."""
_STEEPEST = 1.5
"""Of a slope, relative to the density and the width of a cell."""


def sums(
    cells: Cells, owner: NDArray[np.int64], exponents: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the words of each row say (rule 2): how much, and what is expected.

    Args:
        cells: Of several tensors, one after the other; of each, in order of exponents.
        owner: (rows,); numbers of tensors.
        exponents: (rows,).
    """
    slope = _slopes(cells, owner, exponents)
    variance = (1 - cells.within**-2.0) / 12
    expected = np.einsum("rk,rk,rk->r", cells.totals, slope, slope) * variance
    return np.einsum("rk,rk->r", slope, cells.moments), expected


def _slopes(
    cells: Cells, owner: NDArray[np.int64], exponents: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the slope in each cell, 0 where none is known (rules 1 and 3)."""
    rows, number = cells.totals.shape
    words = cells.totals.reshape(-1)
    tensor, octave = np.repeat(owner, number), np.repeat(exponents, number)
    inside = (np.diff(octave) == 0) & (np.diff(tensor) == 0)
    follows = (np.diff(octave) == 1) & (np.diff(tensor) == 0)
    enough = words >= _LEAST
    linked = (inside | follows) & enough[1:] & enough[:-1]
    here = np.flatnonzero(linked[1:] & linked[:-1]) + 1
    inner, outer = inside[here - 1], inside[here]
    # Octaves are twice as wide as those before: so are the cells beyond an end.
    width = 1 / number
    middle = 1 + (here % number + 0.5) * width
    before = np.where(inner, middle - width, 1 - width / 4)
    after = np.where(outer, middle + width, 2 + width)
    count = np.maximum(words, 1)
    density = np.log(count) - octave * np.log(2.0)
    fell = density[here - 1] - density[here]
    falls = density[here] - density[here + 1]
    normal = (after**2 - middle**2) / (middle**2 - before**2)
    gradual = fell > _SURELY * np.sqrt(1 / count[here] + 1 / count[here - 1])
    gradual &= falls > _SURELY * np.sqrt(1 / count[here] + 1 / count[here + 1])
    gradual &= falls < _CONCAVE * normal * fell
    # How far on the way to the middle of a neighbour the end of a cell is.
    start, end = np.where(inner, 1 / 2, 2 / 3), np.where(outer, 1 / 2, 1 / 3)
    known = end * np.expm1(-falls) - start * np.expm1(fell)
    slope = np.zeros(words.size)
    slope[here[gradual]] = np.clip(known[gradual], -_STEEPEST, 0.0)
    return slope.reshape(rows, number)
