"""Leaves → the object a file stands for.

1. Containers that can change are their own shell (dict, list) or get an empty one;
   so cycles through them need no care, and shared ones stay shared.
2. What cannot change is made once its parts are there, in the order the check found.
   A tuple none of whose parts changed stays the very same tuple.
3. Everything that can change is filled last, in place.
4. The caller's own code (`ExtraSpec`) is to see finished data: what its arguments
   reach is filled before it is called.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._graph.array_specs import ObjectArraySpec
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    OpaqueSpec,
    SequenceSpec,
)
from safemodel._graph.opaque import Opaque
from safemodel._graph.specs import UNBUILT, Spec, TensorSpec
from safemodel._unpickle.nodes import (
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
    TensorCall,
)
from safemodel.errors import ForbiddenCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ATOMS = frozenset({NoneType, bool, bytearray, bytes, complex, float, int, str})
_NODES = frozenset({Call, FrozenSetNode, GlobalRef, PersistentRef, SetNode, TensorCall})
_FACTORIES: dict[str | None, Callable[[], object] | None] = {
    None: None,
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "bool": bool,
    "complex": complex,
    "defaultdict": defaultdict,
    "deque": deque,
    "dict": dict,
    "float": float,
    "frozenset": frozenset,
    "int": int,
    "list": list,
    "set": set,
    "str": str,
    "tuple": tuple,
}
_EMPTY: dict[str, Callable[[], object]] = {
    "Counter": Counter,
    "Namespace": Namespace,
    "OrderedDict": OrderedDict,
    "SimpleNamespace": SimpleNamespace,
    "dict": dict,
    "list": list,
    "set": set,
}


class Assembler:
    """Puts built leaves into containers."""

    __slots__ = ("_filled", "_late", "_tuples")

    def __init__(self, late: Callable[[Spec], object]) -> None:
        self._late = late
        self._tuples: dict[int, object] = {}
        self._filled: set[int] = set()

    def resolve(self, value: Any) -> Any:
        """Return the finished object for one value of the graph."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        while kind in _NODES:
            value = value.value
            kind = type(value)
        if kind is tuple:
            return self._tuples.get(id(value), value)
        if isinstance(value, Spec):
            return self._late(value) if value.built is UNBUILT else value.built
        return value

    def assemble(
        self, root: object, mutables: list[object], immutables: list[object]
    ) -> object:
        """Build every container and return the finished root.

        Raises:
            ForbiddenCallError: An object needs itself to be built, or a key or set
                element cannot be hashed.
        """
        for value in mutables:
            if isinstance(value, Spec) and value.built is UNBUILT:
                value.built = _shell(value)
        for value in immutables:
            self._freeze(value)
        for value in mutables:
            self._fill(value)
        return self.resolve(root)

    def _freeze(self, value: Any) -> None:
        """Make something that cannot change (rule 2)."""
        while type(value) in _NODES:
            value = value.value
        if type(value) is tuple:
            if not _ATOMS.issuperset(map(type, value)):
                parts = [self.resolve(part) for part in value]
                if any(new is not old for new, old in zip(parts, value, strict=True)):
                    self._tuples[id(value)] = tuple(parts)
        elif type(value) is SequenceSpec and value.built is UNBUILT:
            parts = [self.resolve(part) for part in value.elements]
            value.built = tuple(parts) if value.kind == "tuple" else _hashed(parts)
        elif type(value) is ExtraSpec and value.built is UNBUILT:
            self._fill_below(value)
            args = self.resolve(value.args)
            value.built = value.reconstructor(args, self.resolve(value.state))

    def _fill_below(self, spec: ExtraSpec) -> None:
        """Fill all that an object's arguments reach, each once (rule 4)."""
        pending: list[Any] = [spec.args, spec.state]
        while pending:
            value = pending.pop()
            while type(value) in _NODES:
                value = value.value
            if type(value) in _ATOMS or id(value) in self._filled:
                continue
            if type(value) is ExtraSpec and value.built is UNBUILT:
                # All others it could reach come before it, so this one is itself.
                raise ForbiddenCallError(spec.name, "is part of its own arguments")
            self._filled.add(id(value))
            pending.extend(_parts(value))
            self._fill(value)

    def _fill(self, value: Any) -> None:
        """Put the parts of one mutable container in place (rule 3)."""
        kind = type(value)
        if kind is dict:
            self._fill_dict(value)
        elif kind is list:
            self._fill_list(value)
        elif kind is MappingSpec:
            self._fill_mapping(value)
        elif kind is SequenceSpec:
            self._fill_sequence(value)
        elif kind is NamespaceSpec:
            attributes = value.attributes
            vars(value.built).update(
                {name: self.resolve(part) for name, part in attributes.items()}
            )
        elif kind is OpaqueSpec:
            self._fill_opaque(value)
        elif kind is ObjectArraySpec:
            self._fill_array(value)

    def _fill_dict(self, value: dict[object, Any]) -> None:
        if not _ATOMS.issuperset(map(type, value)):
            keys = [self.resolve(key) for key in value]
            if any(new is not old for new, old in zip(keys, value, strict=True)):
                items = list(value.values())
                value.clear()
                _insert(value, keys, items)
        # A dictionary of scalars only is passed over at the speed of `map`.
        if _ATOMS.issuperset(map(type, value.values())):
            return
        resolve = self.resolve
        for key, part in value.items():
            kind = type(part)
            if kind is TensorCall or kind is Call:
                spec = part.value
                # Nearly always a tensor; anything else takes the long way.
                built = spec.built if type(spec) is TensorSpec else UNBUILT
                value[key] = resolve(spec) if built is UNBUILT else built
            elif kind not in _ATOMS:
                value[key] = resolve(part)

    def _fill_list(self, value: list[object]) -> None:
        if not _ATOMS.issuperset(map(type, value)):
            resolve = self.resolve
            value[:] = [
                part if type(part) in _ATOMS else resolve(part) for part in value
            ]

    def _fill_mapping(self, spec: MappingSpec) -> None:
        resolve = self.resolve
        built: Any = spec.built
        parts = [part if type(part) in _ATOMS else resolve(part) for part in spec.pairs]
        _insert(built, parts[::2], parts[1::2])
        if spec.metadata is not None:
            built._metadata = resolve(spec.metadata)  # torch's name

    def _fill_sequence(self, spec: SequenceSpec) -> None:
        built: Any = spec.built
        parts = [self.resolve(part) for part in spec.elements]
        if spec.kind == "set":
            built.update(_hashed(parts))
        elif spec.kind in ("list", "deque"):
            built.clear()
            built.extend(parts)

    def _fill_array(self, spec: ObjectArraySpec) -> None:
        built: Any = spec.built
        # One by one: numpy would take a sequence apart, and look into it first.
        flat: Any = np.empty(len(spec.elements), dtype=object)
        for index, part in enumerate(spec.elements):
            flat[index] = self.resolve(part)
        # Whatever the order in memory, a pickle lists them row by row.
        built[...] = flat.reshape(spec.shape)

    def _fill_opaque(self, spec: OpaqueSpec) -> None:
        built: Any = spec.built
        resolve = self.resolve
        pairs: dict[object, object] = {}
        if spec.pairs:
            parts = [resolve(part) for part in spec.pairs]
            _insert(pairs, parts[::2], parts[1::2])
        built.fill(
            resolve(spec.args),
            resolve(spec.kwargs) if spec.kwargs else None,
            resolve(spec.state),
            pairs,
            [resolve(part) for part in spec.elements or ()],
        )


def _hashed(parts: list[object]) -> frozenset[object]:
    """Return a frozenset of finished parts."""
    try:
        return frozenset(parts)
    except TypeError as error:
        raise ForbiddenCallError("set", "an element cannot be hashed") from error


def _insert(
    target: dict[object, object], keys: Iterable[object], values: Iterable[object]
) -> None:
    """Set items in order."""
    try:
        # Not `update`: a Counter's adds, and dict's own loses an OrderedDict's order.
        for key, value in zip(keys, values, strict=True):
            target[key] = value  # noqa: PERF403 - as above
    except TypeError as error:
        raise ForbiddenCallError("dict", "a key cannot be hashed") from error


def _shell(spec: Spec) -> object:
    """Return the empty container a composite spec will be (rule 1)."""
    if type(spec) is MappingSpec:
        if spec.kind == "defaultdict":
            return defaultdict(_FACTORIES[spec.factory])
        return _EMPTY[spec.kind]()
    if type(spec) is SequenceSpec:
        if spec.kind == "deque":
            return deque(maxlen=spec.maxlen)
        return _EMPTY[spec.kind]()
    if type(spec) is NamespaceSpec:
        return _EMPTY[spec.kind]()
    if type(spec) is OpaqueSpec:
        return Opaque(spec.name)
    if type(spec) is ObjectArraySpec:
        return np.empty(spec.shape, dtype=object, order="F" if spec.fortran else "C")
    raise TypeError(f"{type(spec).__name__} has no shell")


def _parts(value: object) -> Iterable[object]:
    """Return what a container or composite spec holds."""
    if type(value) is dict:
        return value.values()
    if type(value) is list or type(value) is tuple:
        return value
    if type(value) is SequenceSpec or type(value) is ObjectArraySpec:
        return value.elements
    if type(value) is MappingSpec:
        return (*value.pairs, value.metadata)
    if type(value) is NamespaceSpec:
        return value.attributes.values()
    return _held(value)


def _held(value: object) -> Iterable[object]:
    """Return what an opaque or caller's object holds; nothing for any other."""
    if type(value) is OpaqueSpec:
        pairs, elements = value.pairs or (), value.elements or ()
        return (value.args, value.kwargs, value.state, *pairs, *elements)
    if type(value) is ExtraSpec:
        return (value.args, value.state)
    return ()
