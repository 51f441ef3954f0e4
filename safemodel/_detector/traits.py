"""What the tests of a file gave → a vector of one length: its *traits*.

Rules:

1. A trait does not grow with the number of tensors: it is a corrected p-value, or a sum
   of evidence over the whole file.
2. A trait is 0 where nothing speaks against a file, and grows with what does. It is
   bounded, so that no single one is out of all proportion.
3. *How uniform* low bits are says how unlikely clean weights are to have as little of
   the slope of their density: as a normal variable, half its square, in nats. Replaced
   weights have the share 0 of it (`smooth`), clean ones 1, but for a deviation that
   clean files have among themselves, `SPREAD`. So chance leaves as much in a file of
   few weights as in one of many. No more than three times the likelihood ratio of
   replaced against clean weights counts: what is unlike both is no evidence.
4. Whoever replaces X bits replaces fewer, too: what speaks against those speaks against
   X. Where a density was fitted badly, numbers of bits contradict each other, or more
   than all of the slope is missing.
5. Of numbers that were rounded, one bit more says four times as much of a slope, and
   half as much of the notch of rounding, which says most of one bit. What says more
   than that was fitted badly, or has a lattice, as training in 16 bits leaves it.
"""

from __future__ import annotations

from math import log, log1p
from typing import TYPE_CHECKING

import numpy as np

from safemodel._detector.evenness import is_contrary
from safemodel._detector.layouts import PACKED, layout_of
from safemodel._detector.smooth import is_rounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from safemodel._detector.evidence import Outcome
    from safemodel._detector.smooth import Uniformity
    from safemodel._detector.statistics import Statistics, TensorResult

KINDS = ("wide", "rounded", "bfloat16", "float16", "integer", "packed")
"""Of weights. "rounded": wide floats that were rounded to fewer bits."""
SPREAD = {"wide": 0.1, "rounded": 0.1, "bfloat16": 0.1, "float16": 0.1,
          "integer": 0.2, "packed": 0.3}  # fmt: skip
"""Standard deviation, among clean files, of the share of the slope that they have."""
CONCLUSIVE = ("structured-block", "structured-tensor", "structured-file", "structure",
              "repeats", "carving")  # fmt: skip
"""Families of tests whose p-values hold for clean files. Those of the others rest on a
model of weights, from which some clean files differ (ADR 0028)."""
CONCLUSIVE_TESTS = ("published-code", "subnormals")
"""Tests of other families of which the same is true: chance alone decides those."""
NAMES = (
    *(f"p {name}" for name in (*CONCLUSIVE, "spread")),
    *(f"uniform {name}" for name in KINDS),
    *(f"uniform tensor {name}" for name in KINDS),
)
BOUND = 12.0
_MOST = 9.0
"""Of the ratio of one number of bits (rule 4)."""
_APART = 2.0
_WIDE = 14
"""Replaced bits of numbers that were not rounded to 16 bits, at least."""
_TIMES = 3.0
"""Likelihood ratios that count at most (rule 3)."""
_SLACK = 3.0
"""Times what rule 5 allows."""
_LESS = 1.5
"""Times `SPREAD` that single tensors deviate."""


def traits_of(statistics: Statistics) -> NDArray[np.float64]:
    """Return the traits of a file, in the order of `NAMES`."""
    made = [*_p_values(statistics), *_uniform(statistics)]
    return np.clip(np.array(made, np.float64), 0.0, BOUND)


def is_conclusive(outcome: Outcome) -> bool:
    """Say whether a p-value holds for clean files."""
    return outcome.family in CONCLUSIVE or outcome.test in CONCLUSIVE_TESTS


def _p_values(statistics: Statistics) -> list[float]:
    """Return the lowest corrected p-value of each family, as log(1 + nats).

    Of "spread", only "common-noise": the others are judged by themselves.
    """
    ledger = statistics.ledger
    lowest = dict.fromkeys((*CONCLUSIVE, "spread"), 0.0)
    for one in ledger.kept:
        if one.family in CONCLUSIVE or one.test == "common-noise":
            lowest[one.family] = min(lowest[one.family], ledger.log_p(one))
    return [log1p(-value) for value in lowest.values()]


def kind_of(dtype: str, bits: int, constant: int | None = None) -> str:
    """Return of which of `KINDS` weights are.

    Args:
        dtype: Of them.
        bits: Replaced bits that something was said about.
        constant: Lowest bits that are zeros everywhere; None if unknown. Then the bits
            tell: of weights that were not rounded, few of them are not looked at.
    """
    layout = layout_of(dtype, 1)
    if dtype in PACKED:
        return "packed"
    if layout.kind == "integer":
        return "integer"
    if layout.kind == "short":
        return dtype
    if constant is None:
        return "wide" if bits >= _WIDE else "rounded"
    return "rounded" if is_rounded(layout, constant) else "wide"


def kinds_in(statistics: Statistics) -> tuple[str, ...]:
    """Return of which kinds there are weights that something can be said about."""
    found = {kind_of(dtype, bits) for dtype, bits in statistics.uniformity}
    return tuple(kind for kind in KINDS if kind in found)


def _uniform(statistics: Statistics) -> list[float]:
    """Return what bits of the file say, and those of the tensor that stands out."""
    whole: dict[str, float] = {}
    single: dict[str, float] = {}
    for (kind, _), by_bits in by_kind(statistics).items():
        value = replaced(by_bits, SPREAD[kind])[0]
        whole[kind] = max(whole.get(kind, value), value)
    seen = max(1, sum(bool(one.uniformity) for one in statistics.tensors))
    for one in statistics.tensors:
        if one.uniformity:
            value = of_tensor(one) - log(seen)
            kind = kind_of(one.dtype, min(one.uniformity), one.constant)
            single[kind] = max(single.get(kind, value), value)
    return [found.get(kind, 0.0) for found in (whole, single) for kind in KINDS]


def by_kind(statistics: Statistics) -> dict[tuple[str, str], dict[int, Uniformity]]:
    """Return what is known of uniformity: (kind, dtype) → replaced bits → that."""
    found: dict[tuple[str, str], dict[int, Uniformity]] = {}
    for (dtype, bits), one in statistics.uniformity.items():
        found.setdefault((kind_of(dtype, bits), dtype), {})[bits] = one
    return found


def of_tensor(one: TensorResult) -> float:
    """Return what one tensor says."""
    kind = kind_of(one.dtype, min(one.uniformity), one.constant)
    return replaced(one.uniformity, _LESS * SPREAD[kind])[0]


def replaced(by_bits: Mapping[int, Uniformity], spread: float) -> tuple[float, int]:
    """Return what the likeliest number of replaced bits says, and that number.

    (0, 0) where nothing can be said (rules 3 to 5).
    """
    best: tuple[float, int] | None = None
    against = 0.0
    credible = _credible(by_bits)
    for bits in sorted(by_bits):
        if by_bits[bits].apart < _APART or is_contrary(by_bits[bits]):
            continue
        value = min(even(by_bits[bits], spread) * credible[bits], _MOST)
        if best is None or value + against >= best[0]:
            best = value + against, bits
        against += min(0.0, value)
    return best or (0.0, 0)


def _credible(by_bits: Mapping[int, Uniformity]) -> dict[int, float]:
    """Return which part of what numbers of bits say can be true (rule 5)."""
    if min(by_bits, default=0) >= _WIDE:
        return dict.fromkeys(by_bits, 1.0)
    found: dict[int, float] = {}
    order = sorted(by_bits)
    above: tuple[int, float] | None = None
    for bits in reversed(order):
        own = by_bits[bits].expected
        most = own
        if above is not None and own > 0:
            slope = above[1] / 4.0 ** (above[0] - bits)
            notch = by_bits[order[0]].expected / 2.0 ** (bits - order[0])
            most = min(own, _SLACK * (slope + notch))
        found[bits] = most / own if own > 0 else 0.0
        above = bits, most
    return found


def even(found: Uniformity, spread: float) -> float:
    """Return how much the share of a slope speaks for replaced weights (rule 3).

    Below 0, it speaks for clean ones.
    """
    own = 1 / found.expected
    clean = own + spread * spread
    # Beyond clean, or beyond replaced, nothing is more than what it is at either.
    share = min(max(found.share, 0.0), 1.0)
    unlikely = (share - 1) ** 2 / (2 * clean)
    ratio = unlikely - share**2 / (2 * own) + log(clean / own) / 2
    return ratio if ratio < 0 else min(unlikely, _TIMES * ratio)
