"""`build`: a checked graph → the object it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._build.arrays import build_array, build_scalar, numpy_dtype
from safemodel._build.assemble import Assembler
from safemodel._build.devices import Placement
from safemodel._build.nested import build_jagged, build_nested
from safemodel._build.sparse import build_sparse
from safemodel._build.special import (
    build_quantized,
    build_torch_value,
)
from safemodel._build.storages import Storages, wrapped
from safemodel._build.tensors import (
    build_mapped,
    build_meta,
    build_parameter,
    build_small,
    build_tensor,
    sole_tensors,
)
from safemodel._collector import collector_paused
from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.specs import (
    UNBUILT,
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
    TorchValueSpec,
)
from safemodel.errors import ForbiddenCallError
from safemodel.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._types import MapLocation
    from safemodel.limits import Limits


def build(
    graph: TensorGraph,
    *,
    map_location: MapLocation = None,
    mmap: bool = False,
    verify: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> object:
    """Build everything a checked graph holds.

    Args:
        graph: Built in place and emptied, so that nothing but the result keeps the
            tensors alive: a graph can be built once.
        map_location: As in `torch.load`; see `safemodel._build.devices`.
        mmap: Tensors over a private map of the file, where there is a file.
        verify: Compare the CRC-32 of every record that is read (with ``mmap``: that
            is mapped) with the archive's.
        limits: Bounds on inflating deflated records.

    Returns:
        The object the file stands for.

    Raises:
        SafeModelError: The file's bytes do not fit its description.
        RuntimeError: `map_location` names a device that is not there.
        TypeError: `map_location` is of the wrong kind.
    """
    with collector_paused():
        try:
            builder = _Builder(graph, Placement(map_location), mmap, verify, limits)
            builder.build_leaves()
            assembler = Assembler(builder.late)
            return assembler.assemble(graph.root, graph.mutables, graph.immutables)
        finally:
            _let_go(graph)


def _let_go(graph: TensorGraph) -> None:
    """Forget what was built: checks and nodes are cyclic garbage from here on.

    A result held by it would outlive its last user until the collector ran, and two
    loads in a row would need the memory of both.
    """
    for spec in graph.specs:
        spec.built = UNBUILT
    for storage in graph.storages.values():
        storage.built = UNBUILT
    for value in (*graph.mutables, *graph.immutables):
        if isinstance(value, Spec):
            value.built = UNBUILT
    for part in (graph.specs, graph.storages, graph.mutables, graph.immutables):
        part.clear()
    graph.root = None


class _Builder:
    """Builds the leaves of one graph, each what it consists of first."""

    def __init__(
        self,
        graph: TensorGraph,
        placement: Placement,
        mmap: bool,
        verify: bool,
        limits: Limits,
    ) -> None:
        self._specs = graph.specs
        self._placement = placement
        self._verify = verify
        self._limits = limits
        self._copies = not mmap and not placement.meta
        self._maps = mmap and not placement.meta
        self._sole = sole_tensors(graph.specs)
        self._storages = Storages(
            placement, self._sole, mmap=mmap, verify=verify, limits=limits
        )

    def build_leaves(self) -> None:
        """Build every leaf of the graph."""
        if self._copies:
            build_small(self._sole, self._placement, verify=self._verify)
            self._storages.load(
                storage
                for storage, spec in self._sole.items()
                if spec is None or spec.built is UNBUILT
            )
        for spec in self._specs:
            if spec.built is UNBUILT:
                self._leaf(spec)

    def late(self, spec: Spec) -> object:
        """Return what a leaf became that was not built with the others.

        Storages are wrapped only where one is a value of the file.
        """
        if spec.built is UNBUILT:
            self._specs.append(spec)
            if isinstance(spec, (StorageSpec, StorageViewSpec)):
                spec.built = self._storage(spec)
            else:
                self._leaf(spec)
        if spec.built is UNBUILT:
            name = getattr(spec, "name", type(spec).__name__)
            raise ForbiddenCallError(name, "is part of its own arguments")
        return spec.built

    def _leaf(self, spec: Spec) -> None:
        match spec:
            case TensorSpec():
                self._tensor(spec)
            case ParameterSpec():
                build_parameter(spec)
            case ArraySpec():
                build_array(spec, verify=self._verify, limits=self._limits)
            case ScalarSpec():
                build_scalar(spec)
            case NumpyDTypeSpec():
                numpy_dtype(spec)
            case TorchValueSpec():
                build_torch_value(spec)
            case _:
                self._special(spec)

    def _special(self, spec: Spec) -> None:
        match spec:
            case MetaTensorSpec():
                build_meta(spec)
            case SparseSpec():
                build_sparse(spec)
            case NestedSpec():
                build_nested(spec)
            case JaggedSpec():
                build_jagged(spec)
            case QuantizedSpec():
                for part in (spec.scale, spec.zero_point):
                    if isinstance(part, Spec):
                        self.late(part)
                build_quantized(spec, self._storages)

    def _tensor(self, spec: TensorSpec) -> None:
        storage = spec.storage
        mapped = (
            self._maps
            and self._sole.get(storage) is spec
            and self._placement.keeps_cpu(storage.location)
            and build_mapped(spec, self._storages)
        )
        if not mapped:
            build_tensor(spec, self._storages)

    def _storage(self, spec: StorageSpec | StorageViewSpec) -> object:
        if isinstance(spec, StorageSpec):
            return wrapped(self._storages.untyped(spec), spec)
        base = spec.base
        start = spec.offset * base.itemsize
        end = start + spec.numel * base.itemsize
        return wrapped(self._storages.untyped(base)[start:end], base)
