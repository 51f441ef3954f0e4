"""What is written down about each file that a patched process opened.

Rules:

1. An entry is written whether the file was loaded or refused, before the caller sees
   either.
2. What cannot be written down is not loaded: an error of the audit reaches the caller.
3. One entry is one line, written at once, so that several processes share a file.
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from safemodel._patch.bounded import unpacks
from safemodel._value import Value
from safemodel.errors import (
    MalformedFileError,
    SafeModelError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._patch.call_sites import CallSite

Outcome: TypeAlias = Literal["loaded", "refused", "malformed", "unsupported", "error"]
LOG_VARIABLE = "SAFEMODEL_LOG"
_PIECE = 1 << 20
_LONGEST_ERROR = 500
_LONGEST_NAME = 200
_MOST_NAMES = 20


class Digest(NamedTuple):
    """Size and SHA-256 of what was to be read; see `OpenedFile`."""

    size: int
    sha256: str


_UNKNOWN = Digest(-1, "")


class OpenedFile(Value):
    """One file that a patched process opened.

    Attributes:
        time: When, in UTC, as ISO 8601.
        call: What the code called, such as ``torch.load``.
        path: The file; "" for bytes and for file objects without a name.
        size: Its bytes, from where it was read on; -1 if it cannot be known.
        sha256: Of these bytes, as hexadecimal digits; "" if they cannot be read twice.
        outcome: ``loaded``; ``refused`` for what it asks, or for want of its key;
            ``malformed``; ``unsupported``; ``error`` if it is not about the file.
        error: The error's class and message; "" if there was none.
        opaque: Globals that the file names and that became inert `Opaque` values; at
            most 20 of them, the worst first.
        file: Source file of the code that asked.
        line: Line of it.
        process: Id of the process.
    """

    time: str
    call: str
    path: str
    size: int
    sha256: str
    outcome: Outcome
    error: str
    opaque: tuple[str, ...]
    file: str
    line: int
    process: int

    def to_dict(self) -> dict[str, Any]:
        """Return the members as plain data."""
        return {**vars(self), "opaque": list(self.opaque)}

    def to_json(self) -> str:
        """Return one line of JSON."""
        import json

        return json.dumps(self.to_dict())


def opened_file(
    call: str,
    f: object,
    digest: Digest,
    error: BaseException | None,
    where: CallSite,
    opaque: Iterable[str] = (),
) -> OpenedFile:
    """Return the entry for a file that was loaded, or refused with an error."""
    from datetime import UTC, datetime

    return OpenedFile(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        call=call, path=_path(f), size=digest.size, sha256=digest.sha256,
        outcome=_outcome(error),
        error=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR] if error else "",
        opaque=_worst(opaque),
        file=where.file, line=where.line, process=os.getpid(),
    )  # fmt: skip


def write_line(path: str, opened: OpenedFile) -> None:
    """Append an entry to a log.

    Raises:
        OSError: It cannot be written.
    """
    line = opened.to_json().encode() + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written to a log")
    finally:
        os.close(descriptor)


def digest_of(f: object) -> Digest:
    """Return size and SHA-256 of what is about to be read; a stream is put back."""
    from hashlib import sha256

    try:
        if isinstance(f, (str, os.PathLike)):
            return _of_path(os.fspath(f))
        if isinstance(f, (bytes, bytearray, memoryview)):
            return Digest(memoryview(f).nbytes, sha256(f).hexdigest())
        stream = cast("IO[bytes]", f)
        start = stream.tell()
        try:
            return _of_stream(
                stream, most=DEFAULT_LIMITS.max_pickle_bytes if unpacks(f) else None
            )
        finally:
            stream.seek(start)
    # Somebody's own stream raises what it likes; the loader is about to meet the same.
    except Exception:  # noqa: BLE001
        return _UNKNOWN


def _of_path(path: str | bytes) -> Digest:
    # O_NONBLOCK: a named pipe would wait for a writer, and be empty afterwards.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _UNKNOWN
        return _of_stream(opened)


def _of_stream(stream: IO[bytes], most: int | None = None) -> Digest:
    from hashlib import sha256

    digest, size = sha256(), 0
    while piece := stream.read(_PIECE):
        digest.update(piece)
        size += len(piece)
        if most is not None and size > most:
            # A bomb is not to be read to its end.
            return _UNKNOWN
    return Digest(size, digest.hexdigest())


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "loaded"
    if isinstance(error, MalformedFileError):
        return "malformed"
    if isinstance(error, UnsupportedFormatError):
        return "unsupported"
    return "refused" if isinstance(error, SafeModelError) else "error"


def _worst(names: Iterable[str]) -> tuple[str, ...]:
    """Return some of the names that a file asks for, the worst first."""
    from safemodel._scan.danger import severity_of
    from safemodel.reports import Severity

    def harmless(dotted: str) -> bool:
        module, _, name = dotted.rpartition(".")
        return severity_of(module, name) is not Severity.DANGER

    order = sorted(dict.fromkeys(names), key=harmless)
    return tuple(name[:_LONGEST_NAME] for name in order[:_MOST_NAMES])


def _path(f: object) -> str:
    if isinstance(f, (str, os.PathLike)):
        return os.fsdecode(f)
    name = getattr(f, "name", "")
    return name if isinstance(name, str) else ""
