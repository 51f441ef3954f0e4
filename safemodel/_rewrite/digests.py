"""SHA-256 and BLAKE3 of a file, taken beside other work on it."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Self

from safemodel.reports import FileDigests

if TYPE_CHECKING:
    from safemodel._containers.source import Source

_PIECE = 1 << 20
_SMALL = 4 << 20


class Digests:
    """Both digests of bytes that come piece by piece."""

    def __init__(self) -> None:
        from hashlib import sha256

        from blake3 import blake3

        self._sha256 = sha256()
        self._blake3 = blake3()
        self._size = 0

    def update(self, piece: memoryview) -> None:
        """Take the next bytes."""
        self._sha256.update(piece)
        self._blake3.update(piece)
        self._size += len(piece)

    def result(self) -> FileDigests:
        """Return the digests of all bytes so far."""
        return FileDigests(
            size=self._size,
            sha256=self._sha256.hexdigest(),
            blake3=self._blake3.hexdigest(),
        )


class SourceDigests:
    """Reads a source from front to back, in a thread of its own if it is large.

    Args:
        source: What to read.
        wanted: Whether to take digests; otherwise there is only a size.
    """

    def __init__(self, source: Source, *, wanted: bool) -> None:
        self._source = source
        self._wanted = wanted
        self._digests = Digests()
        self._thread: Thread | None = None
        self._stopped = False
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        if self._wanted and self._source.size > _SMALL:
            self._thread = Thread(
                target=self._run, name="safemodel-digests", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def result(self) -> FileDigests:
        """Return the digests once they are there.

        Raises:
            OSError: Reading failed.
            TruncatedFileError: The source has become shorter.
        """
        if not self._wanted:
            return FileDigests(size=self._source.size)
        if self._thread is None:
            self._read()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digests.result()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self._error = error

    def _read(self) -> None:
        size = self._source.size
        buffer = memoryview(bytearray(min(size, _PIECE)))
        for at in range(0, size, _PIECE):
            if self._stopped:
                return
            piece = buffer[: min(_PIECE, size - at)]
            self._source.read_into(at, piece)
            self._digests.update(piece)
