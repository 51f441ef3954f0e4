"""Every record that some zip reader might find in an archive that breaks the rules.

`scan` looks into files that `read_zip` refuses. Readers differ in what they believe:
the central directory, the local headers, the first or the last of two equal names. So
everything that any header announces is listed, under keys made unique, and bounded:

1. At most `Limits.max_records` headers.
2. Names and spans add up to at most a few times the file, however they overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from safemodel._containers.records import STORED, Record
from safemodel._containers.zip_end import (
    END,
    END64,
    END_SIGNATURE,
    LOCATOR,
    LOCATOR_SIGNATURE,
    MAX_32,
)
from safemodel._containers.zip_entries import (
    CENTRAL,
    DESCRIPTOR,
    FLAG_DESCRIPTOR,
    LOCAL,
    LOCAL_SIGNATURE,
    split_extras,
)
from safemodel.errors import LimitExceededError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._containers.source import Source
    from safemodel.limits import Limits

_SIGNATURE = re.compile(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x07\x08)")
_LOCAL = b"PK\x03\x04"
_CENTRAL = b"PK\x01\x02"
_DESCRIPTOR = b"PK\x07\x08"
_CHUNK = 4 << 20
_MAX_OVERLAP = 4
_MAX_END_RECORDS = 64
_ZIP64 = 1


class Found:
    """What has been found so far.

    Attributes:
        records: Unique key → record.
        anomalies: What was noticed on the way.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self.records: dict[str, Record] = {}
        self.anomalies: list[str] = []
        self._source = source
        self._limits = limits
        self._seen: set[tuple[str, int, int, int]] = set()
        self._copies: dict[str, int] = {}
        self._budget = _MAX_OVERLAP * source.size + (1 << 20)

    def charge(self, size: int) -> bool:
        """Count bytes against the bound on overlaps; tell whether they fit."""
        if size > self._budget:
            if self._budget >= 0:
                self.anomalies.append("records overlap so often that not all are shown")
            self._budget = -1
            return False
        self._budget -= size
        return True

    def add(self, name: str, offset: int, sizes: tuple[int, int], method: int) -> None:
        """Add a record unless the same one is there already."""
        size, stored_size = sizes
        stored_size = min(stored_size, self._source.size - offset)
        if method == STORED:
            size = stored_size
        identity = (name, offset, stored_size, method)
        if offset > self._source.size or name.endswith("/") or identity in self._seen:
            return
        if not self.charge(stored_size):
            return
        self._seen.add(identity)
        copy = self._copies[name] = self._copies.get(name, 0) + 1
        key = name if copy == 1 else f"{name}#{copy}"
        while key in self.records:
            key += "#"
        self.records[key] = Record(
            name, self._source, offset, size, None, method, stored_size
        )


def find_records(source: Source, *, limits: Limits) -> Found:
    """Return every record that a central directory or a local header announces.

    Raises:
        LimitExceededError: More headers than ``limits`` allows.
    """
    found = Found(source, limits)
    marks = _find_signatures(source, limits)
    displacements = _displacements(source, marks)
    for position, signature in marks:
        if signature == _CENTRAL:
            _add_central(source, position, displacements, found)
    for position, signature in marks:
        if signature == _LOCAL:
            _add_local(source, marks, position, found)
    return found


def _find_signatures(source: Source, limits: Limits) -> list[tuple[int, bytes]]:
    """Return the position and kind of everything that looks like a zip header."""
    marks: list[tuple[int, bytes]] = []
    overlap = len(_LOCAL) - 1
    for start in range(0, source.size, _CHUNK):
        chunk = source.view(start, min(_CHUNK + overlap, source.size - start))
        marks.extend((start + match.start(), match[0]) for match in _find(chunk))
        if len(marks) > limits.max_records * 3:
            raise LimitExceededError(
                "max_records", allowed=limits.max_records, requested=len(marks) // 3
            )
    return marks


def _displacements(source: Source, marks: list[tuple[int, bytes]]) -> set[int]:
    """Return by how much the offsets in the directory may be off (a prefix)."""
    displacements = {0}
    for position, signature in marks[-_MAX_END_RECORDS:]:
        if signature == END_SIGNATURE and position + END.size <= source.size:
            _, _, _, _, _, size, offset, _ = END.unpack(source.read(position, END.size))
            locator_at = max(position - LOCATOR.size, 0)
            if source.read(locator_at, 4) == LOCATOR_SIGNATURE:
                position -= LOCATOR.size + END64.size  # noqa: PLW2901 - where it ends
            displacements.add(position - size - offset)
    return displacements


def _add_central(
    source: Source, position: int, displacements: set[int], found: Found
) -> None:
    """Add what an entry of a central directory announces."""
    if position + CENTRAL.size > source.size:
        return
    fields = CENTRAL.unpack(source.read(position, CENTRAL.size))
    _, flags, method, _, stored_size, size, name_length, extra_length = fields[:8]
    start = fields[-1]
    available = source.size - position - CENTRAL.size
    name_length = min(name_length, available)
    extra_length = min(extra_length, available - name_length)
    if not found.charge(name_length + extra_length):
        return
    text = source.read(position + CENTRAL.size, name_length + extra_length)
    name = _decode(text[:name_length])
    size, stored_size, start = _widen((size, stored_size, start), text[name_length:])
    if flags & 1:
        found.anomalies.append(f"record {quote(name)} is encrypted")
        return
    for displacement in displacements:
        at = start + displacement
        if 0 <= at <= source.size - LOCAL.size:
            local = LOCAL.unpack(source.read(at, LOCAL.size))
            if local[0] == LOCAL_SIGNATURE:
                offset = at + LOCAL.size + local[-2] + local[-1]
                found.add(name, offset, (size, stored_size), method)


def _add_local(
    source: Source, marks: list[tuple[int, bytes]], at: int, found: Found
) -> None:
    """Add what a local header announces."""
    if at + LOCAL.size > source.size:
        return
    fields = LOCAL.unpack(source.read(at, LOCAL.size))
    _, flags, method, _, stored_size, size, name_length, extra_length = fields
    name_at = at + LOCAL.size
    name_length = min(name_length, source.size - name_at)
    extra_length = min(extra_length, source.size - name_at - name_length)
    if flags & 1 or not found.charge(name_length + extra_length):
        return
    text = source.read(name_at, name_length + extra_length)
    name = _decode(text[:name_length])
    size, stored_size, _ = _widen((size, stored_size, 0), text[name_length:])
    offset = name_at + name_length + extra_length
    if flags & FLAG_DESCRIPTOR and not stored_size:
        # The sizes follow the bytes; without a directory the next header ends them.
        following = bisect_left(marks, (offset, b""))
        end, kind = marks[following] if following < len(marks) else (source.size, b"")
        stored_size = end - offset
        if kind == _DESCRIPTOR and end + DESCRIPTOR.size <= source.size:
            size = DESCRIPTOR.unpack(source.read(end, DESCRIPTOR.size))[-1]
    found.add(name, offset, (size, stored_size), method)


def _find(chunk: memoryview) -> Iterator[re.Match[bytes]]:
    """Return the matches of any signature in a chunk."""
    return _SIGNATURE.finditer(chunk)


def _decode(name: bytes) -> str:
    """Return a name as text, whatever its bytes are."""
    return name.decode("utf-8", "backslashreplace")


def _widen(sizes: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Return size, stored size and offset with a zip64 extra field applied."""
    fields = list(sizes)
    try:
        zip64 = dict(split_extras(extra)).get(_ZIP64, b"")
    except ValueError:
        zip64 = b""
    at = 0
    for index, value in enumerate(fields):
        if value == MAX_32 and at + 8 <= len(zip64):
            fields[index] = int.from_bytes(zip64[at : at + 8], "little")
            at += 8
    return fields[0], fields[1], fields[2]
