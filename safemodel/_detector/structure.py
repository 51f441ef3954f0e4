"""Facts that no training leaves behind, and that overwriting low bits does.

1. Exact zeros become subnormals: see `subnormals`.
2. Infinities become NaN whose highest mantissa bit is 0: arithmetic never gives that.
   Other NaN have one of two mantissas.
3. Weights that were rounded to 16 bits, and stored as float32, end in zeros. Written
   to from the bottom, there are zeros left between what was written and the weight.
4. Equal values (ones of a normalisation layer, levels of fake quantisation) become
   words that differ in X low bits and agree in all above.
5. Two tensors that were one agree in their upper bits and differ in lower ones.
   Averages of weights do so too, but where low bits differ, upper ones sometimes do.

Optimiser state has subnormals and repeated values of its own, so 1 and 4 leave it out.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._detector.counts import FREE, unsigned_bits
from safemodel._detector.distributions import chi_square_log_tail
from safemodel._detector.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel._detector.counts import Block, Piece, Tensor
    from safemodel._detector.layouts import Layout

_FAMILY = "structure"
_BIT = log(2)
_LEAST = 16
_COMPARED = 256
_VARIED = 64
_STRETCH = 8
"""Words of a tensor that have to be equal at one place."""
_STRETCHES = 16
_SIXTEENTHS = np.arange(_STRETCHES)[:, None]
_MOST_STRETCHES = 1 << 18
_MOST = 1e5
"""Beyond that many nats nothing is more certain."""


def of_tensor(tensor: Tensor) -> Iterator[Outcome]:
    """Yield the outcomes of rules 2 and 4."""
    if tensor.layout.exponent and tensor.role != "slack":
        yield _nans(tensor)
        if tensor.role != "optimiser":
            yield _levels(tensor)


def gaps(piece: Piece, layout: Layout) -> NDArray[np.int64]:
    """Return which blocks of a piece may have unused bits (rule 3)."""
    if layout.kind != "float":
        return np.zeros(0, np.int64)
    return np.flatnonzero((piece.lows[:, :2] == 0).any((1, 2)))


def of_block(block: Block, tensor: Tensor) -> Outcome | None:
    """Return the outcome of rule 3; None if all bits of the block are in use."""
    if tensor.layout.kind != "float":
        return None
    used = 0
    for at in range(2):
        values = np.flatnonzero(block.lows[at])
        used |= int(np.bitwise_or.reduce(values)) << 8 * at if values.size else 0
    if used == 0xFFFF:
        return None
    # The lowest run of used bits, and how many unused ones are above it.
    low = (~used & used + 1).bit_length() - 1
    gap = (
        16 - low
        if not used >> low
        else ((used >> low) & -(used >> low)).bit_length() - 1
    )
    distinct = int((block.lows[0] > 0).sum())
    enough = block.words.size >= 4 * _LEAST and distinct >= min(
        _LEAST, 1 << max(low - 1, 1)
    )
    if not low or gap < 2 or not enough:
        return Outcome(_FAMILY, "gap", "", 0.0, tensor=tensor.name)
    words = block.words
    uppers = np.unique(words >> words.dtype.type(low + gap)).size
    changed = int((words & words.dtype.type((1 << low) - 1) != 0).sum())
    # Values that lie around one number agree in those bits as in all others: what
    # counts is how many different upper parts have zeros below them.
    changed = min(changed, uppers)
    return Outcome(
        family=_FAMILY, test="gap",
        what=f"{gap} bits are zero in every weight, and the {low} below them are not",
        log_p=-min(_MOST, _BIT * gap * changed) if changed >= _LEAST else 0.0,
        statistic=float(changed), effect=changed / words.size, bits=low,
        tensor=tensor.name, start=block.start, end=block.start + words.size,
    )  # fmt: skip


class Copies:
    """The tensors of a file, to tell which are copies of each other (rule 5)."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[str, int, NDArray[Any]]] = {}

    def add(self, tensor: Tensor) -> Iterator[Outcome]:
        """Yield the outcome, if there was a tensor like it."""
        if tensor.layout.kind == "bytes" or tensor.size < _LEAST:
            return
        key = (tensor.dtype, tensor.size, int(tensor.sums[1]))
        step = max(1, tensor.sample.size // _COMPARED)
        sample = tensor.sample[::step].copy()
        name, whole, words = self._known.setdefault(
            key, (tensor.name, int(tensor.sums[0]), sample)
        )
        if whole != int(tensor.sums[0]):
            yield _copies(tensor, name, words, sample)


class Known:
    """Short stretches of tensors, to tell which of them are there again.

    What the same weights say twice is no more than what they say once. A message
    changes weights of copies, too, and it is another one.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()

    def again(self, piece: Piece, tensor: Tensor) -> bool:
        """Say whether there was a tensor before of these words, of either sign.

        Args:
            piece: Of the tensor; only the first one is looked at.
            tensor: What is known of it.
        """
        last = piece.words.size - _STRETCH
        if tensor.layout.exponent == 0 or last < 0 or piece.start:
            return False
        places = _SIXTEENTHS * last // (_STRETCHES - 1)
        words = piece.words[places + np.arange(_STRETCH)]
        words &= words.dtype.type(unsigned_bits(tensor.layout))
        stretches = {hash(one.tobytes()) for one in words}
        known = len(stretches & self._known)
        if len(self._known) < _MOST_STRETCHES:
            self._known |= stretches
        return 2 * known > len(stretches)


def _nans(tensor: Tensor) -> Outcome:
    """Rule 2."""
    odd = int(tensor.special[2]) + int(tensor.special[3])
    return Outcome(
        family=_FAMILY, test="nan",
        what=f"{odd:,} NaN that no arithmetic gives",
        log_p=-min(_MOST, _BIT * odd), statistic=float(odd),
        effect=odd / tensor.size, tensor=tensor.name,
    )  # fmt: skip


def _levels(tensor: Tensor) -> Outcome:
    """Rule 4, for the words of the sample that agree in exponent and upper mantissa."""
    layout, words = tensor.layout, tensor.sample
    below = layout.mantissa - layout.kept
    if tensor.small.any():
        words = words[words & words.dtype.type(layout.masks[0]) != 0]
    words = np.sort(words)
    fits, chances, widest, changed = [], [], 0, 0
    rounds = 0.0
    for group in _groups(words, below) if layout.kind == "float" else ():
        apart = int(group[-1]) - int(group[0])
        length = apart.bit_length()
        distinct = int(np.unique(group).size)
        if 1 <= length <= below - 2 and distinct >= min(8, 1 << length - 1):
            fits.append(_is_above(group, words, length))
            chances.append(1 - apart / (1 << length))
            if fits[-1]:
                rounds += _BIT * _round(group, below)
                widest, changed = max(widest, length), changed + group.size
    return Outcome(
        family=_FAMILY, test="levels",
        what=f"equal values that differ in their {widest} lowest bits only",
        log_p=max(-_MOST, _of_levels(np.array(fits, np.bool_), chances, rounds)),
        statistic=float(changed), effect=changed / max(words.size, 1), bits=widest,
        tensor=tensor.name,
    )  # fmt: skip


def _is_above(group: NDArray[Any], words: NDArray[Any], length: int) -> bool:
    """Say whether values that are nearly equal are as if they had been equal.

    Such values lie around a number, on both sides of it. Those that were equal lie
    between two multiples of a power of two, and none just below.
    """
    base, room = int(group[0]) >> length << length, 1 << length
    below = (words < base) & (words >= base - room)
    return int(group[-1]) < base + room and not bool(below.any())


def _round(group: NDArray[Any], below: int) -> int:
    """Return in how many zeros the number ends that values were equal to."""
    kept = int(group[0]) >> below
    return min(int(group.size), (kept & -kept).bit_length() - 1) if kept else 0


def _of_levels(fits: NDArray[np.bool_], chances: list[float], rounds: float) -> float:
    """Return the log of the chance that so many groups fit, or such round ones.

    Values as far apart as these fit between two multiples with a chance that follows
    from how much room they leave. Groups that do not fit count as well: by Chernoff's
    bound; where numbers are round, by Fisher's method.
    """
    if not fits.any():
        return 0.0
    logs = np.log(chances)
    nats = float(-logs[fits].sum())
    bounds = [
        float(np.log1p(np.exp(logs * (1 - t)) - np.exp(logs)).sum()) - t * nats
        for t in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    ]
    fisher = chi_square_log_tail(2 * (nats + rounds), 2.0 * fits.size)
    return min(0.0, min(*bounds, fisher) + _BIT)


def _groups(words: NDArray[Any], below: int) -> Iterator[NDArray[Any]]:
    """Yield sorted words that agree above so many bits, where there are some."""
    if words.size < _LEAST:
        return
    upper = words >> words.dtype.type(below)
    ends = np.append(np.flatnonzero(upper[1:] != upper[:-1]) + 1, words.size)
    starts = np.append(0, ends[:-1])
    large = ends - starts >= _LEAST
    for start, end in zip(starts[large], ends[large], strict=True):
        yield words[start:end]


def _copies(
    tensor: Tensor, name: str, one: NDArray[Any], other: NDArray[Any]
) -> Outcome:
    """Rule 5: the chance that no upper bit differs, given how far low ones do."""
    free = FREE[tensor.layout.itemsize]
    width = float(1 << free)
    apart = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean())
    # Words of few different upper parts are near each other for another reason.
    varied = np.unique(one >> one.dtype.type(free)).size >= min(_VARIED, one.size // 4)
    # One that was cut off, not rounded, at those bits is no copy that was written to.
    cut = one.dtype.type((1 << free) - 1)
    varied &= bool((one & cut).any() and (other & cut).any())
    return Outcome(
        family=_FAMILY, test="copies",
        what=f"agrees with {name} in its upper bits and not in its lower ones",
        log_p=-min(_MOST, tensor.size * apart / width) if varied else 0.0,
        statistic=apart,
        effect=apart / width, bits=_widest(one, other), tensor=tensor.name,
    )  # fmt: skip


def _widest(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Return up to which bit words differ."""
    return int(np.bitwise_or.reduce(one ^ other)).bit_length() if one.size else 0
