"""The table of results: figures beside what they must and should reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from measure import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from measure import Timings


def verdict(
    reaches: Callable[[float | None], bool], *, must: float | None, aim: float | None
) -> str:
    """Return the best target reached, or that the required one was missed."""
    if reaches(aim):
        return "aim"
    if must is None:
        return "" if aim is None else "below aim"
    return "must" if reaches(must) else "**MISS**"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        figure: The figure.
        unit: "x" is a ratio, and more is better; of every other unit less is.
        must: What is required, or None.
        aim: What is hoped for, or None.
    """

    what: str
    figure: float
    unit: str
    must: float | None
    aim: float | None

    def reaches(self, target: float | None) -> bool:
        """Return whether the figure is as good as a target; no target is none."""
        if target is None:
            return False
        return self.figure >= target if self.unit == "x" else self.figure <= target

    def verdict(self) -> str:
        """Return the best target reached, or that the required one was missed."""
        return verdict(self.reaches, must=self.must, aim=self.aim)

    def markdown(self) -> str:
        """Return the row as Markdown."""
        targets = (
            "" if target is None else f"{target:g} {self.unit}"
            for target in (self.must, self.aim)
        )
        cells = (self.what, f"{self.figure:.2f} {self.unit}", *targets, self.verdict())
        return f"| {' | '.join(cells)} |"


class Report:
    """Collects rows and timings part by part, and prints rows as they come."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {}
        self.rows: list[Row] = []
        self.details: list[str] = []

    def end_part(self, name: str) -> None:
        """Make a part of the page of what was added since the last one ended."""
        today = datetime.now(tz=UTC).date().isoformat()
        self._parts[name] = [
            f"## {name}",
            "",
            f"Measured on {today}.",
            "",
            "| | measured | must | aim | reached |",
            "|---|---:|---:|---:|---|",
            *(row.markdown() for row in self.rows),
            *self.details,
            "",
        ]
        self.rows, self.details = [], []

    def row(
        self,
        what: str,
        figure: float,
        unit: str = "x",
        *,
        must: float | None = None,
        aim: float | None = None,
    ) -> None:
        """Add one line of the table."""
        row = Row(what=what, figure=figure, unit=unit, must=must, aim=aim)
        self.rows.append(row)
        print(f"  {what}: {figure:.2f} {unit} {row.verdict()}", flush=True)

    def timings(self, title: str, timings: Timings) -> None:
        """Add the medians and ranges of one set of contenders."""
        self.details += ["", f"### {title}", "", "| | median | fastest | slowest |"]
        self.details += ["|---|---:|---:|---:|"]
        for name, seconds in timings.rounds.items():
            cells = (statistics.median(seconds), min(seconds), max(seconds))
            shown = " | ".join(f"{cell * 1000:,.1f} ms" for cell in cells)
            self.details.append(f"| {name} | {shown} |")

    def page(self, before: str, order: Iterable[str]) -> str:
        """Return a page in which what was measured now replaces what was before.

        Args:
            before: The page as it is; its other parts stay, each with its date.
            order: Names of all parts; a part of another name is left out.
        """
        parts = parts_of(before) | {
            name: "\n".join(lines) for name, lines in self._parts.items()
        }
        head = [
            "# Results",
            "",
            "Written by `make bench`; README.md beside it has the method. Each part is",
            "of one run. Ratios (x) are times faster than the baseline, both timed in",
            "turns. **MISS** means that the required figure was not reached.",
            "",
            *(f"- {line}" for line in machine()),
            "",
        ]
        found = (parts[name].strip() + "\n" for name in order if name in parts)
        return "\n".join([*head, *found])


def parts_of(page: str) -> dict[str, str]:
    """Return the parts of a page by name, each with its heading."""
    pieces = page.split("\n## ")[1:]
    return {piece.split("\n", 1)[0]: f"## {piece}" for piece in pieces}
