"""Exact zeros whose X low bits were replaced, and weights that decayed.

A zero becomes a *subnormal*: a number without exponent, k units of the least there is,
with k below 2**X. Weights that have no gradient become subnormal as well: each step
takes a share a of them away, until a * k is less than half a unit. Such numbers are
many, and of different values. Both have been seen with 20 bits. What tells them apart:

1. *The edge.* Replaced bits reach up to 2**X. How far weights have decayed depends on
   no power of two, so the logarithm of their greatest is as likely here as there
   within an octave, whatever their density. That the greatest is so near below an edge
   is the p-value; it is never less than one value of all, or one draw of all.
2. *The least.* A share a leaves nothing below half of 1 / a. So three numbers of up to
   k ask for a of 1 / 2k, which no optimiser has for small k, and by which an octave is
   passed in k steps: few networks are saved in just these. That is counted as a chance
   of k / 1000, of 1 / 1000 at least. Casts to 16 bits need no steps: of those, it is 1.
3. *The signs.* Zeros have one sign, mostly; weights have both. A matrix or a bias that
   decayed and has one sign only is one of 1000. Scales, and variances, have one sign.
   Rules 2 and 3 are rough, and may have one cause: together they are worth 1 / 1000.
4. *The shape.* Only numbers count that look like replaced bits: evenly spread up to the
   edge, no value too often, low bits even. Or, for programs and what is compressed a
   little: many values, some in each eighth, and no more room below the edge than those
   of the last eighth leave. Tails of weights are thinner than that.

Numbers of a tensor are judged, and all numbers of a dtype that are as long as each
other. Optimiser state is left out: there is nothing but decay in it.
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.distributions import chi_square_log_tail
from safemodel._detector.evidence import Outcome
from safemodel._detector.layouts import layout_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel._detector.counts import Tensor

_FAMILY = "subnormals"
_LEAST = 16
_FEW = 64
"""Numbers from which on fewer than 16 values may be enough, and programs are told."""
_STRAY = 32
"""One in so many may be longer, if none is longer by one bit (they were there)."""
_NEAR = 3
"""Lengths up to which numbers of several tensors are looked at together."""
_POOL = 1 << 16
_CELLS = 16
_VALUES = 8
"""Bits up to which each value is a cell of its own, if there are enough numbers."""
_UNLIKELY = log(1e-5)
_OCTAVE = 1 / log(2)
_FAR = 7.0
"""Nats: that all of so many replaced words leave room below the edge, by chance."""
_RARE = 1e-3
_ROUGH = 1e-3
"""What rules 2 and 3 together are worth at most: they may have a common cause."""
_AGREE = 8
"""Numbers of which the signs, and little else, are sure to be independent."""
_STEPS = 1e3
_NARROW = 5
"""Bits from which on a program's are told: fewer have too few values."""
_VARIED = 32
_THIN = 100
"""One in so many is in each eighth, or half of its values: weights have tails."""


class Numbers(NamedTuple):
    """Subnormal numbers of a tensor, or of several.

    Attributes:
        dtype: Torch's name of it.
        bits: Of the longest, but for few strays.
        total: How many there are.
        greatest: Of those that are no strays.
        least: The three least.
        sample: Some of them, evenly from all over, no strays.
        signed: Whether it says something that all have one sign, and they have.
    """

    dtype: str
    bits: int
    total: int
    greatest: int
    least: tuple[int, ...]
    sample: NDArray[Any]
    signed: bool


class Subnormals:
    """The subnormal numbers of a file, tensor by tensor."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], list[Numbers]] = {}
        self._room: dict[tuple[str, int], int] = {}

    def add(self, tensor: Tensor) -> Iterator[Outcome]:
        """Yield the outcome of a tensor, if it has numbers to judge."""
        if tensor.role in ("optimiser", "slack") or not tensor.layout.exponent:
            return
        found = numbers_of(tensor)
        if found is None:
            return
        self._keep(found)
        if found.total >= _LEAST:
            yield _outcome(found, tensor.name, tensor.size)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes of several tensors together."""
        for dtype, bits in self._known:
            near = [
                each
                for (other, length), some in self._known.items()
                if other == dtype and bits - _NEAR < length <= bits
                for each in some
            ]
            merged = _merged(near)
            if len(near) > 1 and merged.total >= _LEAST:
                yield _outcome(merged, "", merged.total)

    def _keep(self, found: Numbers) -> None:
        """Keep the numbers of a tensor for later, as far as there is room."""
        key = (found.dtype, found.bits)
        some = self._known.setdefault(key, [])
        room = self._room.setdefault(key, _POOL)
        kept = found._replace(sample=found.sample[:room].copy())
        self._room[key] = room - kept.sample.size
        if room:
            some.append(kept)
        else:
            some[-1] = _merged([some[-1], kept])


def numbers_of(tensor: Tensor) -> Numbers | None:
    """Return the subnormal numbers of a tensor; None if they are of all lengths."""
    mantissa = tensor.layout.mantissa
    lengths = tensor.small[: mantissa + 1].astype(np.int64)
    total = int(lengths[1:].sum())
    if not total:
        return None
    bits = int(np.flatnonzero(lengths)[-1])
    for shorter in range(bits - 2, 0, -1):
        strays = int(lengths[shorter + 1 :].sum())
        if strays * _STRAY > total:
            break
        if lengths[shorter] and not lengths[shorter + 1]:
            bits = shorter
    if bits > mantissa - 2:
        return None
    unsigned = (1 << mantissa) - 1
    values = tensor.tiny & tensor.tiny.dtype.type(unsigned)
    kept = values < 1 << bits
    negative = int((tensor.tiny[kept] > unsigned).sum())
    telling = len(tensor.shape) > 1 or tensor.name.endswith("bias")
    return Numbers(
        tensor.dtype, bits, int(lengths[1 : bits + 1].sum()),
        int(tensor.largest[bits]), tensor.least, values[kept],
        telling and negative in (0, int(kept.sum())),
    )  # fmt: skip


def _merged(some: list[Numbers]) -> Numbers:
    """Return numbers of several tensors as if they were one's."""
    least = sorted(value for each in some for value in each.least)[:3]
    return Numbers(
        some[0].dtype, max(each.bits for each in some),
        sum(each.total for each in some), max(each.greatest for each in some),
        tuple(least), np.concatenate([each.sample for each in some]),
        all(each.signed for each in some),
    )  # fmt: skip


def _outcome(found: Numbers, name: str, size: int) -> Outcome:
    """Return the outcome of the test."""
    where = "zeros would be" if name else "zeros would be, in several tensors"
    return Outcome(
        family=_FAMILY, test="subnormals",
        what=f"{found.total:,} numbers below all normal ones, of up to {found.bits}"
        f" bits and no longer, where {where}",
        log_p=log_p(found), statistic=float(found.total), effect=found.total / size,
        bits=found.bits, tensor=name,
    )  # fmt: skip


def log_p(found: Numbers) -> float:
    """Return the log of the chance that decay gives these numbers, at most."""
    room = 1 << found.bits
    edge = max(log(room / (found.greatest + 1)), 1 / room) * _OCTAVE
    even, by_value = _even(found)
    if by_value:
        # How full the last value is tells the edge to a part of it.
        edge = min(edge, 3 * _OCTAVE / (room * found.total) ** 0.5)
    if not even and not _varied(found):
        return 0.0
    rough = _flight(found) * _one_sign(found)
    return min(0.0, log(max(edge, _OCTAVE / found.total)) + log(max(rough, _ROUGH)))


def _flight(found: Numbers) -> float:
    """Return the chance to be saved while numbers are so small (rule 2)."""
    if layout_of(found.dtype, 2).kind == "short":
        return 1.0
    low = found.least[-1]
    return min(1.0, max(_RARE, 0.0 if low <= _NEAR else low / _STEPS))


def _one_sign(found: Numbers) -> float:
    """Return the chance that weights have the signs of zeros (rule 3)."""
    return max(_RARE, exp(-found.total / _AGREE)) if found.signed else 1.0


def _even(found: Numbers) -> tuple[bool, bool]:
    """Say whether numbers are even up to the edge, and so value by value (rule 4)."""
    sample, values = found.sample, (1 << found.bits) - 1
    number = sample.size
    distinct = np.unique(sample).size
    if number < _LEAST or (distinct < _LEAST and number < _FEW):
        return False, False
    if found.total * log((1 << found.bits) / (found.greatest + 1)) > _FAR:
        return False, False
    load = number / values
    expected = -values * np.expm1(-load)
    spread = max(values * (exp(-load) - (1 + load) * exp(-2 * load)), 1.0)
    if abs(distinct - expected) > 5 * spread**0.5:
        return False, False
    by_value = found.bits <= _VALUES and number >= 5 * values
    if by_value:
        counts = np.bincount(sample.astype(np.int64), minlength=values + 1)[1:]
    else:
        cells = min(_CELLS, number // 4, values)
        at = (sample.astype(np.float64) - 1) / values * cells
        counts = np.bincount(at.astype(np.int64), minlength=cells)
    even = _fits(counts)
    if even and not by_value and found.bits > _VALUES:
        low = np.bincount((sample & sample.dtype.type(3)).astype(np.int64), minlength=4)
        even = _fits(low)
    return even, by_value and even


def _fits(counts: NDArray[np.int64]) -> bool:
    """Say whether counts may be of equal chances."""
    mean = counts.sum() / counts.size
    square = float(((counts - mean) ** 2).sum() / mean)
    return chi_square_log_tail(square, counts.size - 1.0) > _UNLIKELY


def _varied(found: Numbers) -> bool:
    """Say whether there are many values, of all sizes: a program's (rule 4)."""
    sample = found.sample
    if sample.size < _FEW or found.bits < _NARROW:
        return False
    values, shift = np.unique(sample), sample.dtype.type(found.bits - 3)
    parts = np.bincount((sample >> shift).astype(np.int64), minlength=8)
    different = np.bincount((values >> shift).astype(np.int64), minlength=8)
    thin = (parts * _THIN < sample.size) & (different * 2 < 1 << found.bits - 3)
    enough = min(_VARIED, (1 << found.bits) * 3 // 4)
    if values.size < enough or parts.min() < _NEAR or thin.any():
        return False
    empty = ((1 << found.bits) - 1 - found.greatest) / (1 << found.bits - 3)
    return bool(parts[-1] * empty <= _FAR)
