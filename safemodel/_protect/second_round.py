"""The second round of a pool in files: works that follow each other in stored order.

A *work* is 1 MiB of the pool or more. Threads work ahead of whoever asks for chunks,
and behind whoever hands them on. Meanwhile they load the bands that are needed next, or
store those that are done.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from safemodel._protect.permutation import aligned, bytes_of
from safemodel._protect.rounds import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from safemodel._protect.bands import Bands
    from safemodel._protect.exchange import Exchange
    from safemodel._protect.rounds import Rounds

CHUNK = 1 << 20
"""Bytes of a chunk: what is tagged at a time."""


class SecondRound:
    """Stirs the chunks of a pool that stands in rows, and takes that back.

    Args:
        rounds: The random choices.
        exchange: What changes place with the rest.
        bands: The rows.
        threads: Those that work.
        workers: How many there are.
    """

    def __init__(
        self,
        rounds: Rounds,
        exchange: Exchange,
        bands: Bands,
        threads: ThreadPoolExecutor,
        workers: int,
    ) -> None:
        self._rounds, self._exchange, self._bands = rounds, exchange, bands
        self._threads, self._workers = threads, workers
        shape = self._shape = rounds.shape
        self._length = shape.size * shape.itemsize
        self._block = BLOCK * shape.unit * shape.itemsize
        self._work = max(self._block, CHUNK)
        self._values = aligned(len(exchange.order), shape.kind)

    def stirred(self, rest: NDArray[Any], held: int) -> Iterator[memoryview]:
        """Yield the second round of the pool, and the rest; hold some of it."""
        order, values = self._exchange.order, self._values
        values[len(self._exchange.places) :] = rest
        rooms, bands = self._rooms(held), self._turns(self._bands.load, before=True)

        def work(start: int, pool: NDArray[Any]) -> NDArray[Any]:
            body = self._body(start, pool)
            bands.wait(start, start + body.nbytes)
            self._bands.collect(start, body)
            mine, inside = self._touched(start, body)
            values[mine] = body[inside]
            body[inside] = values[order[mine]]
            self._stir(start, body, back=False)
            return pool

        ahead = len(rooms) - held
        works: deque[Future[NDArray[Any]]] = deque()
        starts = range(0, self._length, self._work)
        for number in range(len(starts) + ahead):
            if number >= ahead:
                pool = works.popleft().result()
                start = starts[number - ahead]
                bands.over(start + self._work)
                self._bands.drop(start + self._work)
                yield from chunks_of(bytes_of(self._ended(start, pool)))
            # The room to be filled is that of the work which is held no more.
            if number < len(starts):
                room = rooms[number % len(rooms)]
                bands.need(starts[number] + self._work, works)
                works.append(self._threads.submit(work, starts[number], room))

    def _ended(self, start: int, pool: NDArray[Any]) -> NDArray[Any]:
        """Return a work of the second round with what belongs there of the rest."""
        done = self._body(start, pool).size
        places, order = self._exchange.places, self._exchange.order
        # All that changes place with the rest was met before its end.
        after = len(places) + start // self._shape.itemsize + done - self._shape.whole
        tail = (
            order[after : after + pool.size - done] if done < pool.size else order[:0]
        )
        pool[done : done + len(tail)] = self._values[tail]
        return pool[: done + len(tail)]

    def unstirred(self, chunks: Iterable[memoryview]) -> NDArray[Any]:
        """Write what is between the rounds.

        Returns:
            What changed place with the rest, and the rest.
        """
        values = self._values
        tail = bytes_of(values[len(self._exchange.places) :])
        whole = self._shape.whole * self._shape.itemsize
        rooms, bands = self._rooms(), self._turns(self._bands.store, before=False)

        def work(start: int, body: NDArray[Any]) -> None:
            self._stir(start, body, back=True)
            mine, inside = self._touched(start, body)
            values[mine] = body[inside]
            bands.wait(start, start + body.nbytes)
            self._bands.deal(start, body)

        works: deque[Future[None]] = deque()
        done = 0
        for start, pool in filled(chunks, rooms, self._length):
            body = self._body(start, pool)
            over = bytes_of(pool[body.size :])
            at = max(start - whole, 0)
            tail[at : at + len(over)] = over
            bands.need(start + body.nbytes, works)
            works.append(self._threads.submit(work, start, body))
            # The next room to be filled is that of the oldest work.
            while len(works) >= len(rooms):
                works.popleft().result()
                done += self._work
                bands.over(done)
        for future in works:
            future.result()
        bands.end()
        return values

    def _body(self, start: int, pool: NDArray[Any]) -> NDArray[Any]:
        """Return what of a work is not of the rest."""
        return pool[: max(self._shape.whole - start // self._shape.itemsize, 0)]

    def _touched(self, start: int, body: NDArray[Any]) -> tuple[slice, NDArray[Any]]:
        """Return which of the places that change are in a work, and where in it."""
        places, first = self._exchange.places, start // self._shape.itemsize
        low, high = places.searchsorted([first, first + body.size]).tolist()
        return slice(low, high), places[low:high] - first

    def _stir(self, start: int, body: NDArray[Any], *, back: bool) -> None:
        """Send elements through the second round, or back."""
        from safemodel._kernels import permute

        shape = self._shape
        run = permute.unstir if back else permute.stir
        span = 0, body.size // shape.unit, 0, shape.lanes, shape.step
        bits = self._rounds.bits("chunk", start // self._block, shape.word_room())
        run(body, span, bits)

    def _rooms(self, held: int = 1) -> list[NDArray[Any]]:
        """Return rooms for works: one more than workers, and those that are held."""
        size = self._work // self._shape.itemsize
        kind = self._shape.kind
        return [aligned(size, kind) for _ in range(self._workers + 1 + held)]

    def _turns(self, act: Callable[[int], None], *, before: bool) -> _Turns:
        return _Turns(self._bands, act, self._threads, self._work, before=before)


class _Turns:
    """Loads each band before works use it, or stores it afterwards.

    Args:
        bands: The bands.
        act: Loads or stores the one of a number.
        threads: Those that do it.
        work: Bytes of a work.
        before: Whether it is before.
    """

    def __init__(
        self,
        bands: Bands,
        act: Callable[[int], None],
        threads: ThreadPoolExecutor,
        work: int,
        *,
        before: bool,
    ) -> None:
        self._bands, self._act, self._threads = bands, act, threads
        self._work, self._done = work, 0
        # Storing makes room for a band that is so much later.
        self._later = 0 if before else bands.rooms
        self._count = bands.count if bands.rooms else 0
        self._begun: list[Future[None]] = []
        self.over(0)

    def over(self, end: int) -> None:
        """Say that all works before a byte are over; begin what can be done now."""
        self._done = end
        self._begin(end)

    def _begin(self, end: int) -> None:
        """Begin what can be done when all works before a byte are over."""
        bands = self._bands
        while len(self._begun) < self._count:
            # Those that this band takes the place of, or all of its own.
            last = len(self._begun) + 1 - (0 if self._later else bands.rooms)
            if last * bands.size > end:
                return
            self._begun.append(self._threads.submit(self._act, len(self._begun)))

    def need(self, end: int, works: Iterable[Future[Any]]) -> None:
        """Wait until all that a work waits for has begun: only then may it begin.

        Args:
            end: Where the work ends, or later.
            works: All that are not over, as they follow each other.
        """
        done = self._done
        for work in works:
            if self._has_begun(end):
                break
            work.result()
            done += self._work
            # Not `over`: they are among the works that come next time, too.
            self._begin(done)

    def _has_begun(self, end: int) -> bool:
        last = min(-(-end // self._bands.size), self._count) - self._later
        return len(self._begun) >= last

    def wait(self, start: int, end: int) -> None:
        """Wait for the bands that have bytes from one to below another."""
        if self._count:
            for band in self._bands.touched(start, end):
                if band >= self._later:
                    self._begun[band - self._later].result()

    def end(self) -> None:
        """Finish all that there is to do, now that all works are over."""
        self.over(self._count * self._bands.size)
        for future in self._begun:
            future.result()


def filled(
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


def chunks_of(view: memoryview) -> Iterator[memoryview]:
    """Yield bytes in chunks."""
    for at in range(0, len(view), CHUNK):
        yield view[at : at + CHUNK]
