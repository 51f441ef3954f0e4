"""What `detect` found, as a page of HTML: a verdict, and where to look.

`pages` says by which rules. Pictures are PNG that were made here, within the page.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._report.detect_text import (
    changes_text,
    p_text,
    remedy_text,
    room_text,
    share_text,
)
from safemodel._report.pages import Cell, Table, filled_in, plain, table
from safemodel._report.png import data_uri, png
from safemodel._report.words import count_text, score_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safemodel._report.pictured import Mark, Near, Pictured, Pixels

_ROWS = 50
_MOST_FILES = 500
_REMEDIES = 8
_ROOMS = 50


class Row(NamedTuple):
    """A tensor in the list of them, with a pixel a bit."""

    name: str
    facts: str
    against: str
    is_suspicious: bool
    bits: int
    low: str
    picture: str
    says: str


class Drawing(NamedTuple):
    """A picture, and what it shows in words.

    Attributes:
        picture: As an address.
        says: What it shows.
        label: What stands below it.
        is_marked: Whether it is part of the evidence.
    """

    picture: str
    says: str
    label: str = ""
    is_marked: bool = False


class Drawn(NamedTuple):
    """A tensor with all its pictures.

    Attributes:
        name: Of the tensor.
        facts: In a line.
        is_suspicious: Whether there is evidence against it.
        where: Where the evidence is, in words.
        bits: Of a number.
        fields: What they are, the highest first, and which part of them each is.
        low: Part of them, the lowest, that seem to be replaced.
        map: Bits along the tensor.
        column: What a column of it is.
        last: What is at its right edge.
        marks: Left edges and widths, in percent.
        begins: Left edges, in percent.
        planes: Bit by bit.
        near: A byte each.
        stretch: What they show.
        near_marks: Upper edges and heights, in percent.
    """

    name: str
    facts: str
    is_suspicious: bool
    where: str
    bits: int
    fields: tuple[tuple[str, str], ...]
    low: str
    map: Drawing
    column: str
    last: str
    marks: tuple[tuple[str, str], ...]
    begins: tuple[str, ...]
    planes: tuple[Drawing, ...]
    near: tuple[Drawing, ...]
    stretch: str
    near_marks: tuple[tuple[str, str], ...]


class Section(NamedTuple):
    """What a page says of one file."""

    path: str
    is_suspicious: bool
    verdict: str
    comment: str
    note: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    blind: str
    rooms: list[str]
    remedies: list[tuple[str, str]]
    left: str
    rows: list[Row]
    rows_more: int
    drawn: list[Drawn]


def page(found: Any, pictured: Sequence[Pictured] = ()) -> str:
    """Return what was found in one file as a page of HTML."""
    return page_of([], [section(found, pictured)], 1)


def page_of(
    rows: Sequence[tuple[str, ...]], sections: list[Section], files: int
) -> str:
    """Return what was found in files as a page.

    Args:
        rows: Of each file, if there are several: path, verdict, what speaks against it,
            and its blind spot. The most alarming come first.
        sections: What is said of some of them in full.
        files: How many there are.
    """
    from safemodel._version import VERSION

    first = sections[0].path if len(sections) == 1 == files else ""
    named = first or count_text(files, "file")
    suspicious = sum(row[1] == "suspicious" for row in rows)
    summary = table(
        "files", "Files", "What was found in each, the most alarming first.",
        ("File", "Verdict", "Because", "Blind spot"), rows,
        [
            (Cell(row[0], "name"), Cell(row[1], "danger" if row[1] == "suspicious"
             else ""), Cell(row[2]), Cell(row[3], "number"))
            for row in rows[:_MOST_FILES]
        ],
        "There was none.",
    )  # fmt: skip
    return filled_in(
        "detect.html",
        title=plain(f"Detection report: {named}"),
        name=named.rstrip("/").rpartition("/")[2] or named,
        is_many=files != 1 or not sections,
        summary=summary,
        suspicious=suspicious,
        files=files,
        sections=sections,
        version=VERSION,
    )


def section(found: Any, pictured: Sequence[Pictured] = (), note: str = "") -> Section:
    """Return what a page says of one file.

    Args:
        found: What was found.
        pictured: Its weights.
        note: Why there are no pictures.
    """
    spot = found.blind_spot
    is_suspicious = found.verdict.value == "suspicious"
    return Section(
        path=found.path or "no path",
        is_suspicious=is_suspicious,
        verdict=_verdict(found) if is_suspicious else "NO EVIDENCE of hidden data",
        comment=_comment(found),
        note=note,
        facts=list(_facts(found)),
        tables=[_evidence(found), *([_candidates(found)] if found.candidates else [])],
        blind=f"Up to {size_text(spot.bytes)} of encrypted data could lie in this file"
        " and no test would see it.",
        rooms=[
            room_text(one)
            for one in sorted(spot.rooms, key=lambda one: -one.bytes)[:_ROOMS]
            if one.bytes
        ],
        remedies=[
            (one.command or one.call, remedy_text(
                one, spot.bytes, is_cure=0 < found.bits <= one.bits))
            for one in spot.remedies[:_REMEDIES]
        ],
        left=size_text(spot.left) if spot.left else "",
        rows=[_row(found.by_tensor[one.at], one) for one in pictured],
        rows_more=len(found.by_tensor) - len(pictured),
        drawn=[
            _drawn(found.by_tensor[one.at], one)
            for one in sorted(pictured, key=lambda one: _order(found, one))
            if one.map
        ],
    )  # fmt: skip


def _order(found: Any, one: Pictured) -> tuple[bool, float, int]:
    tensor = found.by_tensor[one.at]
    return not tensor.suspicious, tensor.p_value, one.at


def _verdict(found: Any) -> str:
    bits = f" in about {count_text(found.bits, 'low bit')} of each weight"
    return f"SUSPICIOUS: data seems to be hidden{bits if found.bits else ''}"


def _comment(found: Any) -> str:
    """Return what the verdict means, and what it does not."""
    score = f"Score {score_text(found.score)}, threshold {found.threshold:g}."
    if found.verdict.value == "suspicious":
        named = sum(one.suspicious for one in found.by_tensor)
        where = f" in {named:,} of {count_text(len(found.by_tensor), 'tensor')}"
        return f"{score} What speaks for it is{where if named else ''} below."
    unseen = size_text(found.blind_spot.bytes)
    return (
        f"{score} That is no proof that nothing is hidden: up to {unseen} of encrypted"
        " data could lie here unseen."
    )


def _facts(found: Any) -> Iterator[tuple[str, str]]:
    rate = found.false_positive_rate
    never = "never calibrated"
    yield "File", f"{found.format}, {size_text(found.size)}"
    yield "Tensors", f"{len(found.by_tensor):,}"
    if found.reference or found.changes:
        yield "Reference", changes_text(found)
    yield (
        "False alarms",
        never if rate is None else f"{share_text(rate)} of clean files",
    )
    yield "Detector", f"{found.detector_id}, safemodel {found.version}"
    yield "Time", f"{found.seconds:,.3f} s"


def _evidence(found: Any) -> Table:
    """Return what was found where: a row a place, its strongest test, the others."""
    places: dict[tuple[str, int, int], list[Any]] = {}
    for one in found.evidence:
        places.setdefault((one.tensor, one.start, one.end), []).append(one)
    return table(
        "evidence", "Evidence", "What clean weights would hardly give: where, by the"
        " strongest test, and which tests agree. The p-value is the chance that a clean"
        " file gives this anywhere, at most, corrected for all tests of the file.",
        ("Tensor", "Numbers", "What was found", "Bits", "Statistic", "p-value"),
        list(places),
        [_evidence_row(tests) for tests in islice(places.values(), _ROWS)],
        "No test found any.",
    )  # fmt: skip


def _evidence_row(tests: list[Any]) -> tuple[Cell, ...]:
    """Return a row for the tests of one place, the strongest first."""
    one = tests[0]
    names = ", ".join(dict.fromkeys(each.test for each in tests))
    bits = max(each.bits for each in tests)
    p_value = f"{one.p_value:.2g}" if one.p_value >= 1e-300 else "< 1e-300"
    return (
        Cell(one.tensor or "whole file", "name"), Cell(_range(one)),
        Cell(f"{one.what} ({names})"), Cell(str(bits or "unknown")),
        Cell(f"{one.statistic:,.4g}", "number"), Cell(p_value, "number"),
    )  # fmt: skip


def _candidates(found: Any) -> Table:
    """Return what hidden data begins like."""
    return table(
        "candidates", "What it begins like", "Places from which low bits read like a"
        " file. Nothing was taken out or run; --extract writes the bytes.",
        ("Format", "Tensor", "From", "Bits", "Length"),
        found.candidates,
        [
            (Cell(one.kind), Cell(one.tensor, "name"), Cell(f"{one.start:,}"),
             Cell(f"{one.bits}, {one.order}"),
             Cell(size_text(one.length) if one.length else "not said", "number"))
            for one in found.candidates[:_ROWS]
        ],
        "There was none.",
    )  # fmt: skip


def _range(one: Any) -> str:
    return f"{one.start:,} to {one.end:,}" if one.end else "all"


def _row(tensor: Any, one: Pictured) -> Row:
    return Row(
        name=tensor.name,
        facts=f"{count_text(tensor.size, 'number')}, {tensor.dtype}, {tensor.role}",
        against=p_text(tensor.p_value) if tensor.suspicious else "",
        is_suspicious=tensor.suspicious,
        bits=one.bits,
        low=_percent(min(tensor.bits, one.bits) / one.bits) if tensor.bits else "",
        picture=_address(one.row),
        says=f"bits {one.bits - 1} to 0 of all numbers of {plain(tensor.name)}",
    )


def _drawn(tensor: Any, one: Pictured) -> Drawn:
    """Return a tensor with its pictures, and words for all of them."""
    name = plain(tensor.name)
    where = _where(one.marks, one, tensor)
    low = min(tensor.bits, one.bits)
    against = p_text(tensor.p_value) if tensor.suspicious else "no evidence"
    return Drawn(
        name=tensor.name,
        facts=f"{count_text(tensor.size, 'number')}, {tensor.dtype}, {tensor.role};"
        f" {against}",
        is_suspicious=tensor.suspicious,
        where=where,
        bits=one.bits,
        fields=tuple((said, _percent(many / one.bits)) for said, many in one.fields),
        low=_percent(low / one.bits) if low else "",
        map=Drawing(
            _address(one.map or one.row),
            f"bits {one.bits - 1} (top) to 0 (bottom) along {name}; {where}",
        ),
        column=count_text(one.column, "number"),
        last=f"{tensor.size:,}",
        marks=_edges(one.marks),
        begins=tuple(_percent(mark.start) for mark in one.begins),
        planes=tuple(
            Drawing(
                _address(plane.picture),
                f"bit {plane.bit} of {name}, {plane.share:.1%} ones",
                f"bit {plane.bit}",
                plane.bit < low,
            )
            for plane in one.planes
        ),
        near=() if one.near is None else tuple(_near(one.near, name)),
        stretch="" if one.near is None else f"{one.near.start:,} to {one.near.end:,}",
        near_marks=() if one.near is None else _edges(one.near.marks),
    )


def _near(near: Near, name: str) -> Iterator[Drawing]:
    for label, picture in near.parts:
        said = f"{label} of numbers {near.start:,} to {near.end:,} of {name}"
        yield Drawing(_address(picture), said, label)


def _address(picture: Pixels) -> str:
    """Return a picture as an address that holds all of it."""
    return data_uri(png(picture.levels, picture.width, depth=picture.depth))


def _where(marks: Sequence[Mark], one: Pictured, tensor: Any) -> str:
    """Return in words where the evidence is."""
    if not marks:
        return "no evidence points here"
    many = one.column * max(-(-tensor.size // one.column), 1)
    if len(marks) == 1 and marks[0].start == 0 and marks[0].end * many >= tensor.size:
        return "evidence about all of it"
    said = [
        f"{round(mark.start * many):,} to {min(round(mark.end * many), tensor.size):,}"
        for mark in marks[:3]
    ]
    more = f" and {len(marks) - 3:,} more stretches" if len(marks) > 3 else ""
    return f"evidence from {', '.join(said)}{more}"


def _edges(marks: Sequence[Mark]) -> tuple[tuple[str, str], ...]:
    return tuple((_percent(one.start), _percent(one.end - one.start)) for one in marks)


def _percent(part: float) -> str:
    return f"{100 * part:.3f}%"
