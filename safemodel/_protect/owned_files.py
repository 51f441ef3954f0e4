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


def only_line(text: bytes, most: int, of: str) -> tuple[str, str]:
    """Return the one line of a file that is no comment, and what is wrong, or "".

    Args:
        text: The file.
        most: How many bytes it may have.
        of: What the line is, as errors call it.
    """
    if len(text) > most:
        return "", f"a {of} file has at most {most:,} bytes"
    lines = [line.strip(b" \t\r") for line in text.split(b"\n")]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if len(lines) != 1:
        return "", f"a {of} file has one line with a {of}, this one has {len(lines)}"
    return lines[0].decode("ascii", "replace"), ""


def check_of(line: str) -> str:
    """Return the checksum of a line, which finds damage and nothing else."""
    from hashlib import sha256

    return sha256(line.encode("ascii")).hexdigest()[:8]
