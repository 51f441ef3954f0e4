"""dtypes as `.npy` headers spell them: the grammar, and what numpy makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from safemodel._build.arrays import numpy_dtype
from safemodel._graph.reconstructors.numpy_descr import dtype_from_descr
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import DEFAULT_LIMITS, Limits


def parse(descr: object, **limits: int):
    """Return the spec of a descriptor."""
    return dtype_from_descr(descr, Limits(**limits) if limits else DEFAULT_LIMITS)


def malformed(descr: object) -> str:
    """Return why a descriptor is none."""
    with pytest.raises(MalformedFileError) as caught:
        parse(descr)
    assert type(caught.value) is MalformedFileError
    return caught.value.reason


@pytest.mark.parametrize(
    "descr",
    [
        "|b1", "<i2", ">i8", "|u1", "<f2", "<f8", "<c8", ">c16", "=i4",
        "|S7", "<U3", ">U2", "|V5", "<M8[ns]", "<m8[25us]", "<M8", ">M8[D]",
        [("a", "<f4"), ("b", ">i2", (2, 3)), ("c", "<f8", 4)],
        [("a", "|u1"), ("", "|V3"), ("b", "<u4")],
        [("outer", [("inner", "<f4", (2,))]), (("title", "name"), "<i8")],
    ],
    ids=str,
)  # fmt: skip
def test_a_descriptor_is_the_dtype_that_numpy_reads(descr):
    """Byte for byte, padding and titles left out."""
    spec = parse(descr)
    theirs = np.lib.format.descr_to_dtype(descr)

    assert spec.itemsize == theirs.itemsize
    assert not spec.has_objects
    ours = numpy_dtype(spec)
    assert ours.itemsize == theirs.itemsize
    if theirs.names is None:
        assert ours == theirs
    else:
        assert ours.names == theirs.names
        for name in theirs.names:
            assert ours.fields[name][:2] == theirs.fields[name][:2]


@pytest.mark.parametrize("descr", ["|O", "<O8", [("a", "<f4"), ("b", [("c", "|O")])],
                                   [("a", "|O", (2,))]], ids=str)  # fmt: skip
def test_objects_are_seen_however_deep(descr):
    """Their bytes are a pickle, not pointers."""
    assert parse(descr).has_objects


@pytest.mark.parametrize(
    "descr",
    [
        "", "f4", "<", "<f3", "<x4", "@f4", "f", "|S", "<S-1", "<S 1", "<f4 ", "<F4",
        "<S٣", "<f4,<f4", "M8[s]", "<M8[]", "<M8[0s]", "<M8[00s]", "<M8[YM]",
        "<M8[٣s]", "<M8[1000000000s]", "<M8[s", "<M8s]", "<M8[Zs]", "<f8[s]",
        None, 4, (), ("<f4", (2,)), b"<f4",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_descriptor_is_malformed(descr):
    """Only what numpy itself writes; a time has a unit that there is."""
    reason = malformed(descr)
    assert reason.startswith(("not a dtype: ", "not a unit of time: "))


@pytest.mark.parametrize(
    ("descr", "reason"),
    [
        ([("a",)], "not a field: "),
        ([("a", "<f4", 1, 2)], "not a field: "),
        ([["a", "<f4"]], "not a field: "),
        ([(1, "<f4")], "not the name of a field: "),
        ([(("t", 2), "<f4")], "not the name of a field: "),
        ([(("t", "a", "b"), "<f4")], "not the name of a field: "),
        ([("a", "<f4"), ("a", "<f4")], "two fields are named a"),
        ([("", "<f4"), ("", "<f4")], "two fields are named "),
        ([("a", "<f4", "2")], "not a shape: "),
        ([("a", "<f4", (2, -1))], "not a shape: "),
        ([("a", "<f4", (True,))], "not a shape: "),
    ],
    ids=str,
)
def test_fields_have_a_name_a_dtype_and_perhaps_a_shape(descr, reason):
    """Rule 2: padding alone may repeat its empty name."""
    assert malformed(descr).startswith(reason)
    assert parse([("", "|V1"), ("", "|V2"), ("a", "|u1")]).itemsize == 4


HALF = 1 << 30


@pytest.mark.parametrize(
    ("fits", "too_large"),
    [
        (f"|S{2 * HALF - 1}", f"|S{2 * HALF}"),
        (f"<U{HALF // 2 - 1}", f"<U{HALF // 2}"),
        ([("a", f"|V{HALF}"), ("b", f"|V{HALF - 1}")],
         [("a", f"|V{HALF}"), ("b", f"|V{HALF}")]),
        ([("a", f"|V{HALF - 1}", 2)], [("a", f"|V{HALF}", 2)]),
        ([("a", "|V0", (2**70,))], [("a", "|V1", (2**70, 0))]),
    ],
    ids=["S", "U", "fields", "sub-array", "numbers"],
)  # fmt: skip
def test_a_dtype_is_below_two_gibibytes(fits, too_large):
    """As numpy's own sizes are; the last byte that fits is accepted."""
    assert parse(fits).itemsize < 2 * HALF
    assert malformed(too_large).startswith("a dtype of ")


def test_a_sub_array_has_as_many_axes_as_an_array():
    """`max_dimensions`, on both sides."""
    assert parse([("a", "<f4", (1, 1))], max_dimensions=2).itemsize == 4
    with pytest.raises(LimitExceededError) as caught:
        parse([("a", "<f4", (1, 1, 1))], max_dimensions=2)
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_dimensions", 2, 3)
