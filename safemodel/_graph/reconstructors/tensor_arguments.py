"""Arguments that rebuild functions of tensors share.

Rules:

1. Backward hooks are None or an empty OrderedDict: torch would call what they hold.
2. Only the conjugate and negative bits are metadata, and both are bools.
3. Only floating and complex dtypes require a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.composite_specs import MappingSpec
from safemodel._graph.reconstructors.common import CheckContext, flag
from safemodel._graph.reconstructors.torch_values import DIFFERENTIABLE
from safemodel._graph.specs import (
    JaggedSpec,
    MetaTensorSpec,
    NestedSpec,
    ParameterSpec,
    QuantizedSpec,
    SparseSpec,
    Spec,
    TensorSpec,
    TorchValueSpec,
)

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call

TENSORS = (
    TensorSpec, ParameterSpec, MetaTensorSpec, SparseSpec, QuantizedSpec, NestedSpec,
    JaggedSpec,
)  # fmt: skip
"""Specs that become a torch tensor."""


def element_type(spec: object) -> str:
    """Return the dtype of a tensor spec, "" where it has none of its own."""
    if type(spec) is TensorSpec or type(spec) is MetaTensorSpec:
        return spec.dtype
    if type(spec) is SparseSpec:
        return element_type(spec.parts[-1])
    if type(spec) is NestedSpec:
        return element_type(spec.buffer)
    if type(spec) is JaggedSpec:
        return element_type(spec.values)
    # A parameter of a parameter is refused when it is made, so this ends.
    return element_type(spec.data) if type(spec) is ParameterSpec else ""


def gradient_flag(value: object, dtype: str, call: Call, ctx: CheckContext) -> bool:
    """Return requires_grad, which only some dtypes can have (rule 3)."""
    if flag(value, call, ctx, "requires_grad") and dtype not in DIFFERENTIABLE:
        ctx.refuse(call, f"a {dtype or 'quantised'} tensor cannot require a gradient")
    return value is True


def no_hooks(value: object, call: Call, ctx: CheckContext) -> None:
    """Refuse backward hooks (rule 1)."""
    hooks = ctx.value_of(value, call)
    if hooks is None:
        return
    if type(hooks) is not MappingSpec or hooks.kind != "OrderedDict" or hooks.pairs:
        ctx.refuse(call, "backward hooks are not an empty OrderedDict")


def set_bits(spec: TensorSpec, metadata: object, call: Call, ctx: CheckContext) -> None:
    """Set the conjugate and negative bits the file gives (rule 2)."""
    if metadata is None:
        return
    if type(metadata) is not dict or not metadata.keys() <= {"conj", "neg"}:
        ctx.refuse(call, "metadata other than conj and neg")
    spec.conj = flag(metadata.get("conj", False), call, ctx, "conj")
    spec.neg = flag(metadata.get("neg", False), call, ctx, "neg")
    if spec.conj and not spec.dtype.startswith("complex"):
        ctx.refuse(call, f"a {spec.dtype} tensor has no conjugate")


def dtype_of(value: object, call: Call, ctx: CheckContext) -> str:
    """Return the name of a `torch.dtype`."""
    spec = ctx.value_of(value, call)
    if type(spec) is not TorchValueSpec or spec.kind != "dtype":
        ctx.refuse(call, "the dtype is not a torch.dtype")
    return str(spec.value)


def tensor_of(value: object, call: Call, ctx: CheckContext) -> Spec:
    """Return the tensor spec an argument stands for."""
    spec = ctx.value_of(value, call)
    if type(spec) not in TENSORS:
        ctx.refuse(call, "its argument is not a tensor")
    return spec  # type: ignore[return-value]  # one of TENSORS


def has_gradient(spec: object) -> bool:
    """Return requires_grad of a tensor spec that has one."""
    if type(spec) in (
        TensorSpec, ParameterSpec, MetaTensorSpec, SparseSpec, JaggedSpec,
    ):  # fmt: skip
        return bool(spec.requires_grad)  # type: ignore[attr-defined]  # each has it
    return False
