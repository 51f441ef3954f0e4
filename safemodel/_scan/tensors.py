"""A checked graph → the tensors in it, by name, and the storages nothing uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.array_specs import ArraySpec
from safemodel._graph.specs import (
    JaggedSpec,
    MetaTensorSpec,
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
from safemodel._scan.named import named_leaves
from safemodel._scan.render import printable
from safemodel.reports import TensorInfo

if TYPE_CHECKING:
    from safemodel._graph.composite_specs import TensorGraph

_MAX_NAME = 200
MAX_REPEATED = 10_000
_BYTES = {
    "float64": 8, "complex64": 8, "complex128": 16, "int64": 8, "uint64": 8,
    "float32": 4, "int32": 4, "uint32": 4, "complex32": 4, "qint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
}  # fmt: skip


class Listing:
    """The tensors of one graph.

    Attributes:
        tensors: A line for each name of each.
        repeated: How often one was met again under another name.
        unreachable: Storages that nothing uses.
    """

    def __init__(self, graph: TensorGraph) -> None:
        self.tensors: list[TensorInfo] = []
        self._keys = {id(spec): key for key, spec in graph.storages.items()}
        self._used: set[int] = set()
        self._leaves: set[int] = set()
        self.repeated = 0
        for name, value in named_leaves(graph.root, printable, _MAX_NAME):
            if self._has_room(value):
                self._leaf(name, value)
        self.unreachable = tuple(
            [
                printable(key)
                for key, spec in graph.storages.items()
                if id(spec) not in self._used
            ]
            + [printable(name) for name in graph.unused]
        )

    def _has_room(self, value: Any) -> bool:
        """Say whether to list a leaf: two bytes name one again, a line takes more."""
        if not isinstance(value, Spec) or id(value) not in self._leaves:
            self._leaves.add(id(value))
            return True
        self.repeated += 1
        return self.repeated <= MAX_REPEATED

    def _leaf(self, name: str, value: Any) -> None:  # noqa: C901 - a case a kind
        """List a tensor, array or storage; leave everything else alone."""
        kind = type(value)
        if kind is TensorSpec:
            self._strided(name, "parameter" if value.parameter else "tensor", value)
        elif kind is ParameterSpec:
            self._leaf(name, settle(value.data))
        elif kind is QuantizedSpec:
            self._strided(name, "quantized", value.view)
            for part in (value.scale, value.zero_point):
                self._use(part)
        elif kind is SparseSpec:
            nbytes = sum(map(self._use, value.parts))
            dtype = getattr(settle(value.parts[-1]), "dtype", "")
            self._add(name, value.layout, dtype, value.shape, nbytes, "")
        elif kind is NestedSpec:
            parts = (value.buffer, value.sizes, value.strides, value.offsets)
            self._nested(name, parts)
        elif kind is JaggedSpec:
            self._nested(name, (value.values, value.offsets, value.lengths))
        elif kind is MetaTensorSpec:
            self._add(name, "meta", value.dtype, value.shape, 0, "")
        elif kind is ArraySpec:
            nbytes = value.dtype.itemsize
            for length in value.shape:
                nbytes *= length
            self._add(name, "array", str(value.dtype.descr), value.shape, nbytes, "")
        elif kind is StorageSpec or kind is StorageViewSpec:
            self._storage(name, value)

    def _nested(self, name: str, parts: tuple[Any, ...]) -> None:
        """List a nested tensor by the parts it is made of, its elements first."""
        nbytes = sum(map(self._use, parts))
        dtype = getattr(settle(parts[0]), "dtype", "")
        self._add(name, "nested", dtype, (), nbytes, "")

    def _storage(self, name: str, value: StorageSpec | StorageViewSpec) -> None:
        """List a storage that is there by itself."""
        base = value.base if type(value) is StorageViewSpec else value
        self._used.add(id(base))
        if type(base) is StorageSpec:
            nbytes = value.numel * base.itemsize
            key = self._keys.get(id(base), base.key)
            self._add(name, "storage", base.dtype, (value.numel,), nbytes, key)

    def _strided(self, name: str, kind: str, spec: TensorSpec) -> None:
        """List a view over a storage."""
        self._used.add(id(spec.storage))
        nbytes = _BYTES.get(spec.dtype, 1)
        for length in spec.shape:
            nbytes *= length
        key = self._keys.get(id(spec.storage), spec.storage.key)
        self._add(name, kind, spec.dtype, spec.shape, nbytes, key)

    def _use(self, part: Any) -> int:
        """Mark the storage of a part of a tensor as used; return the part's bytes."""
        part = settle(part)
        if type(part) is ParameterSpec:
            part = settle(part.data)
        if type(part) is not TensorSpec:
            return 0
        self._used.add(id(part.storage))
        nbytes = _BYTES.get(part.dtype, 1)
        for length in part.shape:
            nbytes *= length
        return nbytes

    def _add(
        self,
        name: str,
        kind: str,
        dtype: str,
        shape: tuple[int, ...],
        nbytes: int,
        storage: str,
    ) -> None:
        """Add one line."""
        self.tensors.append(
            TensorInfo(
                name=name,
                kind=kind,
                dtype=printable(dtype),
                shape=shape,
                nbytes=nbytes,
                storage=printable(storage),
            )
        )
