"""Stretches of a long pickle, taken apart by array arithmetic on positions.

The only module below `_build` that imports numpy; `text_runs` and `tensor_runs` import
it inside functions, for pickles long enough to be worth that, and nothing else may.

A pickle cannot be cut into opcodes but from its start: where one ends follows from its
own bytes. So both functions guess where each part begins, by a byte pattern, and then
keep only what is proved: part by part, that it ends where the next one starts and that
its memo slot is the next free one. What is proved is what the loop in `machine` would
read; everything else is left to it. No value is made here but text and integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BYTES = NDArray[np.uint8]
_POSITIONS = NDArray[np.intp]

_LONG_BINPUT, _BINUNICODE, _MARK = 0x72, 0x58, 0x28
_SETITEMS, _APPENDS = 0x75, 0x65
_BININT, _BININT1, _BININT2 = 0x4A, 0x4B, 0x4D
# Bytes of what may follow a text and its put: an integer, or nothing before the next
# text or the end of a batch.
_WIDTHS = np.full(256, -1, dtype=np.intp)
_WIDTHS[[_BININT, _BININT1, _BININT2]] = 5, 2, 3
_WIDTHS[[_BINUNICODE, _SETITEMS, _APPENDS]] = 0
# The longest way from a put to the end of the next text's length.
_ENTRY_BYTES = 5 + 5 + 2 + 5
_PUT_BYTES = 5
_ROW_BYTES = 1 << 20
_TEXT_HEAD = 5


class Batch(NamedTuple):
    """Texts and integers that lie on the stack when one SETITEMS or APPENDS comes.

    Attributes:
        end: Offset of the first opcode behind them.
        slot: Memo slot of the first text.
        texts: What goes to the memo.
        items: What goes to the stack.
    """

    end: int
    slot: int
    texts: list[str]
    items: list[object]


class _Entries(NamedTuple):
    """Runs of BINUNICODE LONG_BINPUT [integer], as positions in a stretch of bytes.

    Attributes:
        starts: Where each text starts.
        ends: Where it ends, which is where its put is.
        after: First byte behind the integer, if there is one.
        breaks: Entries behind which a batch ends and the next one begins.
    """

    starts: _POSITIONS
    ends: _POSITIONS
    after: _POSITIONS
    breaks: _POSITIONS


def text_batches(
    data: bytes, start: int, end: int, slot: int, max_text: int
) -> dict[int, Batch]:
    """Read batches of texts and integers that follow each other.

    Args:
        data: The pickle.
        start: Offset of a BINUNICODE.
        end: Nothing from here on is read.
        slot: The next free memo slot.
        max_text: Longest text, in bytes, that is read here.

    Returns:
        Offset of the BINUNICODE a batch starts with → batch; empty if the very first
        bytes are something else.
    """
    stretch = np.frombuffer(data, np.uint8, end - start, start)
    if len(stretch) <= _ENTRY_BYTES:
        return {}
    entries = _entries(stretch, slot, max_text)
    count = len(entries.ends)
    if not count:
        return {}
    texts = _texts(data[start : start + int(entries.ends[-1])], entries)
    if texts is None:
        return {}
    numbers = _numbers(stretch, entries)
    # The stretch may cut a batch: if it holds a whole one, the rest is read next time.
    last = (entries.breaks + 1).tolist() or [count]
    firsts = [0, *last[:-1]]
    batches: dict[int, Batch] = {}
    for first, stop in zip(firsts, last, strict=True):
        begin = start + int(entries.starts[first]) - _TEXT_HEAD
        own = texts[first:stop]
        items: list[object] = [*own]
        if numbers is not None:
            items = [None] * (2 * len(own))
            items[::2] = own
            items[1::2] = numbers[first:stop]
        after = start + int(entries.after[stop - 1])
        batches[begin] = Batch(after, slot + first, own, items)
    return batches


def _entries(stretch: _BYTES, slot: int, max_text: int) -> _Entries:
    """Find entries, as far as each is proved to follow the one before."""
    words = _words(stretch)
    puts = np.flatnonzero(stretch[:-_ENTRY_BYTES] == _LONG_BINPUT)
    # Unsigned, so that a slot before the first one becomes a large number.
    turn = words[puts + 1] - np.uint32(slot & 0xFFFFFFFF)
    puts = puts[turn < len(stretch)]
    width = _WIDTHS[stretch[puts + _PUT_BYTES]]
    after = puts + _PUT_BYTES + width
    closing = stretch[after]
    gap = (closing == _SETITEMS) | (closing == _APPENDS)
    gap &= stretch[after + 1] == _MARK
    text = after + 2 * gap
    following = text + _TEXT_HEAD + words[text + 1]
    # Leave out what only looks like a put, such as the last byte of an integer.
    likely = (width >= 0) & (stretch[text] == _BINUNICODE)
    likely &= stretch[np.minimum(following, len(stretch) - 1)] == _LONG_BINPUT
    puts, after, gap, text = puts[likely], after[likely], gap[likely], text[likely]
    starts = np.concatenate(([0], text[:-1])) + _TEXT_HEAD
    # What proves it: the text before its put has the length that stands before it.
    proved = words[starts[: len(puts)] - 4] == puts - starts[: len(puts)]
    proved &= stretch[starts[: len(puts)] - _TEXT_HEAD] == _BINUNICODE
    proved &= puts - starts[: len(puts)] <= max_text
    proved &= words[puts + 1] == slot + np.arange(len(puts))
    # Either each text has its integer or none has; where that changes, entries end.
    plain = after == puts + _PUT_BYTES
    count = _first(~proved | (plain != plain[:1]))
    breaks = np.flatnonzero(gap[: max(count - 1, 0)])
    return _Entries(starts[:count], puts[:count], after[:count], breaks)


def _texts(stretch: bytes, entries: _Entries) -> list[str] | None:
    """Return the texts; None if one of them is not UTF-8."""
    starts, ends = entries.starts, entries.ends
    # Each text with one byte in front of it, which becomes a separator; the rest goes.
    lengths = np.empty(2 * len(ends), dtype=np.intp)
    lengths[1::2] = ends - starts + 1
    lengths[0] = starts[0] - 1
    lengths[2::2] = starts[1:] - ends[:-1] - 1
    wanted = np.repeat(np.arange(len(lengths)) & 1 == 1, lengths)
    characters = np.frombuffer(bytearray(stretch), np.uint8)
    characters[starts - 1] = ord("\n")
    try:
        texts: list[str] = characters[wanted].tobytes().decode().split("\n")[1:]
        if len(texts) != len(ends):  # one of them holds a line feed itself
            spans = zip(starts.tolist(), ends.tolist(), strict=True)
            texts = [stretch[first:last].decode() for first, last in spans]
    except UnicodeDecodeError:
        return None
    return texts


def _numbers(stretch: _BYTES, entries: _Entries) -> list[int] | None:
    """Return the integers behind the texts; None if there are none."""
    at = entries.ends + _PUT_BYTES
    code = stretch[at]
    if entries.after[0] == at[0]:
        return None
    value = _words(stretch)[at + 1]
    value = np.where(code == _BININT1, value & 0xFF, value)
    value = np.where(code == _BININT2, value & 0xFFFF, value)
    numbers: list[int] = value.view(np.int32).tolist()
    return numbers


class Spelling(NamedTuple):
    """How one call is spelled, and which of its bytes differ from call to call.

    Attributes:
        model: The bytes of one such call.
        key: Where the digits of its storage's key are.
        puts: Offsets of its LONG_BINPUT opcodes.
    """

    model: bytes
    key: slice
    puts: tuple[int, ...]


def calls_like(
    data: bytes, start: int, end: int, spelling: Spelling
) -> list[tuple[int, str, int]]:
    """Find calls that differ from a model in digits and memo slots only.

    Args:
        data: The pickle.
        start: Where to look from.
        end: Nothing from here on is read.
        spelling: What they look like.

    Returns:
        Offset, key and first memo slot of each; its other slots follow that one.
    """
    model = np.frombuffer(spelling.model, np.uint8)
    width, key = len(model), spelling.key
    stretch = np.frombuffer(data, np.uint8, end - start, start)
    room = len(stretch) - width + 1
    if room <= 0:
        return []
    # Its two marks are rare together, and all in front of the key is alike.
    found = np.flatnonzero(stretch[:room] == model[0])
    for ahead in range(1, key.start):
        found = found[stretch[found + ahead] == model[ahead]]
    whole = np.ndarray((room, width), np.uint8, stretch, strides=(1, 1))
    varying = np.zeros(width, dtype=bool)
    varying[key] = True
    for put in spelling.puts:
        varying[put + 1 : put + _PUT_BYTES] = True
    # What only starts like one may overlap: together such rows are many times the
    # stretch, so some are compared at a time. What is left of them does not overlap.
    step = _ROW_BYTES // width + 1
    alike = [
        ((whole[some] == model) | varying).all(axis=1)
        for some in (found[at : at + step] for at in range(0, len(found), step))
    ]
    found = found[np.concatenate(alike)] if alike else found
    rows = whole[found]
    same = (rows[:, key] - np.uint8(ord("0")) < 10).all(axis=1)
    slots = [_slot(rows, put) for put in spelling.puts]
    for turn, slot in enumerate(slots):
        same &= slot == slots[0] + np.uint32(turn)
    text, size = rows[same, key].tobytes().decode("ascii"), key.stop - key.start
    keys = [text[at : at + size] for at in range(0, len(text), size)]
    places = (found[same] + start).tolist()
    return list(zip(places, keys, slots[0][same].tolist(), strict=True))


def _slot(rows: _BYTES, put: int) -> NDArray[np.uint32]:
    """Return the operand of a LONG_BINPUT in every row."""
    operand = np.ascontiguousarray(rows[:, put + 1 : put + _PUT_BYTES])
    return operand.view(np.dtype("<u4"))[:, 0].astype(np.uint32)


def _words(stretch: _BYTES) -> NDArray[np.uint32]:
    """Return a view that gives the four-byte little-endian number at each offset."""
    return np.ndarray((len(stretch) - 3,), "<u4", stretch, strides=(1,))


def _first(condition: NDArray[np.bool_]) -> int:
    """Return the index of the first true value; the length if there is none."""
    return int(condition.argmax()) if condition.any() else len(condition)
