"""How a written file gets its name: in one step, and only then.

What is there already is replaced as a whole, or not at all (see `output`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DESCRIPTORS = "/proc/self/fd"
_AT_A_TIME = 16


class Commit:
    """Makes one written file appear under its name, once its bytes are on the disk.

    Args:
        part: Where it is.
        path: Its name.
        overwrite: Whether it may be there already.
        durable: Whether the name has to be on the disk, too.
        nameless: The descriptor of a file that has no name yet.
    """

    def __init__(
        self,
        part: Path,
        path: Path,
        *,
        overwrite: bool,
        durable: bool = True,
        nameless: int | None = None,
    ) -> None:
        self._part = part
        self._path = path
        self._overwrite = overwrite
        self._durable = durable
        self._nameless = nameless

    @property
    def part(self) -> Path:
        """Where the bytes are until then."""
        return self._part

    def __call__(self) -> None:
        """Rename the file into place (rules 2 and 3)."""
        if self._nameless is not None:
            # A link never replaces a file: that takes another name, for a moment.
            target = self._part if self._overwrite else self._path
            _give_name(self._nameless, target)
        if self._overwrite:
            self._part.replace(self._path)
        elif self._nameless is None:
            _rename_new(self._part, self._path)
        if self._durable:
            sync_folder(self._path.parent)


def _give_name(descriptor: int, path: Path) -> None:
    """Give a file without a name one that is not taken."""
    try:
        # With a descriptor of a folder, which is not needed here, the call is the one
        # that follows the link to the file.
        os.link(f"{DESCRIPTORS}/{descriptor}", path, src_dir_fd=descriptor)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _rename_new(part: Path, path: Path) -> None:
    """Rename a file to a name that is not taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise FileExistsError(17, "File exists", str(path)) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(17, "File exists", str(path)) from None
        part.replace(path)
        return
    part.unlink()


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot; the file itself is safe.
        pass
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Put files on the disk, some at a time: the system then does many in one go.

    Raises:
        OSError: One cannot be put there.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        # The result is asked for: it is there that an error comes out.
        for _ in pool.map(_sync_file, paths):
            pass


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
