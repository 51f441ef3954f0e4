"""Room for pools that do not fit in memory: files that have no name.

1. A file has no name from the start, or loses it before a byte is written: whatever
   ends the process, nothing is left behind.
2. It lies in the folder the caller names, beside what is written there. Its owner alone
   may open it.
3. A *private* file holds ciphertext: AES-256 in counter mode under a random key that is
   in this process only. What was on a disk can be read long after the file is gone.
4. Each byte is written once. Two texts under one place of a keystream give away how
   they differ.
5. What is small stays in memory.
6. Files are read and written, never mapped: a full or failing disk is an `OSError` and
   no signal.
7. Where a caller says what belongs together, that has a file of its own. Threads that
   write to one file wait for each other, and keep a processor busy with that; and a
   file that is done with can be given up, before the system sends it to the disk.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from bisect import bisect_right
from contextlib import ExitStack
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Self

from safemodel._rewrite.output import MOST_WRITTEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from cryptography.hazmat.primitives.ciphers import CipherContext

    from safemodel._types import StrPath

BUDGET = 32 << 20
"""Bytes of the largest file that stays in memory."""

_AES_BLOCK = 16
_PIECE = 1 << 18  # bytes that are encrypted at a time


class Scratch:
    """Makes files in a folder, on demand.

    Args:
        folder: Where; it must have room for all that is open at a time.
        private: Whether what they hold must not reach the disk (rule 3).
        budget: Bytes of the largest file that stays in memory.
    """

    __slots__ = ("_budget", "_folder", "_private")

    def __init__(
        self, folder: StrPath, *, private: bool = False, budget: int = BUDGET
    ) -> None:
        self._folder, self._private = Path(folder), private
        self._budget = budget

    def on_disk(self, length: int) -> bool:
        """Return whether a file of so many bytes is one, and others may change it."""
        return length > self._budget

    def file(self, length: int, edges: Sequence[int] = ()) -> ScratchFile:
        """Return a new file of so many bytes, to be closed by the caller.

        Args:
            length: How many.
            edges: Offsets, ascending, that nothing is written or read across: what is
                between two of them has its own file (rule 7).

        Raises:
            OSError: It cannot be made.
        """
        if not self.on_disk(length):
            return _InMemory(length)
        kind = _Private if self._private else _OnDisk
        return kind(self._folder, length, edges)


class ScratchFile:
    """A file of a fixed length. Threads may share one."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length

    def write_at(self, at: int, view: memoryview) -> None:
        """Write bytes from an offset on; each offset is written once (rule 4).

        Raises:
            OSError: Writing failed; a full disk is one reason.
            ValueError: They do not fit the file.
        """
        raise NotImplementedError

    def read_into(self, at: int, view: memoryview) -> None:
        """Fill a view with the bytes from an offset on, which were written.

        Raises:
            OSError: Reading failed.
            ValueError: There are not so many.
        """
        self.read_parts([(at, len(view))], view)

    def read_parts(self, parts: Iterable[tuple[int, int]], view: memoryview) -> None:
        """Fill a view with many parts, one after the other: offset and length of each.

        Raises:
            OSError: Reading failed.
            ValueError: A part is not in the file.
        """
        raise NotImplementedError

    def drop(self, end: int) -> None:
        """Give up what is before an offset, as far as it has files of its own."""

    def close(self) -> None:
        """Give up the file, and what is in it."""

    def _check(self, at: int, length: int) -> None:
        if at < 0 or at + length > self.length:
            raise ValueError(
                f"bytes {at:,} to {at + length:,} are not in a file of {self.length:,}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _InMemory(ScratchFile):
    """A file that is none."""

    __slots__ = ("_bytes",)

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self._bytes = memoryview(bytearray(length))

    def write_at(self, at: int, view: memoryview) -> None:
        self._check(at, len(view))
        self._bytes[at : at + len(view)] = view

    def read_parts(self, parts: Iterable[tuple[int, int]], view: memoryview) -> None:
        done = 0
        for at, length in parts:
            self._check(at, length)
            view[done : done + length] = self._bytes[at : at + length]
            done += length

    def close(self) -> None:
        self._bytes = memoryview(b"")


class _OnDisk(ScratchFile):
    """A file without a name."""

    __slots__ = ("_closing", "_descriptors", "_edges", "_files", "_folder")

    def __init__(self, folder: Path, length: int, edges: Sequence[int] = ()) -> None:
        super().__init__(length)
        self._folder, self._edges = folder, edges
        with ExitStack() as files:
            made = [
                files.enter_context(
                    tempfile.TemporaryFile(
                        buffering=0, dir=folder, prefix=".", suffix=".safemodel-part"
                    )
                )
                for _ in range(len(edges) + 1)
            ]
            self._files, self._closing = made, files.pop_all()
            self._descriptors = [file.fileno() for file in made]

    def _descriptor(self, at: int) -> int:
        """Return the file of what begins at an offset (rule 7)."""
        return self._descriptors[bisect_right(self._edges, at) if self._edges else 0]

    def write_at(self, at: int, view: memoryview) -> None:
        self._check(at, len(view))
        descriptor, done = self._descriptor(at), 0
        while done < len(view):
            try:
                piece = view[done : done + MOST_WRITTEN]
                done += os.pwrite(descriptor, piece, at + done)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"a temporary file of {self.length:,} bytes cannot be written: "
                    f"{error.strerror}",
                    str(self._folder),
                ) from error

    def read_parts(self, parts: Iterable[tuple[int, int]], view: memoryview) -> None:
        done = 0
        for at, length in parts:
            part = view[done : done + length]
            # At -1 the system would read where it read last.
            if at < 0 or os.preadv(self._descriptor(at), [part], at) != length:
                self._read_rest(at, part)
            done += length

    def _read_rest(self, at: int, part: memoryview) -> None:
        """Read what one call did not give."""
        self._check(at, len(part))
        done = 0
        while done < len(part):
            count = os.preadv(self._descriptor(at), [part[done:]], at + done)
            if not count:
                raise ValueError("these bytes were never written")
            done += count

    def drop(self, end: int) -> None:
        for number, edge in enumerate(self._edges):
            if edge <= end:
                self._descriptors[number] = -1  # its number may be another's soon
                self._files[number].close()

    def close(self) -> None:
        self._closing.close()


class _Private(_OnDisk):
    """A file whose bytes are encrypted on the disk (rule 3)."""

    __slots__ = ("_key", "_own")

    def __init__(self, folder: Path, length: int, edges: Sequence[int] = ()) -> None:
        super().__init__(folder, length, edges)
        from cryptography.hazmat.primitives.ciphers import algorithms

        # One file, one key: the counter can begin at zero.
        self._key = algorithms.AES(secrets.token_bytes(32))
        self._own = local()

    def write_at(self, at: int, view: memoryview) -> None:
        self._check(at, len(view))
        cipher, room = self._from(at)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            super().write_at(at + start, room[: cipher.update_into(piece, room)])

    def read_parts(self, parts: Iterable[tuple[int, int]], view: memoryview) -> None:
        parts = list(parts)
        super().read_parts(parts, view)
        done = 0
        for at, length in parts:
            part = view[done : done + length]
            self._from(at)[0].update_into(part, part)
            done += length

    def _from(self, at: int) -> tuple[CipherContext, memoryview]:
        """Return the cipher for the bytes from an offset on, and room for a piece.

        Each thread has its own. A new cipher takes longer than 16 KiB of its bytes.
        """
        block, inside = divmod(at, _AES_BLOCK)
        nonce = block.to_bytes(_AES_BLOCK, "big")
        made = getattr(self._own, "made", None)
        if made is None:
            from cryptography.hazmat.primitives.ciphers import Cipher, modes

            cipher = Cipher(self._key, modes.CTR(nonce)).encryptor()
            made = self._own.made = cipher, memoryview(bytearray(_PIECE))
        else:
            made[0].reset_nonce(nonce)
        if inside:
            made[0].update(bytes(inside))
        return made

    def close(self) -> None:
        super().close()
        del self._key, self._own
