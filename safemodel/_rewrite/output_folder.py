"""A folder that appears whole or not at all.

1. It is made beside the target, under another name: renaming it is one step.
2. What is in it is on the disk before it gets its name: files that are not yet, all
   at once, then the names.
3. A folder that is there is never replaced, which takes two steps.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safemodel._rewrite.commit import sync_files, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PART = ".safemodel-part"
_MOST_NAME = 50
"""Characters of a name within another one, so that this one is not too long."""


def checked_target(folder: Path, target: Path) -> Path:
    """Return where the new folder will be, by its real parent.

    Raises:
        FileExistsError: There is something already.
        FileNotFoundError: The folder around it is not there.
        ValueError: One folder is, or would be, within the other.
    """
    # Real paths: a link may lead from one folder into the other.
    source, parent = Path(os.path.realpath(folder)), target.parent.resolve(strict=True)
    real = parent / target.name if target.name not in ("", "..") else target.resolve()
    if real == source:
        raise ValueError(f"the new folder is the one to read: {target}")
    if source in real.parents:
        raise ValueError(f"the new folder would lie within the one to read: {target}")
    if os.path.lexists(real):
        if real.is_symlink() or not real.is_dir():
            raise FileExistsError(errno.EEXIST, "not a folder", str(target))
        if real in source.parents:
            raise ValueError(f"the folder to read lies within the new one: {folder}")
        if any(real.iterdir()):
            what = "a folder that is not empty cannot be replaced; remove it first"
            raise FileExistsError(errno.EEXIST, what, str(target))
    return real


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, beside the target; it is gone afterwards if still there.

    Raises:
        OSError: The folder around it cannot be written to.
    """
    name = target.name[:_MOST_NAME]
    part = target.with_name(f".{name}.{secrets.token_hex(8)}{_PART}")
    try:
        part.mkdir()
    except OSError as error:
        # It is the folder around that cannot be written to.
        raise OSError(error.errno, error.strerror, str(part.parent)) from error
    try:
        yield part
    finally:
        if part.exists():
            shutil.rmtree(part)


def commit_folder(part: Path, target: Path, unsynced: Iterable[Path] = ()) -> None:
    """Give a folder its name, if that is free or an empty folder has it.

    Args:
        part: The folder.
        target: Its name.
        unsynced: Files in it that may not be on the disk yet (rule 2).

    Raises:
        OSError: It is not free, or the disk fails.
    """
    sync_files(unsynced)
    for place, _, _ in os.walk(part, topdown=False):
        sync_folder(Path(place))
    # The system refuses to replace a folder that has filled meanwhile.
    part.rename(target)
    sync_folder(target.parent)
