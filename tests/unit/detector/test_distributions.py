"""Tails of distributions against known values, and as bounds."""

from math import exp, isclose, log

import numpy as np
import pytest

from safemodel._detector import distributions


@pytest.mark.parametrize(
    ("z", "tail"), [(0.0, 0.5), (1.959964, 0.025), (5.0, 2.866516e-7)]
)
def test_normal_tails_are_those_of_the_tables(z, tail):
    """To six digits."""
    assert isclose(distributions.normal_log_tail(z), log(tail), rel_tol=1e-6)


def test_far_normal_tails_join_near_ones():
    """Where the series takes over, and beyond what a float holds."""
    near, far = (distributions.normal_log_tail(z) for z in (29.9999, 30.0001))
    assert near > far
    assert isclose(near, far, rel_tol=1e-4)
    assert isclose(distributions.normal_log_tail(100.0), -5005.524, rel_tol=1e-6)


@pytest.mark.parametrize("df", [1, 11, 247])
def test_chi_square_tails_are_never_too_small(df):
    """Counted over 200,000 draws with a fixed seed: the bound holds on both sides."""
    draws = np.random.default_rng(11).chisquare(df, 200_000)
    for share in (0.001, 0.01, 0.1):
        x = float(np.quantile(draws, 1 - share))
        bound = exp(distributions.chi_square_log_tail(x, df))
        assert share * 0.9 < bound < 40 * share
        low = float(np.quantile(draws, share))
        assert (
            share * 0.9 < exp(distributions.chi_square_log_lower(low, df)) < 40 * share
        )


def test_noncentral_tails_bound_draws():
    """A tolerated effect is not evidence, and more than it is."""
    draws = np.random.default_rng(12).noncentral_chisquare(50, 30, 200_000)
    x = float(np.quantile(draws, 0.999))
    assert 0.0009 < exp(distributions.chi_square_log_tail(x, 50, 30)) < 0.03
    assert distributions.chi_square_log_tail(79.0, 50, 30) == 0.0
