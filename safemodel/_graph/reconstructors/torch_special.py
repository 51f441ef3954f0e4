"""Tensors that are not a plain strided view: sparse, quantised, meta.

Rules:

1. Types, numbers of axes and lengths are checked here, as far as they follow from
   shapes. The *values* of indices are proved in `_build`, where the bytes are.
2. Quantised elements are a view like any other, and scales and zero points are as
   many as the axis is long.
3. The device a file names is ignored: where a tensor lives is the caller's decision.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec
from safemodel._graph.reconstructors.common import (
    INDEX_END,
    CheckContext,
    Entry,
    Table,
    flag,
    integer,
    only_arguments,
)
from safemodel._graph.reconstructors.tensor_arguments import (
    dtype_of,
    element_type,
    gradient_flag,
    has_gradient,
    no_hooks,
)
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE, QUANTIZED
from safemodel._graph.reconstructors.views import (
    checked_view,
    product_of,
    shape_of,
    stride_of,
)
from safemodel._graph.specs import (
    MetaTensorSpec,
    ParameterSpec,
    QuantizedSpec,
    SparseSpec,
    Spec,
    StorageSpec,
    TensorSpec,
    TorchValueSpec,
)
from safemodel.errors import quote

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call

NUMPY_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "c16": "complex128",
    "c8": "complex64", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool",
}  # fmt: skip
"""Torch's dtypes by NumPy's descriptors without the byte order."""


_INDEX = ("int64", "int32")
_INT32_END = 1 << 31
# Scales become float64 and zero points int64, whatever they were.
_COPIES = 4


def dense(value: object, call: Call, ctx: CheckContext, what: str) -> TensorSpec:
    """Return the strided tensor that is part of another one."""
    spec = ctx.value_of(value, call)
    if type(spec) is ParameterSpec:
        spec = spec.data
    if type(spec) is not TensorSpec:
        ctx.refuse(call, f"{what} is not a strided tensor")
    return spec


def examined(value: object, call: Call, ctx: CheckContext, what: str) -> TensorSpec:
    """Return a dense tensor whose numbers are looked at, or copied, one by one.

    So it shows no more than its storage holds, and the file pays for the first look
    at that; any further one, by a call that a memo repeats, counts.
    """
    spec = dense(value, call, ctx, what)
    nbytes = product_of(spec.shape) * DTYPE_ITEMSIZE[spec.dtype]
    if nbytes > spec.storage.numel * spec.storage.itemsize:
        ctx.refuse(call, f"{what} are expanded")
    ctx.copy(spec.storage, _COPIES * nbytes)
    return spec


def check_sparse(call: Call, ctx: CheckContext) -> object:
    """_rebuild_sparse_tensor(layout, (indices ..., values, size[, coalesced]))."""
    kind, data = only_arguments(call, ctx, 2)
    layout = ctx.value_of(kind, call)
    if type(layout) is not TorchValueSpec or layout.kind != "layout":
        ctx.refuse(call, "its first argument is not a torch.layout")
    if type(data) is not tuple or len(data) not in (3, 4):
        ctx.refuse(call, "its data is not a tuple of 3 or 4")
    name = str(layout.value)
    if name == "sparse_coo":
        spec = _coordinates(data, call, ctx)
    elif name.startswith("sparse_") and len(data) == 4:
        spec = _compressed(name, data, call, ctx)
    else:
        ctx.refuse(call, f"{quote(name)} with {len(data)} parts")
    # Torch saves those of a compressed tensor with the flag, and goes by them.
    spec.requires_grad = has_gradient(spec.parts[-1])
    ctx.specs.append(spec)
    return spec


def _coordinates(data: tuple[object, ...], call: Call, ctx: CheckContext) -> SparseSpec:
    """Check (indices, values, size[, coalesced])."""
    indices = examined(data[0], call, ctx, "the indices")
    values = dense(data[1], call, ctx, "the values")
    shape = shape_of(data[2], call, ctx)
    coalesced = None
    if len(data) == 4 and data[3] is not None:
        coalesced = flag(data[3], call, ctx, "is_coalesced")
    if indices.dtype != "int64" or len(indices.shape) != 2 or not values.shape:
        ctx.refuse(call, "its indices are not a matrix of int64")
    axes, count = indices.shape
    if (
        values.shape[0] != count
        or axes + len(values.shape) - 1 != len(shape)
        or values.shape[1:] != shape[axes:]
    ):
        ctx.refuse(call, "indices, values and size do not fit together")
    return SparseSpec("sparse_coo", (indices, values), shape, coalesced)


def _compressed(
    layout: str, data: tuple[object, ...], call: Call, ctx: CheckContext
) -> SparseSpec:
    """Check (compressed indices, plain indices, values, size)."""
    compressed = examined(data[0], call, ctx, "the compressed indices")
    plain = examined(data[1], call, ctx, "the plain indices")
    values = dense(data[2], call, ctx, "the values")
    shape = shape_of(data[3], call, ctx)
    if compressed.dtype not in _INDEX or plain.dtype != compressed.dtype:
        ctx.refuse(call, "its indices are not of one integer dtype")
    batch = len(compressed.shape) - 1
    blocks = 2 if layout in ("sparse_bsr", "sparse_bsc") else 0
    if (
        batch < 0
        # torch divides by the number of matrices, so there has to be one.
        or 0 in compressed.shape[:batch]
        or len(plain.shape) != batch + 1
        or len(shape) < batch + 2
        or len(values.shape) != len(shape) - 1 + blocks
        or values.shape[: batch + 1] != plain.shape
        or compressed.shape[:batch] != plain.shape[:batch]
        or shape[:batch] != plain.shape[:batch]
    ):
        ctx.refuse(call, "indices, values and size do not fit together")
    axis = batch + (layout in ("sparse_csc", "sparse_bsc"))
    block = values.shape[batch + 1 + axis - batch] if blocks else 1
    if not block or compressed.shape[-1] != shape[axis] // block + 1:
        ctx.refuse(call, "the compressed indices have the wrong length")
    return SparseSpec(layout, (compressed, plain, values), shape)


def check_quantized(call: Call, ctx: CheckContext) -> object:
    """_rebuild_qtensor(storage, offset, size, stride, parameters, grad, hooks)."""
    args = only_arguments(call, ctx, 7)
    layout = (args[1], args[2], args[3])
    view = checked_view(args[0], None, layout, call, ctx, quantized=True)
    if view.dtype not in QUANTIZED:
        ctx.refuse(call, f"{view.dtype} is not a quantised dtype")
    gradient_flag(args[5], "", call, ctx)
    no_hooks(args[6], call, ctx)
    settings = args[4]
    if type(settings) is not tuple or not settings:
        ctx.refuse(call, "its quantizer is not a tuple")
    scheme = ctx.value_of(settings[0], call)
    if type(scheme) is not TorchValueSpec or scheme.kind != "qscheme":
        ctx.refuse(call, "its scheme is not a torch.qscheme")
    name = str(scheme.value)
    ctx.specs.pop()
    if name == "per_tensor_affine" and len(settings) == 3:
        scale = settings[1]
        if type(scale) is not float:
            ctx.refuse(call, "the scale is not a float")
        zero = integer(
            settings[2], call, ctx, "the zero point", -_INT32_END, _INT32_END
        )
        spec = QuantizedSpec(view, name, scale, zero)
    elif name.startswith("per_channel_affine") and len(settings) == 4:
        spec = _per_channel(view, name, settings, call, ctx)
    else:
        ctx.refuse(call, f"{name} with {len(settings) - 1} parameters")
    ctx.specs.append(spec)
    return spec


def _per_channel(
    view: TensorSpec,
    scheme: str,
    settings: tuple[object, ...],
    call: Call,
    ctx: CheckContext,
) -> QuantizedSpec:
    """Check (scheme, scales, zero points, axis); rule 2."""
    axis = integer(settings[3], call, ctx, "the axis", 0, len(view.shape))
    length = view.shape[axis]
    scales = _channel_values(settings[1], length, call, ctx)
    zeros = _channel_values(settings[2], length, call, ctx)
    floating = element_type(zeros).startswith("float")
    if type(zeros) is ArraySpec:
        floating = scheme.endswith("_float_qparams")
    if floating and view.dtype == "qint32":
        # torch has no code for it, and ends the process where that would be.
        ctx.refuse(call, "32-bit integers with zero points that are none")
    return QuantizedSpec(view, scheme, scales, zeros, axis)


def _channel_values(value: object, length: int, call: Call, ctx: CheckContext) -> Spec:
    """Return one number a channel: a tensor, or a list of old versions as an array."""
    if type(value) is list:
        ctx.copy(value, 8 * len(value))
        kinds = set(map(type, value))
        if len(value) != length or not kinds <= {int, float}:
            ctx.refuse(call, "not one number a channel")
        whole = kinds <= {int}
        try:
            data = struct.pack(f"<{length}{'q' if whole else 'd'}", *value)
        except (struct.error, OverflowError):
            ctx.refuse(call, "a number is out of range")
        return ArraySpec(
            NumpyDTypeSpec("<i8" if whole else "<f8", 8), (length,), False, data
        )
    spec = examined(value, call, ctx, "scales or zero points")
    if spec.shape != (length,):
        ctx.refuse(call, "not one number a channel")
    if spec.dtype not in ("float64", "float32", "int64", "int32"):
        ctx.refuse(call, f"{spec.dtype} numbers for channels")
    return spec


def check_meta_tensor(call: Call, ctx: CheckContext) -> object:
    """_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)."""
    args = only_arguments(call, ctx, 4)
    dtype = dtype_of(args[0], call, ctx)
    if dtype in QUANTIZED:
        ctx.refuse(call, "a quantised tensor on the meta device")
    shape = shape_of(args[1], call, ctx)
    stride = stride_of(args[2], shape, call, ctx)
    extent = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if extent >= INDEX_END // DTYPE_ITEMSIZE[dtype] // 2:
        ctx.refuse(call, "its extent is out of range")
    if product_of(shape) >= INDEX_END // DTYPE_ITEMSIZE[dtype]:
        ctx.refuse(call, "the number of bytes is out of range")
    grad = gradient_flag(args[3], dtype, call, ctx)
    spec = MetaTensorSpec(dtype, shape, stride, grad)
    ctx.specs.append(spec)
    return spec


def check_from_cpu(call: Call, ctx: CheckContext) -> object:
    """_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)."""
    data, kind, _, requires_grad = only_arguments(call, ctx, 4)
    spec = ctx.value_of(data, call)
    dtype = dtype_of(kind, call, ctx)
    if type(spec) is not TensorSpec or spec.dtype != dtype:
        ctx.refuse(call, f"its argument is not a {dtype} tensor")
    made = TensorSpec(spec.storage, dtype, spec.offset, spec.shape, spec.stride)
    made.requires_grad = gradient_flag(requires_grad, dtype, call, ctx)
    made.conj, made.neg = spec.conj, spec.neg
    spec.storage.views += 1
    ctx.specs.append(made)
    return made


def check_from_numpy(call: Call, ctx: CheckContext) -> object:
    """_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)."""
    data, kind, _, requires_grad = only_arguments(call, ctx, 4)
    array = ctx.value_of(data, call)
    dtype = dtype_of(kind, call, ctx)
    if type(array) is not ArraySpec or type(array.data) not in (bytes, bytearray):
        ctx.refuse(call, "its first argument is not an array")
    if NUMPY_DTYPES.get(array.dtype.descr[1:]) != dtype:
        ctx.refuse(call, f"an array of {quote(array.dtype.descr)} becomes {dtype}")
    content = bytes(array.data)  # type: ignore[arg-type]  # bytes or bytearray
    ctx.copy(array.data, len(content))
    stride, step = [], 1
    axes = array.shape if array.fortran else array.shape[::-1]
    for size in axes:
        stride.append(step)
        step *= size
    itemsize = array.dtype.itemsize
    storage = StorageSpec(
        f"array@{call.position}",
        dtype,
        itemsize,
        len(content) // itemsize,
        ctx.memory_record(content) if content else None,
        big_endian=array.dtype.descr[0] == ">",
    )
    strides = tuple(stride if array.fortran else stride[::-1])
    spec = TensorSpec(storage, dtype, 0, array.shape, strides)
    spec.requires_grad = gradient_flag(requires_grad, dtype, call, ctx)
    ctx.storages[storage.key] = storage
    storage.views += 1
    ctx.specs.append(spec)
    return spec


_UTILS = "torch._utils"

CALLS: Table = {
    (_UTILS, "_rebuild_sparse_tensor"): Entry(
        check_sparse,
        "sparse tensor (COO, CSR, CSC, BSR, BSC)",
        "shapes that fit together; every index is checked before torch sees it",
    ),
    (_UTILS, "_rebuild_qtensor"): Entry(
        check_quantized,
        "quantised tensor",
        "a view inside its storage; one scale and zero point a channel",
    ),
    (_UTILS, "_rebuild_meta_tensor_no_storage"): Entry(
        check_meta_tensor, "tensor on the meta device", "sizes below 2**62"
    ),
    (_UTILS, "_rebuild_device_tensor_from_cpu_tensor"): Entry(
        check_from_cpu, "tensor", "a tensor of the same dtype"
    ),
    (_UTILS, "_rebuild_device_tensor_from_numpy"): Entry(
        check_from_numpy, "tensor", "an array of the same dtype"
    ),
}
