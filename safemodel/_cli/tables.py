"""Reports on a terminal: colours, a table for many files, a progress bar.

Text of a file reaches `rich` as `Text`, never as markup.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from safemodel._cli.summary import Tally, is_other
from safemodel._cli.text import unread_format, worth_showing
from safemodel._report.text import report_lines
from safemodel._report.words import place, shown, what
from safemodel.reports import Severity, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel.reports import DisarmReport, FileReport, Finding

_COLOURS = {
    Severity.INFO: "dim",
    Severity.WARNING: "yellow",
    Severity.DANGER: "bold red",
}
_VERDICTS = {
    Status.CLEAN: "green",
    Status.REFUSED: "bold red",
    Status.UNSUPPORTED: "yellow",
    Status.UNREADABLE: "yellow",
}
_MANY = 40
_IN_TABLE = 3
_SHORT = 60
_PATIENCE_S = 0.5
_NEXT = """\
  Nothing was run. `safemodel inspect FILE` shows what a file holds. Unless it
  is broken, safe_load(FILE, weights_only=False) opens it, and runs nothing."""
_LINES = {
    **{severity.value: colour for severity, colour in _COLOURS.items()},
    "verdict": "bold",
    "quiet": "dim",
}
_INDENTS = {"label": 13, "quiet": 13, "info": 10, "warning": 10, "danger": 10}
_LABELS = ("label", "quiet", "verdict")
_RANK = {Severity.DANGER: 0, Severity.WARNING: 1, Severity.INFO: 2}


class TableOutput:
    """Collects reports; prints one table at the end."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._console = Console(highlight=False)
        self._quiet = quiet
        self._verbose = verbose
        self._tally = Tally()
        self._reports: list[FileReport] = []

    def add(self, report: FileReport) -> None:
        """Take a report."""
        self._tally.add(report)
        if not (self._quiet and _is_plain(report)):
            self._reports.append(report)

    def close(self) -> None:
        """Print the table, the counts, and what to do next."""
        reports, few = self._reports, _IN_TABLE
        if len(reports) > _MANY and not self._verbose:
            reports = [one for one in reports if not _is_plain(one)]
        left_out = 0 if self._verbose else max(len(reports) - _MANY, 0)
        if left_out:
            reports, few = sorted(reports, key=_worst)[:_MANY], 1
        if reports:
            self._console.print(self._table(reports, few))
        if left_out:
            note = f"  {left_out:,} less alarming files: --verbose or --json lists them"
            self._console.print(Text(note, style="dim"))
        if not self._quiet:
            self._console.print(Text(f"  {self._tally.sentence()}", style="bold"))
            if self._tally.counts[Status.REFUSED]:
                self._console.print(Text(_NEXT, style="dim"))

    def _table(self, reports: list[FileReport], few: int) -> Table:
        """Return a row a file, with so many findings in it."""
        table = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False)
        table.add_column("file", overflow="fold", ratio=3)
        table.add_column("verdict", no_wrap=True)
        table.add_column("findings", overflow="fold", ratio=5)
        for report in reports:
            table.add_row(
                Text(shown(report.path)), _verdict(report), self._findings(report, few)
            )
        return table

    def _findings(self, report: FileReport, few: int) -> Text:
        """Return the most alarming findings of a file, or what else there is to say."""
        findings, _ = worth_showing(report, verbose=self._verbose)
        if not self._verbose:
            findings = sorted(findings, key=_rank)[:few]
        if not findings:
            said = report.read_error or unread_format(report)
            return Text(shown(said), style="dim")
        limit = 0 if self._verbose else _SHORT
        text = Text("\n").join([_finding(finding, limit) for finding in findings])
        more = len(report.findings) - len(findings)
        if more and report.status is not Status.CLEAN:
            text.append(f"\n{more:,} more: --verbose", style="dim")
        return text


def _is_plain(report: FileReport) -> bool:
    """Tell whether there is nothing to look at."""
    return report.status is Status.CLEAN or is_other(report)


def _rank(finding: Finding) -> int:
    return _RANK[finding.severity]


def _worst(report: FileReport) -> int:
    """Return a number that is the smaller, the more alarming a file is."""
    return min(map(_rank, report.findings), default=_RANK[Severity.WARNING])


def _finding(finding: Finding, limit: int) -> Text:
    """Return a finding in its colour, and where it is."""
    text = Text(shown(what(finding, limit)), style=_COLOURS[finding.severity])
    where = f"{place(finding)} {finding.opcode}".strip()
    if where:
        text.append(f"  {shown(where)}", style="dim not bold")
    return text


def _verdict(report: FileReport) -> Text:
    """Return what became of a file, in its colour."""
    if is_other(report):
        return Text("no model", style="dim")
    text = Text(report.status.value, style=_VERDICTS[report.status])
    if report.refused and report.error and report.status is Status.REFUSED:
        text.append(f"\n{report.error.removesuffix('Error')}", style="dim not bold")
    return text


class ProgressBar:
    """A bar on standard error, shown once a scan takes long enough to wait for."""

    doing = "scanning"

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._started = monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how far the scan is."""
        if self._bar is None:
            if monotonic() - self._started < _PATIENCE_S or done == total:
                return
            self._bar = Progress(
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(self.doing, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


class Waiting:
    """Shows on standard error that something takes long, and how long it has taken.

    Args:
        doing: What takes so long, as a word.
    """

    def __init__(self, doing: str) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            "{task.description}",
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task(doing, total=None)
        self._timer = Timer(_PATIENCE_S, self._bar.start)
        self._timer.start()

    def close(self) -> None:
        """Take it away; as often as one likes."""
        self._timer.cancel()
        self._timer.join()
        self._bar.stop()


@contextmanager
def waiting_shown(doing: str) -> Iterator[None]:
    """Show it while something is done."""
    waiting = Waiting(doing)
    try:
        yield
    finally:
        waiting.close()


def print_disarmed(report: DisarmReport) -> None:
    """Print what became of a file."""
    print_lines(report_lines(report))


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines, each with what it is; long ones go on below their own text."""
    console = Console(highlight=False)
    for kind, line in lines:
        start, indent = _starts(kind, line)
        body = Text(line[start:], style=_LINES.get(kind, ""))
        for at, piece in enumerate(body.wrap(console, console.width - indent)):
            head = line[:start] if not at else " " * indent
            console.print(Text.assemble((head, "bold"), piece))


def _starts(kind: str, line: str) -> tuple[int, int]:
    """Return where the text of a line starts, behind its label, and goes on below."""
    width = _INDENTS.get(kind, 0)
    if kind in _LABELS or (kind and line[:width].strip() == kind):
        return width, width
    start = len(line) - len(line.lstrip())
    return start, start + 2
