"""A file beside one that is trusted: low bits that changed under others that did not.

1. Whoever trains adds to a number. Near numbers have other low bits, and where the
   sum passes a multiple of 2**X, other upper bits as well: of what changes bit X - 1,
   as many pass a multiple of 2**X as pass an odd multiple of 2**(X - 1) only. So at
   least half of all words whose highest changed bit is X - 1 or above have changed
   above it.
2. Whoever replaces the X lowest bits changes none above. The p-value is that of so few
   heads among so many coins.
3. Numbers that were rounded to fewer bits (a cast to half and back, a scrub with
   zeros) end in zeros, and hold nothing in them: that is no evidence.
4. Numbers of few different upper parts say nothing: 0 becomes 1, and not 2.
5. Where dtypes differ, the reference is converted first, to the nearest.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._detector.distributions import probability
from safemodel._detector.evidence import Evidence
from safemodel._detector.layouts import FLOATS
from safemodel._detector.pairing import paired
from safemodel._detector.results import Change
from safemodel._detector.spread import values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from safemodel._detector.opening import Opened
    from safemodel._detector.weights import Held, Weights

CONCLUSIVE = 1e-9
"""Largest p-value, for all tensors together, that is evidence."""
_BLOCKS = 16
"""Different upper parts of words that it takes (rule 4)."""
_WIDEST = 64
_ROUNDED = 0.99


class Comparison:
    """Compares the tensors of a file with those of another while they pass by.

    Args:
        file: What is looked at.
        reference: What is trusted.
    """

    def __init__(self, file: Opened, reference: Opened) -> None:
        self._pairs, self._missing = paired(file.tensors, reference.tensors)
        self._tallies: list[_Tally] = []
        self._added: list[Change] = []
        self._other: Iterator[Weights] = iter(())

    def passing(self, items: Iterable[Weights]) -> Iterator[Weights]:
        """Hand weights on, each compared with its like."""
        for item in items:
            if item.start == 0:
                self._begin(item)
            if self._tallies and self._tallies[-1].name == item.name:
                other = next(self._other, None)
                if other is not None:
                    self._tallies[-1].take(item, other)
            yield item

    @property
    def changes(self) -> tuple[Change, ...]:
        """What became of each tensor, those of the reference that are gone last."""
        gone = (_alone(one.name, one.size, "missing") for one in self._missing)
        return (*self._added, *(one.change() for one in self._tallies), *gone)

    def evidence(self) -> tuple[Evidence, ...]:
        """Return the tensors whose low bits were replaced."""
        tests = max(len(self._tallies), 1) * _WIDEST
        found = ((one, one.log_p(one.cut) + log(tests)) for one in self._tallies)
        return tuple(
            one.evidence(log_p) for one, log_p in found if log_p <= log(CONCLUSIVE)
        )

    def _begin(self, item: Weights) -> None:
        other = self._pairs.get(item.name)
        if other is not None and _comparable(item.dtype, other):
            self._tallies.append(_Tally(item, other.name))
            self._other = other.weights()
        elif item.role != "slack":
            state = "added" if other is None else "incomparable"
            self._added.append(_alone(item.name, item.size, state))


class _Tally:
    """Which bits of one tensor have changed."""

    def __init__(self, item: Weights, reference: str) -> None:
        self.name, self.size, self._reference = item.name, item.size, reference
        self._tops = np.zeros(8 * item.bits.itemsize + 1, np.int64)
        self._used = self._near = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._blocks: dict[int, set[int]] = {}

    def take(self, item: Weights, other: Weights) -> None:
        """Compare a piece."""
        words = item.bits
        trusted = _converted(other, item.dtype)[: words.size]
        apart = words ^ trusted
        places = np.flatnonzero(apart)
        if not places.size:
            self._tops[0] += words.size
            return
        apart, words, trusted = apart[places], words[places], trusted[places]
        tops = _bit_lengths(apart)
        self._tops += np.bincount(tops, minlength=self._tops.size)
        self._tops[0] += item.bits.size - places.size
        self._used |= int(np.bitwise_or.reduce(words))
        # Rule 3: rounded to a number with so many zeros, it is not farther than those.
        lowest = words & (~words + words.dtype.type(1))
        moved = np.where(words > trusted, words - trusted, trusted - words)
        self._near += int(((moved <= lowest) | (words == 0)).sum())
        for top in np.unique(tops):
            self._note(int(top), places[tops == top] + item.start, words[tops == top])

    def _note(self, top: int, places: NDArray[np.int64], words: NDArray[Any]) -> None:
        first, last = self._places.get(top, (int(places[0]), 0))
        self._places[top] = first, max(last, int(places[-1]) + 1)
        known = self._blocks.setdefault(top, set())
        if len(known) < _BLOCKS and top < 8 * words.itemsize:
            some = words[:4096] >> words.dtype.type(top)
            known.update(np.unique(some)[:_BLOCKS].tolist())

    @property
    def changed(self) -> int:
        """How many words are not as they were."""
        return int(self._tops[1:].sum())

    @property
    def zeros(self) -> int:
        """Lowest bits that are zeros in all words that changed."""
        used = self._used
        return (used & -used).bit_length() - 1 if used else self._tops.size - 1

    @property
    def cut(self) -> int:
        """The number of low bits that were replaced, if any."""
        return min(range(1, self._tops.size), key=self.log_p)

    def log_p(self, bits: int) -> float:
        """Return the chance that so few changes reach above those bits (rule 2)."""
        if bits <= self.zeros or len(self._blocks.get(bits, ())) < _BLOCKS:
            return 0.0
        above = int(self._tops[bits + 1 :].sum())
        coins = int(self._tops[bits]) + above
        share = above / max(coins, 1)
        if share >= 0.5:
            return 0.0
        known = sum(part * log(part) for part in (share, 1 - share) if part)
        return -coins * (log(2) + known)

    def _is_rounded(self) -> bool:
        """Tell whether words were rounded (rule 3), and not by chance end in zeros."""
        chance = log(_WIDEST) - self.zeros * self.changed * log(2)
        return chance <= log(CONCLUSIVE) and self._near >= _ROUNDED * self.changed

    def evidence(self, log_p: float) -> Evidence:
        """Return what speaks against the tensor."""
        change = self.change()
        return Evidence(
            test="reference",
            what=f"{change.changed:,} numbers differ from the reference,"
            f" {100 * change.share:.4g} % of them in their {change.bits} lowest bits"
            " only",
            tensor=self.name, start=change.start, end=change.end,
            statistic=float(change.changed), effect=change.share, bits=change.bits,
            p_value=probability(log_p),
        )  # fmt: skip

    def change(self) -> Change:
        """Return what became of the tensor."""
        bits = self.cut
        state = "values"
        if int(self._tops[0]) == self.size:
            state = "equal"
        elif self.log_p(bits) + log(_WIDEST) <= log(CONCLUSIVE):
            state = "replaced"
        elif self._is_rounded():
            state = "rounded"
        which = range(1, bits + 1 if state == "replaced" else self._tops.size)
        within = [self._places[top] for top in which if top in self._places]
        low = int(self._tops[1 : bits + 1].sum())
        return Change(
            name=self.name,
            reference=self._reference,
            state=state,
            size=self.size,
            changed=self.changed,
            bits=bits if state == "replaced" else 0,
            share=low / self.changed if state == "replaced" else 0.0,
            start=min((first for first, _ in within), default=0),
            end=max((last for _, last in within), default=0),
        )


def _alone(name: str, size: int, state: str) -> Change:
    """Return a tensor that was compared with nothing."""
    return Change(name=name, reference="", state=state, size=size)


def _comparable(dtype: str, other: Held) -> bool:
    """Tell whether words of a tensor can be compared with those of another."""
    return dtype == other.dtype or (dtype in FLOATS and other.dtype in FLOATS)


def _converted(other: Weights, dtype: str) -> NDArray[Any]:
    """Return the words of a reference in the dtype of what is compared (rule 5)."""
    if other.dtype == dtype:
        return other.bits
    with np.errstate(all="ignore"):
        values = values_of(other.bits, other.dtype)
        if dtype != "bfloat16":
            size = FLOATS[dtype].itemsize
            return values.astype(f"f{size}").view(f"u{size}")
        wide = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    nearest = wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1))
    return (nearest >> np.uint64(16)).astype(np.uint16)


def _bit_lengths(words: NDArray[Any]) -> NDArray[np.int64]:
    """Return the place of the highest bit of each word, from 1 on; 0 for 0."""
    if words.itemsize < 8:
        return np.frexp(words.astype(np.float64))[1].astype(np.int64)
    high = (words >> np.uint64(32)).astype(np.float64)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.float64)
    lengths = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1])
    return lengths.astype(np.int64)
