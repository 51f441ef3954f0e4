"""Numbers and bytes, one after the other: what is sealed and what is tagged.

Little-endian numbers of a fixed width; bytes and text after their length. There are no
optional parts and no choices, so a value has one encoding, and an encoding begins no
other of the same kind. What is compressed is the exception: it inflates to one text.
"""

from __future__ import annotations

import io
import zlib
from struct import pack, unpack
from typing import TYPE_CHECKING

from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVEL = 6
_STEP = 1 << 20


def deflated(text: bytes) -> bytes:
    """Return a text, compressed."""
    return zlib.compress(text, _LEVEL)


def inflated(data: bytes | memoryview, size: int) -> bytes:
    """Return the text that was compressed, and never more than its size.

    Args:
        data: What `deflated` returned.
        size: Bytes of the text; the caller has bounded it.

    Raises:
        MalformedFileError: It does not inflate to exactly so many.
    """
    # Filled piece by piece: at once, zlib would hold all of it twice for a moment.
    # Nor is there room before there is something to fill it: the size is only a claim.
    text = io.BytesIO()
    for piece in inflated_pieces(data, size):
        text.write(piece)
    return text.getvalue()


def inflated_pieces(data: bytes | memoryview, size: int) -> Iterator[bytes]:
    """Yield the text that was compressed in pieces of at most 1 MiB.

    Args:
        data: What `deflated` returned.
        size: Bytes of the text; the caller has bounded it.

    Raises:
        MalformedFileError: It does not inflate to exactly so many. It may be raised
            after the last piece.
    """
    unpacker = zlib.decompressobj()
    view, at, done = memoryview(data), 0, 0
    while not unpacker.eof:
        given = unpacker.unconsumed_tail or view[at : at + _STEP]
        at += 0 if unpacker.unconsumed_tail else len(given)
        try:
            # One byte more is asked for, so that it would be seen.
            piece = unpacker.decompress(given, min(_STEP, size - done + 1))
        except zlib.error as error:
            raise MalformedFileError("a zlib stream is broken") from error
        done += len(piece)
        # Without input there may be output that had no room before.
        if done > size or not (piece or given):
            break
        yield piece
    if done != size or not unpacker.eof or unpacker.unused_data or at < len(view):
        raise MalformedFileError(f"a zlib stream does not inflate to {size:,} bytes")


class Writer:
    """Puts fields together."""

    def __init__(self) -> None:
        # It grows in place and is handed out as it is: joining would double it.
        self._out = io.BytesIO()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._out.tell()

    def number(self, value: int, width: int = 8) -> None:
        """Append a number of ``width`` bytes."""
        self._out.write(value.to_bytes(width, "little"))

    def raw(self, value: bytes | memoryview) -> None:
        """Append bytes whose number is known to the reader."""
        self._out.write(value)

    def counted(self, value: bytes | memoryview, width: int = 4) -> None:
        """Append bytes after their number."""
        self.number(len(value), width)
        self._out.write(value)

    def text(self, value: str) -> None:
        """Append text as UTF-8, after its length in bytes."""
        self.counted(value.encode("utf-8"))

    def numbers(self, *values: int) -> None:
        """Append numbers of 8 bytes."""
        self._out.write(pack(f"<{len(values)}Q", *values))

    def joined(self) -> bytes:
        """Return all fields so far."""
        return self._out.getvalue()


class Reader:
    """Takes fields apart, none of them larger than what is left.

    Args:
        data: All of them.

    Attributes:
        at: Where the next one begins.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._end = len(data)
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self._end - self.at

    def raw(self, size: int) -> bytes:
        """Return the next bytes."""
        return bytes(self.view(size))

    def view(self, size: int) -> bytes | memoryview:
        """Return the next bytes, and no copy of them if this was given a view."""
        start = self.at
        end = start + size
        if end > self._end:
            raise MalformedFileError(
                f"a field of {size:,} bytes where {self._end - start:,} are left",
                position=start,
            )
        self.at = end
        return self._data[start:end]

    def number(self, width: int = 8) -> int:
        """Return the next number."""
        return int.from_bytes(self.view(width), "little")

    def at_most(self, limit: str, allowed: int, width: int = 4) -> int:
        """Return the next number, which a field of `Limits` bounds."""
        found = self.number(width)
        if found > allowed:
            raise LimitExceededError(limit, allowed=allowed, requested=found)
        return found

    def count(self, size: int, width: int = 4) -> int:
        """Return how many items follow, each of ``size`` bytes or more."""
        found = self.number(width)
        if found * size > self.left:
            raise MalformedFileError(
                f"{found:,} items where {self.left:,} bytes are left", position=self.at
            )
        return found

    def counted(self, width: int = 4) -> bytes:
        """Return the next bytes after their number."""
        return self.raw(self.number(width))

    def text(self, limit: str, allowed: int) -> str:
        """Return the next text."""
        data = self.raw(self.at_most(limit, allowed))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            where = self.at - len(data)
        # Outside the handler: that error holds the text.
        raise MalformedFileError("a text that is not UTF-8", position=where)

    def numbers(self, count: int) -> tuple[int, ...]:
        """Return the next numbers of 8 bytes."""
        return unpack(f"<{count}Q", self.view(8 * count))
