"""Entries of a zip archive, the careful way: every field, every extra, every rule.

`zip_archive` reads ordinary entries in bulk and hands everything else to this module,
which alone decides what is wrong. Rule numbers are those of `zip_archive`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

from safemodel._containers.records import DEFLATED, STORED, method_name
from safemodel._containers.zip_end import ENTRY_BYTES, MAX_16, MAX_32
from safemodel.errors import (
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._containers.source import Source

CENTRAL_SIGNATURE = 0x02014B50
LOCAL_SIGNATURE = 0x04034B50
DESCRIPTOR_SIGNATURE = 0x08074B50
CENTRAL = struct.Struct("<I4xHH4x3I4H2x2I")
LOCAL = struct.Struct("<I2xHH4x3I2H")
DESCRIPTOR = struct.Struct("<4I")
_DESCRIPTORS = {
    12: struct.Struct("<3I"),
    16: struct.Struct("<4x3I"),
    20: struct.Struct("<I2Q"),
    24: struct.Struct("<4xI2Q"),
}
_SIGNED_DESCRIPTORS = (16, 24)

FLAG_DESCRIPTOR = 0x8
FLAG_UTF8 = 0x800
_FLAGS_ENCRYPTED = 0x1 | 0x40 | 0x2000
_FLAGS_DEFLATE_LEVEL = 0x2 | 0x4
_EXTRA_ZIP64 = 0x0001
_EXTRA_UNICODE_PATH = 0x7075
_EXTRA_AES = 0x9901
_FILE_TYPES_OF_FILES = (0, 0o10)
_FILE_TYPES_OF_FOLDERS = (0, 0o04)
_DOS_FOLDER_OR_VOLUME = 0x10 | 0x8


EntryFields: TypeAlias = tuple[bytes, int, int, int, int, int, int]


class Entry(NamedTuple):
    """One entry of the central directory."""

    name: bytes
    flags: int
    method: int
    crc32: int
    stored_size: int
    size: int
    start: int


def read_entry(directory: bytes, at: int) -> tuple[Entry, int]:
    """Return the entry at a position of the central directory, and where it ends."""
    left = len(directory) - at
    if left < ENTRY_BYTES:
        raise TruncatedFileError(
            "entry of the central directory", needed=ENTRY_BYTES, available=left
        )
    fields = CENTRAL.unpack_from(directory, at)
    signature, flags, method, crc32, stored_size, size = fields[:6]
    name_length, extra_length, comment_length, disk, attributes, start = fields[6:]
    if signature != CENTRAL_SIGNATURE:
        raise MalformedFileError("an entry of the central directory has no signature")
    need = ENTRY_BYTES + name_length + extra_length + comment_length
    if need > left:
        raise TruncatedFileError(
            "entry of the central directory", needed=need, available=left
        )
    extra_at = at + ENTRY_BYTES + name_length
    name = directory[at + ENTRY_BYTES : extra_at]
    if disk:
        raise UnsupportedFormatError("one part of a multi-volume zip archive")
    extra = directory[extra_at : extra_at + extra_length]
    zip64 = check_extras(extra, name)
    if zip64 is not None:
        stored_size, size, start = _widen(stored_size, size, start, zip64, name)
    check_method(flags, method, name)
    if method == STORED and stored_size != size:
        _refuse("is stored, yet its two sizes differ", name)
    _check_attributes(attributes, name, size, stored_size)
    entry = Entry(name, flags, method, crc32, stored_size, size, start)
    return entry, at + need


def check_local(source: Source, entry: Entry, end: int) -> int:
    """Compare an entry with its local header; return where its bytes start.

    Args:
        source: The archive.
        entry: The entry of the central directory.
        end: Where the next header starts; the record must end exactly there.
    """
    name = entry.name
    if end - entry.start < LOCAL.size:
        _refuse("overlaps its neighbour", name)
    fields = LOCAL.unpack(source.read(entry.start, LOCAL.size))
    signature, flags, method, crc32, stored_size, size, name_length, extra_length = (
        fields
    )
    if signature != LOCAL_SIGNATURE:
        _refuse("has no local header where the central directory says", name)
    extra_at = entry.start + LOCAL.size + name_length
    data_at: int = extra_at + extra_length
    if data_at + entry.stored_size > end:
        _refuse("overlaps its neighbour", name)
    local_name = source.read(entry.start + LOCAL.size, name_length)
    if local_name != name:
        _refuse(f"is named '{quote(local_name)}' in its local header", name)
    if (flags, method) != (entry.flags, entry.method):
        _refuse("has other flags or another method in its local header", name)
    zip64 = check_extras(source.read(extra_at, extra_length), name)
    if not _local_sizes_agree(entry, crc32, stored_size, size, zip64):
        _refuse("has another size or CRC-32 in its local header", name)
    _check_descriptor(source, entry, data_at + entry.stored_size, end)
    return data_at


def _local_sizes_agree(
    entry: Entry, crc32: int, stored_size: int, size: int, zip64: bytes | None
) -> bool:
    """Tell whether a local header's CRC-32 and sizes say what the entry says."""
    # With a data descriptor, what was not known yet is 0 here.
    unknown = {0} if entry.flags & FLAG_DESCRIPTOR else set()
    wide = {MAX_32} if zip64 is not None else set()
    if (
        crc32 not in {entry.crc32} | unknown
        or stored_size not in {entry.stored_size} | unknown | wide
        or size not in {entry.size} | unknown | wide
    ):
        return False
    if zip64 is None:
        return True
    if len(zip64) not in {8, 16, 24}:
        return False
    values = struct.unpack(f"<{len(zip64) // 8}Q", zip64)
    if len(values) == 1:
        # Torch's writer puts the offset alone here, behind the first 4 GiB.
        return values[0] in {entry.start, entry.size} and stored_size != MAX_32
    expected = (entry.size, entry.stored_size, entry.start)
    return all(
        value in {known} | unknown
        for value, known in zip(values, expected, strict=False)
    )


def _check_descriptor(source: Source, entry: Entry, data_end: int, end: int) -> None:
    """Check what lies between a record's bytes and the next header (C4, C16)."""
    gap = end - data_end
    if not entry.flags & FLAG_DESCRIPTOR:
        if gap:
            _refuse(
                f"is followed by {gap:,} bytes that belong to no record", entry.name
            )
        return
    form = _DESCRIPTORS.get(gap)
    if form is None:
        _refuse(f"has a data descriptor of {gap:,} bytes", entry.name)
    descriptor = source.read(data_end, gap)
    signature = int.from_bytes(descriptor[:4], "little")
    if (
        gap in _SIGNED_DESCRIPTORS and signature != DESCRIPTOR_SIGNATURE
    ) or form.unpack(descriptor) != (entry.crc32, entry.stored_size, entry.size):
        _refuse("has a data descriptor that differs from its entry", entry.name)


def check_method(flags: int, method: int, name: bytes) -> None:
    """Check that a record is neither encrypted nor compressed in a foreign way (C5)."""
    if flags & _FLAGS_ENCRYPTED:
        raise UnsupportedFormatError(
            f"record {quote(name)} of the zip archive is encrypted"
        )
    if method not in {STORED, DEFLATED}:
        raise UnsupportedFormatError(
            f"record {quote(name)} is compressed with {method_name(method)}, which"
            " safemodel does not read"
        )
    allowed = FLAG_DESCRIPTOR | FLAG_UTF8
    if method == DEFLATED:
        allowed |= _FLAGS_DEFLATE_LEVEL
    if flags & ~allowed:
        _refuse(f"has flags {flags:#x}, of which some have no meaning here", name)


def split_extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and content of each extra field; ValueError where it is cut."""
    at = 0
    while at < len(extra):
        content_at = at + 4
        tag = int.from_bytes(extra[at : at + 2], "little")
        at = content_at + int.from_bytes(extra[at + 2 : content_at], "little")
        if at > len(extra):
            raise ValueError("cut extra field")
        yield tag, extra[content_at:at]


def check_extras(extra: bytes, name: bytes) -> bytes | None:
    """Check extra fields; return the content of the zip64 one, if there is one."""
    zip64 = None
    try:
        for tag, content in split_extras(extra):
            if tag == _EXTRA_UNICODE_PATH:
                _refuse("has an extra field that renames it", name)
            if tag == _EXTRA_AES:
                raise UnsupportedFormatError(
                    f"record {quote(name)} of the zip archive is encrypted"
                )
            if tag == _EXTRA_ZIP64:
                if zip64 is not None:
                    _refuse("has two zip64 extra fields", name)
                zip64 = content
    except ValueError as error:
        raise MalformedFileError(
            "an extra field is longer than its header", record=_text(name)
        ) from error
    return zip64


def _widen(
    stored_size: int, size: int, start: int, zip64: bytes, name: bytes
) -> tuple[int, int, int]:
    """Return the sizes and offset that a zip64 extra field gives (C15)."""
    fields = [size, stored_size, start]
    wanted = [index for index, field in enumerate(fields) if field == MAX_32]
    if len(zip64) != 8 * len(wanted):
        _refuse("has a zip64 extra field of the wrong length", name)
    for at, index in enumerate(wanted):
        value = int.from_bytes(zip64[8 * at : 8 * at + 8], "little")
        if value < MAX_32:
            _refuse("has a zip64 extra field for a number that needs none", name)
        fields[index] = value
    return fields[1], fields[0], fields[2]


def _check_attributes(
    attributes: int, name: bytes, size: int, stored_size: int
) -> None:
    """Check that an entry is a file, or a folder without content (C19)."""
    is_folder = name.endswith(b"/")
    file_type = attributes >> 28
    if file_type not in (_FILE_TYPES_OF_FOLDERS if is_folder else _FILE_TYPES_OF_FILES):
        _refuse("is a link or another special file", name)
    if is_folder:
        # An empty deflate stream has two bytes.
        if size or stored_size > 2:
            _refuse("is a folder with content", name)
    elif attributes & _DOS_FOLDER_OR_VOLUME:
        _refuse("is marked as a folder", name)


def decode_name(name: bytes, flags: int) -> str:
    """Return a record's name as text, as the zip specification reads it."""
    if not flags & FLAG_UTF8:
        return name.decode("cp437")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFileError(
            "a record's name is not the UTF-8 it claims to be", record=_text(name)
        ) from error


def _text(name: bytes) -> str:
    """Return a raw name for an error's attribute."""
    return name[:MAX_16].decode("utf-8", "backslashreplace")


def _refuse(reason: str, name: bytes) -> NoReturn:
    """Raise the error for an entry that breaks a rule."""
    raise MalformedFileError(f"the record {reason}", record=_text(name))
