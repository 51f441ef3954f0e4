"""A zip archive → records, such that no other reader could see other ones.

Zip readers disagree wherever a file says something twice. So everything that is said
twice must agree, and every byte must belong to exactly one thing:

- C3 A local header has the same name, flags, method, sizes and CRC-32 as its entry in
  the central directory.
- C4 Records lie in the order of the directory, start where the one before ends, and
  the directory follows the last one.
- C5 Flags: data descriptor, UTF-8, the deflate levels. C10 Nothing encrypted.
- C6 The CRC-32 of a record is compared when it is read (`Record.read`). An archive all
  of whose CRC-32 are zero has none: torch writes such if asked to save that time.
- C7, C8 No two equal names, also after case folding and NFC.
- C9 Methods: stored and deflated.
- C11 An archive within an archive is a record like any other.
- C12 The first local header is at offset 0. C13 The file ends with the end record.
- C14 There is one end record, whichever end the search starts at.
- C15 zip64 fields only where a number needs one, and the same number in both places.
- C16 A data descriptor repeats the entry's CRC-32 and sizes.
- C17 No extra field renames a record.
- C18 Names are plain relative paths (`zip_names`). C19 No links or special files.
- C20 Which root folder counts is for the format to say, not for the container.

Ordinary entries take a short path here; the first thing out of the ordinary sends an
entry to `zip_entries`, which is the only one that raises.
"""

from __future__ import annotations

import struct
from operator import lt
from typing import TYPE_CHECKING, NamedTuple

from safemodel._containers import zip_salvage
from safemodel._containers.records import STORED, Record
from safemodel._containers.zip_end import ENTRY_BYTES, MAX_32, find_directory
from safemodel._containers.zip_entries import (
    DESCRIPTOR,
    DESCRIPTOR_SIGNATURE,
    FLAG_DESCRIPTOR,
    LOCAL,
    Entry,
    EntryFields,
    check_local,
    decode_name,
    read_entry,
)
from safemodel._containers.zip_names import check_names
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._containers.zip_end import Directory
    from safemodel.limits import Limits

# An entry of the directory: what its neighbours share, what differs, and again what
# they share (lengths of extra field and comment, disk, attributes).
_VARYING = struct.Struct("<16x3IH12xI")
_HEAD_BYTES = 16
_TAIL_AT = 30
_TAIL_BYTES = 12
# The fixed fields of a local header, signature to sizes, are compared as bytes.
_LOCAL_HEAD_BYTES = 26
_SLASH = ord("/")
_TAG_BYTES = 4
_PADDING_TAG = 0x4246
_MAX_WINDOW = 1 << 17
_NEAR = 4096


class ZipArchive(NamedTuple):
    """The records of a zip archive.

    Attributes:
        records: Name → record, in file order; folders are left out.
        comment: Comment of the archive.
        anomalies: What makes the archive unacceptable, first the reason for which it
            would be refused; empty for a well-formed one.
    """

    records: dict[str, Record]
    comment: bytes
    anomalies: list[str]


def read_zip(source: Source, *, limits: Limits, strict: bool = True) -> ZipArchive:
    """Read the directory of a zip archive and check all of its headers.

    Args:
        source: The archive.
        limits: `Limits.max_records` applies.
        strict: False collects what is wrong in `ZipArchive.anomalies` instead of
            raising, and gives every record that some reader might find.

    Raises:
        LimitExceededError: More records than allowed.
        MalformedFileError: It breaks a rule of this module.
        UnsupportedFormatError: Encrypted, multi-volume, or compressed in another way.
    """
    try:
        return _read(source, limits)
    except LimitExceededError:
        raise
    except SafeModelError as error:
        if strict:
            raise
        found = zip_salvage.find_records(source, limits=limits)
        return ZipArchive(
            records=found.records,
            comment=b"",
            anomalies=[str(error), *found.anomalies],
        )


def _read(source: Source, limits: Limits) -> ZipArchive:
    """Read an archive that keeps every rule."""
    directory = find_directory(source, limits)
    entries = _read_entries(directory)
    names = _names(entries)
    check_names(names)
    records = dict(zip(names, _locate(source, directory, entries, names), strict=True))
    if any(map(_is_folder, names)):
        records = {
            name: record for name, record in records.items() if not _is_folder(name)
        }
    if not any(record.crc32 for record in records.values()):
        for record in records.values():
            record.crc32 = None
    return ZipArchive(records=records, comment=directory.comment, anomalies=[])


def _is_folder(name: str) -> bool:
    """Tell whether a name is that of a folder."""
    return name.endswith("/")


def _read_entries(directory: Directory) -> list[EntryFields]:
    """Return the entries of the central directory, which must fill it exactly."""
    data = directory.data
    entries: list[EntryFields] = []
    add, unpack, startswith = entries.append, _VARYING.unpack_from, data.startswith
    at, size_of_data = 0, len(data)
    head = tail = b"none yet"
    flags = 0
    # One turn per record, tens of thousands of them: no calls but these.
    for _ in range(directory.entries):
        if startswith(head, at) and startswith(tail, at + _TAIL_AT):
            crc32, stored_size, size, name_length, start = unpack(data, at)
            name_at = at + ENTRY_BYTES
            end = name_at + name_length
            if (
                size == stored_size != MAX_32 != start
                and end <= size_of_data
                and data[end - 1] != _SLASH
            ):
                name = data[name_at:end]
                add((name, flags, STORED, crc32, stored_size, size, start))
                at = end
                continue
        entry, end = read_entry(data, at)
        add(entry)
        new_tail = data[at + _TAIL_AT : at + _TAIL_AT + _TAIL_BYTES]
        # Without extra field and comment, the next one like it is as good as this.
        if entry.method == STORED and new_tail.startswith(bytes(6)):
            head, tail, flags = data[at : at + _HEAD_BYTES], new_tail, entry.flags
        at = end
    if at != size_of_data:
        raise MalformedFileError(
            f"the central directory has {size_of_data - at:,} bytes behind its last"
            " entry"
        )
    return entries


def _names(entries: list[EntryFields]) -> list[str]:
    """Return the names of the entries as text."""
    raw = [entry[0] for entry in entries]
    if b"".join(raw).isascii():
        return [name.decode("ascii") for name in raw]
    return [decode_name(entry[0], entry[1]) for entry in entries]


def _locate(  # noqa: C901 - calls would cost more than what they do
    source: Source, directory: Directory, entries: list[EntryFields], names: list[str]
) -> list[Record]:
    """Compare each entry with its local header; return the records."""
    starts = [entry[6] for entry in entries]
    ends = [*starts[1:], directory.offset]
    first = starts[0] if starts else directory.offset
    if first:
        raise MalformedFileError(f"{first:,} bytes precede the first record")
    if not entries:
        return []
    if not all(map(lt, starts, ends)):
        raise MalformedFileError(
            "the records do not lie in the order of the central directory"
        )
    records: list[Record] = []
    add = records.append
    window, base = directory.tail, source.size - len(directory.tail)
    head, known_flags = b"none yet", 0
    # What the 16 bytes in front of the next header must be, checked when it is read.
    owed: tuple[int, int, int, int] | None = None
    length = -1
    # One turn per record again. A header is taken here if it has the same fixed fields
    # as the last one that `check_local` has accepted (torch's writer leaves CRC-32 and
    # sizes to the descriptor); one call unpacks the descriptor in front of it, the
    # header, the name and the tag of the padding.
    for fields, text, end in zip(entries, names, ends, strict=True):
        name, flags, method, crc32, stored_size, size, start = fields
        if len(name) != length:
            length = len(name)
            boundary = struct.Struct(f"<4I26s2H{length}sI")
            unpack, span = boundary.unpack_from, boundary.size
            overhead = LOCAL.size + length + DESCRIPTOR.size
        at = start - base - DESCRIPTOR.size
        if at < 0 or at + span > len(window):
            base = max(start - DESCRIPTOR.size, 0)
            window = _load_window(source, entries, len(records), base)
            at = start - base - DESCRIPTOR.size
        if (
            flags == known_flags
            and method == STORED
            and at >= 0
            and at + span <= len(window)
        ):
            sign, d_crc32, d_stored_size, d_size, found, n_name, n_extra, again, tag = (
                unpack(window, at)
            )
            if (
                found == head
                and n_name == length
                and again == name
                and n_extra == end - start - stored_size - overhead
                and (not n_extra or tag == _PADDING_TAG + (n_extra - 4 << 16))
                and (owed is None or (sign, d_crc32, d_stored_size, d_size) == owed)
            ):
                owed = (DESCRIPTOR_SIGNATURE, crc32, stored_size, size)
                offset = end - DESCRIPTOR.size - stored_size
                add(Record(text, source, offset, size, crc32, STORED, stored_size))
                continue
        if owed:
            check_local(source, Entry(*entries[len(records) - 1]), start)
            owed = None
        offset = check_local(source, Entry(*fields), end)
        add(Record(text, source, offset, size, crc32, method, stored_size))
        at = start - base
        new_head = window[at : at + _LOCAL_HEAD_BYTES]
        if (
            flags & FLAG_DESCRIPTOR
            and method == STORED
            and new_head.endswith(bytes(12))
        ):
            head, known_flags = new_head, flags
    if owed:
        check_local(source, Entry(*entries[-1]), directory.offset)
    return records


def _load_window(
    source: Source, entries: list[EntryFields], index: int, base: int
) -> bytes:
    """Read the header of an entry, and those behind it that lie close together."""
    last, count = index, len(entries) - 1
    start = entries[last][6]
    while last < count:
        following = entries[last + 1][6]
        if following - start > _NEAR or following - base > _MAX_WINDOW:
            break
        start = following
        last += 1
    end = start + LOCAL.size + len(entries[last][0]) + _TAG_BYTES
    return source.read(base, min(end, source.size) - base)
