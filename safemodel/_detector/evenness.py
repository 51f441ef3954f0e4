"""Bits that are more even than their density: p-values, and which of them are enough.

Rules:

1. Replaced weights have nothing of the slope that their density has, clean ones all of
   it, but for a part that the model of the density does not know. What clean files
   lack, at least, is no evidence: the *tolerance*.
2. Whoever replaces X bits of some weights replaces fewer, too, and of the same weights.
   So no more is missing at X bits than can be missing at fewer: there, three standard
   deviations more than what is. And no more is missing than all, but for chance. A
   density that was fitted badly contradicts itself.
3. A p-value of a model is no better than the model. By itself it is enough from `RATE`
   on, at a tolerance beyond what clean files of the training side lack (ADR 0028).
   Where only four cells are left, nothing says whether the density was fitted well
   (`slopes`), and nothing is enough by itself. `octaves` takes it from elsewhere.
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING

from safemodel._detector.distributions import normal_log_tail
from safemodel._detector.evidence import Outcome
from safemodel._detector.layouts import PACKED, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from safemodel._detector.smooth import Uniformity
    from safemodel._detector.statistics import Statistics

TOLERANCE = {"float": 0.3, "short": 0.3, "integer": 0.5, "packed": 0.75}
"""Part of the expected slope that clean weights may lack (ADR 0023)."""
SURE = {"float": 0.6, "short": 0.5, "integer": 0.65, "packed": 0.75}
"""The same, where nothing else speaks against a file (rule 3)."""
RATE = 1e-9
"""Largest corrected p-value that is enough by itself, at `SURE`."""
_FOUR_CELLS = {"bfloat16": (5,), "float16": (8,), "float": (5, 8)}
"""Replaced bits that leave two of the mantissa, by dtype or sort: wide floats may have
been rounded to either."""
FAMILIES = ("smooth-tensor", "smooth-file", "pairs-tensor", "pairs-file")
_APART = 3.0
"""Standard deviations between clean and replaced, below which nothing is decided."""
_CREDIBLE = 3.0
"""Standard deviations (rule 2)."""
_CONTRARY = 4.0
"""Standard deviations beyond all that can be missing (rule 2)."""


def sort_of(dtype: str) -> str:
    """Return the key of a dtype in `TOLERANCE` and `SURE`."""
    return "packed" if dtype in PACKED else layout_of(dtype, 1).kind


def missing(by_bits: Mapping[int, Uniformity], bits: int) -> float:
    """Return which part of the slope is missing, as far as that can be (rule 2)."""
    if is_contrary(by_bits[bits]):
        return 0.0
    least = 1 - by_bits[bits].share
    for fewer, found in by_bits.items():
        if fewer < bits and found.expected > 0:
            least = min(least, 1 - found.share + _CREDIBLE / found.apart)
    return least


def is_contrary(found: Uniformity) -> bool:
    """Say whether more is missing than all of the slope, far beyond chance (rule 2)."""
    return found.share * found.apart < -_CONTRARY


def outcome(
    by_bits: Mapping[int, Uniformity], bits: int, dtype: str, tensor: str,
    tolerances: Mapping[str, float] = TOLERANCE, *, whole: bool = False,
) -> Outcome:  # fmt: skip
    """Return the outcome of a test of `smooth` or `integers`.

    Args:
        by_bits: What is known of each number of replaced bits.
        bits: Which of them.
        dtype: Of the weights.
        tensor: Its name; "" for those of the whole file.
        tolerances: `TOLERANCE` or `SURE`.
        whole: Whether they are those of the whole file.
    """
    found, sort = by_bits[bits], sort_of(dtype)
    tolerance = tolerances[sort]
    decided = _is_decided(found, tolerance)
    z = (missing(by_bits, bits) - tolerance) * found.apart if decided else -inf
    family = "pairs" if sort in ("integer", "packed") else "smooth"
    return Outcome(
        family=f"{family}-{'file' if whole else 'tensor'}", test="too-uniform",
        what=f"{bits} low bits of {dtype} weights are more uniform than their density",
        log_p=min(0.0, normal_log_tail(z)) if z > 0 else 0.0,
        statistic=z if decided else 0.0, effect=1 - found.share, bits=bits,
        tensor=tensor,
    )  # fmt: skip


def sure(dtype: str, by_bits: Mapping[int, Uniformity]) -> dict[int, Uniformity]:
    """Return what leaves enough cells to be enough by itself (rule 3)."""
    rough = _FOUR_CELLS.get(dtype, _FOUR_CELLS.get(sort_of(dtype), ()))
    return {bits: found for bits, found in by_bits.items() if bits not in rough}


def enough(statistics: Statistics) -> list[Outcome]:
    """Return what is enough by itself (rule 3), with p-values at `SURE`."""
    ledger = statistics.ledger
    return [one for one in _outcomes(statistics) if ledger.log_p(one) <= log(RATE)]


def by_dtype(
    found: Mapping[tuple[str, int], Uniformity],
) -> dict[str, dict[int, Uniformity]]:
    """Return what is known of each dtype: dtype → replaced bits → that."""
    made: dict[str, dict[int, Uniformity]] = {}
    for (dtype, bits), one in found.items():
        made.setdefault(dtype, {})[bits] = one
    return made


def testable(
    dtype: str, fine: Mapping[int, Uniformity], coarse: Mapping[int, Uniformity]
) -> dict[int, Uniformity]:
    """Return what can be enough by itself, by replaced bits.

    Args:
        dtype: Of the weights.
        fine: What `smooth` or `integers` found.
        coarse: What `octaves` found.
    """
    return {**sure(dtype, fine), **coarse}


def _outcomes(statistics: Statistics) -> Iterator[Outcome]:
    """Yield the outcomes of tensors and of the file."""
    for dtype, by_bits in by_dtype(statistics.uniformity).items():
        yield from _decided(sure(dtype, by_bits), by_bits, dtype, "", whole=True)
    for dtype, by_bits in by_dtype(statistics.octaves).items():
        yield from _decided(by_bits, by_bits, dtype, "", whole=True)
    for one in statistics.tensors:
        # Of 4 bits, a tensor that is lopsided looks like one of even cells.
        if one.dtype not in PACKED:
            fine, coarse = one.uniformity, one.octaves
            yield from _decided(sure(one.dtype, fine), fine, one.dtype, one.name)
            yield from _decided(coarse, coarse, one.dtype, one.name)


def _decided(
    those: Iterable[int], by_bits: Mapping[int, Uniformity], dtype: str, tensor: str,
    *, whole: bool = False,
) -> Iterator[Outcome]:  # fmt: skip
    """Yield the outcomes of numbers of bits of which enough is known."""
    for bits in those:
        if _is_decided(by_bits[bits], SURE[sort_of(dtype)]):
            yield outcome(by_bits, bits, dtype, tensor, SURE, whole=whole)


def _is_decided(found: Uniformity, tolerance: float) -> bool:
    """Say whether clean and replaced weights are far enough apart."""
    return found.apart * (1 - tolerance) >= _APART
