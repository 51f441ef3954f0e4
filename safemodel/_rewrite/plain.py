"""Values of any kind that comes out of a file → the few kinds that are written.

What is left: None, bool, int, float, str, dict, OrderedDict, list, tuple, leaves. All
else becomes one of these, the same one wherever it is shared, and is counted by what it
was. Names of classes become text: nothing that is written can be called.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, time
from math import isnan
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np

from safemodel._graph.opaque import Opaque
from safemodel._graph.specs import StorageSpec, TensorSpec
from safemodel._rewrite.contents import InMemory
from safemodel._rewrite.leaves import (
    NUMBERS,
    CallLeaf,
    GlobalLeaf,
    TensorLeaf,
    contiguous,
)
from safemodel.errors import LimitExceededError
from safemodel.limits import DEFAULT_LIMITS, Limits

_SCALARS = frozenset({NoneType, bool, int, float, str})
_TEXT = frozenset({str})
_NUMBERS = frozenset({bool, int, float})
_WRITTEN = _SCALARS | {
    dict, OrderedDict, list, tuple, TensorLeaf, CallLeaf, GlobalLeaf,
}  # fmt: skip
_MOST_BITS = 255 * 8 - 1
"""Of an integer that LONG1 can hold."""


_X87_MANTISSA = 63


class Plain:
    """Turns values into those that are written, one level at a time.

    Args:
        wide_unsigned: Whether tensors may be of unsigned integers wider than a byte,
            which torch reads since 2.3 only.
        floats: Whether floats are written as such, which torch 1.13 does not read; else
            each is a tensor of float64 without axes.
        limits: `max_tensors` bounds how many bytes and arrays become tensors here: a
            few bytes of a pickle are one.

    Attributes:
        changed: Kind of value → how many of them became something else.
    """

    def __init__(
        self,
        *,
        wide_unsigned: bool = True,
        floats: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._wide_unsigned = wide_unsigned
        self._floats = floats
        self._written = _WRITTEN if floats else _WRITTEN - {float}
        self._limits = limits
        self._tensors = 0
        self.changed: Counter[str] = Counter()
        # The original is kept beside its stand-in: its id must not be used again.
        self._made: dict[int, tuple[object, object]] = {}
        self._texts: dict[int, tuple[object, str]] = {}

    def of(self, value: Any) -> Any:
        """Return a value of one of the kinds that are written."""
        kind = type(value)
        if kind in self._written and (kind is not int or _is_short(value)):
            return value
        known = self._made.get(id(value))
        if known is None:
            self.changed[_name(value)] += 1
            if kind is int:
                made: object = hex(value)
            elif kind is float:
                made = self._tensor(np.array(value))
            else:
                made = self._made_of(value)
            known = self._made[id(value)] = (value, made)
        return known[1]

    def keys(self, mapping: dict[Any, Any]) -> list[Any]:
        """Return what the keys of a dictionary are written as, no two of them equal."""
        keys = list(mapping)
        if _TEXT.issuperset(map(type, keys)):
            return keys
        taken = {key for key in keys if self._is_written(key)}
        turns: dict[str, int] = {}
        for at, key in enumerate(keys):
            if not self._is_written(key):
                keys[at] = _untaken(self._key(key), taken, turns)
                taken.add(keys[at])
        return keys

    def _key(self, key: Any) -> Any:
        if self._is_written(key):
            return key
        if type(key) is tuple:
            return tuple(map(self._key, key))
        if type(key) is int:
            return hex(key)
        known = self._texts.get(id(key))
        if known is None:
            self.changed[_name(key)] += 1
            known = self._texts[id(key)] = (key, _text(key))
        return known[1]

    def _is_written(self, key: Any) -> bool:
        """Say whether a scalar is written as it is."""
        kind = type(key)
        return (
            kind in _SCALARS
            and kind in self._written
            and (kind is not int or _is_short(key))
        )

    def _made_of(self, value: Any) -> object:
        match value:
            case Opaque():
                return _record(value)
            case defaultdict() | Counter():
                return dict(value)
            case Namespace() | SimpleNamespace():
                return vars(value)
            case set() | frozenset() | deque():
                return _in_order(value)
            case bytes() | bytearray():
                return self._tensor(np.frombuffer(bytes(value), np.uint8))
            case np.ndarray():
                return self._array(value)
            case complex():
                return (value.real, value.imag)
            case date() | time():
                return value.isoformat()
            case range() | slice():
                return repr(value)
        return str(value)

    def _array(self, array: np.ndarray[Any, np.dtype[Any]]) -> object:
        """Return a tensor of the same bytes where there is one; else plain data."""
        dtype = array.dtype
        if dtype.names is not None:
            return {name: array[name] for name in dtype.names}
        if not dtype.itemsize:
            # A few bytes of a file describe any number of elements of none.
            return {"dtype": dtype.str, "shape": list(array.shape)}
        if dtype.hasobject or dtype.kind == "U":
            # What an array without axes holds may be of any kind: it is not looked at.
            return array.tolist() if array.ndim else [array.item()]
        if dtype.kind in "mM":
            return {"dtype": dtype.str, "values": array.view("i8")}
        if dtype.kind == "V" or dtype.str[1:] not in NUMBERS:
            data = _without_padding(array).tobytes()
            return {"dtype": dtype.str, "shape": list(array.shape), "bytes": data}
        if dtype.kind == "u" and dtype.itemsize > 1 and not self._wide_unsigned:
            little = array.astype(dtype.newbyteorder("<"), copy=False)
            signed = little.view(f"<i{dtype.itemsize}")
            return {"dtype": little.dtype.str, "values": signed}
        return self._tensor(array)

    def _tensor(self, array: np.ndarray[Any, np.dtype[Any]]) -> TensorLeaf:
        """Return a tensor of an array, if there are not too many by now."""
        self._tensors += 1
        if self._tensors > self._limits.max_tensors:
            raise LimitExceededError(
                "max_tensors",
                allowed=self._limits.max_tensors,
                requested=self._tensors,
            )
        return _tensor(array)


def _text(value: Any) -> str:
    """Return the text of a key: the same in every process."""
    match value:
        case TensorLeaf():
            return f"tensor of {value.dtype} {list(value.shape)}"
        case CallLeaf() | GlobalLeaf():
            return f"{value.module}.{value.name}"
        case frozenset():
            return f"{{{', '.join(sorted(map(_text, value)))}}}"
        case tuple():
            return f"({', '.join(map(_text, value))})"
    return str(value)


def _in_order(values: set[Any] | frozenset[Any] | deque[Any]) -> list[Any]:
    """Return the elements, those of a set in one order in every process."""
    if isinstance(values, deque):
        return list(values)
    kinds = set(map(type, values))
    if kinds <= _TEXT or (kinds <= _NUMBERS and not any(map(isnan, values))):
        return sorted(values)
    # Sets have no order among themselves, and NaN none among numbers.
    return sorted(values, key=_order)


def _order(value: Any) -> tuple[object, ...]:
    """Return what tells an element of a set from others, without its address."""
    place: tuple[object, ...] = ()
    if type(value) is TensorLeaf:
        spec = value.spec
        place = (spec.storage.key, spec.offset, spec.stride)
    return type(value).__name__, _text(value), place


def _is_short(value: int) -> bool:
    """Say whether an opcode holds an integer."""
    return value.bit_length() <= _MOST_BITS


def _untaken(key: Any, taken: set[Any], turns: dict[str, int]) -> Any:
    """Return a key, or a numbered text of it if an equal one is there already."""
    if key not in taken:
        return key
    text = unique = str(key)
    while unique in taken:
        turns[text] = turns.get(text, 1) + 1
        unique = f"{text}~{turns[text]}"
    return unique


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


def _tensor(array: np.ndarray[Any, np.dtype[Any]]) -> TensorLeaf:
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    name, size = NUMBERS[little.dtype.str[1:]], little.dtype.itemsize
    storage = StorageSpec("", name, size, little.size, None)
    spec = TensorSpec(storage, name, 0, little.shape, contiguous(little.shape))
    flat = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    return TensorLeaf(spec, InMemory(name, size, flat.data))


def _without_padding(
    array: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array whose elements hold nothing but their numbers."""
    if array.dtype.kind not in "fc" or np.finfo(np.longdouble).nmant != _X87_MANTISSA:
        return array
    # Ten bytes of sixteen are the number; the others could be anything.
    clean = array.astype(array.dtype.newbyteorder("<"), order="C", copy=True)
    clean.reshape(-1).view(np.uint8).reshape(-1, 16)[:, 10:] = 0
    return clean
