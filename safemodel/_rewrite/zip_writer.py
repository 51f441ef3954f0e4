"""A zip archive as `torch.save` lays it out, written front to back.

1. Records are stored, never deflated; their bytes start at multiples of 64, so that
   they can be mapped.
2. Every number stands in the local header and in the directory, the same in both; zip64
   fields only where a number needs one. No descriptors, no comment, no times.
3. Names come from this package.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from safemodel._build.checksums import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safemodel._rewrite.output import Output

_LOCAL = Struct("<I5H3I2H")
_CENTRAL = Struct("<I6H3I5H2I")
_END = Struct("<I4H2IH")
_END64 = Struct("<IQ2H2I4Q")
_LOCATOR = Struct("<IIQI")
_CRC = Struct("<I")
_WIDE = Struct("<2H2Q")
_CRC_AT = 14
_ALIGNMENT = 64
_PADDING_TAG = 0x4246
_ZIP64_TAG = 1
_MAX_32 = 0xFFFFFFFF
_MAX_16 = 0xFFFF
_SMALL = 1 << 16
_DATE = 0x21  # 1 January 1980, the first there is


class Entry(NamedTuple):
    """A record as it was written.

    Attributes:
        name: Its name.
        checksum: CRC-32 of its bytes.
        size: How many there are.
        start: First byte of its header, in the archive.
        data: First byte of its own.
    """

    name: str
    checksum: int
    size: int
    start: int
    data: int


class ZipWriter:
    """Writes one archive.

    Attributes:
        entries: Each record so far.
    """

    def __init__(self, out: Output) -> None:
        self._out = out
        self.entries: list[Entry] = []

    def add(self, name: str, size: int, pieces: Iterable[memoryview | bytes]) -> int:
        """Write a record; return its CRC-32.

        Args:
            name: Its name.
            size: Its bytes.
            pieces: They, in order; each is used before the next one is asked for.

        Raises:
            OSError: Writing failed.
            ValueError: The pieces are not as long as ``size``.
        """
        out = self._out
        start = out.at
        if size <= _SMALL:
            # The header has its checksum at once, and the file needs no patch.
            held = bytearray()
            for piece in pieces:
                held += piece  # at once: the next piece may be in the same memory
            checksum = crc32(held)
            header = local_header(name, size, start, checksum)
            out.write(header + held)
            written = len(held)
        else:
            header = local_header(name, size, start, 0)
            out.write(header)
            checksum = written = 0
            for piece in pieces:
                checksum = crc32(piece, checksum)
                written += len(piece)
                out.write(piece)
            out.patch(start + _CRC_AT, _CRC.pack(checksum))
        if written != size:
            raise ValueError(f"{name}: {written} bytes, not {size}")
        data = start + len(header)
        out.record(data, data + size)
        out.final()
        self.entries.append(Entry(name, checksum, size, start, data))
        return checksum

    def close(self) -> None:
        """Write the directory."""
        self._out.write(directory(self.entries, self._out.at))


def directory(entries: Sequence[Entry], start: int) -> bytes:
    """Return the directory of an archive and what follows it.

    Args:
        entries: The records.
        start: Where the directory begins.
    """
    parts = [_entry(entry) for entry in entries]
    size, count = sum(map(len, parts)), len(entries)
    if count >= _MAX_16 or max(size, start) >= _MAX_32:
        parts.append(
            _END64.pack(
                *(0x06064B50, _END64.size - 12, 45, 45, 0, 0),
                *(count, count, size, start),
            )
        )
        parts.append(_LOCATOR.pack(0x07064B50, 0, start + size, 1))
    few, narrow = min(count, _MAX_16), min(size, _MAX_32)
    parts.append(_END.pack(0x06054B50, 0, 0, few, few, narrow, min(start, _MAX_32), 0))
    return b"".join(parts)


def local_header(name: str, size: int, start: int, checksum: int) -> bytes:
    """Return the local header of a record, up to where its bytes start."""
    raw = name.encode("ascii")
    wide = size >= _MAX_32
    sizes = min(size, _MAX_32)
    extra = _WIDE.pack(_ZIP64_TAG, 16, size, size) if wide else b""
    extra += _padding(start + _LOCAL.size + len(raw) + len(extra))
    fields = (0x04034B50, 45 if wide else 20, 0, 0, 0, _DATE)
    lengths = (len(raw), len(extra))
    return _LOCAL.pack(*fields, checksum, sizes, sizes, *lengths) + raw + extra


def _padding(at: int) -> bytes:
    """Return an extra field after which an aligned offset follows."""
    length = -(at + 4) % _ALIGNMENT
    return Struct("<2H").pack(_PADDING_TAG, length) + bytes(length)


def _entry(entry: Entry) -> bytes:
    """Return the directory's entry of a record."""
    name, checksum, size, start, _ = entry
    raw = name.encode("ascii")
    wide = [size, size] if size >= _MAX_32 else []
    if start >= _MAX_32:
        wide.append(start)
    extra = Struct(f"<2H{len(wide)}Q").pack(_ZIP64_TAG, 8 * len(wide), *wide)
    extra = extra if wide else b""
    version = 45 if wide else 20
    narrow = min(size, _MAX_32)
    return (
        _CENTRAL.pack(
            0x02014B50, version, version, 0, 0, 0, _DATE, checksum, narrow, narrow,
            len(raw), len(extra), 0, 0, 0, 0, min(start, _MAX_32),
        )
        + raw
        + extra
    )  # fmt: skip
