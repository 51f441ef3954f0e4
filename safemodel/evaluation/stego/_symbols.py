"""Cut a stream of bytes into symbols of x bits, and join them again.

Eight symbols of x bits are x bytes, so each column of a table with eight columns takes
its bits from the same few columns of a table of bytes. Nothing is ever spread out to
one bit a byte.

Two orders. "big": the highest bit of each byte comes first, and the first bit of a
symbol is its highest. "little": the lowest first, in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Order: TypeAlias = Literal["big", "little"]


def cut(data: NDArray[Any], x: int, order: Order) -> NDArray[Any]:
    """Return the symbols of bytes, as unsigned words.

    Args:
        data: Bytes, as many as a multiple of x.
        x: Bits of a symbol, from 1 to 56.
        order: Which bit comes first.
    """
    table = data.reshape(-1, x)
    word = word_of(x)
    symbols = np.empty((table.shape[0], 8), word)
    mask = word((1 << x) - 1)
    for column in range(8):
        first, skip = divmod(column * x, 8)
        last = (column * x + x - 1) // 8
        joined = np.zeros(table.shape[0], word)
        for byte in range(first, last + 1):
            away = last - byte if order == "big" else byte - first
            joined |= table[:, byte].astype(word) << word(8 * away)
        unused = 8 * (last - first + 1) - skip - x if order == "big" else skip
        symbols[:, column] = joined >> word(unused) & mask
    return symbols.reshape(-1)


def join(symbols: NDArray[Any], x: int, order: Order) -> NDArray[Any]:
    """Return the bytes of symbols: `cut` the other way round.

    Args:
        symbols: Words as `word_of` says, below 2**x, as many as a multiple of eight.
        x: Bits of a symbol, from 1 to 56.
        order: Which bit comes first.
    """
    table = symbols.reshape(-1, 8)
    data = np.zeros((table.shape[0], x), np.uint8)
    word = word_of(x)
    for byte in range(x):
        for column in range(8 * byte // x, (8 * byte + 7) // x + 1):
            # How far the lowest bit of the symbol is above that of the byte.
            if order == "big":
                up = 8 * byte + 7 - (column * x + x - 1)
            else:
                up = column * x - 8 * byte
            bits = table[:, column]
            moved = bits << word(up) if up >= 0 else bits >> word(-up)
            data[:, byte] |= moved.astype(np.uint8)
    return data.reshape(-1)


def word_of(x: int) -> Any:
    """Return the type of words that hold a symbol, and all bytes that it touches."""
    return np.uint32 if x <= 24 else np.uint64


def tail(data: bytes, bits: int, order: Order) -> int:
    """Return the last bits of bytes as one symbol of that many bits, at most 56."""
    if order == "big":
        return int.from_bytes(data[-8:], "big") & (1 << bits) - 1
    return int.from_bytes(data[-8:].rjust(8, b"\0"), "little") >> 64 - bits


def pad(array: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Return an array with zeros behind it, up to a multiple of a length."""
    missing = -array.size % multiple
    return np.append(array, np.zeros(missing, array.dtype)) if missing else array
