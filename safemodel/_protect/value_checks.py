"""What `safe_load` refuses only when it reads and builds tensors: found out with less.

Rules:

1. The records of all storages that it would read are read, a piece at a time, and
   their CRC-32 compared.
2. A view over a storage, and an array of plain numbers, are proved by the check of the
   file; any bytes are numbers. They are not built.
3. What else there is, is: tensors whose numbers say where others lie (sparse, nested),
   scales, arrays with text in them, values of torch. It is thrown away. Quantised
   numbers are left out, for rule 2 holds for them, too.
4. Then the containers are put together, which finds keys that cannot be hashed.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from math import prod
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from safemodel._containers.records import STORED, Record
from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.specs import (
    UNBUILT,
    ParameterSpec,
    QuantizedSpec,
    Spec,
    StorageSpec,
    TensorSpec,
)
from safemodel._graph.storages import checked_location
from safemodel._graph.walk import settle
from safemodel._protect.uses import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._graph.composite_specs import TensorGraph
    from safemodel.limits import Limits

_EVERYWHERE = frozenset(
    {"float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool",
     "int64", "int32", "int16", "int8", "uint8"}
)  # fmt: skip
"""Dtypes that every torch has."""
_TEXT = "U"
_PIECE = 1 << 20
_THREADS = 2


def check_values(
    graph: TensorGraph, used: Iterable[StorageSpec], limits: Limits
) -> None:
    """Raise what building a graph would raise. It is used up.

    Args:
        graph: A checked graph.
        used: The storages that its root reaches.
        limits: Those it was checked with.

    Raises:
        SafeModelError: As `safe_load`.
    """
    from safemodel._build.assemble import Assembler

    _check_storages(_read(graph, used), limits)
    needed = _needed(graph.specs)
    rest = [
        _without_numbers(spec) if type(spec) is QuantizedSpec else spec
        for spec in graph.specs
        if not _is_done(spec, needed, limits)
    ]
    for storage in graph.storages.values():
        storage.built = None
    if rest:
        from safemodel._build.objects import build

        graph.specs[:] = rest
        build(graph, verify=False, limits=limits)
        return
    assemble = Assembler(lambda _: None).assemble
    assemble(graph.root, graph.mutables, graph.immutables)


def _read(graph: TensorGraph, used: Iterable[StorageSpec]) -> list[StorageSpec]:
    """Return the storages that `safe_load` reads: of all tensors, and of the root."""
    found = {id(storage): storage for storage in used}
    for spec in graph.specs:
        view = spec.view if type(spec) is QuantizedSpec else spec
        if type(view) is TensorSpec:
            found[id(view.storage)] = view.storage
    return list(found.values())


def _check_storages(storages: list[StorageSpec], limits: Limits) -> None:
    """Rule 1, and where storages say that they are; the first error is raised."""
    rooms: SimpleQueue[memoryview] = SimpleQueue()
    for _ in range(_THREADS + 1):
        rooms.put(memoryview(bytearray(_PIECE)))

    def check(record: Record) -> None:
        room = rooms.get()
        try:
            _check_sum(record, room)
        finally:
            rooms.put(room)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="safemodel-sums") as threads:
        try:
            begun = {
                id(storage): threads.submit(check, storage.record)
                for storage in storages
                if storage.record is not None and _is_large(storage.record)
            }
            for storage in storages:
                if id(storage) in begun:
                    begun[id(storage)].result()
                elif storage.record is not None:
                    if storage.record.method == STORED:
                        check(storage.record)
                    else:  # inflated, and nothing kept of it
                        deque(storage.record.inflated(limits=limits), maxlen=0)
                if storage.location != "cpu":
                    checked_location(storage.location)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _is_large(record: Record) -> bool:
    """Return whether it is worth a thread: a file may have a million small ones."""
    stored = record.method == STORED and record.crc32 is not None
    return stored and record.size >= _PIECE


def _check_sum(record: Record, room: memoryview) -> None:
    """Rule 1, for a record that is stored as it is. Threads may do it at once."""
    if record.crc32 is None:
        return
    from safemodel._build.checksums import crc32

    found = 0
    for at in range(0, record.size, _PIECE):
        piece = room[: min(_PIECE, record.size - at)]
        record.source.read_into(record.offset + at, piece)
        found = crc32(piece, found)
    record.check_crc32(found)


def _needed(specs: list[Spec]) -> set[int]:
    """Return the ids of what other tensors are made of, parameters apart."""
    needed: set[int] = set()
    for spec in reversed(specs):  # parts come before what is made of them
        if type(spec) is not ParameterSpec or id(spec) in needed:
            needed.update(id(settle(part)) for _, part in parts_of(spec))
    return needed


def _is_done(spec: Any, needed: set[int], limits: Limits) -> bool:
    """Check what can be without torch; say whether that was all."""
    from safemodel._build.arrays import build_array, build_scalar, numpy_dtype

    kind = type(spec)
    if kind is NumpyDTypeSpec:
        numpy_dtype(spec)
        return True
    if id(spec) in needed:
        return False
    if kind is TensorSpec:
        if spec.dtype not in _EVERYWHERE:
            from safemodel._build.dtypes import torch_dtype

            torch_dtype(spec.dtype)
    elif kind is ParameterSpec:
        if spec.data.built is UNBUILT:
            return False
    elif kind is ScalarSpec:
        build_scalar(spec)
    elif kind is ArraySpec:
        if type(spec.data) is Record and _is_numbers(spec.dtype):
            numpy_dtype(spec.dtype)
        else:
            build_array(spec, verify=False, limits=limits)
    else:
        return False
    spec.built = None
    return True


def _without_numbers(spec: QuantizedSpec) -> QuantizedSpec:
    """Return a quantised tensor of no elements with the same scales, if there is one.

    As many channels have to be there as it has scales, so one axis stays as it is.
    """
    view, old = spec.view, spec.view.storage
    shape = tuple(n if at == spec.axis else 0 for at, n in enumerate(view.shape))
    if prod(shape):
        return spec
    storage = StorageSpec(
        old.key, old.dtype, old.itemsize, 0, None, old.location, old.typed
    )
    empty = TensorSpec(storage, view.dtype, 0, shape, view.stride)
    spec.built = None
    return QuantizedSpec(empty, spec.scheme, spec.scale, spec.zero_point, spec.axis)


def _is_numbers(dtype: NumpyDTypeSpec) -> bool:
    """Rule 2."""
    return dtype.fields is None and dtype.base is None and _TEXT not in dtype.descr
