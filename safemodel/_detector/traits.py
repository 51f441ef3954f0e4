"""What the tests of a file gave → a vector of one length: its *traits*.

Rules:

1. A trait does not grow with the number of tensors: it is a corrected p-value, a sum of
   evidence over the whole file, or a mean by weights.
2. What a file has no tensors for is 0, which is also what a clean file tends to.
3. Traits are bounded, so that no single one decides by being out of all proportion.
4. *How uniform* low bits are is a likelihood ratio: replaced weights have the share 0
   of the slope that their density has (`smooth`), clean ones the share 1, but for a
   deviation that clean files have among themselves, `SPREAD`.
"""

from __future__ import annotations

from math import exp, log, log1p
from typing import TYPE_CHECKING

import numpy as np

from safemodel._detector.layouts import PACKED, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from safemodel._detector.smooth import Uniformity
    from safemodel._detector.statistics import Statistics, TensorResult

KINDS = ("wide", "rounded", "bfloat16", "float16", "integer", "packed")
"""Of weights, as far as uniformity goes."""
SPREAD = {"wide": 0.12, "rounded": 0.12, "bfloat16": 0.12, "float16": 0.12,
          "integer": 0.2, "packed": 0.3}  # fmt: skip
"""Standard deviation, among clean files, of the share of the slope that they have."""
_BOUND = 12.0
_ROUNDED = 13
_APART = 2.0
_MOST = 9.0
CONCLUSIVE = ("structured-block", "structured-tensor", "structured-file", "structure",
              "repeats", "carving")  # fmt: skip
"""Families of tests whose p-values hold for clean files; those of the others rest on a
model of the density of weights, from which some clean files differ (ADR 0028)."""
NAMES = (
    *(f"p {name}" for name in CONCLUSIVE),
    *(f"uniform {name}" for name in KINDS),
    *(f"uniform tensor {name}" for name in KINDS),
)


def traits_of(statistics: Statistics) -> NDArray[np.float64]:
    """Return the traits of a file, in the order of `NAMES`."""
    made = [*_p_values(statistics), *_uniform(statistics)]
    return np.nan_to_num(np.clip(np.array(made), 0.0, _BOUND), nan=0.0)


def _p_values(statistics: Statistics) -> list[float]:
    """Return the lowest corrected p-value of each family, as log(1 + nats)."""
    ledger = statistics.ledger
    lowest = dict.fromkeys(CONCLUSIVE, 0.0)
    for one in ledger.kept:
        if one.family in lowest:
            lowest[one.family] = min(lowest[one.family], ledger.log_p(one))
    return [log1p(-value) for value in lowest.values()]


def ratio(found: Uniformity, spread: float) -> float:
    """Return the log of how much likelier replaced weights are than clean ones (4)."""
    if found.apart < _APART:
        return 0.0
    own = 1 / found.expected
    clean = own + spread * spread
    share = found.share
    # On the far side of clean, or of replaced, nothing is more than at its middle.
    share = min(max(share, 0.0), 1.0)
    return float(
        (share - 1) ** 2 / (2 * clean) - share**2 / (2 * own) + log(clean / own) / 2
    )


def kind_of(dtype: str, bits: int, constant: int | None = None) -> str:
    """Return of which of `KINDS` weights are; None: as far as the bits tell."""
    layout = layout_of(dtype, 1)
    if dtype in PACKED:
        return "packed"
    if layout.kind == "integer":
        return "integer"
    if layout.kind == "short":
        return dtype
    if constant is None:
        return "wide" if bits >= layout.mantissa - 8 else "rounded"
    return "rounded" if constant >= _ROUNDED else "wide"


def _uniform(statistics: Statistics) -> list[float]:
    """Return ratios: of the file, and of the tensor that stands out most."""
    whole: dict[str, float] = {}
    single: dict[str, float] = {}
    by_dtype: dict[str, dict[int, Uniformity]] = {}
    for (dtype, bits), found in statistics.uniformity.items():
        by_dtype.setdefault(f"{dtype} {kind_of(dtype, bits)}", {})[bits] = found
    for key, by_bits in by_dtype.items():
        kind = key.split()[1]
        value = replaced(by_bits, SPREAD[kind])[0]
        whole[kind] = max(whole.get(kind, value), value)
    seen = max(1, sum(bool(one.uniformity) for one in statistics.tensors))
    for one in statistics.tensors:
        if one.uniformity:
            kind = kind_of(one.dtype, min(one.uniformity), one.constant)
            value = replaced(one.uniformity, 1.5 * SPREAD[kind])[0] - log(seen)
            single[kind] = max(single.get(kind, value), value)
    return [found.get(kind, 0.0) for found in (whole, single) for kind in KINDS]


def replaced(by_bits: dict[int, Uniformity], spread: float) -> tuple[float, int]:
    """Return the ratio for the likeliest number of replaced bits, and that number.

    Whoever replaces X bits replaces fewer, too: what speaks against those speaks
    against X (rule 4).
    """
    best, against = (0.0, 0), 0.0
    decided = False
    for bits in sorted(by_bits):
        if by_bits[bits].apart < _APART:
            continue
        value = min(ratio(by_bits[bits], spread), _MOST)
        if not decided or value + against > best[0]:
            best, decided = (value + against, bits), True
        against += min(0.0, value)
    return best


def probability_of(logit: float) -> float:
    """Return the logistic function, without overflow."""
    return 1 / (1 + exp(-logit)) if logit > -700 else 0.0
