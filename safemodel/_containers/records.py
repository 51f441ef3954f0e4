"""A record: a named span of bytes in a container, stored or deflated.

Rules:

1. Inflating is bounded before it starts, by the declared size, and stops at the
   first byte beyond it; the ratio to the compressed size is bounded by `Limits`.
2. The deflate stream fills its span exactly and gives exactly the declared size.
3. A CRC-32 the container gives is compared with that of the bytes.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from safemodel.errors import (
    ChecksumError,
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._containers.source import Source
    from safemodel.limits import Limits

STORED = 0
DEFLATED = 8

_METHOD_NAMES = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    20: "zstd (old number)",
    93: "zstd",
    95: "xz",
    98: "PPMd",
    99: "AES encryption",
}
_STEP = 1 << 18
_MOST_INFLATED = 1 << 22


def method_name(method: int) -> str:
    """Return what a zip compression method is called."""
    return _METHOD_NAMES.get(method, f"number {method}")


class Record:
    """A named span of bytes in a container.

    Attributes:
        name: Name within the container.
        source: Where the bytes are.
        offset: First byte of the span in the source.
        size: Bytes of the record once inflated.
        crc32: CRC-32 of the inflated bytes, None where the container has none.
        method: `STORED` or `DEFLATED`, or another zip method that cannot be read.
        stored_size: Bytes of the span.
    """

    # A plain class: an archive has tens of thousands of these, and a frozen dataclass
    # takes three times as long to make.
    __slots__ = ("crc32", "method", "name", "offset", "size", "source", "stored_size")

    def __init__(
        self,
        name: str,
        source: Source,
        offset: int,
        size: int,
        crc32: int | None = None,
        method: int = STORED,
        stored_size: int | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.offset = offset
        self.size = size
        self.crc32 = crc32
        self.method = method
        self.stored_size = size if stored_size is None else stored_size

    def __repr__(self) -> str:
        return f"Record({quote(self.name)!r}, offset={self.offset}, size={self.size})"

    def read(self, *, limits: Limits, verify: bool = True) -> bytes:
        """Return the whole record, inflated.

        Args:
            limits: Bounds of inflation.
            verify: Whether to compare the CRC-32, where the container gives one.

        Raises:
            ChecksumError: The CRC-32 differs.
            LimitExceededError: It inflates further than ``limits`` allows.
            MalformedFileError: It does not inflate to its declared size.
            TruncatedFileError: The span is not all there.
            UnsupportedFormatError: It is compressed with another method.
        """
        if self.method == STORED:
            data = self.source.read(self.offset, self.stored_size)
        elif self.method == DEFLATED:
            data = self._inflate(limits)
        else:
            raise UnsupportedFormatError(
                f"record {quote(self.name)} is compressed with "
                f"{method_name(self.method)}, which safemodel does not read"
            )
        if verify and self.crc32 is not None:
            self.check_crc32(zlib.crc32(data))
        return data

    def verify(self, *, limits: Limits) -> None:
        """Read the record a step at a time and compare its CRC-32, if it has one.

        Raises:
            SafeModelError: As `read`.
        """
        if self.crc32 is None:
            return
        if self.method != STORED:
            self.read(limits=limits)
            return
        actual = 0
        for done in range(0, self.size, _STEP):
            step = min(_STEP, self.size - done)
            actual = zlib.crc32(self.source.view(self.offset + done, step), actual)
        self.check_crc32(actual)

    def check_crc32(self, actual: int) -> None:
        """Compare a CRC-32 with the container's, if it gives one.

        Raises:
            ChecksumError: They differ.
        """
        if self.crc32 is not None and actual != self.crc32:
            raise ChecksumError(self.name, expected=self.crc32, actual=actual)

    def check_inflation(self, limits: Limits) -> None:
        """Compare the declared size with the compressed one.

        Raises:
            LimitExceededError: It would inflate further than ``limits`` allows.
        """
        allowed = max(
            limits.max_inflation * self.stored_size, limits.min_inflated_bytes
        )
        if self.method == DEFLATED and self.size > allowed:
            raise LimitExceededError(
                "max_inflation",
                allowed=limits.max_inflation,
                requested=round(self.size / max(self.stored_size, 1), 1),
            )

    def inflated(self, *, limits: Limits) -> Iterator[bytes]:
        """Yield the record of a deflated span piece by piece, in bounded memory.

        Raises:
            ChecksumError: The CRC-32 differs; known only at the end.
            LimitExceededError: It inflates further than ``limits`` allows.
            MalformedFileError: It does not inflate to its declared size.
            TruncatedFileError: The span is not all there.
        """
        self.check_inflation(limits)
        checksum = 0
        try:
            for piece in self._pieces():
                checksum = zlib.crc32(piece, checksum)
                yield piece
        except zlib.error as error:
            raise MalformedFileError(
                "the deflate stream is broken", record=self.name
            ) from error
        self.check_crc32(checksum)

    def _inflate(self, limits: Limits) -> bytes:
        """Return the inflated bytes, exactly as many as declared."""
        self.check_inflation(limits)
        try:
            return b"".join(self._pieces())
        except zlib.error as error:
            raise MalformedFileError(
                "the deflate stream is broken", record=self.name
            ) from error

    def _pieces(self) -> Iterator[bytes]:
        """Inflate step by step; both sizes have to come out exactly."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        left, done = self.size, 0
        while done < self.stored_size and left >= 0 and not inflater.eof:
            step = min(_STEP, self.stored_size - done)
            packed = self.source.view(self.offset + done, step)
            done += step
            most, piece = 0, b""
            # A full piece may not have been all of it, even if no input is left.
            while len(piece) == most and left >= 0:
                # One byte more than declared is asked for, so that it would be seen.
                most = min(left + 1, _MOST_INFLATED)
                piece = inflater.decompress(packed, most)
                left -= len(piece)
                packed = memoryview(inflater.unconsumed_tail)
                yield piece
        if not inflater.eof or left or inflater.unused_data or done != self.stored_size:
            raise MalformedFileError(
                f"does not inflate to exactly {self.size:,} bytes", record=self.name
            )
