"""The permutation of pools that do not fit in memory; the order is `permutation`'s.

1. In memory are two segments and 32 MiB of batches, or three bands and a few MiB: see
   `first_round` and `bands`. Beside them, less than one percent of the pool.
2. Each byte of the pool is read once and written once. What is between the rounds is in
   a scratch file as long as the pool, see `rows` and `scratch`.
3. `read` and `write` are called from several threads at once, for places that do not
   overlap. Chunks are asked for and handed on in the caller's thread.
4. An error in a thread is raised to the caller when all threads have ended.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from safemodel._protect.bands import Bands
from safemodel._protect.exchange import Exchange
from safemodel._protect.first_round import FirstRound
from safemodel._protect.permutation import aligned, bytes_of, permute_pool, restore_pool
from safemodel._protect.rounds import Rounds, Shape
from safemodel._protect.rows import Rows
from safemodel._protect.second_round import CHUNK, SecondRound, chunks_of, filled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from safemodel._protect.scratch import Scratch, ScratchFile
    from safemodel._protect.subkeys import PoolKey

    ReadInto: TypeAlias = "Callable[[int, memoryview], None]"
    WriteAt: TypeAlias = "Callable[[int, memoryview], None]"

__all__ = ["CHUNK", "permuted", "restored"]

_MOST_THREADS = 4


def permuted(
    read: ReadInto,
    length: int,
    itemsize: int,
    key: PoolKey,
    *,
    scratch: Scratch,
    held: int = 1,
) -> Iterator[memoryview]:
    """Yield the bytes of a pool in stored order, in chunks.

    Args:
        read: Fills a view with the pool's bytes from an offset on (rule 3).
        length: Bytes of the pool.
        itemsize: Bytes of an element: 1, 2, 4, 8 or 16.
        key: Which order.
        scratch: Where what does not fit in memory is kept meanwhile.
        held: How many chunks stay as they are: others are written over when the next
            one is asked for.

    Yields:
        1 MiB; the last chunk may be shorter. The caller may change it.

    Raises:
        OSError: The scratch file cannot be written or read.
        ValueError: There is no such pool.
        Exception: Whatever `read` raises.
    """
    pool = _Pool(length, itemsize, key)
    if not pool.shape.tiles:
        plain, stored = pool.room(), pool.room()
        if length:
            read(0, bytes_of(plain))
        permute_pool(plain, stored, key)
        yield from chunks_of(bytes_of(stored))
        return
    with scratch.file(pool.whole, pool.rows.edges) as file, pool.threads() as threads:
        rest = pool.room(pool.shape.size - pool.shape.whole)
        if rest.size:
            read(pool.whole, bytes_of(rest))
        pool.first(threads).spread(read, file)
        yield from pool.second(file, threads).stirred(rest, held)


def restored(
    chunks: Iterable[memoryview],
    length: int,
    itemsize: int,
    key: PoolKey,
    write: WriteAt,
    *,
    scratch: Scratch,
) -> None:
    """Take the bytes of a pool in stored order, and hand them on in plain order.

    Args:
        chunks: The bytes, in pieces of any size; each may be written over when the next
            is asked for.
        length: Bytes of the pool.
        itemsize: Bytes of an element: 1, 2, 4, 8 or 16.
        key: What the pool was permuted with.
        write: Takes the bytes that belong at an offset: each byte once, in pieces of 32
            KiB or less, in any sequence (rule 3). A piece is written over afterwards.
        scratch: Where what does not fit in memory is kept meanwhile.

    Raises:
        OSError: The scratch file cannot be written or read.
        ValueError: There is no such pool, or the chunks have more bytes or fewer.
        Exception: Whatever `chunks` or `write` raises.
    """
    pool = _Pool(length, itemsize, key)
    if not pool.shape.tiles:
        stored, plain = pool.room(), pool.room()
        for _ in filled(chunks, [stored], length):
            pass
        restore_pool(stored, plain, key)
        for start in range(0, length, 1 << 15):
            write(start, bytes_of(plain)[start : start + (1 << 15)])
        return
    with scratch.file(pool.whole, pool.rows.edges) as file, pool.threads() as threads:
        values = pool.second(file, threads).unstirred(chunks)
        pool.first(threads).gather(values, pool.exchange, write, file)


class _Pool:
    """One pool on its way."""

    def __init__(self, length: int, itemsize: int, key: PoolKey) -> None:
        if itemsize not in (1, 2, 4, 8, 16):
            raise ValueError(f"no elements of {itemsize} bytes")
        if length < 0 or length % itemsize:
            raise ValueError(f"{length:,} bytes are no elements of {itemsize}")
        self.shape = Shape(length // itemsize, itemsize)
        self.whole = self.shape.whole * itemsize
        self._workers = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        if self.shape.tiles:
            self._rounds = Rounds(self.shape, key)
            self.exchange = Exchange(self._rounds)
            self.rows = Rows(self._rounds, self._workers)

    def room(self, size: int | None = None) -> NDArray[Any]:
        """Return room for elements, or for all of the pool."""
        return aligned(self.shape.size if size is None else size, self.shape.kind)

    def threads(self) -> ThreadPoolExecutor:
        """Return the threads that work on it."""
        return ThreadPoolExecutor(self._workers)

    def first(self, threads: ThreadPoolExecutor) -> FirstRound:
        """Return what takes the first round."""
        return FirstRound(self._rounds, self.rows, threads, self._workers)

    def second(self, file: ScratchFile, threads: ThreadPoolExecutor) -> SecondRound:
        """Return what takes the second round."""
        bands = Bands(self.rows, file)
        return SecondRound(self._rounds, self.exchange, bands, threads, self._workers)
