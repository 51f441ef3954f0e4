"""The error of the check → the finding that says so."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from safemodel._scan.danger import severity_of
from safemodel._scan.pickles import call_at
from safemodel._scan.render import (
    call_arguments,
    global_text,
    one_line,
    printable,
    record_name,
)
from safemodel._unpickle import opcodes as op
from safemodel.errors import (
    ChecksumError,
    ForbiddenCallError,
    ForbiddenGlobalError,
    ForbiddenOpcodeError,
    KeyRequiredError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.reports import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._scan.recording import Parsed

_CODES: dict[type[SafeModelError], str] = {
    ForbiddenGlobalError: "forbidden-global",
    ForbiddenCallError: "forbidden-call",
    ForbiddenOpcodeError: "forbidden-opcode",
    LimitExceededError: "limit-exceeded",
    MalformedFileError: "malformed",
    TruncatedFileError: "truncated",
    StorageBoundsError: "storage-bounds",
    ChecksumError: "checksum",
    UnsupportedFormatError: "unsupported-format",
    KeyRequiredError: "unsupported-format",
}
MAX_MESSAGE = 2000
_MAX_GLOBALS = 200


def findings_of_error(
    error: SafeModelError, parsed: Iterable[Parsed], found: Iterable[Finding]
) -> list[Finding]:
    """Return what an error adds to what has been found."""
    if isinstance(error, ForbiddenGlobalError):
        listed = {finding.name for finding in found}
        others = (one for one in error.globals if global_text(*one[:2]) not in listed)
        return [
            Finding(
                severity=severity_of(module, name),
                code="forbidden-global",
                message=f"names {global_text(module, name)}",
                name=global_text(module, name),
                record=record_name(record),
                position=position,
            )
            for module, name, record, position in islice(others, _MAX_GLOBALS)
        ]
    members: dict[str, Any] = {}
    if isinstance(error, ForbiddenCallError):
        members = _call_members(error, parsed)
    elif isinstance(error, ForbiddenOpcodeError):
        members = {"opcode": error.opcode}
    return [
        Finding(
            severity=Severity.WARNING,
            code=_CODES.get(type(error), "malformed"),
            message=one_line(Exception.__str__(error), MAX_MESSAGE),
            record=record_name(error.record),
            position=error.position,
            **members,
        )
    ]


def _call_members(
    error: ForbiddenCallError, parsed: Iterable[Parsed]
) -> dict[str, Any]:
    """Return name, arguments and opcode of a call outside its schema."""
    members: dict[str, Any] = {"name": printable(error.name)}
    for one in parsed:
        if one.record == error.record:
            call = call_at(one.pickle, error.position)
            if call is not None:
                members["arguments"] = call_arguments(call)
                members["opcode"] = op.OPCODE_NAMES[call.opcode]
                break
    return members
