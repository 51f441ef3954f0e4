"""A small file for its owner alone, which appears whole."""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from safemodel._rewrite.commit import sync_folder
from safemodel._rewrite.output import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PRIVATE = 0o600
_MOST_NAME = 50
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def write_private(
    path: Path, text: Callable[[], bytes], size: int, *, replace: bool = False
) -> None:
    """Write a file with mode 0600; unless told otherwise, where none is.

    Args:
        path: The file.
        text: Gives its content, so that no frame of a traceback holds it.
        size: Bytes of that.
        replace: Take the place of a file that is there.

    Raises:
        FileExistsError: There is something of that name; it stays as it is.
        OSError: Writing failed, or the file system has no modes or hard links.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(17, "File exists", str(path))
    name = path.name[:_MOST_NAME]
    part = path.with_name(f".{name}.{secrets.token_hex(8)}{SUFFIX}")
    descriptor = os.open(part, _NEW, _PRIVATE)
    try:
        # Before there is anything to read.
        os.fchmod(descriptor, _PRIVATE)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != _PRIVATE:
            raise OSError(95, "the file system keeps no modes", str(path.parent))
        if os.write(descriptor, text()) < size:
            raise OSError(5, "not all bytes could be written", str(path))
        os.fsync(descriptor)
        if replace:
            part.replace(path)
        else:
            # Unlike a rename, a link never replaces what appeared meanwhile.
            os.link(part, path)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
