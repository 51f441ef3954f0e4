"""Move the elements of a pool to places that depend on random words, and back.

Elements are never looked at: ``pool``, ``source`` and ``target`` are of any type of 1,
2, 4, 8 or 16 bytes. Every kernel is compiled when it is first called for a size of
elements, in `_native`; `_rounds` and `_draws` have its instructions.

Rules, for every kernel here:

1. Arrays are C-contiguous, aligned as numpy says, and do not overlap. A pool in rounds
   is whole tiles of ``rows * lanes`` elements: a line has ``lanes`` of them, see
   `_lines`, and there are 16 * lanes rows. A piece is 16 lines.
2. ``bits`` is where the words of the switches come from, see `_lines` and
   `keystream.Words`: unsigned integers of as many bits as there are lanes, and at least
   8. Each tile or chunk has its own words. Those of 64 that follow one another are one
   keystream, from its beginning; tile 0 has the first.
3. ``span`` says: tiles or chunks from the first to below the last, of how many in the
   pool, the lanes, and the words of as many layers as reach every lane of a line. In
   the first round all three numbers are even.
4. Nothing is read or written outside the arrays: types and sizes are checked before a
   kernel runs, and each number of ``pieces``, ``columns`` and ``draws`` where it is
   used. All of that comes of random words and not of a file; a mistake in it is a
   ValueError, and the target may hold anything then.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._kernels import _draws, _rounds
from safemodel._kernels._lines import FEW, LINE, lanes_of
from safemodel._kernels._native import REFUSED, address, compiled
from safemodel._kernels._rounds import PAIR

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from safemodel._kernels.keystream import Words

    Deal = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    Span = tuple[int, int, int, int, int]

_SIZES = (1, 2, 4, 8, 16)
_U32, _I64 = np.dtype(np.uint32), np.dtype(np.int64)
_WRITERS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "shuffle": ("ppnnnnn", _draws.shuffle),
    "spread": ("pppppnpnpnnnnn", _rounds.spread),
    "gather": ("pppppnpnpnnnnn", lambda size: _rounds.gather(size, stream=False)),
    "gather, aligned": (
        "pppppnpnpnnnnn",
        lambda size: _rounds.gather(size, stream=True),
    ),
    "stir": ("pnpnpnn", lambda size: _rounds.stir(size, back=False)),
    "unstir": ("pnpnpnn", lambda size: _rounds.stir(size, back=True)),
}
"""Kernels that are compiled for each size of elements: parameters, and instructions."""


@cache
def made(name: str, size: int) -> Callable[..., int]:
    """Return a compiled kernel for elements of so many bytes."""
    kinds, writer = _WRITERS[name]
    return compiled(kinds, writer(size))


@cache
def _bounded() -> Callable[..., int]:
    """Return `bounded`, compiled."""
    return compiled("pppnnn", _draws.bounded)


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
    rows, columns = words.shape
    _check(
        fit=words.dtype == _U32
        and draws.dtype == refused.dtype == _I64
        and draws.shape == words.shape
        and refused.size >= words.size
        and 0 <= first <= (1 << 32) - columns
    )
    places = [address(array, write=True) for array in (draws, refused)]
    return _bounded()(address(words), *places, rows, columns, first)


def shuffle(pools: NDArray[Any], draws: NDArray[Any], first: int, back: bool) -> None:
    """Exchange element first + k of each row with element draws[., k], k ascending.

    With draws[., k] uniform on 0 ... first + k this is Fisher and Yates's shuffle; if
    the elements before ``first`` were in random order, all are afterwards.

    pools: (n, at least first + m).
    draws: (n, m) of 64 bits.
    back: k descends, which takes the same exchanges back.
    """
    (rows, width), count = pools.shape, draws.shape[1]
    _check(
        fit=pools.itemsize in _SIZES
        and draws.dtype == _I64
        and draws.shape[0] == rows
        and 0 <= first <= width - count
    )
    places = address(pools, write=True), address(draws)
    run = made("shuffle", pools.itemsize)
    _done(run(*places, rows, width, count, first, int(back)))


def spread(
    source: NDArray[Any],
    target: NDArray[Any],
    deal: Deal,
    span: Span,
    bits: Words,
) -> None:
    """Send each element of a piece to another row: the first round.

    source, target: the pieces, however many, and where they go, at least all tiles;
    ``target`` begins at a multiple of 64 bytes.
    deal: which piece is in which lane of which tile, (tiles * lanes,) of 32 bits, those
    of the tiles up to two after the last at least; where in a row the lines of a block
    of tiles begin, (rows, blocks) of 32 bits; and room for two tiles, two times (rows *
    lanes,).
    span, bits: see rules 2 and 3.
    """
    _check_words(source.itemsize, span, bits, 1)
    _check_deal(target, source, deal, span)
    _check(fit=address(target) % LINE == 0)
    _run_deal("spread", source, target, deal, span, bits)


def gather(
    source: NDArray[Any],
    target: NDArray[Any],
    deal: Deal,
    span: Span,
    bits: Words,
) -> None:
    """Take `spread` back: ``source`` is its target and ``target`` its source.

    Either begins anywhere; it is faster if ``target`` does at a multiple of 64 bytes.
    """
    _check_words(source.itemsize, span, bits, 1)
    _check_deal(source, target, deal, span)
    name = "gather" if address(target) % LINE else "gather, aligned"
    _run_deal(name, source, target, deal, span, bits)


def stir(
    pool: NDArray[Any],
    span: Span,
    bits: Words,
) -> None:
    """Send each element to any place of its chunk, in place: the second round.

    pool: whole chunks at least; a chunk is as many elements as a tile.
    span, bits: see rules 2 and 3.
    """
    _run_chunks("stir", pool, span, bits)


def unstir(
    pool: NDArray[Any],
    span: Span,
    bits: Words,
) -> None:
    """Take `stir` back."""
    _run_chunks("unstir", pool, span, bits)


def _done(result: int) -> None:
    """Raise an error if a kernel refused an index."""
    if result == REFUSED:
        raise ValueError("a kernel was told to look outside its arrays")


def _check(*, fit: Any) -> None:
    """Raise an error if arguments do not fit together."""
    if not fit:
        raise ValueError("these are not the arguments a kernel takes: see its rules")


def _check_deal(
    rows_of: NDArray[Any],
    pieces_of: NDArray[Any],
    deal: Deal,
    span: Span,
) -> None:
    """Check rules 1 and 3 for the first round."""
    pieces, columns, tile = deal
    first, last, tiles, lanes, _ = span
    rows = FEW * lanes
    _check(
        fit=rows_of.itemsize == pieces_of.itemsize == tile.itemsize
        and 0 <= first <= last <= tiles < 1 << 31
        and rows_of.size >= tiles * rows * lanes
        and not (first % PAIR or last % PAIR or tiles % PAIR)
        and tile.size >= PAIR * rows * lanes
        and pieces.dtype == columns.dtype == _U32
        and pieces.size >= min(last + PAIR, tiles) * lanes
        and columns.shape[0] == rows
        and columns.shape[1] * _rounds.BLOCK >= last
    )


def _check_words(size: int, span: Span, bits: Words, near: int) -> None:
    """Check rules 2 and 3: that there is room for words.

    near: how often layers that reach every lane are taken.
    """
    _, _, _, lanes, step = span
    _check(
        fit=size in _SIZES
        and lanes == lanes_of(size)
        and step == _rounds.step_of(size)
        and bits.room.dtype == np.uint8
        and bits.room.size >= _room(size, near)
    )


def room_for_words(size: int) -> NDArray[Any]:
    """Return room for words of any round of elements of so many bytes."""
    return np.empty(max(_room(size, near) for near in (1, 2)), np.uint8)


def _room(size: int, near: int) -> int:
    """Return how many bytes of words are made at once."""
    tiles = _rounds.tiles_together(size, near)
    return tiles * _rounds.words_of(size, near) * max(lanes_of(size) // 8, 1)


def _words(bits: Words) -> tuple[int, int, int, int]:
    """Return where words come from, as kernels take it."""
    state, room = address(bits.state), address(bits.room, write=True)
    return bits.maker, state, bits.number, room


def _run_deal(
    name: str,
    source: NDArray[Any],
    target: NDArray[Any],
    deal: Deal,
    span: Span,
    bits: Words,
) -> None:
    """Run a kernel of the first round."""
    pieces, columns, tile = deal
    run = made(name, source.itemsize)
    places = (
        address(source),
        address(target, write=True),
        address(pieces),
        address(columns),
        address(tile, write=True),
        *_words(bits),
    )
    pieces_of = source if name == "spread" else target
    count = pieces_of.size // (FEW * span[3])
    _done(run(*places, *span[:3], columns.shape[1], count))


def _run_chunks(name: str, pool: NDArray[Any], span: Span, bits: Words) -> None:
    """Run a kernel of the second round."""
    first, last, _, lanes, _ = span
    _check_words(pool.itemsize, span, bits, 2)
    _check(fit=0 <= first <= last and pool.size >= last * FEW * lanes * lanes)
    run = made(name, pool.itemsize)
    run(address(pool, write=True), *_words(bits), first, last)
