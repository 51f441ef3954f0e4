"""The highest epoch that was seen of each protected file: who has it, sees replays.

An older version of a protected file is as whole as the newest one. Only who remembers
the newest can tell, and a small text file remembers::

    safemodel-epochs-1
    <file id, 64 digits> <epoch>
    sha256 <digest, 64 digits>

1. Digits of ids and of the digest are hexadecimal and lower case, epochs are decimal,
   files are in ascending order of ids: what is remembered has one text. The digest is
   of all lines before it. It finds damage; who can write the file can lower an epoch,
   or take the file away.
2. What is not such a text, to the byte, is an error, and stays as it is. A file that is
   not there remembers nothing.
3. It is a regular file of at most 65,536 lines, of the user or of root, that nobody
   else may write; the name itself is no link.
4. It is changed by one process at a time, which holds a lock on ``FILE.lock``: a file
   of its own, because the other one is replaced. It is read once more under the lock.
5. It is replaced in one step, once it is on the disk, with mode 0600.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from safemodel._protect.owned_files import NOT_WRITTEN, read_owned
from safemodel.errors import StateFormatError, VerificationError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._types import StrPath

MAX_FILES = 1 << 16
MAX_EPOCH = (1 << 63) - 1  # as the header of a seal bounds it
FILE_ID_BYTES = 32
_FIRST = "safemodel-epochs-1\n"
_VERSION = re.compile(rb"safemodel-epochs-([0-9]{1,4})\n")
_LINE = re.compile(rf"([0-9a-f]{{{2 * FILE_ID_BYTES}}}) ([0-9]{{1,19}})\n")
_LAST = re.compile(r"sha256 [0-9a-f]{64}\n")
_LAST_BYTES = 72
_LINE_BYTES = 2 * FILE_ID_BYTES + 21
_MAX_BYTES = len(_FIRST) + MAX_FILES * _LINE_BYTES + _LAST_BYTES
_PRIVATE = 0o600
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_PATIENCE_S = 30.0
_PAUSE_S = 0.005


class EpochState:
    """Remembers in a file the highest epoch that was seen of each protected file.

    Any number of processes and threads may use one file. It is made when the first
    epoch is recorded; keep it where nobody else may write.

    Args:
        path: The file.

    Raises:
        ValueError: The path has no name.

    Attributes:
        path: The file.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not self.path.name:
            raise ValueError(f"not the name of a file: {quote(str(self.path))}")
        self._lock = self.path.with_name(f"{self.path.name}.lock")

    def highest(self, file_id: bytes) -> int | None:
        """Return the highest epoch that was recorded of a file; None before the first.

        Args:
            file_id: Which file: the 32 bytes that stay when it is protected anew.

        Raises:
            OSError: The state cannot be read.
            StateFormatError: It is damaged, or others may write it.
            ValueError: ``file_id`` is not 32 bytes.
        """
        _check_file_id(file_id)
        return self._read().get(file_id)

    def check(self, file_id: bytes, epoch: int) -> None:
        """Raise if a higher epoch of this file was seen before.

        Args:
            file_id: Which file.
            epoch: Which of its versions this is.

        Raises:
            OSError: The state cannot be read.
            StateFormatError: It is damaged, or others may write it.
            ValueError: ``file_id`` is not 32 bytes, or ``epoch`` is out of range.
            VerificationError: An older version stands in the place of a newer one.
        """
        _check_epoch(epoch)
        _check_mark(self.highest(file_id), epoch)

    def record(self, file_id: bytes, epoch: int) -> None:
        """Remember that a file was seen in an epoch. Nothing is written if it was.

        Args:
            file_id: Which file.
            epoch: Which of its versions was seen.

        Raises:
            OSError: The state cannot be read or written.
            StateFormatError: It is damaged or full, or others may write it; it stays as
                it is.
            TimeoutError: Another process has held the lock for 30 seconds.
            ValueError: ``file_id`` is not 32 bytes, or ``epoch`` is out of range.
            VerificationError: A higher epoch was seen, maybe only meanwhile.
        """
        from safemodel._protect.key_files import write_private

        _check_file_id(file_id)
        _check_epoch(epoch)
        if self._read().get(file_id) == epoch:
            return
        with self._locked():
            marks = self._read()
            mark = marks.get(file_id)
            _check_mark(mark, epoch)
            if len(marks) >= MAX_FILES and mark is None:
                raise self._refused(f"it is full: it holds {MAX_FILES:,} files")
            marks[file_id] = epoch
            text = _encoded(marks)
            write_private(self.path, lambda: text, len(text), replace=True)

    def _read(self) -> dict[bytes, int]:
        """Return the epoch of each file (rules 2 and 3)."""
        try:
            data = read_owned(self.path, _MAX_BYTES, others=NOT_WRITTEN, link=False)
        except FileNotFoundError:
            return {}
        except OSError as error:
            if self.path.is_symlink():
                raise self._refused("it is a link") from error
            raise
        marks = _decoded(data)
        if isinstance(marks, str):
            raise self._refused(marks)
        return marks

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all others from changing the file (rule 4)."""
        patience = time.monotonic() + _PATIENCE_S
        descriptor = self._try_lock()
        while descriptor is None:
            if time.monotonic() > patience:
                raise TimeoutError(110, "Another process keeps it locked", str(self))
            time.sleep(_PAUSE_S)
            descriptor = self._try_lock()
        try:
            yield
        finally:
            os.close(descriptor)  # which ends the lock, as the end of a process does

    def _try_lock(self) -> int | None:
        """Return the locked descriptor, or None while somebody else has the lock."""
        import fcntl  # not on every system that can import this package

        descriptor = os.open(self._lock, _LOCK, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, there = os.fstat(descriptor), os.lstat(self._lock)
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # Somebody may have cleared the file away: then others lock another one.
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
            return descriptor
        os.close(descriptor)
        return None

    def _refused(self, reason: str) -> StateFormatError:
        return StateFormatError(f"{quote(str(self))}: {reason}")

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<EpochState {quote(str(self))}>"


def _check_file_id(file_id: bytes) -> None:
    if type(file_id) is not bytes or len(file_id) != FILE_ID_BYTES:
        raise ValueError(f"the id of a file is {FILE_ID_BYTES} bytes")


def _check_epoch(epoch: int) -> None:
    if type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
        raise ValueError("an epoch is a number from 0 to 2**63 - 1")


def _check_mark(mark: int | None, epoch: int) -> None:
    """Raise if an epoch is below the highest that was seen."""
    if mark is not None and epoch < mark:
        raise VerificationError(
            f"an old version: it is of epoch {epoch:,}, and epoch {mark:,} of the same"
            " file was seen before"
        )


def _encoded(marks: dict[bytes, int]) -> bytes:
    """Return the text of what is remembered (rule 1)."""
    lines = [f"{file_id.hex()} {epoch}\n" for file_id, epoch in sorted(marks.items())]
    text = (_FIRST + "".join(lines)).encode("ascii")
    return text + f"sha256 {sha256(text).hexdigest()}\n".encode("ascii")


def _decoded(data: bytes | str) -> dict[bytes, int] | str:
    """Return the epoch of each file, or what is wrong with a text (rule 2)."""
    if isinstance(data, str):
        return data
    if len(data) > _MAX_BYTES:
        return f"it has more than {_MAX_BYTES:,} bytes"
    version = _VERSION.match(data)
    if version is not None and version[0] != _FIRST.encode("ascii"):
        return "epochs in another version of this format"
    text = data.decode("ascii", "replace")
    body, last = text[:-_LAST_BYTES], text[-_LAST_BYTES:]
    if version is None or not _LAST.fullmatch(last):
        return "not a file of epochs, or damaged"
    if not hmac.compare_digest(last[7:-1], sha256(data[:-_LAST_BYTES]).hexdigest()):
        return "the checksum does not match: it is damaged"
    lines = _LINE.findall(body, len(_FIRST))
    marks = {bytes.fromhex(file_id): int(epoch) for file_id, epoch in lines}
    # Whatever else it holds would be lost when it is written.
    if max(marks.values(), default=0) > MAX_EPOCH or _encoded(marks) != data:
        return "not a file of epochs: it is not written as one"
    return marks
