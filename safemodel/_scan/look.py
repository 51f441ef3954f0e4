"""A whole file: the verdict of `safe_load`, and every pickle there is in the file.

The verdict is that of the check itself (`recording`). What follows looks further:
into records and bytes that `safe_load` never reads, because another reader may.

Rules:

1. Nothing here refuses or accepts; it only adds findings.
2. Bytes of tensors are not read, unless their checksums are asked for: of each record
   the first few, and more only of what starts like a pickle or an archive.
3. What is parsed beyond the check is bounded by a multiple of the file, and archives
   within archives by `Limits.max_nesting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.sniff import (
    HEAD_BYTES,
    Format,
    describe_unknown,
)
from safemodel._scan.containers import ContainerLook
from safemodel._scan.recording import check_file
from safemodel._scan.render import one_line
from safemodel._scan.verdict import MAX_MESSAGE, findings_of_error
from safemodel.reports import FileReport, Finding, Severity

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._scan.recording import RecordingReading
    from safemodel.errors import SafeModelError
    from safemodel.limits import Limits
    from safemodel.policy import Policy
    from safemodel.reports import TensorInfo


def look_at(
    source: Source,
    *,
    path: str,
    policy: Policy,
    limits: Limits,
    tensors: bool,
    checksums: bool,
) -> FileReport:
    """Return everything there is to say about an open file.

    Args:
        source: The file.
        path: What to call it.
        policy: Decides what is refused.
        limits: Bounds.
        tensors: Whether to list tensors and unreachable storages.
        checksums: Whether to read the bytes of storages, and compare their CRC-32.

    Raises:
        OSError: Reading failed.
    """
    reading, graph, error = check_file(
        source, policy=policy, limits=limits, checksums=checksums
    )
    try:
        listed = _tensors(graph if tensors else None)
        return _report(source, reading, error, listed, path, policy, limits)
    finally:
        reading.close()


def look_through(
    source: Source,
    reading: RecordingReading,
    *,
    path: str,
    policy: Policy,
    limits: Limits,
) -> FileReport:
    """Return the same of a file that the check has passed, without checking it again.

    Raises:
        OSError: Reading failed.
    """
    return _report(source, reading, None, _tensors(None), path, policy, limits)


def _report(
    source: Source,
    reading: RecordingReading,
    error: SafeModelError | None,
    listing: tuple[tuple[TensorInfo, ...], tuple[str, ...], list[Finding]],
    path: str,
    policy: Policy,
    limits: Limits,
) -> FileReport:
    """Look into everything, and put it together with what the check said."""
    look = ContainerLook(reading, error, policy, limits, source.size)
    form = look.whole_file(source)
    findings = look.findings
    message = None
    if error is not None:
        message = one_line(str(error), MAX_MESSAGE)
        findings = findings + findings_of_error(error, reading.parsed, findings)
    listed, unreachable, more = listing
    return FileReport(
        path=path,
        format=_format_name(form, reading, source),
        size=source.size,
        refused=error is not None,
        error=None if error is None else type(error).__name__,
        error_message=message,
        findings=tuple(findings + more),
        globals=tuple(look.names),
        tensors=listed,
        unreachable=unreachable,
    )


def _tensors(
    graph: TensorGraph | None,
) -> tuple[tuple[TensorInfo, ...], tuple[str, ...], list[Finding]]:
    """Return the tensors of a graph, storages nothing uses, and what is left out."""
    if graph is None:
        return (), (), []
    # Only `inspect` lists tensors; a scan does not pay for the import.
    from safemodel._scan.tensors import MAX_REPEATED, Listing

    listing = Listing(graph)
    more = listing.repeated - MAX_REPEATED
    findings = []
    if more > 0:
        message = f"{more:,} more names of tensors that have one are not listed"
        findings = [
            Finding(severity=Severity.INFO, code="more-findings", message=message)
        ]
    return tuple(listing.tensors), listing.unreachable, findings


def _format_name(form: Format, reading: RecordingReading, source: Source) -> str:
    """Return what the file is, in words."""
    form = reading.forms.get("", form)
    if form is Format.UNKNOWN:
        head = source.read(0, min(source.size, HEAD_BYTES))
        return describe_unknown(head, source.size)
    return str(form.value)
