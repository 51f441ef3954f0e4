"""What comes out of somebody's stream that unpacks, within the bounds of a pickle."""

from __future__ import annotations

import io
from typing import Any

from safemodel.errors import LimitExceededError
from safemodel.limits import DEFAULT_LIMITS

_PIECE = 1 << 16
_PACKERS = ("bz2", "gzip", "lzma", "zipfile", "zlib")


def in_memory(stream: Any) -> io.BytesIO:
    """Return all that a stream gives.

    Raises:
        LimitExceededError: It is more than a pickle may have.
    """
    allowed = DEFAULT_LIMITS.max_pickle_bytes
    found = io.BytesIO()
    while piece := stream.read(_PIECE):
        if found.tell() + len(piece) > allowed:
            raise LimitExceededError(
                "max_pickle_bytes", allowed=allowed, requested=found.tell() + len(piece)
            )
        found.write(piece)
    found.seek(0)
    return found


def bounded(f: Any) -> Any:
    """Return a file as it is if it holds what it gives; else what it unpacks to.

    Raises:
        LimitExceededError: That is more than a pickle may have.
    """
    plain = (io.BytesIO, io.BufferedReader, io.BufferedRandom, io.FileIO, bytes)
    holds = isinstance(f, plain) and not unpacks(f)
    return f if holds or not hasattr(f, "read") else in_memory(f)


def unpacks(f: object) -> bool:
    """Return whether a file gives more than it holds, by what made it."""
    return type(getattr(f, "raw", f)).__module__ in _PACKERS
