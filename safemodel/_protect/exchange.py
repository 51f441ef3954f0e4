"""What does not fill two tiles: it changes place with any elements of the pool.

That is between the rounds, so that a pool can be read and written in order: the rest is
known before the first round, and what comes to its place is met in the second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._protect.rounds import Rounds
    from safemodel._protect.rows import Rows


class Exchange:
    """What the rest of a pool changes place with, between the rounds.

    Attributes:
        places: Elements of the rounds that change place, ascending.
        order: Of these and then of the rest: which one goes to each place.
    """

    __slots__ = ("order", "places")

    def __init__(self, rounds: Rounds) -> None:
        import numpy as np

        from safemodel._kernels import permute

        whole = rounds.shape.whole
        # The rest is less than a tile: one part.
        parts = rounds.exchanges()
        partners = parts[0][1][0] if parts else np.empty(0, np.int64)
        self.places = np.unique(partners[partners < whole])
        count = len(self.places)
        self.order = np.arange(count + len(partners), dtype=np.uint32)
        near = np.searchsorted(self.places, partners)
        moved = np.where(partners < whole, near, partners - whole + count)
        permute.shuffle(self.order.reshape(1, -1), moved.reshape(1, -1), count, False)


class Patch:
    """What a restored pool gets back from the rest.

    Attributes:
        values: The elements that were exchanged, and the rest, as they were before.
    """

    __slots__ = ("_by_block", "_edges", "_inside", "values")

    def __init__(self, exchange: Exchange, rows: Rows, values: NDArray[Any]) -> None:
        import numpy as np

        self.values = np.empty_like(values)
        self.values[exchange.order] = values
        blocks, self._inside = rows.located(exchange.places)
        self._by_block = np.argsort(blocks)
        last = int(blocks.max(initial=0)) + 1
        self._edges = np.searchsorted(blocks[self._by_block], np.arange(last + 1))

    def apply(self, block: int, stage: NDArray[Any]) -> None:
        """Put back the elements of a block."""
        if block + 1 < len(self._edges):
            first, last = self._edges[block : block + 2]
            these = self._by_block[first:last]
            stage[self._inside[these]] = self.values[these]
