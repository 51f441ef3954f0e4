"""Values, types and the pause of the collector: what all else stands on."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import typing

import pytest

from safemodel import _types
from safemodel._collector import collector_paused
from safemodel._value import Value


class Point(Value):
    """A value with one member that has to be given."""

    x: int
    y: int = 0
    tags: typing.Any = ()

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


def test_a_value_has_exactly_its_members():
    """By keyword, in the order of the class."""
    assert vars(Point(y=2, x=1)) == {"x": 1, "y": 2, "tags": ()}
    assert repr(Point(x=1)) == "Point(x=1, y=0, tags=())"
    for wrong in ({}, {"y": 1}, {"x": 1, "z": 2}):
        with pytest.raises(TypeError, match="missing or unknown"):
            Point(**wrong)
    with pytest.raises(ValueError, match="negative"):
        Point(x=-1)


def test_values_are_equal_by_their_members_and_kind():
    """And hash alike."""

    class Other(Value):
        """As `Point`, but another."""

        x: int
        y: int = 0
        tags: typing.Any = ()

    assert Point(x=1) == Point(y=0, x=1)
    assert hash(Point(x=1)) == hash(Point(x=1))
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Other(x=1)
    assert Point(x=1) != 1


def test_dataclasses_and_inspect_see_its_members():
    """With their defaults, where they have one."""

    class Listed(Value):
        """A value whose default cannot be hashed."""

        items: list[int] = []  # noqa: RUF012 - what is tested

    x, y, _ = dataclasses.fields(Point)
    assert (x.name, x.default) == ("x", dataclasses.MISSING)
    assert (y.name, y.default) == ("y", 0)
    assert str(inspect.signature(Point)).startswith("(*, x: ")
    (items,) = dataclasses.fields(Listed)
    assert items.default_factory() == []


def test_the_types_of_signatures_need_no_torch():
    """They are what a path may be, and what can be read."""
    assert set(typing.get_args(_types.StrPath)) == {str, os.PathLike[str]}
    assert set(typing.get_args(_types.FileLike)) > {str, os.PathLike[str]}
    assert "torch.device" in str(_types.MapLocation)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_left_as_it_was(was_on):
    """Also where the load fails; a caller who turned it off keeps it off."""
    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
        with pytest.raises(KeyError), collector_paused():
            raise KeyError
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
