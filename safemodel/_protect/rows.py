"""Where the lines of blocks stand between the two rounds.

After the first round a pool is rows of lines; in each row each block of tiles has a run
of lines, at a place of its own, and one of the runs may go round the end. A run is too
short to be written where it belongs. So what is written comes in the order in which it
is made, and what is read is put together from runs:

- While a pool is permuted, blocks are written one after the other, each as rows of its
  own, and rows of all blocks are read.
- While it is restored, rows are written, and blocks are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._protect.rounds import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel._protect.rounds import Rounds


class Rows:
    """The runs of all blocks.

    Args:
        rounds: The random choices of the pool.

    Attributes:
        line: Bytes of a line.
    """

    __slots__ = ("_columns", "_order", "_shape", "line")

    def __init__(self, rounds: Rounds) -> None:
        import numpy as np

        self._shape = rounds.shape
        self.line = rounds.shape.lanes * rounds.shape.itemsize
        self._columns = rounds.columns()
        self._order = np.empty_like(self._columns)
        for row, columns in enumerate(self._columns):
            self._order[row] = np.argsort(columns)

    def in_row_order(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what rows have from a byte to another: where blocks have it.

        Offset and length, where blocks are written one after the other.
        """
        width = self._shape.tiles * self.line
        for row in range(start // width, -(-end // width)):
            low = max(start - row * width, 0) // self.line
            high = min(end - row * width, width) // self.line
            yield from self._in_row(row, low, high)

    def _in_row(self, row: int, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield what one row has from a column to another."""
        import numpy as np

        shape, order = self._shape, self._order[row]
        starts = self._columns[row][order].astype(np.int64)
        first = int(starts.searchsorted(low, "right")) - 1
        runs = np.arange(first, int(starts.searchsorted(high)))
        begins, blocks = starts[runs], order[runs].astype(np.int64)
        if first < 0:  # before the first run is the end of the one that goes round
            begins[0] -= shape.tiles
        at = np.maximum(begins, low)
        counts = np.minimum(BLOCK, shape.tiles - blocks * BLOCK)
        lines = blocks * BLOCK * shape.rows + row * counts + at - begins
        sizes = np.diff(at, append=high)
        yield from zip(
            (lines * self.line).tolist(), (sizes * self.line).tolist(), strict=True
        )

    def of_block(self, block: int) -> Iterator[tuple[int, int]]:
        """Yield what a block has, row after row: where rows have it.

        Offset and length, where rows are written one after the other.
        """
        tiles, size = self._shape.tiles, self.line
        first, last = self._shape.span(block)
        count = last - first
        for row, column in enumerate(self._columns[:, block].tolist()):
            until = min(count, tiles - column)
            yield (row * tiles + column) * size, until * size
            if until < count:
                yield row * tiles * size, (count - until) * size

    def located(self, places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return in which block elements in row order are, and where in it.

        Args:
            places: Elements of the rounds, ascending.
        """
        import numpy as np

        shape = self._shape
        lines, lane = np.divmod(places, shape.lanes)
        rows, columns = np.divmod(lines, shape.tiles)
        blocks = np.empty(len(places), np.int64)
        edges = np.searchsorted(rows, np.arange(shape.rows + 1))
        for row in range(shape.rows):
            mine = slice(edges[row], edges[row + 1])
            order = self._order[row]
            starts = self._columns[row][order]
            blocks[mine] = order[starts.searchsorted(columns[mine], "right") - 1]
        counts = np.minimum(BLOCK, shape.tiles - blocks * BLOCK)
        inside = (columns - self._columns[rows, blocks]) % shape.tiles
        return blocks, (rows * counts + inside) * shape.lanes + lane
