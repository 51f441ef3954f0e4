"""The error-correcting code of the spread-spectrum method: a low-density parity check.

Each bit is in three checks, and each check has twelve bits: Gallager's construction,
with the draws and the order of columns of the published program, so that its blocks and
ours are the same. A block is the message and behind it the parity bits.

Reading it is belief propagation: each bit tells its checks how sure it is, and each
check tells its bits what the others say, until all checks hold.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKS_OF_BIT, BITS_OF_CHECK = 3, 12
_ROUNDS = 100
_SURE = 30.0
"""The most a bit is sure of itself, as the logarithm of the odds."""


class Code:
    """A code of one length.

    Args:
        length: Bits of a block, a multiple of 24.
        seed: Of the draws that decide which bits a check has.

    Attributes:
        length: Bits of a block.
        block: Those of the message; the others are parity.
    """

    __slots__ = ("_bits_of", "_checks_of", "_order", "_reduced", "block", "length")

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self._bits_of = _checks(length, seed)
        # The checks of each bit: the edges in which it is the one at the other end.
        by_bit = np.argsort(self._bits_of.reshape(-1), kind="stable")
        self._checks_of = by_bit.reshape(length, CHECKS_OF_BIT)
        pivots, self._reduced = _reduce(self._bits_of, length)
        self.block = length - len(pivots)
        # Columns are exchanged until the pivots come first, and then the others go in
        # front of them. Which exchanges decides which bit of a block is which.
        order = np.arange(length)
        for row, pivot in enumerate(pivots):
            order[[row, pivot]] = order[[pivot, row]]
        self._order = np.roll(order, -len(pivots))

    def encode(self, messages: NDArray[Any]) -> NDArray[Any]:
        """Return a block for each row of `block` bits."""
        blocks = np.zeros((len(messages), self.length), np.uint8)
        blocks[:, : self.block] = messages
        placed = np.zeros_like(blocks)
        placed[:, self._order] = blocks
        for made, bits in zip(blocks, placed, strict=True):
            word = int.from_bytes(np.packbits(bits).tobytes(), "big")
            made[self.block :] = [(row & word).bit_count() & 1 for row in self._reduced]
        return blocks

    def decode(self, read: NDArray[Any], variance: float) -> NDArray[Any]:
        """Return the message of each row of `length` numbers near 1 and -1.

        Args:
            read: What was received: 1 for a 0 and -1 for a 1, and noise.
            variance: Of the noise.
        """
        given = np.empty_like(read)
        given[:, self._order] = 2 * read / variance
        told = given[:, self._bits_of]
        for _ in range(_ROUNDS):
            sure = np.tanh(np.clip(told, -_SURE, _SURE) / 2)
            heard = 2 * np.arctanh(_others(sure))
            total = given + heard.reshape(len(read), -1)[:, self._checks_of].sum(axis=2)
            bits = total <= 0
            if not np.bitwise_xor.reduce(bits[:, self._bits_of], axis=2).any():
                break
            told = total[:, self._bits_of] - heard
        message: NDArray[Any] = bits[:, self._order][:, : self.block]
        return message.astype(np.uint8)


@lru_cache(maxsize=4)
def code(length: int, seed: int) -> Code:
    """Return a code: one that was made before, where it is the same."""
    return Code(length, seed)


def _checks(length: int, seed: int) -> NDArray[Any]:
    """Return the bits of each check: first in a row, then in two random orders."""
    drawn = np.random.RandomState(seed)
    rows = [np.arange(length)]
    for _ in range(1, CHECKS_OF_BIT):
        # Column i of the table becomes column number order[i] of the one in a row.
        order = np.arange(length)
        drawn.shuffle(order)
        rows.append(np.argsort(order))
    return np.concatenate(rows).reshape(-1, BITS_OF_CHECK)


def _reduce(bits_of: NDArray[Any], length: int) -> tuple[list[int], list[int]]:
    """Return the reduced echelon form of the checks: pivots, and rows as integers.

    The first column is the highest bit of an integer.
    """
    rows: dict[int, int] = {}
    for bits in bits_of.tolist():
        row = sum(1 << length - 1 - bit for bit in bits)
        while row and (top := row.bit_length()) in rows:
            row ^= rows[top]
        if row:
            rows[row.bit_length()] = row
    pivots = 0  # of the rows that are reduced: those further right come first
    for top in sorted(rows):
        row = rows[top]
        while left := row & pivots:
            row ^= rows[left.bit_length()]
        rows[top] = row
        pivots |= 1 << top - 1
    tops = sorted(rows, reverse=True)
    return [length - top for top in tops], [rows[top] for top in tops]


def _others(sure: NDArray[Any]) -> NDArray[Any]:
    """Return for each bit of a check the product of the others, short of 1."""
    before, after = np.ones_like(sure), np.ones_like(sure)
    np.cumprod(sure[..., :-1], axis=-1, out=before[..., 1:])
    np.cumprod(sure[..., :0:-1], axis=-1, out=after[..., -2::-1])
    product: NDArray[Any] = np.clip(before * after, -1 + 1e-15, 1 - 1e-15)
    return product
