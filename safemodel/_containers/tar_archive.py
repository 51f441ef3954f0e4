"""A tar archive → records: the regular files in it, and nothing else.

Rules:

1. Every header's checksum is right; a header of zeros ends the archive.
2. Members are regular files and folders. Links, devices, pipes, sparse files and
   members that continue from another volume are refused, not skipped.
3. Sizes and every other number are octal, or base 256 with the first bit set, and a
   member's bytes lie within the file.
4. Names are plain relative paths, none of them twice (`zip_names`). A leading ``./``
   is dropped; GNU and pax long names are applied.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safemodel._containers.records import Record
from safemodel._containers.zip_names import check_names
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel.limits import Limits

BLOCK = 512
_END = bytes(BLOCK)
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_CHECKSUM = slice(148, 156)
_FILES = b"0\0007"
_FOLDER = ord("5")
_LONG_NAME = ord("L")
_PAX = ord("x")
_PAX_GLOBAL = ord("g")
_KINDS = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a named pipe",
    ord("K"): "a long link name",
    ord("S"): "a sparse file",
    ord("M"): "continued from another volume",
}
_MAX_NAME_BYTES = 1 << 16
_PAX_RECORD = re.compile(rb"([0-9]{1,6}) ([^=\n]+)=")
_PAX_REFUSED = (b"size", b"linkpath", b"GNU.sparse", b"hdrcharset")


def is_tar_header(block: bytes) -> bool:
    """Tell whether a block is a tar header: one whose checksum is right."""
    if len(block) < BLOCK or not block[0]:
        return False
    try:
        return _number(block[_CHECKSUM]) in _checksums(block[:BLOCK])
    except MalformedFileError:
        return False


def read_tar_archive(source: Source, *, limits: Limits) -> dict[str, Record]:
    """Return the regular files of a tar archive by name, in file order.

    Raises:
        LimitExceededError: More members than ``limits`` allows.
        MalformedFileError: It breaks a rule of this module.
        UnsupportedFormatError: A member is not a regular file or folder.
    """
    records: list[Record] = []
    names: list[str] = []
    at = members = 0
    long_name: bytes | None = None
    while at < source.size:
        header = _header(source, at)
        if header == _END:
            break
        members += 1
        if members > limits.max_records:
            raise LimitExceededError(
                "max_records", allowed=limits.max_records, requested=members
            )
        size, kind = _number(header[124:136]), header[156]
        at += BLOCK
        if size > source.size - at:
            raise TruncatedFileError(
                "tar member", needed=size, available=source.size - at, position=at
            )
        following = at + -(-size // BLOCK) * BLOCK
        if kind in (_LONG_NAME, _PAX, _PAX_GLOBAL):
            name = _extended_name(source, at, size, kind)
            long_name = name if name is not None else long_name
        else:
            text = _name(header, long_name)
            long_name = None
            _check_kind(kind, text, size)
            if text:
                names.append(text)
            if text and kind != _FOLDER and not text.endswith("/"):
                records.append(Record(text, source, at, size))
        at = following
    if long_name is not None:
        raise MalformedFileError("a long name has no tar member behind it")
    check_names(names)
    return {record.name: record for record in records}


def _header(source: Source, at: int) -> bytes:
    """Return the header at a position, with its checksum compared (rule 1)."""
    if source.size - at < BLOCK:
        raise TruncatedFileError(
            "tar header", needed=BLOCK, available=source.size - at, position=at
        )
    header = bytes(source.view(at, BLOCK))
    if header != _END and _number(header[_CHECKSUM]) not in _checksums(header):
        raise MalformedFileError("the checksum of a tar header is wrong", position=at)
    return header


def _checksums(header: bytes) -> tuple[int, int]:
    """Return a header's checksum, of unsigned bytes and, as old writers did, signed."""
    counted = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    unsigned = sum(counted)
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in counted)


def _number(field: bytes) -> int:
    """Return the number of a header field (rule 3)."""
    if field[0] & 0x80:
        # Base 256; 0xff would start a negative number.
        if field[0] == 0xFF:
            raise MalformedFileError("a number of a tar header is negative")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise MalformedFileError("a number of a tar header is not octal")
    return int(match[1] or b"0", 8)


def _name(header: bytes, long_name: bytes | None) -> str:
    """Return a member's name; "" for the archive's own folder (rule 4)."""
    raw = long_name
    if raw is None:
        raw = header[:100].split(b"\0", 1)[0]
        prefix = header[345:500].split(b"\0", 1)[0]
        # GNU's old format has other fields where ustar has the prefix.
        if header[257:263] == b"ustar\0" and prefix:
            raw = prefix + b"/" + raw
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFileError("a tar member's name is not UTF-8") from error
    if name in {".", "./"}:
        return ""
    name = name.removeprefix("./")
    if not name:
        raise MalformedFileError("a tar member has no name")
    return name


def _check_kind(kind: int, name: str, size: int) -> None:
    """Check that a member is a regular file, or a folder without content (rule 2)."""
    if kind == _FOLDER or (kind in _FILES and (not name or name.endswith("/"))):
        if size:
            raise MalformedFileError("a folder has content", record=name)
    elif kind not in _FILES:
        what = _KINDS.get(kind, f"of kind {kind:#04x}")
        raise UnsupportedFormatError(
            f"tar member '{quote(name)}' is {what}, not a regular file"
        )


def _extended_name(source: Source, at: int, size: int, kind: int) -> bytes | None:
    """Return the name that a GNU or pax header gives its successor, if it does."""
    if size > _MAX_NAME_BYTES:
        raise MalformedFileError("an extended tar header is too long", position=at)
    data = source.read(at, size)
    if kind == _LONG_NAME:
        return data.split(b"\0", 1)[0]
    name = None
    start = 0
    while start < size:
        match = _PAX_RECORD.match(data, start)
        end = start + int(match[1]) if match else 0
        if match is None or end > size or end <= match.end() or data[end - 1] != 10:
            raise MalformedFileError("a pax header is malformed", position=at)
        if match[2].startswith(_PAX_REFUSED) or (
            kind == _PAX_GLOBAL and match[2] == b"path"
        ):
            raise UnsupportedFormatError(
                f"the tar archive uses pax field {quote(match[2])}"
            )
        if match[2] == b"path":
            name = data[match.end() : end - 1]
        start = end
    return name
