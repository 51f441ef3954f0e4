"""Keys of dictionaries and sets before they are built: what Python will hash.

`KeyGuard` counts collisions on plain values that are hashed and compared as the real
keys will be; this module finds such a value for each kind of key.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from safemodel._graph.array_specs import (
    ArraySpec,
    NumpyDTypeSpec,
    ObjectArraySpec,
    ScalarSpec,
)
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    SequenceSpec,
)
from safemodel._graph.scalars import SCALARS
from safemodel._graph.specs import TorchValueSpec
from safemodel.errors import MalformedFileError

UNKNOWN = object()
"""There is no such value: it is hashed by identity, or only once it is built."""

IMMUTABLE_SEQUENCES = ("tuple", "frozenset")
_UNHASHABLE = frozenset({dict, list, bytearray, slice})
_UNHASHABLE_SPECS = frozenset(
    {MappingSpec, NamespaceSpec, ObjectArraySpec, ArraySpec, ExtraSpec}
)
_FLOATS = {"f2": "e", "f4": "f", "f8": "d", "c8": "2f", "c16": "2d"}


def refuse_unhashable(key: Any) -> None:
    """Refuse a settled key that Python could not hash, or not in bounded time.

    Raises:
        MalformedFileError: It is of such a kind.
    """
    kind = type(key)
    name = key.kind if kind is SequenceSpec else kind.__name__
    if (
        kind in _UNHASHABLE
        or kind in _UNHASHABLE_SPECS
        or (kind is SequenceSpec and name not in IMMUTABLE_SEQUENCES)
        # Each look at one would visit all of its fields.
        or (kind is NumpyDTypeSpec and (key.fields or key.base))
    ):
        raise MalformedFileError(f"a {name} cannot be a key")
    if kind in SCALARS:
        try:
            hash(key)
        except TypeError as error:  # a signalling NaN
            raise MalformedFileError(f"this {name} cannot be a key") from error


def hashed_value(key: Any) -> Any:
    """Return what is hashed and compared as a settled key will be, or `UNKNOWN`."""
    kind = type(key)
    if kind in SCALARS:
        return key
    if kind is tuple:
        return key if _is_plain(key) else UNKNOWN
    if kind is TorchValueSpec:
        return key.value if key.kind == "size" else UNKNOWN
    return _of_scalar(key) if kind is ScalarSpec else UNKNOWN


def is_late(key: Any) -> bool:
    """Say whether the hash of a key depends on values that are not built yet."""
    return type(key) in (tuple, SequenceSpec, ScalarSpec)


def _is_plain(key: tuple[Any, ...]) -> bool:
    """Say whether the machine could already hash a tuple as it will be."""
    return all(
        type(item) in SCALARS or (type(item) is tuple and _is_plain(item))
        for item in key
    )


def _of_scalar(spec: ScalarSpec) -> Any:
    """Return the number or text that a numpy scalar stands for."""
    kind, layout = spec.dtype.descr[1], _FLOATS.get(spec.dtype.descr[1:])
    order: Literal["big", "little"] = "big" if spec.dtype.descr[0] == ">" else "little"
    if kind in "biumM":
        return int.from_bytes(spec.data, order, signed=kind in "imM")
    if kind in "SU":
        # Salted like text and bytes, and like them unless they are empty.
        return spec.data.rstrip(b"\0")
    if layout is None:
        return UNKNOWN
    parts = struct.unpack((">" if order == "big" else "<") + layout, spec.data)
    return parts[0] if len(parts) == 1 else complex(*parts)
