"""How much encrypted data could lie in a file without being seen: the reckoning.

Encrypted data is even. It shows only where weights are not, so in bits high enough to
feel the slope of the density, and only if there are enough of them.

1. What `smooth` and `integers` say of a tensor and of a file has a mean that is
   `expected` apart between clean and replaced, with a standard deviation of its root.
   It is enough from `needed_of` standard deviations on, beyond the tolerance. So if a
   share q of the weights is replaced, it is found once (q - tolerance) times that root
   is that much: up to ``tolerance + needed / apart`` may be replaced and not be seen.
2. X bits of every weight go unseen if that share is 1 for the file, and if the judge,
   who weighs all tests together, would not find it either (`would_find`). Bits below
   those that are looked at always do: they are even in clean weights. So it is the
   largest such X that counts, and what says so is only what X bits leave alone: once
   they are replaced, it is the same, and the room does not shrink.
3. More bits of a part of the weights go unseen as long as neither their tensor nor the
   file loses more than rule 1 allows. An attacker takes the tensors first that say
   least for their size. A number of bits that is not looked at is found by what is
   known of fewer, if at all; not where the whole number is replaced, or all but one
   bit: then there is no density left that it could be compared with.
4. Tensors that have no such test can be replaced as they are: the mantissa of floats,
   all bits of integers, and all of slack. Signs and exponents of floats are not
   counted: replaced, they end the network.
5. Bits that are zeros in every word of a tensor hold nothing, and that is seen.
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, NamedTuple

from safemodel._detector.distributions import normal_log_tail
from safemodel._detector.evenness import RATE, SURE, by_dtype, sort_of
from safemodel._detector.evidence import FAMILIES, Ledger
from safemodel._detector.layouts import FLOATS, PACKED, layout_of
from safemodel._detector.smooth import Uniformity
from safemodel._detector.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from safemodel._detector.judging import Judge

_SURELY = 2.33
"""Standard deviations more, so that 99 of 100 files are found."""
_FLOAT8 = {
    "float8_e5m2": 2, "float8_e4m3fn": 3, "float8_e5m2fnuz": 2, "float8_e4m3fnuz": 3,
    "float8_e8m0fnu": 0, "float4_e2m1fn_x2": 2,
}  # fmt: skip
"""dtype → bits of its mantissa, of all numbers in a word."""


class Stretch(NamedTuple):
    """Numbers, and which of their bits could be replaced.

    Attributes:
        numbers: How many.
        low: The first bit.
        top: One past the last.
    """

    numbers: float
    low: int
    top: int

    def nbytes(self, scrubbed: int = 0) -> float:
        """Return the bytes they hold, once that many low bits are overwritten."""
        return self.numbers * max(0, self.top - max(self.low, scrubbed)) / 8


class Judged(NamedTuple):
    """A tensor that was tested for bits that are too even.

    Attributes:
        numbers: How many it has.
        constant: Lowest bits that are zeros everywhere.
        uniformity: By replaced bits, counted above those.
    """

    numbers: int
    constant: int
    uniformity: dict[int, Uniformity]

    def about(self, bits: int, width: int) -> Uniformity:
        """Return what is known about so many replaced bits, of at most `width`."""
        return about(self.uniformity, bits, width - self.constant)


class Way(NamedTuple):
    """One way to hide as much as can be hidden.

    Attributes:
        bits: Low bits of each number that is used, above constant ones.
        share: Of all numbers, how many are used.
        stretches: Where.
    """

    bits: int
    share: float
    stretches: tuple[Stretch, ...]

    def nbytes(self, scrubbed: int = 0) -> float:
        """Return the bytes they hold, once that many low bits are overwritten."""
        return sum(one.nbytes(scrubbed) for one in self.stretches)


def about(found: dict[int, Uniformity], bits: int, deepest: int) -> Uniformity:
    """Return what is known about so many replaced bits (rule 3).

    Args:
        found: By replaced bits.
        bits: How many.
        deepest: How many there are.
    """
    bits = min(bits, deepest)
    if bits in found or bits >= deepest - 1:
        return found.get(bits, Uniformity())
    known = [one for one in found if one < bits]
    return found[max(known)] if known else Uniformity()


def width_of(dtype: str, itemsize: int) -> int:
    """Return the low bits of a number that could be replaced at most (rule 4)."""
    if dtype in FLOATS:
        return FLOATS[dtype].mantissa
    if dtype in _FLOAT8:
        return _FLOAT8[dtype]
    if dtype in PACKED:
        return 4
    return 1 if dtype == "bool" else 8 * itemsize


def ways(
    dtype: str,
    width: int,
    tensors: Sequence[Judged],
    whole: dict[int, Uniformity],
    needed: tuple[float, float],
    judged: Collection[int] = (),
) -> tuple[Way, ...]:
    """Return the ways to hide in tested tensors of one dtype (rules 1 to 3).

    Args:
        dtype: Theirs.
        width: Bits of a number that could be replaced at most.
        tensors: All of them.
        whole: What they say together.
        needed: Standard deviations it takes to be enough: of a tensor, of the file.
        judged: Numbers of bits that the judge would find (`would_find`).

    Returns:
        First that of every number, then others, with ever more bits.
    """
    tolerance = _tolerance(dtype)
    numbers = sum(one.numbers for one in tensors)
    deepest = width - min((one.constant for one in tensors), default=0)
    fully = width
    for bits in sorted(whole, reverse=True) if deepest in whole else ():
        if bits not in judged and _unseen(whole[bits], tolerance, needed[1]) >= 1:
            break
        fully = bits - 1
    full = tuple(
        Stretch(one.numbers, one.constant, min(one.constant + fully, width))
        for one in tensors
    )
    found = [Way(fully, 1.0, full)]
    for bits in range(fully + 1, deepest + 1):
        known = about(whole, bits, deepest)
        taken = _taken(tensors, known, bits, width, dtype, needed)
        share = sum(one.numbers for one in taken) / max(numbers, 1)
        found.append(Way(bits, min(share, 1.0), taken))
    return tuple(found)


def would_find(statistics: Statistics, dtype: str, judge: Judge) -> list[int]:
    """Return of which numbers of bits, replaced everywhere, a judge is almost sure.

    The file is judged as if nothing else spoke against it, and as if little luck had
    left `_SURELY` standard deviations of the slope. What fewer bits say depends on bits
    that are replaced, so they say a quarter of what one bit more says (rule 2).
    """
    ledger = Ledger()
    ledger.counts = dict(statistics.ledger.counts)
    fine, coarse = by_dtype(statistics.uniformity), by_dtype(statistics.octaves)
    certain = []
    for bits in sorted({*fine.get(dtype, ()), *coarse.get(dtype, ())}):
        replaced = {dtype: bits}
        tensors = tuple(
            one._replace(
                uniformity=_as_if(one.uniformity, replaced.get(one.dtype, 0)),
                octaves=_as_if(one.octaves, replaced.get(one.dtype, 0)),
            )
            for one in statistics.tensors
        )
        whole, octaves = _all_as_if(fine, replaced), _all_as_if(coarse, replaced)
        made = Statistics(ledger, tensors, whole, (), octaves=octaves)
        if judge.judge(made).suspicious:
            certain.append(bits)
    return certain


def _all_as_if(
    every: Mapping[str, Mapping[int, Uniformity]], replaced: Mapping[str, int]
) -> dict[tuple[str, int], Uniformity]:
    """Return the same of all weights of each dtype."""
    return {
        (dtype, at): found
        for dtype, by_bits in every.items()
        for at, found in _as_if(by_bits, replaced.get(dtype, 0)).items()
    }


def _as_if(found: Mapping[int, Uniformity], bits: int) -> dict[int, Uniformity]:
    """Return what would be found if so many bits were replaced, and the rest clean."""
    made = {}
    for at, one in found.items():
        if at > bits:
            made[at] = Uniformity(one.expected, one.expected)
        elif bits in found:
            expected = found[bits].expected / 4.0 ** (bits - at)
            made[at] = Uniformity(min(_SURELY * expected**0.5, expected), expected)
    return made


def needed_of(ledger: Ledger, dtype: str) -> tuple[float, float]:
    """Return the standard deviations at which a test is enough, almost surely.

    Args:
        ledger: Has the number of tests.
        dtype: What is tested.

    Returns:
        Of a tensor, and of the file.
    """
    family = "pairs" if layout_of(dtype, 1).kind == "integer" else "smooth"
    counts = (ledger.counts[f"{family}-{part}"] for part in ("tensor", "file"))
    one, other = (log(RATE / len(FAMILIES) / max(count, 1)) for count in counts)
    return _quantile(one) + _SURELY, _quantile(other) + _SURELY


def _tolerance(dtype: str) -> float:
    return SURE[sort_of(dtype)]


def _unseen(found: Uniformity, tolerance: float, needed: float) -> float:
    """Return the share of weights that can be replaced and not be seen (rule 1)."""
    if found.expected <= 0:
        return 1.0
    return min(1.0, tolerance + needed / found.apart)


def _bearable(whole: Uniformity, tolerance: float, needed: float) -> float:
    """Return how much of `expected` the file can lose without being found (rule 1)."""
    if whole.expected <= 0:
        return inf
    return (tolerance + needed / whole.apart) * whole.expected


def _taken(
    tensors: Sequence[Judged],
    whole: Uniformity,
    bits: int,
    width: int,
    dtype: str,
    needed: tuple[float, float],
) -> tuple[Stretch, ...]:
    """Return how many numbers of each tensor can be replaced (rule 3)."""
    tolerance = _tolerance(dtype)
    left = _bearable(whole, tolerance, needed[1])
    taken = []
    abouts = [(one, one.about(bits, width)) for one in tensors]
    for one, found in sorted(
        abouts, key=lambda pair: pair[1].expected / pair[0].numbers
    ):
        # Of 4 bits, no tensor is judged by itself.
        share = 1.0 if dtype in PACKED else _unseen(found, tolerance, needed[0])
        if found.expected > 0:
            share = min(share, left / found.expected)
        left -= share * found.expected
        top = min(one.constant + bits, width)
        taken.append(Stretch(share * one.numbers, one.constant, top))
    return tuple(taken)


def _quantile(log_p: float) -> float:
    """Return the standard deviations beyond which a normal is with that chance."""
    low, high = 0.0, 60.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if normal_log_tail(middle) > log_p else (low, middle)
    return high
