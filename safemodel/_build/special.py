"""Quantised tensors, and small torch values.

Scales are finite and positive, one for each channel of an axis there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safemodel._build.dtypes import quietly, torch_dtype
from safemodel._build.parts import (
    LAYOUTS,
    built_tensor,
    plain,
    require,
    torch_may_refuse,
)
from safemodel._graph.specs import (
    UNBUILT,
    QuantizedSpec,
    Spec,
    TorchValueSpec,
)
from safemodel.errors import ForbiddenCallError, quote

if TYPE_CHECKING:
    from safemodel._build.storages import Storages

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
    "layout": LAYOUTS,
    "qscheme": _QSCHEMES,
    "memory_format": _MEMORY_FORMATS,
}


def build_quantized(spec: QuantizedSpec, storages: Storages) -> None:
    """Build a quantised tensor over its storage.

    Raises:
        ForbiddenCallError: Scales or axis are not possible.
    """
    view = spec.view
    untyped = storages.untyped(view.storage)
    with quietly(), torch.no_grad(), torch_may_refuse("quantised tensor"):
        if spec.scheme == "per_tensor_affine":
            empty = _empty_per_tensor(spec, untyped.device)
        else:
            empty = _empty_per_channel(spec, untyped.device)
        tensor = empty.set_(untyped, view.offset, view.shape, view.stride)
    spec.built = tensor


def _empty_per_tensor(spec: QuantizedSpec, device: torch.device) -> torch.Tensor:
    scale, zero_point = spec.scale, spec.zero_point
    require(
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
    require(
        "quantised tensor",
        holds=0 <= axis < len(shape)
        and scales.dim() == zeros.dim() == 1
        and len(scales) == len(zeros) == shape[axis]
        and scales.device == zeros.device == device
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
    return plain(built_tensor(spec))


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
