"""The keyed permutation of the elements of a pool, and its way back.

docs/adr/0016 says how it is built, why, and what it does not promise. In short: a pool
that is small is shuffled by Fisher and Yates. A larger one goes through two rounds:

1. Its pieces of 1 KiB are dealt to tiles in random order, one piece to each lane of a
   tile; random switches send each element of a piece to a row of its own; and in each
   row the lines of blocks of tiles are put in another random order.
2. In each chunk, which is as large as a tile, random switches send each element to any
   place.

What does not fill a tile comes in at the end, each element by an exchange with any
element of the pool. Every switch and every exchange has random bits of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safemodel._protect.subkeys import Keystream, sub_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

LINE = 64
"""Bytes of a line; an array that elements are spread over begins at a multiple."""

_MAX_LANES = 32  # bytes are in lines of 32, see the kernels
_FEW = 16  # lines of a piece, and lines that a layer of switches joins
_BLOCK = 64  # tiles whose lines stay side by side
_GROUP = 16 * _BLOCK  # tiles or chunks with one keystream
_SMALL = 1 << 16  # elements of the largest pool that is only shuffled, or 16 tiles
_DRAWS = 1 << 16  # exchanges drawn at a time

_MIN_THREAD_BYTES = 4 << 20
"""What a thread must have to do: starting one takes as long as a tenth of this."""


class PoolKey:
    """The sub-keys of the permutation of one pool.

    Args:
        master: The master key; 32 bytes.
        file_id: The id of the file; 32 bytes.
        epoch: How often it was protected anew.
        pool: The name of the pool.
    """

    __slots__ = ("_epoch", "_file_id", "_master", "_pool")

    def __init__(self, master: bytes, file_id: bytes, *, epoch: int, pool: str) -> None:
        self._master, self._file_id = master, file_id
        self._epoch, self._pool = epoch, pool

    def use(self, use: str, shape: _Shape) -> bytes:
        """Return the sub-key for one use, in a pool of one shape only."""
        whole = f"permute {shape.size} x {shape.itemsize} bytes: {use}"
        return sub_key(
            self._master, self._file_id, epoch=self._epoch, pool=self._pool, use=whole
        )


class _Shape:
    """How a pool is divided.

    Attributes:
        size: Its elements.
        itemsize: Bytes of an element.
        lanes: Elements of a line.
        rows: Rows of a tile, and lines of a chunk.
        tiles: How many tiles, which is how many chunks; 0: the pool is small.
        layers: Layers of switches that reach every lane.
    """

    __slots__ = ("itemsize", "lanes", "layers", "rows", "size", "tiles")

    def __init__(self, size: int, itemsize: int) -> None:
        self.size, self.itemsize = size, itemsize
        self.lanes = min(LINE // itemsize, _MAX_LANES)
        self.layers = self.lanes.bit_length() - 1
        self.rows = _FEW * self.lanes
        self.tiles = size // self.unit if size >= max(_SMALL, 16 * self.unit) else 0

    @property
    def unit(self) -> int:
        """Elements of a tile, and of a chunk."""
        return self.rows * self.lanes

    @property
    def whole(self) -> int:
        """Elements that go through the rounds."""
        return self.tiles * self.unit

    @property
    def step(self) -> int:
        """Words of as many layers as reach every lane of a line."""
        return self.layers * (self.lanes // 2)

    def words(self, kind: str) -> int:
        """Return how many words the switches of a tile or of a chunk take."""
        near = _FEW * self.step
        far = self.lanes * 4 * (_FEW // 2)
        return far + near * (1 if kind == "tile" else 2)

    def span(self, first: int, last: int) -> tuple[int, int, int, int, int]:
        """Return what kernels take for tiles or chunks from the first to the last."""
        return first, last, self.tiles, self.lanes, self.step

    def lists(self) -> NDArray[Any]:
        """Return what kernels take for lists of lines."""
        import numpy as np

        made = np.zeros((4, max(self.lanes, _FEW)), np.int64)
        made[0] = range(made.shape[1])
        made[1] = made[0] * self.lanes
        return made


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
    plain, out = _checked(source, target)
    shape = _Shape(plain.size, plain.itemsize)
    if shape.tiles:
        if out.ctypes.data % LINE:
            raise ValueError(f"the target must begin at a multiple of {LINE} bytes")
        _first_round(plain, out, shape, key, threads, back=False)
        _second_round(out, shape, key, threads, back=False)
    out[shape.whole :] = plain[shape.whole :]
    from safemodel._kernels import permute

    stream = Keystream(key.use("exchange", shape))
    for first, count in _parts(shape.whole, shape.size):
        permute.shuffle(
            out.reshape(1, -1), stream.draws(first, (1, count)), first, False
        )


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
    shape = _Shape(mixed.size, mixed.itemsize)
    stream = Keystream(key.use("exchange", shape))
    parts = [
        (first, stream.draws(first, (1, count)))
        for first, count in _parts(shape.whole, shape.size)
    ]
    for first, draws in reversed(parts):
        permute.shuffle(mixed.reshape(1, -1), draws, first, True)
    out[shape.whole :] = mixed[shape.whole :]
    if shape.tiles:
        _second_round(mixed, shape, key, threads, back=True)
        _first_round(mixed, out, shape, key, threads, back=True)


def aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Return a new array that begins at a multiple of 64 bytes; what is in it: chance.

    Args:
        size: Its elements.
        dtype: Their type, as numpy takes it.
    """
    import numpy as np

    kind = np.dtype(dtype)
    room = np.empty(size * kind.itemsize + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size * kind.itemsize].view(kind)


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
    # Numpy has no integers of 16 bytes; numbers of as many are moved and not looked at.
    kind = f"u{source.itemsize}" if source.itemsize < 16 else "c16"
    # A subclass, such as a memory map, is seen as what it is over.
    return np.asarray(source).view(kind), np.asarray(target).view(kind)


def _parts(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the exchanges of a shuffle in parts: where each begins, and how many."""
    for start in range(first, last, _DRAWS):
        yield start, min(_DRAWS, last - start)


def _pieces(shape: _Shape, key: PoolKey) -> NDArray[Any]:
    """Return which piece is in which lane of which tile: any order, same chance."""
    import numpy as np

    from safemodel._kernels import permute

    count = shape.tiles * shape.lanes
    pieces = np.arange(count, dtype=np.uint32)  # of a KiB each: 4 TiB of them
    stream = Keystream(key.use("pieces", shape))
    for first, part in _parts(0, count):
        permute.shuffle(
            pieces.reshape(1, -1), stream.draws(first, (1, part)), first, False
        )
    return pieces


def _columns(shape: _Shape, key: PoolKey) -> NDArray[Any]:
    """Return where in each row the lines of each block of tiles begin.

    In each row the whole blocks are in an order of their own; a rest of fewer tiles
    follows; and all is turned round by a number of columns of its own.
    """
    import numpy as np

    from safemodel._kernels import permute

    stream = Keystream(key.use("columns", shape))
    whole = shape.tiles // _BLOCK
    starts = np.arange(0, shape.tiles, _BLOCK, dtype=np.uint32)
    columns = np.tile(starts, (shape.rows, 1))
    permute.shuffle(columns, stream.draws(0, (shape.rows, whole)), 0, False)
    turns = [stream.below(shape.tiles) for _ in range(shape.rows)]
    turned: NDArray[Any] = columns + np.array(turns, np.int64)[:, None]
    return (turned % shape.tiles).astype(np.uint32)


def _first_round(
    source: NDArray[Any],
    target: NDArray[Any],
    shape: _Shape,
    key: PoolKey,
    threads: int | None,
    *,
    back: bool,
) -> None:
    """Spread pieces over rows, or gather them again."""
    from safemodel._kernels import permute

    pieces, columns = _pieces(shape, key), _columns(shape, key)
    run = permute.gather if back else permute.spread

    def work(first: int, last: int) -> None:
        deal = pieces, columns, aligned(shape.unit, source.dtype)
        lists = shape.lists()
        for start, end, bits in _switches(shape, key, "tile", first, last):
            run(source, target, deal, shape.span(start, end), lists, bits)

    _in_threads(work, shape, source.nbytes, threads)


def _second_round(
    pool: NDArray[Any], shape: _Shape, key: PoolKey, threads: int | None, *, back: bool
) -> None:
    """Stir each chunk, or take that back."""
    from safemodel._kernels import permute

    run = permute.unstir if back else permute.stir

    def work(first: int, last: int) -> None:
        lists = shape.lists()
        for start, end, bits in _switches(shape, key, "chunk", first, last):
            run(pool, shape.span(start, end), lists, bits)

    _in_threads(work, shape, pool.nbytes, threads)


def _switches(
    shape: _Shape, key: PoolKey, kind: str, first: int, last: int
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield spans of groups of tiles or chunks, and the words of their switches."""
    import numpy as np

    secret = key.use(kind, shape)
    words = shape.words(kind)
    room = np.empty(words * _BLOCK, f"u{max(shape.lanes // 8, 1)}")
    for group in range(first, last):
        stream = Keystream(secret, group)
        begin = group * _GROUP
        for start in range(begin, min(begin + _GROUP, shape.tiles), _BLOCK):
            end = min(start + _BLOCK, shape.tiles)
            bits = room[: (end - start) * words]
            stream.fill(bits)
            yield start, end, bits


def _in_threads(
    work: Callable[[int, int], None], shape: _Shape, size: int, threads: int | None
) -> None:
    """Give each thread one span of groups."""
    groups = -(-shape.tiles // _GROUP)
    if threads is None:
        threads = len(os.sched_getaffinity(0))
    threads = min(threads, groups, size // _MIN_THREAD_BYTES)
    if threads <= 1:
        work(0, groups)
        return
    from concurrent.futures import ThreadPoolExecutor

    edges = [groups * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
