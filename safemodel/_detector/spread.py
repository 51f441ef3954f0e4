"""Is the same noise added to all tensors? The test for additive spread spectrum.

A spread-spectrum message adds a code of many terms to weights drawn from the whole
network: something normal is added to a share of the weights of each tensor, with one
standard deviation everywhere, whatever the scale of the tensor. Where that is well
above the scale of a tensor, the outer part of the tensor is nothing else.

1. The *core* of a tensor is its median deviation from its median, as a standard
   deviation. Its *tail* is the standard deviation of the normal distribution that has
   the tensor's quantiles 0.975 and 0.995, and a share of all weights.
2. Where the tail is wider than the core by `_VISIBLE` the tensor is used. In clean
   networks the tails of such tensors differ, and they get wider further out.
3. What is computed: how much the tails differ from each other, and from themselves
   between 0.995 and 0.999, measured by how much they do in clean networks. Little is
   evidence. It says nothing of networks whose weights are as wide as the noise.
"""

from __future__ import annotations

from math import erfc, exp, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector.distributions import chi_square_log_lower
from safemodel._detector.evidence import Outcome
from safemodel._detector.layouts import FLOATS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from safemodel._detector.counts import Tensor

_LEAST = 2000
_MOST = 1 << 16
"""Numbers from which on a tensor does not count more."""
_QUANTILES = (0.5, 0.975, 0.995, 0.999)
_CENTRED = 0.1
"""Of the core, how far from zero the median may be for sizes to be deviations."""
_VISIBLE = log(1.8)
_BETWEEN = 0.2
"""Standard deviation of log tails among tensors of clean networks (ADR 0023)."""
_OUTWARDS = 0.25
"""Size of the change of a log tail further out, in clean networks."""
_LEAST_SHARE = 0.2
"""Of weights, tensors counted by the square root of their size, that must be used."""
_STEPS = np.linspace(0.3, 6.0, 400)
_TAILS = np.array([erfc(step / 2**0.5) for step in _STEPS])


class Tail(NamedTuple):
    """The scales of one tensor, as logarithms.

    Attributes:
        core: Of most of it.
        tail: Of what is outside.
        change: How much wider the tail is further out.
        weight: How much the tensor counts.
    """

    core: float
    tail: float
    change: float
    weight: float


def tail_of(tensor: Tensor) -> Tail | None:
    """Return the scales of a tensor; None where there are none."""
    if tensor.dtype not in FLOATS or tensor.size < _LEAST or tensor.role != "weight":
        return None
    values = values_of(tensor.sample, tensor.dtype)
    if tensor.special.any():
        values = values[np.isfinite(values)]
    if values.size < _LEAST:
        return None
    number = values.size
    middle = float(_median(values))
    away = np.abs(values - middle)
    if abs(middle) < _CENTRED * _median(away) and tensor.size > number:
        number, found = tensor.size, _of_all(tensor)
    else:
        found = _quantiles(away, _QUANTILES)
    core, one, two, three = found
    if not core > 0 or not one < two < three:
        return None
    first, second = _normal(one, two), _normal(two, three)
    scales = log(core / 0.6745), log(first), log(second / first)
    return Tail(*scales, min(number, _MOST) ** 0.5)


def common_noise(tails: Iterable[Tail]) -> Outcome:
    """Return whether the tensors of a file have one tail (rule 3)."""
    every = np.array(list(tails)).reshape(-1, 4)
    seen = every[every[:, 1] - every[:, 0] > _VISIBLE]
    share = float(seen[:, 3].sum() / every[:, 3].sum()) if every.size else 0.0
    if len(seen) < 2 or share < _LEAST_SHARE:
        return Outcome("spread", "common-noise", "", 0.0)
    tails_, change = seen[:, 1], seen[:, 2]
    between = float((((tails_ - np.median(tails_)) / _BETWEEN) ** 2).sum())
    outwards = float(((change / _OUTWARDS) ** 2).sum())
    scale = exp(float(np.median(tails_)))
    return Outcome(
        family="spread", test="common-noise",
        what=f"noise of one standard deviation, {scale:.3g}, in {len(seen)} tensors of"
        " different scale",
        log_p=chi_square_log_lower(between + outwards, 2 * len(seen) - 1),
        statistic=between + outwards, effect=share, bits=0,
    )  # fmt: skip


def _median(values: NDArray[np.float64]) -> np.float64:
    """Return the median; numpy's takes longer to begin with."""
    half = values.size // 2
    ordered = np.partition(values, half)
    below = ordered[half] if values.size % 2 else ordered[:half].max()
    middle: np.float64 = (below + ordered[half]) / 2
    return middle


def _quantiles(
    values: NDArray[np.float64], quantiles: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return quantiles, between two values in proportion; numpy's take longer."""
    ordered = np.sort(values)
    places = np.array(quantiles) * (ordered.size - 1)
    found: NDArray[np.float64] = np.interp(places, np.arange(ordered.size), ordered)
    return found


def _of_all(tensor: Tensor) -> NDArray[np.float64]:
    """Return quantiles of the sizes of all numbers of a tensor, from their counts."""
    highest = (1 << tensor.layout.exponent) - 1
    finite = tensor.exponents < highest
    exponents, counts = tensor.exponents[finite], tensor.top[finite]
    lead = np.where(exponents > 0, 1.0, 0.0)
    power = np.maximum(exponents, 1.0) - highest // 2
    cells = counts.shape[1]
    total = np.cumsum(counts.astype(np.int64))
    wanted = np.ceil(np.array(_QUANTILES) * total[-1]).astype(np.int64)
    places = np.searchsorted(total, wanted)
    row, cell = np.divmod(places, cells)
    found: NDArray[np.float64] = (lead[row] + (cell + 0.5) / cells) * 2.0 ** power[row]
    return found


def values_of(words: NDArray[np.unsignedinteger], dtype: str) -> NDArray[np.float64]:
    """Return the numbers that words of a float format are."""
    if dtype == "bfloat16":
        words = words.astype(np.uint32) << np.uint32(16)
    # A signalling NaN is one that an attack may leave.
    with np.errstate(invalid="ignore"):
        return words.view(f"f{words.dtype.itemsize}").astype(np.float64)


def _normal(inner: float, outer: float) -> float:
    """Return the deviation of a normal whose tail shrinks to a fifth between two."""
    # erfc falls the faster the smaller the deviation: the first that falls enough.
    beyond = np.interp(_STEPS * (inner / outer), _STEPS, _TAILS, left=1.0)
    falls = _TAILS / np.maximum(beyond, 1e-300)
    step = _STEPS[int(np.argmin(np.abs(np.log(falls) - log(0.2))))]
    return float(outer / step)
