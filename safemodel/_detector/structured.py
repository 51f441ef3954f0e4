"""Tests for a message that is not encrypted: its bytes are not uniform.

A block is looked at cheaply first, by counts that are there anyway. Only where those
are odd its words are looked at, without what is benign (see `streams`). What counts is
how far a stream is from chance for each byte of it, beyond what clean files show, and
how sure that is: a p-value alone would flag large clean files.

Levels: blocks of 65,536 words, tensors, and all weights of one dtype in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.distributions import chi_square_log_tail, normal_log_tail
from safemodel._detector.evidence import Outcome
from safemodel._detector.streams import (
    Common,
    Excess,
    classes_of,
    common,
    excess,
    first_ones,
    furthest,
    nibble_classes,
    stream_counts,
    without_spikes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.counts import Block, Tensor
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
_ALIKE = 0.02
"""Correlation of neighbouring low bytes that clean weights may have."""
_NEARLY_ALL = 0.98
_SMALL_BLOCK = 4096


class Sums(NamedTuple):
    """Counts of several blocks, without what is benign.

    Attributes:
        lows: (k, 256); see `Block`.
        packed: (8, 256); see `Block`.
        octants: (8, 256); lowest bytes by octant.
        pairs: (4, 8, 256); bytes of two bits a word, by phase and octant.
        nibbles: (2, 8, 256); bytes of four bits a word, by phase and octant.
        close: Words that are in `octants`.
    """

    lows: NDArray[np.int64]
    packed: NDArray[np.int64]
    octants: NDArray[np.int64]
    pairs: NDArray[np.int64]
    nibbles: NDArray[np.int64]
    close: NDArray[np.int64]


def empty_sums(layout: Layout) -> Sums:
    """Return counts of nothing."""
    lows = {4: 2, 8: 6}.get(layout.itemsize, 1)
    return Sums(
        np.zeros((lows, 256), np.int64), np.zeros((8, 256), np.int64), *_nothing()
    )


def unsuspected(block: Block) -> Sums:
    """Return the counts of a block that nobody looked at closely."""
    _, pairs, nibbles, _ = _nothing()
    total = block.octants.sum(keepdims=True)[0]
    return Sums(block.lows, block.packed, block.octants, pairs, nibbles, total)


def _nothing() -> tuple[NDArray[np.int64], ...]:
    shapes: tuple[tuple[int, ...], ...] = ((8, 256), (4, 8, 256), (2, 8, 256), (1,))
    return tuple(np.zeros(shape, np.int64) for shape in shapes)


def added(one: Sums, other: Sums) -> Sums:
    """Return the sum of two counts."""
    return Sums(*(first + second for first, second in zip(one, other, strict=True)))


def low_excess(counts: NDArray[np.int64], layout: Layout) -> Excess:
    """Return how unlike chance the values of the lowest byte are."""
    if layout.kind == "short":
        # Of 16 bits only the lowest are far enough from what the density shows.
        return excess(counts.reshape(16, 16).sum(0), nibble_classes())
    return excess(counts, classes_of(8))


def bias(counts: NDArray[np.int64]) -> tuple[float, int]:
    """Return the share of odd words less one half, and how many there are."""
    total = int(counts.sum())
    return (int(counts[1::2].sum()) / total - 0.5 if total else 0.0), total


def is_suspect(block: Block, layout: Layout) -> bool:
    """Say whether a block's counts are odd enough to look at its words."""
    if layout.kind == "bytes":
        return False
    if furthest(block.packed, 1) > _SUSPECT:
        return True
    if layout.kind == "short":
        return low_excess(block.lows[0], layout).z > _SUSPECT
    if layout.kind == "integer":
        return False
    if furthest(block.lows, 8) > _SUSPECT:
        return True
    return bool(abs(correlation(block)) * block.words.size**0.5 > _SUSPECT)


def is_repetitive(block: Block, layout: Layout) -> bool:
    """Say whether a small block is of few values; many such look like a message."""
    few = layout.kind == "float" and block.words.size <= _SMALL_BLOCK
    return few and 2 * np.unique(block.words).size < block.words.size


def correlation(block: Block) -> float:
    """Return how much the lowest bytes of neighbours are correlated."""
    values, counts = np.arange(256.0), block.lows[0]
    number = max(block.words.size, 1)
    mean = float(counts @ values) / number
    variance = float(counts @ values**2) / number - mean * mean
    if variance <= 0 or number < 2:
        return 0.0
    return (block.product / (number - 1) - mean * mean) / variance


def cleaned(block: Block, layout: Layout) -> Sums | None:
    """Return the counts of a block without what is benign; None if nothing is left."""
    words = block.words
    usable = np.ones(words.size, np.bool_)
    if layout.exponent:
        exponent = words & words.dtype.type(layout.masks[0])
        usable = (exponent != 0) & (exponent != words.dtype.type(layout.masks[0]))
    if layout.kind == "float":
        usable &= first_ones(words)
    elif layout.kind == "short":
        usable &= without_spikes(words)
    if usable.sum() < max(256, _LEAST_DISTINCT * words.size):
        return None
    some = words[usable]
    byte = some.dtype.type(255)
    lows = [
        np.bincount((some >> some.dtype.type(8 * at) & byte).astype(int), minlength=256)
        for at in range(block.lows.shape[0])
    ]
    octants = _octants(words, layout)
    made = {
        bits: np.array(
            [
                stream_counts(
                    words, bits, (phase - block.start) % (8 // bits), usable, octants
                )
                for phase in range(8 // bits)
            ]
        )
        for bits in (1, 2, 4, 8)
    }
    close = np.array([some.size])
    packed = made[1].sum(1)
    return Sums(np.array(lows), packed, made[8][0], made[2], made[4], close)


def _octants(words: NDArray[Any], layout: Layout) -> NDArray[np.uint8]:
    """Return the octant of each word; all 0 if it has no mantissa."""
    if not layout.exponent:
        return np.zeros(words.size, np.uint8)
    shift = words.dtype.type(layout.mantissa - 1)
    found: NDArray[np.uint8] = (words >> shift & words.dtype.type(7)).astype(np.uint8)
    return found


def outcomes(
    sums: Sums, layout: Layout, family: str, where: dict[str, Any]
) -> list[Outcome]:
    """Return what each test says of counts.

    Args:
        sums: The counts.
        layout: How the words are read.
        family: Of tests.
        where: What all outcomes say of the place.
    """
    one, two, four, byte = TOLERANCE[layout.kind]
    bits = planes(sums, layout)
    found = [excess(each, classes_of(1)) for each in sums.packed]
    made = [min((_of("bits", each, one, 1, len(found)) for each in found), key=_log_p)]
    if layout.kind in ("float", "short") and sums.close[0]:
        for test, counts, width, tolerance in (
            ("pairs-of-bits", sums.pairs, 2, two),
            ("nibbles", sums.nibbles, 4, four),
            ("low-byte", sums.octants[None], 8, byte),
        ):
            every = [_of_common(test, _common(each, width, layout), tolerance, bits,
                                len(counts)) for each in counts]  # fmt: skip
            made.append(min(every, key=_log_p))
    if layout.kind == "float":
        for at in range(1, sums.lows.shape[0] - (layout.itemsize == 8)):
            wide = excess(sums.lows[at], classes_of(8))
            made.append(_of(f"byte-{at}", wide, _SMALL, max(bits, 8 * at + 1), 1))
    return [each._replace(family=family, **where) for each in made]


def _common(counts: NDArray[np.int64], width: int, layout: Layout) -> Common:
    """Return what octants have in common, of whole bytes of short floats the nibble."""
    if width == 8 and layout.kind == "short":
        return common(counts.reshape(8, 16, 16).sum(1), nibble_classes())
    return common(counts, classes_of(width), 8 // width)


def _log_p(outcome: Outcome) -> float:
    return outcome.log_p


def neighbours(block: Block, layout: Layout, usable: int) -> Outcome:
    """Return whether the lowest bytes of weights next to each other are alike."""
    found = correlation(block)
    total = block.words.size
    beyond = max(0.0, abs(found) - _ALIKE) * total**0.5
    counts = layout.kind == "float" and usable > _NEARLY_ALL * total
    return Outcome(
        family="structured-block", test="neighbours",
        what="low bytes are like those of the weights beside them",
        log_p=normal_log_tail(beyond) if counts and beyond else 0.0,
        statistic=found * total**0.5, effect=found,
    )  # fmt: skip


def planes(sums: Sums, layout: Layout) -> int:
    """Return up to which bit the words are not like chance; 0 if all are."""
    if layout.kind not in ("float", "short"):
        return 0
    highest = 0
    for at in range(min(sums.lows.shape[0], 2)):
        counts = sums.lows[at]
        for bit in range(8 if layout.kind == "float" else 4):
            values = np.arange(256)
            # Of words that end in more zeros than that, this bit is one (rule 1).
            free = (values & (1 << bit) - 1 != 0) if bit else values >= 0
            total = int(counts[free].sum())
            ones = int(counts[free & (values >> bit & 1 == 1)].sum())
            share = ones / total - 0.5 if total else 0.0
            least = 0.02 if layout.kind == "short" else 0.002
            if abs(share) > least and 2 * (abs(share) - least) * total**0.5 > 5:
                highest = max(highest, 8 * at + bit + 1)
    return highest


def tensor_excess(tensor: Tensor) -> Excess:
    """Return the excess of the lowest byte of a tensor as it was read."""
    return low_excess(tensor.lows[0], tensor.layout)


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
