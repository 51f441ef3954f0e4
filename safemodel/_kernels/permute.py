"""Move the elements of a pool to places that depend on random words, and back.

Elements are never looked at. The types of ``pool``, ``source`` and ``target`` are
unsigned integers of 1, 2, 4 or 8 bytes; 16 bytes are complex numbers of two floats,
because numpy has no such integer, and they are moved only.

Rules, for every kernel here:

1. A pool in rounds is whole tiles of ``rows * lanes`` elements: a line has ``lanes`` of
   them, see `_lines`, and there are 16 * lanes rows. A piece is 16 lines.
2. ``bits`` are the words of the switches, see `_lines`: unsigned integers of as many
   bits as there are lanes, and at least 8. Each tile or chunk has its own words, and
   those of the first come first.
3. ``span`` says: tiles or chunks from the first to below the last, of how many in the
   pool, the lanes, and the words of as many layers as reach every lane of a line.
   ``lists`` is (4, m) of 64 bits, m at least 16 and at least the lanes: 0, 1, 2 ...;
   lanes * 0, lanes * 1, lanes * 2 ...; and two lists of room. No other thread has it.
4. Every index is in range if ``pieces``, ``columns`` and ``draws`` are what
   `safemodel._protect.permutation` makes of random words: nothing of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._kernels._jit import kernel
from safemodel._kernels._lines import FEW, network, prefetch

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = 4 * FEW // 2
"""Words of the four layers of switches of 16 lines."""

BLOCK = 64
"""Tiles whose lines stay side by side in every row: 4 KiB are written in one place."""

_open = network("turn", "switch")
_close = network("switch", few=True, stream=True)
_stir_far = network("switch", few=True)
_stir_near = network("switch", "turn", "switch")

_soon = prefetch()

_open_back = network("back", "turn")
_few_back = network("back", few=True)
_stir_near_back = network("back", "turn", "back")


@kernel
def bounded(
    words: NDArray[Any], first: int, draws: NDArray[Any], refused: NDArray[Any]
) -> int:
    """Make of each word an integer below a bound, each with the same chance.

    words: (n, m) of 32 bits.
    first: the bound of draw k of a row is first + k + 1, at most 2**32.
    draws: (n, m) of 64 bits; what is made.
    refused: (n * m,) of 64 bits; where words were that would favour small integers.

    Returns how many words were refused: they are to be drawn again.

    Source: Lemire, "Fast random integer generation in an interval", 2019.
    """
    count = 0
    low = np.uint64(0xFFFFFFFF)
    for r in range(words.shape[0]):
        for k in range(words.shape[1]):
            bound = np.uint64(first + k + 1)
            product = np.uint64(words[r, k]) * bound
            draws[r, k] = np.int64(product >> np.uint64(32))
            rest = product & low
            # The remainder costs 20 times the rest, and is below the bound: most
            # words are above it.
            if rest < bound and rest < (low + np.uint64(1)) % bound:
                refused[count] = r * words.shape[1] + k
                count += 1
    return count


@kernel
def shuffle(pools: NDArray[Any], draws: NDArray[Any], first: int, back: bool) -> None:
    """Exchange element first + k of each row with element draws[., k], k ascending.

    With draws[., k] uniform on 0 ... first + k this is Fisher and Yates's shuffle; if
    the elements before ``first`` were in random order, all are afterwards.

    back: k descends, which takes the same exchanges back.
    """
    last = draws.shape[1] - 1
    for r in range(pools.shape[0]):
        for step in range(last + 1):
            k = last - step if back else step
            other = draws[r, k]
            held = pools[r, other]
            pools[r, other] = pools[r, first + k]
            pools[r, first + k] = held


@kernel
def spread(
    source: NDArray[Any],
    target: NDArray[Any],
    deal: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    span: tuple[int, int, int, int, int],
    lists: NDArray[Any],
    bits: NDArray[Any],
) -> None:
    """Send each element of a piece to another row: the first round.

    source, target: the pool and where it goes, at least the whole tiles of it;
    ``target`` begins at a multiple of 64 bytes.
    deal: which piece is in which lane of which tile, (tiles * lanes,); where in a row
    the lines of a block of tiles begin, (rows, blocks); and room for one
    tile, (rows * lanes,).
    span, lists, bits: see rules 2 and 3.
    """
    pieces, columns, tile = deal
    first, last, tiles, lanes, step = span
    ahead, apart, starts, places = lists[0], lists[1], lists[2], lists[3]
    at, soon = 0, starts.copy()
    for t in range(first, last):
        for x in range(lanes):
            starts[x] = np.int64(pieces[t * lanes + x]) * FEW
            # Pieces are anywhere: without this, every tile waits for its lines.
            after = min(t + 1, tiles - 1) * lanes + x
            soon[x] = np.int64(pieces[after]) * FEW
        for i in range(FEW):
            _open(source, starts, i, tile, ahead, i * lanes, bits, at)
            at += step
        for r in range(lanes):
            if r < FEW:
                _soon(source, soon, r)
            _rows(columns, t, tiles, r, lanes, places)
            _close(tile, apart, r, target, places, 0, bits, at)
            at += FAR


@kernel
def gather(
    source: NDArray[Any],
    target: NDArray[Any],
    deal: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    span: tuple[int, int, int, int, int],
    lists: NDArray[Any],
    bits: NDArray[Any],
) -> None:
    """Take `spread` back: ``source`` is its target and ``target`` its source."""
    pieces, columns, tile = deal
    first, last, tiles, lanes, step = span
    ahead, apart, starts, places = lists[0], lists[1], lists[2], lists[3]
    at = 0
    for t in range(first, last):
        near, at = at, at + FEW * step
        for r in range(lanes):
            _rows(columns, t, tiles, r, lanes, places)
            _few_back(source, places, 0, tile, apart, r, bits, at)
            at += FAR
        for x in range(lanes):
            starts[x] = np.int64(pieces[t * lanes + x]) * FEW
        for i in range(FEW):
            _open_back(tile, ahead, i * lanes, target, starts, i, bits, near)
            near += step


@kernel
def stir(
    pool: NDArray[Any],
    span: tuple[int, int, int, int, int],
    lists: NDArray[Any],
    bits: NDArray[Any],
) -> None:
    """Send each element to any place of its chunk, in place: the second round.

    pool: whole chunks at least; a chunk is as many elements as a tile.
    span, lists, bits: see rules 2 and 3.
    """
    first, last, _tiles, lanes, step = span
    ahead, apart, at = lists[0], lists[1], 0
    for c in range(first, last):
        line = c * FEW * lanes
        for i in range(FEW):
            near = line + i * lanes
            if c + 1 < last:
                _soon(pool, ahead, near + FEW * lanes)
            _stir_near(pool, ahead, near, pool, ahead, near, bits, at)
            at += 2 * step
        for r in range(lanes):
            _stir_far(pool, apart, line + r, pool, apart, line + r, bits, at)
            at += FAR


@kernel
def unstir(
    pool: NDArray[Any],
    span: tuple[int, int, int, int, int],
    lists: NDArray[Any],
    bits: NDArray[Any],
) -> None:
    """Take `stir` back."""
    first, last, _tiles, lanes, step = span
    ahead, apart, at = lists[0], lists[1], 0
    for c in range(first, last):
        line = c * FEW * lanes
        start, at = at, at + 2 * FEW * step
        for r in range(lanes):
            _few_back(pool, apart, line + r, pool, apart, line + r, bits, at)
            at += FAR
        for i in range(FEW):
            near = line + i * lanes
            _stir_near_back(pool, ahead, near, pool, ahead, near, bits, start)
            start += 2 * step


@kernel
def _rows(
    columns: NDArray[Any], t: int, tiles: int, r: int, lanes: int, places: NDArray[Any]
) -> None:
    """Write the lines where rows r, r + lanes ... of a tile go."""
    block, inside = t // BLOCK, t % BLOCK
    for i in range(FEW):
        row = i * lanes + r
        column = np.int64(columns[row, block]) + inside
        if column >= tiles:
            column -= tiles
        places[i] = row * tiles + column
