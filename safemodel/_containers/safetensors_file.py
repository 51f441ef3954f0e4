"""The safetensors format: a JSON header, then the tensors' bytes without any gap.

Rules:

1. The header's length is at most `Limits.max_header_bytes` and lies within the file.
2. The header is UTF-8 JSON: one object, without duplicate keys, at most three deep.
3. Each tensor has exactly a dtype, a shape and two offsets; nothing negative.
4. Ordered by offset, the tensors tile the rest of the file: no hole, no overlap.
5. A tensor's bytes are those that its shape and dtype need, in exact integers.
"""

from __future__ import annotations

from math import prod
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._containers.json_text import check_json, decoded, load_json
from safemodel._containers.records import Record
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel.limits import Limits

ITEM_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element, by the format's own dtype names; F4 is stored in pairs."""

_PACKED_DTYPES = frozenset({"F6_E2M3", "F6_E3M2"})
_PREFIX_BYTES = 8
_MAX_DEPTH = 3
_FIELDS = 3
_METADATA = "__metadata__"
_ONLY_INT = {int}


class TensorEntry(NamedTuple):
    """One tensor of a safetensors file.

    Attributes:
        name: Name of the tensor.
        dtype: Name of its dtype, as in the format (a key of `ITEM_BITS`).
        shape: Length of each axis.
        begin: First byte, from the end of the header.
        end: One past the last byte.
        record: The bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    record: Record


def read_safetensors(
    source: Source, *, limits: Limits
) -> tuple[list[TensorEntry], dict[str, str]]:
    """Read and check the header of a safetensors file.

    Returns:
        The tensors in file order of their bytes, and the metadata.

    Raises:
        LimitExceededError: The header, the number of tensors or of axes is too large.
        MalformedFileError: It breaks a rule of this module.
        UnsupportedFormatError: Its elements are smaller than a byte.
    """
    tensors, names, base = _parse_header(source, limits)
    names -= _METADATA in tensors
    metadata = _check_metadata(tensors.pop(_METADATA, {}))
    if len(tensors) > limits.max_tensors:
        raise LimitExceededError(
            "max_tensors", allowed=limits.max_tensors, requested=len(tensors)
        )
    rows = [
        _check_tensor(name, fields, limits.max_dimensions)
        for name, fields in tensors.items()
    ]
    if names != len(metadata) + (1 + _FIELDS) * len(rows):
        raise MalformedFileError("the safetensors header has two equal keys")
    # An empty tensor begins where its neighbour does, so both ends decide the order.
    rows.sort(key=itemgetter(3, 4))
    entries = []
    position = 0
    for name, dtype, shape, begin, end in rows:
        if begin != position:
            raise MalformedFileError(
                f"the tensor begins at {begin:,}, the one before ends at {position:,}",
                record=name,
            )
        position = end
        record = Record(name, source, base + begin, end - begin)
        entries.append(TensorEntry(name, dtype, shape, begin, end, record))
    available = source.size - base
    if position > available:
        raise TruncatedFileError(
            "the tensors' bytes", needed=position, available=available
        )
    if position < available:
        raise MalformedFileError(
            f"{available - position:,} bytes follow the last tensor", position=base
        )
    return entries, metadata


def _parse_header(source: Source, limits: Limits) -> tuple[dict[str, Any], int, int]:
    """Return what the header says, how many names it has, and where it ends."""
    header, base = _read_header(source, limits)
    if not header.startswith(b"{"):
        raise MalformedFileError("the safetensors header is not a JSON object")
    names = check_json(header, max_depth=_MAX_DEPTH, limits=limits)
    text = decoded(header)
    # It may be long: of bytes, text and what it says, two at a time are enough.
    del header
    return load_json(text, unique=False), names, base


def _read_header(source: Source, limits: Limits) -> tuple[bytes, int]:
    """Return the header's text and where it ends (rule 1)."""
    if source.size < _PREFIX_BYTES:
        raise TruncatedFileError(
            "length of the safetensors header",
            needed=_PREFIX_BYTES,
            available=source.size,
        )
    length = int.from_bytes(source.read(0, _PREFIX_BYTES), "little")
    if length > source.size - _PREFIX_BYTES:
        raise TruncatedFileError(
            "safetensors header",
            needed=length,
            available=source.size - _PREFIX_BYTES,
            position=_PREFIX_BYTES,
        )
    if length > limits.max_header_bytes:
        raise LimitExceededError(
            "max_header_bytes", allowed=limits.max_header_bytes, requested=length
        )
    return source.read(_PREFIX_BYTES, length), _PREFIX_BYTES + length


def _check_metadata(metadata: Any) -> dict[str, str]:
    """Return the metadata, which maps text to text."""
    if type(metadata) is not dict or not all(
        type(value) is str for value in metadata.values()
    ):
        raise MalformedFileError(
            "the metadata does not map text to text", record=_METADATA
        )
    return metadata


def _check_tensor(
    name: str, fields: Any, max_dimensions: int
) -> tuple[str, str, tuple[int, ...], int, int]:
    """Return one tensor's name, dtype, shape and two offsets (rules 3 and 5)."""
    try:
        dtype, shape, (begin, end) = (
            fields["dtype"],
            fields["shape"],
            fields["data_offsets"],
        )
        bits = ITEM_BITS[dtype]
        if (
            len(fields) == _FIELDS
            and type(shape) is list
            and {type(begin), type(end), *map(type, shape)} == _ONLY_INT
            and 0 <= begin <= end
            and (not shape or (len(shape) <= max_dimensions and min(shape) >= 0))
            and 8 * (end - begin) == prod(shape) * bits
        ):
            return name, dtype, tuple(shape), begin, end
    except (KeyError, TypeError, ValueError):
        pass  # told apart below
    raise _tensor_error(name, fields, max_dimensions)


def _tensor_error(name: str, fields: Any, max_dimensions: int) -> SafeModelError:
    """Return what is wrong with a tensor that `_check_tensor` has declined."""
    if type(fields) is not dict or set(fields) != {"dtype", "shape", "data_offsets"}:
        return MalformedFileError(
            "a tensor needs dtype, shape and data_offsets and nothing else", record=name
        )
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if type(dtype) is str and dtype in _PACKED_DTYPES:
        return UnsupportedFormatError(
            f"tensor {quote(name)} has dtype {dtype}, for which torch has no equivalent"
        )
    if type(dtype) is not str or dtype not in ITEM_BITS:
        return MalformedFileError(f"no such dtype: {quote(dtype)}", record=name)
    if not _are_lengths(shape):
        return MalformedFileError("the shape is not a list of lengths", record=name)
    if len(shape) > max_dimensions:
        return LimitExceededError(
            "max_dimensions", allowed=max_dimensions, requested=len(shape)
        )
    if not _are_lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return MalformedFileError("the offsets are not a span", record=name)
    return StorageBoundsError(
        f"a tensor of dtype {dtype}",
        needed=-(-prod(shape) * ITEM_BITS[dtype] // 8),
        available=offsets[1] - offsets[0],
        record=name,
    )


def _are_lengths(numbers: Any) -> bool:
    """Tell whether a JSON value is a list of integers, none negative."""
    return type(numbers) is list and all(
        type(number) is int and number >= 0 for number in numbers
    )
