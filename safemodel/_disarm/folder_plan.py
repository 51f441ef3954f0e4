"""Which files of a folder are disarmed, and into what: decided before any is opened.

Rules:

1. The folder is walked in the order of its names, without recursion. What is hidden is
   left behind, and so is what is no regular file.
2. A link is followed only if it leads to a regular file within the folder, or from a
   snapshot of a hub's cache into the blobs of the same model. It is never followed to
   a folder.
3. Two files never become one, also not on a system that ignores case: the one that
   keeps its name comes first, then the first by name.
4. Names and links may repeat a file; how often is bounded by `Limits`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safemodel._disarm.folder_names import bad_name, folded, naming
from safemodel._scan.paths import blobs_of, entries_of, leads_out, reason
from safemodel._scan.render import printable
from safemodel.errors import LimitExceededError
from safemodel.reports import LeftBehind

if TYPE_CHECKING:
    from safemodel._disarm.folder_names import Kind
    from safemodel._rewrite.writers import Form
    from safemodel.limits import Limits


_MOST_PATH = 1024
"""Bytes of a path within the folder: where it is put may have a long one, too."""


class Task(NamedTuple):
    """One file to disarm.

    Attributes:
        name: Its path within the folder.
        path: The file to open.
        size: Its bytes.
        kind: What it may be.
        out: Path of the new file, within the new folder.
        form: The format of the new file, if it is a model.
        is_shard: Whether an index names it.
    """

    name: str
    path: str
    size: int
    kind: Kind
    out: str
    form: Form | None
    is_shard: bool = False


class Plan(NamedTuple):
    """What to do with a folder.

    Attributes:
        tasks: Files to disarm, in the order of names.
        left: What is left behind without being opened.
        size: Bytes of all files.
    """

    tasks: list[Task]
    left: list[LeftBehind]
    size: int


class _Found(NamedTuple):
    """A regular file: path within the folder, path to open, bytes, identity."""

    name: str
    path: str
    size: int
    identity: tuple[int, int]


def plan_folder(folder: Path, form: Form | None, limits: Limits) -> Plan:
    """Walk a folder; return what to do with each of its files.

    Args:
        folder: The folder.
        form: The format that all models get; None if each keeps its own.
        limits: `max_records`, `max_depth` and `max_amplification` apply.

    Raises:
        LimitExceededError: There are too many files, or one is there too often.
        OSError: The folder cannot be read.
    """
    walk = _Walk(folder, limits)
    walk.run()
    _check_repeats(walk.found, limits)
    tasks: list[Task] = []
    for found in sorted(walk.found):
        place, _, name = found.name.rpartition("/")
        named = naming(name, form)
        if named.kind == "left":
            walk.leave(found.name, found.size, named.why)
            continue
        out = f"{place}/{named.out}" if place else named.out
        tasks.append(
            Task(found.name, found.path, found.size, named.kind, out, named.form)
        )
    tasks = _without_collisions(tasks, walk)
    return Plan(tasks, walk.left, sum(found.size for found in walk.found))


class _Walk:
    """A walk through a folder (rules 1 and 2)."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.found: list[_Found] = []
        self.left: list[LeftBehind] = []
        self._folder = str(folder)
        self._real = os.path.realpath(folder)
        self._blobs = blobs_of(Path(self._real))
        self._limits = limits

    def run(self) -> None:
        """Look at everything below the folder."""
        waiting = [""]
        while waiting:
            place = waiting.pop()
            try:
                entries = entries_of(os.path.join(self._folder, place))  # noqa: PTH118 - as fast as can be
            except OSError as error:
                if not place:
                    raise
                why = f"it cannot be read: {reason(error)}"
                self.leave(f"{place}/", 0, why, lost=True)
                continue
            below = [self._entry(entry, place) for entry in entries]
            waiting += [folder for folder in reversed(below) if folder]

    def leave(self, name: str, size: int, why: str, *, lost: bool = False) -> None:
        """Note what is left behind.

        Args:
            name: Its path within the folder, with a slash behind a folder.
            size: Its bytes.
            why: Why it is.
            lost: Whether it would have been looked at, so that weights may be missing.
        """
        kind = "folder" if name.endswith("/") else "file"
        if lost and (
            kind == "folder" or naming(name.rpartition("/")[2], None).kind == "model"
        ):
            kind = "refused"
        self.left.append(
            LeftBehind(kind=kind, name=printable(name), size=size, why=why)
        )
        self._count()

    def _count(self) -> None:
        count, allowed = len(self.found) + len(self.left), self._limits.max_records
        if count > allowed:
            raise LimitExceededError("max_records", allowed=allowed, requested=count)

    def _entry(self, entry: os.DirEntry[str], place: str) -> str:
        """Note a file or what is left behind; return the path of a folder."""
        name = f"{place}/{entry.name}" if place else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        shown = f"{name}/" if is_folder else name
        if entry.name.startswith("."):
            self.leave(shown, 0, "hidden")
        elif why := bad_name(entry.name):
            self.leave(shown, 0, why, lost=True)
        elif len(name.encode()) > _MOST_PATH:
            why = f"its path has more than {_MOST_PATH:,} bytes"
            self.leave(shown, 0, why, lost=True)
        elif is_folder:
            if name.count("/") + 1 < self._limits.max_depth:
                return name
            self.leave(shown, 0, "too many folders within each other", lost=True)
        else:
            self._file(entry, name)
        return ""

    def _file(self, entry: os.DirEntry[str], name: str) -> None:
        """Note a file, or why it is left behind."""
        path = entry.path
        if entry.is_symlink():
            path = os.path.realpath(path)
            if not self._may_follow(path):
                # It may lead to a folder of models as well as to one of them.
                shown = f"{name}/" if Path(path).is_dir() else name
                self.leave(shown, 0, "a link that leads out of the folder", lost=True)
                return
        try:
            # Of the path: what `scandir` knows of a file may be old, and has no inode.
            status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - one call a file
        except OSError as error:
            self.leave(name, 0, f"it cannot be read: {reason(error)}", lost=True)
            return
        if stat.S_ISLNK(status.st_mode):
            self.leave(name, 0, "a link that leads to itself", lost=True)
            return
        if not stat.S_ISREG(status.st_mode):
            what = "a link to a folder" if stat.S_ISDIR(status.st_mode) else ""
            self.leave(name, 0, what or "a pipe, socket or device")
            return
        identity = (status.st_dev, status.st_ino)
        self.found.append(_Found(name, path, status.st_size, identity))
        self._count()

    def _may_follow(self, target: str) -> bool:
        """Tell whether a link to a real path may be followed (rule 2)."""
        if not leads_out(target, self._real):
            return True
        return bool(self._blobs) and os.path.dirname(target) == self._blobs  # noqa: PTH120 - a text


def _check_repeats(found: list[_Found], limits: Limits) -> None:
    """Check how often files are there under several names (rule 4)."""
    total = sum(file.size for file in found)
    once = sum({file.identity: file.size for file in found}.values())
    more = total - once
    if more > limits.min_amplified_bytes and total > limits.max_amplification * once:
        raise LimitExceededError(
            "max_amplification",
            allowed=limits.max_amplification,
            requested=round(total / max(once, 1), 1),
        )


def _without_collisions(tasks: list[Task], walk: _Walk) -> list[Task]:
    """Return the tasks whose new names are free (rule 3)."""
    files: dict[str, str] = {}
    folders: set[str] = set()
    kept = []
    for task in sorted(tasks, key=lambda task: (task.out != task.name, task.name)):
        key = folded(task.out)
        parents = {key[:at] for at, one in enumerate(key) if one == "/"}
        other = files.get(key)
        if other is None and key not in folders and parents.isdisjoint(files):
            files[key] = task.name
            folders |= parents
            kept.append(task)
            continue
        what = f"{printable(other)} is written there" if other else "a folder is there"
        why = f"it would become {printable(task.out)}, and {what}"
        walk.leave(task.name, task.size, why)
    return sorted(kept)
