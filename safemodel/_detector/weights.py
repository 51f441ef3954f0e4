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

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.roles import optimiser_paths, role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from safemodel._detector.roles import Role
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


class Held(NamedTuple):
    """A tensor that can be read, as often as one likes.

    Attributes:
        name: As of `Weights`.
        dtype: As of `Weights`.
        itemsize: Bytes of a word.
        role: As of `Weights`.
        shape: As of `Weights`.
        size: As of `Weights`.
        pieces: Reads its bytes, in pieces of any length.
    """

    name: str
    dtype: str
    itemsize: int
    role: Role
    shape: tuple[int, ...]
    size: int
    pieces: Callable[[], Iterable[memoryview | bytes]]

    def weights(self) -> Iterator[Weights]:
        """Yield its words in pieces of `PIECE`."""
        width, done = self.itemsize, 0
        longest = PIECE * width
        buffer, held = np.empty(min(longest, self.size * width), np.uint8), 0
        for piece in self.pieces():
            data = np.frombuffer(piece, np.uint8)
            while data.size:
                part = data[: buffer.size - held]
                buffer[held : held + part.size] = part
                data, held = data[part.size :], held + part.size
                if held == buffer.size:
                    yield self._piece(buffer, done)
                    done += held // width
                    left = (self.size - done) * width
                    buffer, held = np.empty(min(longest, max(left, 0)), np.uint8), 0
                    if not buffer.size:
                        return

    def _piece(self, data: NDArray[np.uint8], start: int) -> Weights:
        words = data.view(f"u{self.itemsize}")
        return Weights(
            self.name, self.dtype, words, self.role, self.shape, start, self.size
        )


def weights_of_file(f: FileLike, *, limits: Limits | None = None) -> Iterator[Weights]:
    """Yield the weights of a file, which `opened` opens and checks.

    Raises:
        SafeModelError: The file is malformed, protected, or of no format we read.
        OSError: It cannot be read.
        ValueError: A folder that has no index of shards, or several.
    """
    from safemodel._detector.opening import opened

    with opened(f, limits=limits) as file:
        yield from file.weights()


def weights_of_module(module: torch.nn.Module) -> Iterator[Weights]:
    """Yield the parameters and buffers of a module, each tensor once."""
    for held in tensors_of_module(module):
        yield from held.weights()


def weights_of_mapping(mapping: Mapping[Any, Any]) -> Iterator[Weights]:
    """Yield the tensors and arrays of a mapping, and of what it holds.

    Raises:
        TypeError: Not a mapping.
    """
    for held in tensors_of_mapping(mapping):
        yield from held.weights()


def tensors_of_module(module: torch.nn.Module) -> Iterator[Held]:
    """Yield what `weights_of_module` reads."""
    buffers = {id(buffer) for buffer in module.buffers()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        role = role_of(name, str(tensor.dtype).removeprefix("torch."))
        yield from _of_tensor(name, tensor, "buffer" if id(tensor) in buffers else role)


def tensors_of_mapping(mapping: Mapping[Any, Any]) -> Iterator[Held]:
    """Yield what `weights_of_mapping` reads.

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


def held_of(
    name: str,
    dtype: str,
    itemsize: int,
    shape: tuple[int, ...],
    role: Role,
    pieces: Callable[[], Iterable[memoryview | bytes]],
) -> Iterator[Held]:
    """Yield a tensor that can be read; nothing if it has no words."""
    from safemodel._scan.render import printable

    numbers = prod(shape)
    if dtype in _PARTS:
        dtype, itemsize, numbers = _PARTS[dtype], itemsize // 2, numbers * 2
    if numbers and itemsize in (1, 2, 4, 8):
        name = printable(name, _LONGEST_NAME)
        yield Held(name, dtype, itemsize, role, tuple(shape), numbers, pieces)


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
) -> Iterator[Held]:
    """Yield an array of numbers; nothing else."""
    from safemodel._rewrite.leaves import NUMBERS

    dtype = NUMBERS.get(array.dtype.str[1:]) if array.dtype.fields is None else None
    if dtype is None or not array.size:
        return

    def pieces() -> Iterator[memoryview]:
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        yield little.reshape(-1).view(np.uint8).data

    role = role_of(name, dtype, optimisers)
    yield from held_of(name, dtype, array.itemsize, array.shape, role, pieces)


def _of_tensor(name: str, value: Any, role: Role) -> Iterator[Held]:
    """Yield a tensor of torch; each piece comes to the processor by itself."""
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
    if data.is_meta:
        return
    flat = data.reshape(-1)

    def pieces() -> Iterator[memoryview]:
        for at in range(0, flat.numel(), PIECE):
            part = flat[at : at + PIECE].cpu().resolve_conj().resolve_neg()
            yield part.contiguous().view(torch.uint8).numpy().data

    shape = tuple(data.shape)
    yield from held_of(name, dtype, data.element_size(), shape, role, pieces)
