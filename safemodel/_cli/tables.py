"""Reports on a terminal: colours, a table for many files, a progress bar.

Text of a file reaches `rich` as `Text`, never as markup.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from safemodel._cli.summary import Tally, is_other
from safemodel._cli.text import place, shown, what, worth_showing
from safemodel.reports import Severity, Status

if TYPE_CHECKING:
    from safemodel.reports import FileReport, Finding

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
        """Take a report; a clean one only as long as there are few."""
        self._tally.add(report)
        plain = report.status is Status.CLEAN or is_other(report)
        if not (plain and self._quiet):
            self._reports.append(report)

    def close(self) -> None:
        """Print the table and the counts."""
        reports = self._reports
        if len(reports) > _MANY and not self._verbose:
            reports = [
                one
                for one in reports
                if not (is_other(one) or one.status is Status.CLEAN)
            ]
        if reports:
            self._console.print(self._table(reports))
        if not self._quiet:
            self._console.print(Text(f"  {self._tally.sentence()}", style="bold"))

    def _table(self, reports: list[FileReport]) -> Table:
        """Return a row a file."""
        table = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False)
        table.add_column("file", overflow="fold", ratio=3)
        table.add_column("verdict", no_wrap=True)
        table.add_column("findings", overflow="fold", ratio=5)
        for report in reports:
            table.add_row(
                Text(shown(report.path)), _verdict(report), self._findings(report)
            )
        return table

    def _findings(self, report: FileReport) -> Text:
        """Return the most alarming findings of a file, or what else there is to say."""
        findings, _ = worth_showing(report, verbose=self._verbose)
        if not self._verbose:
            findings = sorted(findings, key=_rank)[:_IN_TABLE]
        if not findings:
            said = report.read_error or report.format
            return Text(shown(said), style="dim")
        limit = 0 if self._verbose else _SHORT
        text = Text("\n").join([_finding(finding, limit) for finding in findings])
        more = len(report.findings) - len(findings)
        if more and report.status is not Status.CLEAN:
            text.append(f"\n{more:,} more: --verbose", style="dim")
        return text


def _rank(finding: Finding) -> int:
    return _RANK[finding.severity]


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
            self._bar.add_task("scanning", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
