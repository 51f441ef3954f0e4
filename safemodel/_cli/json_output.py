"""Reports as one JSON document, written as they come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from safemodel._cli.summary import Tally
from safemodel.reports import SCHEMA_VERSION

if TYPE_CHECKING:
    from safemodel.reports import FileReport


class JsonOutput:
    """Writes ``{"schema", "files": [...], "summary": {...}}``; see docs/scan.md."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._tally = Tally()
        self._between = ""
        file.write(f'{{"schema": {SCHEMA_VERSION}, "files": [\n')

    def add(self, report: FileReport) -> None:
        """Write a report."""
        self._tally.add(report)
        self._file.write(self._between + report.to_json())
        self._between = ",\n"

    def close(self) -> None:
        """Write the counts."""
        counts = {status.value: n for status, n in self._tally.counts.items()}
        summary = {**counts, "no model": self._tally.others,
                   "exit_code": self._tally.exit_code}  # fmt: skip
        self._file.write(f'\n], "summary": {json.dumps(summary)}}}\n')
