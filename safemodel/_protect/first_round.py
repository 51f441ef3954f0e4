"""The first round of a pool in files: one segment after the other in memory.

While blocks of one segment are worked on, the slabs of another are read or written.
"""

from __future__ import annotations

from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from safemodel._protect.exchange import Patch
from safemodel._protect.permutation import aligned, bytes_of
from safemodel._protect.rounds import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import TypeAlias

    from numpy.typing import NDArray

    from safemodel._kernels.keystream import Words
    from safemodel._protect.exchange import Exchange
    from safemodel._protect.rounds import Rounds, Shape
    from safemodel._protect.rows import Rows
    from safemodel._protect.scratch import ScratchFile

    Step: TypeAlias = "Callable[[int, NDArray[Any]], list[Future[Any]]]"


class FirstRound:
    """Spreads slabs of a pool to rows in a scratch file, and gathers them again.

    Args:
        rounds: The random choices.
        rows: Where lines stand afterwards.
        threads: Those that work.
        workers: How many there are.
    """

    def __init__(
        self, rounds: Rounds, rows: Rows, threads: ThreadPoolExecutor, workers: int
    ) -> None:
        self._rounds, self._rows = rounds, rows
        self._threads, self._workers = threads, workers
        self._shape = rounds.shape
        self._places: dict[int, Future[NDArray[Any]]] = {}

    def spread(
        self, read: Callable[[int, memoryview], None], file: ScratchFile
    ) -> None:
        """Write the first round of the pool, batch after batch."""
        from safemodel._kernels import permute

        def spread(batch: int, room: NDArray[Any], desk: _Desk) -> None:
            bits = self._bits(batch, desk)
            permute.spread(room, desk.stage, desk.deal, desk.span, bits)
            made, done = bytes_of(desk.stage), 0
            for at, length in self._rows.pieces(batch):
                file.write_at(at, made[done : done + length])
                done += length

        desks = self._desks()

        def read_all(segment: int, room: NDArray[Any]) -> list[Future[Any]]:
            reading = self._each_slab(segment, room, read)
            self._prepare(segment)
            return reading

        def spread_all(segment: int, room: NDArray[Any]) -> list[Future[Any]]:
            return self._each_batch(segment, room, desks, spread)

        self._by_segment(read_all, spread_all)

    def gather(
        self,
        values: NDArray[Any],
        exchange: Exchange,
        write: Callable[[int, memoryview], None],
        file: ScratchFile,
    ) -> None:
        """Take back the first round, and hand on what comes of it."""
        from safemodel._kernels import permute

        patch = Patch(exchange, self._rows, values)
        rest = bytes_of(patch.values[len(exchange.places) :])
        if len(rest):
            write(self._shape.whole * self._shape.itemsize, rest)

        def gather(batch: int, room: NDArray[Any], desk: _Desk) -> None:
            file.read_parts(self._rows.pieces(batch), bytes_of(desk.stage))
            patch.apply(batch, desk.stage)
            bits = self._bits(batch, desk)
            permute.gather(desk.stage, room, desk.deal, desk.span, bits)

        desks = self._desks()

        def gather_all(segment: int, room: NDArray[Any]) -> list[Future[Any]]:
            if segment == 0:
                self._prepare(segment)
            gathering = self._each_batch(segment, room, desks, gather)
            if segment + 2 < len(self._shape.segments):
                self._prepare(segment + 1)
            return gathering

        def write_all(segment: int, room: NDArray[Any]) -> list[Future[Any]]:
            return self._each_slab(segment, room, write)

        self._by_segment(gather_all, write_all)

    def _by_segment(self, first: Step, second: Step) -> None:
        """Take two steps with each segment, the second beside the first of the next.

        Two segments are in memory, in the same two places all the time.
        """
        edges = [self._shape.span(block)[0] for block in self._shape.segments[:-1]]
        sizes = [last - first for first, last in pairwise([*edges, self._shape.tiles])]
        unit = self._shape.unit
        room = [aligned(max(sizes) * unit, self._shape.kind) for _ in sizes[:2]]
        places = [room[k % 2][: size * unit] for k, size in enumerate(sizes)]
        ahead, behind = first(0, places[0]), list[Any]()
        for segment, place in enumerate(places):
            # What is waited for began before all that is begun here.
            for future in (*ahead, *behind):
                future.result()
            behind = second(segment, place)
            if segment + 1 < len(places):
                ahead = first(segment + 1, places[segment + 1])
        for future in behind:
            future.result()

    def _each_slab(
        self, segment: int, room: NDArray[Any], use: Callable[[int, memoryview], None]
    ) -> list[Future[Any]]:
        """Read or write the slabs of a segment."""
        firsts, counts = self._rounds.dealt(segment)
        size, data = self._shape.piece, bytes_of(room)
        ends = counts.cumsum()
        slabs = list(
            zip(
                (firsts * size).tolist(),
                ((ends - counts) * size).tolist(),
                (ends * size).tolist(),
                strict=True,
            )
        )

        def work(share: list[tuple[int, int, int]]) -> None:
            for at, start, end in share:
                use(at, data[start:end])

        # Twice as many parts as threads: none waits long for another in the end.
        parts = 2 * self._workers
        return [self._threads.submit(work, slabs[k::parts]) for k in range(parts)]

    def _each_batch(
        self,
        segment: int,
        room: NDArray[Any],
        desks: SimpleQueue[_Desk],
        run: Callable[[int, NDArray[Any], _Desk], None],
    ) -> list[Future[Any]]:
        """Run something for each batch of a segment."""
        first, last = self._shape.segments[segment : segment + 2]
        numbers = range(self._rows.batches.index(first), self._rows.batches.index(last))
        places = self._places.pop(segment)

        def work(batch: int) -> None:
            desk = desks.get()
            try:
                done = self._rows.batches[batch] - first
                desk.prepare(
                    self._rows.batch(batch),
                    places.result()[done * BLOCK * self._shape.lanes :],
                )
                run(batch, room, desk)
            finally:
                desks.put(desk)

        return [self._threads.submit(work, number) for number in numbers]

    def _prepare(self, segment: int) -> None:
        """Let the places of a segment's pieces be drawn."""
        self._places[segment] = self._threads.submit(self._rounds.pieces, segment)

    def _desks(self) -> SimpleQueue[_Desk]:
        """Return as many desks as there are workers."""
        tiles = [last - first for first, last in map(self._rows.batch, self._numbers)]
        desks: SimpleQueue[_Desk] = SimpleQueue()
        for _ in range(min(self._workers, len(tiles))):
            desks.put(_Desk(self._shape, max(tiles)))
        return desks

    @property
    def _numbers(self) -> range:
        return range(len(self._rows.batches) - 1)

    def _bits(self, batch: int, desk: _Desk) -> Words:
        """Return where the words of a batch come from."""
        return self._rounds.bits("tile", self._rows.batches[batch], desk.words)


class _Desk:
    """What one thread has for itself while it works on batches, as kernels take it."""

    __slots__ = ("_pair", "_room", "_shape", "deal", "span", "stage", "words")

    def __init__(self, shape: Shape, tiles: int) -> None:
        self._shape, self._room = shape, aligned(tiles * shape.unit, shape.kind)
        self._pair = aligned(2 * shape.unit, shape.kind)
        self.words = shape.word_room()

    def prepare(self, batch: tuple[int, int], places: NDArray[Any]) -> None:
        """Set all for a batch: as if it were all of its pool, in order in each row."""
        import numpy as np

        shape, tiles = self._shape, batch[1] - batch[0]
        starts = np.arange(0, tiles, BLOCK, dtype=np.uint32)
        columns = np.tile(starts, (shape.rows, 1))
        self.deal = places, columns, self._pair
        self.span = 0, tiles, tiles, shape.lanes, shape.step
        self.stage = self._room[: tiles * shape.unit]
