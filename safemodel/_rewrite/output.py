"""A file that appears whole or not at all.

1. It is written under another name in the same folder: renaming it is one step.
2. Its bytes are on the disk before it gets its name, and its name before we return.
3. Without leave to overwrite, a file that is there stays, even if it appeared only
   meanwhile.
4. An error leaves nothing behind. A process that is killed may leave the temporary
   file, which begins with a dot and ends in ``.safemodel-part``; unless it has no name
   until it is whole, where the system can do that and the caller asks for it.
5. What is written is read back meanwhile (`trail`), and sent to the disk meanwhile.
6. Its mode lets nobody do what the mode of the file that it replaces did not, nor that
   of the file whose content it has in another form, if the caller names one.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING

from safemodel._rewrite.commit import DESCRIPTORS, Commit
from safemodel._rewrite.trail import Trail
from safemodel.reports import FileDigests

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".safemodel-part"
_MODE = 0o666  # less what the umask takes away, as `open` makes files
_OWNER = 0o600
_MOST_NAME = 50
_SMALL = 1 << 16  # below that, writes are put together
_BUFFER = 1 << 20
MOST_WRITTEN = 1 << 18
"""Bytes to hand to the system at a time. It holds what is written in pages as large as
that, up to a few MiB, and looking for large ones in a memory that is in pieces takes
five times as long as all else: 1.0 s a gigabyte instead of 0.2 for 1 MiB at a time."""

SYNC = 64 << 20
"""Bytes after which a file is sent to the disk while the rest of it is written."""


class Output:
    """A file that is written from its first byte to its last, but for a few patches.

    Args:
        descriptor: The file, open for reading and writing.
        name: What errors call it.
        digests: Whether to take digests of it.
        read_back: Whether what is written is read back (rule 5).
        durable: Whether it has to be on the disk in the end.

    Attributes:
        at: How many bytes there are so far.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        name: str = "",
        digests: bool = True,
        read_back: bool = True,
        durable: bool = True,
    ) -> None:
        self._descriptor = descriptor
        self._name = name
        self._buffer = bytearray()
        self._trail = Trail(descriptor, digests=digests) if read_back else None
        self._syncs = _Syncs(descriptor) if durable else None
        self.at = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes.

        Raises:
            OSError: Writing failed.
        """
        self.at += len(data)
        if len(data) < _SMALL:
            self._buffer += data
            if len(self._buffer) >= _BUFFER:
                self.flush()
            return
        self.flush()
        self._write(data)

    def patch(self, at: int, data: bytes | memoryview) -> None:
        """Replace bytes that were written, and were not said to be final.

        Raises:
            OSError: Writing failed.
        """
        self.flush()
        with self._named():
            if os.pwrite(self._descriptor, data, at) != len(data):
                raise OSError(5, "not all bytes could be written")

    def read_into(self, at: int, target: memoryview) -> None:
        """Read bytes that were written. Threads may read at once.

        Raises:
            OSError: Reading failed.
        """
        with self._named():
            while target:
                got = os.preadv(self._descriptor, [target], at)
                if not got:
                    raise OSError(5, "what was written cannot be read back")
                target, at = target[got:], at + got

    def record(self, start: int, end: int) -> None:
        """Say where the bytes of a record lie; some of them may be written later."""
        if self._trail is not None:
            self._trail.record(start, end)

    def final(self) -> None:
        """Say that all bytes so far are final."""
        if len(self._buffer) == 0:
            if self._trail is not None:
                self._trail.final(self.at)
            if self._syncs is not None:
                self._syncs.written(self.at)

    def flush(self) -> None:
        """Hand everything to the system."""
        if self._buffer:
            self._write(self._buffer)
            self._buffer = bytearray()

    def finish(self) -> tuple[dict[tuple[int, int], int], FileDigests]:
        """Put all bytes on the disk (rule 2), and read back the rest of them.

        Returns:
            CRC-32 of each record by where it lies; size and digests of the file.

        Raises:
            OSError: Writing or reading failed.
        """
        self.flush()
        if self._trail is not None:
            self._trail.last(self.at)
        with self._named():
            if self._syncs is not None:
                self._syncs.finish()
            if self._trail is None:
                return {}, FileDigests(size=self.at)
            return self._trail.finish(self.at)

    def stop(self) -> None:
        """End what goes on beside the writer."""
        if self._syncs is not None:
            self._syncs.stop()
        if self._trail is not None:
            self._trail.stop()

    def close(self) -> None:
        """End what goes on beside the writer, and give the file back."""
        self.stop()
        os.close(self._descriptor)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        with self._named():
            while left:
                left = left[os.write(self._descriptor, left[:MOST_WRITTEN]) :]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say in errors of the system which file they are about."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error


class _Syncs:
    """Sends a large file to the disk while it is still being written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._done = 0
        self._goal = 0
        self._ended = False
        self._more = Condition()
        self._thread: Thread | None = None
        self._error: OSError | None = None

    def written(self, end: int) -> None:
        """Say how far the file goes."""
        if end - self._goal < SYNC:
            return
        with self._more:
            self._goal = end
            self._more.notify()
        if self._thread is None:
            self._thread = Thread(target=self._run, name="safemodel-sync", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with self._more:
                    while self._done >= self._goal and not self._ended:
                        self._more.wait()
                    if self._ended:
                        return
                    goal = self._goal
                os.fdatasync(self._descriptor)
                self._done = goal
        except OSError as error:
            # The system may say it only once: to this thread, not to the last call.
            self._error = error

    def stop(self) -> None:
        """End the thread."""
        with self._more:
            self._ended = True
            self._more.notify()
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: It cannot be put there.
        """
        self.stop()
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)


@contextmanager
def whole_file(
    path: Path,
    *,
    overwrite: bool,
    digests: bool = True,
    read_back: bool = True,
    durable: bool = True,
    unnamed: bool = False,
    like: str = "",
) -> Iterator[tuple[Output, Commit]]:
    """Give a file to write, and what makes it appear; else it is gone afterwards.

    Args:
        path: Its name.
        overwrite: Whether it may be there already.
        digests: Whether to take digests of it.
        read_back: Whether what is written is read back (rule 5).
        durable: Whether it has to be on the disk in the end, and its name, too.
        unnamed: Whether to write it without a name, where that can be done (rule 4);
            then `Commit.part` is nothing yet.
        like: The file that it is made of; "" for none (rule 6).

    Raises:
        FileExistsError: It is there, and may not be overwritten; or it is a device or
            the like, which never may.
        OSError: It is a folder, its folder cannot be written to, or the disk is full.
    """
    _check_target(path, overwrite=overwrite)
    # No longer than a name may be, whatever alphabet it is in.
    name = path.name[:_MOST_NAME]
    part = path.with_name(f".{name}.{secrets.token_hex(8)}{SUFFIX}")
    mode = _mode_of(path) if overwrite else _MODE
    if like:
        mode &= _mode_of(Path(like))
    output = None
    try:
        # In here, because an interrupt may come as soon as there is a file.
        nameless = _unnamed_file(path.parent, mode) if unnamed else None
        descriptor = _new_file(part, path, mode) if nameless is None else nameless
        output = Output(
            descriptor,
            name=str(path),
            digests=digests,
            read_back=read_back,
            durable=durable,
        )
        yield (
            output,
            Commit(part, path, overwrite=overwrite, durable=durable, nameless=nameless),
        )
    finally:
        if output is not None:
            output.close()
        if os.path.lexists(part):  # where nothing may be written, to remove is an error
            part.unlink(missing_ok=True)


def _mode_of(path: Path) -> int:
    """Return the mode that a file allows another one, if it is there (rule 6)."""
    try:
        # Its owner has to read it back.
        return _MODE & (stat.S_IMODE(path.stat().st_mode) | _OWNER)
    except OSError:
        return _MODE


def _new_file(part: Path, path: Path, mode: int) -> int:
    """Return the descriptor of a new file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(part, flags, mode)
    except OSError as error:
        # It is the folder that cannot be written to: the other name says nothing.
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


def _unnamed_file(folder: Path, mode: int) -> int | None:
    """Return the descriptor of a file that has no name; None where there are none.

    What speaks against it here is said, with more reason, when a file with a name
    cannot be made either.
    """
    if not hasattr(os, "O_TMPFILE") or not os.path.lexists(DESCRIPTORS):
        return None
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode)
    except OSError:
        return None


def _check_target(path: Path, *, overwrite: bool) -> None:
    """Raise if there is something that may not be replaced."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(17, "File exists", str(path))
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    # A link is replaced itself; one to a device, as to /dev/null, is there to stay.
    if path.exists() and not path.is_file():
        raise FileExistsError(17, "Not a regular file", str(path))
