"""The short way for tensors decides as the long way does, case by case."""

from __future__ import annotations

import pytest

from safemodel._graph.reconstructors.common import CheckContext
from safemodel._graph.specs import StorageSpec, TensorSpec
from safemodel._graph.tensor_calls import check_tensor
from safemodel._unpickle.nodes import GlobalRef, TensorCall, TensorForm
from safemodel.errors import (
    ForbiddenCallError,
    LimitExceededError,
    StorageBoundsError,
)
from safemodel.limits import Limits

REBUILD = GlobalRef("torch._utils", "_rebuild_tensor_v2", 3)
FLOATS = GlobalRef("torch", "FloatStorage", 5)


def context(**limits: float) -> CheckContext:
    """Return the context of a file of no bytes."""
    return CheckContext(Limits(**limits), record="archive/data.pkl")


def checked(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
    ctx: CheckContext | None = None, requires_grad: bool = False,
    dtype: str = "float32", numel: int = 12,
) -> TensorSpec:  # fmt: skip
    """Return the spec of a view over a storage."""
    storage = StorageSpec("0", dtype, 4, numel, None)
    form = TensorForm(
        REBUILD, FLOATS, "cpu", numel, offset, shape, stride, requires_grad
    )
    call = TensorCall(form, "0", 117)
    ctx = ctx or context()
    spec = check_tensor(call, storage, ctx)
    assert ctx.specs == [spec]
    assert storage.views == 1
    assert spec.storage is storage
    return spec


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (3, 4), (4, 1)), (0, (), ()), (11, (1,), (1,)), (1, (11,), (1,)),
        (0, (2, 2), (8, 3)), (0, (0,), (1,)), (5, (3, 0), (4, 1)), (99, (0,), (1,)),
        (0, (4,), (0,)), (0, (1, 12), (0, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_view_inside_its_storage_is_a_tensor(offset, shape, stride, requires_grad):
    """The ordinary ones, empty ones and repeated ones, with gradient or without."""
    spec = checked(offset, shape, stride, requires_grad=requires_grad)
    assert (spec.dtype, spec.offset) == ("float32", offset)
    assert (spec.shape, spec.stride) == (shape, stride)
    assert spec.requires_grad is requires_grad


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "needed"),
    [(0, (13,), (1,), 13), (12, (), (), 13), (1, (12,), (1,), 13),
     (0, (2, 2), (9, 3), 13), (0, (2,), (1 << 61,), (1 << 61) + 1)],
)  # fmt: skip
def test_a_view_past_its_storage_is_refused(offset, shape, stride, needed):
    """One element too many."""
    with pytest.raises(StorageBoundsError) as caught:
        checked(offset, shape, stride)
    error = caught.value
    assert (error.needed, error.available) == (needed, 12)
    assert (error.record, error.position) == ("archive/data.pkl", 117)


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "reason"),
    [
        (-1, (1,), (1,), "the offset is out of range"),
        (0, (-1,), (1,), "a size is out of range"),
        (0, (1,), (-1,), "a stride is out of range"),
        (0, (1, 1), (1,), "shape and stride have different lengths"),
        (0, (1 << 31, 1 << 31), (0, 0), "the number of elements is out of range"),
    ],
)
def test_numbers_out_of_range_are_refused(offset, shape, stride, reason):
    """By the long way, under the name of the function."""
    with pytest.raises(ForbiddenCallError) as caught:
        checked(offset, shape, stride)
    error = caught.value
    assert (error.name, error.reason) == ("torch._utils._rebuild_tensor_v2", reason)
    assert error.position == 117


def test_repeated_elements_are_counted():
    """12 elements are there; what is beyond them counts in full."""
    spec = checked(0, (12,), (0,), context(min_amplified_bytes=1))
    assert spec.shape == (12,)
    spec = checked(0, (13,), (0,), context(min_amplified_bytes=52))
    assert spec.shape == (13,)
    with pytest.raises(LimitExceededError) as caught:
        checked(0, (13,), (0,), context(min_amplified_bytes=51))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == (
        "max_amplification",
        51,
        52,
    )


def test_axes_are_counted():
    """On both sides of the limit."""
    assert checked(0, (1, 1), (1, 1), context(max_dimensions=2)).shape == (1, 1)
    with pytest.raises(LimitExceededError) as caught:
        checked(0, (1, 1, 1), (1, 1, 1), context(max_dimensions=2))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_dimensions", 2, 3)


def test_integers_cannot_require_a_gradient():
    """As in the long way, because it is the long way."""
    with pytest.raises(ForbiddenCallError) as caught:
        checked(0, (3,), (1,), requires_grad=True, dtype="int32")
    assert caught.value.reason == "a int32 tensor cannot require a gradient"
