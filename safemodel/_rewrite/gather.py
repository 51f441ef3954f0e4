"""Tensors that do not lie densely in their storage → their elements, row by row.

Rules:

1. Memory is bounded by `_BLOCK` and `_SPAN`, whatever the tensor's shape and strides.
2. Reading is bounded too: a span is read as a whole only where that costs no more than
   reading its parts one by one would.
"""

from __future__ import annotations

import sys
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
    steps = [step * (length > 1) for length, step in axes]
    span = 1 + sum(
        (length - 1) * step for (length, _), step in zip(axes, steps, strict=True)
    )
    widest = max(range(len(axes)), key=steps.__getitem__, default=-1)
    parts, step = axes[widest] if axes else (1, 0)
    worth = step * itemsize <= _READ or span * itemsize <= parts * _READ
    if parts > 1 and not (worth and span * itemsize <= _SPAN):
        # As many parts at once as are worth reading what lies between them.
        room = _SPAN // itemsize - (span - (parts - 1) * step)
        together = room // step + 1 if step * itemsize <= _READ else 1
        _fill_parts(block, read, offset, axes, widest, max(together, 1))
        return
    raw = np.empty(span * itemsize, np.uint8)
    read(offset * itemsize, raw)
    view = np.ndarray(
        block.shape, block.dtype, raw, 0, [step * itemsize for step in steps]
    )
    if not steps:
        block[...] = view
        return
    # Across the grain a few columns at a time, while their lines are in the cache.
    columns = _COLUMNS if steps[-1] > min(steps) else sys.maxsize
    for at in range(0, block.shape[-1], columns):
        block[..., at : at + columns] = view[..., at : at + columns]


def _fill_parts(
    block: NDArray[Any],
    read: Read,
    offset: int,
    axes: Axes,
    axis: int,
    together: int,
) -> None:
    """Fill an array part by part along an axis, so many of them together."""
    length, step = axes[axis]
    moved = np.moveaxis(block, axis, 0)
    rest = axes[:axis] + axes[axis + 1 :]
    if together == 1:
        for at in range(length):
            # With the dots a single element, too, is a view.
            _fill(moved[at, ...], read, offset + at * step, rest)
        return
    for at in range(0, length, together):
        part = moved[at : at + together]
        _fill(part, read, offset + at * step, ((len(part), step), *rest))
