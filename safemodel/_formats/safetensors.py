"""`.safetensors`: a JSON header of names, dtypes, shapes and spans; then the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.safetensors_file import read_safetensors
from safemodel._formats.protected import refuse_protected
from safemodel._graph.specs import StorageSpec, TensorSpec
from safemodel.errors import UnsupportedFormatError, quote

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading

_PAIRED = "F4"
DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    _PAIRED: ("float4_e2m1fn_x2", 1),
}


def read_safetensors_file(reading: Reading, source: Source, prefix: str) -> object:
    """Return the dictionary of tensors of a file; its metadata is not part of it."""
    entries, metadata = read_safetensors(source, limits=reading.limits)
    refuse_protected(metadata, prefix)
    tensors: dict[str, object] = {}
    storages: list[StorageSpec] = []
    for name, dtype, axes, _, _, record in entries:
        shape = _in_pairs(name, axes) if dtype == _PAIRED else axes
        torch_dtype, itemsize = DTYPES[dtype]
        numel = record.size // itemsize
        storage = StorageSpec(name, torch_dtype, itemsize, numel, record)
        stride, step = [], 1
        for length in reversed(shape):
            stride.append(step)
            step *= length or 1
        storages.append(storage)
        storage.views = 1
        tensors[name] = TensorSpec(
            storage, torch_dtype, 0, tuple(shape), tuple(reversed(stride))
        )
    reading.check.add_storages(storages, prefix)
    reading.check.add_specs(tensors.values())  # type: ignore[arg-type]  # made above
    return tensors


def _in_pairs(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of four-bit numbers as torch has them: two an element."""
    if not shape or shape[-1] % 2:
        raise UnsupportedFormatError(
            f"tensor {quote(name)} has rows of an odd number of F4, which torch lacks"
        )
    return (*shape[:-1], shape[-1] // 2)
