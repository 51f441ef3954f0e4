"""Sparse, quantised and nested tensors, and small torch values.

torch trusts the *values* of index tensors: `to_dense` of a sparse tensor with an
index outside its size writes outside its memory. So every index is proved first.

1. COO: 0 <= index < size. Coalesced: columns strictly increase, lexicographically.
2. Compressed: starts at 0, never decreases, ends at the number of values; plain
   indices lie in range and strictly increase within a row.
3. Nested: every element of every part lies in the buffer.
4. Quantised: scales are finite and positive, one for each channel of an axis there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from safemodel._build.dtypes import quietly, torch_dtype
from safemodel._graph.specs import (
    UNBUILT,
    NestedSpec,
    QuantizedSpec,
    SparseSpec,
    Spec,
    TorchValueSpec,
)
from safemodel.errors import ForbiddenCallError, StorageBoundsError, quote

if TYPE_CHECKING:
    from safemodel._build.storages import Storages

Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_COMPRESSED = {
    # layout: (rows are compressed, values are blocks)
    "sparse_csr": (True, False),
    "sparse_csc": (False, False),
    "sparse_bsr": (True, True),
    "sparse_bsc": (False, True),
}
_LAYOUTS = {
    "strided": torch.strided,
    "sparse_coo": torch.sparse_coo,
    "sparse_csr": torch.sparse_csr,
    "sparse_csc": torch.sparse_csc,
    "sparse_bsr": torch.sparse_bsr,
    "sparse_bsc": torch.sparse_bsc,
    "_mkldnn": torch._mkldnn,  # type: ignore[attr-defined]
    "jagged": torch.jagged,
}
_QSCHEMES = {
    "per_tensor_affine": torch.per_tensor_affine,
    "per_channel_affine": torch.per_channel_affine,
    "per_tensor_symmetric": torch.per_tensor_symmetric,
    "per_channel_symmetric": torch.per_channel_symmetric,
    "per_channel_affine_float_qparams": torch.per_channel_affine_float_qparams,
}
_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve_format": torch.preserve_format,
}
_TABLES: dict[str, dict[str, Any]] = {
    "layout": _LAYOUTS,
    "qscheme": _QSCHEMES,
    "memory_format": _MEMORY_FORMATS,
}


def _tensor(spec: Spec) -> torch.Tensor:
    """Return the tensor a part was built to."""
    built = spec.built
    if built is UNBUILT or not isinstance(built, torch.Tensor):
        raise TypeError(f"{type(spec).__name__} is no built tensor")
    return built


def _require(name: str, *, holds: bool, otherwise: str) -> None:
    """Refuse arguments that would make torch read or write outside its memory."""
    if not holds:
        raise ForbiddenCallError(name, otherwise)


def _indices(tensor: torch.Tensor, axes: int, name: str) -> Indices:
    """Return index values; refuses what is no integer tensor of so many axes."""
    _require(
        name,
        holds=tensor.dtype in (torch.int32, torch.int64)
        and tensor.dim() == axes
        and tensor.layout is torch.strided,
        otherwise="indices are not an integer tensor of the right rank",
    )
    return tensor.detach().cpu().numpy()


def build_sparse(spec: SparseSpec) -> None:
    """Build a sparse tensor whose indices are proved.

    Raises:
        ForbiddenCallError: The parts do not make a sparse tensor (rules 1 and 2).
        StorageBoundsError: An index lies outside its size.
    """
    parts = [_tensor(part).detach() for part in spec.parts]
    proved = all(part.device.type != "meta" for part in parts)
    try:
        if spec.layout == "sparse_coo":
            tensor = _coo(spec, *parts, proved=proved)
        else:
            tensor = _compressed(spec, *parts, proved=proved)
    except RuntimeError as error:  # torch found what the proof did not look at
        raise ForbiddenCallError(spec.layout, quote(error)) from error
    if spec.requires_grad and (tensor.is_floating_point() or tensor.is_complex()):
        tensor.requires_grad_()
    spec.built = tensor


def _coo(
    spec: SparseSpec, indices: torch.Tensor, values: torch.Tensor, *, proved: bool
) -> torch.Tensor:
    axes = indices.shape[0] if indices.dim() == 2 else -1
    _require(
        spec.layout,
        holds=0 <= axes <= len(spec.shape)
        and values.dim() >= 1
        and values.shape[0] == indices.shape[1]
        and tuple(values.shape[1:]) == spec.shape[axes:],
        otherwise="indices, values and size do not fit together",
    )
    if proved:
        _prove_coo(spec, _indices(indices, 2, spec.layout), spec.shape[:axes])
    return torch.sparse_coo_tensor(
        indices,
        values,
        spec.shape,
        check_invariants=False,  # proved above
        is_coalesced=spec.coalesced,
    )


def _prove_coo(spec: SparseSpec, index: Indices, shape: tuple[int, ...]) -> None:
    """Prove rule 1."""
    if index.shape[1]:
        for row, length in zip(index, shape, strict=True):
            low, high = int(row.min()), int(row.max())
            if low < 0 or high >= length:
                raise StorageBoundsError(
                    "sparse index", needed=min(low, high + 1) if low < 0 else high + 1,
                    available=length,
                )  # fmt: skip
        if spec.coalesced and index.shape[1] > 1:
            step = np.diff(index, axis=1)
            # The first axis that changes decides; none changing is a duplicate.
            first = (step != 0).argmax(axis=0) if len(step) else None
            grows = first is not None and bool(
                (np.take_along_axis(step, first[None], axis=0) > 0).all()
            )
            _require(spec.layout, holds=grows, otherwise="is not coalesced as it says")


def _compressed(
    spec: SparseSpec,
    compressed: torch.Tensor,
    plain: torch.Tensor,
    values: torch.Tensor,
    *,
    proved: bool,
) -> torch.Tensor:
    by_row, blocked = _COMPRESSED[spec.layout]
    batch = compressed.dim() - 1
    axes = len(spec.shape)
    _require(
        spec.layout,
        holds=0 <= batch <= axes - 2
        and plain.dim() == batch + 1
        and compressed.dtype == plain.dtype
        and values.dim() == axes - 1 + 2 * blocked
        and compressed.shape[:-1] == plain.shape[:-1] == values.shape[:batch]
        and tuple(plain.shape[:-1]) == spec.shape[:batch]
        and values.shape[batch] == plain.shape[-1]
        and tuple(values.shape[batch + 1 + 2 * blocked :]) == spec.shape[batch + 2 :],
        otherwise="indices, values and size do not fit together",
    )
    block = tuple(values.shape[batch + 1 : batch + 3]) if blocked else (1, 1)
    matrix = spec.shape[batch : batch + 2]
    _require(
        spec.layout,
        holds=min(block) > 0 and not matrix[0] % block[0] and not matrix[1] % block[1],
        otherwise="blocks do not divide the size",
    )
    counts = (matrix[0] // block[0], matrix[1] // block[1])
    rows, columns = counts if by_row else counts[::-1]
    if proved:
        starts = _indices(compressed, batch + 1, spec.layout)
        index = _indices(plain, batch + 1, spec.layout)
        _require(
            spec.layout,
            holds=starts.shape[-1] == rows + 1,
            otherwise="compressed indices do not fit the size",
        )
        starts = starts.reshape(math.prod(starts.shape[:-1]), rows + 1)
        index = index.reshape(len(starts), index.shape[-1])
        for start, plain_index in zip(starts, index, strict=True):
            _prove_compressed(spec, start, plain_index, columns)
    return torch.sparse_compressed_tensor(
        compressed,
        plain,
        values,
        spec.shape,
        layout=_LAYOUTS[spec.layout],
        check_invariants=proved,
    )


def _prove_compressed(
    spec: SparseSpec, starts: Indices, index: Indices, columns: int
) -> None:
    """Prove rule 2 for one matrix of a batch."""
    rises = starts[1:] >= starts[:-1]
    _require(
        spec.layout,
        holds=int(starts[0]) == 0
        and int(starts[-1]) == len(index)
        and bool(rises.all()),
        otherwise="compressed indices do not partition the values",
    )
    if not len(index):
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= columns:
        raise StorageBoundsError(
            "sparse index", needed=low if low < 0 else high + 1, available=columns
        )
    first = np.zeros(len(index) + 1, dtype=bool)
    first[starts] = True  # a new row may start anywhere
    grows = (index[1:] > index[:-1]) | first[1 : len(index)]
    _require(
        spec.layout, holds=bool(grows.all()), otherwise="indices of a row do not rise"
    )


def build_quantized(spec: QuantizedSpec, storages: Storages) -> None:
    """Build a quantised tensor over its storage.

    Raises:
        ForbiddenCallError: Scales or axis are not possible (rule 4).
    """
    view = spec.view
    untyped = storages.untyped(view.storage)
    with quietly(), torch.no_grad():
        if spec.scheme == "per_tensor_affine":
            empty = _empty_per_tensor(spec, untyped.device)
        else:
            empty = _empty_per_channel(spec, untyped.device)
        tensor = empty.set_(untyped, view.offset, view.shape, view.stride)
    spec.built = tensor


def _empty_per_tensor(spec: QuantizedSpec, device: torch.device) -> torch.Tensor:
    scale, zero_point = spec.scale, spec.zero_point
    _require(
        "quantised tensor",
        holds=type(scale) is float
        and type(zero_point) is int
        and math.isfinite(scale)
        and scale > 0
        and -(1 << 31) <= zero_point < 1 << 31,
        otherwise="scale or zero point out of range",
    )
    return torch._empty_affine_quantized(  # torch has no other
        (0,), scale=scale, zero_point=zero_point,  # type: ignore[arg-type]  # checked
        dtype=torch_dtype(spec.view.dtype), device=device,
    )  # fmt: skip


def _empty_per_channel(spec: QuantizedSpec, device: torch.device) -> torch.Tensor:
    shape, axis = spec.view.shape, spec.axis
    scales = _channel_numbers(spec.scale, spec.scheme, torch.float64)
    zeros = _channel_numbers(spec.zero_point, spec.scheme, torch.int64)
    if axis is None:
        raise ForbiddenCallError("quantised tensor", "channels need an axis")
    _require(
        "quantised tensor",
        holds=0 <= axis < len(shape)
        and scales.dim() == zeros.dim() == 1
        and len(scales) == len(zeros) == shape[axis]
        and scales.dtype in (torch.float32, torch.float64)
        and zeros.dtype in (torch.float32, torch.int32, torch.int64)
        and (scales.is_meta or bool(((scales > 0) & scales.isfinite()).all())),
        otherwise="scales or axis out of range",
    )
    # Only the axis counts here; the memory comes with the storage.
    small = tuple(n if i == axis else 0 for i, n in enumerate(shape))
    return torch._empty_per_channel_affine_quantized(
        small, scales=scales, zero_points=zeros, axis=axis,
        dtype=torch_dtype(spec.view.dtype), device=device,
    )  # fmt: skip


def _channel_numbers(
    spec: float | Spec, scheme: str, dtype: torch.dtype
) -> torch.Tensor:
    """Return one number a channel; a list of an old file has the scheme's dtype."""
    if not isinstance(spec, Spec):
        raise ForbiddenCallError("quantised tensor", "channels need tensors")
    if isinstance(spec.built, np.ndarray):
        exact = torch.from_numpy(spec.built)
        return exact.to(torch.float32 if scheme.endswith("_float_qparams") else dtype)
    return _tensor(spec)


def build_nested(spec: NestedSpec) -> None:
    """Build a strided nested tensor over its buffer.

    Raises:
        ForbiddenCallError: The parts do not make a nested tensor.
        StorageBoundsError: A part reaches outside the buffer (rule 3).
    """
    buffer = _tensor(spec.buffer)
    sizes, strides = _tensor(spec.sizes).cpu(), _tensor(spec.strides).cpu()
    offsets = _tensor(spec.offsets).cpu()
    _require(
        "nested tensor",
        holds=all(t.dtype is torch.int64 for t in (sizes, strides, offsets))
        and sizes.dim() == 2
        and sizes.shape == strides.shape
        and offsets.shape == sizes.shape[:1]
        and buffer.dim() == 1
        and buffer.is_contiguous(),
        otherwise="sizes, strides and offsets do not fit together",
    )
    available = buffer.numel()
    rows = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
    for shape, stride, offset in rows:
        _require(
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
    spec.built = torch._nested_view_from_buffer(buffer, sizes, strides, offsets)


def build_torch_value(spec: TorchValueSpec) -> None:
    """Build a dtype, device, layout, size, qscheme or memory format.

    Raises:
        ForbiddenCallError: torch has no such value.
        UnsupportedFormatError: This version of torch has no such dtype.
    """
    value: Any = spec.value
    if spec.kind == "dtype":
        spec.built = torch_dtype(value)
    elif spec.kind == "size":
        spec.built = torch.Size(value)
    elif spec.kind == "device":
        kind, index = value
        try:
            spec.built = torch.device(kind) if index is None else torch.device(*value)
        except RuntimeError as error:
            raise ForbiddenCallError("torch.device", quote(kind)) from error
    else:
        spec.built = _TABLES[spec.kind].get(value, UNBUILT)
        if spec.built is UNBUILT:
            raise ForbiddenCallError(f"torch.{spec.kind}", f"no {quote(value)}")
