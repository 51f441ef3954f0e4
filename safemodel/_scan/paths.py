"""Which files a scan looks at: files, folders and patterns.

Rules:

1. A folder is walked in the order of its names, without recursion.
2. A link that is named by the caller is followed. Within a folder, a link to what
   lies in the same folder is skipped, since its target is scanned itself; a link that
   leads out of it is reported as not followed. `patterns` has the same for patterns.
3. Within a folder, only regular files count: no pipes, sockets or devices.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from safemodel._types import StrPath

NOT_FOLLOWED = "a link that leads out of the folder; name it to follow it"
_MAGIC = "*?["


class Target(NamedTuple):
    """A file to look at, or why there is none."""

    path: str
    problem: str = ""


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
        yield from _matches(path) or [Target(path, reason(error))]
        return
    if stat.S_ISDIR(status.st_mode):
        yield from walk(path)
    else:
        yield Target(path)


def _matches(pattern: str) -> list[Target]:
    """Return what a pattern stands for; nothing for a plain path."""
    if not any(mark in pattern for mark in _MAGIC):
        return []
    from safemodel._scan.patterns import find_matches

    return list(find_matches(pattern))


def walk(folder: str, within: str = "") -> Iterator[Target]:
    """Yield the files below a folder.

    Args:
        folder: The folder.
        within: Real path of a folder around it: a link to a file there is followed.
    """
    root = os.path.realpath(folder)
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            found = entries_of(current)
        except OSError as error:
            yield Target(current, reason(error))
            continue
        below: list[str] = []
        for entry in found:
            if entry.is_symlink():
                if leads_out(entry.path, root):
                    known = within and not leads_out(entry.path, within)
                    followed = known and entry.is_file()
                    yield Target(entry.path, "" if followed else NOT_FOLLOWED)
            elif entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield Target(entry.path)
        waiting += reversed(below)


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in the order of names."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def leads_out(link: str, root: str) -> bool:
    """Tell whether a link leads out of a folder, whose real path is given (rule 2)."""
    target = os.path.realpath(link)
    return target != root and not target.startswith(root.rstrip(os.sep) + os.sep)


def blobs_of(folder: Path) -> str:
    """Return the folder of blobs beside a snapshot in a hub's cache, "" for others."""
    if folder.parent.name != "snapshots":
        return ""
    # As it stands: if it is a link itself, what it leads to is out of reach.
    return str(folder.parent.parent / "blobs")


def reason(error: OSError | ValueError) -> str:
    """Return why the system refuses, in its words."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
