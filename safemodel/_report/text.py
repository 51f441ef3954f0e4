"""The report of `disarm` as lines of text, for a terminal, a pipe or a log."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from safemodel._report.words import (
    count_text,
    finding_line,
    findings_text,
    form_text,
    shown,
    size_text,
    things_left,
    verdict_text,
    worst_within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.reports import DisarmReport, FileDigests, LeftBehind

_MOST_FINDINGS = 20
_MOST_OTHERS = 5
_LONGEST = 80
_LABEL = 13


def report_lines(report: DisarmReport) -> Iterator[tuple[str, str]]:
    """Yield lines, and before each what it is: its name here or a severity.

    What was read and written comes first, and the verdict last, next to the prompt.
    """
    yield from _file("before", report.path or "a buffer", report.format, report.source)
    yield from _file("after", report.out, form_text(report.out_format), report.result)
    yield from _findings(report)
    yield from _parts(report)
    if things := things_left(report):
        yield _labelled("left behind", count_text(len(things), "thing"))
        yield from (("", _left(one)) for one in things[:_MOST_OTHERS])
        yield from _more(len(things) - _MOST_OTHERS)
    if report.opaque:
        names = {one.name: 0 for one in report.opaque}
        for one in report.opaque:
            names[one.name] += 1
        yield _labelled("opaque", _counts(names))
    if report.changed:
        yield _labelled("plain data", _counts(report.changed))
    yield "verdict", verdict_text(report)


def _labelled(label: str, text: str) -> tuple[str, str]:
    return "label", f"{label:<{_LABEL}}{text}"


def _file(
    label: str, path: str, form: str, digests: FileDigests
) -> Iterator[tuple[str, str]]:
    """Yield what one file is."""
    size = size_text(digests.size)
    yield _labelled(label, f"{shown(path)}: {shown(form)}, {size}")
    if digests.sha256:
        yield "quiet", f"{'  sha256':<{_LABEL}}{shown(digests.sha256)}"


def _findings(report: DisarmReport) -> Iterator[tuple[str, str]]:
    """Yield what was found: what was removed, then the container, then the rest."""
    left = _MOST_FINDINGS
    every = {
        "removed": report.removed, "anomalies": report.anomalies, "notes": report.notes,
    }  # fmt: skip
    for label, findings in every.items():
        if not findings:
            continue
        count = findings_text(findings) if label == "removed" else f"{len(findings):,}"
        yield _labelled(label, count)
        for finding in findings[:left]:
            yield finding.severity.value, finding_line(finding)
        yield from _more(len(findings) - left)
        left -= min(left, len(findings))


def _parts(report: DisarmReport) -> Iterator[tuple[str, str]]:
    """Yield what became of the files of a folder, a line each."""
    if not report.parts:
        return
    yield _labelled("files", f"{len(report.parts):,}")
    for part in report.parts[:_MOST_FINDINGS]:
        yield worst_within(part), f"  {shown(part.out)}: {verdict_text(part)}"
    yield from _more(len(report.parts) - _MOST_FINDINGS)


def _more(count: int) -> Iterator[tuple[str, str]]:
    if count > 0:
        yield "", f"  ... {count:,} more; the JSON report has all"


def _left(one: LeftBehind) -> str:
    name = f" {shown(one.name[:_LONGEST])}" if one.name else ""
    size = f", {size_text(one.size)}" if one.size else ""
    return f"  {shown(one.kind)}{name}: {shown(one.why)}{size}"


def _counts(names: dict[str, int]) -> str:
    """Return the first of them, with how often each one was there."""
    said = ", ".join(
        f"{shown(name[:_LONGEST])} ({count:,})"
        for name, count in islice(names.items(), _MOST_OTHERS)
    )
    more = len(names) - _MOST_OTHERS
    return f"{said} and {more:,} more kinds" if more > 0 else said
