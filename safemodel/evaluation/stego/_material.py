"""What is hidden in experiments: programs of this machine, in several forms.

There is no malware here. What matters to a detector is how the bytes are distributed,
and any program has that.
"""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._types import StrPath

Kind: TypeAlias = Literal["program", "script", "zlib", "encrypted", "random"]

_PIECE = 1 << 20


def payload(
    kind: Kind, size: int, *, path: StrPath | None = None, key: bytes | None = None
) -> bytes:
    """Return bytes to hide: the same ones for the same arguments and files.

    Args:
        kind: "program" is the first bytes of a program; "script" of the source of a
            script; "zlib" of what zlib's best compression makes of a program;
            "encrypted" of a program under AES-256 in counter mode, from 0; "random"
            the keystream of that, which is an encrypted file of zeros.
        size: How many bytes.
        path: The program or script. None: this Python interpreter and, one after the
            other, the compiled modules of its standard library and of numpy; or the
            library's modules in Python. About 25 MB and 5 MB.
        key: For the last two kinds: 32 bytes.

    Raises:
        TypeError: An argument has another type.
        ValueError: There is no such kind, the size is not at least 1, the file is too
            short for it, the key is not one of 32 bytes, or there is a key or a path
            that the kind does not use.
        OSError: The file cannot be read.
    """
    if kind not in ("program", "script", "zlib", "encrypted", "random"):
        raise ValueError(f"no such kind of payload: {kind!r}")
    if type(size) is not int:
        raise TypeError(f"size must be an integer: {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1: {size}")
    if (key is not None) != (kind in ("encrypted", "random")):
        raise ValueError("a key goes with 'encrypted' and 'random', and they need one")
    if path is not None and kind == "random":
        raise ValueError("random bytes come from no file")
    if kind == "random":
        return _encrypted(bytes(size), key)
    if kind == "zlib":
        return _first(_compressed(_pieces(path, kind)), size)
    data = _first(_pieces(path, kind), size)
    return _encrypted(data, key) if kind == "encrypted" else data


def _first(pieces: Iterator[bytes], size: int) -> bytes:
    """Return the first bytes of pieces, reading no more of them than it takes."""
    made = bytearray()
    for piece in pieces:
        made += piece
        if len(made) >= size:
            return bytes(made[:size])
    raise ValueError(
        f"only {len(made)} bytes for a payload of {size}: give another path"
    )


def _pieces(path: StrPath | None, kind: Kind) -> Iterator[bytes]:
    """Yield the bytes of a file, or of those that stand for it."""
    library = Path(os.__file__).parent  # where `os` is, the standard library is
    if path is not None:
        files = [Path(path)]
    elif kind == "script":
        files = sorted(library.glob("*.py"))
    else:
        # An interpreter may be a few kilobytes that load a library.
        compiled = sorted(library.glob("lib-dynload/*.so"))
        compiled += sorted(Path(numpy.__file__).parent.rglob("*.so"))
        files = [Path(sys.executable), *compiled]
    for file in files:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                yield piece


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what zlib makes of pieces."""
    compressor = zlib.compressobj(9)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _encrypted(data: bytes, key: bytes | None) -> bytes:
    """Return bytes under AES-256 in counter mode; the counter starts at 0."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if type(key) is not bytes or len(key) != 32:
        raise ValueError("the key must be 32 bytes")
    # A counter that starts at 0 makes experiments repeatable. It would be a mistake
    # for anything that must stay secret: two payloads under one key give it away.
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16)))
    return bytes(cipher.encryptor().update(data))
