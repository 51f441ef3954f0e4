"""A file that appears whole or not at all.

1. It is written under another name in the same folder: renaming it is one step.
2. Its bytes are on the disk before it gets its name, and its name before we return.
3. Without leave to overwrite, a file that is there stays, even if it appeared only
   meanwhile.
4. An error leaves nothing behind. A process that is killed may leave the temporary
   file, which begins with a dot and ends in ``.safemodel-part``.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX = ".safemodel-part"
_MODE = 0o666  # less what the umask takes away, as `open` makes files


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[tuple[IO[bytes], Commit]]:
    """Give a file to write, and what makes it appear; else it is gone afterwards.

    Raises:
        FileExistsError: It is there, and may not be overwritten.
        OSError: The folder cannot be written to, or the disk is full.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(17, "File exists", str(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{SUFFIX}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(part, flags, _MODE)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file, Commit(file, part, path, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


class Commit:
    """Makes one written file appear under its name."""

    def __init__(
        self, file: IO[bytes], part: Path, path: Path, *, overwrite: bool
    ) -> None:
        self._file = file
        self._part = part
        self._path = path
        self._overwrite = overwrite

    @property
    def part(self) -> Path:
        """Where the bytes are until then."""
        return self._part

    def flush(self) -> None:
        """Put all bytes on the disk (rule 2)."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __call__(self) -> None:
        """Rename the file into place (rules 2 and 3)."""
        self.flush()
        if self._overwrite:
            self._part.replace(self._path)
        else:
            _rename_new(self._part, self._path)
        _sync_folder(self._path.parent)


def _rename_new(part: Path, path: Path) -> None:
    """Rename a file to a name that is not taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(17, "File exists", str(path)) from None
        part.replace(path)
        return
    part.unlink()


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot; the file itself is safe.
        pass
    finally:
        os.close(descriptor)
