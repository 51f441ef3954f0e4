"""Values of any kind that comes out of a file → the few kinds that are written.

What is left: None, bool, int, float, str, dict, OrderedDict, list, tuple, leaves. All
else becomes one of these, the same one wherever it is shared, and is counted by what it
was. Names of classes become text: nothing that is written can be called.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, time
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np

from safemodel._graph.opaque import Opaque
from safemodel._graph.specs import StorageSpec, TensorSpec
from safemodel._rewrite.contents import InMemory
from safemodel._rewrite.leaves import CallLeaf, GlobalLeaf, TensorLeaf, contiguous

_SCALARS = frozenset({NoneType, bool, int, float, str})
_WRITTEN = _SCALARS | {
    dict, OrderedDict, list, tuple, TensorLeaf, CallLeaf, GlobalLeaf,
}  # fmt: skip
_MOST_BITS = 255 * 8 - 1
"""Of an integer that LONG1 can hold."""
_NUMBERS = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64",
    "c8": "complex64", "c16": "complex128",
}  # fmt: skip


class Plain:
    """Turns values into those that are written, one level at a time.

    Attributes:
        changed: Kind of value → how many of them became something else.
    """

    def __init__(self) -> None:
        self.changed: Counter[str] = Counter()
        # The original is kept beside its stand-in: its id must not be used again.
        self._made: dict[int, tuple[object, object]] = {}
        self._keys: dict[int, tuple[object, str]] = {}

    def of(self, value: Any) -> Any:
        """Return a value of one of the kinds that are written."""
        kind = type(value)
        if kind in _WRITTEN:
            if kind is int and value.bit_length() > _MOST_BITS:
                return hex(value)
            return value
        known = self._made.get(id(value))
        if known is None:
            self.changed[_name(value)] += 1
            known = self._made[id(value)] = (value, self._made_of(value))
        return known[1]

    def key(self, key: Any) -> Any:
        """Return what a key of a dictionary is written as."""
        if type(key) in _SCALARS:
            return self.of(key)
        if type(key) is tuple:
            return tuple(map(self.key, key))
        known = self._keys.get(id(key))
        if known is None:
            self.changed[_name(key)] += 1
            known = self._keys[id(key)] = (key, str(key))
        return known[1]

    def _made_of(self, value: Any) -> object:
        match value:
            case Opaque():
                return _record(value)
            case defaultdict() | Counter():
                return dict(value)
            case Namespace() | SimpleNamespace():
                return vars(value)
            case set() | frozenset() | deque():
                return list(value)
            case bytes() | bytearray():
                return _tensor(np.frombuffer(bytes(value), np.uint8))
            case np.ndarray():
                return _array(value)
            case complex():
                return (value.real, value.imag)
            case date() | time():
                return value.isoformat()
            case range() | slice():
                return repr(value)
        return str(value)


def _name(value: object) -> str:
    return value.qualified_name if type(value) is Opaque else type(value).__name__


def _record(value: Opaque) -> dict[str, object]:
    """Return what an opaque value holds, under names that say what it was."""
    parts: dict[str, object] = {"class": value.qualified_name}
    held = {
        "args": value.args, "kwargs": value.kwargs, "state": value.state,
        "items": value.pairs, "elements": value.elements,
    }  # fmt: skip
    # A state may be any value: only None says that there was none.
    return parts | {
        name: part
        for name, part in held.items()
        if part is not None and (name == "state" or bool(part))
    }


def _array(array: np.ndarray[Any, np.dtype[Any]]) -> object:
    """Return a tensor of the same bytes where there is one; else plain data."""
    dtype = array.dtype
    if dtype.hasobject or dtype.kind in "SU":
        return array.tolist()
    if dtype.names is not None:
        return {name: array[name] for name in dtype.names}
    if dtype.kind in "mM":
        return {"dtype": dtype.str, "values": array.view("i8")}
    if dtype.kind == "V" or dtype.str[1:] not in _NUMBERS:
        return {"dtype": dtype.str, "bytes": array.tobytes()}
    return _tensor(array)


def _tensor(array: np.ndarray[Any, np.dtype[Any]]) -> TensorLeaf:
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    name, size = _NUMBERS[little.dtype.str[1:]], little.dtype.itemsize
    storage = StorageSpec("", name, size, little.size, None)
    spec = TensorSpec(storage, name, 0, little.shape, contiguous(little.shape))
    flat = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    return TensorLeaf(spec, InMemory(name, size, flat.data))
