"""What protected files are measured against: each in the best form it honestly has.

- *cp and fsync* moves the bytes and puts them on the disk. It checks and hides nothing.
- *blake3, one thread* hashes the bytes of a file, in pieces of 256 KiB, which stay in
  the processor's cache. It has no key, and does not say what has changed.
- *AES-256-GCM* encrypts and authenticates a file as one message, by one thread and
  buffers that are used again, and puts it on the disk. It hides values, which a
  permutation alone does not; what it writes is no model file, can be opened only as a
  whole, and says of a change neither where it is nor in which tensor. One message may
  have 64 GiB.
- *Fernet* encrypts and authenticates (AES-128-CBC, HMAC-SHA-256, base64). It takes a
  message as a whole and several times its memory: it gets pieces of 64 MiB, each of
  which becomes a token of its own.
- *rows, tensor[randperm]* moves whole rows, as the published system does: neighbours in
  a row stay neighbours. *elements, numpy* is its shuffle of elements. Neither has a
  key: the order would have to be kept, at 8 bytes a row or element.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIECE = 1 << 18
"""Bytes that are read and written at a time: as fast as any here."""

_MESSAGE = 64 << 20
_NONCE, _TAG = 12, 16
_KEY = algorithms.AES(bytes(range(32)))


def _pieces(path: Path, start: int, end: int) -> Iterator[memoryview]:
    """Yield bytes of a file, each piece in the place of the one before."""
    room = memoryview(bytearray(PIECE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while start < end:
            count = os.preadv(descriptor, [room[: end - start]], start)
            yield room[:count]
            start += count
    finally:
        os.close(descriptor)


def one_hash(path: Path) -> bytes:
    """Return the BLAKE3 of a file."""
    hasher = blake3()
    for piece in _pieces(path, 0, path.stat().st_size):
        hasher.update(piece)
    return hasher.digest()


def encrypt(source: Path, out: Path) -> None:
    """Write nonce, text and tag of AES-256-GCM, and put them on the disk."""
    nonce = os.urandom(_NONCE)
    cipher = Cipher(_KEY, modes.GCM(nonce)).encryptor()
    room = memoryview(bytearray(PIECE + _TAG))
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(descriptor, nonce)
        for piece in _pieces(source, 0, source.stat().st_size):
            left = room[: cipher.update_into(piece, room)]
            while left:
                left = left[os.write(descriptor, left) :]
        cipher.finalize()
        os.write(descriptor, cipher.tag)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def decrypted_hash(path: Path) -> bytes:
    """Return the BLAKE3 of what `encrypt` wrote, decrypted and authenticated."""
    size = path.stat().st_size
    nonce = b"".join(map(bytes, _pieces(path, 0, _NONCE)))
    tag = b"".join(map(bytes, _pieces(path, size - _TAG, size)))
    cipher = Cipher(_KEY, modes.GCM(nonce, tag)).decryptor()
    hasher = blake3()
    for piece in _pieces(path, _NONCE, size - _TAG):
        hasher.update(cipher.update(piece))
    cipher.finalize()
    return hasher.digest()


class Tokens:
    """Fernet under a random key.

    Attributes:
        length: Bytes of all tokens of the last run.
    """

    def __init__(self) -> None:
        self._fernet = Fernet(Fernet.generate_key())
        self.length = 0

    def encrypt(self, data: memoryview) -> None:
        """Encrypt bytes; each token is dropped when the next one is made."""
        self.length = 0
        for start in range(0, len(data), _MESSAGE):
            # It takes bytes only.
            self.length += len(self._fernet.encrypt(bytes(data[start:][:_MESSAGE])))
