"""Tails of distributions, as natural logarithms: p-values far below what a float holds.

Upper chi-square tails are Chernoff's bound: a p-value is never smaller than it should
be.
"""

from __future__ import annotations

from math import erfc, exp, lgamma, log, sqrt

_FAR = 30.0
_TERMS = 500


def normal_log_tail(z: float) -> float:
    """Return log P(Z >= z) of a standard normal Z.

    >>> round(normal_log_tail(0.0), 6), round(normal_log_tail(40.0), 1)
    (-0.693147, -804.6)
    """
    if z < _FAR:
        return log(erfc(z / sqrt(2)) / 2)
    # The first terms of the asymptotic series; erfc itself is 0 from 38 on.
    return -z * z / 2 - log(z * sqrt(2 * 3.141592653589793)) - 1 / (z * z)


def chi_square_log_tail(x: float, df: float, noncentral: float = 0.0) -> float:
    """Return a bound on log P(X >= x) of a chi-square X, which may be noncentral.

    >>> chi_square_log_tail(10.0, 10.0), round(chi_square_log_tail(100.0, 10.0), 1)
    (0.0, -33.5)
    """
    if df <= 0 or x <= df + noncentral:
        return 0.0
    # Chernoff: the least over t of E exp(t X) exp(-t x), with u = 1 - 2 t.
    u = (df + sqrt(df * df + 4 * noncentral * x)) / (2 * x)
    return -(1 - u) * x / 2 + noncentral * (1 - u) / (2 * u) - df / 2 * log(u)


def chi_square_log_lower(x: float, df: float) -> float:
    """Return log P(X <= x) of a chi-square X, for x below its mean; above it, 0.

    >>> chi_square_log_lower(10.0, 10.0), round(chi_square_log_lower(1.0, 10.0), 2)
    (0.0, -8.67)
    """
    if df <= 0 or x >= df:
        return 0.0
    half, shape = max(x, 1e-12) / 2, df / 2
    # The series of the incomplete gamma function; its terms fall from the start.
    total = term = 1.0
    for at in range(1, _TERMS):
        term *= half / (shape + at)
        total += term
    return shape * log(half) - half - lgamma(shape + 1) + log(total)


def probability(log_p: float) -> float:
    """Return a probability from its logarithm; at most 1."""
    return exp(min(log_p, 0.0))
