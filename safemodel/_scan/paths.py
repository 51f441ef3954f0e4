"""Which files a scan looks at: files, folders and patterns.

Rules:

1. A folder is walked in the order of its names, without recursion.
2. A link that is named by the caller is followed. Within a folder, a link to what
   lies in the same folder is skipped, since its target is scanned itself; a link that
   leads out of it is reported as not followed.
3. Within a folder, only regular files count: no pipes, sockets or devices.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel._types import StrPath

_MAGIC = "*?["


class Target(NamedTuple):
    """A file to look at, or why there is none."""

    path: str
    problem: str = ""
    in_folder: bool = False


def find_targets(paths: Iterable[StrPath]) -> Iterator[Target]:
    """Yield every file that paths, folders and patterns stand for, each once."""
    seen: set[str] = set()
    for given in paths:
        for target in _expand(os.fspath(given)):
            if target.path not in seen:
                seen.add(target.path)
                yield target


def _expand(path: str) -> Iterator[Target]:
    """Yield the files one argument stands for."""
    try:
        status = os.stat(path)  # noqa: PTH116 - pathlib costs start-up time
    except (OSError, ValueError) as error:
        matches = _matches(path)
        if not matches:
            yield Target(path, _reason(error))
        for match in matches:
            yield from _expand(match)
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path)
    else:
        yield Target(path)


def _matches(pattern: str) -> list[str]:
    """Return what a pattern stands for; nothing for a plain path."""
    if not any(mark in pattern for mark in _MAGIC):
        return []
    from glob import glob

    return sorted(glob(pattern, recursive=True))  # noqa: PTH207 - as above


def _walk(folder: str) -> Iterator[Target]:
    """Yield the files below a folder."""
    root = os.path.realpath(folder)
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Target(current, _reason(error), in_folder=True)
            continue
        below: list[str] = []
        for entry in found:
            if entry.is_symlink():
                yield from _link(entry.path, root)
            elif entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield Target(entry.path, in_folder=True)
        waiting += reversed(below)


def _link(path: str, root: str) -> Iterator[Target]:
    """Yield a link as not followed, unless it stays within the folder (rule 2)."""
    target = os.path.realpath(path)
    if target != root and not target.startswith(root.rstrip(os.sep) + os.sep):
        yield Target(path, "a link that leads out of the folder; not followed")


def _reason(error: OSError | ValueError) -> str:
    """Return why the system refuses, in its words."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
