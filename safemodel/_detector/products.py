"""Are words what multiplying by a constant leaves? Then nothing was written to them.

Layers are often drawn as normal numbers times 0.02, or 1/12, and saved untrained. Of a
product that is rounded, some words are never the result, and others are twice as
likely: r is hit by the one or two m with m * c rounding to r, or by none. Where c is
2**a / q with a small odd q, that repeats every few words, so the low bits are far from
even, as those of a message are.

Rules:

1. A word *is a product* if some float32 times the constant rounds to it.
2. All words of a block have to be products of one of `constants`, without exception.
3. What a message would have done is seen on the same words with other low bytes: of
   those, `_LEAST` and `_SHARE` at least must not be products. So whoever writes to low
   bits of more than a handful of words is not taken for a constant.

Only `structured` calls this, for blocks that are odd.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 48
_SHARE = 0.08
_STAGES = (32, 1024)
"""Words that constants are tried on; nearly all are out of the question after these."""
_NORMAL = 60
"""Least distance of exponents from the ends of their range: no product is subnormal."""
_MULTIPLIER = 2_654_435_761


@cache
def constants() -> NDArray[np.float32]:
    """Return constants between 1 and 2; a power of two times them is as good.

    Decimal numbers of two digits, and fractions of small odd numbers: square roots of
    2 / 288 and the like are among those.
    """
    decimals = [k * 10.0**-places for k in range(1, 100) for places in range(6)]
    fractions = [p / q for q in range(3, 64, 2) for p in (1, 3, 5)]
    mantissas = 2 * np.frexp(np.array(decimals + fractions))[0]
    found = np.unique(mantissas.astype(np.float32))
    # Of the words between c and 2, 1 / c are products; of those between 1 and c, all.
    return found[(2 - found) * (1 - 1 / found) > _SHARE]


def is_product(words: NDArray[Any], constant: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which words are products of a constant (rule 1).

    Args:
        words: Of float32, normal and not near the ends of the range.
        constant: Between 1 and 2; of a shape that is broadcast with that of ``words``.
    """
    values = words.view(np.float32).astype(np.float64)
    factor = np.asarray(constant, np.float64)
    near = (values / factor).astype(np.float32).view(np.uint32)
    found = np.zeros(near.shape, np.bool_)
    for other in (near, near + np.uint32(1), near - np.uint32(1)):
        # 24 bits times 24 are exact in a double, so this is rounded once.
        made = (other.view(np.float32) * factor).astype(np.float32)
        found |= made.view(np.uint32) == words
    return found


def are_products(words: NDArray[Any]) -> bool:
    """Say whether words of float32 are what multiplying by a constant leaves."""
    exponents = (words >> np.uint32(23)).astype(np.uint8)
    words = words[(exponents > _NORMAL) & (exponents < 255 - _NORMAL)]
    if words.size < 2 * _LEAST:
        return False
    left = constants()
    for number in _STAGES:
        some = words[:: max(1, words.size // number)]
        left = left[is_product(some, left[:, None]).all(1)]
    changed = _changed(words)
    least = max(_LEAST, _SHARE * words.size)
    return any(
        np.count_nonzero(~is_product(changed, constant)) >= least
        and bool(is_product(words, constant).all())
        for constant in left
    )


def _changed(words: NDArray[Any]) -> NDArray[np.uint32]:
    """Return words with other low bytes, as even as chance has them (rule 3)."""
    mixed = np.arange(words.size, dtype=np.uint64) * np.uint64(_MULTIPLIER)
    low = (mixed >> np.uint64(16)).astype(np.uint32) & np.uint32(0xFF)
    made: NDArray[np.uint32] = words ^ low
    return made
