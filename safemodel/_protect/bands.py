"""Rows of a pool in memory, some at a time, between scratch and the second round.

In memory a band lies as in the scratch: batch after batch, row after row, see `rows`.
Here runs are put in the order of their row, and back.

Where a row is longer than 64 MiB, rows are never in memory as a whole: runs are read
and written where they are in the scratch, 4 KiB at a time, which takes longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._protect.permutation import aligned
from safemodel._protect.rounds import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel._protect.rows import Rows
    from safemodel._protect.scratch import ScratchFile

_MOST = 64 << 20
_SMALL = 16 << 20  # of longer bands two are in memory at a time, and not three


class _Move(NamedTuple):
    """Lines that are together in a band and in its rows; or some whole runs.

    Attributes:
        lines: Those of an array in the order of the rows.
        starts: Where the lines are, or where each of the runs begins, in lines.
    """

    lines: NDArray[Any]
    starts: NDArray[Any]


class Bands:
    """The rows of a pool. Threads may share one.

    Args:
        rows: Where lines stand.
        file: The scratch.

    Attributes:
        count: How many bands there are.
        size: Bytes of a band; the last may be shorter.
        rooms: How many are in memory at a time: a band takes the place of the one that
            many before. 0: none, and there is nothing to load or to store.
    """

    __slots__ = ("_file", "_places", "_rows", "count", "rooms", "size")

    def __init__(self, rows: Rows, file: ScratchFile) -> None:
        self._rows, self._file = rows, file
        width = rows.width * rows.line
        self.count = -(-rows.count // rows.band)
        self.size = rows.band * width
        self.rooms = 0 if self.size > _MOST else 2 if self.size > _SMALL else 3
        self.rooms = min(self.rooms, self.count)
        self._places = [aligned(self.size, "u1") for _ in range(self.rooms)]

    def touched(self, start: int, end: int) -> range:
        """Return which bands bytes from one to below another are in."""
        return range(start // self.size, -(-end // self.size) if start < end else 0)

    def load(self, band: int) -> None:
        """Read a band.

        Raises:
            OSError: Reading failed.
        """
        first, last = self._span(band)
        room = self._places[band % self.rooms][: self._bytes(last - first)]
        self._file.read_parts(self._rows.stripes(first, last), room.data)

    def drop(self, end: int) -> None:
        """Give up the parts of the scratch whose rows are all before a byte."""
        row = end // (self._rows.width * self._rows.line)
        self._file.drop(self._rows.begin(min(row, self._rows.count - 1)))

    def store(self, band: int) -> None:
        """Write a band.

        Raises:
            OSError: Writing failed.
        """
        first, last = self._span(band)
        data, done = self._places[band % self.rooms].data, 0
        for at, length in self._rows.stripes(first, last):
            self._file.write_at(at, data[done : done + length])
            done += length

    def collect(self, start: int, body: NDArray[Any]) -> None:
        """Fill an array with what rows have from a byte on; their bands are loaded.

        Raises:
            OSError: Reading failed.
        """
        import numpy as np

        line = self._rows.line
        for room, move in self._moves(start, body):
            count = len(move.starts)
            if room is None:
                self._file.read_into(int(move.starts[0]) * line, _bytes(move.lines))
            elif count == 1:
                at = int(move.starts[0])
                move.lines[:] = room[at : at + len(move.lines)]
            else:
                out = move.lines.reshape(count, -1)
                np.take(_runs(room), move.starts // BLOCK, axis=0, out=out, mode="clip")

    def deal(self, start: int, body: NDArray[Any]) -> None:
        """Put an array where rows have it from a byte on; their bands are to be stored.

        Raises:
            OSError: Writing failed.
        """
        line = self._rows.line
        for room, move in self._moves(start, body):
            count = len(move.starts)
            if room is None:
                self._file.write_at(int(move.starts[0]) * line, _bytes(move.lines))
            elif count == 1:
                at = int(move.starts[0])
                room[at : at + len(move.lines)] = move.lines
            else:
                _runs(room)[move.starts // BLOCK] = move.lines.reshape(count, -1)

    def _moves(
        self, start: int, body: NDArray[Any]
    ) -> Iterator[tuple[NDArray[Any] | None, _Move]]:
        """Yield what an array has of the rows from a byte on, and where it is.

        With the lines of the band that it is in; None for the scratch.
        """
        line, width = self._rows.line, self._rows.width
        lines = body.view("u1").reshape(-1, line)
        done, first = 0, start // line
        while done < len(lines):
            row, low = divmod(first + done, width)
            high = min(width, low + len(lines) - done)
            there = lines[done : done + high - low]
            yield from self._in_row(row, low, there)
            done += high - low

    def _in_row(
        self, row: int, low: int, lines: NDArray[Any]
    ) -> Iterator[tuple[NDArray[Any] | None, _Move]]:
        """Yield the same for a part of one row, from a line on."""
        runs = self._rows.runs(row, low, low + len(lines))
        if self.rooms:
            band = row // self._rows.band
            first, last = self._span(band)
            starts = self._rows.lines(runs, row - first, last - first)
            room = self._places[band % self.rooms].reshape(-1, self._rows.line)
            cuts = _stretches(runs.sizes)
        else:
            starts, room = self._rows.scattered(runs, row), None
            cuts = ((k, k + 1) for k in range(len(starts)))
        at = (runs.at - low).tolist()
        at.append(len(lines))
        for first, last in cuts:
            yield room, _Move(lines[at[first] : at[last]], starts[first:last])

    def _span(self, band: int) -> tuple[int, int]:
        """Return the first row of a band, and where its last ends."""
        first = band * self._rows.band
        return first, min(first + self._rows.band, self._rows.count)

    def _bytes(self, rows: int) -> int:
        return rows * self._rows.width * self._rows.line


def _stretches(sizes: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield whole runs that follow each other, and each other run by itself."""
    import numpy as np

    done = 0
    for other in np.flatnonzero(sizes != BLOCK).tolist():
        if done < other:
            yield done, other
        yield other, other + 1
        done = other + 1
    if done < len(sizes):
        yield done, len(sizes)


def _runs(room: NDArray[Any]) -> NDArray[Any]:
    """Return lines as whole runs."""
    return room[: len(room) // BLOCK * BLOCK].reshape(len(room) // BLOCK, -1)


def _bytes(lines: NDArray[Any]) -> memoryview:
    """Return the bytes of lines that follow each other."""
    return lines.reshape(-1).data
