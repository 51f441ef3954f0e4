"""The tensor of a `TensorCall`, proved to lie inside its storage.

Files call this tens of thousands of times, for tensors of few forms, so what follows
from the form is decided once. What is out of the ordinary goes to the checker of
`_rebuild_tensor_v2`, which decides alike.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from safemodel._graph.allowlist import ALLOWED_CALLS
from safemodel._graph.reconstructors.torch_values import QUANTIZED
from safemodel._graph.specs import TensorSpec
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef

if TYPE_CHECKING:
    from safemodel._graph.reconstructors.common import CheckContext
    from safemodel._graph.specs import StorageSpec
    from safemodel._unpickle.nodes import TensorCall, TensorForm
    from safemodel.limits import Limits

_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_HOOKS = ("collections", "OrderedDict")


def check_tensor(call: TensorCall, storage: StorageSpec, ctx: CheckContext) -> object:
    """Return the tensor's spec; raises as the checker of `_rebuild_tensor_v2`.

    Source: the strided-view definition of `torch.Tensor.as_strided`.
    """
    form = call.form
    fits = form.value
    if fits is UNCHECKED:
        # Its storages are all alike: the first one decides for the rest.
        fits = form.value = _fits(form, storage, ctx.limits)
    if fits:
        spec = TensorSpec(storage, storage.dtype, form.offset, form.shape, form.stride)
        storage.views += 1
        ctx.specs.append(spec)
        return spec
    hooks = Call(GlobalRef(*_HOOKS, call.position), (), op.REDUCE, call.position)
    hooks.value = ALLOWED_CALLS[_HOOKS].checker(hooks, ctx)
    args = (
        storage, form.offset, form.shape, form.stride, form.requires_grad, hooks,
    )  # fmt: skip
    whole = Call(form.target, args, op.REDUCE, call.position)
    return ALLOWED_CALLS[_REBUILD].checker(whole, ctx)


def _fits(form: TensorForm, storage: StorageSpec, limits: Limits) -> bool:
    """Say whether tensors of a form are ordinary, and lie inside their storage."""
    offset, shape, stride = form.offset, form.shape, form.stride
    if (
        storage.dtype in QUANTIZED
        or len(shape) != len(stride)
        or len(shape) > limits.max_dimensions
        or form.requires_grad
        or min((offset, *stride)) < 0
        or min((1, *shape)) < 1
    ):
        return False
    spans = ((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return offset + sum(spans) < storage.numel >= prod(shape)
