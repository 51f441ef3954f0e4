"""Runs of text and integers, read many at a time: vocabularies, and names of tensors.

A shortcut gives what the loop in `machine` would give for the same bytes, or declines
and leaves them to the loop; the tests run every pickle both ways. It exists for speed
alone: `unpickle(..., shortcuts=False)` must lead to the same result.

It matches only LONG_BINPUT with the next free memo slot, which is what every pickler
of protocol 1 to 3 writes after its first 256 values.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemodel._unpickle.windows import Batch

# LONG_BINPUT, index, opcode, its operand, opcode, its operand.
_PUT_THEN_TWO = Struct("<BIBiBI").unpack_from
_PUT_THEN_TWO_BYTES = 15
_UINT32 = Struct("<I").unpack_from
LONG_PICKLE = 1 << 20
"""Bytes of a pickle from which on numpy is imported to take it apart."""
_EARNED_FIRST = 1 << 16
_LARGEST_STRETCH = 1 << 20
_STRETCH_OF_EARNED = 4


class TextRuns:
    """Reads runs of text for one pickle.

    Stretches are taken apart at once (`windows`) where that has paid: one is at most
    four times as long as what runs have filled before, and if less than a quarter of
    it turns out to be of that kind, the count starts again. So a file cannot make us
    look at a byte many times.
    """

    def __init__(self, data: bytes, memo: list[Any], max_text: int) -> None:
        self._data = data
        self._memo = memo
        self._max_text = max_text
        self._earned = 0
        self._batches: dict[int, Batch] = {}
        self._long = len(data) >= LONG_PICKLE

    def read(self, pos: int, end: int, stack: list[Any]) -> int:
        """Read BINUNICODE LONG_BINPUT [integer], again and again: keys and values.

        Args:
            pos: Offset of a BINUNICODE opcode.
            end: Where the frame or the pickle ends; nothing past it is read.
            stack: Receives the text and the integers.

        Returns:
            Offset of the first opcode left to the loop; ``pos`` if it is that one.
        """
        while self._long:
            batch = self._batches.pop(pos, None) or self._look(pos, end)
            if batch is None or batch.slot != len(self._memo) or batch.end > end:
                break
            stack += batch.items
            self._memo += batch.texts
            pos = batch.end
            if pos == end or self._data[pos] != 0x58:
                return pos
        after = _text_run(self._data, pos, end, stack, self._memo, self._max_text)
        self._earned += after - pos
        return after

    def _look(self, pos: int, end: int) -> Batch | None:
        """Take a stretch apart, if that is worth it; return its first batch."""
        if self._earned < _EARNED_FIRST:
            return None
        from safemodel._unpickle.windows import text_batches

        length = min(_LARGEST_STRETCH, self._earned * _STRETCH_OF_EARNED, end - pos)
        self._batches = text_batches(
            self._data, pos, pos + length, len(self._memo), self._max_text
        )
        read = max((batch.end for batch in self._batches.values()), default=pos) - pos
        if read * _STRETCH_OF_EARNED < length:
            self._earned = 0
        self._earned += read
        return self._batches.pop(pos, None)


def _text_run(
    data: bytes, pos: int, end: int, stack: list[Any], memo: list[Any], max_text: int
) -> int:
    """Read a run entry by entry, as `TextRuns.read`."""
    push, remember, unpack = stack.append, memo.append, _PUT_THEN_TWO
    slot = len(memo)
    last = end - _PUT_THEN_TWO_BYTES
    (length,) = _UINT32(data, pos + 1)
    while True:
        start = pos + 5
        after: int = start + length
        if length > max_text or after > last:
            return pos
        try:
            text = data[start:after].decode()
        except UnicodeDecodeError:
            return pos
        put, index, code, operand, following, length = unpack(data, after)
        if put != 0x72 or index != slot:
            return pos
        slot += 1
        push(text)
        remember(text)
        if code == 0x4A:  # BININT
            push(operand)
            pos = after + 10
            if following != 0x58:
                return pos
        elif code == 0x58:  # BINUNICODE
            pos = after + 5
            length = operand & 0xFFFFFFFF
        elif code == 0x4D or code == 0x4B:  # BININT2, BININT1  # noqa: PLR1714 - builds no tuple
            if code == 0x4D:
                push(operand & 0xFFFF)
                pos = after + 8
            else:
                push(operand & 0xFF)
                pos = after + 7
            if data[pos] != 0x58:
                return pos
            (length,) = _UINT32(data, pos + 1)
        else:
            return after + 5
