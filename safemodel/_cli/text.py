"""Reports as plain text: a line a file, an indented line a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from safemodel._cli.summary import Tally, is_other
from safemodel._report.words import finding_line, shown
from safemodel.reports import FileReport, Finding, Severity, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_FINDINGS = 20


def verdict(report: FileReport) -> str:
    """Return what became of a file, in a few words."""
    if is_other(report):
        return f"no model ({report.format})"
    if report.read_error is not None:
        return f"unreadable ({report.read_error})"
    if report.status is Status.UNSUPPORTED:
        return f"unsupported ({unread_format(report)})"
    if report.refused:
        return f"refused ({report.error})"
    return f"clean ({report.format})"


def unread_format(report: FileReport) -> str:
    """Return what a file is that was not read: without its key, or at all."""
    is_protected = report.error == "KeyRequiredError"
    return "a protected file" if is_protected else report.format


def worth_showing(report: FileReport, *, verbose: bool) -> tuple[list[Finding], int]:
    """Return the findings to print, and how many more there are."""
    findings = list(report.findings)
    if verbose:
        return findings, 0
    if report.status is Status.UNSUPPORTED:
        # The verdict has said so already.
        findings = [one for one in findings if one.code != "unsupported-format"]
    if not report.refused:
        findings = [one for one in findings if one.severity is not Severity.INFO]
    return findings[:MAX_FINDINGS], max(len(findings) - MAX_FINDINGS, 0)


class TextOutput:
    """Writes reports as they come."""

    def __init__(self, file: TextIO, *, quiet: bool, verbose: bool) -> None:
        self._file = file
        self._quiet = quiet
        self._verbose = verbose
        self._tally = Tally()

    def add(self, report: FileReport) -> None:
        """Write a report."""
        self._tally.add(report)
        if self._quiet and (report.status is Status.CLEAN or is_other(report)):
            return
        self._file.writelines(f"{line}\n" for line in lines(report, self._verbose))

    def close(self) -> None:
        """Write the counts."""
        if not self._quiet:
            self._file.write(f"{self._tally.sentence()}\n")


def lines(report: FileReport, verbose: bool) -> Iterable[str]:
    """Yield the lines of a report."""
    yield f"{shown(report.path)}: {shown(verdict(report))}"
    findings, more = worth_showing(report, verbose=verbose)
    yield from map(finding_line, findings)
    if more:
        yield f"  ... {more:,} more findings; --verbose prints them"
