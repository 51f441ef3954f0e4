"""What a report says, in a few words; shared by every form it is printed in."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safemodel.reports import DisarmReport, Finding, LeftBehind

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_FORMS = {
    "pt": "torch zip archive",
    "npz": "npz archive",
    "zip": "zip archive of models",
    "json": "JSON text",
    "text": "plain text",
}
_WORST_FIRST = ("danger", "warning", "info")
_THOUSANDTH = Decimal("0.001")


def shown(text: str) -> str:
    r"""Return text with everything escaped that a terminal might act on.

    >>> shown("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text
    )


def size_text(count: int) -> str:
    """Return a number of bytes for people.

    >>> size_text(1023), size_text(1024), size_text(3 << 30)
    ('1,023 bytes', '1.0 KiB', '3.0 GiB')
    """
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:,.1f} {_UNITS[unit]}" if unit else count_text(count, "byte")


def time_text(seconds: int) -> str:
    """Return a time of the calendar for people.

    >>> time_text(1798761600), time_text(1 << 62)
    ('2027-01-01 00:00 UTC', '4,611,686,018,427,387,904 seconds after 1970')
    """
    from datetime import UTC, datetime

    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:,} seconds after 1970"


def count_text(count: int, noun: str, nouns: str = "") -> str:
    """Return a number and what it counts.

    >>> count_text(1, "tensor"), count_text(2000, "tensor")
    ('1 tensor', '2,000 tensors')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def form_text(out_format: str) -> str:
    """Return what is written, in the words for what is read."""
    return _FORMS.get(out_format, out_format)


def place(finding: Finding) -> str:
    """Return where a finding is: record and byte."""
    if finding.position is None:
        return finding.record
    return f"{finding.record}@{finding.position}"


def what(finding: Finding, limit: int = 0) -> str:
    """Return what a finding says, the arguments behind the name they belong to.

    Args:
        finding: The finding.
        limit: Characters of arguments to show; 0 for all there are.
    """
    arguments, name = finding.arguments, finding.name
    if not arguments:
        return finding.message
    if limit and len(arguments) > limit:
        arguments = arguments[: limit - 3] + "..."
    if name and name in finding.message:
        return finding.message.replace(name, name + arguments, 1)
    return f"{finding.message}: {arguments}"


def finding_line(finding: Finding) -> str:
    """Return a finding and, in brackets, where it is."""
    where = f"{place(finding)} {finding.opcode}".strip()
    at = f"  [{where}]" if where else ""
    return f"  {finding.severity.value:<8}{shown(what(finding) + at)}"


def together(parts: Iterable[str]) -> str:
    """Return phrases as one.

    >>> together(["2 calls", "1 name"]), together(["a", "b", "c"])
    ('2 calls and 1 name', 'a, b and c')
    """
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def with_parts(report: DisarmReport) -> list[DisarmReport]:
    """Return a report and those of all its parts, in order."""
    found, todo = [], [report]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += reversed(one.parts)
    return found


def worst_within(report: DisarmReport) -> str:
    """Return the most alarming severity of what was removed; "" for nothing."""
    every = with_parts(report)
    found = {finding.severity.value for each in every for finding in each.removed}
    return next((one for one in _WORST_FIRST if one in found), "")


def findings_text(findings: Sequence[Finding]) -> str:
    """Return how many calls and names there are among findings; "" for none."""
    calls = sum(bool(one.opcode and one.arguments) for one in findings)
    names = sum(bool(one.opcode and not one.arguments) for one in findings)
    fields = sum(one.code == "code-field" for one in findings)
    others = len(findings) - calls - names - fields
    counts = (
        (calls, "call", "calls"),
        (names, "name", "names"),
        (fields, "field that loads code", "fields that load code"),
        (others, "other finding", "other findings"),
    )
    said = [count_text(*each) for each in counts if each[0]]
    return together(said) if said else ""


def removed_text(report: DisarmReport) -> str:
    """Return how many calls and names were removed, parts included; "" for none."""
    every = with_parts(report)
    return findings_text([finding for each in every for finding in each.removed])


def kept_text(report: DisarmReport) -> str:
    """Return how many tensors were kept, and whether bit for bit."""
    tensors = [one for each in with_parts(report) for one in each.tensors]
    kept = f"{count_text(len(tensors), 'tensor')} kept"
    scrubbed = [one.scrubbed_bits for one in tensors if one.scrubbed_bits]
    if not tensors:
        return kept
    if not scrubbed:
        return f"{kept} bit for bit"
    low, high = min(scrubbed), max(scrubbed)
    bits = f"{low} to {high}" if low < high else f"{high}"
    if len(scrubbed) < len(tensors):
        others = len(tensors) - len(scrubbed)
        return (
            f"{kept}: {len(scrubbed):,} with {bits} low bits overwritten,"
            f" {others:,} bit for bit"
        )
    return f"{kept}, with {bits} low bits overwritten"


def left_text(report: DisarmReport) -> str:
    """Return how much was left behind, and how many models of it; "" for nothing."""
    things = [one for each in with_parts(report) for one in things_left(each)]
    if not things:
        return ""
    size = size_text(sum(one.size for one in things))
    said = f"{count_text(len(things), 'thing')} left behind ({size})"
    refused = sum(one.kind == "refused" for one in things)
    return f"{said}, {refused:,} refused" if refused else said


def became_text(report: DisarmReport) -> str:
    """Return how many values became plain data; "" for none."""
    count = sum(sum(each.changed.values()) for each in with_parts(report))
    return f"{count_text(count, 'value')} became plain data" if count else ""


def things_left(report: DisarmReport) -> list[LeftBehind]:
    """Return what was left behind, but for the headers that every archive has."""
    return [one for one in report.left_behind if one.kind != "headers"]


def verdict_text(report: DisarmReport) -> str:
    """Return in a sentence what came of it."""
    removed = removed_text(report)
    said = [
        f"{removed} removed" if removed else "no call and no name to remove",
        kept_text(report),
        left_text(report),
        became_text(report),
    ]
    sentence = "; ".join(one for one in said if one) + "."
    return sentence[0].upper() + sentence[1:]


def score_text(score: float) -> str:
    """Return a score with three digits, rounded down.

    So what is below a threshold of few digits is never shown as if it had reached it.
    """
    return str(Decimal(repr(score)).quantize(_THOUSANDTH, ROUND_FLOOR))
