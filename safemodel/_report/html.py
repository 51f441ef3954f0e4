"""The report of `disarm` as a page of HTML: one file, for a ticket.

`pages` says by which rules.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from safemodel._report.pages import Cell, Table, filled_in, plain, table
from safemodel._report.words import (
    form_text,
    kept_text,
    left_text,
    removed_text,
    size_text,
    things_left,
    verdict_text,
    what,
    with_parts,
    worst_within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.reports import DisarmReport, FileDigests, Finding

_ROWS = 200
_ROWS_OF_A_PART = 20
_PARTS = 200
_PARTS_IN_DETAIL = 50


class Section(NamedTuple):
    """What one report says: of the whole, or of a part."""

    path: str
    out: str
    verdict: str
    worst: str
    facts: list[tuple[str, str, str]]
    tables: list[Table]
    digests: list[tuple[str, str, str]]


def page(report: DisarmReport) -> str:
    """Return a report as a page of HTML."""
    every = with_parts(report)
    parts = every[1:]
    return filled_in(
        "disarm.html",
        title=plain(f"Disarm report: {report.path or report.out}"),
        name=(report.path or "a buffer").rstrip("/").rpartition("/")[2],
        whole=_section(report, _ROWS),
        weights=_weights(every),
        parts=_parts_table(parts) if parts else None,
        details=[_section(part, _ROWS_OF_A_PART) for part in parts[:_PARTS_IN_DETAIL]],
        details_more=max(len(parts) - _PARTS_IN_DETAIL, 0),
        version=report.version,
        policy=report.policy,
        seconds=f"{report.seconds:,.3f} s",
    )


def _weights(every: list[DisarmReport]) -> str:
    """Return "scrubbed", "kept" or "none": which warning the page owes its reader."""
    tensors = [one for each in every for one in each.tensors]
    if any(one.scrubbed_bits for one in tensors):
        return "scrubbed"
    return "kept" if tensors else "none"


def _section(report: DisarmReport, most: int) -> Section:
    """Return what a report says, with so many rows a list."""
    tables = list(_tables(report, most))
    if report.parts:
        # What it says of nothing holds for the folder alone, and would mislead.
        tables = [one for one in tables if one.rows]
    return Section(
        path=report.path or "a buffer",
        out=report.out,
        verdict=verdict_text(report),
        worst=worst_within(report),
        facts=[
            ("Input", report.path or "a buffer", _facts(report.format, report.source)),
            ("Output", report.out, _facts(form_text(report.out_format), report.result)),
        ],
        tables=tables,
        digests=[
            (file, algorithm, digest)
            for file, digests in (("Input", report.source), ("Output", report.result))
            for algorithm, digest in (
                ("SHA-256", digests.sha256),
                ("BLAKE3", digests.blake3),
            )
            if digest
        ],
    )


def _facts(form: str, digests: FileDigests) -> str:
    size = size_text(digests.size)
    exact = f" ({digests.size:,} bytes)" if digests.size >= 1024 else ""
    return f"{form}, {size}{exact}"


def _tables(report: DisarmReport, most: int) -> Iterator[Table]:
    """Yield the tables of a report, in the order of the page."""
    yield _findings(
        "removed", "Removed", "Calls and names that the input would have had run or"
        " resolved.", report.removed, most, "No call and no name to remove was found.",
    )  # fmt: skip
    yield _findings(
        "anomalies", "Anomalies of the container", "What readers of the input may"
        " disagree about. The output has none of it.", report.anomalies, most,
        "None was found.",
    )  # fmt: skip
    if report.notes:
        yield _findings(
            "notes", "Notes", "Other findings.", report.notes, most, "None."
        )
    yield _left_table(report, most)
    yield from _data_tables(report, most)
    yield _tensors_table(report, most)


def _left_table(report: DisarmReport, most: int) -> Table:
    """Return what the output does not have."""
    things = things_left(report)
    around = sum(one.size for one in report.left_behind) - sum(
        one.size for one in things
    )
    anew = f" Headers, names and padding ({size_text(around)}) are written anew."
    return table(
        "left-behind", "Left behind",
        f"What the output does not have.{anew if around else ''}",
        ("Kind", "Name", "Bytes", "Why"),
        things,
        [
            (Cell(one.kind), Cell(one.name, "name"), Cell(f"{one.size:,}", "number"),
             Cell(one.why))
            for one in things[:most]
        ],
        "Nothing is listed.",
    )  # fmt: skip


def _data_tables(report: DisarmReport, most: int) -> Iterator[Table]:
    """Yield what became plain data."""
    yield table(
        "opaque", "Opaque, kept as data", "Objects of classes outside the allowlist,"
        " now dictionaries.", ("Class", "Where"), report.opaque,
        [(Cell(one.name, "name"), Cell(one.path, "name"))
         for one in report.opaque[:most]],
        "There was none.",
    )  # fmt: skip
    yield table(
        "changed", "Became plain data", "Kinds of values that the output cannot hold"
        " as they were.", ("Values", "Kind"), report.changed,
        [(Cell(f"{count:,}", "number"), Cell(kind, "name"))
         for kind, count in islice(report.changed.items(), most)],
        "There was none.",
    )  # fmt: skip


def _tensors_table(report: DisarmReport, most: int) -> Table:
    """Return the tensors that were kept."""
    return table(
        "tensors", "Tensors", "What was kept, in the order of the file, and how many"
        " low bits of each number were overwritten.",
        ("Name", "Dtype", "Shape", "Low bits"), report.tensors,
        [
            (Cell(one.name, "name"), Cell(one.dtype, "code"),
             Cell(" × ".join(map(str, one.shape)) or "scalar", "code"),
             Cell(str(one.scrubbed_bits), "number"))
            for one in report.tensors[:most]
        ],
        "There was none.",
    )  # fmt: skip


def _findings(
    anchor: str,
    title: str,
    caption: str,
    findings: tuple[Finding, ...],
    most: int,
    empty: str,
) -> Table:
    """Return findings as a table; those of a call have an opcode and are code."""
    calls = anchor == "removed"
    columns = ("Severity", "Finding", *(["Opcode"] if calls else []), "Record", "Byte")
    rows = [
        (
            Cell(one.severity.value, "severity"),
            Cell(what(one), "name" if calls else ""),
            *([Cell(one.opcode, "code")] if calls else []),
            Cell(one.record, "name"),
            Cell("" if one.position is None else f"{one.position:,}", "number"),
        )
        for one in findings[:most]
    ]
    return table(anchor, title, caption, columns, findings, rows, empty)


def _parts_table(parts: list[DisarmReport]) -> Table:
    """Return the summary of the files of a folder."""
    return table(
        "files", "Files", "What became of each file.",
        ("Severity", "Output", "Removed", "Kept", "Left behind", "Bytes"),
        parts,
        [
            (Cell(worst_within(one), "severity"), Cell(one.out, "name"),
             Cell(removed_text(one) or "nothing"),
             Cell(kept_text(one).replace(" kept", "", 1)),
             Cell(left_text(one).replace(" left behind", "") or "nothing"),
             Cell(f"{one.result.size:,}", "number"))
            for one in parts[:_PARTS]
        ],
        "There was none.",
    )  # fmt: skip
