"""`Limits`: a value of positive numbers."""

from __future__ import annotations

import dataclasses

import pytest

from safemodel.limits import DEFAULT_LIMITS, Limits

NAMES = sorted(vars(DEFAULT_LIMITS))


@pytest.mark.parametrize("name", NAMES)
def test_each_bound_can_be_chosen(name):
    """And changes nothing else."""
    chosen = Limits(**{name: 7})
    assert vars(chosen) == vars(DEFAULT_LIMITS) | {name: 7}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_bound_is_positive(name, value):
    """A limit that nothing passes is a mistake of the caller's."""
    with pytest.raises(ValueError, match=rf"^{name} must be positive$"):
        Limits(**{name: value})


def test_a_limit_that_there_is_not_is_a_mistake():
    """So that a misspelt one does not go unnoticed."""
    with pytest.raises(TypeError, match="max_pickle_byte"):
        Limits(max_pickle_byte=1)


def test_limits_do_not_change():
    """Not by assignment, not by deletion."""
    limits = Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_depth = 10**9
    with pytest.raises(dataclasses.FrozenInstanceError):
        del limits.max_depth
    assert limits == DEFAULT_LIMITS
    assert hash(limits) == hash(DEFAULT_LIMITS)
    assert limits != Limits(max_depth=3)


def test_each_bound_is_explained():
    """In the class's own words."""
    for name in NAMES:
        assert f"        {name}: " in Limits.__doc__
