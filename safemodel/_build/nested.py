"""Nested tensors, every part of which is proved to lie in what it is a part of.

1. Strided: every element of every part lies in the buffer, before torch sees it.
2. Jagged: every part begins and ends within the axis along which parts are joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from safemodel._build.parts import built_tensor, plain, require, torch_may_refuse
from safemodel.errors import StorageBoundsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._graph.specs import JaggedSpec, NestedSpec

_ROWS = 4096


def build_nested(spec: NestedSpec) -> None:
    """Build a strided nested tensor over its buffer.

    Raises:
        ForbiddenCallError: The parts do not make a nested tensor.
        StorageBoundsError: A part reaches outside the buffer (rule 1).
    """
    parts = (spec.buffer, spec.sizes, spec.strides, spec.offsets)
    with torch_may_refuse("nested tensor"):
        buffer, *numbers = (plain(built_tensor(part)) for part in parts)
        sizes, strides, offsets = (part.cpu() for part in numbers)
    require(
        "nested tensor",
        holds=all(t.dtype is torch.int64 for t in (sizes, strides, offsets))
        and sizes.dim() == 2
        and sizes.shape == strides.shape
        and offsets.shape == sizes.shape[:1]
        and buffer.dim() == 1
        and buffer.is_contiguous(),
        otherwise="sizes, strides and offsets do not fit together",
    )
    # A few at a time: as Python's integers they take many times the memory.
    for start in range(0, len(sizes), _ROWS):
        some = slice(start, start + _ROWS)
        _prove_rows(sizes[some], strides[some], offsets[some], buffer.numel())
    with torch_may_refuse("nested tensor"):
        spec.built = torch._nested_view_from_buffer(buffer, sizes, strides, offsets)


def _prove_rows(
    sizes: torch.Tensor, strides: torch.Tensor, offsets: torch.Tensor, available: int
) -> None:
    """Prove rule 1 for some parts."""
    rows = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
    for shape, stride, offset in rows:
        require(
            "nested tensor",
            holds=min((*shape, *stride, offset)) >= 0,
            otherwise="a size, stride or offset is negative",
        )
        reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        needed = 0 if 0 in shape else offset + reach + 1
        if needed > available:
            raise StorageBoundsError(
                "nested tensor", needed=needed, available=available
            )


def build_jagged(spec: JaggedSpec) -> None:
    """Build a jagged nested tensor over its values.

    Raises:
        ForbiddenCallError: A part is of a negative length.
        StorageBoundsError: A part reaches outside the values (rule 2).
    """
    values, offsets = built_tensor(spec.values), plain(built_tensor(spec.offsets))
    lengths = None if spec.lengths is None else plain(built_tensor(spec.lengths))
    together = [values, offsets] if lengths is None else [values, offsets, lengths]
    require(
        "nested tensor",
        holds=len({part.device for part in together}) == 1,
        otherwise="its parts are on several devices",
    )
    if not offsets.is_meta:
        _prove_parts(offsets, lengths, values.shape[spec.axis - 1])
    # `torch.nested.nested_tensor_from_jagged`, without what that one logs.
    from torch.nested._internal import nested_tensor

    view: Callable[..., torch.Tensor] = (
        nested_tensor.nested_view_from_values_offsets_lengths
    )
    # `values` may require a gradient; what is loaded has no history.
    with torch_may_refuse("nested tensor"):
        made = view(values.detach(), offsets, lengths, ragged_idx=spec.axis)
    spec.built = made.requires_grad_() if spec.requires_grad else made


def _prove_parts(
    offsets: torch.Tensor, lengths: torch.Tensor | None, available: int
) -> None:
    """Prove rule 2."""
    starts = offsets[:-1].cpu()
    ends = offsets[1:].cpu() if lengths is None else starts + lengths.cpu()
    if not len(starts):
        return
    require(
        "nested tensor",
        holds=bool((starts >= 0).all()) and bool((ends >= starts).all()),
        otherwise="an offset or a length is negative",
    )
    needed = int(ends.max())
    if needed > available:
        raise StorageBoundsError("nested tensor", needed=needed, available=available)
