"""Which judge a call of `detect` asks: `Detector`.

Importing this module imports neither numpy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from safemodel._detector.judging import Judge, Judgement
    from safemodel._detector.statistics import Statistics


class Detector:
    """Decides from the tests of a file whether it is suspicious.

    `Detector.bundled` returns the one that `detect` uses by itself.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    @classmethod
    def bundled(cls) -> Self:
        """Return the detector that comes with the package."""
        from safemodel._detector.judging import PValues

        return cls(PValues())

    @property
    def id(self) -> str:
        """What tells it from other detectors."""
        return self._judge.id

    @property
    def threshold(self) -> float:
        """Score from which on a file is suspicious."""
        return self._judge.threshold

    @property
    def false_positive_rate(self) -> float | None:
        """Chance to call a clean file suspicious that the threshold was set for."""
        return self._judge.false_positive_rate

    def judge(self, statistics: Statistics) -> Judgement:
        """Return what is to be said of a file, from the tests of it."""
        return self._judge.judge(statistics)

    def __repr__(self) -> str:
        return f"Detector(id={self.id!r})"
