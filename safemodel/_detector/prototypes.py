"""The trained judge: how near a file's traits are to those of clean and other files.

Rules:

1. Traits are embedded by a linear map without negative weights: more evidence is never
   less. *Prototypes* are means of embedded traits: one of clean files, and one of each
   class of files that hold something. The *logit* of a file says how much nearer it is
   to any of those than to the clean one.
2. The threshold of the logit is set for each kind of weights by clean files of it that
   the embedding had not seen. A file of several kinds has the highest of theirs.
3. p-values that hold for clean files are never outvoted: one below `rates[0]` is
   enough. So are bits that are far too even (`evenness.enough`), whose rate is a part
   of that, and the score of added noise (`spread_score`), which has its own rate. All
   rates, with that of rule 4, add up to the rate of the file.
4. An adapted judge has two prototypes more, of somebody's own files: what counts is
   how far a file is on the way from the one to the other. The rest stays as it is.
5. All that a judge knows is in a few arrays. They are checked before they are used, so
   a hostile file of them can be wrong, but no larger or slower than an honest one.
"""

from __future__ import annotations

from hashlib import sha256
from math import exp, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safemodel._detector import evenness, spread_score
from safemodel._detector.evidence import Evidence
from safemodel._detector.judging import Judgement
from safemodel._detector.traits import (
    KINDS,
    NAMES,
    SPREAD,
    by_kind,
    is_conclusive,
    kinds_in,
    of_tensor,
    replaced,
    traits_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.evidence import Outcome
    from safemodel._detector.statistics import Statistics

CLASSES = (
    "uneven bytes",
    "uniform bits of wide floats",
    "uniform bits of short floats",
    "uniform bits of integers",
    "a broken rounding",
    "added noise",
)
"""What files of the other prototypes hold."""
DIMENSIONS = 8
LARGEST = 1e6
FORM = sha256("\n".join(NAMES).encode()).digest()
"""Which traits there are, and in what order."""
LEAST_APART = 6.0
"""Nats between somebody's own clean and other files that it takes to learn."""


MODELLED = ("too-uniform", "common-noise")
"""Tests whose p-values are shown once the prototypes have found a file suspicious."""


class Arrays(NamedTuple):
    """What a judge knows.

    Attributes:
        embedding: (DIMENSIONS, traits), not negative.
        clean: (DIMENSIONS,); the prototype of clean files.
        other: (classes, DIMENSIONS); those of files that hold something.
        thresholds: (kinds,) logits (rule 2).
        rates: (3,) chances of a false alarm: of p-values, of the prototypes here, and
            of those of somebody's own (rules 3 and 4).
        way: (1,); how far on the way from own clean files to others is too far.
        own: (2, DIMENSIONS); both prototypes of somebody's own files; zeros: none.
    """

    embedding: NDArray[np.float64]
    clean: NDArray[np.float64]
    other: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    rates: NDArray[np.float64]
    way: NDArray[np.float64]
    own: NDArray[np.float64]


SHAPES = {
    "embedding": (DIMENSIONS, len(NAMES)),
    "clean": (DIMENSIONS,),
    "other": (len(CLASSES), DIMENSIONS),
    "thresholds": (len(KINDS),),
    "rates": (3,),
    "way": (1,),
    "own": (2, DIMENSIONS),
}


class Prototypes:
    """Judges by traits and p-values.

    Args:
        arrays: What it knows.

    Raises:
        ValueError: They are not what they should be (rule 5).
    """

    threshold = 0.5

    def __init__(self, arrays: Arrays) -> None:
        _check(arrays)
        self.arrays = arrays
        made = sha256(FORM)
        for array in arrays:
            made.update(np.ascontiguousarray(array, "<f8").tobytes())
        self.id = f"prototypes-{made.hexdigest()[:16]}"

    @property
    def adapted(self) -> bool:
        """Whether it knows files of somebody's own."""
        return bool(self.arrays.own.any())

    @property
    def false_positive_rate(self) -> float:
        """Chance to call a clean file suspicious, of all ways together (rule 3)."""
        some = self.arrays.rates[: 3 if self.adapted else 2]
        return float(some.sum()) + spread_score.RATE

    def embedded(self, statistics: Statistics) -> NDArray[np.float64]:
        """Return a file as a point."""
        return self.arrays.embedding @ traits_of(statistics)

    def judge(self, statistics: Statistics) -> Judgement:
        """Return what is to be said of a file."""
        by_prototypes, fired = self._by_prototypes(statistics)
        ledger, rate = statistics.ledger, float(self.arrays.rates[0])
        sure = [one for one in ledger.kept if is_conclusive(one)]
        even, noise = evenness.enough(statistics), statistics.noise
        margins = [
            by_prototypes,
            log(rate) - min((ledger.log_p(one) for one in sure), default=0.0),
            *(log(evenness.RATE) - ledger.log_p(one) for one in even),
            spread_score.score(noise) - spread_score.THRESHOLD,
        ]
        found = [ledger.evidence_of(one) for one in sure
                 if ledger.log_p(one) <= log(rate)]  # fmt: skip
        if fired is not None:
            modelled = ledger.evidence(self.false_positive_rate)
            found += [fired, *(one for one in modelled if one.test in MODELLED)]
        else:
            found += [ledger.evidence_of(one) for one in even]
        if noise is not None and margins[-1] >= 0:
            found.append(spread_score.evidence(noise))
        return Judgement(
            score=_score(max(margins)),
            threshold=self.threshold,
            false_positive_rate=self.false_positive_rate,
            evidence=tuple(sorted(found, key=lambda one: one.p_value)),
            tensors=self._tensors(statistics, [*sure, *even], fired is not None),
        )

    def _by_prototypes(self, statistics: Statistics) -> tuple[float, Evidence | None]:
        """Return how far beyond a threshold a file is; what there is to say of it."""
        point = self.embedded(statistics)
        logit, nearest = self.logit(point)
        limit = self.limit(kinds_in(statistics))
        margin, what = logit - limit, CLASSES[nearest]
        rate = float(self.arrays.rates[1])
        if self.adapted:
            own = self._own(point)
            if own > margin:
                margin, rate, what = own, float(self.arrays.rates[2]), ""
        if margin < 0:
            return margin, None
        best = max((replaced(found, SPREAD[kind])
                    for (kind, _), found in by_kind(statistics).items()),
                   default=(0.0, 0))  # fmt: skip
        return margin, Evidence(
            test="prototypes", tensor="", start=0, end=0, statistic=logit,
            what=f"as a whole, more like files with {what} than like clean ones"
            if what
            else "as a whole, more like your files that hold something than clean ones",
            effect=margin, bits=best[1] if best[0] > 0 else 0, p_value=rate,
        )  # fmt: skip

    def logit(self, point: NDArray[np.float64]) -> tuple[float, int]:
        """Return rule 1 for a point, and which other prototype is nearest."""
        away = ((self.arrays.other - point) ** 2).sum(1)
        nearest = int(away.argmin())
        sums = float(np.exp(np.minimum(away[nearest] - away, 0.0)).sum())
        clean = float(((self.arrays.clean - point) ** 2).sum())
        return float(clean - away[nearest] + log(sums)), nearest

    def limit(self, kinds: tuple[str, ...]) -> float:
        """Return the threshold of the logit for a file of such kinds (rule 2)."""
        every = dict(zip(KINDS, self.arrays.thresholds.tolist(), strict=True))
        return float(max(every[kind] for kind in kinds or ("wide",)))

    def _own(self, point: NDArray[np.float64]) -> float:
        """Return how far a point is beyond what rule 4 allows, in nats."""
        clean, other = self.arrays.own
        return way_of(point, clean, other, float(self.arrays.way[0]))

    def _tensors(
        self, statistics: Statistics, sure: list[Outcome], fired: bool
    ) -> dict[str, float]:
        """Return scores of tensors: the same ways as of the file."""
        ledger, found = statistics.ledger, dict[str, float]()
        limit = log(float(self.arrays.rates[0]))
        for one in sure:
            log_p = ledger.log_p(one)
            if one.tensor and log_p < 0:
                found[one.tensor] = max(
                    _score(limit - log_p), found.get(one.tensor, 0.0)
                )
        for tensor in statistics.tensors if fired else ():
            value = of_tensor(tensor) if tensor.uniformity else 0.0
            if value > 0:
                score = _score(value - LEAST_APART)
                found[tensor.name] = max(score, found.get(tensor.name, 0.0))
        return found


def way_of(
    point: NDArray[np.float64],
    clean: NDArray[np.float64],
    other: NDArray[np.float64],
    limit: float,
) -> float:
    """Return how far a point is beyond a part of the way between two, in nats."""
    step = other - clean
    length = float(step @ step)
    return 2 * (float((point - clean) @ step) - limit * length)


def adapted(
    judge: Prototypes, benign: list[Statistics], stego: list[Statistics]
) -> Prototypes:
    """Return a judge that knows files of somebody's own (rule 4).

    Raises:
        ValueError: There are none of one sort, or they cannot be told apart.
    """
    if not benign or not stego:
        raise ValueError("files of both sorts are needed, three of each if possible")
    own = np.stack(
        [np.mean([judge.embedded(one) for one in some], 0) for some in (benign, stego)]
    )
    apart = float(((own[1] - own[0]) ** 2).sum())
    if apart < LEAST_APART or way_of(own[1], own[0], own[1], 0.0) <= 0:
        raise ValueError(
            "the stego files look like the benign ones to every test: there is nothing"
            " to learn from them"
        )
    return Prototypes(judge.arrays._replace(own=own))


def _score(margin: float) -> float:
    """Return a margin over the threshold as a score."""
    return 1 / (1 + exp(-margin)) if margin > -500 else 0.0


def _check(arrays: Arrays) -> None:
    """Check rule 5."""
    for name, shape in SHAPES.items():
        array = getattr(arrays, name)
        if array.shape != shape or array.dtype != np.float64:
            raise ValueError(f"{name} is not of shape {shape} and of float64")
        if not (np.isfinite(array).all() and (np.abs(array) <= LARGEST).all()):
            raise ValueError(f"{name} has numbers that are not finite, or too large")
    if (arrays.embedding < 0).any():
        raise ValueError("embedding has negative weights")
    if (arrays.rates <= 0).any() or (arrays.rates > 0.1).any():
        raise ValueError("rates are not between 0 and 0.1")
    if arrays.thresholds.min() < -LARGEST or not 0 < float(arrays.way[0]) <= 100:
        raise ValueError("way is not above 0")
