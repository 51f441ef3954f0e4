"""Tensors that do not lie densely in their storage → their elements, row by row.

Rules:

1. Memory is bounded by `_BLOCK` and `_SPAN`, whatever the tensor's shape and strides.
2. Reading is bounded too: a span is read as a whole only where that costs no more than
   reading its parts one by one would.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Axes: TypeAlias = "tuple[tuple[int, int], ...]"
"""Length and step of each axis, in elements."""
Read: TypeAlias = "Callable[[int, NDArray[np.uint8]], None]"

_BLOCK = 32 << 20
_SPAN = 32 << 20
_READ = 32768
"""Bytes that are read in the time that one more call of ``read`` takes."""
_COLUMNS = 64
_INTEGERS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


def gathered(
    read: Read, itemsize: int, offset: int, axes: Axes
) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of a tensor's elements in row-major order.

    Args:
        read: Fills an array with bytes of the storage from an offset in bytes on.
        itemsize: Bytes an element.
        offset: First element.
        axes: Length and step of each axis, neither of them negative.
    """
    if 0 in (length for length, _ in axes):
        return
    # Integers are copied faster than elements of no type, and no bit changes.
    element = np.dtype(_INTEGERS.get(itemsize, f"V{itemsize}"))
    for start, part in _blocks(offset, axes, max(1, _BLOCK // itemsize)):
        block = np.empty([length for length, _ in part], element)
        _fill(block, read, start, part)
        yield block.reshape(-1).view(np.uint8)


def _blocks(offset: int, axes: Axes, most: int) -> Iterator[tuple[int, Axes]]:
    """Yield parts of at most so many elements that follow each other row by row."""
    if prod(length for length, _ in axes) <= most:
        yield offset, axes
        return
    length, step = axes[0]
    rows = max(1, most // prod(length for length, _ in axes[1:]))
    for row in range(0, length, rows):
        start, count = offset + row * step, min(rows, length - row)
        if count == 1:
            yield from _blocks(start, axes[1:], most)
        else:
            yield start, ((count, step), *axes[1:])


def _fill(block: NDArray[Any], read: Read, offset: int, axes: Axes) -> None:
    """Fill an array with elements, reading as little as is worth it (rule 2)."""
    itemsize = block.dtype.itemsize
    span = _span(axes)
    if span * itemsize <= _SPAN and _widest(axes)[1] * itemsize <= _READ:
        raw = np.empty(span * itemsize, np.uint8)
        read(offset * itemsize, raw)
        _copy(block, raw, [step for _, step in axes])
        return
    axis, step = _widest(axes)
    rest = axes[:axis] + axes[axis + 1 :]
    inner = _span(rest)
    parts = np.moveaxis(block, axis, 0)
    if inner * itemsize > _SPAN or _widest(rest)[1] * itemsize > _READ:
        for at in range(len(parts)):
            # With the dots a single element, too, is a view.
            _fill(parts[at, ...], read, offset + at * step, rest)
        return
    # Several parts at once: with what lies between them, if that is worth it.
    near = step * itemsize <= _READ
    row = step if near else inner
    together = max((_SPAN // itemsize - inner) // row, 1)
    for at in range(0, len(parts), together):
        some = parts[at : at + together]
        raw = np.empty(((len(some) - 1) * row + inner) * itemsize, np.uint8)
        if near:
            read((offset + at * step) * itemsize, raw)
        else:
            for index, piece in enumerate(raw.reshape(len(some), -1)):
                read((offset + (at + index) * step) * itemsize, piece)
        _copy(some, raw, [row, *(step for _, step in rest)])


def _span(axes: Axes) -> int:
    """Return how many elements there are from the first to the last, both included."""
    return 1 + sum((length - 1) * step for length, step in axes)


def _widest(axes: Axes) -> tuple[int, int]:
    """Return the axis with the widest step, and that step; 0 where none is made."""
    steps = [step if length > 1 else 0 for length, step in axes]
    axis = max(range(len(axes)), key=steps.__getitem__, default=-1)
    return axis, steps[axis] if axes else 0


def _copy(block: NDArray[Any], raw: NDArray[np.uint8], steps: list[int]) -> None:
    """Copy elements that lie in a buffer by these steps."""
    itemsize = block.dtype.itemsize
    strides = [step * itemsize for step in steps]
    view = np.ndarray(block.shape, block.dtype, raw, 0, strides)
    if not steps or min(steps) == steps[-1]:
        block[...] = view
        return
    # Across the grain a few columns at a time, while their lines are in the cache.
    for at in range(0, block.shape[-1], _COLUMNS):
        block[..., at : at + _COLUMNS] = view[..., at : at + _COLUMNS]
