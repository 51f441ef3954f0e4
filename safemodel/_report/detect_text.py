"""What `detect` found, as lines of text, for a terminal, a pipe or a log."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from safemodel._report.words import count_text, score_text, shown, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 5
_LABEL = 13
_LONGEST = 80


def detection_lines(found: Any, most: int = _MOST) -> Iterator[tuple[str, str]]:
    """Yield lines, and before each what it is; the verdict comes last."""
    form = f"{shown(found.format)}, {size_text(found.size)}"
    yield _labelled("file", f"{shown(found.path or 'no path')}: {form}")
    if found.evidence:
        yield _labelled("evidence", _count(found.evidence, "test", "tests"))
        said = evidence_texts(found.evidence)
        for text, _ in said[:most]:
            yield "danger", f"  {text}"
        yield from _more(sum(tests for _, tests in said[most:]))
    named = [one for one in found.by_tensor if one.suspicious]
    if named:
        yield _labelled("tensors", _names(named, len(found.by_tensor), most))
    if found.candidates:
        yield _labelled("begins like", _count(found.candidates, "place", "places"))
        for one in found.candidates[:most]:
            yield "warning", f"  {candidate_text(one)}"
        yield from _more(len(found.candidates) - most)
    if found.changes:
        yield _labelled("reference", changes_text(found))
    yield from blind_spot_lines(found.blind_spot, found.bits)
    yield "verdict", verdict_text(found)


def verdict_text(found: Any) -> str:
    """Return what is to be said of a file in a sentence."""
    score = f"score {score_text(found.score)}, threshold {found.threshold:g}"
    if found.verdict.value == "suspicious":
        bits = f" in about {count_text(found.bits, 'low bit')} of each weight"
        return f"Suspicious{bits if found.bits else ''} ({score})."
    return f"No evidence ({score}). That is no proof: see the blind spot."


def short_text(found: Any) -> str:
    """Return what matters of a file in a few words."""
    blind = f"{size_text(found.blind_spot.bytes)} could be encrypted unseen"
    bits = f"{count_text(found.bits, 'low bit')}, " if found.bits else ""
    return f"{bits}score {score_text(found.score)} of {found.threshold:g}; {blind}"


def evidence_texts(evidence: Any) -> list[tuple[str, int]]:
    """Return what tests found, and how many of them say each."""
    same: dict[str, list[Any]] = {}
    for one in evidence:
        same.setdefault(evidence_text(one), []).append(one)
    return [(evidence_text(ones[0], len(ones)), len(ones)) for ones in same.values()]


def evidence_text(one: Any, tests: int = 1) -> str:
    """Return what one test found, or several the same, and where."""
    where = f"{shown(one.tensor[:_LONGEST])}" if one.tensor else "whole file"
    if one.end:
        where += f" from {one.start:,} to {one.end:,}"
    several = f"; {tests:,} tests" if tests > 1 else ""
    return f"{where}: {shown(one.what)} ({p_text(one.p_value)}{several})"


def p_text(p_value: float) -> str:
    """Return a p-value.

    >>> p_text(0.0), p_text(0.00012)
    ('p < 1e-300', 'p = 0.00012')
    """
    return f"p = {p_value:.2g}" if p_value >= 1e-300 else "p < 1e-300"


def candidate_text(one: Any) -> str:
    """Return what something hidden begins like, and where."""
    length = f", {size_text(one.length)}" if one.length else ""
    order = "" if one.order == "high-first" else ", lowest bit first"
    return (
        f"{shown(one.kind)}{length}: {shown(one.tensor[:_LONGEST])} from {one.start:,},"
        f" {count_text(one.bits, 'bit')} of each weight{order}"
    )


def changes_text(found: Any) -> str:
    """Return what became of the tensors of a reference, in a line."""
    counts: dict[str, int] = {}
    for one in found.changes:
        counts[one.state] = counts.get(one.state, 0) + 1
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    return f"{shown(found.reference or 'no path')}: {said}"


def blind_spot_lines(spot: Any, replaced: int = 0) -> Iterator[tuple[str, str]]:
    """Yield where encrypted data could lie unseen, and what takes it away."""
    size = size_text(spot.bytes)
    yield _labelled("blind spot", f"up to {size} of encrypted data could lie unseen")
    for room in sorted(spot.rooms, key=lambda one: -one.bytes):
        if room.bytes:
            yield "room", f"  {room_text(room)}"
    for remedy in spot.remedies:
        yield _labelled("remedy", shown(remedy.command))
        text = remedy_text(remedy, spot.bytes, is_cure=0 < replaced <= remedy.bits)
        yield "quiet", f"{'':<{_LABEL}}{text}"
    if spot.left:
        left = size_text(spot.left)
        yield "quiet", f"{'':<{_LABEL}}no scrub reaches {left} of it"


def room_text(room: Any) -> str:
    """Return one part of a blind spot in a line."""
    noun, after = {
        "weights": ("weight", ""),
        "untested": ("number", " that no test looks at"),
        "slack": ("word", " that no tensor reaches"),
    }[room.kind]
    what = count_text(room.numbers, f"{room.dtype} {noun}") + after
    some = f"{room.partly} of {share_text(room.share)} of them"
    if room.kind != "weights" and not room.scrubbed:
        said = f"all bits of {what}"
    elif room.bits:
        said = f"{count_text(room.bits, 'low bit')} of {what}"
        said += f", or {some}" if room.partly > room.bits else ""
    else:
        said = f"no bit of all {what}, or {some}"
    return f"{size_text(room.bytes)}: {said}"


def share_text(share: float) -> str:
    """Return a part of a whole.

    >>> share_text(0.4213), share_text(1.0), share_text(0.00021)
    ('42 %', '100 %', '0.021 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def remedy_text(remedy: Any, whole: int, *, is_cure: bool = False) -> str:
    """Return what a call takes away, and what it costs.

    Args:
        remedy: The call.
        whole: Bytes of the blind spot.
        is_cure: Whether it overwrites what was found, too.
    """
    worst = max(remedy.change.items(), key=lambda one: one[1], default=("", 0.0))
    taken = size_text(max(whole - remedy.left, 0))
    said = f"removes what was found, and {taken}" if is_cure else f"removes {taken}"
    if not worst[1]:
        return f"{said}; changes no tensor"
    of_itself = f"{share_text(worst[1])} of itself"
    return f"{said}; a {worst[0]} number changes by up to {of_itself}"


def _labelled(label: str, text: str) -> tuple[str, str]:
    return "label", f"{label:<{_LABEL}}{text}"


def _count(values: Any, noun: str, nouns: str) -> str:
    return count_text(len(values), noun, nouns)


def _names(named: list[Any], every: int, most: int) -> str:
    names = ", ".join(shown(one.name[:_LONGEST]) for one in islice(named, most))
    more = f" and {len(named) - most:,} more" if len(named) > most else ""
    return f"{len(named):,} of {every:,}: {names}{more}"


def _more(count: int) -> Iterator[tuple[str, str]]:
    if count > 0:
        yield "", f"  ... {count:,} more; the JSON report has all"
