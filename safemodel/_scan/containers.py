"""The way through a file, into everything that could hold a pickle.

What the check has parsed is taken from it (`reading.parsed`, `reading.archives`);
only what it did not read is read here. Where it goes:

* zip: every record, and what salvage finds where the archive breaks a rule;
* tar: every member; * npy: the pickle of an object array;
* streams: every pickle one after the other, and what follows;
* calls: bytes that one of them would be given, as `pickle.loads` is;
* JSON: fields ":serialized:", which Stable-Baselines3 unpickles.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from safemodel._containers.npy_header import read_npy_header
from safemodel._containers.records import DEFLATED, STORED, Record
from safemodel._containers.sniff import Format, sniff
from safemodel._containers.source import open_source
from safemodel._containers.tar_archive import read_tar_archive
from safemodel._containers.zip_archive import ZipArchive, read_zip
from safemodel._scan import heads, json_fields
from safemodel._scan.render import one_line, printable
from safemodel._scan.streams import AFTER, FIRST_CHUNK, LOOK_BYTES, UNREAD, PickleLook
from safemodel.errors import SafeModelError, TruncatedFileError
from safemodel.reports import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._containers.source import Source

_SMALL_FILE = 1 << 20
_WINDOW = 4 << 20
_TAIL = 1 << 16
_END_OF_ZIP = b"PK\x05\x06"
_AS_TEXT = "safe_load keeps this text as text"
_AS_OTHER = "safe_load takes this file for something else"


class ContainerLook(PickleLook):
    """One look at one file, container by container."""

    def whole_file(self, source: Source) -> Format:
        """Look into everything; return what the file is."""
        for parsed in self._reading.parsed:
            pickle = parsed.pickle
            if parsed.error is not None:
                pickle = self._without_frames(parsed.data, parsed.start, pickle)
            self._pickle(pickle, parsed.data, parsed.record, 0, "")
        form = self._source(source, "", "")
        if form is Format.SHARD_INDEX:
            for shard in self._reading.sources:
                name = shard.name.rpartition("/")[2]
                self._source(shard, f"{name}/", "")
        self._bounded()
        return form

    def _source(self, source: Source, prefix: str, inert: str) -> Format:
        """Look into a source of any format.

        Args:
            source: Where to look.
            prefix: What the check calls it, and records get in front.
            inert: Why the check does not read it; "" if it does.
        """
        form = sniff(source)
        if form is Format.ZIP:
            self._zip(source, prefix, inert)
            return form
        if form is Format.PICKLE or form is Format.LEGACY:
            self._stream(source, prefix, inert, legacy=form is Format.LEGACY)
        elif form is Format.NPY:
            self._npy(source, prefix, inert)
        elif form is Format.TAR:
            self._tar(source, prefix, inert)
        elif form is Format.JSON or form is Format.SHARD_INDEX:
            self._json(source, prefix)
        if form is not Format.PICKLE and form is not Format.LEGACY:
            self._disguised(source, prefix, inert)
        self._appended_zip(source, prefix)
        return form

    def _disguised(self, source: Source, prefix: str, inert: str) -> None:
        """Look at what is something else to us, and a pickle to whoever unpickles it.

        The name of a tar member, the length of a safetensors header or the magic of a
        picture are opcodes, too. Text may be by chance, so only calls count.
        """
        if not heads.may_be_pickle(bytes(source.view(0, min(1, source.size)))):
            return
        parsed = self._parse_at(source, 0)
        if parsed is not None and parsed[0].globals and parsed[0].calls:
            pickle, data, _ = parsed
            self._pickle(pickle, data, prefix, 0, inert or _AS_OTHER)

    def _nested(self, source: Source, prefix: str, inert: str) -> None:
        """Look into a file within the file."""
        if self._depth >= self._limits.max_nesting:
            self._note("nested-too-deep", "not looked into: nested too deep", prefix)
            return
        if not self._spend(source.size):
            return
        self._depth += 1
        self._source(source, prefix, inert)
        self._depth -= 1

    def _zip(self, source: Source, prefix: str, inert: str) -> None:
        """Look into every record of an archive."""
        archive = self._reading.archives.get(prefix)
        salvaged = archive is None
        if archive is None:
            archive = self._read_zip(source, prefix)
        else:
            # Records of an archive that keeps the rules do not overlap.
            self._budget += len(archive.records) * LOOK_BYTES
        code: list[str] = []
        unread = inert or ("" if salvaged else self._unread)
        ahead = source.size if source.size <= _SMALL_FILE else 0
        storages = self._reading.storages
        may_hold_pickle = heads.may_hold_pickle
        for name, record in archive.records.items():
            full = prefix + name
            if full in storages and record.method == STORED:
                # Tens of thousands of these: the first bytes, and no calls to spare.
                size = min(64, record.stored_size)
                if may_hold_pickle(record.source.view(record.offset, size, ahead)):
                    head = self._head(record, ahead)
                    self._record(record, full, head, unread)
                continue
            if full in self._covered:
                self._after_parsed(full)
                continue
            head = self._head(record, ahead)
            if heads.may_hold_pickle(head):
                self._record(record, full, head, unread)
            elif name.endswith(".py"):
                code.append(name)
            elif not heads.is_tensor(name):
                self._other(record, full, head, unread)
        if code:
            self._note(
                "code",
                f"Python code ({len(code):,} x .py, {printable(code[0])} first), which"
                " safe_load never reads",
                prefix,
                severity=Severity.INFO,
            )

    def _read_zip(self, source: Source, prefix: str) -> ZipArchive:
        """Read an archive the check has not read, or refused; note what is odd."""
        try:
            archive = read_zip(source, limits=self._limits, strict=False)
        except SafeModelError as error:
            self._note("not-scanned", one_line(str(error)), prefix)
            return ZipArchive(records={}, comment=b"", anomalies=[])
        for anomaly in archive.anomalies:
            # What the file is refused for has a finding of its own.
            if anomaly != self._refusal:
                self._note("container", one_line(anomaly), prefix)
        return archive

    def _head(self, record: Record, ahead: int) -> bytes:
        """Return the first bytes of a record, b"" where there is no telling."""
        try:
            if record.method == STORED:
                size = min(record.stored_size, heads.HEAD_BYTES)
                return bytes(record.source.view(record.offset, size, ahead))
            if record.method == DEFLATED:
                size = min(record.stored_size, FIRST_CHUNK)
                packed = record.source.view(record.offset, size)
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                return inflater.decompress(packed, heads.HEAD_BYTES)
        except (TruncatedFileError, zlib.error):
            pass
        return b""

    def _content(self, record: Record, full: str) -> Source | None:
        """Return a record as a source; None where it cannot be read."""
        try:
            if record.method == STORED:
                return record.source.part(record.offset, record.stored_size)
            if not self._spend(record.size):
                return None
            if self._reading.spools_record(record):
                return self._reading.spooled(record)
            return open_source(record.read(limits=self._limits, verify=False))
        except SafeModelError as error:
            self._note("not-scanned", one_line(str(error)), full)
            return None

    def _record(self, record: Record, full: str, head: bytes, unread: str) -> None:
        """Look into a record that starts like a pickle or a file."""
        source = self._content(record, full)
        if source is None:
            return
        if heads.is_tensor(record.name):
            # Bytes of a tensor may start like anything: only what holds together.
            if head[:1] != b"P":
                self._loose(source, full, 0, unread or UNREAD, whole=True)
                return
            unread = unread or UNREAD
        self._nested(source, f"{full}/", unread)

    def _other(self, record: Record, full: str, head: bytes, unread: str) -> None:
        """Look into a record that is neither a tensor nor starts like a pickle."""
        if head.lstrip()[:1] in (b"{", b"[", b""):
            source = self._content(record, full)
            if source is not None:
                self._json(source, full)
        elif heads.may_be_pickle(head):
            source = self._content(record, full)
            if source is not None and f"{full}/" not in self._covered:
                self._loose(source, full, 0, unread)

    def _tar(self, source: Source, prefix: str, inert: str) -> None:
        """Look into every member."""
        try:
            records = read_tar_archive(source, limits=self._limits)
        except SafeModelError as error:
            if str(error) != self._refusal:
                self._note("container", one_line(str(error)), prefix)
            return
        for name, record in records.items():
            if name in self._covered or prefix + name in self._covered:
                if name == "pickle":
                    self._after_parsed(prefix + name)
                continue
            part = record.source.part(record.offset, record.size)
            self._nested(part, f"{prefix}{name}/", inert or self._unread)

    def _npy(self, source: Source, record: str, inert: str) -> None:
        """Look at the pickle of an object array."""
        record = record.removesuffix("/")
        if record in self._covered or f"{record}/" in self._covered:
            self._after_parsed(record)
            return
        try:
            header = read_npy_header(source, limits=self._limits)
        except SafeModelError:
            return
        if "O" in str(header.descr):
            self._loose(source, record, header.data_offset, inert)

    def _json(self, source: Source, record: str) -> None:
        """Look into the serialised fields of a JSON text."""
        if not any(map(json_fields.may_have, _windows(source))):
            return
        if source.size > self._limits.max_header_bytes:
            self._note("not-scanned", "too long a JSON text to look into", record)
            return
        for key, value in json_fields.serialized(source.read(0, source.size)):
            place = f"{record}[{key}]"
            self._loose(open_source(value), place, 0, _AS_TEXT)

    def _appended_zip(self, source: Source, prefix: str) -> None:
        """Look for a zip archive behind something else, where zip readers begin."""
        size = min(source.size, _TAIL)
        tail = bytes(source.view(source.size - size, size))
        if tail.rfind(_END_OF_ZIP) < 0 or not self._spend(source.size):
            return
        archive = self._read_zip(source, prefix)
        if archive.records:
            self._note("polyglot", "a zip archive is appended to the file", prefix)
        for name, record in archive.records.items():
            head = self._head(record, 0)
            if heads.may_hold_pickle(head):
                self._record(record, f"{prefix}!{name}", head, AFTER)


def _windows(source: Source) -> Iterator[memoryview]:
    """Yield all bytes of a source, some of them twice, a few at a time."""
    for start in range(0, source.size, _WINDOW - LOOK_BYTES):
        yield source.view(start, min(_WINDOW, source.size - start))
