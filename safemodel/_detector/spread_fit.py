"""How well one noise explains the weights of all blocks of a network.

1. A block is fitted by a density of `_SHAPES`, from heavy tails to almost uniform, of
   any scale. With noise, each weight is drawn a number of times, by Poisson's law of
   mean *share*, and each time something normal is added, of deviation *scale*.
2. The *gain* of a block is what noise adds to its log likelihood, for each weight; its
   *regret* is how much more another noise would add. Both end at `_ENOUGH`: no block
   says more.
3. In a network to which noise was added, one scale and share have a gain in each block
   that is narrower than the noise, and hardly any regret. In clean networks blocks
   have tails of their own, or none at all: small gain or large regret.
4. One tensor may be left out, of at most `_LEFT_OUT` of the weights: the published
   program passes over the last one, which is not the last in each file.
"""

from __future__ import annotations

from functools import lru_cache
from math import erf, exp, factorial, sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector.spread_samples import CELLS, LOWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from safemodel._detector.spread_samples import Part

    Array = NDArray[np.float64]

_SHAPES = (0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.6, 4.0, 10.0)
"""Powers of the sizes that densities fall with: 1 is Laplace's, 2 is normal."""
_NEAR, _FAR = -8, 4
"""Octaves of sizes that are told apart, from the scale of the noise."""
_NARROW, _WIDE, _STEPS = -7, 4, 8
"""Octaves of the scales of densities, from that of the noise, and steps of each."""
_BELOW, _ABOVE = 12, 10
"""Steps from the core of a block that are tried."""
SHARES = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.9])
_TIMES = 4
"""That a weight is drawn at most."""
_UNEXPLAINED = 5e-4
"""Part of the weights that may be anything."""
_PLACES = (-52, -48, -44, -40, -38, -36, -34, -33, -32, -30, -28, -24, -20, -16)
SCALES = 2.0 ** (np.array(_PLACES) / CELLS)
"""Deviations of the noise that are tried: by cells."""
PUBLISHED = (SCALES > 0.05) & (SCALES < 0.067)
"""Those around 64 times 9e-4."""
_LEAST_SHARE = 0.1
_ENOUGH = 0.03
_LEFT_OUT = 0.6
HOPELESS = 3e-4
"""Gain of all weights below which no other noise is tried: regret is too low there."""
_LEAST_WEIGHTS = 8000


class Noise(NamedTuple):
    """The noise that explains a network best, and how well.

    Attributes:
        scale: Its standard deviation.
        share: How many times a weight was drawn, on average.
        gain: Of all weights; see the module.
        regret: The same.
        agreement: Part of the gain that each block could have by itself.
        against: Part of the weights that are in blocks of negative gain.
        support: Part of the weights that are in blocks of more than half the gain they
            could have.
        worst: Regret of one block in ten, at least.
        core: Scale of half the blocks, at most.
        kept: Part of the weights that was not left out.
        weights: How many were looked at.
    """

    scale: float
    share: float
    gain: float
    regret: float
    agreement: float
    against: float
    support: float
    worst: float
    core: float
    kept: float
    weights: int


def common(parts: Sequence[Part], where: NDArray[np.bool_] = PUBLISHED) -> Noise | None:
    """Return the noise of one of some scales that explains blocks best.

    Args:
        parts: The blocks of the tensors that may have it.
        where: Which of `SCALES`.
    """
    sizes = np.array([part.size for part in parts], float)
    total = float(sizes.sum())
    if total < _LEAST_WEIGHTS:
        return None
    tensors = np.unique([part.tensor for part in parts], return_inverse=True)[1]
    found = gains(parts, where)
    most = found.max((1, 2))
    if _best(sizes[:, None, None] * found, sizes, tensors)[0] > HOPELESS * total:
        most = np.maximum(most, gains(parts, ~where).max((1, 2)))
    regret = np.minimum(most[:, None, None] - found, _ENOUGH)
    score = sizes[:, None, None] * (np.minimum(found, _ENOUGH) - regret)
    _, scale, share, kept = _best(score, sizes, tensors)
    gain, could, weight = found[kept, scale, share], most[kept], sizes[kept]
    lost = could - gain
    return Noise(
        scale=float(SCALES[where][scale]), share=float(SHARES[share]),
        gain=float((weight * np.minimum(gain, _ENOUGH)).sum() / total),
        regret=float((weight * np.minimum(lost, _ENOUGH)).sum() / total),
        agreement=float((weight * gain).sum() / max((weight * could).sum(), 1e-9)),
        against=float(weight[gain < 0].sum() / total),
        support=float(weight[(gain > could / 2) & (gain > 1e-3)].sum() / total),
        worst=float(np.quantile(lost, 0.9)),
        core=float(np.median([part.core for part, use in zip(parts, kept, strict=True)
                              if use])),
        kept=float(weight.sum() / total), weights=int(total),
    )  # fmt: skip


def _best(
    score: Array, sizes: Array, tensors: NDArray[np.int64]
) -> tuple[float, int, int, NDArray[np.bool_]]:
    """Return the best score, and its scale, share and choice of blocks (rule 4)."""
    score = np.where(SHARES < _LEAST_SHARE, -np.inf, score)
    number = int(tensors.max()) + 1
    by_tensor = np.zeros((number, *score.shape[1:]))
    np.add.at(by_tensor, tensors, score)
    whole = by_tensor.sum(0)
    found = [(whole, np.ones(tensors.size, bool))]
    for tensor in range(number if number > 1 else 0):
        others = tensors != tensor
        if sizes[~others].sum() < _LEFT_OUT * sizes.sum():
            rest = np.delete(by_tensor, tensor, axis=0).sum(0)
            found.append((rest, others))
    best, kept = max(found, key=lambda pair: float(pair[0].max()))
    scale, share = np.unravel_index(int(best.argmax()), best.shape)
    return float(best.max()), int(scale), int(share), kept


def gains(parts: Sequence[Part], where: NDArray[np.bool_]) -> Array:
    """Return the gain of each block by scale and share: (blocks, scales, shares)."""
    counts = np.array([part.counts for part in parts], np.float32)
    counts /= counts.sum(1, keepdims=True)
    cores = np.array([part.core for part in parts])
    places = np.array(_PLACES)[where].tolist()
    found = np.empty((len(parts), len(places), SHARES.size))
    for at, place in enumerate(places):
        found[:, at] = _gains(_seen(counts, place), cores / 2.0 ** (place / CELLS))
    return found


def _seen(counts: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """Return counts by their size from that of the noise."""
    low = (_NEAR - LOWEST) * CELLS + place
    high = (_FAR - LOWEST) * CELLS + place
    below, above = counts[:, :low].sum(1), counts[:, high:].sum(1)
    return np.column_stack((below, counts[:, low:high], above))


def _gains(counts: NDArray[np.float32], cores: Array) -> Array:
    """Return the gain of each block by share, of one scale."""
    table = _table()
    steps = np.rint(_STEPS * (np.log2(cores) - _NARROW)).astype(np.int64)
    lows = np.clip(steps - _BELOW, 0, len(table) - 2)
    highs = np.clip(steps + _ABOVE, lows + 2, len(table))
    found = np.empty((len(counts), SHARES.size))
    for low, high in sorted(set(zip(lows.tolist(), highs.tolist(), strict=True))):
        chosen = np.flatnonzero((lows == low) & (highs == high))
        rows = table[low:high]
        fits = counts[chosen] @ rows.reshape(-1, rows.shape[-1]).T
        fits = fits.reshape(chosen.size, high - low, SHARES.size, -1)
        found[chosen] = _peaks(fits).max(2)
    return found - found[:, :1]


def _peaks(fits: NDArray[np.float32]) -> Array:
    """Return the maxima along the second axis, as of parabolas through the largest.

    A normal density of a scale between two steps would else gain by noise, which makes
    its scale finer: as much as true noise gains in weights twice as wide.
    """
    middle = np.clip(fits.argmax(1), 1, fits.shape[1] - 2)[:, None]
    below, most, above = (
        np.take_along_axis(fits, middle + step, 1)[:, 0].astype(np.float64)
        for step in (-1, 0, 1)
    )
    bend = 2 * most - below - above
    inner = (most >= below) & (most >= above) & (bend > 0)
    raised = (above - below) ** 2 / np.where(inner, 8 * bend, 1.0)
    peaks: Array = np.maximum(np.maximum(below, most), above)
    return peaks + np.where(inner, raised, 0.0)


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float32]:
    """Return log probabilities: (scales, shares, shapes, cells), in units of noise."""
    edges = 2.0 ** (np.arange((_FAR - _NEAR) * CELLS + 1) / CELLS + _NEAR)
    # Sizes of weights before the noise, close enough to be one number each.
    bounds = np.concatenate(([0.0], 2.0 ** np.arange(-9.0, 5.5, 1 / 16)))
    sizes = (bounds[1:] + bounds[:-1]) / 2
    moved = [_below(edges, sizes, sqrt(times)) for times in range(1, _TIMES + 1)]
    steps = np.arange((_WIDE - _NARROW) * _STEPS + 1) / _STEPS + _NARROW
    table = np.empty((steps.size, SHARES.size, len(_SHAPES), edges.size + 1))
    for at, shape in enumerate(_SHAPES):
        points, cumulated = _density(shape)
        for row, scale in enumerate(2.0**steps):
            masses = np.diff(np.interp(bounds / scale, points, cumulated, right=1.0))
            still = np.interp(edges / scale, points, cumulated, right=1.0)
            times = np.array([still, *(masses @ part for part in moved)])
            inner = np.pad(times, ((0, 0), (1, 0)))
            cells = np.diff(np.column_stack((inner, np.ones(len(inner)))), axis=1)
            table[row, :, at] = _poisson() @ cells
    table = (1 - _UNEXPLAINED) * table + _UNEXPLAINED / table.shape[-1]
    return np.log(table).astype(np.float32)


def _poisson() -> Array:
    """Return how often weights are drawn how many times: (shares, times)."""
    rows = []
    for share in SHARES:
        row = [exp(-share) * share**k / factorial(k) for k in range(_TIMES)]
        rows.append([*row, 1 - sum(row)])
    return np.array(rows)


def _density(shape: float) -> tuple[Array, Array]:
    """Return sizes, in standard deviations, and how many weights are smaller."""
    points = np.concatenate(([0.0], np.logspace(-7, 2.2, 4001)))
    height = np.exp(-(points**shape))
    width = np.diff(points)
    mass = np.cumsum(np.append(0.0, (height[1:] + height[:-1]) / 2 * width))
    square = height * points**2
    variance = float(((square[1:] + square[:-1]) / 2 * width).sum()) / float(mass[-1])
    return points / sqrt(variance), mass / mass[-1]


def _below(edges: Array, sizes: Array, scale: float) -> Array:
    """Return how many of the sizes are below edges, once noise was added to each."""
    grid = np.linspace(-8.0, 8.0, 4097)
    normal = np.array([(1 + erf(float(x) / sqrt(2))) / 2 for x in grid])
    high = np.interp((edges - sizes[:, None]) / scale, grid, normal)
    low = np.interp((-edges - sizes[:, None]) / scale, grid, normal)
    inside: Array = high - low
    return inside
