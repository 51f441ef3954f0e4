"""What is in a folder: the files to protect, or those that should be there.

Rules:

1. The folder is walked in the order of its names, without recursion.
2. Where files are protected, a link is followed only if it leads to a regular file
   within the folder, or from a snapshot of a hub's cache into the blobs of the same
   model. Whatever else is no regular file is refused: nothing is left out in silence.
3. In a protected folder there are regular files only, and no links.
4. Names that some system takes for another path are refused.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safemodel._formats.protected import SEAL_NAME
from safemodel._scan.paths import blobs_of, entries_of, leads_out
from safemodel.errors import LimitExceededError, UnsupportedFormatError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.limits import Limits

_PART = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:]{1,255}")
_MOST_PATH = 1024


class File(NamedTuple):
    """A file of a folder.

    Attributes:
        name: Its path within the folder, with slashes.
        path: The file to open.
        size: Its bytes.
    """

    name: str
    path: str
    size: int


def files_to_protect(folder: Path, limits: Limits) -> list[File]:
    """Return the files of a plain folder, in the order of their names (rule 2).

    Raises:
        LimitExceededError: There are too many, or folders are too deep.
        OSError: The folder cannot be read.
        UnsupportedFormatError: One is no file, leads out of the folder, or has a name
            that is not the same everywhere; or the folder is protected.
    """
    real = os.path.realpath(folder)
    blobs = blobs_of(Path(real))
    found = []
    for name, entry in _entries(folder, limits):
        path = entry.path
        if entry.is_symlink():
            path = os.path.realpath(path)
            inside = not leads_out(path, real)
            if not inside and (not blobs or str(Path(path).parent) != blobs):
                raise UnsupportedFormatError(
                    f"{quote(name)} is a link that leads out of the folder"
                )
        status = Path(path).lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFormatError(f"{quote(name)} is not a regular file")
        if problem := name_problem(name):
            raise UnsupportedFormatError(f"{quote(name)}: {problem}")
        if name.rpartition("/")[2] == SEAL_NAME:
            raise UnsupportedFormatError("a protected folder: rotate it")
        found.append(File(name, path, status.st_size))
    return sorted(found)


def files_there(folder: Path, limits: Limits) -> tuple[list[File], list[str]]:
    """Return the regular files of a protected folder, and what else is in it (rule 3).

    Raises:
        LimitExceededError: There are too many, or folders are too deep.
        OSError: The folder cannot be read.
    """
    found, others = [], []
    for name, entry in _entries(folder, limits):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            found.append(File(name, entry.path, status.st_size))
        else:
            others.append(name)
    return sorted(found), others


def name_problem(name: str) -> str:
    """Return why a path within a folder is not the same everywhere, or "" (rule 4)."""
    parts = name.split("/")
    if len(os.fsencode(name)) > _MOST_PATH:
        return f"its path has more than {_MOST_PATH:,} bytes"
    if any(part in ("", ".", "..") or not _PART.fullmatch(part) for part in parts):
        return "a name that is a path on some systems, or cannot be printed"
    return ""


def _entries(folder: Path, limits: Limits) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all that is below a folder but folders, by path within it."""
    waiting = [""]
    count = 0
    while waiting:
        place = waiting.pop()
        if place.count("/") > limits.max_depth:
            raise LimitExceededError(
                "max_depth", allowed=limits.max_depth, requested=place.count("/")
            )
        for entry in entries_of(str(folder / place)):
            count += 1
            if count > limits.max_records:
                raise LimitExceededError(
                    "max_records", allowed=limits.max_records, requested=count
                )
            name = f"{place}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{name}/")
            else:
                yield name, entry
