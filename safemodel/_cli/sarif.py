"""Reports as SARIF 2.1.0, the format code-scanning services read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote as quote_uri

from safemodel._cli.text import place, shown, what
from safemodel.reports import Severity, Status

if TYPE_CHECKING:
    from safemodel.reports import FileReport, Finding

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {
    Severity.INFO: "note",
    Severity.WARNING: "warning",
    Severity.DANGER: "error",
}
RULES = {
    "forbidden-global": "A pickle names a global outside the allowlist.",
    "inert-global": "A pickle that safe_load never reads names a global.",
    "forbidden-call": "An allowed global is used with arguments outside its schema.",
    "forbidden-opcode": "A pickle uses an opcode that reaches outside the file.",
    "limit-exceeded": "The file asks for more than the limits allow.",
    "malformed": "The file is not well-formed.",
    "truncated": "The file ends before what it announces.",
    "storage-bounds": "A tensor or storage reaches past the bytes it has.",
    "checksum": "The bytes of a record do not match its CRC-32.",
    "unsupported-format": "The file is of a format that safemodel does not read.",
    "container": "The archive breaks a rule; readers may disagree about it.",
    "polyglot": "Another archive is appended to the file.",
    "bytes-after-end": "Bytes follow the end of what safe_load reads.",
    "nested-too-deep": "Archives are nested deeper than is looked into.",
    "not-scanned": "A part of the file was not looked into.",
    "more-findings": "Not every finding is listed.",
    "code": "The archive holds Python code, which safe_load never reads.",
}


class SarifOutput:
    """Collects results; writes one run at the end."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._results: list[dict[str, Any]] = []
        self._notifications: list[dict[str, Any]] = []
        self._index = {code: at for at, code in enumerate(RULES)}

    def add(self, report: FileReport) -> None:
        """Take a report."""
        uri = _uri(report.path)
        if report.status is Status.UNREADABLE:
            self._notifications.append(
                {
                    "level": "error",
                    "message": {"text": f"cannot be read: {report.read_error}"},
                    "locations": [_location(uri)],
                }
            )
        self._results += [self._result(finding, uri) for finding in report.findings]

    def _result(self, finding: Finding, uri: str) -> dict[str, Any]:
        """Return one finding as a result."""
        return {
            "ruleId": finding.code,
            "ruleIndex": self._index[finding.code],
            "level": _LEVELS[finding.severity],
            "message": {"text": shown(what(finding))},
            "locations": [_location(uri, finding)],
            "properties": {
                key: value
                for key, value in finding.to_dict().items()
                if key in ("name", "arguments", "opcode", "record", "position")
                and value not in ("", None)
            },
        }

    def close(self) -> None:
        """Write the document."""
        from safemodel import __version__

        rules = [
            {"id": code, "shortDescription": {"text": text}}
            for code, text in RULES.items()
        ]
        driver = {"name": "safemodel", "version": __version__, "rules": rules}
        invocation = {
            # False only where the tool could not do its work on some file.
            "executionSuccessful": not self._notifications,
            "toolExecutionNotifications": self._notifications,
        }
        document = {
            "$schema": _SCHEMA,
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {"driver": driver},
                    "columnKind": "unicodeCodePoints",
                    "invocations": [invocation],
                    "results": self._results,
                }
            ],
        }
        json.dump(document, self._file, indent=1)
        self._file.write("\n")


def _uri(path: str) -> str:
    """Return a path as a URI reference, relative where the path is."""
    uri = quote_uri(os.fsencode(path).replace(os.sep.encode(), b"/"))
    return f"file://{uri}" if uri.startswith("/") else uri


def _location(uri: str, finding: Finding | None = None) -> dict[str, Any]:
    """Return where something is: the file, and the record in it."""
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    location: dict[str, Any] = {"physicalLocation": physical}
    if finding is not None and finding.record:
        location["logicalLocations"] = [{"fullyQualifiedName": place(finding)}]
    elif finding is not None and finding.position is not None:
        physical["region"] = {"byteOffset": finding.position}
    return location
