"""Which weights carry a payload, and in what order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE = bytes(1 << 20)


def keystream(key: bytes, use: str, size: int) -> NDArray[Any]:
    """Return that many bytes of a stream cipher under a key, apart for each use."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derive = HKDF(SHA256(), length=32, salt=None, info=f"stego: {use}".encode())
    cipher = Cipher(algorithms.ChaCha20(derive.derive(key), bytes(16)), mode=None)
    stream = cipher.encryptor()
    made = np.empty(size, np.uint8)
    for start in range(0, size, len(_PIECE)):
        piece = made[start : start + len(_PIECE)]
        stream.update_into(memoryview(_PIECE)[: piece.size], piece.data)
    return made


def keyed_order(count: int, key: bytes, first: int) -> NDArray[Any]:
    """Return the first of the numbers below a count in an order that the key decides.

    Each number goes below a random word, of 64 bits less those the number takes, and
    the words are sorted. Two equal words leave their numbers in rising order, so the
    order is the same on every machine; of 25 million words about 600 pairs are equal.
    """
    bits = max(count - 1, 1).bit_length()
    low = np.uint64((1 << bits) - 1)
    words = keystream(key, "order", 8 * count).view("<u8").astype(np.uint64, copy=False)
    words &= ~low
    words |= np.arange(count, dtype=np.uint64)
    if first < count // 2:
        words = np.partition(words, first)[:first]
    words = np.sort(words)[:first]
    words &= low
    return words.view(np.int64)


def places(
    available: int | NDArray[Any], start: int, share: float, key: bytes | None
) -> slice | NDArray[Any]:
    """Return the weights to use, in order.

    Args:
        available: How many weights there are, or the rising indices of those that may
            be used.
        start: The first weight that may be used.
        share: Part of the weights from there on.
        key: Decides the order; None: rising.
    """
    if isinstance(available, int):
        first = min(start, available)
        count = round(share * (available - first))
        if key is None:
            return slice(first, first + count)
        return keyed_order(available - first, key, count) + first
    left = available[np.searchsorted(available, start) :]
    count = round(share * left.size)
    order = slice(count) if key is None else keyed_order(left.size, key, count)
    chosen: NDArray[Any] = left[order]
    return chosen
