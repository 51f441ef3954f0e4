"""A checked graph → which tensors use which storages, each by its path."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from safemodel._graph.array_specs import ArraySpec
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel._graph.specs import (
    JaggedSpec,
    NestedSpec,
    ParameterSpec,
    QuantizedSpec,
    SparseSpec,
    Spec,
    StorageSpec,
    StorageViewSpec,
    TensorSpec,
)
from safemodel._graph.walk import settle
from safemodel._rewrite.names import encodable
from safemodel._scan.named import named_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._graph.composite_specs import TensorGraph

LONGEST_NAME = 512
_MOST_NAMES = 16 << 20
"""Characters of all names together."""
_CUT = "..."
_FIELDS = {
    NestedSpec: ("buffer", "sizes", "strides", "offsets"),
    JaggedSpec: ("values", "offsets", "lengths"),
    QuantizedSpec: ("view", "scale", "zero_point"),
}
_SPARSE = {2: ("indices", "values"), 3: ("compressed", "plain", "values")}
_UNNAMED = frozenset({"view", "buffer"})
"""Parts that have the name of the whole."""


class Uses:
    """Who uses the storages and arrays of a graph.

    Attributes:
        names: Name of the tensor that covers a storage, else of the first on it; of an
            array, its path. By id; "" once there are too many.
        covers: The tensors that cover a storage, by its id: the first of each.
        storages: All storages that are used, in the order of the file.
        arrays: All arrays, likewise.
    """

    def __init__(self, graph: TensorGraph) -> None:
        self.names: dict[int, str] = {}
        self.covers: dict[int, TensorSpec] = {}
        self.storages: list[StorageSpec] = []
        self.arrays: list[ArraySpec] = []
        self._room = _MOST_NAMES
        seen: set[int] = set()
        for name, leaf in named_leaves(graph.root, as_name, LONGEST_NAME):
            # Two bytes of a pickle name one again.
            if not isinstance(leaf, Spec) or id(leaf) in seen:
                continue
            seen.add(id(leaf))
            if type(leaf) is TensorSpec:
                self._add(name, leaf)
                continue
            for found, spec in _tensors(name, leaf):
                self._add(found, spec)

    def _add(self, name: str, spec: Any) -> None:
        """Note a tensor, storage or array."""
        if type(spec) is ArraySpec:
            if id(spec) not in self.names:
                self._name(spec, name)
                self.arrays.append(spec)
            return
        view = spec if type(spec) is TensorSpec else None
        storage = spec if view is None else view.storage
        if id(storage) not in self.names:
            self._name(storage, name)
            self.storages.append(storage)
        if view is not None and id(storage) not in self.covers and covers(view):
            self._name(storage, name)
            self.covers[id(storage)] = view

    def _name(self, spec: StorageSpec | ArraySpec, name: str) -> None:
        """Give a name for as long as there is room for names."""
        self._room += len(self.names.get(id(spec), "")) - len(name)
        self.names[id(spec)] = name if self._room >= 0 else ""


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a tensor is made of, by a name for it: "" if it is that of the whole.

    A tensor that is a view over a storage is made of nothing.
    """
    kind = type(value)
    if kind is ParameterSpec:
        yield "", value.data
    elif kind is SparseSpec:
        yield from zip(_SPARSE[len(value.parts)], value.parts, strict=True)
    else:
        for field in _FIELDS.get(kind, ()):
            yield "" if field in _UNNAMED else field, getattr(value, field)


def covers(view: TensorSpec) -> bool:
    """Tell whether a tensor has every byte of its storage, and each of them once."""
    storage = view.storage
    nbytes = prod(view.shape) * DTYPE_ITEMSIZE[view.dtype]
    if view.offset or nbytes != storage.numel * storage.itemsize:
        return False
    expected = 1
    for step, length in sorted(zip(view.stride, view.shape, strict=True)):
        if length != 1 and step != expected:
            return not nbytes
        expected *= length
    return True


def as_name(text: str, longest: int) -> str:
    """Return text as it stands in a name: cut, and with lone surrogates escaped."""
    if len(text) > longest:
        text = text[: longest - len(_CUT)] + _CUT
    return encodable(text)


def _tensors(name: str, leaf: object) -> Iterator[tuple[str, Any]]:
    """Yield the views, storages and arrays that a leaf is made of, by name."""
    waiting = [(name, leaf)]
    while waiting:
        name, value = waiting.pop()
        value = settle(value)
        kind = type(value)
        if kind in (TensorSpec, StorageSpec, ArraySpec):
            yield name, value
        elif kind is StorageViewSpec:
            yield name, value.base
        else:
            parts = [
                (f"{name}.{part}" if part else name, inner)
                for part, inner in parts_of(value)
            ]
            waiting += reversed(parts)
