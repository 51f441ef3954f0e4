"""Findings of a scan, told apart for a report of `disarm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel.reports import Finding

_REMOVED = frozenset(
    {"forbidden-global", "inert-global", "forbidden-call", "forbidden-opcode",
     "code-field"}
)  # fmt: skip
_ANOMALIES = frozenset({"container", "polyglot", "bytes-after-end", "nested-too-deep"})


class Findings(NamedTuple):
    """Findings by the member of `DisarmReport` that they belong to."""

    removed: tuple[Finding, ...]
    anomalies: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def sorted_out(findings: Iterable[Finding]) -> Findings:
    """Return findings told apart by their codes."""
    removed: list[Finding] = []
    anomalies: list[Finding] = []
    notes: list[Finding] = []
    for finding in findings:
        if finding.code in _REMOVED:
            removed.append(finding)
        elif finding.code in _ANOMALIES:
            anomalies.append(finding)
        else:
            notes.append(finding)
    return Findings(tuple(removed), tuple(anomalies), tuple(notes))
