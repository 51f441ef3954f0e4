"""Pictures of the weights in which `detect` found something, and of some others.

Rules:

1. The file is read once more, but only tensors that are drawn. Which those are is
   known by then, so memory is that of one piece, one tensor's counts, and pictures.
2. However many tensors there are, so many are drawn: the suspicious ones first, the
   strongest of them first, then the largest others.
3. A file that is not the one that was looked at is an error, not a picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.bit_planes import LEVELS, BitPlanes
from safemodel._detector.layouts import FLOATS
from safemodel._detector.opening import any_opened
from safemodel._report.pictured import Mark, Near, Pictured, Pixels, Plane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from safemodel._detector.results import Detection, TensorDetection
    from safemodel._detector.weights import Held, Weights
    from safemodel.limits import Limits

ROWS = 120
"""Tensors of which a row is drawn."""
COLUMNS = 512
_PLANE_SIDE = 64
_PLANES = 32
"""Lowest bits that are drawn one by one."""
_NEAR_SIDE = 128
_NEAR_BYTES = 4
_LEAST = 64
"""Weights below which a tensor is drawn only if it is suspicious."""
_MARKS = 200


class Amount(NamedTuple):
    """How many tensors are drawn.

    Attributes:
        rows: In a row.
        suspicious: As a map of bits along the tensor, and bit by bit.
        others: The same, of those that nothing speaks against.
    """

    rows: int = ROWS
    suspicious: int = 12
    others: int = 3


USUAL = Amount()


def pictures(
    found: Detection, f: Any, limits: Limits | None = None, amount: Amount = USUAL
) -> tuple[Pictured, ...]:
    """Return pictures of weights, in the order of the file.

    Raises:
        ValueError: ``f`` is not what was found something out about (rule 3).
    """
    full = chosen(found, amount.suspicious, amount.others)
    rows = chosen(found, amount.rows, amount.rows)
    kept = sorted([*dict.fromkeys([*full, *rows])][: amount.rows])
    with any_opened(f, limits) as source:
        _check(found, source.tensors)
        return tuple(
            _drawn(found, at, source.tensors[at], whole=at in full) for at in kept
        )


def chosen(found: Detection, suspicious: int, others: int) -> list[int]:
    """Return which tensors to draw, by their number (rule 2).

    Args:
        found: What was found.
        suspicious: Of suspicious ones, at most; they come first.
        others: Of the others, at most.
    """
    tensors = found.by_tensor
    against = [at for at, one in enumerate(tensors) if one.suspicious]
    against.sort(key=lambda at: (tensors[at].p_value, -tensors[at].score, at))
    plain = [
        at
        for at, one in enumerate(tensors)
        if not one.suspicious and one.size >= _LEAST
    ]
    plain.sort(key=lambda at: (tensors[at].role == "slack", -tensors[at].size, at))
    return [*against[:suspicious], *plain[:others]]


def _check(found: Detection, tensors: Sequence[Held]) -> None:
    """Rule 3."""
    before = [(one.name, one.dtype, one.size) for one in found.by_tensor]
    if before != [(one.name, one.dtype, one.size) for one in tensors]:
        raise ValueError("not the weights of this detection: has the file changed?")


def _drawn(found: Detection, at: int, held: Held, *, whole: bool) -> Pictured:
    """Read a tensor, and draw it."""
    planes = BitPlanes(held.size, held.itemsize)
    spans = spans_of(found, found.by_tensor[at])
    near = _Near(held, spans, found.by_tensor[at].bits) if whole else None
    for piece in held.weights():
        planes.add(piece)
        if near is not None:
            near.add(piece)
    row = _gray(planes.whole()[None])
    if near is None:
        marks = marks_of(spans, 0, held.size)
        return Pictured(at, _fields(held), row, marks=marks)
    levels, column = planes.columns(COLUMNS)
    drawn = column * levels.shape[1]
    return Pictured(
        at, _fields(held), row, column, _gray(levels),
        marks_of(spans, 0, drawn),
        marks_of(
            [(one.start, one.start + 1) for one in found.candidates
             if one.tensor == held.name], 0, drawn
        ),
        tuple(_planes(planes)), near.drawn(),
    )  # fmt: skip


def _fields(held: Held) -> tuple[tuple[str, int], ...]:
    """Return what the bits of a number are, the highest first."""
    layout = FLOATS.get(held.dtype)
    if layout is None:
        return (("bits", 8 * held.itemsize),)
    return ("sign", 1), ("exponent", layout.exponent), ("mantissa", layout.mantissa)


def spans_of(found: Detection, tensor: TensorDetection) -> list[tuple[int, int]]:
    """Return the stretches that speak against a tensor, those that touch as one.

    Evidence about the tensor as a whole is one about all of it only if there is no
    other: then nothing says where.
    """
    given = [
        (max(one.start, 0), min(one.end, tensor.size))
        for one in found.evidence
        if one.tensor == tensor.name and one.end > one.start
    ]
    given += [
        (one.start, one.end)
        for one in found.changes
        if one.name == tensor.name and one.state == "replaced"
    ]
    if not given and tensor.suspicious:
        return [(0, tensor.size)]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(given):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def marks_of(
    spans: Sequence[tuple[int, int]], first: int, many: int
) -> tuple[Mark, ...]:
    """Return where stretches are among so many weights; at most 200 of them."""
    kept = [
        Mark(max(start - first, 0) / many, min(end - first, many) / many)
        for start, end in spans
        if start < first + many and end > first
    ]
    return tuple(kept[:_MARKS])


def _planes(planes: BitPlanes) -> Iterator[Plane]:
    """Yield the lowest bits, the highest of them first."""
    shares = planes.shares()
    for bit in reversed(range(min(_PLANES, planes.ones.shape[1]))):
        yield Plane(bit, float(shares[bit]), _square(planes.plane(bit)))


def _square(levels: NDArray[np.uint8]) -> Pixels:
    """Return cells as a square, row after row; what is left over is middle gray."""
    side = min(_PLANE_SIDE, int(np.ceil(np.sqrt(levels.size))))
    spare = -levels.size % side
    filled = np.append(levels, np.full(spare, LEVELS // 2, np.uint8))
    return _gray(filled.reshape(-1, side))


def _gray(levels: NDArray[np.uint8]) -> Pixels:
    """Return levels from 0 to 15 as a picture."""
    return Pixels(levels.shape[1], levels.tobytes())


class _Near:
    """A stretch of weights, one by one: where the evidence begins, if there is any."""

    def __init__(self, held: Held, spans: list[tuple[int, int]], bits: int) -> None:
        self._spans, self._itemsize, self._bits = spans, held.itemsize, bits
        self._side = min(_NEAR_SIDE, int(np.ceil(np.sqrt(held.size))))
        most = self._side * self._side
        self._start = 0
        if spans and held.size > most:
            # A part before it, to compare with.
            first = max(spans[0][0] - most // 4, 0) // self._side * self._side
            self._start = min(first, (held.size - most) // self._side * self._side)
        self._end = min(self._start + most, held.size)
        self._parts: list[NDArray[Any]] = []

    def add(self, piece: Weights) -> None:
        """Keep what lies in the stretch."""
        first, last = self._start - piece.start, self._end - piece.start
        if last > 0 and first < piece.bits.size:
            self._parts.append(piece.bits[max(first, 0) : last].copy())

    def drawn(self) -> Near:
        """Return a picture a byte, the lowest four at most, and one of the low bits."""
        words = np.concatenate(self._parts)
        little = words.astype(words.dtype.newbyteorder("<"), copy=False)
        columns = little.view(np.uint8).reshape(words.size, self._itemsize)
        parts = [
            (f"byte {byte}" if byte else "lowest byte", self._pixels(columns[:, byte]))
            for byte in reversed(range(min(self._itemsize, _NEAR_BYTES)))
        ]
        if 0 < self._bits < 8:
            low = columns[:, 0] & np.uint8((1 << self._bits) - 1)
            full = np.uint8(255 // ((1 << self._bits) - 1))
            said = "lowest bit" if self._bits == 1 else f"{self._bits} lowest bits"
            parts.append((said, self._pixels(low * full)))
        many = words.size + -words.size % self._side
        marks = marks_of(self._spans, self._start, many)
        return Near(self._start, self._end, tuple(parts), marks)

    def _pixels(self, column: NDArray[np.uint8]) -> Pixels:
        """Return a picture of a byte of each weight, filled up with black."""
        return Pixels(
            self._side, column.tobytes() + bytes(-column.size % self._side), depth=8
        )
