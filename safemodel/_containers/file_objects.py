"""What binary file objects hold, whoever made them: nothing they say is trusted."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any

_CHUNK = 1 << 20


def position_of(file: Any) -> int | None:
    """Return where a file object stands, or None if it cannot be moved."""
    try:
        if not file.seekable():
            return None
        position = file.tell()
    except (AttributeError, OSError, ValueError):
        return None
    return position if type(position) is int and position >= 0 else None


def is_plain_file(file: Any) -> bool:
    """Tell whether the descriptor behind a file object has the bytes it would read."""
    # Exact types: `fileno()` of a gzip file is that of the compressed bytes.
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO or not raw.readable():
        return False
    return stat.S_ISREG(os.fstat(raw.fileno()).st_mode)


def read_all(file: Any) -> bytes | bytearray:
    """Read a stream to its end, without trusting any length it may announce."""
    if type(file) is io.BytesIO:
        return file.read()  # shares its bytes where it can
    data = bytearray()
    while True:
        chunk = file.read(_CHUNK)
        if isinstance(chunk, str):
            raise TypeError("the file object is in text mode; open it with 'rb'")
        if chunk is None:
            raise BlockingIOError(errno.EAGAIN, "the file object has no data yet")
        if not chunk:
            return data
        data += chunk
