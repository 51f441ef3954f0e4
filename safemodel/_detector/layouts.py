"""How the words of each dtype are read, for counting."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["float", "short", "integer", "bytes"]


class Layout(NamedTuple):
    """How a word is read.

    Attributes:
        kind: "float": wide floats, whose low bits look random. "short": floats of 16
            bits, whose lowest bits are close to what can be seen of the density.
            "integer": numbers of 8 bits or two of 4. "bytes": anything else.
        itemsize: Bytes of a word.
        exponent: Bits of the exponent.
        mantissa: Bits of the mantissa.
        kept: Bits of the mantissa, the upper ones, that are counted with the exponent.
    """

    kind: Kind
    itemsize: int
    exponent: int = 0
    mantissa: int = 0
    kept: int = 0

    @property
    def masks(self) -> tuple[int, int, int]:
        """Masks of exponent and mantissa, and the highest bit of the mantissa."""
        exponent = ((1 << self.exponent) - 1) << self.mantissa
        return exponent, (1 << self.mantissa) - 1, (1 << self.mantissa) >> 1


FLOATS = {
    "float64": Layout("float", 8, 11, 52, 7),
    "float32": Layout("float", 4, 8, 23, 10),
    "float16": Layout("short", 2, 5, 10, 10),
    "bfloat16": Layout("short", 2, 8, 7, 7),
}
_INTEGERS = frozenset({"int8", "uint8", "qint8", "quint8", "quint4x2", "int4", "uint4"})
PACKED = frozenset({"quint4x2"})
"""Two numbers of 4 bits in a word."""
SIGNED = frozenset({"int8", "qint8"})


def layout_of(dtype: str, itemsize: int) -> Layout:
    """Return how words of a dtype are read, by torch's name and their bytes.

    >>> layout_of("bfloat16", 2).mantissa, layout_of("int64", 8).kind
    (7, 'bytes')
    """
    known = FLOATS.get(dtype)
    if known is not None:
        return known
    return Layout("integer" if dtype in _INTEGERS else "bytes", itemsize)
