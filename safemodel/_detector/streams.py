"""Bits hidden in weights, read as a stream of bytes, and how unlike chance they are.

What a benign tensor may do, and a test must not mistake for a message (`detection.md`,
sections 8.3 (d) and 10):

1. Values that were hardly changed since they were drawn lie on a grid, so many end in
   zeros. Among words with the same number of zeros at the end, the other bits are as
   likely to be 0 as 1: so words are compared with others of their class only.
2. Whole rows or columns may be like that, because their inputs never change. So the
   number of ones differs from place to place; their order within a byte does not
   matter, and bytes are compared with others of as many ones.
3. The same value again and again says nothing new, nor does its opposite: of equal
   words, and of those that differ in their sign, one is looked at.
4. Values that were multiplied by a constant (0.02 times a normal number), or drawn on a
   grid that is not one of powers of two, have low bits that are far from even. But how
   far, and which, depends on the exponent and the upper mantissa: low bits of one half
   of an octave are unlike those of the other. A message knows no weights. So words are
   put into *octants* by the two lowest bits of the exponent and the highest of the
   mantissa, and what counts is what octants of different halves have in common.
5. A slow copy that has come to rest is off what it follows by a few units, and of 1/20
   the two lowest bits of the copy say by how many: one of four values is nearly absent.
   So where bytes are that uneven, they are compared with others that end in the same
   two bits. Of what is compressed, those bits are a little uneven by themselves.
"""

from __future__ import annotations

from functools import cache
from secrets import randbits
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RARE = 0.01
"""Of an expected count: what is rarer says nothing."""
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


class Classes(NamedTuple):
    """Which values are compared with each other.

    Attributes:
        of: The class of each value.
        holds: (values, classes); 1 where a value is in a class.
        members: How many values a class has.
    """

    of: NDArray[np.int64]
    holds: NDArray[np.float64]
    members: NDArray[np.float64]


NIBBLES = 0
"""Key of `classes` for numbers of 4 bits; other keys are those of `classes_of`."""
ENDINGS = 9
"""Key for bytes by their two lowest bits, and by the zeros they end in (rule 5)."""


@cache
def classes(key: int) -> Classes:
    """Return the classes of bytes, or of nibbles."""
    of = trailing_zeros(4) if key == NIBBLES else classes_of(min(key, 8))
    if key == ENDINGS:
        of = np.where(np.arange(256) % 4 == 3, of.max() + 1, of)
    holds = np.zeros((of.size, int(of.max()) + 1))
    holds[np.arange(of.size), of] = 1.0
    return Classes(of, holds, holds.sum(0))


def excesses(
    counts: NDArray[np.int64], key: int, model: NDArray[np.float64] | None = None
) -> list[Excess]:
    """Compare the counts of values with the mean of their class, row by row.

    Args:
        counts: (n, 256) or (n, 16).
        key: Of `classes` within which values are compared.
        model: As ``counts``: how frequent values of one class are to each other; None
            for as frequent.
    """
    of, holds, _ = classes(key)
    weights = np.ones(counts.shape) if model is None else model
    used = np.ones(counts.shape, np.bool_)
    for _ in range(2):  # a class is what is frequent enough of it
        totals, parts = (counts * used) @ holds, (weights * used) @ holds
        mean = totals[:, of] * weights / np.maximum(parts, 1e-9)[:, of]
        used &= mean >= _LEAST
    members = used @ holds
    used &= (members > 1)[:, of]
    away = (counts - mean) ** 2 / np.maximum(mean, 1e-9)
    chi = np.where(used, away, 0.0).sum(1)
    df = np.maximum(members - 1, 0).sum(1)
    totals = (counts * used).sum(1)
    return [
        Excess(float(one), int(two), int(three))
        for one, two, three in zip(chi, df, totals, strict=True)
    ]


def commons(counts: NDArray[np.int64], key: int, parts: int = 1) -> list[Common]:
    """Compare octants (rule 4).

    Args:
        counts: (n, 8, 256) or (n, 8, 16); values by octant, n times.
        key: Of `classes` within which values are compared.
        parts: Words that make a value. Of several, only how they depend on each other
            is looked at, since an octant is that of one of them.
    """
    total = counts.sum((1, 2))
    if not total.any():
        return [Common(0.0, 0.0, 0, False)] * len(counts)
    of, holds, members = classes(key)
    means = counts @ holds / members
    steady = (members > 1) & (means.sum(1) >= _LEAST)
    df = steady @ (members - 1)
    expected = means[:, :, of]
    use = steady[:, None, of] & (expected > 0)
    if parts > 1:
        expected = _independent(counts * use, expected * use, parts)
        use &= expected > _RARE
    away = (counts - expected) / np.sqrt(np.maximum(expected, 1e-9)) * use
    sizes = counts.sum(2).astype(np.float64)
    large = sizes >= np.maximum(20 * _LEAST, 0.02 * total)[:, None]
    even = np.arange(OCTANTS) % 2 == 0
    pairs = (large & even)[:, :, None] & (large & ~even)[:, None, :]
    outer = sizes[:, :, None] * sizes[:, None, :]
    products = away @ away.transpose(0, 2, 1) * np.sqrt(outer)
    weight = (outer * pairs).sum((1, 2))
    effect = (products * pairs).sum((1, 2)) / np.maximum(weight, 1e-9)
    scale = np.maximum(sizes, 1)
    own = (np.diagonal(products, axis1=1, axis2=2) / scale - df[:, None]) / scale
    noise = _NOISE * (2 * df[:, None]) ** 0.5 / scale
    usual = own <= _STRAY * np.maximum(effect, 0.0)[:, None] + noise
    alike = (usual | ~large).all(1)
    # Were it a message, pairs of octants would differ by chance only; what they differ
    # by beyond that is the deviation of what is in common, too.
    each = products / np.maximum(outer, 1e-9) - effect[:, None, None]
    apart = (each * each * outer * pairs).sum((1, 2)) / np.maximum(df, 1e-9)
    beyond = np.maximum(1.0, apart / np.maximum(pairs.sum((1, 2)) - 1, 1))
    z = effect * np.sqrt(weight / np.maximum(df, 1e-9) / beyond)
    known = (df > 0) & pairs.any((1, 2))
    return [
        Common(float(effect[at]), float(z[at]), int(total[at]), bool(alike[at]))
        if known[at]
        else Common(0.0, 0.0, int(total[at]), False)
        for at in range(len(counts))
    ]


def _independent(
    seen: NDArray[Any], expected: NDArray[np.float64], parts: int
) -> NDArray[np.float64]:
    """Return what is expected of parts that do not depend on each other.

    Each part by itself may be as uneven as it is: 0.1 is 8/5 times a power of two, so
    of numbers that were multiplied by it some low bits are far rarer than others, with
    the same period in all octants.

    Args:
        seen: (n, 8, 256) counts.
        expected: The same, as far as only the classes are known.
        parts: Words that make a byte.
    """
    shape = (*seen.shape[:2], *[round(256 ** (1 / parts))] * parts)
    counts, model = seen.reshape(shape), expected.reshape(shape)
    every = range(2, parts + 2)
    factors = [
        counts.sum(others, keepdims=True)
        / np.maximum(model.sum(others, keepdims=True), 1e-9)
        for others in (tuple(one for one in every if one != part) for part in every)
    ]
    for factor in factors:
        model = model * factor
    flat: NDArray[np.float64] = model.reshape(seen.shape)
    return flat


def furthest(counts: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Return the largest `Excess.z` of several rows of counts, many times; fast.

    Args:
        counts: (n, rows, 256).
        key: Of `classes`.
    """
    _, holds, members = classes(key)
    given = counts.reshape(-1, counts.shape[2]).astype(np.float64)
    totals = given @ holds
    np.square(given, out=given)
    used = totals >= np.where(members > 1, _LEAST * members, np.inf)
    each = given @ holds * members / np.maximum(totals, 1) - totals
    chi, df = np.where(used, each, 0.0).sum(1), used @ (members - 1)
    found = (chi - df) / np.sqrt(2 * np.maximum(df, 1))
    most: NDArray[np.float64] = found.reshape(counts.shape[:2]).max(1)
    return most


class Streams(NamedTuple):
    """The bytes of the streams that low bits of words make; see the kernel `streams`.

    Attributes:
        bits: (8, 256); of one bit a word, by phase.
        pairs: (4, 8, 256); of two, by phase and octant.
        nibbles: (2, 8, 256); of four, by phase and octant.
        octants: (k, 8, 256); of eight, by octant, and values of the bytes above.
    """

    bits: NDArray[np.int64]
    pairs: NDArray[np.int64]
    nibbles: NDArray[np.int64]
    octants: NDArray[np.int64]


def stream_counts(
    words: NDArray[Any],
    start: int,
    usable: NDArray[np.bool_],
    octants: tuple[int, int],
    whole: int,
) -> Streams:
    """Return how often each byte occurs in the streams of words.

    Args:
        words: The words, unsigned.
        start: Number of the first one in its tensor.
        usable: Which words may take part; a byte with another one is left out.
        octants: How far up in a word its octant is, and its mask.
        whole: Bytes of a word that are counted.
    """
    from safemodel._kernels import features as kernels

    shapes = ((8, 256), (4, 8, 256), (2, 8, 256), (whole, 8, 256))
    made = [np.zeros(shape, np.uint32) for shape in shapes]
    rules = np.array(octants, words.dtype)
    kernels.streams(words, usable, rules, np.uint64(start), *made)
    return Streams(*(each.astype(np.int64) for each in made))


_FIRST_TABLE = 1 << 17


def first_ones(words: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of at most 65,536 words are the first like that (rule 3)."""
    from safemodel._kernels import features as kernels

    first = np.empty(words.size, np.bool_)
    table = np.empty(_FIRST_TABLE, words.dtype)
    taken = np.zeros(_FIRST_TABLE, np.uint8)
    kernels.first_ones(words, _multiply(), table, taken, first)
    return first


@cache
def _multiply() -> np.uint64:
    """Return an odd number that nobody knew who made a file."""
    return np.uint64(randbits(64) | 1)


def without_spikes(words: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which words of 16 bits are of no value far more frequent than others.

    Clamped weights, and those of layers that were set to one number, are a spike.
    """
    counts = np.bincount(words)
    different = int(np.count_nonzero(counts))
    most = max(_SPIKE, _SPIKE * words.size / max(different, 1))
    usual: NDArray[np.bool_] = (counts <= most)[words]
    return usual


def entropy(counts: NDArray[np.int64]) -> float:
    """Return the entropy of counted values, in bits, less what chance takes away."""
    total = int(counts.sum())
    if not total:
        return 0.0
    share = counts[counts > 0] / total
    # Miller and Madow: a sample looks less even than what it is drawn from.
    return float(-(share * np.log2(share)).sum()) + (share.size - 1) / (2.77 * total)
