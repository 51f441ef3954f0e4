"""One number for what `spread_fit` finds in a file, and its p-value.

1. The tensors are those whose names contain "weight", where there are two of them and
   more; all matrices elsewhere. They must hold a chunk of the published program.
2. The score is linear in `features`, and was fitted to clean networks and networks with
   noise (`training/fit_spread.py`). It is above 0 for most that have some. Where noise
   gains nothing the score is low, whatever else there is.
3. There is no theory of what clean networks do, so the p-value is what they did: the
   largest scores of training runs and repositories fall off like an exponential
   distribution, which is continued beyond them. It is an estimate, and no bound.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np

from safemodel._detector.evidence import Evidence, Outcome
from safemodel._detector.spread_fit import HOPELESS, common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.spread_fit import Noise
    from safemodel._detector.spread_samples import Sampler

_CHUNK = 24_576
"""Weights without which the published program hides nothing."""
_WIDEST = 0.7
"""Core beyond which the score was not fitted."""
_WEIGHTS = np.array(
    [0.507, -0.237, 0.246, 0.606, -2.624, 2.786, -0.171, 0.359, 0.754, -0.04]
)
_OFFSET = 2.452
THRESHOLD = 2.2
"""No clean training file is above it (ADR 0030)."""
RATE = 0.003
"""Chance that a clean file is: of the tail of rule 3, at the threshold."""
_TAIL_FROM, _TAIL_PART, _TAIL_MEAN = 0.299, 0.05, 0.649
"""Where the tail begins, the part of clean groups that are in it, and how far they are
above, on average."""


def noise_of(sampler: Sampler) -> Noise | None:
    """Return the noise that explains the tensors of a file best (rule 1)."""
    named = [i for i, one in enumerate(sampler.sources) if "weight" in one.name]
    used = set(named if len(named) > 1 else range(len(sampler.sources)))
    if sum(sampler.sources[i].size for i in used) < _CHUNK:
        return None
    return common([part for part in sampler.parts if part.tensor in used])


def features(noise: Noise) -> NDArray[np.float64]:
    """Return what the score is linear in."""
    return np.array(
        [
            log(max(noise.gain, 2e-4)), log(noise.regret + 5e-4),
            max(noise.agreement, -1.0), log(noise.share), noise.against,
            noise.support, log(max(noise.worst, 0.0) + 1e-3),
            log(min(noise.core, _WIDEST)),
            noise.kept, log(noise.weights),
        ]
    )  # fmt: skip


def score(noise: Noise | None) -> float:
    """Return the score of a file; a low one where there is nothing to look at."""
    if noise is None or noise.gain < HOPELESS:
        return -10.0
    return float(features(noise) @ _WEIGHTS) + _OFFSET


def outcome(noise: Noise | None) -> Outcome:
    """Return the outcome of the test."""
    if noise is None:
        return Outcome("spread", "added-noise", "", 0.0)
    found = score(noise)
    log_p = min(0.0, log(_TAIL_PART) - (found - _TAIL_FROM) / _TAIL_MEAN)
    return Outcome(
        family="spread", test="added-noise", what=_what(noise),
        log_p=log_p if found > _TAIL_FROM else 0.0, statistic=found, effect=noise.gain,
    )  # fmt: skip


def evidence(noise: Noise) -> Evidence:
    """Return what there is to say of a file whose score is above the threshold."""
    return Evidence(
        test="added-noise", what=_what(noise), tensor="", start=0, end=0,
        statistic=score(noise), effect=noise.gain, bits=0, p_value=RATE,
    )  # fmt: skip


def _what(noise: Noise) -> str:
    return (
        f"normal noise of standard deviation {noise.scale:.2g}, the same in"
        f" {noise.support:.0%} of the weights whatever their scale"
    )
