"""What a glob pattern stands for, without following a link that nobody named.

Python's `glob` follows links to folders: in a tree of somebody else, one to ``/`` leads
through the whole machine, and two that lead in a circle never end.

Rules:

1. Steps before the first one with a wildcard are named by the caller, links included.
2. ``**`` stands for any number of folders, none included; at the end for all below.
3. As in a shell, a name that starts with a dot is matched by its dot only.
4. What a step finds is no link, or a link to a file below the folder of rule 1. Other
   links to folders below it are passed over, and those that lead out are reported.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import TYPE_CHECKING

from safemodel._scan.paths import (
    NOT_FOLLOWED,
    Target,
    entries_of,
    leads_out,
    reason,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = re.compile(r"[*?[]")
_ANY_DEPTH = "**"


def find_matches(pattern: str) -> Iterator[Target]:
    """Yield the files that a pattern matches, and those below folders it matches."""
    steps = [step for step in pattern.split("/") if step]
    fixed = next((at for at, step in enumerate(steps) if _MAGIC.search(step)), None)
    if fixed is None:
        return
    top = "/" * pattern.startswith("/") + "/".join(steps[:fixed])
    if os.path.isdir(top or "."):  # noqa: PTH112 - pathlib costs start-up time
        yield from _match(top, steps[fixed:])


def _match(top: str, steps: list[str]) -> Iterator[Target]:
    """Yield what steps lead to from a folder."""
    search = _Search(os.path.realpath(top), steps)
    waiting: list[tuple[str, int]] = [(top, 0)]
    # More than one ** leads to a folder in more than one way.
    seen: set[tuple[str, int]] = set()
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        below: list[tuple[str, int]] = []
        for found in search.step(*state):
            if isinstance(found, Target):
                yield found
            else:
                below.append(found)
        waiting += reversed(below)


class _Search:
    """What one step of a pattern finds in one folder.

    A target is a result; a folder and the index of a step is where to go on.
    """

    def __init__(self, root: str, steps: list[str]) -> None:
        self._root = root
        self._steps = steps
        self._matchers = [re.compile(fnmatch.translate(step)).match for step in steps]

    def step(self, folder: str, at: int) -> Iterator[Target | tuple[str, int]]:
        """Yield what a step finds in a folder."""
        if self._steps[at] == _ANY_DEPTH:
            if self._is_last(at):
                yield from walk(folder or ".", self._root)
                return
            yield folder, at + 1
        try:
            entries = entries_of(folder or ".")
        except OSError as error:
            yield Target(folder, reason(error))
            return
        dots = self._steps[at].startswith(".")
        for entry in entries:
            if self._matchers[at](entry.name) and entry.name.startswith(".") <= dots:
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - as above
                yield from self._found(entry, path, at)

    def _found(
        self, entry: os.DirEntry[str], path: str, at: int
    ) -> Iterator[Target | tuple[str, int]]:
        """Yield what an entry that matches is."""
        last = self._is_last(at)
        if entry.is_symlink():
            yield from self._link(path, last=last)
        elif entry.is_dir(follow_symlinks=False):
            if last:
                yield from walk(path, self._root)
            else:
                yield path, at + (self._steps[at] != _ANY_DEPTH)
        elif last and entry.is_file(follow_symlinks=False):
            yield Target(path)

    def _link(self, path: str, *, last: bool) -> Iterator[Target]:
        """Yield a link, or why it is not followed (rule 4)."""
        folder = os.path.isdir(path)  # noqa: PTH112 - as above
        if (folder or last) and leads_out(path, self._root):
            yield Target(path, NOT_FOLLOWED)
        elif last and not folder:
            yield Target(path)

    def _is_last(self, at: int) -> bool:
        return at == len(self._steps) - 1
