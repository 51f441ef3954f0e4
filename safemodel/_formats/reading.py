"""One file being read: what every format module needs, and how formats nest.

`Reading` carries the caller's settings and the one `FileCheck` that all pickles of a
file share. Format modules take it and a source, and return the value the source
stands for: plain values, checked nodes and specs, ready for `FileCheck.finish`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel._graph.storages import StorageTable
from safemodel._graph.walk import settle
from safemodel._unpickle.machine import unpickle
from safemodel.errors import TruncatedFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._containers.sniff import Format
    from safemodel._containers.source import Source
    from safemodel._containers.zip_archive import ZipArchive
    from safemodel._formats.members import Members
    from safemodel._graph.check import FileCheck
    from safemodel._unpickle.nodes import Call, PersistentRef
    from safemodel._unpickle.parsed import Pickle
    from safemodel.limits import Limits

_FIRST_CHUNK = 1 << 20
_CHUNK_GROWTH = 4
_SMALL_RECORD = 16 << 20


class Reading:
    """The settings of one call, and the check all parts of the file go through.

    Attributes:
        check: Shared by everything in the file.
        limits: Bounds.
        read_any: Reads a source of any format; given by `formats`, so that a pickle
            may hold a file without the modules importing each other in a circle.
        encoding: Of Python 2 strings.
        errors: How that encoding answers what it cannot decode.
        verify: Compare the CRC-32 of pickles and headers.
        spool: Whether large records are kept out of memory, inflated ones in temporary
            files: for those who read them piece by piece.
        sources: Shards opened on the way.
        spools: Temporary files opened on the way.
        archives: Zip archives read on the way, by prefix; `scan` looks at the rest
            of their records.
        forms: What those archives are.
        members: What is kept of archives of models; None: all of it.
        consumed: Bytes of the source that the file took.
    """

    def __init__(
        self,
        *,
        check: FileCheck,
        limits: Limits,
        read_any: Callable[[Reading, Source, str], tuple[object, int]],
        encoding: str = "utf-8",
        errors: str = "strict",
        verify: bool = True,
        spool: bool = False,
    ) -> None:
        self.check = check
        self.limits = limits
        self.read_any = read_any
        self.encoding = encoding
        self.errors = errors
        self.verify = verify
        self.spool = spool
        self.sources: list[Source] = []
        self.spools: list[Source] = []
        self.archives: dict[str, ZipArchive] = {}
        self.forms: dict[str, Format] = {}
        self.members: Members | None = None
        self.consumed = 0

    def close(self) -> None:
        """Close what was opened on the way."""
        for source in (*self.sources, *self.spools):
            source.close()
        self.check.let_go()

    def read_record(self, record: Record) -> bytes:
        """Return a whole record; what all of them inflate to is bounded."""
        self.check.add_record(record)
        return record.read(limits=self.limits, verify=self.verify)

    def spools_record(self, record: Record) -> bool:
        """Say whether a record is to be kept out of memory."""
        return self.spool and record.size > _SMALL_RECORD

    def spooled(self, record: Record) -> Source:
        """Inflate a record into a temporary file.

        Raises:
            SafeModelError: As `Record.inflated`.
            OSError: It cannot be written.
        """
        from tempfile import TemporaryFile

        with TemporaryFile() as file:
            for piece in record.inflated(limits=self.limits):
                file.write(piece)
            file.seek(0)
            source = open_source(file)  # with a descriptor of its own
        self.spools.append(source)
        return source

    def parse(self, data: bytes, start: int, record: str) -> Pickle:
        """Parse a pickle with this call's settings."""
        return unpickle(
            data,
            start,
            record=record,
            limits=self.limits,
            encoding=self.encoding,
            errors=self.errors,
        )

    def check_pickle(
        self,
        pickle: Pickle,
        record: str,
        persistent: Callable[[PersistentRef], object] | None = None,
        table: StorageTable | None = None,
    ) -> object:
        """Check a parsed pickle; return its value.

        Args:
            pickle: The pickle.
            record: Its name, for errors.
            persistent: What resolves persistent ids, where ``table`` alone does not.
            table: The storages; None where there are none.
        """
        # A table of its own: what one file puts into it is no other file's business.
        storages = table or StorageTable(lambda _: None, record=record)
        return self.check.add_pickle(
            pickle,
            record=record,
            persistent=persistent or storages.resolve,
            storage=storages.of_tensor,
            load_nested=self._nested(record),
            memory_record=_memory_record,
        )

    def _nested(self, record: str) -> Callable[[bytes, Call], object]:
        """Return what reads a file inside a pickle (`_load_from_bytes`)."""

        def load(data: bytes, call: Call) -> object:
            place = f"{record}@{call.position}" if record else f"@{call.position}"
            self.check.nested()
            value, _ = self.read_any(self, open_source(data), f"{place}/")
            self.check.unnested()
            return settle(value)

        return load


def _memory_record(data: bytes) -> Record:
    return Record("", open_source(data), 0, len(data))


class PickleStream:
    """Pickles one after the other at the start of a source that goes on after them.

    Reads a chunk, and four times as much whenever a pickle is longer, so the bytes
    read and parsed stay within a small factor of the pickles' own.
    """

    def __init__(self, reading: Reading, source: Source, record: str = "") -> None:
        self._reading = reading
        self._source = source
        self._record = record
        self._data = source.read(0, min(source.size, _FIRST_CHUNK))

    def parse(self, start: int) -> Pickle:
        """Parse the pickle at an offset.

        Raises:
            TruncatedFileError: The source ends before the pickle does.
            MalformedFileError: It is not a pickle.
        """
        while True:
            try:
                return self._reading.parse(self._data, start, self._record)
            except TruncatedFileError:
                if len(self._data) == self._source.size:
                    raise
            size = max(start, len(self._data)) * _CHUNK_GROWTH
            self._data = self._source.read(0, min(self._source.size, size))
