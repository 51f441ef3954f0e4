"""The tensor of a `TensorCall`, proved to lie inside its storage.

One function without helpers, because files call it tens of thousands of times; what
is out of the ordinary goes to the checker of `_rebuild_tensor_v2`, which decides alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.allowlist import ALLOWED_CALLS
from safemodel._graph.specs import TensorSpec
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.nodes import Call, GlobalRef

if TYPE_CHECKING:
    from safemodel._graph.reconstructors.common import CheckContext
    from safemodel._graph.specs import StorageSpec
    from safemodel._unpickle.nodes import TensorCall

_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_HOOKS = ("collections", "OrderedDict")


def check_tensor(call: TensorCall, storage: StorageSpec, ctx: CheckContext) -> object:
    """Return the tensor's spec; raises as the checker of `_rebuild_tensor_v2`.

    Source: the strided-view definition of `torch.Tensor.as_strided`.
    """
    offset, shape, stride = call.offset, call.shape, call.stride
    if len(shape) == len(stride) <= ctx.limits.max_dimensions and offset >= 0:
        numel, needed = 1, offset + 1
        for size, step in zip(shape, stride):  # noqa: B905 - equal lengths, and speed
            if size <= 0 or step < 0:
                break
            numel *= size
            needed += (size - 1) * step
        else:
            available = storage.numel
            if needed <= available >= numel and not call.requires_grad:
                spec = TensorSpec(storage, storage.dtype, offset, shape, stride)
                storage.views += 1
                ctx.specs.append(spec)
                return spec
    hooks = Call(GlobalRef(*_HOOKS, call.position), (), op.REDUCE, call.position)
    hooks.value = ALLOWED_CALLS[_HOOKS].checker(hooks, ctx)
    args = (storage, offset, shape, stride, call.requires_grad, hooks)
    whole = Call(call.target, args, op.REDUCE, call.position)
    return ALLOWED_CALLS[_REBUILD].checker(whole, ctx)
