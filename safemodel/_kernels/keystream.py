"""ChaCha20 (RFC 8439), whose keystream is all random words of the permutation.

The cipher of a library holds the interpreter's lock, so that of all threads one makes
words at a time. This one does not, and what takes the words can call it: docs/adr/0024.
It makes random numbers and encrypts nothing. What it computes are additions, exclusive
ors and rotations by fixed counts, so its time says nothing about a key.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._kernels import _chacha
from safemodel._kernels._native import address, compiled, entry_of, vector_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BATCH_BYTES = _chacha.BATCH * _chacha.WORDS * 4
"""Bytes of the keystream that are made together."""

_KEY_BYTES = 32
_CONSTANTS = b"expand 32-byte k"
_MAX_BATCHES = (1 << 32) // _chacha.BATCH  # RFC 8439: a counter of 32 bits
_NOTHING = np.zeros(_chacha.SOON, np.int64)
_MAX_NUMBERS = 1 << 63  # of nonces: the last word of one is 0


class Words(NamedTuple):
    """Where kernels get random words from, while they work.

    Attributes:
        maker: The address of a function like `_chacha.keystream`.
        state: Its state.
        number: Which of its keystreams the first block of tiles takes; each block that
            follows takes the next one.
        room: Bytes, where words are meanwhile. No other thread has them.
    """

    maker: int
    state: NDArray[Any]
    number: int
    room: NDArray[Any]

    def __repr__(self) -> str:
        """Return what is no secret."""
        return f"Words(number={self.number})"


class Cipher:
    """The keystreams of one key: one for each number.

    Args:
        key: 32 bytes.

    Raises:
        ValueError: The key has another length.
    """

    __slots__ = ("_state",)

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a key of ChaCha20 has {_KEY_BYTES} bytes")
        self._state = np.zeros(_chacha.WORDS, np.uint32)
        self._state.view(np.uint8)[:48] = np.frombuffer(_CONSTANTS + key, np.uint8)

    def fill(self, number: int, first: int, target: NDArray[Any]) -> None:
        """Write a part of a keystream.

        Args:
            number: Which keystream: the nonce, little-endian.
            first: Where it begins, in batches of `BATCH_BYTES`.
            target: Bytes, C-contiguous: whole batches.

        Raises:
            ValueError: The target is not as said, or the keystream is not so long.
        """
        count, rest = divmod(target.size, BATCH_BYTES)
        if target.dtype != np.uint8 or rest:
            raise ValueError("a keystream is written in whole batches of bytes")
        if not (0 <= number < _MAX_NUMBERS and 0 <= first <= _MAX_BATCHES - count):
            raise ValueError("a keystream has 256 GiB, and a key 2**63 of them")
        state, out = address(self._state), address(target, write=True)
        nothing = address(_NOTHING)
        maker()(state, number, first * _chacha.BATCH, count, out, state, nothing)

    def words(self, number: int, room: NDArray[Any]) -> Words:
        """Return keystreams from a number on, for kernels that take words.

        Raises:
            ValueError: There is no such number.
        """
        if not 0 <= number < _MAX_NUMBERS:
            raise ValueError(f"a key has 2**63 keystreams, from 0: {number}")
        return Words(entry_of(maker()), self._state, number, room)


@cache
def maker() -> Callable[..., int]:
    """Return the compiled kernel; see `_chacha.keystream`."""
    return compiled("pnnnppp", _chacha.keystream(vector_bits() // 32))
