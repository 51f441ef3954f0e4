"""What `inspect` prints: aligned columns, the same on a terminal and in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._cli.text import worth_showing
from safemodel._report.words import count_text, finding_line, shown, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.reports import FileReport, TensorInfo

_WIDEST = 60


def inspect_lines(report: FileReport) -> Iterator[str]:
    """Yield everything there is to say about a file."""
    yield f"{shown(report.path)}: {shown(report.format)}, {size_text(report.size)}"
    if report.error is not None:
        yield f"  {report.error}: {shown(report.error_message or '')}"
    tensors = report.tensors
    if tensors:
        total = sum(tensor.nbytes for tensor in tensors)
        yield f"\n{count_text(len(tensors), 'tensor')}, {size_text(total)}"
        yield from _table(tensors)
    if report.unreachable:
        yield f"\n{count_text(len(report.unreachable), 'storage')} that nothing uses"
        yield from (f"  {shown(name)}" for name in report.unreachable)
    if report.globals:
        yield f"\n{count_text(len(report.globals), 'global')}"
        refused = {finding.name for finding in report.findings}
        for name in report.globals:
            yield f"  {shown(name)}" + ("  (outside the allowlist)" * (name in refused))
    findings, more = worth_showing(report, verbose=False)
    if findings:
        yield "\nfindings"
        yield from map(finding_line, findings)
        if more:
            yield f"  ... {more:,} more; --json lists all"


def _table(tensors: tuple[TensorInfo, ...]) -> Iterator[str]:
    """Yield a line a tensor, in columns."""
    rows = [
        (
            shown(tensor.name) or "(the whole result)",
            shown(tensor.dtype),
            "x".join(map(str, tensor.shape)) or "scalar",
            size_text(tensor.nbytes),
            "" if tensor.kind == "tensor" else shown(tensor.kind),
        )
        for tensor in tensors
    ]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()
