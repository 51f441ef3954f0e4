"""Numbers and bytes, one after the other: what is sealed and what is tagged.

Little-endian numbers of a fixed width; bytes and text after their length. There are no
optional parts and no choices, so a value has one encoding, and an encoding begins no
other of the same kind. What is compressed is the exception: it inflates to one text.
"""

from __future__ import annotations

import zlib
from struct import pack, unpack

from safemodel.errors import LimitExceededError, MalformedFileError

_LEVEL = 6


def deflated(text: bytes) -> bytes:
    """Return a text, compressed."""
    return zlib.compress(text, _LEVEL)


def inflated(data: bytes, size: int) -> bytes:
    """Return the text that was compressed, and never more than its size.

    Args:
        data: What `deflated` returned.
        size: Bytes of the text; the caller has bounded it.

    Raises:
        MalformedFileError: It does not inflate to exactly so many.
    """
    unpacker = zlib.decompressobj()
    try:
        # One byte more is asked for, so that it would be seen.
        text = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise MalformedFileError("a zlib stream is broken") from error
    if len(text) != size or not unpacker.eof or unpacker.unused_data:
        raise MalformedFileError(f"a zlib stream does not inflate to {size:,} bytes")
    return text


class Writer:
    """Puts fields together."""

    def __init__(self) -> None:
        self._fields: list[bytes] = []

    def number(self, value: int, width: int = 8) -> None:
        """Append a number of ``width`` bytes."""
        self._fields.append(value.to_bytes(width, "little"))

    def raw(self, value: bytes) -> None:
        """Append bytes whose number is known to the reader."""
        self._fields.append(value)

    def counted(self, value: bytes, width: int = 4) -> None:
        """Append bytes after their number."""
        self.number(len(value), width)
        self._fields.append(value)

    def text(self, value: str) -> None:
        """Append text as UTF-8, after its length in bytes."""
        self.counted(value.encode("utf-8"))

    def numbers(self, *values: int) -> None:
        """Append numbers of 8 bytes."""
        self._fields.append(pack(f"<{len(values)}Q", *values))

    def joined(self) -> bytes:
        """Return all fields so far."""
        return b"".join(self._fields)


class Reader:
    """Takes fields apart, none of them larger than what is left.

    Args:
        data: All of them.

    Attributes:
        at: Where the next one begins.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._end = len(data)
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self._end - self.at

    def raw(self, size: int) -> bytes:
        """Return the next bytes."""
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
        return int.from_bytes(self.raw(width), "little")

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
        return unpack(f"<{count}Q", self.raw(8 * count))
