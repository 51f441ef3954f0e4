"""Where the lines of blocks stand between the two rounds.

After the first round a pool is rows of lines; in each row each block of tiles has a
*run* of lines, at a place of its own, and one of the runs may go round the end. Blocks
are made one after the other, and rows are used one after the other: what is between
the rounds has to be turned from one to the other.

Blocks that are made together are a *batch*, up to 16 MiB. A *band* is some rows that
are in memory together, and some bands are a *part* of the scratch. In each part is
batch after batch; in each, row after row; and in each row of it a *stripe*: the runs of
all its blocks, in their order. So a batch is written or read in as many pieces as there
are parts, a row in as many as there are batches, and parts are done with one after the
other. Only in memory runs are put in the order of their row, see `bands`.

A last block that has fewer tiles is a batch by itself, so that all other runs begin at
multiples of their length.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._protect.rounds import BLOCK, FEW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._protect.rounds import Rounds

_BATCH = 16 << 20
_BAND = 4 << 20
_PARTS = 8


class Runs(NamedTuple):
    """Runs of a row, or parts of them, as they follow each other there.

    Attributes:
        at: Line of the row where each begins.
        sizes: Lines of each.
        blocks: Whose they are.
        inside: Line of the run where each begins.
    """

    at: NDArray[Any]
    sizes: NDArray[Any]
    blocks: NDArray[Any]
    inside: NDArray[Any]


class Rows:
    """The runs of all blocks. Threads may share one.

    Args:
        rounds: The random choices of the pool.
        workers: How many batches of a segment are made at a time.

    Attributes:
        line: Bytes of a line.
        batches: First block of each batch, and where the last ends.
        band: Rows of a band: 4 MiB of them, or one; the last may have fewer.
        parts: First row of each part, and where the last ends.
    """

    __slots__ = (
        "_first", "_known", "_rounds", "_shape", "_stripes", "_tiles", "band",
        "batches", "line", "parts",
    )  # fmt: skip

    def __init__(self, rounds: Rounds, workers: int) -> None:
        import numpy as np

        self._rounds, self._shape = rounds, rounds.shape
        self.line = rounds.shape.lanes * rounds.shape.itemsize
        self.batches = self._cut(workers)
        # Of each block: the first tile of its batch, and how many tiles that has.
        blocks = np.diff(self.batches)
        tiles = np.minimum(np.array(self.batches) * BLOCK, rounds.shape.tiles)
        self._stripes = tiles[:-1], np.diff(tiles)
        self._first, self._tiles = (np.repeat(one, blocks) for one in self._stripes)
        self._known: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        self.band = min(max(_BAND // (self.width * self.line), 1), self.count)
        some = -(-self.count // (self.band * _PARTS)) * self.band
        self.parts = [*range(0, self.count, some), self.count]

    def _cut(self, workers: int) -> list[int]:
        """Return the first block of each batch: some of a segment each."""
        shape = self._shape
        size = BLOCK * shape.unit * shape.itemsize
        edges = {shape.tiles // BLOCK, shape.blocks}
        for first, last in pairwise(shape.segments):
            count = -(-(last - first) * size // _BATCH)
            count = min(max(count, workers), last - first)
            edges |= {first + (last - first) * k // count for k in range(count)}
        return sorted(edges)

    @property
    def width(self) -> int:
        """Lines of a row."""
        return self._shape.tiles

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._shape.rows

    def batch(self, number: int) -> tuple[int, int]:
        """Return the first tile of a batch, and where its last ends."""
        first, last = self.batches[number : number + 2]
        return first * BLOCK, min(last * BLOCK, self._shape.tiles)

    @property
    def edges(self) -> list[int]:
        """Bytes of the scratch where all parts but the first begin."""
        return [self.begin(first) for first in self.parts[1:-1]]

    def begin(self, row: int) -> int:
        """Return where the part that a row is in begins in the scratch."""
        return self._part(row)[0] * self.width * self.line

    def _part(self, row: int) -> tuple[int, int]:
        """Return the first row of the part that a row is in, and where it ends."""
        last = bisect_right(self.parts, row, hi=len(self.parts) - 1)
        return self.parts[last - 1], self.parts[last]

    def pieces(self, batch: int) -> list[tuple[int, int]]:
        """Return where a batch is in the scratch: offset and length, part after part.

        In memory the pieces follow each other.
        """
        starts, tiles = self._stripes
        start, count = int(starts[batch]), int(tiles[batch])
        return [
            (
                (first * self.width + (last - first) * start) * self.line,
                (last - first) * count * self.line,
            )
            for first, last in pairwise(self.parts)
        ]

    def stripes(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return where rows from one to below another are in the scratch.

        Offset and length in bytes, for each batch. The rows are of one part.
        """
        starts, tiles = self._stripes
        low, high = self._part(first)
        at = low * self.width + (high - low) * starts + (first - low) * tiles
        sizes = (last - first) * self.line * tiles
        return list(zip((at * self.line).tolist(), sizes.tolist(), strict=True))

    def scattered(self, runs: Runs, row: int) -> NDArray[Any]:
        """Return which line of the scratch each run begins with.

        Args:
            runs: Those of one row.
            row: Which one.
        """
        low, high = self._part(row)
        made: NDArray[Any] = low * self.width + self.lines(runs, row - low, high - low)
        return made

    def lines(self, runs: Runs, row: int, rows: int) -> NDArray[Any]:
        """Return which line each run begins with where there are some rows only.

        Args:
            runs: Those of one row.
            row: Which one of those that are there.
            rows: How many are there.
        """
        first, tiles = self._first[runs.blocks], self._tiles[runs.blocks]
        made: NDArray[Any] = (
            (rows - 1) * first + row * tiles + runs.blocks * BLOCK + runs.inside
        )
        return made

    def runs(self, row: int, low: int, high: int) -> Runs:
        """Return what a row has from a line to another."""
        import numpy as np

        starts, order = self._order(row)
        first = int(starts.searchsorted(low, "right")) - 1
        last = int(starts.searchsorted(high))
        runs = np.arange(first, last)
        begins, blocks = starts[runs], order[runs]
        if first < 0:  # before the first run is the end of the one that goes round
            begins[0] -= self._shape.tiles
        at, sizes = begins.copy(), np.empty_like(begins)
        at[0] = low  # no run begins before it but the first
        sizes[:-1] = at[1:]
        sizes[-1] = high
        sizes -= at
        return Runs(at, sizes, blocks, at - begins)

    def _order(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return where the runs of a row begin, ascending, and whose they are."""
        import numpy as np

        group = row // FEW
        known = self._known.get(group)
        if known is None:
            columns = self._rounds.some_columns(group * FEW).astype(np.int64)
            order = np.argsort(columns, axis=1)
            known = np.take_along_axis(columns, order, axis=1), order
            # Another thread may do the same meanwhile: it comes to the same.
            self._known = {**dict(list(self._known.items())[-1:]), group: known}
        starts, order = known
        return starts[row % FEW], order[row % FEW]

    def located(self, places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return in which batch elements in row order are, and where in it.

        Args:
            places: Elements of the rounds, ascending.
        """
        import numpy as np

        shape = self._shape
        lines, lane = np.divmod(places, shape.lanes)
        rows, columns = np.divmod(lines, shape.tiles)
        inside = np.empty(len(places), np.int64)
        batches = np.empty(len(places), np.int64)
        edges = np.searchsorted(rows, np.arange(shape.rows + 1))
        for row in range(shape.rows):
            mine = slice(edges[row], edges[row + 1])
            starts, order = self._order(row)
            found = starts.searchsorted(columns[mine], "right") - 1
            blocks = order[found]
            first, tiles = self._first[blocks], self._tiles[blocks]
            there = (
                blocks * BLOCK - first + (columns[mine] - starts[found]) % self.width
            )
            inside[mine] = row * tiles + there
            batches[mine] = np.searchsorted(self.batches, blocks, "right") - 1
        return batches, inside * shape.lanes + lane
