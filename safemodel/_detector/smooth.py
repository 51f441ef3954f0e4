"""Is a tensor *too uniform*? The test for encrypted data in the upper low bits.

Weights have a smooth density. Within a cell (all words of one exponent and equal upper
mantissa bits) it is not flat but has a slope, so what comes next in the mantissa is not
quite uniform: in the cells below the peak lower values are more frequent. Whoever
replaces the X lowest bits by random ones makes each cell flat.

1. A *cell* is what X bits leave alone. The slope of the density in each is estimated
   from the counts of cells alone, which the attack does not change: the logarithm of
   the density is a polynomial of degree two over the mantissa, for each exponent by
   itself. So a normal density is fitted exactly, and its tail above all.
2. For each word, u in [-1/2, 1/2] says where in its cell it is. With slope s, relative
   to the density and the width of a cell, the mean of u is s / 12, and its variance
   1/12. So the sum of s u over all words has mean and variance I = sum s^2 / 12 in a
   clean tensor, mean 0 and the same variance in an attacked one: I is all there is to
   know, and it adds up over exponents and tensors. sqrt(I) is how many standard
   deviations the two are apart.
3. Estimated slopes are too steep by their error, so they are shrunk (James and Stein).
4. Numbers of 16 bits are rounded to. The interval that is rounded to a power of two is
   a quarter shorter, so mantissa 0 is rarer by a quarter: in the cell that begins there
   the same sum is taken over that *notch*, as deep as the count of the cell says. Rows
   whose density ends in the first cells are left out.
5. Rows that lie on a grid coarser than the cells say nothing, and are left out.

`integers` does the same for numbers without an exponent, and `octaves` where so many
bits are replaced that the others tell no slope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector import octaves
from safemodel._detector.layouts import layout_of
from safemodel._detector.slopes import slopes
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from safemodel._detector.counts import Tensor
    from safemodel._detector.layouts import Layout

_LEAST = 200
"""Words of a row below which it says too little to fit anything."""
_BELOW = (6, 5, 3, 1)
"""Of wide floats, what is looked at, below the most that can be: float32: 15, 16 ..."""
_AROUND = 8
_SPIKE = 8
"""Times the mean of values around that make a spike of one."""
_SHORTER = 0.25
_ENDED = 3.0
"""Standard deviations of fewer than half as many words as in the cell before."""
_ROUNDED = 10
"""Bits of a mantissa that are left at most once numbers were rounded to 16 bits."""


class Uniformity(NamedTuple):
    """What words say for and against X replaced bits.

    Attributes:
        seen: The sum of s u; about `expected` if clean, about 0 if replaced.
        expected: I: mean of a clean tensor, and the variance of either.
    """

    seen: float = 0.0
    expected: float = 0.0

    def plus(self, other: Uniformity) -> Uniformity:
        """Return what both say together."""
        return Uniformity(self.seen + other.seen, self.expected + other.expected)

    @property
    def apart(self) -> float:
        """How many standard deviations clean and replaced are apart."""
        return float(self.expected**0.5)

    @property
    def share(self) -> float:
        """Estimated share of the words that were *not* replaced; 1 if unknown."""
        return self.seen / self.expected if self.expected else 1.0


def constant_bits(tensor: Tensor) -> int:
    """Return how many of the lowest bits are zeros in every word."""
    layout = tensor.layout
    if tensor.lows[0, 1::2].any():
        return 0
    if layout.kind == "float":
        for at, counts in enumerate(tensor.lows[: layout.itemsize - 2]):
            used = np.flatnonzero(counts)
            if used.size > 1 or (used.size and used[0]):
                joined = int(np.bitwise_or.reduce(used))
                return 8 * at + (joined & -joined).bit_length() - 1
    used = np.flatnonzero(tensor.top.sum(0))
    joined = int(np.bitwise_or.reduce(used)) if used.size else 0
    below = layout.mantissa - layout.kept
    return below + (joined & -joined).bit_length() - 1 if joined else layout.mantissa


def is_rounded(layout: Layout, constant: int) -> bool:
    """Say whether numbers were rounded to 16 bits, whatever they are stored in."""
    return layout.mantissa - constant <= _ROUNDED


def replaceable(layout: Layout, constant: int = 0) -> tuple[int, ...]:
    """Return the numbers of replaced bits that are looked at."""
    hidden = max(0, constant - (layout.mantissa - layout.kept))
    most = layout.mantissa - constant - 2
    every = range(max(1, most + 3 - layout.kept + hidden), most + 1)
    if layout.kind == "float" and not is_rounded(layout, constant):
        # Those between say nothing that their neighbours do not, and each takes time.
        return tuple(bits for bits in every if most - bits in _BELOW)
    return tuple(every)


def layout_of_dtype(dtype: str) -> Layout:
    """Return how words of a dtype are read."""
    return layout_of(dtype, DTYPE_ITEMSIZE.get(dtype, 1))


class Density(NamedTuple):
    """The rows of a tensor that can be used, for several numbers of replaced bits.

    Attributes:
        rows: Counts by exponent and upper mantissa.
        exponents: Of the rows.
        bits: Of the mantissa, without those that are always zeros.
        kept: Of these, the upper ones that are counted.
        notched: Whether the numbers were rounded to 16 bits (rule 4).
        replaceable: Numbers of bits that something can be said about.
    """

    rows: NDArray[np.float64]
    exponents: NDArray[np.int64]
    bits: int
    kept: int
    notched: bool
    replaceable: tuple[int, ...]


def density_of(tensor: Tensor) -> Density:
    """Return the density of a tensor of floats that has been read to the end."""
    constant, layout = constant_bits(tensor), tensor.layout
    hidden = max(0, constant - (layout.mantissa - layout.kept))
    finite = (tensor.exponents > 0) & (tensor.exponents < (1 << layout.exponent) - 1)
    rows = tensor.top[finite, :: 1 << hidden]
    enough = rows.sum(1) >= _LEAST
    rows, exponents = rows[enough].astype(np.float64), tensor.exponents[finite][enough]
    return Density(
        rows, exponents, layout.mantissa - constant, layout.kept - hidden,
        is_rounded(layout, constant), replaceable(layout, constant),
    )  # fmt: skip


class Evenness(NamedTuple):
    """How even the low bits of a tensor are, by replaced bits.

    Attributes:
        uniformity: As found here, or by `integers`.
        octaves: As found by `octaves`, where nearly all of a mantissa is replaced.
    """

    uniformity: dict[int, Uniformity]
    octaves: dict[int, Uniformity]


def uniformities(densities: Sequence[Density]) -> list[Evenness]:
    """Return what tensors say about each number of replaced bits (rules 1 to 5).

    Tensors of a kind are looked at together: it takes less time by far.
    """
    found = [Evenness({}, {}) for _ in densities]
    kinds: dict[tuple[int, int, bool], list[int]] = {}
    for at, one in enumerate(densities):
        kinds.setdefault((one.bits, one.kept, one.notched), []).append(at)
    for members in kinds.values():
        for at, each in zip(
            members, _of_kind([densities[at] for at in members]), strict=True
        ):
            found[at] = each
    return found


def _of_kind(densities: list[Density]) -> list[Evenness]:
    """Return the same for tensors that differ in nothing but their rows."""
    first, number = densities[0], len(densities)
    rows = np.concatenate([one.rows for one in densities])
    owner = np.repeat(np.arange(number), [len(one.rows) for one in densities])
    exponents = np.concatenate([one.exponents for one in densities])
    rows, kept = _usable(rows)
    owner, exponents = owner[kept], exponents[kept]
    ends = np.searchsorted(owner, np.arange(number + 1))
    below = first.bits - first.kept
    bits = [one for one in first.replaceable if below < one <= first.bits - 2]
    found = [
        Evenness(dict.fromkeys(first.replaceable, Uniformity()), {}) for _ in densities
    ]
    if not len(rows) or not bits:
        return found
    cells = Cells(rows, first.kept)
    for one in sorted(bits):
        left = first.bits - one
        cells = cells.joined(left)
        for at, total in enumerate(_by_owner(owner, _of_rows(cells), number)):
            start, end = ends[at : at + 2]
            notched = first.notched and end > start
            notch = (
                _notch(rows[start:end], first.kept - left) if notched else Uniformity()
            )
            found[at].uniformity[one] = total.plus(notch)
    for left in octaves.LEFT:
        if first.kept - left >= octaves.WITHIN:
            cells = cells.joined(left)
            sums = octaves.sums(cells, owner, exponents)
            for at, total in enumerate(_by_owner(owner, sums, number)):
                found[at].octaves[first.bits - left] = total
    return found


def _by_owner(
    owner: NDArray[np.int64],
    sums: tuple[NDArray[np.float64], NDArray[np.float64]],
    number: int,
) -> list[Uniformity]:
    """Return what rows say, tensor by tensor."""
    seen, expected = (np.bincount(owner, each, number).tolist() for each in sums)
    return [Uniformity(*pair) for pair in zip(seen, expected, strict=True)]


def _usable(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return rows without spikes, and which they are; those on a grid are left out."""
    # A grid (rule 5) has words in every other place at most.
    dense = np.flatnonzero(rows @ (np.arange(rows.shape[1]) % 2.0) > 0)
    some, kept = _without_spikes(rows[dense])
    return some, dense[kept]


def _without_spikes(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return rows in which values far more frequent than others around are like them.

    Clamped weights are one value, and so are layers that were set to one number. Rows
    that are mostly spikes are left out; the second result says which were kept.
    """
    every = np.ones(len(rows), np.bool_)
    if not rows.size or rows.shape[1] <= _AROUND:
        return rows, every
    # A value that is a spike is more than a third of the eight values it is one of.
    most = rows
    while most.shape[1] > rows.shape[1] // _AROUND:
        most = np.maximum(most[:, ::2], most[:, 1::2])
    sums = (rows.reshape(-1, _AROUND) @ np.ones(_AROUND)).reshape(most.shape)
    odd = (3 * most > sums + 4 * _SPIKE).any(1)
    if not odd.any():
        return rows, every
    some, every[odd] = _spikes_cut(rows[odd])
    cut = rows.copy()
    cut[odd] = some
    return cut[every], every


def _spikes_cut(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return rows in which there may be spikes without them, and which to keep."""
    wide = np.concatenate(
        (rows[:, _AROUND:0:-1], rows, rows[:, -2 : -_AROUND - 2 : -1]), axis=1
    )
    sums = np.cumsum(wide, axis=1)
    span = 2 * _AROUND + 1
    around = sums[:, span - 1 :].copy()
    around[:, 1:] -= sums[:, :-span]
    mean = (around - rows) / (span - 1)
    spikes = rows > _SPIKE * (mean + 2)
    less = np.where(spikes, np.rint(mean), rows)
    return less, less.sum(1) > rows.sum(1) / 2


class Cells:
    """The words of rows by cell, and where in their cells they are.

    Cells of more bits come from those of fewer, so all numbers of replaced bits
    together take little more time than the least.

    Attributes:
        left: Bits of the mantissa that are the number of a cell.
        within: Values that are told apart in it.
        totals: (rows, 2**left); words.
        moments: (rows, 2**left); the sum of u over them (rule 2). Nothing for cells of
            one value.
    """

    def __init__(self, rows: NDArray[np.float64], kept: int) -> None:
        self.left, self.within = kept, 1
        self.totals = rows
        self.moments = np.zeros(0)

    def joined(self, left: int) -> Cells:
        """Return the same by cells of as many bits, or fewer."""
        made = object.__new__(Cells)
        made.left, step = left, 1 << self.left - left
        made.within = self.within * step
        shape = (len(self.totals), 1 << left)
        ones, place = np.ones(step), (np.arange(step) + 0.5) / step - 0.5
        parts = self.totals.reshape(-1, step)
        made.totals = (parts @ ones).reshape(shape)
        moments = parts @ place
        if self.moments.size:
            moments += self.moments.reshape(-1, step) @ (ones / step)
        made.moments = moments.reshape(shape)
        return made


def _of_rows(cells: Cells) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the words of each row say: `Uniformity`, as two arrays."""
    slope = slopes(cells.totals)
    variance = (1 - cells.within**-2.0) / 12
    expected = np.einsum("rk,rk,rk->r", cells.totals, slope, slope) * variance
    return np.einsum("rk,rk->r", slope, cells.moments), expected


def summed(
    cells: NDArray[np.float64], totals: NDArray[np.float64], slope: NDArray[np.float64]
) -> Uniformity:
    """Return rule 2, given the slopes."""
    within = cells.shape[-1]
    place = (np.arange(within) + 0.5) / within - 0.5
    variance = (1 - within**-2.0) / 12
    seen = float((slope * (cells @ place)).sum())
    return Uniformity(seen, float((totals * slope * slope).sum()) * variance)


def _depth(rows: NDArray[np.float64], within: int) -> float:
    """Return by how much of itself the first value of a row is rarer (rule 4)."""
    size = 1 << within
    first = rows[:, :size].sum(1).astype(np.float64)
    near = rows[:, size : 2 * size].sum(1).astype(np.float64)
    step = near - rows[:, 2 * size : 3 * size].sum(1)
    expected = near + step
    used = (expected >= 30) & (near >= 30)
    if not used.any():
        return 0.0
    first, expected = first[used], expected[used]
    lacks = size * (1 - first / expected)
    error = size * size * (first + 6 * expected) / expected**2
    mean = float((lacks / error).sum() / (1 / error).sum())
    power = max(0.0, 1 - 1 / float((1 / error).sum()) / max(mean * mean, 1e-12))
    return float(np.clip(mean * power, 0.0, _SHORTER))


def _notch(rows: NDArray[np.float64], within: int) -> Uniformity:
    """Return what the first value of the first cell of each row says (rule 4)."""
    size = 1 << within
    rows = rows[~(_ended(rows, size, 0) | _ended(rows, size, 1))]
    depth = _depth(rows, within)
    total, first = float(rows[:, :size].sum()), float(rows[:, 0].sum())
    # Were the first value rarer by `depth`, so many of the cell's words would be
    # missing there; and by chance the variance is that of a binomial.
    missing = depth * (size - 1) / (size * (size - depth))
    variance = (1 - 1 / size) / size
    weight = missing / variance
    return Uniformity(weight * (total / size - first), weight * missing * total)


def _ended(rows: NDArray[np.float64], size: int, at: int) -> NDArray[np.bool_]:
    """Say in which rows there are far fewer words in the cell after the given one."""
    here, after = (
        rows[:, size * one : size * (one + 1)].sum(1) for one in (at, at + 1)
    )
    ended: NDArray[np.bool_] = here > 2 * (after + _ENDED * np.sqrt(after + 1))
    return ended
