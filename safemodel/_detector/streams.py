"""Bits hidden in weights, read as a stream of bytes, and how unlike chance they are.

What a benign tensor may do, and a test must not mistake for a message (`detection.md`,
sections 8.3 (d) and 10):

1. Values that were hardly changed since they were drawn lie on a grid, so many end in
   zeros. Among words with the same number of zeros at the end, the other bits are as
   likely to be 0 as 1: so words are compared with others of their class only.
2. Whole rows or columns may be like that, because their inputs never change. So the
   number of ones differs from place to place; their order within a byte does not
   matter, and bytes are compared with others of as many ones.
3. The same value again and again says nothing new: of equal words one is looked at.
4. Values that were multiplied by a constant (0.02 times a normal number), or drawn on a
   grid that is not one of powers of two, have low bits that are far from even. But how
   far, and which, depends on the exponent and the upper mantissa: low bits of one half
   of an octave are unlike those of the other. A message knows no weights. So words are
   put into *octants* by the two lowest bits of the exponent and the highest of the
   mantissa, and what counts is what octants of different halves have in common.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 5
"""Expected count of a value, below which a class is left out: chi-square is not one."""


_SPIKE = 12
"""Times the mean count of a value that make it a spike."""


OCTANTS = 8
_STRAY = 1.4
"""Times what octants have in common that one of them may be from chance."""
_NOISE = 4.0


class Common(NamedTuple):
    """How much the counts of octants differ from chance in the same way (rule 4).

    Attributes:
        effect: As of `Excess`: of what is in common.
        z: The same in standard deviations.
        total: Counts that took part.
        alike: Whether no octant has much more of it than the others.
    """

    effect: float
    z: float
    total: int
    alike: bool


class Excess(NamedTuple):
    """How much counts differ within classes.

    Attributes:
        chi: Pearson's chi-square, all classes together.
        df: Its degrees of freedom.
        total: Counts that took part.
    """

    chi: float
    df: int
    total: int

    @property
    def effect(self) -> float:
        """The chi-square beyond chance, for each count: independent of the size."""
        return (self.chi - self.df) / self.total if self.total else 0.0

    @property
    def z(self) -> float:
        """About how many standard deviations the chi-square is from its mean."""
        return (self.chi - self.df) / (2 * self.df) ** 0.5 if self.df else 0.0


def trailing_zeros(bits: int) -> NDArray[np.int64]:
    """Return for each number of so many bits how many zeros it ends in."""
    numbers = np.arange(1 << bits)
    zeros = np.full(1 << bits, bits)
    for count in reversed(range(bits)):
        zeros[numbers >> count & 1 == 1] = count
    return zeros


@cache
def classes_of(bits: int) -> NDArray[np.int64]:
    """Return the class of each byte that is made of parts of so many bits.

    1: by the number of ones (rule 2). 2, 4 and 8: by the zeros that each part ends in
    (rule 1); two classes of one part are never mixed, in whatever order parts come.
    """
    values = np.arange(256)
    if bits == 1:
        return sum((values >> bit & 1 for bit in range(8)), np.zeros(256, np.int64))
    zeros = trailing_zeros(bits)
    found = np.zeros(256, np.int64)
    for shift in range(0, 8, bits):
        found = found * (bits + 1) + zeros[values >> shift & (1 << bits) - 1]
    return found


@cache
def nibble_classes() -> NDArray[np.int64]:
    """Return the class of each number of 4 bits."""
    return trailing_zeros(4)


def excess(counts: NDArray[np.int64], classes: NDArray[np.int64]) -> Excess:
    """Compare the counts of values with the mean of their class."""
    number = int(classes.max()) + 1
    members = np.bincount(classes, minlength=number)
    totals = np.bincount(classes, counts, number)
    means = totals / np.maximum(members, 1)
    used = (means >= _LEAST) & (members > 1)
    taken = used[classes]
    mean = means[classes][taken]
    chi = float((((counts[taken] - mean) ** 2) / mean).sum())
    df = int((members[used] - 1).sum())
    return Excess(chi, df, int(totals[used].sum()))


def common(
    counts: NDArray[np.int64], classes: NDArray[np.int64], parts: int = 1
) -> Common:
    """Compare octants (rule 4).

    Args:
        counts: (8, 256) or (8, 16); values by octant.
        classes: Of values; they are compared within those.
        parts: Words that make a value. Of several, only how they depend on each other
            is looked at, since an octant is that of one of them.
    """
    total = int(counts.sum())
    number = int(classes.max()) + 1
    is_in = (classes[:, None] == np.arange(number)).astype(np.float64)
    members = is_in.sum(0)
    means = counts @ is_in / members
    steady = (members > 1) & (means.sum(0) >= _LEAST)
    df = float((members[steady] - 1).sum())
    expected = means[:, classes]
    use = steady[classes] & (expected > 0)
    away = np.where(use, (counts - expected) / np.sqrt(np.maximum(expected, 1e-9)), 0.0)
    if parts > 1:
        away = _interplay(away, parts)
    sizes = counts.sum(1).astype(np.float64)
    large = sizes >= max(20 * _LEAST, 0.02 * total)
    if df <= 0 or not (large[::2].any() and large[1::2].any()):
        return Common(0.0, 0.0, total, False)
    products = away @ away.T * np.sqrt(np.outer(sizes, sizes))
    pairs = np.outer(large & (np.arange(OCTANTS) % 2 == 0), large)
    pairs[:, ::2] = False
    weight = float(np.outer(sizes, sizes)[pairs].sum())
    effect = float(products[pairs].sum()) / weight
    own = (np.diag(products) / np.maximum(sizes, 1) - df) / np.maximum(sizes, 1)
    noise = _NOISE * (2 * df) ** 0.5 / np.maximum(sizes, 1)
    alike = bool((own <= _STRAY * max(effect, 0.0) + noise)[large].all())
    return Common(effect, effect * (weight / df) ** 0.5, total, alike)


def _interplay(away: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """Return what is left of deviations without those of each part by itself."""
    each = round(256 ** (1 / parts))
    cube = away.reshape(OCTANTS, *[each] * parts)
    whole = cube.mean(axis=tuple(range(1, parts + 1)), keepdims=True)
    left = cube + (parts - 1) * whole
    for part in range(1, parts + 1):
        others = tuple(axis for axis in range(1, parts + 1) if axis != part)
        left = left - cube.mean(axis=others, keepdims=True)
    flat: NDArray[np.float64] = left.reshape(away.shape)
    return flat


@cache
def _members(key: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which value is in which class, (256, k), and how many each class has."""
    classes = classes_of(key)
    is_in = np.zeros((256, int(classes.max()) + 1))
    is_in[np.arange(256), classes] = 1.0
    return is_in, is_in.sum(0)


def furthest(counts: NDArray[np.int64], key: int) -> float:
    """Return the largest `Excess.z` of several rows of counts; fast.

    Args:
        counts: (n, 256).
        key: Classes as of `classes_of`.
    """
    is_in, members = _members(key)
    given = counts.astype(np.float64)
    totals, squares = given @ is_in, (given * given) @ is_in
    used = (totals >= _LEAST * members) & (members > 1)
    chi = np.where(used, squares * members / np.maximum(totals, 1) - totals, 0.0).sum(1)
    df = np.where(used, members - 1, 0.0).sum(1)
    return float(((chi - df) / np.sqrt(2 * np.maximum(df, 1))).max())


def stream_counts(
    words: NDArray[Any],
    bits: int,
    phase: int,
    usable: NDArray[np.bool_],
    octants: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Return how often each byte occurs in the stream that the lowest bits make.

    Args:
        words: The words, unsigned.
        bits: Low bits of each word: 1, 2, 4 or 8. The first word gives the highest
            bits of a byte.
        phase: Words before the first byte.
        usable: Which words may take part; a byte with another one is left out.
        octants: Of each word. A byte belongs to that of its first word.

    Returns:
        (8, 256); by octant.
    """
    each = 8 // bits
    many = (words.size - phase) // each
    if many <= 0:
        return np.zeros((OCTANTS, 256), np.int64)
    part = slice(phase, phase + many * each)
    low = (words[part] & words.dtype.type((1 << bits) - 1)).astype(np.uint8)
    made = low[::each].astype(np.uint16)
    for at in range(1, each):
        made = made << np.uint16(bits) | low[at::each]
    made |= octants[part][::each].astype(np.uint16) << np.uint16(8)
    if not usable.all():
        made = made[np.logical_and.reduceat(usable[part], np.arange(0, low.size, each))]
    return np.bincount(made, minlength=OCTANTS * 256).reshape(OCTANTS, 256)


def first_ones(words: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of at most 65,536 words are the first like that (rule 3)."""
    first = np.zeros(words.size, np.bool_)
    if words.dtype.itemsize == 4:
        # With the place below it, a word and its first place are sorted as one number.
        places = np.arange(words.size, dtype=np.uint64)
        ordered = np.sort(words.astype(np.uint64) << np.uint64(16) | places)
        value = ordered >> np.uint64(16)
        new = np.append(True, value[1:] != value[:-1])[: words.size]
        first[(ordered[new] & np.uint64(0xFFFF)).astype(int)] = True
    else:
        first[np.unique(words, return_index=True)[1]] = True
    return first


def without_spikes(words: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which words are of no value that is far more frequent than others.

    Clamped weights, and those of layers that were set to one number, are a spike.
    """
    values, at, counts = np.unique(words, return_inverse=True, return_counts=True)
    most = max(_SPIKE, _SPIKE * words.size / max(values.size, 1))
    return (counts <= most)[at]


def entropy(counts: NDArray[np.int64]) -> float:
    """Return the entropy of counted values, in bits, less what chance takes away."""
    total = int(counts.sum())
    if not total:
        return 0.0
    share = counts[counts > 0] / total
    # Miller and Madow: a sample looks less even than what it is drawn from.
    return float(-(share * np.log2(share)).sum()) + (share.size - 1) / (2.77 * total)
