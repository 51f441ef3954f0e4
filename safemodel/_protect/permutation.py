"""The keyed permutation of the elements of a pool, and its way back.

docs/adr/0016 and 0019 say how it is built, why, and what it does not promise. In short:
a pool that is small is shuffled by Fisher and Yates. A larger one goes through two
rounds:

1. Its pieces of 1 KiB are dealt to tiles in random order, segment by segment, one piece
   to each lane of a tile; random switches send each element of a piece to a row of its
   own; and in each row the lines of blocks of tiles are put in another random order.
2. In each chunk, which is as large as a tile, random switches send each element to any
   place.

What does not fill two tiles comes in between the rounds, each element by an exchange
with any element of the pool. Every switch and every exchange has random bits of its
own.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from safemodel._protect.rounds import BLOCK, FEW, LINE, Rounds, Shape
from safemodel._protect.subkeys import PoolKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["PoolKey", "aligned", "permute_pool", "restore_pool"]

_PART = 8
"""Blocks that one call of a kernel works on: 8 MiB, thousandths of a second."""

_MIN_THREAD_BYTES = 4 << 20
"""What a thread must have to do: starting one takes as long as a tenth of this."""


def permute_pool(
    source: NDArray[Any],
    target: NDArray[Any],
    key: PoolKey,
    *,
    threads: int | None = None,
) -> None:
    """Write the elements of a pool in an order that depends on the key.

    Nothing is stored of the order. Beside the two arrays this takes less than one
    percent of the pool, 8 MiB, and a MiB for each thread.

    Args:
        source: The elements, of 1, 2, 4, 8 or 16 bytes; one axis, C-contiguous.
        target: Where they go: as many, of the same type, C-contiguous, writable, and no
            part of `source`. A large one begins at a multiple of 64 bytes, see
            `aligned`.
        key: Which order.
        threads: How many may work; None: one for each processor this process may use.

    Raises:
        ValueError: An array is not as said.
    """
    from safemodel._kernels import permute

    plain, out = _checked(source, target)
    rounds = Rounds(Shape(plain.size, plain.itemsize), key)
    whole = rounds.shape.whole
    if whole:
        if out.ctypes.data % LINE:
            raise ValueError(f"the target must begin at a multiple of {LINE} bytes")
        _first_round(plain, out, rounds, threads, back=False)
    out[whole:] = plain[whole:]
    for first, draws in rounds.exchanges():
        permute.shuffle(out.reshape(1, -1), draws, first, False)
    if whole:
        _second_round(out, rounds, threads, back=False)


def restore_pool(
    source: NDArray[Any],
    target: NDArray[Any],
    key: PoolKey,
    *,
    threads: int | None = None,
) -> None:
    """Write the elements of a permuted pool in their old order.

    Args:
        source: What `permute_pool` wrote. It is overwritten: the rounds are taken back
            one after the other, and this is where the elements are in between.
        target: Where they go: as many, of the same type, C-contiguous, writable, and no
            part of `source`.
        key: The key the pool was permuted with. With another one the elements come out
            in another wrong order; nothing here can tell.
        threads: How many may work; None: one for each processor this process may use.

    Raises:
        ValueError: An array is not as said.
    """
    from safemodel._kernels import permute

    mixed, out = _checked(source, target)
    if not mixed.flags.writeable:
        raise ValueError("the source of a restore is overwritten: it must be writable")
    rounds = Rounds(Shape(mixed.size, mixed.itemsize), key)
    whole = rounds.shape.whole
    if whole:
        _second_round(mixed, rounds, threads, back=True)
    for first, draws in reversed(rounds.exchanges()):
        permute.shuffle(mixed.reshape(1, -1), draws, first, True)
    out[whole:] = mixed[whole:]
    if whole:
        _first_round(mixed, out, rounds, threads, back=True)


def aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Return a new array that begins at a multiple of 128 bytes; what is in it: chance.

    Processors fetch and write lines of 64 bytes, and memory two of them at a time.

    Args:
        size: Its elements.
        dtype: Their type, as numpy takes it.
    """
    import numpy as np

    kind = np.dtype(dtype)
    room = np.empty(size * kind.itemsize + 2 * LINE, np.uint8)
    start = -room.ctypes.data % (2 * LINE)
    return room[start : start + size * kind.itemsize].view(kind)


def bytes_of(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array."""
    import numpy as np

    return array.view(np.uint8).data


def _checked(
    source: NDArray[Any], target: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both arrays as what kernels take."""
    import numpy as np

    for array in (source, target):
        if array.ndim != 1 or not array.flags.c_contiguous or array.dtype.hasobject:
            raise ValueError("a pool is a C-contiguous array of one axis, no objects")
    if source.dtype != target.dtype or source.size != target.size:
        raise ValueError("source and target must have the same size and type")
    if source.itemsize not in (1, 2, 4, 8, 16):
        raise ValueError(f"no elements of {source.itemsize} bytes")
    if not target.flags.writeable or np.shares_memory(source, target):
        raise ValueError("the target must be writable, and no part of the source")
    if not (source.flags.aligned and target.flags.aligned):
        raise ValueError("elements must begin at multiples of their size")
    kind = Shape(source.size, source.itemsize).kind
    # A subclass, such as a memory map, is seen as what it is over.
    return np.asarray(source).view(kind), np.asarray(target).view(kind)


def _first_round(
    source: NDArray[Any],
    target: NDArray[Any],
    rounds: Rounds,
    threads: int | None,
    *,
    back: bool,
) -> None:
    """Spread pieces over rows, or gather them again."""
    import numpy as np

    from safemodel._kernels import permute

    shape, count = rounds.shape, _threads(rounds.shape, threads)
    run = permute.gather if back else permute.spread
    columns, places = _choices(rounds, count)

    def work(parts: Iterator[tuple[int, int, int]]) -> None:
        room, tile = shape.word_room(), aligned(2 * shape.unit, source.dtype)
        for segment, first, last in parts:
            # The kernel counts tiles from the segment's first.
            start, end = shape.segments[segment : segment + 2]
            where = np.ascontiguousarray(columns[:, start:end])
            low, high = shape.span(first)[0], shape.span(last - 1)[1]
            before = start * BLOCK
            span = low - before, high - before, shape.tiles, shape.lanes, shape.step
            bits = rounds.bits("tile", start, room)
            run(source, target, (places[segment], where, tile), span, bits)

    parts = [
        (segment, *part)
        for segment, edges in enumerate(pairwise(shape.segments))
        for part in _parts(*edges)
    ]
    _in_threads(work, parts, count)


def _choices(
    rounds: Rounds, threads: int
) -> tuple[NDArray[Any], dict[int, NDArray[Any]]]:
    """Return the columns of all rows, and the places of each segment."""
    import numpy as np

    shape = rounds.shape
    columns = np.empty((shape.rows, shape.blocks), np.uint32)
    places: dict[int, NDArray[Any]] = {}

    def work(parts: Iterator[tuple[str, int]]) -> None:
        for kind, number in parts:
            if kind == "rows":
                columns[number : number + FEW] = rounds.some_columns(number)
            else:
                places[number] = _places(rounds, number)

    rows = [("rows", first) for first in range(0, shape.rows, FEW)]
    segments = [("segment", number) for number in range(len(shape.segments) - 1)]
    _in_threads(work, rows + segments, threads)
    return columns, places


def _places(rounds: Rounds, segment: int) -> NDArray[Any]:
    """Return which piece of the pool is in which lane of which tile of a segment."""
    import numpy as np

    firsts, counts = rounds.dealt(segment)
    before = np.cumsum(counts) - counts
    # Differences may be negative: they come right again when the places are added.
    dealt = np.repeat((firsts - before).astype(np.uint32), counts)
    dealt += np.arange(len(dealt), dtype=np.uint32)
    places = dealt.take(rounds.pieces(segment))
    # The kernel asks early for the tiles after the last ones.
    return np.append(places, places[-2 * rounds.shape.lanes :])


def _second_round(
    pool: NDArray[Any], rounds: Rounds, threads: int | None, *, back: bool
) -> None:
    """Stir each chunk, or take that back."""
    from safemodel._kernels import permute

    shape = rounds.shape
    run = permute.unstir if back else permute.stir

    def work(parts: Iterator[tuple[int, int]]) -> None:
        room = shape.word_room()
        for first, last in parts:
            low, high = shape.span(first)[0], shape.span(last - 1)[1]
            span = low, high, shape.tiles, shape.lanes, shape.step
            run(pool, span, rounds.bits("chunk", 0, room))

    _in_threads(work, _parts(0, shape.blocks), _threads(shape, threads))


def _parts(first: int, last: int) -> list[tuple[int, int]]:
    """Return blocks in parts, for one call of a kernel each."""
    return [(start, min(start + _PART, last)) for start in range(first, last, _PART)]


def _threads(shape: Shape, threads: int | None) -> int:
    """Return how many threads work on a pool."""
    if threads is None:
        threads = len(os.sched_getaffinity(0))
    size = shape.whole * shape.itemsize
    return max(min(threads, shape.blocks, size // _MIN_THREAD_BYTES), 1)


def _in_threads(
    work: Callable[[Iterator[Any]], None], parts: Iterable[Any], threads: int
) -> None:
    """Let threads take parts, each the next one when it has done one.

    One may have to wait for its processor, and then the others do more.
    """
    queue = iter(list(parts))
    if threads == 1:
        work(queue)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [queue] * threads))
