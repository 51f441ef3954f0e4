"""Dense tensors and parameters: the rebuild functions of every version of torch.

Rules:

1. A view is proved by `views` before there is a spec.
2. Backward hooks, metadata and requires_grad are read by `tensor_arguments` only.
3. A state beside a tensor (attributes of a subclass) is dropped; a class other than
   Tensor, Parameter and Buffer is never made.
4. A dtype is reinterpreted only as torch itself does it, never as bool or quantised:
   a bool of value 2 is undefined behaviour.
"""

from __future__ import annotations

from typing import Any

from safemodel._graph.composite_specs import MappingSpec, OpaqueSpec
from safemodel._graph.reconstructors.common import (
    INDEX_END,
    CheckContext,
    Entry,
    Table,
    arguments,
    global_name,
    only_arguments,
    raw,
    ref_name,
    unedited,
)
from safemodel._graph.reconstructors.tensor_arguments import (
    dtype_of,
    element_type,
    gradient_flag,
    has_gradient,
    no_hooks,
    set_bits,
    tensor_of,
)
from safemodel._graph.reconstructors.torch_nested import (
    CALLS as NESTED_CALLS,
)
from safemodel._graph.reconstructors.torch_nested import (
    CLASS as NESTED_CLASS,
)
from safemodel._graph.reconstructors.torch_nested import (
    REBUILDS as NESTED_REBUILDS,
)
from safemodel._graph.reconstructors.torch_special import CALLS as SPECIAL_CALLS
from safemodel._graph.reconstructors.torch_values import (
    DIFFERENTIABLE,
    DTYPE_ITEMSIZE,
    QUANTIZED,
    TENSOR_DTYPES,
)
from safemodel._graph.reconstructors.views import checked_view
from safemodel._graph.specs import JaggedSpec, ParameterSpec, StorageSpec, TensorSpec
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef, PersistentRef

_TENSOR = "torch.Tensor"


def _is_ordinary(call: Call, ctx: CheckContext) -> bool:
    """Say whether a call has the arguments torch writes today, by their types."""
    args = call.args
    if len(args) != 6 or call.state is not UNCHECKED:
        return False
    ref, offset, shape, stride, requires_grad, hooks = args
    if type(ref) is not PersistentRef or type(hooks) is not Call:
        return False
    empty = hooks.value
    return (
        type(ref.value) is StorageSpec
        and type(empty) is MappingSpec
        and empty.kind == "OrderedDict"
        and not empty.pairs
        and type(shape) is tuple
        and type(stride) is tuple
        and len(shape) == len(stride) <= ctx.limits.max_dimensions
        and type(offset) is int
        and 0 <= offset < INDEX_END
        and requires_grad is False
        and not call.kwargs
        and call.pairs is None
        and call.elements is None
    )


# A short way for what torch writes today, because files call it tens of thousands of
# times; whatever it does not know goes the long way.
def check_tensor_v2(call: Call, ctx: CheckContext) -> object:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, bits]).

    Source: the strided-view definition of `torch.Tensor.as_strided`.
    """
    if not _is_ordinary(call, ctx):
        return _tensor_v2(call, ctx)
    args: tuple[Any, ...] = call.args  # their types were just compared
    ref, offset, shape, stride, _, _ = args
    storage = ref.value
    numel, needed = 1, offset + 1
    for size, step in zip(shape, stride):  # noqa: B905  # lengths are equal, and speed
        if (
            type(size) is not int
            or type(step) is not int
            or not 0 < size < INDEX_END
            or not 0 <= step < INDEX_END
        ):
            return _tensor_v2(call, ctx)
        numel *= size
        needed += (size - 1) * step
    available = storage.numel
    if needed > available or numel > available or storage.dtype in QUANTIZED:
        return _tensor_v2(call, ctx)
    spec = TensorSpec(storage, storage.dtype, offset, shape, stride)
    storage.views += 1
    ctx.specs.append(spec)
    return spec


def _tensor_v2(call: Call, ctx: CheckContext) -> object:
    """Check a dense tensor the long way."""
    args = only_arguments(call, ctx, 6, 7)
    spec = checked_view(args[0], None, (args[1], args[2], args[3]), call, ctx)
    spec.requires_grad = gradient_flag(args[4], spec.dtype, call, ctx)
    no_hooks(args[5], call, ctx)
    if len(args) == 7:
        set_bits(spec, args[6], call, ctx)
    return spec


def check_tensor(call: Call, ctx: CheckContext) -> object:
    """_rebuild_tensor(storage, offset, size, stride)."""
    args = only_arguments(call, ctx, 4)
    return checked_view(args[0], None, (args[1], args[2], args[3]), call, ctx)


def check_tensor_v3(call: Call, ctx: CheckContext) -> object:
    """_rebuild_tensor_v3: as v2, with a dtype of its own over untyped bytes."""
    args = only_arguments(call, ctx, 7, 8)
    dtype = dtype_of(args[6], call, ctx)
    if dtype == "bool" or dtype in QUANTIZED:
        # Rule 4.
        ctx.refuse(call, f"bytes are read as {dtype}")
    spec = checked_view(args[0], dtype, (args[1], args[2], args[3]), call, ctx)
    if spec.storage.big_endian:
        _swap_as(spec.storage, dtype, call, ctx)
    spec.requires_grad = gradient_flag(args[4], dtype, call, ctx)
    no_hooks(args[5], call, ctx)
    if len(args) == 8:
        set_bits(spec, args[7], call, ctx)
    return spec


def _swap_as(storage: StorageSpec, dtype: str, call: Call, ctx: CheckContext) -> None:
    """Note how wide the numbers in untyped big-endian bytes are: one width for all."""
    width = DTYPE_ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    if storage.typed or storage.swapped not in (0, width):
        ctx.refuse(call, "big-endian bytes are read as numbers of two widths")
    storage.swapped = width


def parameter(
    data: object,
    requires_grad: object,
    call: Call,
    ctx: CheckContext,
    kind: str = "Parameter",
) -> object:
    """Return a parameter around a tensor; one around a parameter shares its data."""
    spec = tensor_of(data, call, ctx)
    if type(spec) is ParameterSpec:
        spec = spec.data
    grad = gradient_flag(requires_grad, element_type(spec), call, ctx)
    made = ParameterSpec(spec, grad, "Buffer" if kind == "Buffer" else "Parameter")
    ctx.specs.append(made)
    return made


def check_parameter(call: Call, ctx: CheckContext) -> object:
    """_rebuild_parameter(data, requires_grad, hooks[, state]); rule 3."""
    args = only_arguments(call, ctx, 3, 4)
    no_hooks(args[2], call, ctx)
    if len(args) == 4:
        ctx.drop(_TENSOR, args[3])
    return parameter(args[0], args[1], call, ctx)


def check_parameter_class(call: Call, ctx: CheckContext) -> object:
    """torch.nn.Parameter(data[, requires_grad]) and its old states.

    Torch 0.1 to 0.3 wrote (requires_grad, volatile, hooks), and before that
    (data, gradient, hooks, requires_grad, volatile).
    """
    unedited(call, ctx)
    args = arguments(call, ctx, 0, 1, 2)
    data: object = args[0] if args else None
    requires_grad: object = args[1] if len(args) == 2 else None
    state = call.state
    if type(state) is tuple and len(state) == 5:
        data, _, hooks, requires_grad, _ = state
        no_hooks(hooks, call, ctx)
    elif type(state) is tuple and len(state) == 3:
        requires_grad, _, hooks = state
        no_hooks(hooks, call, ctx)
    elif state is not UNCHECKED:
        ctx.refuse(call, "its state is not that of a parameter")
    if requires_grad is None:
        spec = ctx.value_of(data, call)
        requires_grad = element_type(spec) in DIFFERENTIABLE
    name = global_name(call.target)
    return parameter(data, requires_grad, call, ctx, name[1] if name else "Parameter")


def check_tensor_class(call: Call, ctx: CheckContext) -> object:
    """torch.Tensor() or torch.FloatTensor(), then a state of (storage, ... stride)."""
    unedited(call, ctx)
    arguments(call, ctx, 0)
    name = global_name(call.target)
    dtype = TENSOR_DTYPES.get(name[1]) if name else None
    state = call.state
    if state is UNCHECKED:
        dtype = dtype or "float32"
        storage = StorageSpec("", dtype, DTYPE_ITEMSIZE[dtype], 0, None)
        spec = TensorSpec(storage, dtype, 0, (0,), (1,))
        ctx.specs.append(spec)
        return spec
    if type(state) is not tuple or len(state) != 4:
        ctx.refuse(call, "its state is not storage, offset, size and stride")
    spec = checked_view(state[0], None, (state[1], state[2], state[3]), call, ctx)
    if dtype is not None and dtype != spec.dtype:
        ctx.refuse(call, f"its storage holds {spec.dtype}")
    return spec


def check_from_type(call: Call, ctx: CheckContext) -> object:
    """_rebuild_from_type_v2(function, class, arguments, state); rule 3."""
    function, kind, args, state = only_arguments(call, ctx, 4)
    entry = REBUILDS.get(global_name(function) or ("", ""))
    if entry is None or type(function) is not GlobalRef:
        ctx.refuse(call, "its first argument does not rebuild a tensor")
    if type(args) is not tuple:
        ctx.refuse(call, "its arguments are not a tuple")
    name = global_name(kind)
    if name is None or type(kind) is not GlobalRef:
        ctx.refuse(call, "its class is not a class")
    inner = Call(function, args, call.opcode, call.position)
    made = entry.checker(inner, ctx)
    is_nested = name == NESTED_CLASS and type(made) is JaggedSpec
    if name == ("torch", "Tensor") or type(made) is OpaqueSpec or is_nested:
        ctx.drop(_TENSOR, state)
        return made
    if name[0] == "torch.nn.parameter":
        ctx.drop(_TENSOR, state)
        if type(made) is ParameterSpec and made.kind == name[1]:
            return made
        return parameter(made, has_gradient(made), call, ctx, name[1])
    subclass = Call(kind, (made,), call.opcode, call.position)
    subclass.state = state
    return ctx.opaque_or_refuse(subclass, ref_name(kind))


def check_wrapper(call: Call, ctx: CheckContext) -> object:
    """_rebuild_wrapper_subclass: its content lives in code we do not have."""
    args = only_arguments(call, ctx, 8)
    if type(args[0]) is not GlobalRef or global_name(args[0]) == ("torch", "Tensor"):
        ctx.refuse(call, "a wrapper around no data, which only its own code could fill")
    return ctx.opaque_or_refuse(call, ref_name(args[0]))


def check_nested_file(call: Call, ctx: CheckContext) -> object:
    """torch.storage._load_from_bytes(bytes): a storage as a file of its own."""
    (data,) = only_arguments(call, ctx, 1)
    content = raw(data, call, ctx, "its argument")
    # The same bytes read twice cost twice, and each of them may ask for an object.
    ctx.copy(content, _OBJECT_BYTES * len(content))
    return ctx.load_nested(bytes(content), call)


_UTILS = "torch._utils"
_OBJECT_BYTES = 100
_VIEW = "a view inside its storage, no hooks"

REBUILDS: Table = {
    (_UTILS, "_rebuild_tensor"): Entry(check_tensor, "tensor", _VIEW),
    (_UTILS, "_rebuild_tensor_v2"): Entry(check_tensor_v2, "tensor", _VIEW),
    (_UTILS, "_rebuild_tensor_v3"): Entry(
        check_tensor_v3, "tensor", _VIEW + ", no bool or quantised dtype"
    ),
    (_UTILS, "_rebuild_parameter"): Entry(
        check_parameter, "Parameter", "a tensor, no hooks"
    ),
    (_UTILS, "_rebuild_parameter_with_state"): Entry(
        check_parameter, "Parameter", "a tensor, no hooks; the state is dropped"
    ),
    **SPECIAL_CALLS,
    **NESTED_REBUILDS,
}
"""What `_rebuild_from_type_v2` may rebuild with: never itself, so nothing recurses."""

CALLS: Table = {
    **REBUILDS,
    **NESTED_CALLS,
    ("torch._tensor", "_rebuild_from_type_v2"): Entry(
        check_from_type,
        "tensor, Parameter or Buffer",
        "a rebuild function of this list; the state is dropped",
    ),
    (_UTILS, "_rebuild_wrapper_subclass"): Entry(
        check_wrapper, "refused, or opaque", "never built: it needs its own code"
    ),
    ("torch.nn.parameter", "Parameter"): Entry(
        check_parameter_class, "Parameter", "a tensor, the states of torch 0.1 to 0.3"
    ),
    ("torch.nn.parameter", "Buffer"): Entry(
        check_parameter_class, "Buffer", "a tensor"
    ),
    ("torch", "Tensor"): Entry(check_tensor_class, "tensor", _VIEW),
    **{
        ("torch", name): Entry(check_tensor_class, "tensor", _VIEW)
        for name in TENSOR_DTYPES
    },
    ("torch.storage", "_load_from_bytes"): Entry(
        check_nested_file, "storage", "the same checks, one nesting deeper"
    ),
}
