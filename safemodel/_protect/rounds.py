"""Every random choice of the permutation of one pool, by its shape and its key.

docs/adr/0016 and 0019 say what the choices are for. A pool is divided so:

- *Elements* are in lines of 64 bytes; 16 lines in a row are a piece, of 1 KiB (of one
  byte: 32 and 512 bytes).
- A *tile* takes one piece to each lane of a line, and has as many rows as a piece has
  elements; a *chunk* is as many elements in a row as a tile has.
- 64 tiles or chunks are a *block*: the last may have fewer.
- 32 KiB of pieces are a *slab*; the last may be shorter.
- A *segment* is some blocks up to 32 MiB, and the pieces that are dealt to them: those
  of 1,024 slabs from anywhere.
- Tiles are worked on in pairs. What does not fill a pair is the *rest*.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from safemodel._protect.subkeys import Keystream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._kernels.keystream import Cipher, Words
    from safemodel._protect.subkeys import PoolKey

LINE = 64
"""Bytes of a line; an array that elements are spread over begins at a multiple."""

FEW = 16
"""Lines of a piece, and lines that a layer of switches joins."""

BLOCK = 64
"""Tiles whose lines stay side by side."""

_MAX_LANES = 32  # bytes are in lines of 32, see the kernels
_SMALL = 1 << 16  # elements of the largest pool that is only shuffled, or 16 tiles
_SLAB = 1 << 15
_SEGMENT = 32 << 20
_DRAWS = 1 << 16  # exchanges drawn at a time


class Shape:
    """How a pool is divided.

    Args:
        size: Its elements.
        itemsize: Bytes of an element.

    Attributes:
        lanes: Elements of a line.
        rows: Rows of a tile, and lines of a chunk.
        tiles: How many tiles, which is how many chunks: even; 0: the pool is small.
        layers: Layers of switches that reach every lane.
        segments: The first block of each segment, and where the last ends.
    """

    __slots__ = ("itemsize", "lanes", "layers", "rows", "segments", "size", "tiles")

    def __init__(self, size: int, itemsize: int) -> None:
        self.size, self.itemsize = size, itemsize
        self.lanes = min(LINE // itemsize, _MAX_LANES)
        self.layers = self.lanes.bit_length() - 1
        self.rows = FEW * self.lanes
        pairs = size // (2 * self.unit)
        self.tiles = 2 * pairs if size >= max(_SMALL, 16 * self.unit) else 0
        most = max(_SEGMENT // (BLOCK * self.unit * itemsize), 1)
        count = max(-(-self.blocks // most), 1)
        # All as large as one another: a small one would hold parts of few slabs.
        self.segments = [self.blocks * k // count for k in range(count + 1)]

    @property
    def unit(self) -> int:
        """Elements of a tile, and of a chunk."""
        return self.rows * self.lanes

    @property
    def kind(self) -> str:
        """What kernels take elements for.

        Numpy has no integers of 16 bytes; numbers of as many are moved and not looked
        at.
        """
        return f"u{self.itemsize}" if self.itemsize < 16 else "c16"

    @property
    def blocks(self) -> int:
        """Blocks, the last of them perhaps of fewer tiles."""
        return -(-self.tiles // BLOCK)

    @property
    def whole(self) -> int:
        """Elements that go through the rounds."""
        return self.tiles * self.unit

    @property
    def piece(self) -> int:
        """Bytes of a piece."""
        return FEW * self.lanes * self.itemsize

    @property
    def step(self) -> int:
        """Words of as many layers as reach every lane of a line."""
        return self.layers * (self.lanes // 2)

    def span(self, block: int) -> tuple[int, int]:
        """Return the first tile or chunk of a block, and where the last ends."""
        return block * BLOCK, min((block + 1) * BLOCK, self.tiles)

    def word_room(self) -> NDArray[Any]:
        """Return room for words, for one thread."""
        from safemodel._kernels import permute

        return permute.room_for_words(self.itemsize)


class Rounds:
    """The random choices. Threads may share one.

    Args:
        shape: How the pool is divided.
        key: Its key.
    """

    def __init__(self, shape: Shape, key: PoolKey) -> None:
        self.shape = shape
        self._key = key

    def _secret(self, use: str) -> bytes:
        """Return the sub-key for one use, in a pool of this shape only."""
        shape = self.shape
        return self._key.use(f"{shape.size} x {shape.itemsize} bytes: {use}")

    @cached_property
    def _switches(self) -> dict[str, Cipher]:
        """What makes the words of the switches of both rounds."""
        from safemodel._kernels import keystream

        return {
            kind: keystream.Cipher(self._secret(kind)) for kind in ("tile", "chunk")
        }

    @cached_property
    def _slabs(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Slabs in random order: first pieces, how many, and all up to their last."""
        import numpy as np

        shape = self.shape
        count, slab = shape.tiles * shape.lanes, _SLAB // shape.piece
        slabs = _shuffled(-(-count // slab), Keystream(self._secret("slabs")))
        firsts = slabs.astype(np.int64) * slab
        counts = np.minimum(slab, count - firsts)
        return firsts, counts, np.cumsum(counts)

    def bits(self, kind: str, block: int, room: NDArray[Any]) -> Words:
        """Return where the words of tiles or chunks come from, from a block on.

        Args:
            kind: "tile" or "chunk".
            block: Where the first of them is.
            room: See `Shape.word_room`.
        """
        return self._switches[kind].words(block, room)

    def dealt(self, segment: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what of slabs a segment has: first pieces, and how many from each."""
        import numpy as np

        first, last = self._pieces_of(segment)
        slabs, sizes, ends = self._slabs
        low = int(np.searchsorted(ends, first, "right"))
        high = int(np.searchsorted(ends, last)) + 1
        firsts, counts = slabs[low:high].copy(), sizes[low:high].copy()
        cut = first - (int(ends[low]) - int(counts[0]))
        firsts[0] += cut
        counts[0] -= cut
        counts[-1] -= int(ends[high - 1]) - last
        return firsts, counts

    def _pieces_of(self, segment: int) -> tuple[int, int]:
        """Return how many pieces are dealt before a segment, and with it."""
        first, last = self.shape.segments[segment : segment + 2]
        lanes = self.shape.lanes
        return self.shape.span(first)[0] * lanes, self.shape.span(last - 1)[1] * lanes

    def pieces(self, segment: int) -> NDArray[Any]:
        """Return which of a segment's pieces is in which lane of which of its tiles.

        They are counted in the order in which they were dealt to it. Each that follow
        one another go to different blocks, as many as there are: neighbours in a slab
        would else share runs of lines. In its block, a piece goes anywhere.
        """
        import numpy as np

        first, last = self._pieces_of(segment)
        stream = Keystream(self._secret("pieces"), segment)
        full = BLOCK * self.shape.lanes
        blocks, over = divmod(last - first, full)
        dealt = np.arange(last - first, dtype=np.uint32)
        # As many groups as the last block has pieces include it, and others do not.
        wide = dealt[: over * (blocks + 1)].reshape(over, blocks + 1)
        narrow = dealt[wide.size :].reshape(full - over, blocks)
        _shuffle_rows(wide, stream)
        _shuffle_rows(narrow, stream)
        whole = np.concatenate([wide[:, :blocks], narrow]).T.copy()
        rest = wide[:, blocks:].T.copy()
        _shuffle_rows(whole, stream)
        _shuffle_rows(rest, stream)
        return np.concatenate([whole.reshape(-1), rest.reshape(-1)])

    def columns(self) -> NDArray[Any]:
        """Return where in each row the lines of each block begin, (rows, blocks)."""
        import numpy as np

        firsts = range(0, self.shape.rows, FEW)
        return np.concatenate([self.some_columns(first) for first in firsts])

    def some_columns(self, first: int) -> NDArray[Any]:
        """Return `columns` of 16 rows: what is drawn takes more room than all of them.

        In each row the whole blocks are in an order of their own; a rest of fewer tiles
        follows; and all is turned round by an even number of columns of its own.

        Args:
            first: The first of the rows.
        """
        import numpy as np

        from safemodel._kernels import permute

        shape, stream = self.shape, Keystream(self._secret("columns"), first // FEW)
        starts = np.arange(0, shape.tiles, BLOCK, dtype=np.uint32)
        rows = np.tile(starts, (FEW, 1))
        draws = stream.draws(0, (FEW, shape.tiles // BLOCK))
        permute.shuffle(rows, draws, 0, False)
        # Even: lines of two tiles stay side by side in 128 bytes.
        turns = [2 * stream.below(shape.tiles // 2) for _ in range(FEW)]
        turned = (rows + np.array(turns, np.int64)[:, None]) % shape.tiles
        return turned.astype(np.uint32)

    def exchanges(self) -> list[tuple[int, NDArray[Any]]]:
        """Return which elements change place with the rest, as the kernel takes it.

        In parts: the first element, and with which one it and each that follows it
        changes place. All of a small pool are the rest.
        """
        stream = Keystream(self._secret("exchange"))
        return _draws(self.shape.whole, self.shape.size, stream)


def _draws(first: int, last: int, stream: Keystream) -> list[tuple[int, NDArray[Any]]]:
    """Return the exchanges of a shuffle in parts."""
    return [
        (start, stream.draws(start, (1, min(_DRAWS, last - start))))
        for start in range(first, last, _DRAWS)
    ]


def _shuffle_rows(table: NDArray[Any], stream: Keystream) -> None:
    """Put each row of a table in any order, each with the same chance."""
    from safemodel._kernels import permute

    if table.size:
        permute.shuffle(table, stream.draws(0, table.shape), 0, False)


def _shuffled(count: int, stream: Keystream) -> NDArray[Any]:
    """Return 0 ... count - 1 in any order, each with the same chance."""
    import numpy as np

    from safemodel._kernels import permute

    made = np.arange(count, dtype=np.uint32)
    for first, draws in _draws(0, count, stream):
        permute.shuffle(made.reshape(1, -1), draws, first, False)
    return made
