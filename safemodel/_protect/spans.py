"""A pool that lies in pieces in a file, read as one run of bytes."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from safemodel._protect.layout import Extent


class Piece(NamedTuple):
    """Bytes that follow each other in the file as in the pool.

    Attributes:
        at: First byte in the pool.
        start: First byte in the file.
        length: How many.
    """

    at: int
    start: int
    length: int


class Scattered:
    """Where the bytes of a pool lie in a file.

    Args:
        pieces: All of them, in the order of the pool.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces: list[Piece] = []
        for piece in pieces:
            if piece.length:
                self._add(piece)
        self._ats = [piece.at for piece in self._pieces]

    @classmethod
    def of(cls, extents: Sequence[Extent], starts: Sequence[int]) -> Self:
        """Return where tensors lie of which it is known where each begins."""
        return cls(
            Piece(extent.start, start, extent.length)
            for extent, start in zip(extents, starts, strict=True)
        )

    def _add(self, piece: Piece) -> None:
        """Take another piece; together with the last one if nothing is between."""
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.start + last.length == piece.start:
            # Of many small tensors most are; `_replace` takes three times as long.
            self._pieces[-1] = Piece(last.at, last.start, last.length + piece.length)
        else:
            self._pieces.append(piece)

    def within(self, at: int, length: int) -> Iterator[Piece]:
        """Yield the pieces of a span of the pool."""
        index = max(bisect_right(self._ats, at) - 1, 0)
        end = at + length
        while at < end:
            piece = self._pieces[index]
            skipped = at - piece.at
            size = min(piece.length - skipped, end - at)
            yield Piece(at, piece.start + skipped, size)
            at += size
            index += 1

    def each(
        self, act: Callable[[int, memoryview], None], at: int, view: memoryview
    ) -> None:
        """Read or write the pool's bytes from an offset on, piece by piece.

        Args:
            act: Fills a part of the view from an offset of the file, or writes it.
            at: First byte in the pool.
            view: As many bytes.
        """
        index = bisect_right(self._ats, at) - 1
        if index >= 0:
            # Nearly always they are in one piece, and there are very many of them.
            first, start, length = self._pieces[index]
            if at + len(view) <= first + length:
                act(start + at - first, view)
                return
        for piece in self.within(at, len(view)):
            first = piece.at - at
            act(piece.start, view[first : first + piece.length])
