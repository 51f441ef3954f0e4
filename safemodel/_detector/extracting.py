"""Candidates of a file as files of their own.

1. Nothing is run, unpacked or given a name from the file: a file is called after the
   one that was looked at, a number, and ``.bin``.
2. Nothing is replaced: a name that is taken gets another number.
3. Only the user may read what is written, and nobody run it.
4. At most `MOST` candidates are written, the most certain first, and together no more
   bytes than eight for each number of the file: a head may claim any length.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from safemodel._detector.detecting import pieces_extracted
from safemodel._value import Value

if TYPE_CHECKING:
    from typing import IO

    from safemodel._detector.evidence import Candidate
    from safemodel._detector.results import Detection
    from safemodel.limits import Limits

MOST = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 100
_MODE = 0o600
_ATTEMPTS = 10_000


class Extracted(Value):
    """A candidate that was written to a file.

    Attributes:
        path: Where it is.
        candidate: Which one it is, by its place among the candidates.
        size: Its bytes.
        sha256: Their SHA-256, in hexadecimal.
    """

    path: str
    candidate: int
    size: int
    sha256: str


def write_candidates(
    f: str, found: Detection, folder: str, limits: Limits | None
) -> tuple[Extracted, ...]:
    """Write the bytes of candidates into a folder, which is made if need be.

    Args:
        f: The file they are in.
        found: What was found in it.
        folder: Where to write.
        limits: How much the file may ask for.

    Raises:
        OSError: Writing failed; what was written before is there.
        SafeModelError: The file has changed since.
    """
    if not found.candidates:
        return ()
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - any path
    base = _UNSAFE.sub("_", os.path.basename(f.rstrip("/")))[:_LONGEST] or "payload"  # noqa: PTH119 - any path
    budget = _bytes_of(found)
    written: list[Extracted] = []
    for at, candidate in enumerate(found.candidates[:MOST]):
        one = _write(f, candidate, (folder, base, at), budget, limits)
        budget -= one.size
        written.append(one)
        if budget <= 0:
            break
    return tuple(written)


def _bytes_of(found: Detection) -> int:
    """Return how many bytes may be written (rule 4)."""
    return sum(8 * one.size for one in found.by_tensor)


def _write(
    f: str,
    candidate: Candidate,
    place: tuple[str, str, int],
    budget: int,
    limits: Limits | None,
) -> Extracted:
    folder, base, at = place
    file, path = _new_file(folder, f"{base}-{at + 1}")
    digest, size = sha256(), 0
    try:
        with file:
            pieces = pieces_extracted(f, candidate, length=0, limits=limits)
            for piece in pieces:
                part = piece[: budget - size]
                file.write(part)
                digest.update(part)
                size += len(part)
                if size >= budget:
                    pieces.close()
                    break
    except BaseException:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - any path
        raise
    return Extracted(path=path, candidate=at, size=size, sha256=digest.hexdigest())


def _new_file(folder: str, stem: str) -> tuple[IO[bytes], str]:
    """Open a file that was not there before (rules 2 and 3)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    for number in range(_ATTEMPTS):
        name = f"{stem}.{number}.bin" if number else f"{stem}.bin"
        path = os.path.join(folder, name)  # noqa: PTH118 - any path
        try:
            return os.fdopen(os.open(path, flags, _MODE), "wb"), path
        except FileExistsError:
            continue
    raise FileExistsError(f"{folder}: too many files of one name")
