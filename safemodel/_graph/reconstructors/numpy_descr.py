"""dtypes as `.npy` headers spell them: "<f4", or a list of (name, dtype[, shape]).

Rules:

1. Kinds and sizes are those of pickled dtypes (`numpy_dtypes`).
2. Fields follow each other without gaps; an unnamed one of kind "V" is the padding.
3. The header's parser bounds how deep lists nest, so recursion here is bounded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safemodel._graph.array_specs import NumpyDTypeSpec
from safemodel._graph.reconstructors.numpy_dtypes import FIXED, FLEXIBLE, UNITS
from safemodel.errors import LimitExceededError, MalformedFileError, quote

if TYPE_CHECKING:
    from safemodel.limits import Limits

_ORDERS = "<>=|"
_SIZE_END = 1 << 31
_MAX_FIELD = 3
_UNIT = re.compile(r"([1-9][0-9]{0,8})?([A-Za-z]{1,2})", re.ASCII)
_BYTES_A_CHARACTER = {"S": 1, "U": 4, "V": 1}


def dtype_from_descr(descr: object, limits: Limits) -> NumpyDTypeSpec:
    """Return the spec of a descriptor.

    Raises:
        MalformedFileError: It is not a descriptor.
        LimitExceededError: A sub-array has too many axes.
    """
    if type(descr) is str:
        return _simple(descr)
    if type(descr) is list:
        return _structure(descr, limits)
    raise MalformedFileError(f"not a dtype: {quote(descr)}")


def _simple(descr: str) -> NumpyDTypeSpec:
    order, code = descr[:1], descr[1:]
    itemsize = FIXED.get(code, 0)
    if order in _ORDERS and order and itemsize:
        spec = NumpyDTypeSpec(descr, itemsize)
        spec.has_objects = code[0] == "O"
        return spec
    unit = code.partition("[")
    if order and code[:2] in ("M8", "m8") and unit[1] and code.endswith("]"):
        _check_unit(unit[2][:-1])
        return NumpyDTypeSpec(descr, 8)
    match = FLEXIBLE.fullmatch(code)
    if match is None or order not in _ORDERS or not order:
        raise MalformedFileError(f"not a dtype: {quote(descr)}")
    size = int(match[2]) * _BYTES_A_CHARACTER[match[1]]
    if size >= _SIZE_END:
        raise MalformedFileError(f"a dtype of {size:,} bytes")
    return NumpyDTypeSpec(descr, size)


def _check_unit(unit: str) -> None:
    match = _UNIT.fullmatch(unit)
    if match is None or match[2] not in UNITS:
        raise MalformedFileError(f"not a unit of time: {quote(unit)}")


def _structure(descr: list[object], limits: Limits) -> NumpyDTypeSpec:
    fields: list[tuple[str, NumpyDTypeSpec, int]] = []
    offset = 0
    names: set[str] = set()
    for field in descr:
        if type(field) is not tuple or not 2 <= len(field) <= _MAX_FIELD:
            raise MalformedFileError(f"not a field: {quote(field)}")
        name = field[0]
        if type(name) is tuple and len(name) == 2:  # (title, name)
            name = name[1]
        if type(name) is not str:
            raise MalformedFileError(f"not the name of a field: {quote(name)}")
        part = dtype_from_descr(field[1], limits)
        if len(field) == _MAX_FIELD:
            part = _subarray(part, field[2], limits)
        padding = not name and part.descr[1:2] == "V"
        if not padding:
            if name in names:
                raise MalformedFileError(f"two fields are named {quote(name)}")
            names.add(name)
            fields.append((name, part, offset))
        offset += part.itemsize
        if offset >= _SIZE_END:
            raise MalformedFileError(f"a dtype of {offset:,} bytes")
    spec = NumpyDTypeSpec(f"|V{offset}", offset)
    spec.fields = tuple(fields)
    spec.has_objects = any(part.has_objects for _, part, _ in fields)
    return spec


def _subarray(inner: NumpyDTypeSpec, shape: object, limits: Limits) -> NumpyDTypeSpec:
    if type(shape) is int:
        shape = (shape,)
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedFileError(f"not a shape: {quote(shape)}")
    if len(shape) > limits.max_dimensions:
        raise LimitExceededError(
            "max_dimensions", allowed=limits.max_dimensions, requested=len(shape)
        )
    size = inner.itemsize
    for length in shape:
        size *= length
        if size >= _SIZE_END:
            raise MalformedFileError(f"a dtype of {size:,} bytes")
    spec = NumpyDTypeSpec(f"|V{size}", size)
    spec.base, spec.subshape, spec.has_objects = inner, shape, inner.has_objects
    return spec
