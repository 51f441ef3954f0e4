"""A reader that follows the writer of a file: what has been written, read back.

1. What is read comes from the file, not from the memory it was written from.
2. Only bytes that are final are read: the writer says how far they go.
3. CRC-32 of each record, for `readback` to compare; digests of all, for the report.
"""

from __future__ import annotations

import os
from threading import Condition, Thread

from safemodel._build.checksums import crc32
from safemodel._rewrite.digests import Digests
from safemodel.reports import FileDigests

_PIECE = 1 << 20
_STEP = 8 << 20  # how far the writer may be ahead before it says so


class Trail:
    """Follows one writer, in a thread of its own once there is something to follow.

    Args:
        descriptor: The file, open for reading.
        digests: Whether to take digests.
    """

    def __init__(self, descriptor: int, *, digests: bool) -> None:
        self._descriptor = descriptor
        self._digests = Digests() if digests else None
        self._buffer = memoryview(bytearray(0))
        self._at = 0  # first byte that was not read yet
        self._final = 0
        self._spans: list[tuple[int, int]] = []
        self._checksums: list[int] = []
        self._open = 0  # checksum so far of the record that is being read
        self._more = Condition()
        self._ended = False
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def record(self, start: int, end: int) -> None:
        """Say that the bytes of a record lie there; records come in order."""
        self._spans.append((start, end))

    def final(self, end: int) -> None:
        """Say that all bytes up to here are final."""
        if end - self._final < _STEP:
            return
        self.last(end)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="safemodel-trail", daemon=True)
            self._thread.start()

    def last(self, end: int) -> None:
        """Say the same of bytes that may be few; starts nothing."""
        with self._more:
            self._final = end
            self._more.notify()

    def finish(self, end: int) -> tuple[dict[tuple[int, int], int], FileDigests]:
        """Read the rest; return the CRC-32 of each record by its span, and digests.

        Raises:
            OSError: Reading failed.
        """
        self._end(end)
        if self._error is not None:
            raise self._error
        self._follow(end)
        checksums = dict(zip(self._spans, self._checksums, strict=True))
        if self._digests is None:
            return checksums, FileDigests(size=end)
        return checksums, self._digests.result()

    def stop(self) -> None:
        """End the thread, whatever is left to read."""
        if self._thread is not None:
            self._error = self._error or InterruptedError("stopped")
            self._end(self._final)

    def _end(self, end: int) -> None:
        with self._more:
            self._final = max(end, self._final)
            self._ended = True
            self._more.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._error is None:
                with self._more:
                    while self._final <= self._at and not self._ended:
                        self._more.wait()
                    final = self._final
                if final <= self._at:
                    return
                self._follow(final)
        except Exception as error:  # noqa: BLE001 - raised by `finish`
            self._error = error

    def _follow(self, end: int) -> None:
        """Read up to a byte."""
        if len(self._buffer) < min(_PIECE, end - self._at):
            self._buffer = memoryview(bytearray(min(_PIECE, end - self._at)))
        while self._at < end:
            piece = self._buffer[: min(len(self._buffer), end - self._at)]
            size = os.preadv(self._descriptor, [piece], self._at)
            if not size:
                raise OSError(5, "what was written cannot be read back")
            piece = piece[:size]
            if self._digests is not None:
                self._digests.update(piece)
            self._check(piece)
            self._at += size
        self._check(self._buffer[:0])

    def _check(self, piece: memoryview) -> None:
        """Take a piece into the checksums of the records that lie in it."""
        here, there = self._at, self._at + len(piece)
        spans, checksums = self._spans, self._checksums
        while len(checksums) < len(spans):
            start, end = spans[len(checksums)]
            first, last = max(start, here), min(end, there)
            if first < last:
                self._open = crc32(piece[first - here : last - here], self._open)
            if there < end:
                return
            checksums.append(self._open)
            self._open = 0
