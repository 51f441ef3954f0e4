"""Open what `detect` looks at: files, folders of shards, modules and mappings."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._detector.roles import optimiser_paths, role_of
from safemodel._detector.weights import (
    Held,
    held_of,
    tensors_of_mapping,
    tensors_of_module,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel._detector.weights import Weights
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._graph.specs import StorageSpec
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.storage_bytes import StorageReader
    from safemodel._types import FileLike
    from safemodel.limits import Limits


class Opened(NamedTuple):
    """An open file, or what was given in its place.

    Attributes:
        format: What it is, in words.
        size: Its bytes; 0 if only reading all of it would tell.
        tensors: What to look at, in the order of the file; slack comes last.
    """

    format: str
    size: int
    tensors: tuple[Held, ...]

    def weights(self) -> Iterator[Weights]:
        """Yield the words of all tensors, piece by piece."""
        for held in self.tensors:
            yield from held.weights()


@contextmanager
def any_opened(f: Any, limits: Limits | None = None) -> Iterator[Opened]:
    """Open a file, a folder, a module or a mapping.

    Raises:
        TypeError: It is none of those.
    """
    from collections.abc import Mapping

    if isinstance(f, Mapping):
        yield Opened("mapping", 0, tuple(tensors_of_mapping(f)))
    elif hasattr(f, "named_parameters") and hasattr(f, "named_buffers"):
        yield Opened("module", 0, tuple(tensors_of_module(f)))
    else:
        with opened(f, limits=limits) as file:
            yield file


@contextmanager
def opened(f: FileLike, *, limits: Limits | None = None) -> Iterator[Opened]:
    """Open and check a file; of a folder, the shards its index names.

    Args:
        f: A path, bytes, or a binary file object.
        limits: How much the file may ask for.

    Raises:
        SafeModelError: The file is malformed, protected, or of no format we read.
        OSError: It cannot be read.
        ValueError: A folder that has no index of shards, or several.
    """
    from pathlib import Path
    from tempfile import gettempdir

    from safemodel._containers.sniff import sniff
    from safemodel._containers.source import open_source
    from safemodel._protect.frames import find_seal
    from safemodel._rewrite.storage_bytes import StorageReader
    from safemodel._scan.recording import check_file
    from safemodel.limits import DEFAULT_LIMITS
    from safemodel.policy import SALVAGE

    limits = DEFAULT_LIMITS if limits is None else limits
    if isinstance(f, (str, os.PathLike)) and os.path.isdir(f):  # noqa: PTH112 - any path
        f = _index_of(os.fsdecode(f))
    with open_source(f) as source:
        if find_seal(source, limits) is not None:
            from safemodel._protect.verifying import key_needed

            raise key_needed(source, limits)
        reading, graph, error = check_file(
            source, policy=SALVAGE, limits=limits, checksums=False, spool=True
        )
        try:
            if graph is None or error is not None:
                reading.check.refuse(error)
                raise error or AssertionError("neither a graph nor an error")
            form = reading.forms.get("") or sniff(source)
            size = source.size + sum(shard.size for shard in reading.sources)
            with StorageReader(limits, Path(gettempdir())) as storages:
                tensors = tuple(_of_graph(graph, limits, storages))
                yield Opened(str(form.value), size, tensors)
            source.finish(reading.consumed)
        finally:
            reading.close()


def _index_of(folder: str) -> str:
    """Return the only index of shards in a folder."""
    found = sorted(
        entry.path
        for entry in os.scandir(folder)
        if entry.name.endswith(".index.json") and entry.is_file()
    )
    if len(found) != 1:
        many = f"{len(found)} files *.index.json" if found else "no *.index.json"
        raise ValueError(f"{many} in the folder: give the path of a file")
    return found[0]


def _of_graph(
    graph: TensorGraph, limits: Limits, storages: StorageReader
) -> Iterator[Held]:
    """Yield the tensors of a checked file, and then what none of them reaches."""
    from safemodel._build.assemble import Assembler
    from safemodel._rewrite.contents import check_repeats, row_major
    from safemodel._rewrite.flatten import flatten
    from safemodel._rewrite.leaves import Leaves
    from safemodel._rewrite.plain import Plain

    leaves = Leaves(limits)
    root = Assembler(leaves.make).assemble(graph.root, graph.mutables, graph.immutables)
    leaves.settle()
    flat = flatten(root, Plain(limits=limits))
    optimisers = optimiser_paths((*flat.data, *flat.same, *flat.tensors))
    contents = {
        name: row_major(leaf.spec, leaf.content.itemsize, leaf.content)
        for name, leaf in flat.tensors.items()
        if leaf.content is not None
    }
    taken = ((flat.tensors[name].spec.storage, content.nbytes)
             for name, content in contents.items())  # fmt: skip
    check_repeats(taken, limits)
    for name, content in contents.items():
        leaf = flat.tensors[name]
        role = role_of(name, leaf.dtype, optimisers)
        yield from held_of(
            name, leaf.dtype, content.itemsize, leaf.shape, role,
            partial(content.pieces, storages),
        )  # fmt: skip
    yield from _slack(graph, leaves.tensors, storages)


def _slack(
    graph: TensorGraph, leaves: Iterable[TensorLeaf], storages: StorageReader
) -> Iterator[Held]:
    """Yield the stretches of storages that no tensor reaches (rule 3)."""
    from safemodel._rewrite.contents import Stretch

    reached: dict[int, list[tuple[int, int]]] = {}
    for leaf in leaves:
        content = leaf.content
        # What is gathered skips elements: all it spans counts as not reached.
        if isinstance(content, Stretch):
            span = (content.start, content.start + content.nbytes)
            reached.setdefault(id(content.storage), []).append(span)
    for key, storage in graph.storages.items():
        if storage.record is None:
            continue
        for start, end in _gaps(reached.get(id(storage), []), storage):
            size = (end - start) // storage.itemsize
            name = f"storage {key} from {start}"
            read = partial(storages.pieces, storage, start, end)
            yield from held_of(
                name, storage.dtype, storage.itemsize, (size,), "slack", read
            )


def _gaps(
    spans: list[tuple[int, int]], storage: StorageSpec
) -> Iterator[tuple[int, int]]:
    """Yield what lies between spans of a storage, in bytes, whole elements only."""
    at, itemsize = 0, storage.itemsize
    whole = storage.numel * itemsize
    for start, end in [*sorted(spans), (whole, whole)]:
        if start - at >= itemsize:
            yield at, at + (start - at) // itemsize * itemsize
        at = max(at, -(-end // itemsize) * itemsize)
