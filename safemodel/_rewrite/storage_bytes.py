"""The bytes of storages as they are to be written, a piece at a time.

Rules:

1. A record is read from its first byte to its last, once, and its CRC-32 compared,
   whatever part of it is written, and whatever else is read of it later.
2. What is handed on is little-endian, and a bool is 0 or 1.
3. A deflated record is inflated once, into a temporary file without a name.
4. Nothing here is as large as a storage.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from safemodel._build.checksums import crc32
from safemodel._build.record_bytes import STORED, settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from safemodel._graph.specs import StorageSpec
    from safemodel.limits import Limits

PIECE = 1 << 20
_WIDEST = 16  # bytes; pieces start at multiples of it, so that no number is cut
_IN_MEMORY = 64 << 20


class StorageReader:
    """Reads the storages of one file; a context manager."""

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits
        self._folder = folder
        self._spool: SpooledTemporaryFile[bytes] | None = None
        # By id; each storage is kept, so that its id is not given to another.
        self._inflated: dict[int, tuple[StorageSpec, int]] = {}
        self._verified: dict[int, StorageSpec] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spool is not None:
            self._spool.close()

    def pieces(
        self, storage: StorageSpec, start: int, end: int
    ) -> Iterator[memoryview]:
        """Yield bytes of a storage, in pieces that are valid until the next one.

        Raises:
            SafeModelError: They are not what the file describes.
        """
        record = storage.record
        if record is None or start >= end:
            return
        if record.method != STORED:
            self._inflate(storage)
        elif id(storage) not in self._verified:
            yield from self._verifying(storage, start, end)
            return
        first = start // _WIDEST * _WIDEST
        buffer = np.empty(min(end - first, PIECE), np.uint8)
        for at in range(first, end, PIECE):
            part = buffer[: min(PIECE, end - at)]
            self._read(storage, at, part)
            settle(part, storage)
            yield part.data[max(start - at, 0) :]

    def read(self, storage: StorageSpec, start: int, target: NDArray[np.uint8]) -> None:
        """Fill an array with bytes of a storage, from any of its numbers on.

        Raises:
            SafeModelError: They are not what the file describes.
        """
        record = storage.record
        if record is None or not target.size:
            return
        if record.method != STORED:
            self._inflate(storage)
        elif id(storage) not in self._verified:
            for _ in self._verifying(storage, 0, 0):
                pass
        self._read(storage, start, target)
        settle(target, storage)

    def _verifying(
        self, storage: StorageSpec, start: int, end: int
    ) -> Iterator[memoryview]:
        """Read a stored record as a whole; yield some bytes of it (rule 1)."""
        record: Any = storage.record
        buffer = np.empty(min(record.size, PIECE), np.uint8)
        checksum = 0
        for at in range(0, record.size, PIECE):
            part = buffer[: min(PIECE, record.size - at)]
            record.source.read_into(record.offset + at, part.data)
            checksum = crc32(part.data, checksum)
            first, last = max(start - at, 0), min(end - at, len(part))
            if first < last:
                settle(part, storage)
                yield part.data[first:last]
        record.check_crc32(checksum)
        self._verified[id(storage)] = storage

    def _read(self, storage: StorageSpec, at: int, target: NDArray[np.uint8]) -> None:
        record: Any = storage.record
        if record.method == STORED:
            record.source.read_into(record.offset + at, target.data)
            return
        spool: Any = self._spool
        spool.seek(self._inflated[id(storage)][1] + at)
        spool.readinto(target.data)

    def _inflate(self, storage: StorageSpec) -> None:
        """Put an inflated record where parts of it can be read (rule 3)."""
        if id(storage) in self._inflated:
            return
        if self._spool is None:
            self._spool = SpooledTemporaryFile(_IN_MEMORY, dir=str(self._folder))  # noqa: SIM115 - closed by __exit__
        record: Any = storage.record
        start = self._spool.seek(0, 2)
        for piece in record.inflated(limits=self._limits):
            self._spool.write(piece)
        self._inflated[id(storage)] = (storage, start)
