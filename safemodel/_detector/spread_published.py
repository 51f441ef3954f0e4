"""Is the published spread spectrum in the weights, with the published seed?

The published program has its seed in the code, so whoever runs it as it is hides each
payload under the same preamble, in weights that follow from how many there are. That
is looked for as a reader would, without knowing the size of the payload:

1. The weights are those of the tensors whose names contain "weight", without the last
   one, in the order of the file; of the dtype that most of them have.
2. The indices of the first chunk are outputs of the generator, cut to the bits of the
   number of weights; those that are too large are passed over. So for any number they
   are a part of one list for each power of two, and a file is read once.
3. All known bits are read at once: the sum of weight times the sum of codes, each with
   the sign of its bit. Codes know nothing of a clean network, so the chance of a sum
   of z standard deviations is exp(-z^2 / 2) at most, whatever the weights are
   (Hoeffding's bound for random signs).

Another seed, another order or another choice of tensors is not found: `spread` is for
that.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from safemodel._detector.evidence import Outcome
from safemodel._detector.layouts import FLOATS
from safemodel._detector.spread import values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.weights import Weights

_SEED = 42
_PREAMBLE_SEED = 15 * _SEED
_KNOWN = 200
"""Bits of the preamble."""
_CHUNK = 24_576
"""Weights of a chunk."""
_DRAWN = 51_200
"""Outputs that hold the indices of a chunk, of which half may be too large."""
_POWERS = range(15, 32)
"""Of two, up to which numbers of weights are looked at."""
_CLIPPED = 4.0
"""Medians of the sizes of weights, beyond which a weight counts no more."""


class Published:
    """Reads the known bits of the published program; see the module."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def take(self, item: Weights) -> None:
        """Take a piece of a tensor."""
        if item.dtype in FLOATS and item.role != "slack" and "weight" in item.name:
            self._rows.setdefault(item.dtype, _Row()).take(item)

    def outcome(self) -> Outcome:
        """Return whether the known bits are there, once all has been taken."""
        most = max(
            self._rows.values(), key=lambda row: row.size + row.last, default=None
        )
        score = 0.0 if most is None else most.score()
        return Outcome(
            family="spread", test="published-code",
            what="the known bits of the published spread spectrum, under its own seed",
            log_p=-score * score / 2 if score > 0 else 0.0,
            statistic=score, effect=score / (_KNOWN * _CHUNK) ** 0.5,
        )  # fmt: skip


class _Row:
    """The weights of one dtype where a chunk may lie, as far as they are read."""

    def __init__(self) -> None:
        self.size = 0
        """Of all tensors before the last one."""
        self.last = 0
        self._found: dict[int, NDArray[np.float64]] = {}

    def take(self, item: Weights) -> None:
        """Take a piece of a tensor."""
        if item.start == 0:
            self.size += self.last
            self.last = item.size or item.bits.size
        begin = self.size + item.start
        end = begin + item.bits.size
        for power in _POWERS:
            if self.size >= 1 << power:
                self._found.pop(power, None)
                continue
            places, order = _places(power)
            low, high = np.searchsorted(places, (begin, end))
            if high > low:
                found = self._found.setdefault(power, np.zeros(_DRAWN))
                words = item.bits[places[low:high] - begin]
                found[order[low:high]] = values_of(words, item.dtype)

    def score(self) -> float:
        """Return how many standard deviations the known bits are above nothing."""
        power = (self.size - 1).bit_length()
        if self.size < _CHUNK or power not in self._found:
            return 0.0
        used = np.flatnonzero(_indices(power) < self.size)[:_CHUNK]
        weights = self._found[power][used]
        weights[~np.isfinite(weights)] = 0.0
        middle = float(np.median(np.abs(weights)))
        if not middle:
            return 0.0
        with np.errstate(over="ignore"):
            weights = np.clip(weights / middle, -_CLIPPED, _CLIPPED)
        scale: float = (float((weights**2).sum()) * _KNOWN) ** 0.5
        return float(weights @ _codes()[: used.size]) / scale


@cache
def _indices(power: int) -> NDArray[np.uint32]:
    """Return the indices that are drawn for a number of weights of so many bits."""
    drawn = np.random.RandomState(_SEED).randint(0, 1 << 32, _DRAWN, np.uint32)
    return drawn & np.uint32((1 << power) - 1)


@cache
def _places(power: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the same in rising order, and where in the list each is."""
    indices = _indices(power)
    order = np.argsort(indices, kind="stable")
    return indices[order], order


@cache
def _codes() -> NDArray[np.float64]:
    """Return the sum of the codes of the known bits, each with the sign of its bit."""
    known = np.random.RandomState(_PREAMBLE_SEED).uniform(-1, 1, _KNOWN)
    drawn = np.random.RandomState(_SEED)
    total = np.zeros(_CHUNK)
    for bit in np.sign(known):
        code = drawn.randint(0, 1 << 32, _CHUNK, np.uint32) & np.uint32(1)
        total += bit * (2.0 * code - 1)
    return total
