"""Small files of the user's own, read only where nobody else can have written them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safemodel._types import StrPath

NOT_READ = stat.S_IRWXG | stat.S_IRWXO
"""Modes of what is a secret: nobody else may do anything with it."""

NOT_WRITTEN = stat.S_IWGRP | stat.S_IWOTH
"""Modes of what is none, but decides something: nobody else may write it."""

# Opening a pipe would wait for somebody to write.
_OLD = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read_owned(
    path: StrPath, most: int, *, others: int, link: bool = True
) -> bytes | str:
    """Return the bytes of a file of the user or of root, or what is wrong with it.

    Nothing is raised but what the system says, because a traceback would hold on to a
    secret.

    Args:
        path: The file.
        most: How many bytes it may have; one more is returned where it has more.
        others: Which bits of the mode must not be set; without any, the file may belong
            to somebody else.
        link: Whether the name may be that of a link.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, _OLD | (0 if link else os.O_NOFOLLOW))
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return "not a regular file"
        mode = stat.S_IMODE(about.st_mode)
        if mode & others:
            may = "use" if others == NOT_READ else "write"
            return f"others may {may} it (mode {mode:04o}); chmod 600 makes it private"
        if others and about.st_uid not in (0, os.geteuid()):
            return "it belongs to another user"
        # Not all at once: another process may make the file longer meanwhile.
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(most + 1)
    finally:
        os.close(descriptor)
