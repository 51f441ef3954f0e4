"""One open model file: its bytes by offset, whatever the caller passed in.

Rules:

1. A path is opened once, and everything is read from that descriptor, so a file
   swapped between two looks is never half of one and half of the other.
2. Files are read, not mapped: a file that someone truncates meanwhile gives
   `TruncatedFileError`; a map would end the process with a bus error. The one map,
   `Source.private_map`, is made only for a caller who asked for it.
3. A length is checked against the bytes that are there before anything is allocated.
4. A file object is read from its current position on; nothing before it is touched.
   One that can be moved is back there unless `finish` moves it: after an error a
   second call reads the same bytes.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from safemodel._containers.file_objects import is_plain_file, position_of, read_all
from safemodel._containers.records import Record
from safemodel.errors import TruncatedFileError

if TYPE_CHECKING:
    from safemodel._types import FileLike

__all__ = ["Record", "Source", "open_source"]

_MAX_WINDOW = 4 << 20
_MAX_GUESSED_AHEAD = 1 << 20
_SMALL_SPAN = 1 << 16
_NEAR = 1 << 12


class Source(ABC):
    """Read-only bytes of one file or buffer; a context manager.

    Attributes:
        size: Bytes there are.
        name: Path for messages; "" for a buffer.
        beside: What lies beside it by name, if that is not to be looked for on disk.
    """

    size: int
    name: str
    beside: dict[str, Source] | None = None

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes from ``offset`` on.

        Raises:
            TruncatedFileError: They are not all there.
        """

    @abstractmethod
    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target``, a writable one-dimensional view of bytes.

        Raises:
            TruncatedFileError: There are not as many bytes from ``offset`` on.
        """

    @abstractmethod
    def view(self, offset: int, size: int, ahead: int = 0) -> memoryview:
        """Return a read-only view of a span; cheap for many small ones in sequence.

        Args:
            offset: First byte.
            size: Length in bytes.
            ahead: How many bytes from ``offset`` on the caller is going to want.

        Raises:
            TruncatedFileError: The span is not all there.
        """

    def private_map(self) -> memoryview | None:
        """Return a writable copy-on-write map of a path's file; None if not a path."""
        return None

    def stamp(self) -> tuple[int, ...]:
        """Return what is another once somebody else has written to it.

        It is that of the system: size and times of a file; of a buffer nothing. Two
        changes within one tick of its clock, some milliseconds, are one.
        """
        return ()

    def part(self, offset: int, size: int) -> Source:
        """Return a span as a source of its own; it closes nothing.

        Raises:
            TruncatedFileError: The span is not all there.
        """
        self._check(offset, size)
        return _PartSource(self, offset, size)

    def origin(self, offset: int) -> tuple[Source, int]:
        """Return the source that this is a span of, or itself, and where a byte is."""
        return self, offset

    def at_once(self) -> Source:
        """Return a source of the same bytes, all of them in memory."""
        data = memoryview(self.read(0, self.size))
        return _MemorySource(data, name=self.name)

    def finish(self, consumed: int) -> None:  # noqa: B027 - only a file object moves
        """Leave a seekable file object just behind the ``consumed`` bytes."""

    def close(self) -> None:  # noqa: B027 - a buffer has nothing to close
        """Let go of the file. Maps and views handed out stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, offset: int, size: int) -> None:
        """Raise unless the span lies within the source."""
        if offset < 0 or size < 0:
            raise ValueError(f"not a span: {offset=} {size=}")
        if offset + size > self.size:
            raise _truncated(offset, size, self.size)


def _truncated(offset: int, size: int, available: int) -> TruncatedFileError:
    """Return the error for a span that ends behind the last byte."""
    return TruncatedFileError(
        "the file ends early",
        needed=offset + size,
        available=available,
        position=offset,
    )


class _MemorySource(Source):
    """A buffer, or what was read from a stream."""

    def __init__(
        self,
        data: memoryview,
        *,
        name: str = "",
        file: Any = None,
        start: int = 0,
        span: Source | None = None,
    ) -> None:
        self.size = data.nbytes
        self.name = name
        self._data = data
        self._file = file
        self._start = start
        self._span = span

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.view(offset, size))

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.view(offset, target.nbytes)

    def view(self, offset: int, size: int, ahead: int = 0) -> memoryview:  # noqa: ARG002 - all of it is here
        end = offset + size
        if offset < 0 or size < 0 or end > self.size:
            self._check(offset, size)
        return self._data[offset:end]

    def origin(self, offset: int) -> tuple[Source, int]:
        return (self, offset) if self._span is None else self._span.origin(offset)

    def finish(self, consumed: int) -> None:
        if self._file is not None:
            self._file.seek(self._start + consumed)
            self._file = None

    def close(self) -> None:
        # Only now: a compressed file would start all over again.
        self.finish(0)


class _FileSource(Source):
    """A regular file behind a descriptor of our own."""

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        size: int,
        start: int = 0,
        file: Any = None,
    ) -> None:
        self.size = size
        self.name = name
        self._descriptor = descriptor
        self._start = start
        self._file = file
        self._window_start = 0
        self._window = memoryview(b"")

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        data = b""
        while True:
            # Adding to nothing copies nothing, and the kernel hands out 2 GiB at once.
            at = offset + len(data)
            part = os.pread(self._descriptor, size - len(data), self._start + at)
            data += part
            if len(data) == size:
                return data
            if not part:
                raise _truncated(offset, size, offset + len(data))

    def read_into(self, offset: int, target: memoryview) -> None:
        size = target.nbytes
        self._check(offset, size)
        done = os.preadv(self._descriptor, [target], self._start + offset)
        while done < size:
            got = os.preadv(
                self._descriptor, [target[done:]], self._start + offset + done
            )
            if not got:
                raise _truncated(offset, size, offset + done)
            done += got

    def view(self, offset: int, size: int, ahead: int = 0) -> memoryview:
        first = offset - self._window_start
        last = first + size
        if 0 <= first <= last <= len(self._window):
            return self._window[first:last]
        return self._load_window(offset, size, ahead)

    def _load_window(self, offset: int, size: int, ahead: int) -> memoryview:
        """Read a span that is not in the window, and make it the window if small."""
        self._check(offset, size)
        if size > _MAX_WINDOW:
            return memoryview(self.read(offset, size))
        gap = offset - self._window_start - len(self._window)
        if size <= _SMALL_SPAN and 0 <= gap <= _NEAR:
            # Small spans one after the other: read ahead twice as far each time, so
            # that the bytes read stay within a factor of the bytes asked for.
            ahead = max(ahead, min(2 * len(self._window), _MAX_GUESSED_AHEAD))
        length = min(max(size, min(ahead, _MAX_WINDOW)), self.size - offset)
        window = memoryview(self.read(offset, length))
        self._window, self._window_start = window, offset
        return window[:size]

    def stamp(self) -> tuple[int, ...]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def private_map(self) -> memoryview | None:
        if self._file is not None or not self.size:
            return None
        try:
            mapped = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_COPY)
        except ValueError as error:
            available = os.fstat(self._descriptor).st_size
            raise _truncated(0, self.size, available) from error
        return memoryview(mapped)

    def finish(self, consumed: int) -> None:
        if self._file is not None:
            self._file.seek(self._start + consumed)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class _PartSource(Source):
    """A span of another source."""

    def __init__(self, whole: Source, start: int, size: int) -> None:
        self.size = size
        self.name = whole.name
        self._whole = whole
        self._start = start

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        return self._whole.read(self._start + offset, size)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._check(offset, target.nbytes)
        self._whole.read_into(self._start + offset, target)

    def view(self, offset: int, size: int, ahead: int = 0) -> memoryview:
        self._check(offset, size)
        ahead = min(ahead, self.size - offset)
        return self._whole.view(self._start + offset, size, ahead)

    def part(self, offset: int, size: int) -> Source:
        self._check(offset, size)
        return _PartSource(self._whole, self._start + offset, size)

    def origin(self, offset: int) -> tuple[Source, int]:
        return self._whole.origin(self._start + offset)


def copy_of(span: Source, data: bytes) -> Source:
    """Return a span that has been read as a source of its own."""
    return _MemorySource(memoryview(data), name=span.name, span=span)


def open_source(f: FileLike) -> Source:
    """Open a path, a buffer or a binary file object for reading.

    Args:
        f: What to read. `bytes` are content, never a path. A file object is read from
            its current position on.

    Raises:
        OSError: The path cannot be opened, or is not a regular file.
        TypeError: ``f`` is none of these, or a file object in text mode.
    """
    if isinstance(f, (str, os.PathLike)):
        return _open_path(os.fsdecode(f))
    if callable(getattr(f, "read", None)):
        return _open_file_object(f)
    try:
        data = memoryview(f)  # type: ignore[arg-type]  # which is what is asked
    except TypeError:
        raise TypeError(
            "expected a path, a bytes-like object or a binary file object, not "
            + type(f).__name__
        ) from None
    data = data if data.c_contiguous else memoryview(data.tobytes())
    # A view with a zero in its shape cannot be cast; it has no bytes either.
    data = data.cast("B") if data.nbytes else memoryview(b"")
    return _MemorySource(data.toreadonly())


def _open_path(path: str) -> Source:
    """Open a regular file for reading, once."""
    # O_NONBLOCK: opening a named pipe would otherwise wait for a writer forever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    except BaseException:
        os.close(descriptor)
        raise
    return _FileSource(descriptor, name=path, size=status.st_size)


def _open_file_object(file: Any) -> Source:
    """Open what a binary file object holds from its current position on."""
    name = getattr(file, "name", "")
    name = name if type(name) is str else ""
    start = position_of(file)
    if start is not None and is_plain_file(file):
        if isinstance(file, io.BufferedRandom):
            file.flush()
        descriptor = os.dup(file.fileno())
        size = max(os.fstat(descriptor).st_size - start, 0)
        return _FileSource(descriptor, name=name, size=size, start=start, file=file)
    data = read_all(file)
    seekable = None if start is None else file
    return _MemorySource(
        memoryview(data).toreadonly(), name=name, file=seekable, start=start or 0
    )
