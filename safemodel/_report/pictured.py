"""What is shown of weights: values, made of levels of gray.

Nothing here reads a file or counts anything.
"""

from __future__ import annotations

from typing import NamedTuple


class Pixels(NamedTuple):
    """Levels of gray, row after row.

    Attributes:
        width: Of a row.
        levels: One byte each.
        depth: Bits of a level: 4 or 8.
    """

    width: int
    levels: bytes
    depth: int = 4


class Mark(NamedTuple):
    """A stretch along a tensor, in parts of what is drawn, from 0 to 1."""

    start: float
    end: float


class Plane(NamedTuple):
    """One bit of all weights: its number, the share of ones, and how it looks."""

    bit: int
    share: float
    picture: Pixels


class Near(NamedTuple):
    """Weights one by one, a pixel each: one picture a part, the highest first.

    Attributes:
        start: The first weight.
        end: One past the last.
        parts: What it is in words, and its picture.
        marks: Where the evidence is, from the first row to the last.
    """

    start: int
    end: int
    parts: tuple[tuple[str, Pixels], ...]
    marks: tuple[Mark, ...]


class Pictured(NamedTuple):
    """A tensor, drawn.

    Attributes:
        at: Its number in `Detection.by_tensor`.
        fields: What the bits of a number are, the highest first, and how many each has.
        row: All weights together: a pixel a bit, the highest first.
        column: Weights of a column of `map`; 0 if it has no `map`.
        map: Bits from top to bottom, the tensor from left to right.
        marks: Where the evidence is, along `map`.
        begins: Where what is hidden begins, along `map`.
        planes: Bit by bit, the highest first.
        near: A stretch of it, one by one; None if it was not asked for.
    """

    at: int
    fields: tuple[tuple[str, int], ...]
    row: Pixels
    column: int = 0
    map: Pixels | None = None
    marks: tuple[Mark, ...] = ()
    begins: tuple[Mark, ...] = ()
    planes: tuple[Plane, ...] = ()
    near: Near | None = None

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return sum(many for _, many in self.fields)
