"""The permutation of pools that do not fit in memory; the order is `permutation`'s.

1. In memory are one segment, a few MiB a thread, and less than one percent of the pool.
2. Each byte of the pool is read once and written once. What is between the rounds is in
   a scratch file as long as the pool, see `rows` and `scratch`.
3. `read` and `write` are called from several threads at once, for places that do not
   overlap. Chunks are asked for and handed on in the caller's thread.
4. An error in a thread is raised to the caller when all threads have ended.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from safemodel._protect.exchange import Exchange
from safemodel._protect.first_round import FirstRound
from safemodel._protect.permutation import aligned, bytes_of, permute_pool, restore_pool
from safemodel._protect.rounds import BLOCK, Rounds, Shape
from safemodel._protect.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from safemodel._protect.scratch import Scratch, ScratchFile
    from safemodel._protect.subkeys import PoolKey

    ReadInto: TypeAlias = "Callable[[int, memoryview], None]"
    WriteAt: TypeAlias = "Callable[[int, memoryview], None]"

CHUNK = 1 << 20
"""Bytes of a chunk: what is tagged at a time."""

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
        yield from _chunks(bytes_of(stored))
        return
    with scratch.file(pool.whole) as file, pool.threads() as threads:
        rest = pool.room(pool.shape.size - pool.shape.whole)
        if rest.size:
            read(pool.whole, bytes_of(rest))
        pool.first.spread(read, file, threads)
        yield from pool.stirred(rest, file, threads, held)


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
        for _ in _filled(chunks, [stored], length):
            pass
        restore_pool(stored, plain, key)
        for start in range(0, length, 1 << 15):
            write(start, bytes_of(plain)[start : start + (1 << 15)])
        return
    with scratch.file(pool.whole) as file, pool.threads() as threads:
        values = pool.unstirred(chunks, file, threads)
        pool.first.gather(values, pool.exchange, write, file, threads)


class _Pool:
    """One pool on its way."""

    def __init__(self, length: int, itemsize: int, key: PoolKey) -> None:
        if itemsize not in (1, 2, 4, 8, 16):
            raise ValueError(f"no elements of {itemsize} bytes")
        if length < 0 or length % itemsize:
            raise ValueError(f"{length:,} bytes are no elements of {itemsize}")
        self.shape = Shape(length // itemsize, itemsize)
        self.whole = self.shape.whole * itemsize
        self._length = length
        self._block = BLOCK * self.shape.unit * itemsize
        self._work = max(self._block, CHUNK)  # bytes of a work of the second round
        self._workers = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        if self.shape.tiles:
            self._rounds = Rounds(self.shape, key)
            self.exchange = Exchange(self._rounds)
            self._rows = Rows(self._rounds)
            self.first = FirstRound(self._rounds, self._rows, self._workers)

    def room(self, size: int | None = None) -> NDArray[Any]:
        """Return room for elements, or for all of the pool."""
        return aligned(self.shape.size if size is None else size, self.shape.kind)

    def threads(self) -> ThreadPoolExecutor:
        """Return the threads that work on it."""
        return ThreadPoolExecutor(self._workers)

    def stirred(
        self,
        rest: NDArray[Any],
        file: ScratchFile,
        threads: ThreadPoolExecutor,
        held: int,
    ) -> Iterator[memoryview]:
        """Yield the second round of the pool, and the rest; hold some of it."""
        places, order = self.exchange.places, self.exchange.order
        values = self.room(len(order))
        values[len(places) :] = rest

        def work(start: int, pool: NDArray[Any]) -> NDArray[Any]:
            body = self._body(start, pool)
            parts = self._rows.in_row_order(start, start + body.nbytes)
            file.read_parts(parts, bytes_of(body))
            mine, inside = self._touched(start, body)
            values[mine] = body[inside]
            body[inside] = values[order[mine]]
            self._stir(start, body, back=False)
            return pool

        rooms = self._rooms(held)
        ahead = len(rooms) - held
        futures: deque[Future[NDArray[Any]]] = deque()
        starts = range(0, self._length, self._work)
        for number in range(len(starts) + ahead):
            if number >= ahead:
                pool = futures.popleft().result()
                start = starts[number - ahead]
                yield from _chunks(bytes_of(self._ended(start, pool, values)))
            # The room to be filled is that of the work which is held no more.
            if number < len(starts):
                room = rooms[number % len(rooms)]
                futures.append(threads.submit(work, starts[number], room))

    def _ended(
        self, start: int, pool: NDArray[Any], values: NDArray[Any]
    ) -> NDArray[Any]:
        """Return a work of the second round with what belongs there of the rest."""
        done = self._body(start, pool).size
        places, order = self.exchange.places, self.exchange.order
        # All that changes place with the rest was met before its end.
        after = len(places) + start // self.shape.itemsize + done - self.shape.whole
        tail = (
            order[after : after + pool.size - done] if done < pool.size else order[:0]
        )
        pool[done : done + len(tail)] = values[tail]
        return pool[: done + len(tail)]

    def unstirred(
        self,
        chunks: Iterable[memoryview],
        file: ScratchFile,
        threads: ThreadPoolExecutor,
    ) -> NDArray[Any]:
        """Write what is between the rounds, row after row.

        Returns:
            What changed place with the rest, and the rest.
        """
        values = self.room(len(self.exchange.order))
        tail = bytes_of(values[len(self.exchange.places) :])
        rooms = self._rooms()
        futures: deque[Future[None]] = deque()

        def work(start: int, body: NDArray[Any]) -> None:
            self._stir(start, body, back=True)
            mine, inside = self._touched(start, body)
            values[mine] = body[inside]
            file.write_at(start, bytes_of(body))

        for start, pool in _filled(chunks, rooms, self._length):
            body = self._body(start, pool)
            over = bytes_of(pool[body.size :])
            at = max(start - self.whole, 0)
            tail[at : at + len(over)] = over
            futures.append(threads.submit(work, start, body))
            # The next room to be filled is that of the oldest work.
            while len(futures) >= len(rooms):
                futures.popleft().result()
        for future in futures:
            future.result()
        return values

    def _body(self, start: int, pool: NDArray[Any]) -> NDArray[Any]:
        """Return what of a work of the second round is not of the rest."""
        return pool[: max(self.shape.whole - start // self.shape.itemsize, 0)]

    def _touched(self, start: int, body: NDArray[Any]) -> tuple[slice, NDArray[Any]]:
        """Return which of the places that change are in a work, and where in it."""
        places, first = self.exchange.places, start // self.shape.itemsize
        low, high = places.searchsorted([first, first + body.size]).tolist()
        return slice(low, high), places[low:high] - first

    def _stir(self, start: int, body: NDArray[Any], *, back: bool) -> None:
        """Send elements through the second round, or back."""
        from safemodel._kernels import permute

        shape = self.shape
        run = permute.unstir if back else permute.stir
        span = 0, body.size // shape.unit, 0, shape.lanes, shape.step
        bits = self._rounds.bits("chunk", start // self._block, shape.word_room())
        run(body, span, bits)

    def _rooms(self, held: int = 1) -> list[NDArray[Any]]:
        """Return rooms for works: one more than workers, and those that are held."""
        size = self._work // self.shape.itemsize
        return [self.room(size) for _ in range(self._workers + 1 + held)]


def _filled(
    chunks: Iterable[memoryview], rooms: list[NDArray[Any]], length: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield rooms in turn, each filled with the next bytes, and where those begin.

    Raises:
        ValueError: There are more bytes or fewer.
    """
    start, done, number = 0, 0, 0
    for chunk in chunks:
        taken = 0
        while taken < len(chunk):
            room = rooms[number % len(rooms)]
            most = min(room.nbytes, length - start)
            part = chunk[taken : taken + most - done]
            if not len(part):
                raise ValueError(f"more than the {length:,} bytes of the pool")
            bytes_of(room)[done : done + len(part)] = part
            taken, done = taken + len(part), done + len(part)
            if done == most:
                yield start, room[: most // room.itemsize]
                start, done, number = start + most, 0, number + 1
    if start < length:
        raise ValueError(f"{start + done:,} bytes of a pool of {length:,}")


def _chunks(view: memoryview) -> Iterator[memoryview]:
    """Yield bytes in chunks."""
    for at in range(0, len(view), CHUNK):
        yield view[at : at + CHUNK]
