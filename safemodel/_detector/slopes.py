"""Counts of cells → the slope of their density within each cell, as far as it is known.

Rules:

1. The logarithm of the density over a *row*, the mantissas of one exponent, is a
   polynomial of degree two. So a normal density is fitted exactly, and its tail above
   all.
2. Where the counts reject that, each half of the row has a polynomial of its own, and
   so on, down to `_SHORTEST` cells. Weights that were drawn evenly, and hardly trained,
   have an edge: a line through it would have a slope where the density has none. What
   the counts reject to the end has no slope that is known: it is 0, and says nothing.
   Nor has a part in which the density falls from cell to cell as an edge does: any
   curve goes through two cells that are not empty. In a whole row, such a fall is
   steeper than that of any tail that has words in it.
   Four cells, of which the first is left out, have a line. Where they reject it, any
   parabola fits; it is taken if the density falls all along, or rises all along, and
   the second fall is not by far steeper than the first.
3. Estimated slopes are too steep by their error, so they are shrunk (James and Stein).

Only `smooth` and `integers` call this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEEPEST = 0.9
"""Of a slope, relative to the density and the width of a cell."""
_BINS = 32
"""Cells are put together into at most so many for the fit."""
_SHORTEST = 8
"""Cells of the shortest part of a row."""
_FEWEST = 50
"""Words of a part below which nothing is fitted."""
_REJECTED = 2.0
"""Standard deviations of chi-square that reject a fit (rule 2)."""
_EDGE = 0.3
"""Steepest slope, for a cell's width, of a row that was cut (rule 2)."""
_FEWER = 4
"""Cells of a row that a line is enough for (rule 2)."""
_STEEP = 8.0
"""Logarithm of how much the density of a tail falls over a row, at most."""
_STEP_DOWN = 1.0
"""The same of one bin of many: an edge that training made soft is no edge."""
_CONCAVE = 1.5
"""Times the fall before that one may be; of a normal density, it is less than 1.2."""
_SURE = 2.0
"""Standard deviations that a fall is above either."""
_NEWTON = 4
_DEEPEST = 6.0
"""Logarithm of how far a density may be from its mean, within a part."""
_STEP = 20.0
"""Counts are so many times the model at most, in a step of Newton's."""


class _Fit(NamedTuple):
    """Parts of rows, fitted.

    Attributes:
        slope: (parts, cells); rule 1.
        error: (parts, cells); the variance of that.
        rejected: (parts,); rule 2.
    """

    slope: NDArray[np.float64]
    error: NDArray[np.float64]
    rejected: NDArray[np.bool_]


def slopes(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the relative slope within each cell; 0 where none is known.

    Args:
        totals: (rows, cells), cells being a power of two; words of each cell. The first
            cell of each row is left out: its slope is 0.
    """
    found = np.zeros_like(totals)
    size = totals.shape[1]
    parts, place = totals.copy(), np.arange(len(totals))
    parts[:, 0] = 0
    while True:
        enough = parts @ np.ones(size) >= _FEWEST
        parts, place = parts[enough], place[enough]
        if not place.size:
            return found
        first = place % (totals.shape[1] // size) == 0
        fit = _fitted(parts, first) if size > _FEWER else _line_first(parts, first)
        slope = np.clip(shrunk(fit.slope, fit.error, parts), -STEEPEST, STEEPEST)
        rejected = fit.rejected
        if size < totals.shape[1]:
            rejected = rejected | (np.abs(fit.slope).max(1) > _EDGE)
        else:
            rejected = rejected | _ends(totals[place])
        found.reshape(-1, size)[place] = np.where(rejected[:, None], 0.0, slope)
        found[:, 0] = 0
        if size <= _SHORTEST:
            return found
        size //= 2
        parts = parts[rejected].reshape(-1, size)
        place = (2 * place[rejected, None] + np.arange(2)).reshape(-1)


def _line_first(parts: NDArray[np.float64], first: NDArray[np.bool_]) -> _Fit:
    """Return a line where it fits, and elsewhere a parabola that can be true."""
    line, curve = _fitted(parts, first, degree=1), _fitted(parts, first)
    known = curve.slope[:, 1:]
    turns = (known.min(1) < 0) & (known.max(1) > 0)
    bent = line.rejected[:, None]
    return _Fit(
        np.where(bent, curve.slope, line.slope),
        np.where(bent, curve.error, line.error),
        line.rejected & turns,
    )


def _ends(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which rows have an edge (rule 2)."""
    bins = min(rows.shape[1], _BINS)
    known = rows.reshape(len(rows), bins, -1).sum(2) + 0.5
    falls = np.log(known[:, :-1] / known[:, 1:])
    error = 1 / known[:, :-1] + 1 / known[:, 1:]
    steep = falls - _SURE * np.sqrt(error) > max(_STEEP / bins, _STEP_DOWN)
    found: NDArray[np.bool_] = (steep & (known[:, :-1] >= _FEWEST / 2)).any(1)
    if bins > _FEWER:
        return found
    more = falls[:, 2:] - _CONCAVE * np.maximum(falls[:, 1:-1], 0.0)
    noise = np.sqrt(error[:, 2:] + _CONCAVE**2 * error[:, 1:-1])
    found |= (more > _SURE * noise).any(1)
    return found


def shrunk(
    slope: NDArray[np.float64], error: NDArray[np.float64], totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return slopes times how much of them is not their error (rule 3), by rows."""
    power = np.einsum("...k,...k,...k->...", totals, slope, slope)
    noise = np.einsum("...k,...k->...", totals, error)
    less: NDArray[np.float64] = np.maximum(0.0, 1 - noise / np.maximum(power, 1e-300))
    return slope * less[..., None]


def _fitted(
    parts: NDArray[np.float64], first: NDArray[np.bool_], degree: int = 2
) -> _Fit:
    """Return rule 1 for parts of rows.

    Args:
        parts: (parts, cells).
        first: Which begin with the first cell of a row, which is left out.
        degree: Of the polynomial: 1 or 2.

    The logarithm of the density is fitted, as counts of chance have it (Poisson), by
    Newton's steps from the logarithms of the counts.
    """
    number = parts.shape[1]
    step = max(1, number // _BINS)
    counts = parts.reshape(len(parts), -1, step) @ np.ones(step)
    cells = np.full(counts.shape, float(step))
    cells[first, 0] -= 1
    used = cells > 0
    width = counts.shape[1]
    powers = np.vander((np.arange(width) + 0.5) / width - 0.5, 3, increasing=True)
    powers[:, degree + 1 :] = 0
    products = (powers[:, :, None] * powers[:, None, :]).reshape(-1, 9)
    level = np.log(counts.sum(1, keepdims=True) / number)
    model = (counts + 0.5) * used
    target = np.log((counts + 0.5) / np.maximum(cells, 1)) * used
    for _ in range(_NEWTON):
        normal = (model @ products).reshape(-1, 3, 3)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        spread = _inverses(normal)
        spread[:, degree + 1 :] = spread[:, :, degree + 1 :] = 0
        factors = np.einsum("rij,rj->ri", spread, (model * target) @ powers)
        fit = np.clip(factors @ powers.T, level - _DEEPEST, level + _DEEPEST)
        model = np.exp(fit) * cells
        beyond = counts / np.where(used, model, 1.0) - 1
        target = (fit + np.minimum(beyond, _STEP)) * used
    chi = np.einsum("rk,rk,rk->r", beyond, beyond, model)
    freedom = used.sum(1) - degree - 1
    # Both are polynomials of degree two at most, and one product makes their values.
    middle = (np.arange(number) + 0.5) / number - 0.5
    curve = np.vander(middle, 3, increasing=True).T
    slope = factors[:, 1:] @ np.array([curve[0], 2 * middle]) / number
    terms = np.stack((spread[:, 1, 1], 4 * spread[:, 1, 2], 4 * spread[:, 2, 2]), 1)
    return _Fit(
        slope, terms @ curve / number**2,
        (freedom > 0) & (chi > freedom + _REJECTED * np.sqrt(2 * freedom)),
    )  # fmt: skip


def _inverses(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverses of (n, 3, 3) symmetric matrices, by their cofactors."""
    a, b, c, d, e, f = (
        given[:, i, j] for i, j in zip(*np.triu_indices(3), strict=True)
    )
    made = np.empty_like(given)
    made[:, 0, 0], made[:, 1, 1], made[:, 2, 2] = (
        d * f - e * e,
        a * f - c * c,
        a * d - b * b,
    )
    made[:, 0, 1] = made[:, 1, 0] = c * e - b * f
    made[:, 0, 2] = made[:, 2, 0] = b * e - c * d
    made[:, 1, 2] = made[:, 2, 1] = b * c - a * e
    return (
        made
        / (a * made[:, 0, 0] + b * made[:, 0, 1] + c * made[:, 0, 2])[:, None, None]
    )
