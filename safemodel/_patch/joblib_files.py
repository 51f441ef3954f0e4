"""Open files of `joblib.dump`: their compression, within bounds, and then as any other.

The compressors are those of the standard library; what they give is bounded before it
is kept, as all content of a pickle is (`Limits.max_pickle_bytes`).
"""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Any, cast

from safemodel._patch.bounded import in_memory
from safemodel._patch.opening import load_other
from safemodel.errors import MalformedFileError, UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 1 << 16
_LONGEST_HEAD = 6
_LZ4 = b"\x04\x22\x4d\x18"


def joblib_loader(_: Any) -> Any:
    """Return what stands in the place of `joblib.load`."""

    def load(
        filename: Any, mmap_mode: Any = None, ensure_native_byte_order: Any = "auto"
    ) -> Any:
        """Load a file of `joblib.dump` as plain data, and run nothing in it.

        Arrays come back in memory, whatever ``mmap_mode`` says, and in the byte order
        in which they were written. Estimators come back as `Opaque` values, if the
        policy allows that.

        Raises:
            SafeModelError: The file is refused, malformed or not supported.
            OSError: It cannot be opened or read.
        """
        del mmap_mode, ensure_native_byte_order
        return load_other("joblib.load", filename, opened=unpacked)

    return load


def joblib_seam(original: Any) -> Any:
    """Return what stands further in, for those who took `joblib.load` before."""
    own = original.__globals__.get("load_temporary_memmap")

    def unpickle(fobj: Any, *arguments: Any, **named: Any) -> Any:
        """Read a stream that joblib has opened, and unpacked, already."""
        # An array on its way to a worker of joblib's, in a file that joblib has just
        # written: a memory map, and no model.
        if own is not None and sys._getframe(1).f_code is own.__code__:
            return original(fobj, *arguments, **named)
        return load_other("joblib.load", fobj, opened=in_memory)

    return unpickle


def unpacked(f: Any) -> Any:
    """Return a file as it is, or what is packed in it.

    Raises:
        LimitExceededError: It unpacks to more than a pickle may have.
        MalformedFileError: It does not unpack.
        UnsupportedFormatError: It is packed by something else.
        OSError: It cannot be read.
    """
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as opened:  # noqa: PTH123 - pathlib costs start-up time
            return _unpacked(opened, opened.read(_LONGEST_HEAD), f)
    stream = cast("IO[bytes]", f)
    start = stream.tell()
    head = stream.read(_LONGEST_HEAD)
    stream.seek(start)
    return _unpacked(stream, head, f)


def _unpacked(stream: IO[bytes], head: bytes, f: Any) -> Any:
    if head.startswith(_LZ4):
        raise UnsupportedFormatError("a file packed with LZ4: unpack it first")
    opener = _opener(head)
    if opener is None:
        return f
    if f is not stream:
        stream.seek(0)
    import lzma
    import zlib

    try:
        return in_memory(opener(stream))
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise MalformedFileError(f"it does not unpack: {error}") from error
    except OSError as error:
        # gzip and bz2 say so of their data; others have a number.
        if error.errno is not None:
            raise
        raise MalformedFileError(f"it does not unpack: {error}") from error


def _opener(head: bytes) -> Callable[[IO[bytes]], Any] | None:
    """Return what unpacks a stream with this head."""
    import bz2
    import gzip
    import lzma

    if head.startswith(b"\x1f\x8b"):
        return lambda stream: gzip.GzipFile(fileobj=stream)
    if head.startswith(b"BZh"):
        return bz2.BZ2File
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lzma.LZMAFile
    # Of zlib: deflate with a window of 32 KiB, and a check of the two bytes themselves.
    if len(head) > 1 and head[0] == 0x78 and not (head[0] << 8 | head[1]) % 31:
        return _Zlib
    return None


class _Zlib:
    """A stream of zlib, read piece by piece."""

    def __init__(self, stream: IO[bytes]) -> None:
        import zlib

        self._stream = stream
        self._inflate = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Return up to so many bytes; none at the end."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._stream.read(_PIECE)
            if not packed:
                raise EOFError("the end is missing")
            found = self._inflate.decompress(packed, size)
            if found:
                return found
        return b""
