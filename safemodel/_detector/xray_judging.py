"""``detector="x-ray"``: the published detector over the weights of a file.

It looks at all float32 weights as one picture and says which of two classes it is
nearer to. So it names no tensor, knows no p-value, and was never calibrated; it is
there to be compared with.
"""

from __future__ import annotations

from functools import cache
from math import nextafter
from typing import TYPE_CHECKING

from safemodel._detector.evidence import Evidence, Ledger
from safemodel._detector.gray_image import Scaled
from safemodel._detector.judging import Judgement
from safemodel._detector.statistics import Statistics
from safemodel._detector.xray import XRay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._detector.weights import Weights

_THRESHOLD = nextafter(0.5, 1)
"""A tie is decided for a clean network."""
_SEEN = ("weight", "buffer")


def looked_at(dtype: str, role: str) -> bool:
    """Tell whether weights are part of the picture."""
    return dtype == "float32" and role in _SEEN


def xrayed(items: Iterable[Weights], number: int) -> tuple[Statistics, Judgement]:
    """Return what the published detector says; it makes none of the other tests.

    Args:
        items: Weights, piece by piece.
        number: How many of them are part of the picture (`looked_at`).

    Raises:
        ValueError: There are no float32 weights.
    """
    if not number:
        raise ValueError("the x-ray looks at float32 weights, and there are none")
    detector = _bundled()
    picture = Scaled(number, detector.settings.side)
    for item in items:
        if looked_at(item.dtype, item.role):
            picture.take(item.bits)
    image = picture.image()
    score = float(detector.scores([image])[0])
    judgement = Judgement(
        score=score,
        threshold=_THRESHOLD,
        false_positive_rate=None,
        evidence=(_evidence(score),) if score >= _THRESHOLD else (),
        tensors={},
    )
    return Statistics(Ledger(), (), {}, ()), judgement


@cache
def _bundled() -> XRay:
    """Return the detector of the package: training it takes seconds."""
    return XRay.bundled()


def _evidence(score: float) -> Evidence:
    return Evidence(
        test="x-ray",
        what="the picture of all weights is nearer to those of networks that hold a"
        " payload than to those of clean ones",
        tensor="", start=0, end=0, statistic=score, effect=score - 0.5, bits=0,
        p_value=1.0,
    )  # fmt: skip
