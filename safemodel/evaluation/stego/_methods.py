"""The ways to hide a payload, as values: what is written and where, and nothing else.

Each holds all that its reader must know, but for the size of the payload.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from safemodel._value import Value


class Lsb(Value):
    """X-LSB: the payload replaces the `bits` lowest bits of each weight.

    As published: the bits of the payload, the highest of each byte first, go to weight
    after weight, and within a weight from the highest replaced bit down. There is no
    header, no length and no key.

    Attributes:
        bits: X: of a floating dtype at most its mantissa, of int8 and uint8 at most 8.
        fill: X-LSB-fill: write to every weight that is used. Without it the payload is
            written once, and what does not fill a weight goes to its lowest bits.
        tile: With `fill`: repeat the payload to the end. Without it, one that is too
            short is an error, as in the first published version.
        start: Weights passed over before the first one that is used.
        share: Part of the weights from there on that is used, rounded to whole ones.
        key: Bytes that choose which weights are used and in what order; None: the
            first ones in a row.
        matching: Add or subtract the least that makes the low bits right, instead of
            replacing them, with carries into the bits above; a tie is settled by the
            key. A number never becomes infinite or changes its sign.
        from_top: Replace the highest bits of the mantissa, not the lowest.
        bit_order: "big" is the published order, see above; "little" is the lowest bit
            first, of bytes and of weights.
        skip_exact: Leave out weights that are 0, 1 or -1 but for the replaced bits.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is out of range, or two of the arguments exclude each
            other.

    >>> Lsb(bits=4, share=0.05, key=b"laboratory")
    Lsb(bits=4, fill=False, tile=True, start=0, share=0.05, key=..., matching=False,
    from_top=False, bit_order='big', skip_exact=False)
    """

    bits: int
    fill: bool = False
    tile: bool = True
    start: int = 0
    share: float = 1.0
    key: bytes | None = None
    matching: bool = False
    from_top: bool = False
    bit_order: Literal["big", "little"] = "big"
    skip_exact: bool = False

    def __post_init__(self) -> None:
        _check_whole("bits", self.bits, 1, 52)
        _check_places(self.start, self.share, self.key)
        if self.bit_order not in ("big", "little"):
            raise ValueError(f"bit_order is 'big' or 'little': {self.bit_order!r}")
        if self.matching and (self.from_top or self.skip_exact):
            # A carry would move the bits that decide where the reader looks.
            raise ValueError("matching goes with neither from_top nor skip_exact")

    def __repr__(self) -> str:
        return _shown(self)


class ByteSubstitution(Value):
    """The payload replaces the last bytes of each weight, as EvilModel does it.

    A weight is taken as its bytes in big-endian order, whatever the machine's, and the
    next `count` bytes of the payload become the last of them. Zeros fill up the last
    weight. Of float32, two bytes are published as "half substitution" and three as
    "MSB reservation", which replaces the lowest bit of the exponent, too.

    Attributes:
        count: Bytes of each weight that are replaced: 1 to 3 and not all the weight
            has, but for dtypes of one byte.
        prefix: With three bytes of float32: the first byte becomes 0x3C, or 0xBC where
            the weight is negative ("fast substitution"), so that the weight stays
            small.
        fill: Write to every weight that is used; without it the payload is written
            once.
        tile: With `fill`: repeat the payload to the end.
        start: Weights passed over before the first one that is used.
        share: Part of the weights from there on that is used, rounded to whole ones.
        key: Bytes that choose which weights are used and in what order; None: the
            first ones in a row.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is out of range, or `prefix` without three bytes.
    """

    count: int
    prefix: bool = False
    fill: bool = False
    tile: bool = True
    start: int = 0
    share: float = 1.0
    key: bytes | None = None

    def __post_init__(self) -> None:
        _check_whole("count", self.count, 1, 3)
        _check_places(self.start, self.share, self.key)
        if self.prefix and self.count != 3:
            raise ValueError("prefix goes with three bytes")

    def __repr__(self) -> str:
        return _shown(self)


class SpreadSpectrum(Value):
    """Each bit is added to many weights, as a code of tiny values of either sign.

    Compatible with MaleficNet: the same weights, codes, order and preamble, and the
    same error-correcting code, so that either reads what the other wrote.

    Attributes:
        gamma: What is added to a weight or subtracted from it for one bit; published
            with 9e-4.
        seed: Of the weights and codes, from 0; the preamble's is 15 times that.
        chunk_bits: Bits that share weights.
        chunk_factor: Weights of a chunk for each of its bits.
        preamble_bits: Known bits in front, by which the reader finds the gain.
        coded: With the published error-correcting code; without it, the payload and
            its hash are sent as they are, and are read with a few errors.
        sampled: Draw the sum of a chunk's codes instead of adding them up. The weights
            have the same distribution, made much faster, but no payload is in them that
            anybody could read.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is out of range.
    """

    gamma: float = 9e-4
    seed: int = 42
    chunk_bits: int = 4096
    chunk_factor: int = 6
    preamble_bits: int = 200
    coded: bool = True
    sampled: bool = False

    def __post_init__(self) -> None:
        if type(self.gamma) not in (int, float):
            raise TypeError(f"gamma must be a number: {self.gamma!r}")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be between 0 and 1: {self.gamma}")
        _check_whole("seed", self.seed, 0, (1 << 32) // 15)
        _check_whole("chunk_bits", self.chunk_bits, 1, 1 << 20)
        _check_whole("chunk_factor", self.chunk_factor, 1, 1 << 10)
        _check_whole("preamble_bits", self.preamble_bits, 1, self.chunk_bits)


Method: TypeAlias = Lsb | ByteSubstitution | SpreadSpectrum


def _check_whole(name: str, number: object, least: int, most: int) -> None:
    """Check that an argument is a whole number within bounds."""
    if type(number) is not int:
        raise TypeError(f"{name} must be an integer: {number!r}")
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}: {number}")


def _check_places(start: object, share: object, key: object) -> None:
    """Check what decides which weights are used."""
    _check_whole("start", start, 0, 1 << 62)
    if type(share) not in (int, float):
        raise TypeError(f"share must be a number: {share!r}")
    if not 0 < share <= 1:  # type: ignore[operator]  # checked above
        raise ValueError(f"share must be above 0 and at most 1: {share}")
    if key is not None and type(key) is not bytes:
        raise TypeError("key must be bytes or None")
    if key == b"":
        raise ValueError("key is empty")


def _shown(method: Value) -> str:
    """Return the repr of a method, without its key."""
    members = {**vars(method)}
    shown = [
        f"{name}={'...' if name == 'key' and value else repr(value)}"
        for name, value in members.items()
    ]
    return f"{type(method).__name__}({', '.join(shown)})"
