"""Write the low bits of words, and read them: `Lsb` and `ByteSubstitution`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel.evaluation.stego import _symbols
from safemodel.evaluation.stego._methods import ByteSubstitution, Lsb
from safemodel.evaluation.stego._places import keystream, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel.evaluation.stego._symbols import Order
    from safemodel.evaluation.stego._words import Cover, Format

_CHUNK = 1 << 17
"""Weights at a time, a multiple of eight: what is made for them stays in the cache."""


class Field(NamedTuple):
    """The bits of each weight that are replaced, and the weights.

    Attributes:
        bits: How many.
        shift: Bits of a weight below them.
        order: Which bit of the payload comes first.
        low_tail: What does not fill a weight goes to its lowest bits; otherwise it
            comes first, and zeros follow.
        where: The weights, in order.
        weights: How many they are.
    """

    bits: int
    shift: int
    order: Order
    low_tail: bool
    where: slice | NDArray[Any]
    weights: int

    @property
    def capacity(self) -> int:
        """Bits that can be written."""
        return self.bits * self.weights

    def used(self, count: int) -> slice | NDArray[Any]:
        """Return the first so many of the weights."""
        if isinstance(self.where, slice):
            return slice(self.where.start, self.where.start + count)
        first: NDArray[Any] = self.where[:count]
        return first

    def pieces(self, count: int) -> Iterator[tuple[int, slice | NDArray[Any]]]:
        """Yield the first so many weights a few at a time, and the number before."""
        for done in range(0, count, _CHUNK):
            end = min(done + _CHUNK, count)
            if isinstance(self.where, slice):
                first = self.where.start
                yield done, slice(first + done, first + end)
            else:
                yield done, self.where[done:end]


def field(cover: Cover, method: Lsb | ByteSubstitution) -> Field:
    """Return what a method replaces in a cover.

    Raises:
        ValueError: The weights have fewer bits than the method replaces.
    """
    form = cover.format
    if isinstance(method, ByteSubstitution):
        if method.count >= max(form.itemsize, 2):
            raise ValueError(f"{method.count} bytes of each {cover.dtype} are too many")
        if method.prefix and cover.dtype != "float32":
            raise ValueError(f"the prefix is for float32, not {cover.dtype}")
        bits, shift, skip = 8 * method.count, 0, False
    else:
        if method.bits > form.low_bits:
            raise ValueError(f"{cover.dtype} has {form.low_bits} bits to write to")
        bits, skip = method.bits, method.skip_exact
        shift = form.low_bits - bits if method.from_top else 0
    available = _inexact(cover.words, form, bits, shift) if skip else cover.words.size
    where = places(available, method.start, method.share, method.key)
    weights = where.stop - where.start if isinstance(where, slice) else where.size
    low_tail = isinstance(method, Lsb)
    order = method.bit_order if isinstance(method, Lsb) else "big"
    return Field(bits, shift, order, low_tail, where, weights)


def _inexact(words: NDArray[Any], form: Format, bits: int, shift: int) -> NDArray[Any]:
    """Return where weights are neither 0 nor 1 nor -1 but for some bits."""
    kind = words.dtype.type
    kept = words & kind(~((1 << bits) - 1 << shift) & (1 << 8 * form.itemsize) - 1)
    # The mantissa of 0, 1 and -1 is zero, so the bits left out are zeros there.
    exact = {0, form.sign, form.one, form.one | form.sign} if form.one else {0}
    there: NDArray[Any] = np.isin(kept, np.array(sorted(exact), words.dtype))
    return np.flatnonzero(~there)


def write(
    cover: Cover, plan: Field, data: bytes, method: Lsb | ByteSubstitution
) -> tuple[slice | NDArray[Any], int]:
    """Write a payload into the words of a cover, as planned.

    Returns:
        The weights that were written to, and how many bits.

    Raises:
        ValueError: The payload does not fit, or does not fill what it must.
    """
    whole, rest = _fit(plan, data, method)
    tiled = _tiled(data, plan.bits)
    for done, where in plan.pieces(whole):
        count = where.stop - where.start if isinstance(where, slice) else where.size
        start = done // 8 * plan.bits % len(data)
        raw = tiled[start : start + -(-count // 8) * plan.bits]
        symbols = _symbols.cut(raw, plan.bits, plan.order)[:count]
        _put(cover, plan, method, where, symbols, done)
    used = whole
    if rest:
        _put_rest(cover, plan, method, data, rest, whole)
        used += 1
    return plan.used(used), whole * plan.bits + rest


def _fit(plan: Field, data: bytes, method: Lsb | ByteSubstitution) -> tuple[int, int]:
    """Return how many weights to fill, and the bits that are left."""
    if method.fill:
        if not method.tile and 8 * len(data) < plan.capacity:
            raise ValueError(f"{8 * len(data)} bits do not fill {plan.capacity}")
        return plan.weights, 0
    if 8 * len(data) > plan.capacity:
        raise ValueError(f"{8 * len(data)} bits do not fit into {plan.capacity}")
    return divmod(8 * len(data), plan.bits)


def _tiled(data: bytes, bits: int) -> NDArray[Any]:
    """Return a payload, repeated so that a chunk can begin at any of its bytes."""
    raw = np.frombuffer(data, np.uint8)
    needed = raw.size + _CHUNK // 8 * bits
    return np.tile(raw, -(-needed // raw.size))


def _put(
    cover: Cover,
    plan: Field,
    method: Lsb | ByteSubstitution,
    where: slice | NDArray[Any],
    symbols: NDArray[Any],
    done: int,
) -> None:
    """Write symbols into words, the first of which is the so manyth."""
    words = cover.words[where]
    kind = words.dtype.type
    if isinstance(method, Lsb) and method.matching:
        cover.words[where] = _nearest(cover, plan, method, words, symbols, done)
        return
    everything = (1 << 8 * words.dtype.itemsize) - 1
    kept = words & kind(everything ^ ((1 << plan.bits) - 1 << plan.shift))
    if isinstance(method, ByteSubstitution) and method.prefix:
        kept = words & kind(0x80000000) | kind(0x3C000000)
    cover.words[where] = kept | symbols.astype(words.dtype) << kind(plan.shift)


def _put_rest(
    cover: Cover,
    plan: Field,
    method: Lsb | ByteSubstitution,
    data: bytes,
    rest: int,
    done: int,
) -> None:
    """Write the bits that do not fill a weight."""
    last = plan.used(done + 1)
    where = slice(last.stop - 1, last.stop) if isinstance(last, slice) else last[-1:]
    symbol = _symbols.tail(data, rest, plan.order)
    if plan.low_tail:
        plan = plan._replace(bits=rest)
    else:
        symbol <<= plan.bits - rest
    _put(cover, plan, method, where, np.array([symbol], np.uint64), done)


def _nearest(
    cover: Cover,
    plan: Field,
    method: Lsb,
    words: NDArray[Any],
    symbols: NDArray[Any],
    done: int,
) -> NDArray[Any]:
    """Return the words with those low bits that are nearest to some words.

    A float is taken as its distance from zero, which its word counts, and an integer
    as its distance from the least; so a step is one word, and carries are right.
    """
    form, kind = cover.format, words.dtype.type
    sign = kind(form.sign)
    low = kind((1 << plan.bits) - 1)
    if form.infinity:
        kept, away = words & sign, words & ~sign
        most = form.infinity - 1
    else:
        kept, away = np.zeros_like(words), words ^ sign
        most = 0xFF
    # In 64 bits with a sign: the largest is the word of infinity of float64.
    now = away.astype(np.int64)
    turned = 0 if form.infinity else form.sign & int(low)
    up = ((symbols.astype(np.int64) ^ turned) - now) & int(low)
    down = up - (1 << plan.bits)
    half = 1 << plan.bits - 1
    ties = keystream(method.key or b"none", f"ties {done}", words.size) & 1
    go_up = (up < half) | (up == half) & ties.astype(bool)
    go_up = (go_up | (now + down < 0)) & (now + up <= most)
    near = (now + np.where(go_up, up, down)).astype(words.dtype)
    near = near | kept if form.infinity else near ^ sign
    # NaN and infinities have no neighbours: their bits are replaced.
    fixed = words & ~low | symbols.astype(words.dtype)
    placed: NDArray[Any] = np.where(now <= most, near, fixed)
    return placed


def read(cover: Cover, plan: Field, bits: int, *, once: bool) -> NDArray[Any]:
    """Return the first so many bits of a payload, as bytes with zeros at the end.

    Args:
        cover: The weights.
        plan: Which bits of which of them.
        bits: How many to read, a multiple of eight.
        once: The payload was written once, so what does not fill a weight is where
            `Field.low_tail` says.
    """
    whole, rest = divmod(bits, plan.bits)
    pieces = [np.empty(0, np.uint8)]
    count = whole + bool(rest)
    word = _symbols.word_of(plan.bits)
    low = (1 << plan.bits) - 1
    for done, where in plan.pieces(count):
        words = cover.words[where]
        kind = words.dtype.type
        symbols = (words >> kind(plan.shift) & kind(low)).astype(word)
        if rest and once and plan.low_tail and done + symbols.size == count:
            symbols[-1] = _raised(int(symbols[-1]), rest, plan)
        symbols = _symbols.pad(symbols, 8)
        pieces.append(_symbols.join(symbols, plan.bits, plan.order))
    return np.concatenate(pieces)[: bits // 8]


def _raised(symbol: int, rest: int, plan: Field) -> int:
    """Return a symbol whose lowest bits come first."""
    low = symbol & (1 << rest) - 1
    return low << plan.bits - rest if plan.order == "big" else low
