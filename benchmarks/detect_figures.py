"""Figures of groups of files, with 95 % intervals.

Rules:

1. A figure is the mean over groups of the mean over the files of each: a repository of
   a hundred files counts as much as one of a single file.
2. Its interval comes from groups drawn again, 2,000 times: 2.5 % of what comes out lies
   below, 2.5 % above.
3. Where all groups agree that says nothing. Then the interval is that of Clopper and
   Pearson, of as many independent trials as there are groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

Row: TypeAlias = "Mapping[str, str]"
DRAWS = 2000
_TAIL = 0.025


class Figure(NamedTuple):
    """A figure.

    Attributes:
        value: Rule 1.
        low: Lower end of its interval.
        high: Upper end.
        files: How many files.
        groups: Of how many groups.
    """

    value: float
    low: float
    high: float
    files: int
    groups: int

    @property
    def count(self) -> str:
        """Files, and groups of them."""
        return f"{self.files} ({self.groups})"

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(rows: list[Row], of: Callable[[Row], float]) -> Figure | None:
    """Return the mean of what a function gives for each row; None of no rows."""
    if not rows:
        return None
    groups = _by_group(rows, of)
    drawn = _draws(len(groups))
    means = groups[drawn].mean(1)
    return _figure(float(groups.mean()), means, len(rows), len(groups))


def balanced(clean: list[Row], attacked: list[Row]) -> Figure | None:
    """Return balanced accuracy: the mean of what is right among clean and attacked.

    Groups are drawn with all their files, clean and attacked.
    """
    if not clean or not attacked:
        return None
    names = sorted({row["group"] for row in (*clean, *attacked)})
    right = np.full((2, len(names)), np.nan)
    for side, rows in enumerate((clean, attacked)):
        for at, name in enumerate(names):
            answers = [int(row["suspicious"]) == side for row in rows
                       if row["group"] == name]  # fmt: skip
            if answers:
                right[side, at] = np.mean(answers)
    value = float(np.nanmean(right, axis=1).mean())
    drawn = right[:, _draws(len(names))]
    present = ~np.isnan(drawn)
    totals = np.where(present, drawn, 0.0).sum(2)
    means = totals / np.maximum(present.sum(2), 1)
    used = present.any(2).all(0)
    files = len(clean) + len(attacked)
    return _figure(value, means.mean(0)[used], files, len(names))


def suspicious(row: Row) -> float:
    """Return whether a file was called suspicious."""
    return float(row["suspicious"])


def _by_group(rows: list[Row], of: Callable[[Row], float]) -> NDArray[np.float64]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["group"], []).append(of(row))
    return np.array([np.mean(values[name]) for name in sorted(values)])


def _draws(groups: int) -> NDArray[np.int64]:
    """Return groups drawn again and again, the same ones at each call."""
    return np.random.default_rng(0).integers(0, groups, (DRAWS, groups))


def _figure(
    value: float, drawn: NDArray[np.float64], files: int, groups: int
) -> Figure:
    low, high = (float(each) for each in np.quantile(drawn, (_TAIL, 1 - _TAIL)))
    if value in (0.0, 1.0):
        # Clopper and Pearson for no or only successes, in closed form.
        room = 1 - _TAIL ** (1 / groups)
        low, high = (1 - room, 1.0) if value else (0.0, room)
    return Figure(value, low, high, files, groups)
