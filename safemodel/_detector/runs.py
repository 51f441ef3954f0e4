"""Do low bits of weights in a row hold one value? Programs have stretches of zeros.

Most of the first kilobytes of a program may be zeros, and words that end in zeros are
what other tests leave out (`streams`, rule 1). Weights that still are as they were
drawn end in zeros, too, whole rows of them. What tells them apart:

1. Drawn numbers lie on a grid of at best 23 bits, so of those of the highest exponents
   two end in two zeros, and smaller numbers end in more. A message knows no exponents.
2. What was rounded to 16 bits ends in 13 zeros or 16, and in all of a tensor. Replaced
   bits are fewer, and the bits above them are as they were.
3. Levels of quantisation are few values; these are many.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._detector.evidence import Outcome
from safemodel._detector.streams import trailing_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.counts import Block, Piece, Tensor
    from safemodel._detector.layouts import Layout

_WINDOW = 512
_NIBBLE = 15
_MANY = 5.0
"""Standard deviations of zeros in a block from which on it is looked at closely."""
_SHARE = 0.5
_GRID = 0.25
"""Share of words that end in four zeros where two bits of a grid are missing."""
_ELSEWHERE = 0.2
_WIDEST = 12
_FREQUENT = 0.1
_DISTINCT = 0.8
_CHANCES = 0.5 ** np.arange(2, 9)
"""That a word ends in exactly 1 to 7 zeros."""
_ENDS = (trailing_zeros(8)[:, None] == np.arange(1, 8)).astype(np.float64)
"""(256, 7): whether a byte ends in exactly 1 to 7 zeros."""
_NEARLY_ALL = 0.98
_BEYOND = 0.08
"""What clean weights of one exponent may have beyond that."""


def odd(piece: Piece, layout: Layout) -> NDArray[np.bool_]:
    """Say of which blocks one of the tests gives an outcome; fast."""
    if layout.kind != "float":
        return np.zeros(len(piece.products), np.bool_)
    sizes, lows = piece.sizes, piece.lows[:, 0]
    lengths = lows @ _ENDS / sizes[:, None]
    found = (lengths > _CHANCES + _BEYOND / 2).any(1) & (sizes >= _WINDOW)
    zeros = lows[:, :: _NIBBLE + 1].sum(1)
    many = zeros >= sizes / 16 + _MANY * (sizes * 15 / 256) ** 0.5
    either: NDArray[np.bool_] = found | (many & (sizes >= 2 * _WINDOW))
    return either


def of_block(block: Block, tensor: Tensor) -> Outcome | None:
    """Return the outcome; None where there are not many words that end in zeros."""
    if tensor.layout.kind != "float" or block.words.size < 2 * _WINDOW:
        return None
    total = block.words.size
    zeros = int(block.lows[0][:: _NIBBLE + 1].sum())
    if zeros < total / 16 + _MANY * (total * 15 / 256) ** 0.5:
        return None
    words = block.words[: total // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    ends = (words & words.dtype.type(_NIBBLE)) == 0
    taken = ends.mean(1) >= _SHARE
    nothing = Outcome("structured-block", "zeros", "", 0.0, tensor=tensor.name)
    if not taken.any() or taken.all() or ends[~taken].mean() > _ELSEWHERE:
        return nothing
    bits = _replaced(words[taken][ends[taken]])
    if not bits:
        return nothing
    log_p = sum(
        _window(row, tensor.layout.mantissa) + log(len(taken)) for row in words[taken]
    )
    rows = np.flatnonzero(taken)
    return Outcome(
        family="structured-block", test="zeros",
        what=f"the {bits} low bits are zeros in stretches of weights",
        log_p=min(0.0, log_p), statistic=float(ends[taken].sum()),
        effect=float(ends[taken].mean()), bits=bits, tensor=tensor.name,
        start=block.start + int(rows[0]) * _WINDOW,
        end=block.start + int(rows[-1] + 1) * _WINDOW,
    )  # fmt: skip


def _replaced(words: NDArray[Any]) -> int:
    """Return above how many zeros the bits are as in other words; 0 for too many."""
    if np.unique(words).size < _DISTINCT * words.size:
        return 0  # rule 3
    one = words.dtype.type(1)
    for bit in range(4, _WIDEST + 1):
        share = float((words >> words.dtype.type(bit) & one).mean())
        if share > _GRID:
            return bit
    return 0  # rule 2


def _window(words: NDArray[Any], mantissa: int) -> float:
    """Return the log of the chance that so many of drawn numbers end in zeros (1)."""
    exponents = (words << words.dtype.type(1)) >> words.dtype.type(mantissa + 1)
    values, counts = np.unique(exponents, return_counts=True)
    frequent = values[counts >= _FREQUENT * words.size][-2:]
    worst = 0.0
    for at, value in enumerate(frequent[::-1]):
        some = words[exponents == value]
        share = float((some & some.dtype.type(_NIBBLE) == 0).mean())
        chance = _GRID * (1 << at)
        found = -some.size * _divergence(share, chance) if share > chance else 0.0
        worst = max(worst, found) if at else found
    return worst


def _divergence(share: float, chance: float) -> float:
    """Return how many nats apart two shares are, for each word (Chernoff)."""
    found = share * log(share / chance)
    return found + ((1 - share) * log((1 - share) / (1 - chance)) if share < 1 else 0.0)


def of_exponents(block: Block, tensor: Tensor) -> Outcome | None:
    """Return whether words of several exponents end in as many zeros as each other.

    Those of a grid do not (rule 1): one bit less is free where numbers are twice as
    large, on either side of zero. None where no number of zeros is frequent.
    """
    if tensor.layout.kind != "float" or block.words.size < _WINDOW:
        return None
    words, lows = block.words, block.lows[0]
    lengths = np.bincount(trailing_zeros(8), lows, 9)[1:8] / words.size
    odd = np.flatnonzero(lengths > _CHANCES + _BEYOND / 2)
    if not odd.size:
        return None
    bits = int(odd[np.argmax((lengths - _CHANCES)[odd])]) + 1
    if lows[:: 1 << bits].sum() > _NEARLY_ALL * words.size:
        return None  # rule 2
    return Outcome(
        family="structured-block", test="zeros",
        what=f"the {bits} low bits are zeros in many weights, whatever their size",
        log_p=min(0.0, _of_cells(words, bits, tensor.layout.mantissa) + log(7)),
        statistic=float(lengths[bits - 1] * words.size),
        effect=float(lengths[bits - 1] - _CHANCES[bits - 1]), bits=bits,
        tensor=tensor.name, start=block.start, end=block.start + words.size,
    )  # fmt: skip


def _of_cells(words: NDArray[Any], bits: int, mantissa: int) -> float:
    """Return the log of a chance: of the third exponent of either sign, the weaker.

    A grid that was multiplied and moved has up to two like that, on one side.
    """
    upper = words >> words.dtype.type(mantissa)
    sign = words.dtype.type(1 << 8 * words.dtype.itemsize - mantissa - 1)
    exact = words & words.dtype.type((2 << bits) - 1) == words.dtype.type(1 << bits)
    chance = 0.5 ** (bits + 1) + _BEYOND
    found: dict[bool, list[float]] = {False: [0.0] * 3, True: [0.0] * 3}
    values, counts = np.unique(upper, return_counts=True)
    for value in values[counts >= _FREQUENT / 4 * words.size]:
        some = upper == value
        hits = some & exact
        share = float(hits.sum() / some.sum())
        if share > chance and np.unique(words[hits]).size >= _DISTINCT * hits.sum():
            nats = float(some.sum()) * _divergence(share, chance)
            found[bool(value & sign)].append(-nats)
    return max(sorted(each)[2] for each in found.values())
