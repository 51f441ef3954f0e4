"""Nested tensors: the strided layout, and the jagged one.

Rules:

1. Types, numbers of axes and lengths are checked here. Where parts begin and end is
   proved in `_build`, where the bytes are.
2. What a file says to have been computed from the offsets is not read: torch computes
   it again where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.composite_specs import SequenceSpec
from safemodel._graph.reconstructors.common import (
    CheckContext,
    Entry,
    Table,
    arguments,
    integer,
    only_arguments,
    unedited,
)
from safemodel._graph.reconstructors.tensor_arguments import gradient_flag
from safemodel._graph.reconstructors.torch_special import dense, examined
from safemodel._graph.specs import JaggedSpec, NestedSpec

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call

_INDEX = ("int64", "int32")
_JAGGED = {
    "values", "offsets", "lengths", "_ragged_idx", "_metadata_cache", "requires_grad",
}  # fmt: skip


def check_nested(call: Call, ctx: CheckContext) -> object:
    """_rebuild_nested_tensor(buffer, sizes, strides, offsets)."""
    args = only_arguments(call, ctx, 4)
    buffer = dense(args[0], call, ctx, "the buffer")
    sizes, strides, offsets = (
        examined(value, call, ctx, "sizes, strides or offsets") for value in args[1:]
    )
    if (
        len(buffer.shape) != 1
        or len(sizes.shape) != 2
        # torch looks at the first of no parts.
        or (sizes.shape[0] == 0 < sizes.shape[1])
        or strides.shape != sizes.shape
        or offsets.shape != sizes.shape[:1]
        or {sizes.dtype, strides.dtype, offsets.dtype} != {"int64"}
    ):
        ctx.refuse(call, "buffer, sizes, strides and offsets do not fit together")
    spec = NestedSpec(buffer, sizes, strides, offsets)
    ctx.specs.append(spec)
    return spec


def check_jagged(call: Call, ctx: CheckContext) -> object:
    """_rebuild_njt({"values": ..., "offsets": ..., ...}); rule 2."""
    (given,) = only_arguments(call, ctx, 1)
    if type(given) is not dict or not {"values", "offsets"} <= given.keys() <= _JAGGED:
        ctx.refuse(call, "its argument is not a dictionary of the parts it has")
    values = dense(given["values"], call, ctx, "its values")
    offsets = examined(given["offsets"], call, ctx, "its offsets")
    lengths = given.get("lengths")
    if lengths is not None:
        lengths = examined(lengths, call, ctx, "its lengths")
    axes = len(values.shape)
    axis = integer(given.get("_ragged_idx", 1), call, ctx, "the axis", 1, axes + 1)
    parts = offsets.shape[0] - 1 if len(offsets.shape) == 1 else -1
    if (
        parts < 0
        or offsets.dtype not in _INDEX
        or (lengths and (lengths.shape != (parts,) or lengths.dtype != offsets.dtype))
    ):
        ctx.refuse(call, "values, offsets and lengths do not fit together")
    grad = gradient_flag(given.get("requires_grad", False), values.dtype, call, ctx)
    spec = JaggedSpec(values, offsets, lengths, axis, grad)
    ctx.specs.append(spec)
    return spec


def check_dim_range(call: Call, ctx: CheckContext) -> object:
    """_DimRange(), then a state of [axis, least, most]: a note beside a tensor."""
    unedited(call, ctx)
    arguments(call, ctx, 0)
    state = call.state
    if type(state) is not list or not all(type(n) in (int, type(None)) for n in state):
        ctx.refuse(call, "its state is not a list of integers")
    ctx.copy(state, 8 * len(state))
    return SequenceSpec("tuple", tuple(state))


_NJT = "torch.nested._internal.nested_tensor"

REBUILDS: Table = {
    ("torch._utils", "_rebuild_nested_tensor"): Entry(
        check_nested,
        "nested tensor",
        "shapes that fit together; offsets are checked before torch sees them",
    ),
    (_NJT, "_rebuild_njt"): Entry(
        check_jagged,
        "nested tensor",
        "shapes that fit together; offsets are checked before torch sees them",
    ),
}
CALLS: Table = {
    ("torch._dynamo.decorators", "_DimRange"): Entry(
        check_dim_range, "tuple", "three integers or None"
    ),
}
CLASS = (_NJT, "NestedTensor")
