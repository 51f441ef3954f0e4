"""The weights of a file, a module or a mapping, as bit patterns, piece by piece.

Rules:

1. A file is checked as `safe_load` checks it, with globals outside the allowlist
   opaque: what a file would run is `scan`'s business, and no reason not to look here.
2. Memory is bounded by `PIECE` words, whatever the size of a tensor; pieces but the
   last of a tensor are whole blocks.
3. Bytes of a storage that no tensor reaches are handed on too, as *slack*: a view of
   three elements over a million keeps the million in the file.
4. A tensor that is there under two names is given once; one that repeats its elements
   is bounded as `disarm` bounds it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.roles import optimiser_paths, role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from safemodel._detector.roles import Role
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._graph.specs import StorageSpec
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.storage_bytes import StorageReader
    from safemodel._types import FileLike
    from safemodel.limits import Limits

BLOCK = 1 << 16
"""Words that are counted together."""
PIECE = 1 << 20
_PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_LONGEST_NAME = 512


class Weights(NamedTuple):
    """A tensor's bit patterns, or a piece of them.

    Attributes:
        name: Path of the tensor in the file, printable.
        dtype: Torch's name of what its numbers are, without prefix.
        bits: The words, (n,), unsigned, as wide as the numbers; C-contiguous.
        role: What the tensor is for.
        shape: Lengths of its axes.
        start: Number of the first word in the tensor.
        size: Words of the whole tensor.
    """

    name: str
    dtype: str
    bits: NDArray[Any]
    role: Role
    shape: tuple[int, ...] = ()
    start: int = 0
    size: int = 0


class _Tensor(NamedTuple):
    """What all pieces of a tensor have in common."""

    name: str
    dtype: str
    itemsize: int
    role: Role
    shape: tuple[int, ...]
    size: int


class Opened(NamedTuple):
    """An open file, or what was given in its place.

    Attributes:
        format: What it is, in words.
        size: Its bytes; 0 if only reading all of it would tell.
        weights: What to look at; good for one time.
    """

    format: str
    size: int
    weights: Iterator[Weights]


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
    from safemodel._containers.sniff import sniff
    from safemodel._containers.source import open_source
    from safemodel._protect.frames import find_seal
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
            yield Opened(str(form.value), size, _of_graph(graph, limits))
            source.finish(reading.consumed)
        finally:
            reading.close()


def weights_of_file(f: FileLike, *, limits: Limits | None = None) -> Iterator[Weights]:
    """Yield the weights of a file, which `opened` opens and checks.

    Raises:
        SafeModelError: The file is malformed, protected, or of no format we read.
        OSError: It cannot be read.
        ValueError: A folder that has no index of shards, or several.
    """
    with opened(f, limits=limits) as file:
        yield from file.weights


def weights_of_module(module: torch.nn.Module) -> Iterator[Weights]:
    """Yield the parameters and buffers of a module, each tensor once."""
    buffers = {id(buffer) for buffer in module.buffers()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        role = role_of(name, str(tensor.dtype).removeprefix("torch."))
        yield from _of_tensor(name, tensor, "buffer" if id(tensor) in buffers else role)


def weights_of_mapping(mapping: Mapping[Any, Any]) -> Iterator[Weights]:
    """Yield the tensors and arrays of a mapping, and of what it holds.

    Raises:
        TypeError: Not a mapping.
    """
    from collections.abc import Mapping as AnyMapping

    if not isinstance(mapping, AnyMapping):
        raise TypeError(f"no mapping: {type(mapping).__name__}")
    leaves = list(_leaves(mapping))
    optimisers = optimiser_paths(path for path, _ in leaves)
    seen: set[tuple[object, ...]] = set()
    for path, value in leaves:
        if isinstance(value, np.ndarray):
            yield from _of_array(path, value, optimisers)
        elif hasattr(value, "data_ptr") and hasattr(value, "layout"):
            # What is not strided has no memory of its own to be known by.
            known = value.numel() and str(value.layout) == "torch.strided"
            key = (value.data_ptr() if known else id(value), value.dtype,
                   tuple(value.shape), str(value.layout))  # fmt: skip
            if key not in seen:
                seen.add(key)
                dtype = str(value.dtype).removeprefix("torch.")
                yield from _of_tensor(path, value, role_of(path, dtype, optimisers))


def _index_of(folder: str) -> str:
    """Return the only index of shards in a folder."""
    found = sorted(
        entry.path
        for entry in os.scandir(folder)
        if entry.name.endswith(".index.json") and entry.is_file()
    )
    if len(found) != 1:
        raise ValueError(f"{len(found)} indices of shards in the folder; give a file")
    return found[0]


def _of_graph(graph: TensorGraph, limits: Limits) -> Iterator[Weights]:
    """Yield the tensors of a checked file, and then what none of them reaches."""
    from pathlib import Path
    from tempfile import gettempdir

    from safemodel._build.assemble import Assembler
    from safemodel._rewrite.contents import check_repeats, row_major
    from safemodel._rewrite.flatten import flatten
    from safemodel._rewrite.leaves import Leaves
    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.storage_bytes import StorageReader

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
    with StorageReader(limits, Path(gettempdir())) as storages:
        for name, content in contents.items():
            leaf = flat.tensors[name]
            tensor = _tensor(
                name, leaf.dtype, content.itemsize, leaf.shape,
                role_of(name, leaf.dtype, optimisers),
            )  # fmt: skip
            if tensor is not None:
                yield from _cut(tensor, content.pieces(storages))
        yield from _slack(graph, leaves.tensors, storages)


def _slack(
    graph: TensorGraph, leaves: Iterable[TensorLeaf], storages: StorageReader
) -> Iterator[Weights]:
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
            tensor = _tensor(name, storage.dtype, storage.itemsize, (size,), "slack")
            if tensor is not None:
                yield from _cut(tensor, storages.pieces(storage, start, end))


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


def _tensor(
    name: str, dtype: str, itemsize: int, shape: tuple[int, ...], role: Role
) -> _Tensor | None:
    """Return what the pieces of a tensor have in common; None if it has none."""
    from safemodel._scan.render import printable

    numbers = prod(shape)
    if dtype in _PARTS:
        dtype, itemsize, numbers = _PARTS[dtype], itemsize // 2, numbers * 2
    if not numbers or itemsize not in (1, 2, 4, 8):
        return None
    name = printable(name, _LONGEST_NAME)
    return _Tensor(name, dtype, itemsize, role, tuple(shape), numbers)


def _cut(tensor: _Tensor, pieces: Iterable[memoryview | bytes]) -> Iterator[Weights]:
    """Yield bytes that come in pieces of any length in pieces of `PIECE` words."""
    width, done = tensor.itemsize, 0
    longest = PIECE * width
    buffer, held = np.empty(min(longest, tensor.size * width), np.uint8), 0
    for piece in pieces:
        data = np.frombuffer(piece, np.uint8)
        while data.size:
            part = data[: buffer.size - held]
            buffer[held : held + part.size] = part
            data, held = data[part.size :], held + part.size
            if held == buffer.size:
                yield _piece(tensor, buffer, done)
                done += held // width
                left = (tensor.size - done) * width
                buffer, held = np.empty(min(longest, max(left, 0)), np.uint8), 0
                if not buffer.size:
                    return


def _piece(tensor: _Tensor, data: NDArray[np.uint8], start: int) -> Weights:
    words = data.view(f"u{tensor.itemsize}")
    return Weights(
        tensor.name, tensor.dtype, words, tensor.role, tensor.shape, start, tensor.size
    )


def _leaves(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a mapping holds by its path; containers within it once."""
    from collections.abc import Mapping as AnyMapping

    seen = {id(mapping)}
    waiting: list[tuple[str, Any]] = [("", mapping)]
    while waiting:
        path, value = waiting.pop()
        inner: list[tuple[str, Any]] = []
        if isinstance(value, AnyMapping):
            inner = [(f"{path}.{key}" if path else str(key), item)
                     for key, item in value.items()]  # fmt: skip
        elif isinstance(value, (list, tuple)):
            inner = [(f"{path}.{at}" if path else str(at), item)
                     for at, item in enumerate(value)]  # fmt: skip
        else:
            yield path, value
        for name, item in reversed(inner):
            if isinstance(item, (AnyMapping, list, tuple)):
                if id(item) in seen:
                    continue
                seen.add(id(item))
            waiting.append((name, item))


def _of_array(
    name: str, array: NDArray[Any], optimisers: tuple[str, ...]
) -> Iterator[Weights]:
    """Yield the pieces of an array of numbers; of nothing else."""
    from safemodel._rewrite.leaves import NUMBERS

    dtype = NUMBERS.get(array.dtype.str[1:]) if array.dtype.fields is None else None
    if dtype is None or not array.size:
        return
    role = role_of(name, dtype, optimisers)
    tensor = _tensor(name, dtype, array.itemsize, array.shape, role)
    if tensor is None:
        return
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    yield from _cut(tensor, [little.reshape(-1).view(np.uint8).data])


def _of_tensor(name: str, value: Any, role: Role) -> Iterator[Weights]:
    """Yield the pieces of a tensor of torch; each comes to the processor by itself."""
    import torch

    data = value.detach()
    if data.is_quantized:
        dtype, data = str(data.dtype).removeprefix("torch."), data.int_repr()
    else:
        if data.layout == torch.sparse_coo:
            data = data._values()
        elif data.layout != torch.strided:
            data = data.values()
        dtype = str(data.dtype).removeprefix("torch.")
    tensor = _tensor(name, dtype, data.element_size(), tuple(data.shape), role)
    if tensor is None or data.is_meta:
        return
    flat = data.reshape(-1)

    def pieces() -> Iterator[memoryview]:
        for at in range(0, flat.numel(), PIECE):
            part = flat[at : at + PIECE].cpu().resolve_conj().resolve_neg()
            yield part.contiguous().view(torch.uint8).numpy().data

    yield from _cut(tensor, pieces())
