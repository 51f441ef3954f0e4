"""Reports as SARIF 2.1.0, the format code-scanning services read.

Rules, beyond what the schema asks for (GitHub's code scanning does):

1. A rule has a short and a full description and a help text.
2. Paths are URIs, percent-encoded, and relative to the folder the scan was started in
   wherever they lie below it.
3. A result has one location and a fingerprint that survives other changes to the file:
   what was found and where, but not at which byte.
4. The message says where, since services that do not know bytes show nothing else. A
   line and a column of a binary file beside its byte would be invalid SARIF (3.30.4).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote as quote_uri

from safemodel._cli.summary import is_other
from safemodel._report.words import place, shown, what
from safemodel.reports import Severity, Status

if TYPE_CHECKING:
    from safemodel.reports import FileReport, Finding

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {
    Severity.INFO: "note",
    Severity.WARNING: "warning",
    Severity.DANGER: "error",
}
_BASE = "%SRCROOT%"
_HELP = (
    "Do not open the file with pickle or torch.load before you know why it has this."
    " `safemodel inspect FILE` shows what the file holds, and"
    " safe_load(FILE, weights_only=False) gives its data and runs nothing."
)
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
        self._here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118 - as text

    def add(self, report: FileReport) -> None:
        """Take a report; of what lies beside models, a code scan has nothing to say."""
        if is_other(report):
            return
        file = _artifact(report.path, self._here)
        if report.status is Status.UNREADABLE:
            self._notifications.append(
                {
                    "level": "error",
                    "message": {"text": f"cannot be read: {report.read_error}"},
                    "locations": [_location(file)],
                }
            )
        alike: Counter[str] = Counter()
        for finding in report.findings:
            digest = _digest(finding)
            alike[digest] += 1
            fingerprint = f"{digest}:{alike[digest]}"
            self._results.append(self._result(finding, file, fingerprint))

    def _result(
        self, finding: Finding, file: dict[str, str], fingerprint: str
    ) -> dict[str, Any]:
        """Return one finding as a result."""
        where = f"{place(finding)} {finding.opcode}".strip()
        said = what(finding) + f" [{where}]" * bool(where)
        return {
            "ruleId": finding.code,
            "ruleIndex": self._index[finding.code],
            "level": _LEVELS[finding.severity],
            "message": {"text": shown(said)},
            "locations": [_location(file, finding)],
            # The one name GitHub looks at; it says line for what has none.
            "partialFingerprints": {"primaryLocationLineHash": fingerprint},
            "properties": {
                key: value
                for key, value in finding.to_dict().items()
                if key in ("name", "arguments", "opcode", "record", "position")
                and value not in ("", None)
            },
        }

    def close(self) -> None:
        """Write the document."""
        from safemodel._version import VERSION

        rules = [_rule(code, text) for code, text in RULES.items()]
        driver = {"name": "safemodel", "version": VERSION, "rules": rules}
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
                    "originalUriBaseIds": {
                        _BASE: {"description": {"text": "Where the scan was started."}}
                    },
                    "invocations": [invocation],
                    "results": self._results,
                }
            ],
        }
        json.dump(document, self._file, indent=1)
        self._file.write("\n")


def _rule(code: str, text: str) -> dict[str, Any]:
    """Return the description of a kind of finding."""
    return {
        "id": code,
        "shortDescription": {"text": text},
        "fullDescription": {"text": text},
        "help": {"text": f"{text} {_HELP}"},
        "properties": {"tags": ["security"]},
    }


def _artifact(path: str, here: str) -> dict[str, str]:
    """Return a path as a location, relative to a folder if it lies below (rule 2)."""
    path = path.removeprefix(here)
    steps = [step for step in path.split("/") if step not in ("", ".")]
    uri = quote_uri(os.fsencode("/".join(steps)))
    if path.startswith("/"):
        return {"uri": f"file:///{uri}"}
    return {"uri": uri, "uriBaseId": _BASE}


def _digest(finding: Finding) -> str:
    """Return what stays the same when other parts of the file change (rule 3)."""
    known = (finding.code, finding.record, finding.name, finding.arguments)
    said = finding.message if not finding.name else ""
    return sha256(json.dumps((*known, said)).encode()).hexdigest()[:16]


def _location(file: dict[str, str], finding: Finding | None = None) -> dict[str, Any]:
    """Return where something is: the file, and the record in it."""
    physical: dict[str, Any] = {"artifactLocation": file}
    location: dict[str, Any] = {"physicalLocation": physical}
    if finding is not None and finding.record:
        location["logicalLocations"] = [{"fullyQualifiedName": place(finding)}]
    elif finding is not None and finding.position is not None:
        physical["region"] = {"byteOffset": finding.position}
    return location
