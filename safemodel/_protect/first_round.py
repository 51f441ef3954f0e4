"""The first round of a pool in files: one segment after the other in memory."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from safemodel._protect.exchange import Patch
from safemodel._protect.permutation import aligned, bytes_of
from safemodel._protect.rounds import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from safemodel._protect.exchange import Exchange
    from safemodel._protect.rounds import Rounds, Shape
    from safemodel._protect.rows import Rows
    from safemodel._protect.scratch import ScratchFile


class FirstRound:
    """Spreads slabs of a pool to rows in a scratch file, and gathers them again.

    Args:
        rounds: The random choices.
        rows: Where lines stand afterwards.
        workers: How many threads work.
    """

    def __init__(self, rounds: Rounds, rows: Rows, workers: int) -> None:
        self._rounds, self._rows, self._workers = rounds, rows, workers
        self._shape = rounds.shape
        self._block = BLOCK * self._shape.unit * self._shape.itemsize

    def spread(
        self,
        read: Callable[[int, memoryview], None],
        file: ScratchFile,
        threads: ThreadPoolExecutor,
    ) -> None:
        """Write the first round of the pool, block after block."""
        from safemodel._kernels import permute

        for segment, room in self._segments():
            self._all(threads, partial(self._each_slab, segment, room, read))
            run = partial(self._spread, permute.spread, file, room)
            self._in_blocks(threads, segment, run)

    def _spread(
        self,
        run: Callable[..., None],
        file: ScratchFile,
        room: NDArray[Any],
        block: int,
        desk: _Desk,
    ) -> None:
        """Write one block of a segment."""
        bits = self._rounds.bits("tile", block, desk.words)
        run(room, desk.stage, desk.deal, desk.span, bits)
        file.write_at(block * self._block, bytes_of(desk.stage))

    def gather(
        self,
        values: NDArray[Any],
        exchange: Exchange,
        write: Callable[[int, memoryview], None],
        file: ScratchFile,
        threads: ThreadPoolExecutor,
    ) -> None:
        """Take back the first round, and hand on what comes of it."""
        from safemodel._kernels import permute

        patch = Patch(exchange, self._rows, values)
        rest = bytes_of(patch.values[len(exchange.places) :])
        if len(rest):
            write(self._shape.whole * self._shape.itemsize, rest)
        for segment, room in self._segments():
            run = partial(self._gather, permute.gather, file, room, patch)
            self._in_blocks(threads, segment, run)
            self._all(threads, partial(self._each_slab, segment, room, write))

    def _gather(
        self,
        run: Callable[..., None],
        file: ScratchFile,
        room: NDArray[Any],
        patch: Patch,
        block: int,
        desk: _Desk,
    ) -> None:
        """Read one block of a segment."""
        file.read_parts(self._rows.of_block(block), bytes_of(desk.stage))
        patch.apply(block, desk.stage)
        bits = self._rounds.bits("tile", block, desk.words)
        run(desk.stage, room, desk.deal, desk.span, bits)

    def _segments(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield each segment, and room for it: the same for all."""
        edges = [self._shape.span(block)[0] for block in self._shape.segments[:-1]]
        sizes = [last - first for first, last in pairwise([*edges, self._shape.tiles])]
        room = aligned(max(sizes) * self._shape.unit, self._shape.kind)
        for segment, size in enumerate(sizes):
            yield segment, room[: size * self._shape.unit]

    def _each_slab(
        self,
        segment: int,
        room: NDArray[Any],
        use: Callable[[int, memoryview], None],
        worker: int,
    ) -> None:
        """Read or write a worker's share of the slabs of a segment."""
        firsts, counts = self._rounds.dealt(segment)
        size, data, at = self._shape.piece, bytes_of(room), 0
        for k, (first, count) in enumerate(
            zip(firsts.tolist(), counts.tolist(), strict=True)
        ):
            if k % self._workers == worker:
                use(first * size, data[at : at + count * size])
            at += count * size

    def _in_blocks(
        self,
        threads: ThreadPoolExecutor,
        segment: int,
        run: Callable[[int, _Desk], None],
    ) -> None:
        """Run something for each block of a segment."""
        first, last = self._shape.segments[segment : segment + 2]
        places = self._rounds.pieces(segment)

        def work(worker: int) -> None:
            desk = _Desk(
                self._shape, places, aligned(BLOCK * self._shape.unit, self._shape.kind)
            )
            for block in range(first + worker, last, self._workers):
                desk.prepare(block, first)
                run(block, desk)

        self._all(threads, work)

    def _all(self, threads: ThreadPoolExecutor, work: Callable[[int], None]) -> None:
        """Run something once for each worker; it is told which one it is."""
        list(threads.map(work, range(self._workers)))


class _Desk:
    """What one thread has for itself while it works on blocks, as kernels take it."""

    __slots__ = (
        "_places",
        "_room",
        "_shape",
        "deal",
        "span",
        "stage",
        "words",
    )

    def __init__(self, shape: Shape, places: NDArray[Any], room: NDArray[Any]) -> None:
        self._shape, self._places, self._room = shape, places, room
        self.words = shape.word_room()

    def prepare(self, block: int, first: int) -> None:
        """Set all for a block: as if it were all of its pool, after itself in rows."""
        import numpy as np

        shape = self._shape
        start, end = shape.span(block)
        count = end - start
        places = self._places[(start - first * BLOCK) * shape.lanes :]
        columns = np.zeros((shape.rows, 1), np.uint32)
        self.deal = places, columns, aligned(2 * shape.unit, self._room.dtype)
        self.span = 0, count, count, shape.lanes, shape.step
        self.stage = self._room[: count * shape.unit]
