"""Tensor specs → tensors.

1. A tensor is `set_` on its storage, so that tensors that share one share memory.
2. Small tensors that have their storage to themselves are nearly all of them in an
   optimiser's state. Those of one dtype and shape are joined and cut apart by one
   call, which gives each a storage of its own in half the time.
3. No result is a view in autograd's eyes: torch.load gives leaves, so do we.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safemodel._build.checksums import crc32
from safemodel._build.dtypes import QUANTIZED, quietly, torch_dtype
from safemodel._build.parts import torch_may_refuse
from safemodel._build.record_bytes import STORED, normalise_bool
from safemodel._graph.specs import (
    UNBUILT,
    MetaTensorSpec,
    ParameterSpec,
    Spec,
    StorageSpec,
    TensorSpec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safemodel._build.devices import Placement
    from safemodel._build.storages import Storages

# Its stub only knows the form with `out=`.
_unbind_copy: Callable[..., Any] = torch.unbind_copy
_SMALL = 16 << 10
_MAX_LAYOUTS = 64
_BATCH = 4 << 20  # bytes joined at a time: they stay in the cache, memory stays flat


def plain_numel(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return the elements of a view laid out as torch lays out new tensors; else -1.

    >>> plain_numel((3, 4), (4, 1)), plain_numel((3, 4), (1, 3))
    (12, -1)
    """
    step = numel = 1
    for length, given in zip(reversed(shape), reversed(stride), strict=True):
        if given != step:
            return -1
        step *= max(length, 1)
        numel *= length
    return numel


def sole_tensors(specs: Iterable[Spec]) -> dict[StorageSpec, TensorSpec | None]:
    """Give each storage the one tensor that uses it; None where several do."""
    sole: dict[StorageSpec, TensorSpec | None] = {}
    for spec in specs:
        if type(spec) is TensorSpec:
            storage = spec.storage
            sole[storage] = None if storage in sole else spec
    return sole


def build_small(
    sole: dict[StorageSpec, TensorSpec | None], placement: Placement, *, verify: bool
) -> None:
    """Build the tensors of rule 2.

    Raises:
        ChecksumError: The bytes are not those the archive describes.
        TruncatedFileError: The file ends inside a record.
    """
    sizes: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    groups: dict[tuple[str, tuple[int, ...]], list[TensorSpec]] = {}
    for storage, spec in sole.items():
        if spec is not None and _is_small(storage, spec, placement):
            layout = (spec.shape, spec.stride)
            numel = sizes.get(layout)
            if numel is None:
                numel = plain_numel(*layout)
                # Of a few only: a file can choose strides whose hashes are equal.
                if len(sizes) < _MAX_LAYOUTS:
                    sizes[layout] = numel
            if numel == storage.numel and numel:
                groups.setdefault((spec.dtype, spec.shape), []).append(spec)
    for (dtype, shape), members in groups.items():
        first = members[0].storage
        step = max(1, _BATCH // (first.numel * first.itemsize))
        for start in range(0, len(members), step):
            _build_alike(members[start : start + step], dtype, shape, verify=verify)


def _is_small(storage: StorageSpec, spec: TensorSpec, placement: Placement) -> bool:
    """Whether a tensor may be built by copying its storage with others."""
    record = storage.record
    return (
        record is not None
        and record.size <= _SMALL
        and spec.dtype == storage.dtype
        and record.method == STORED
        and not spec.offset
        and not storage.big_endian
        and not spec.conj
        and not spec.neg
        and spec.dtype != "complex32"  # torch would warn
        and spec.dtype not in QUANTIZED
        and record.size == storage.numel * storage.itemsize
        and placement.keeps_cpu(storage.location)
    )


def _build_alike(
    specs: list[TensorSpec], dtype: str, shape: tuple[int, ...], *, verify: bool
) -> None:
    """Build tensors of one dtype and shape, each the whole of its storage."""
    joined = bytearray().join(_contents(specs, verify=verify))
    if dtype == "bool":
        normalise_bool(np.frombuffer(joined, dtype=np.uint8))
    rows = torch.frombuffer(joined, dtype=torch_dtype(dtype)).view(len(specs), *shape)
    with torch.no_grad():
        built: list[torch.Tensor] = _unbind_copy(rows)
    for spec, tensor in zip(specs, built, strict=True):
        if spec.requires_grad or spec.parameter:
            finish(tensor, spec)
        else:
            spec.built = tensor


def _contents(specs: list[TensorSpec], *, verify: bool) -> list[memoryview]:
    """Return the bytes of storages of one size, read together where they are near."""
    records = [record for spec in specs if (record := spec.storage.record)]
    first, last, size = records[0], records[-1], records[0].size
    source, start = first.source, first.offset
    length = last.offset + size - start
    near = last.source is source and 0 < length <= 2 * _BATCH
    span = source.view(start, length) if near else memoryview(b"")
    room = len(span) - size
    parts = []
    for record in records:  # hot: once a tensor
        at = record.offset - start
        if 0 <= at <= room and record.source is source:
            data = span[at : at + size]
        else:
            data = record.source.view(record.offset, size)
        if verify and record.crc32 != (actual := crc32(data)):
            record.check_crc32(actual)
        parts.append(data)
    return parts


def finish(tensor: torch.Tensor, spec: TensorSpec) -> None:
    """Set what is not memory: autograd flag and class."""
    wanted = spec.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
    if spec.parameter:
        spec.built = torch.nn.Parameter(tensor, requires_grad=wanted)
    else:
        spec.built = tensor.requires_grad_() if wanted else tensor


def empty(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return an empty tensor to `set_` on a storage, without a warning."""
    if dtype is torch.complex32:
        # torch.empty warns that this dtype is experimental; the file's, not ours.
        bits = torch.empty(0, dtype=torch.int32, device=device)
        return bits.view(torch.complex32).data  # .data: no view (rule 3)
    return torch.empty(0, dtype=dtype, device=device)


def over_storage(
    untyped: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> torch.Tensor:
    """Return a strided tensor over a storage; the caller proved that it fits."""
    with torch.no_grad():
        return empty(dtype, untyped.device).set_(untyped, offset, shape, stride)


def _view(spec: TensorSpec, storages: Storages) -> torch.Tensor:
    storage = spec.storage
    untyped = storages.untyped(storage)
    dtype = torch_dtype(spec.dtype)
    reinterpreted = spec.dtype == "bool" != storage.dtype
    if reinterpreted and untyped.device.type != "meta":
        untyped = _as_bools(untyped)
    tensor = over_storage(untyped, dtype, spec.offset, spec.shape, spec.stride)
    if spec.conj or spec.neg:
        with torch.no_grad():
            if spec.conj:
                tensor = torch._conj(tensor)  # the lazy bit itself
            if spec.neg:
                tensor = torch._neg_view(tensor)
            tensor = tensor.data  # rule 3
    return tensor


def _as_bools(untyped: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return bytes a file reinterprets as bools with no byte above 1."""
    values = over_storage(untyped, torch.uint8, 0, (untyped.nbytes(),), (1,))
    if not values.numel() or int(values.max()) <= 1:
        return untyped
    return values.clamp(max=1).untyped_storage()


def build_tensor(spec: TensorSpec, storages: Storages) -> None:
    """Build one strided tensor on its storage."""
    if spec.dtype in QUANTIZED:  # without a scale: torch allows it, and warns
        storages.untyped(spec.storage)
        with quietly(), torch_may_refuse("quantised tensor"):
            spec.built = _view(spec, storages)
    else:
        finish(_view(spec, storages), spec)


def build_mapped(spec: TensorSpec, storages: Storages) -> bool:
    """Build a tensor that is all of its storage straight from the file's map.

    Returns:
        False if it has to go through its storage.
    """
    storage = spec.storage
    if (
        storages.is_built(storage)
        or spec.dtype != storage.dtype
        or spec.dtype == "bool"
        or spec.dtype in QUANTIZED
        or spec.offset
        or spec.conj
        or spec.neg
        or plain_numel(spec.shape, spec.stride) != storage.numel
    ):
        return False
    flat = storages.mapped(storage, torch_dtype(spec.dtype))
    if flat is None:
        return False
    finish(flat.resize_(spec.shape) if len(spec.shape) != 1 else flat, spec)
    return True


def build_parameter(spec: ParameterSpec) -> None:
    """Wrap a tensor that is built already, sharing its memory."""
    data = spec.data.built
    if data is UNBUILT or not isinstance(data, torch.Tensor):
        raise TypeError(f"a parameter of {type(spec.data).__name__}")
    wanted = spec.requires_grad and (data.is_floating_point() or data.is_complex())
    if spec.kind == "Parameter":
        spec.built = torch.nn.Parameter(data, requires_grad=wanted)
    elif hasattr(torch.nn, "Buffer"):
        spec.built = torch.nn.Buffer(data)
    else:
        spec.built = data


def build_meta(spec: MetaTensorSpec) -> None:
    """Build a tensor without memory."""
    tensor = torch.empty_strided(
        spec.shape, spec.stride, dtype=torch_dtype(spec.dtype), device="meta"
    )
    if spec.requires_grad and (tensor.is_floating_point() or tensor.is_complex()):
        tensor.requires_grad_()
    spec.built = tensor
