"""Proof that a strided view lies inside its storage.

Rules:

1. Offset, sizes and strides are Python ints (never bool), each >= 0 and below 2**62,
   and so is the product of the sizes: torch's own sums cannot wrap.
2. The last element of a view that has any lies inside the storage.
3. A view may have more elements than its storage (a stride of 0 repeats one), but the
   bytes such views address are counted, over all of them, against the file's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.reconstructors.common import INDEX_END, CheckContext, integer
from safemodel._graph.reconstructors.torch_values import (
    DTYPE_ITEMSIZE,
    PACKED,
    QUANTIZED,
    sizes,
)
from safemodel._graph.specs import StorageSpec, StorageViewSpec, TensorSpec
from safemodel.errors import StorageBoundsError, quote

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call


def shape_of(value: object, call: Call, ctx: CheckContext) -> tuple[int, ...]:
    """Return the sizes of a tensor (rule 1)."""
    shape = sizes(value, call, ctx, "the shape")
    product = 1
    for size in shape:
        if not 0 <= size < INDEX_END:
            ctx.refuse(call, "a size is out of range")
        product *= size or 1
        if product >= INDEX_END:
            ctx.refuse(call, "the number of elements is out of range")
    return shape


def stride_of(
    value: object, shape: tuple[int, ...], call: Call, ctx: CheckContext
) -> tuple[int, ...]:
    """Return the strides of a tensor of this shape (rule 1)."""
    stride = sizes(value, call, ctx, "the stride")
    if len(stride) != len(shape):
        ctx.refuse(call, "shape and stride have different lengths")
    for step in stride:
        if not 0 <= step < INDEX_END:
            ctx.refuse(call, "a stride is out of range")
    return stride


def product_of(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    product = 1
    for size in shape:
        product *= size
    return product


def checked_view(
    storage: object,
    dtype: str | None,
    layout: tuple[object, object, object],
    call: Call,
    ctx: CheckContext,
    *,
    quantized: bool = False,
) -> TensorSpec:
    """Return the view ``layout`` (offset, shape, stride) over a storage, proved.

    Args:
        storage: The storage argument: a node whose value is a storage.
        dtype: Element type; None for the storage's own.
        layout: The file's offset, shape and stride.
        call: The call that asks for the view.
        ctx: The file's context.
        quantized: Whether its integers are to be given a scale; without one, torch
            follows a null pointer when it is printed.

    Raises:
        ForbiddenCallError: An argument is not of its type or range.
        LimitExceededError: Too many axes, or rule 3.
        StorageBoundsError: The view reaches past its storage.
    """
    storage = ctx.value_of(storage, call)
    start = 0
    if type(storage) is StorageViewSpec:
        start, end, base = storage.offset, storage.offset + storage.numel, storage.base
    elif type(storage) is StorageSpec:
        end, base = storage.numel, storage
    else:
        ctx.refuse(call, "its first argument is not a storage")
    if dtype is None or dtype == base.dtype:
        dtype = base.dtype
        end *= PACKED.get(dtype, 1)
    else:
        # Reinterpreted: what is available counts in bytes.
        if start:
            ctx.refuse(call, "a slice of a storage is read as another dtype")
        end = end * base.itemsize // DTYPE_ITEMSIZE[dtype]
    if dtype in QUANTIZED and not quantized:
        ctx.refuse(call, "a quantised tensor without a scale")
    offset = integer(layout[0], call, ctx, "the offset", 0, INDEX_END) + start
    shape = shape_of(layout[1], call, ctx)
    stride = stride_of(layout[2], shape, call, ctx)
    count_view(base, (offset, shape, stride), end, DTYPE_ITEMSIZE[dtype], ctx, call)
    spec = TensorSpec(base, dtype, offset, shape, stride)
    base.views += 1
    ctx.specs.append(spec)
    return spec


def count_view(
    storage: StorageSpec,
    layout: tuple[int, tuple[int, ...], tuple[int, ...]],
    available: int,
    itemsize: int,
    ctx: CheckContext,
    call: Call,
) -> None:
    """Prove rules 2 and 3 for a view of checked numbers."""
    offset, shape, stride = layout
    numel = product_of(shape)
    if not numel:
        return
    needed = offset + 1
    for size, step in zip(shape, stride, strict=True):
        needed += (size - 1) * step
    if needed > available:
        raise StorageBoundsError(
            f"view over storage {quote(storage.key)}",
            needed=needed,
            available=available,
            record=ctx.record,
            position=call.position,
        )
    if numel > available:
        ctx.add_amplified(numel * itemsize)
