"""`build`: a checked graph → the object it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._build.arrays import build_array, build_dtype, build_scalar
from safemodel._build.assemble import Assembler
from safemodel._build.devices import Placement
from safemodel._build.special import (
    build_nested,
    build_quantized,
    build_sparse,
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
from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.specs import (
    UNBUILT,
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
        graph: Its specs are built in place: a graph can be built once.
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
    placement = Placement(map_location)
    specs = graph.specs
    sole = sole_tensors(specs)
    storages = Storages(placement, sole, mmap=mmap, verify=verify, limits=limits)
    if not mmap and not placement.meta:
        build_small(sole, placement, verify=verify)
        storages.load(
            storage
            for storage, spec in sole.items()
            if spec is None or spec.built is UNBUILT
        )
    mapped = mmap and not placement.meta
    for spec in specs:
        if spec.built is UNBUILT:
            if type(spec) is ArraySpec:
                build_array(spec, verify=verify, limits=limits)
            else:
                _build_leaf(spec, storages, placement, sole if mapped else None)
    assembler = Assembler(lambda spec: _storage_value(spec, storages))
    return assembler.assemble(graph.root, graph.mutables, graph.immutables)


def _build_leaf(
    spec: Spec,
    storages: Storages,
    placement: Placement,
    mapped: dict[StorageSpec, TensorSpec | None] | None,
) -> None:
    """Build one leaf; what it consists of comes before it in the graph."""
    match spec:
        case TensorSpec():
            if (
                mapped is None
                or mapped.get(spec.storage) is not spec
                or not placement.keeps_cpu(spec.storage.location)
                or not build_mapped(spec, storages)
            ):
                build_tensor(spec, storages)
        case ParameterSpec():
            build_parameter(spec)
        case ScalarSpec():
            build_scalar(spec)
        case NumpyDTypeSpec():
            build_dtype(spec)
        case TorchValueSpec():
            build_torch_value(spec)
        case MetaTensorSpec():
            build_meta(spec)
        case SparseSpec():
            build_sparse(spec)
        case QuantizedSpec():
            build_quantized(spec, storages)
        case NestedSpec():
            build_nested(spec)


def _storage_value(spec: Spec, storages: Storages) -> object:
    """Return the storage object a file holds as a value."""
    if isinstance(spec, StorageViewSpec):
        base = spec.base
        whole = storages.untyped(base)
        start = spec.offset * base.itemsize
        part = whole[start : start + spec.numel * base.itemsize]
        return wrapped(part, base)
    if isinstance(spec, StorageSpec):
        return wrapped(storages.untyped(spec), spec)
    raise TypeError(f"{type(spec).__name__} is no storage")
