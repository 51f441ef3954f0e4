"""The end of a zip archive: where its central directory is, and how many entries.

Enforces rules C12 to C15 of `zip_archive` as far as they concern the end records.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel.limits import Limits

END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR_SIGNATURE = b"PK\x06\x07"
END = struct.Struct("<4s4H2IH")
LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
MAX_16 = 0xFFFF
MAX_32 = 0xFFFFFFFF
ENTRY_BYTES = 46
TAIL_BYTES = END.size + MAX_16 + LOCATOR.size + END64.size


class Directory(NamedTuple):
    """Where the central directory is.

    Attributes:
        offset: First byte of it in the source.
        data: The directory itself.
        entries: Entries announced.
        comment: Comment of the archive.
        tail: The last bytes of the source, which have been read anyway.
    """

    offset: int
    data: bytes
    entries: int
    comment: bytes
    tail: bytes


def find_directory(source: Source, limits: Limits) -> Directory:
    """Return the central directory that every reader would have to find.

    Raises:
        LimitExceededError: More entries than ``limits`` allows.
        MalformedFileError: No end record, more than one, or one that lies.
        UnsupportedFormatError: A part of a multi-volume archive.
    """
    tail_start = max(source.size - TAIL_BYTES, 0)
    tail = source.read(tail_start, source.size - tail_start)
    at = _find_end(tail)
    _, disk, first_disk, here, count, size, offset, _ = END.unpack_from(tail, at)
    end = tail_start + at
    fields = (disk, first_disk, here, count, size, offset)
    if tail[max(at - LOCATOR.size, 0) : at].startswith(LOCATOR_SIGNATURE):
        disk, first_disk, here, count, size, offset = _read_end64(tail, at, fields, end)
        end -= LOCATOR.size + END64.size
    if disk or first_disk or here != count:
        raise UnsupportedFormatError("one part of a multi-volume zip archive")
    if offset + size != end:
        raise MalformedFileError(
            f"the central directory ends at {offset + size:,}, but its end record is"
            f" at {end:,}",
            position=end,
        )
    if count > limits.max_records:
        raise LimitExceededError(
            "max_records", allowed=limits.max_records, requested=count
        )
    if count * ENTRY_BYTES > size:
        raise TruncatedFileError(
            "central directory",
            needed=count * ENTRY_BYTES,
            available=size,
            position=offset,
        )
    return Directory(
        offset=offset,
        data=_slice_or_read(source, tail, tail_start, offset, size),
        entries=count,
        comment=tail[at + END.size :],
        tail=tail,
    )


def _slice_or_read(
    source: Source, tail: bytes, tail_start: int, offset: int, size: int
) -> bytes:
    """Return a span from the tail if it lies there, else from the source."""
    first = offset - tail_start
    if first >= 0:
        return tail[first : first + size]
    return source.read(offset, size)


def _find_end(tail: bytes) -> int:
    """Return the position of the only end record in the tail."""
    at = tail.rfind(END_SIGNATURE)
    if at < 0:
        raise MalformedFileError(
            "the zip archive has no end record: it is truncated, or something follows"
        )
    following = len(tail) - at - END.size
    if following < 0:
        raise TruncatedFileError(
            "end record of the zip archive", needed=END.size, available=len(tail) - at
        )
    length = END.unpack_from(tail, at)[7]
    if length > following:
        raise TruncatedFileError(
            "comment of the zip archive", needed=length, available=following
        )
    if length < following:
        raise MalformedFileError(
            f"{following - length:,} bytes follow the end of the zip archive"
        )
    # A reader that looks from the front would stop at an earlier end record whose
    # comment swallows ours (C14).
    other = tail.find(END_SIGNATURE)
    while other < at:
        length = int.from_bytes(tail[other + 20 : other + 22], "little")
        if other + END.size + length == len(tail):
            raise MalformedFileError("the zip archive has two end records")
        other = tail.find(END_SIGNATURE, other + 1)
    return at


def _read_end64(
    tail: bytes, at: int, fields: tuple[int, ...], end: int
) -> tuple[int, ...]:
    """Return the zip64 end record's fields, which must agree with the short ones."""
    at -= LOCATOR.size
    end -= LOCATOR.size + END64.size
    _, disk, offset, disks = LOCATOR.unpack_from(tail, at)
    if disk or disks != 1:
        raise UnsupportedFormatError("one part of a multi-volume zip archive")
    # Before the start of the tail there is only the start of the file: end < 0 then.
    at -= END64.size
    if offset != end:
        raise MalformedFileError(
            "the zip64 end record is not where its locator stands", position=end
        )
    signature, size, _, _, *fields64 = END64.unpack_from(tail, at)
    if signature != END64_SIGNATURE or size != END64.size - 12:
        raise MalformedFileError("the zip64 end record is malformed", position=end)
    most = (MAX_16, MAX_16, MAX_16, MAX_16, MAX_32, MAX_32)
    for short, long, limit in zip(fields, fields64, most, strict=True):
        if short not in (long, limit):
            raise MalformedFileError(
                f"the zip64 end record says {long:,}, the short one {short:,}",
                position=end,
            )
    return tuple(fields64)
