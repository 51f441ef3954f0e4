"""From what the tests of a file gave to a judgement of it.

A judge is anything with the members of `Judge`. The one here takes p-values as they
are: each is corrected for all tests of the file, so one chance to be wrong holds for
the file, however many tensors it has.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._detector.evidence import Evidence
    from safemodel._detector.reference import Comparison
    from safemodel._detector.statistics import Statistics

FALSE_POSITIVE_RATE = 1e-3
XRAY_ID = "x-ray-osl-1"
"""What tells the published detector from judges."""


class Judgement(NamedTuple):
    """What a judge says of a file.

    Attributes:
        score: From 0 to 1.
        threshold: Score from which on the file is suspicious.
        false_positive_rate: As of `Detection`.
        evidence: What the verdict rests on, the strongest first.
        tensors: Name → score of each tensor that has one above 0.
    """

    score: float
    threshold: float
    false_positive_rate: float | None
    evidence: tuple[Evidence, ...]
    tensors: Mapping[str, float]

    @property
    def suspicious(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold


class Judge(Protocol):
    """What judges a file by what the tests of it gave."""

    @property
    def id(self) -> str:
        """What tells it from other judges."""
        ...

    @property
    def threshold(self) -> float:
        """Score from which on a file is suspicious."""
        ...

    @property
    def false_positive_rate(self) -> float | None:
        """Chance to call a clean file suspicious; None if nobody knows."""
        ...

    def judge(self, statistics: Statistics) -> Judgement:
        """Return what is to be said of a file."""
        ...


class PValues:
    """Judges by the smallest corrected p-value.

    Args:
        false_positive_rate: From which p-value on a file is suspicious.
    """

    id = "p-values-1"
    threshold = 0.5

    def __init__(self, false_positive_rate: float = FALSE_POSITIVE_RATE) -> None:
        if not 0 < false_positive_rate < 1:
            raise ValueError(f"between 0 and 1, please: {false_positive_rate}")
        self.false_positive_rate = false_positive_rate

    def judge(self, statistics: Statistics) -> Judgement:
        """Return what the p-values of a file say."""
        ledger = statistics.ledger
        least, tensors = 0.0, dict[str, float]()
        for one in ledger.kept:
            log_p = ledger.log_p(one)
            least = min(least, log_p)
            if one.tensor and log_p < 0:
                score = self.score_of(log_p)
                tensors[one.tensor] = max(score, tensors.get(one.tensor, 0.0))
        return Judgement(
            score=self.score_of(least),
            threshold=self.threshold,
            false_positive_rate=self.false_positive_rate,
            evidence=ledger.evidence(self.false_positive_rate),
            tensors=tensors,
        )

    def score_of(self, log_p: float) -> float:
        """Return a p-value as a score: 0 for 1, and one half where it is evidence."""
        return abs(log_p) / (abs(log_p) + abs(log(self.false_positive_rate)))


def with_reference(judgement: Judgement, comparison: Comparison | None) -> Judgement:
    """Return a judgement that takes into account what a trusted file says.

    That low bits changed and none above them is conclusive: it needs no threshold.
    """
    more = () if comparison is None else comparison.evidence()
    if not more:
        return judgement
    every = sorted((*more, *judgement.evidence), key=lambda one: one.p_value)
    certain = dict.fromkeys((one.tensor for one in more), 1.0)
    return judgement._replace(
        score=1.0, evidence=tuple(every), tensors={**judgement.tensors, **certain}
    )
