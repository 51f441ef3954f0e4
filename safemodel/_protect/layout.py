"""What lies where in a pool: the bytes of all tensors of one dtype, one after another.

A pool has two layouts over the same bytes: `stored`, as a reader without the key finds
them, and `plain`, as they were before and will be again. In both, every byte belongs to
one tensor: there are no gaps to hide in and no overlaps. A tensor here is a contiguous
stretch; tied and strided ones are views of it, which the sealed data describes.

Leaves (`tags`) cut a pool into chunks:

1. In stored order a chunk is 1 MiB, from the first byte on; the last may be shorter.
2. In plain order a chunk ends where a tensor does, so that a change is in one tensor.
   A tensor of more than 1 MiB has one for each MiB and one for the rest.
3. A pool of n bytes has at most 128 + n / 32,000 of those, a tenth of a percent. If
   there would be more, tensors that follow each other share a chunk of at most 1 KiB,
   or of twice as much, and so on up to 1 MiB, whatever is the first that suffices.
4. A pool that is encrypted has the chunks of its plain order only, whose bytes lie
   elsewhere, and encrypted (`encrypted`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

STORED, PLAIN = 0, 1
"""The two orders of a pool's bytes."""

ENCRYPTED = 2
"""What leaves are of that have the chunks of the plain order, and encrypted bytes."""

CHUNK = 1 << 20
"""The most bytes a leaf is about."""

_FREE_LEAVES = 128
_BYTES_A_LEAF = 32_000
_LEAST_SHARED = 1 << 10
MAX_DTYPE = 64
ITEMSIZES = (1, 2, 4, 8, 16)
MAX_SHAPE = (1 << 63) - 1
_SURROGATES = re.compile("[\ud800-\udfff]")


class Extent(NamedTuple):
    """One tensor of a pool.

    Attributes:
        name: Its name; an opaque id in the stored layout.
        shape: Its shape.
        start: Its first byte in the pool.
        length: Its bytes.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    length: int


class Pool(Value):
    """All tensors of one dtype.

    Attributes:
        dtype: Torch's name without prefix.
        itemsize: Bytes an element.
        length: Bytes.
        stored: The tensors of the protected file.
        plain: The tensors that were protected.
    """

    # Beside the members: what was computed of them is no part of the value.
    __slots__ = ("_ends",)

    dtype: str
    itemsize: int
    length: int
    stored: tuple[Extent, ...]
    plain: tuple[Extent, ...]

    def __post_init__(self) -> None:
        problem = problem_of(self)
        if problem:
            raise ValueError(problem)
        object.__setattr__(self, "_ends", None)

    def __repr__(self) -> str:
        # The names of plain tensors do not belong into a log.
        return f"<Pool of {self.length:,} bytes, {self.dtype}>"

    def extents(self, order: int) -> tuple[Extent, ...]:
        """Return the tensors in one of the orders; an encrypted one is a plain one."""
        return self.stored if order == STORED else self.plain

    def plain_ends(self) -> tuple[int, ...]:
        """Return where each chunk of the plain order ends (rules 2 and 3).

        Looking for them takes longest where tensors are many and small, and they are
        asked for again and again.
        """
        ends: tuple[int, ...] | None = object.__getattribute__(self, "_ends")
        if ends is None:
            ends = tuple(_plain_ends(self))
            object.__setattr__(self, "_ends", ends)
        return ends


def problem_of(pool: Pool) -> str:
    """Return what is wrong with a pool, or ""."""
    if not (pool.dtype.isascii() and 0 < len(pool.dtype) <= MAX_DTYPE):
        return "a dtype is 1 to 64 ASCII characters"
    if pool.itemsize not in ITEMSIZES:
        return "elements have 1, 2, 4, 8 or 16 bytes"
    for extents in (pool.stored, pool.plain):
        at = 0
        for extent in extents:
            if extent.start != at or extent.length < 0:
                return "tensors of a pool leave a gap or overlap"
            shape = extent.shape
            if min(shape, default=0) < 0 or max(shape, default=0) > MAX_SHAPE:
                return "an axis of a tensor is out of range"
            if prod(shape) * pool.itemsize != extent.length:
                return "a tensor's shape and length do not match"
            at += extent.length
        if at != pool.length:
            return "the tensors of a pool are not as long as it is"
    return ""


def names_problem(pools: Sequence[Pool]) -> str:
    """Return what is wrong with the names of a file's tensors, or ""."""
    for order in (STORED, PLAIN):
        names = [extent.name for pool in pools for extent in pool.extents(order)]
        if len(set(names)) != len(names):
            return "two tensors have one name"
        if any(_SURROGATES.search(name) for name in names):
            return "a name is not Unicode text"
    return ""


def leaf_ends(pool: Pool, order: int) -> list[int]:
    """Return where each chunk of a pool ends (rules 1 to 3)."""
    if order == STORED:
        return [*range(CHUNK, pool.length, CHUNK), *[pool.length][: pool.length]]
    return list(pool.plain_ends())


def _plain_ends(pool: Pool) -> list[int]:
    """Return where each chunk ends in plain order (rules 2 and 3)."""
    most = _FREE_LEAVES + pool.length // _BYTES_A_LEAF
    shared = 0
    while True:
        ends = _ends_at_borders(pool.plain, shared)
        if len(ends) <= most or shared == CHUNK:
            return ends
        shared = max(2 * shared, _LEAST_SHARED)


def _ends_at_borders(extents: Sequence[Extent], shared: int) -> list[int]:
    """Return the ends of chunks that tensors may share up to a number of bytes."""
    ends: list[int] = []
    start = at = 0
    for extent in extents:
        end = at + extent.length
        if end - start > shared and at > start:
            ends.append(at)
            start = at
        while end - start > CHUNK:
            start += CHUNK
            ends.append(start)
        at = end
    if at > start:
        ends.append(at)
    return ends


class Spans:
    """Finds the tensors that have bytes in a span of a pool.

    Args:
        extents: The tensors of one layout.

    Attributes:
        extents: Those that have bytes.
    """

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self.extents = [extent for extent in extents if extent.length]
        self._starts = [extent.start for extent in self.extents]

    def within(self, start: int, end: int) -> slice:
        """Return which of them have bytes from ``start`` to before ``end``."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        return slice(first, bisect_right(self._starts, end - 1))
