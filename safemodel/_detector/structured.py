"""Tests for a message that is not encrypted: its bytes are not uniform.

A block is looked at cheaply first, by counts that are there anyway. Only where those
are odd its words are looked at, without what is benign (see `streams`). What counts is
how far a stream is from chance for each byte of it, beyond what clean files show, and
how sure that is: a p-value alone would flag large clean files.

Levels: blocks of 65,536 words, tensors, and all weights of one dtype in the file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.columns import ODD, packed_model, period_of
from safemodel._detector.counts import unsigned_bits
from safemodel._detector.distributions import chi_square_log_tail, normal_log_tail
from safemodel._detector.evidence import Outcome
from safemodel._detector.products import are_products
from safemodel._detector.streams import (
    ENDINGS,
    NIBBLES,
    Common,
    Excess,
    commons,
    excesses,
    first_ones,
    furthest,
    stream_counts,
    without_spikes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.counts import Block, Piece, Tensor
    from safemodel._detector.layouts import Layout

_SUSPECT = 4.0
"""Standard deviations from which on a block is looked at closely."""
_LEAST_DISTINCT = 0.02
TESTS = 8
"""Of a block of floats, at most."""

TOLERANCE = {
    # kind → (one bit a word, two, four, a byte): effects that clean weights may have
    "float": (0.06, 0.01, 0.03, 0.001),
    "short": (0.06, 0.02, 0.02, 0.01),
    "integer": (9.0, 9.0, 9.0, 9.0),
    "bytes": (9.0, 9.0, 9.0, 9.0),
}
"""Of `Excess.effect`; measured on clean files (ADR 0023). 9: the test is not made."""
_SMALL = 0.001
"""The same of bits above the lowest eight."""
_COARSE = 3
"""Times the tolerance of packed bits where columns are unlike each other: rows may be
as they were drawn, too, and a model of columns does not know them."""
_RESTING = 0.05
"""Of the lowest byte, beyond which it may be that of averages at rest (rule 5)."""
_ALIKE = 0.02
"""Correlation of neighbouring low bytes that clean weights may have."""
_NEARLY_ALL = 0.98
_SMALL_BLOCK = 4096
_POWERS = np.stack((np.arange(256.0), np.arange(256.0) ** 2), axis=1)


class Sums(NamedTuple):
    """Counts of several blocks, without what is benign.

    Attributes:
        lows: (k, 256); see `Block`.
        packed: (8, 256); see `Block`.
        octants: (k, 8, 256); the bytes of `lows` by octant.
        pairs: (4, 8, 256); bytes of two bits a word, by phase and octant.
        nibbles: (2, 8, 256); bytes of four bits a word, by phase and octant.
        close: Words that are in `octants[0]`.
    """

    lows: NDArray[np.int64]
    packed: NDArray[np.int64]
    octants: NDArray[np.int64]
    pairs: NDArray[np.int64]
    nibbles: NDArray[np.int64]
    close: NDArray[np.int64]


class Close(NamedTuple):
    """What is known of a block that was looked at closely.

    Attributes:
        sums: Its counts, without what is benign.
        model: (8, 256); what is expected of packed bits, if columns are unlike each
            other; see `columns`.
    """

    sums: Sums
    model: NDArray[np.float64] | None


def empty_sums(layout: Layout) -> Sums:
    """Return counts of nothing."""
    lows = {4: 2, 8: 6}.get(layout.itemsize, 1)
    shapes: tuple[tuple[int, ...], ...] = (
        (lows, 256), (8, 256), (lows, 8, 256), (4, 8, 256), (2, 8, 256), (1,),
    )  # fmt: skip
    return Sums(*(np.zeros(shape, np.int64) for shape in shapes))


def add(total: Sums, other: Sums) -> None:
    """Add counts to others, in place."""
    for counts, more in zip(total, other, strict=True):
        np.add(counts, more, out=counts)


def add_unsuspected(total: Sums, piece: Piece, which: NDArray[np.bool_]) -> None:
    """Add the counts of blocks that nobody looked at closely, in place."""
    some = slice(None) if which.all() else which
    octants = piece.octants[some].sum(0, dtype=np.int64)
    total.lows[:] += piece.lows[some].sum(0)
    total.packed[:] += piece.packed[some].sum(0)
    if octants.size:
        total.octants[:] += octants
        total.close[:] += octants[0].sum()


def low_excess(counts: NDArray[np.int64], layout: Layout) -> list[Excess]:
    """Return how unlike chance the values of the lowest byte are, by rows of counts."""
    if layout.kind == "short":
        # Of 16 bits only the lowest are far enough from what the density shows.
        return excesses(counts.reshape(-1, 16, 16).sum(1), NIBBLES)
    return excesses(counts, 8)


def bias(counts: NDArray[np.int64]) -> tuple[float, int]:
    """Return the share of odd words less one half, and how many there are."""
    total = int(counts.sum())
    return (int(counts[1::2].sum()) / total - 0.5 if total else 0.0), total


def is_left_out(tensor: Tensor) -> bool:
    """Say whether low bits of a tensor cannot be read as a message.

    Averages of an optimiser in 16 bits: where filters have nearly the same gradients,
    they have few values, each again and again.
    """
    return tensor.role == "optimiser" and tensor.layout.kind == "short"


def suspects(piece: Piece, tensor: Tensor) -> NDArray[np.bool_]:
    """Say which blocks have counts so odd that their words are to be looked at."""
    found, layout = np.zeros(len(piece.products), np.bool_), tensor.layout
    if layout.kind == "bytes":
        return found
    packed = furthest(piece.packed, 1)
    found |= packed > _SUSPECT
    if layout.kind == "float":
        for at in np.flatnonzero(~found & (packed > ODD)):
            # Many blocks that are a little odd in the same way would add up.
            block = piece.block(int(at))
            found[at] = period_of(block.words, block.start, tensor.shape) > 0
    if layout.kind == "short":
        excess = low_excess(piece.lows[:, 0], layout)
        found |= np.array([one.z for one in excess]) > _SUSPECT
    elif layout.kind == "float":
        # Upper bytes of subnormal words are zeros, and few words are enough for that.
        found |= (furthest(piece.lows, 8) > _SUSPECT) | (piece.subnormals > 0)
        sizes = piece.sizes
        close = correlations(piece.lows[:, 0], piece.products, sizes)
        found |= np.abs(close) * sizes**0.5 > _SUSPECT
    return found


def is_repetitive(words: NDArray[Any], layout: Layout) -> bool:
    """Say whether a small block is of few values; many such look like a message."""
    few = layout.kind == "float" and words.size <= _SMALL_BLOCK
    if not few:
        return False
    ordered = np.sort(words)
    distinct = 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
    return 2 * distinct < words.size


def correlations(
    lows: NDArray[np.int64], products: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return for blocks how much the lowest bytes of neighbours are correlated.

    Args:
        lows: (n, 256); values of the lowest byte.
        products: (n,); sums of products of neighbours.
        sizes: (n,); words.
    """
    first, second = (lows @ _POWERS / sizes[:, None]).T
    square = first * first
    variance = second - square
    known = (variance > 0) & (sizes > 1)
    above = products / np.maximum(sizes - 1, 1) - square
    return np.where(known, above / np.where(known, variance, 1.0), 0.0)


def cleaned(block: Block, tensor: Tensor) -> Close | None:
    """Return the counts of a block without what is benign; None if nothing is left."""
    words, layout = block.words, tensor.layout
    if tensor.dtype == "float32" and are_products(words):
        return None
    usable = np.ones(words.size, np.bool_)
    if layout.exponent:
        exponent = words & words.dtype.type(layout.masks[0])
        usable = (exponent != 0) & (exponent != words.dtype.type(layout.masks[0]))
    if layout.kind == "float":
        usable &= first_ones(words & words.dtype.type(unsigned_bits(layout)))
    elif layout.kind == "short":
        usable &= without_spikes(words)
    number = np.count_nonzero(usable)
    if number < max(256, _LEAST_DISTINCT * words.size):
        return None
    octants = (layout.mantissa - 1, 7) if layout.exponent else (0, 0)
    made = stream_counts(words, block.start, usable, octants, block.lows.shape[0])
    sums = Sums(
        made.octants.sum(1), made.bits, made.octants, made.pairs, made.nibbles,
        np.array([number]),
    )  # fmt: skip
    model = None
    if layout.kind == "float" and furthest(made.bits[None], 1)[0] > ODD:
        period = period_of(words, block.start, tensor.shape)
        if period:
            model = packed_model(words, block.start, usable, period)
    return Close(sums, model)


def outcomes(
    sums: Sums,
    layout: Layout,
    family: str,
    where: dict[str, Any],
    model: NDArray[np.float64] | None = None,
) -> list[Outcome]:
    """Return what each test says of counts.

    Args:
        sums: The counts.
        layout: How the words are read.
        family: Of tests.
        where: What all outcomes say of the place.
        model: Of `Close`.
    """
    one, two, four, _ = TOLERANCE[layout.kind]
    bits = planes(sums, layout)
    found = excesses(sums.packed, 1, model)
    one *= 1 if model is None else _COARSE
    made = [min((_of("bits", each, one, 1, len(found)) for each in found), key=_log_p)]
    if layout.kind in ("float", "short") and sums.close[0]:
        for test, counts, width, tolerance in (
            ("pairs-of-bits", sums.pairs, 2, two),
            ("nibbles", sums.nibbles, 4, four),
        ):
            every = [_of_common(test, each, tolerance, bits, len(counts))
                     for each in commons(counts, width, 8 // width)]  # fmt: skip
            made.append(min(every, key=_log_p))
        made += _of_bytes(sums, layout, bits)
    return [each._replace(family=family, **where) for each in made]


def _of_bytes(sums: Sums, layout: Layout, bits: int) -> list[Outcome]:
    """Return what each byte says by itself, of short floats the lowest nibble."""
    byte = TOLERANCE[layout.kind][3]
    if layout.kind == "short":
        lowest = commons(sums.octants.reshape(-1, 8, 16, 16).sum(2), NIBBLES)
        return [_of_common("low-byte", lowest[0], byte, bits, 1)]
    last = sums.lows.shape[0] - (layout.itemsize == 8)
    found = commons(sums.octants[:last], 8)
    if found[0].effect > _RESTING:
        found[0] = commons(sums.octants[:1], ENDINGS)[0]
    return [
        _of_common(f"byte-{at}", each, _SMALL, max(bits, 8 * at + 1), 1)
        if at
        else _of_common("low-byte", each, byte, bits, 1)
        for at, each in enumerate(found)
    ]


def _log_p(outcome: Outcome) -> float:
    return outcome.log_p


def neighbours(block: Block, layout: Layout, usable: int) -> Outcome:
    """Return whether the lowest bytes of weights next to each other are alike."""
    total = block.words.size
    found = float(
        correlations(block.lows[:1], np.array([block.product]), np.array([total]))[0]
    )
    beyond = max(0.0, abs(found) - _ALIKE) * total**0.5
    counts = layout.kind == "float" and usable > _NEARLY_ALL * total
    return Outcome(
        family="structured-block", test="neighbours",
        what="low bytes are like those of the weights beside them",
        log_p=normal_log_tail(beyond) if counts and beyond else 0.0,
        statistic=found * total**0.5, effect=found,
    )  # fmt: skip


@cache
def _bit_masks() -> NDArray[np.int64]:
    """Return (256, 16): for each bit, values in which it is free, and also one.

    Of words that end in more zeros than that, this bit is one (rule 1 of `streams`).
    """
    values = np.arange(256)[:, None]
    bit = np.arange(8)
    free = values % (1 << bit) != 0
    free[:, 0] = True
    ones = free & (values >> bit & 1 == 1)
    return np.concatenate((free, ones), axis=1).astype(np.int64)


def planes(sums: Sums, layout: Layout) -> int:
    """Return up to which bit the words are not like chance; 0 if all are."""
    if layout.kind not in ("float", "short"):
        return 0
    short = layout.kind == "short"
    counts = sums.lows[:2] @ _bit_masks()
    total, ones = counts[:, :8], counts[:, 8:]
    share = np.abs(ones / np.maximum(total, 1) - 0.5) * (total > 0)
    beyond = share - (0.02 if short else 0.002)
    odd = (beyond > 0) & (2 * beyond * total**0.5 > 5)
    found = np.flatnonzero(odd[:, :4] if short else odd)
    return int(found[-1]) + 1 if found.size else 0


def tensor_excess(tensor: Tensor) -> Excess:
    """Return the excess of the lowest byte of a tensor as it was read."""
    return low_excess(tensor.lows[:1], tensor.layout)[0]


def _of(test: str, found: Excess, tolerance: float, bits: int, tests: int) -> Outcome:
    """Return the outcome of one excess, of the best of so many."""
    log_p = chi_square_log_tail(found.chi, found.df, tolerance * found.total)
    return Outcome(
        family="", test=test, log_p=min(0.0, log_p + float(np.log(tests))),
        what="low bits hold bytes that are not evenly spread, as programs and text do",
        statistic=found.chi, effect=found.effect, bits=bits,
    )  # fmt: skip


def _of_common(
    test: str, found: Common, tolerance: float, bits: int, tests: int
) -> Outcome:
    """Return the outcome of what octants have in common, of the best of so many."""
    # The same z as if only what is beyond the tolerance were there.
    beyond = found.z * max(0.0, 1 - tolerance / found.effect) if found.effect > 0 else 0
    log_p = normal_log_tail(beyond) + float(np.log(tests)) if found.alike else 0.0
    return Outcome(
        family="", test=test, log_p=min(0.0, log_p) if beyond else 0.0,
        what="low bits hold bytes that are not evenly spread, as programs and text do",
        statistic=found.z, effect=found.effect, bits=bits,
    )  # fmt: skip
