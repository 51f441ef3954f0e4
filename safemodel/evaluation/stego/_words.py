"""Weights of any kind as one row of words, and the way back.

A cover is what a payload can be hidden in: the tensors of one dtype of a mapping, in
order, end to end. What is one tensor under two names is in it once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Tensors: TypeAlias = Mapping[str, Any] | NDArray[Any] | torch.Tensor


class Format(NamedTuple):
    """A dtype that is a cover.

    Attributes:
        itemsize: Bytes of a weight.
        low_bits: Bits that a payload may replace: the mantissa, or all of an integer.
        infinity: The word of infinity; 0 for integers.
        one: The word of 1; 0 for integers.
        sign: The bit of the sign; 0 for uint8.
    """

    itemsize: int
    low_bits: int
    infinity: int
    one: int
    sign: int


def _floating(itemsize: int, mantissa: int) -> Format:
    sign = 1 << 8 * itemsize - 1
    # The bias of the exponent is ones but for its highest bit.
    ones = sign - (1 << mantissa)
    return Format(itemsize, mantissa, ones, ones >> 1 & ones, sign)


FORMATS = {
    "float64": _floating(8, 52),
    "float32": _floating(4, 23),
    "float16": _floating(2, 10),
    "bfloat16": _floating(2, 7),
    "int8": Format(1, 8, 0, 0, 0x80),
    "uint8": Format(1, 8, 0, 0, 0),
}


class _Part(NamedTuple):
    """One tensor of a cover.

    Attributes:
        names: Its name, and others it has.
        source: The array or tensor it was read from.
        start: Index of its first weight in the row.
        size: How many weights it has.
    """

    names: list[str]
    source: Any
    start: int
    size: int


class Cover:
    """Weights that a payload can be hidden in.

    Attributes:
        dtype: Torch's name of what they are.
        format: The same, as numbers.
        words: All of them in a row: words of the weight's size, to be changed at will.
        parts: The tensors they come from.
    """

    __slots__ = ("_given", "dtype", "format", "parts", "words")

    def __init__(
        self,
        weights: Tensors,
        dtype: str | None = None,
        tensors: Collection[str] | None = None,
        among: Collection[str] | None = None,
    ) -> None:
        """Read a cover; see `safemodel.evaluation.stego.embed`.

        Args:
            weights: As for `embed`.
            dtype: As for `embed`.
            tensors: As for `embed`.
            among: Names of those to choose from where `tensors` names none.
        """
        self._given = weights
        entries = weights if isinstance(weights, Mapping) else {"": weights}
        found = {
            name: kind
            for name, entry in entries.items()
            if (kind := _dtype_of(entry, dtype))
        }
        if tensors is None and among is not None:
            found = {name: found[name] for name in among if name in found}
        chosen = _choose(entries, found, dtype, tensors)
        self.dtype = found[chosen[0]]
        self.format = FORMATS[self.dtype]
        self.parts: list[_Part] = []
        rows: dict[object, tuple[_Part, NDArray[Any]]] = {}
        end = 0
        for name in chosen:
            entry = entries[name]
            place = _place_of(entry)
            if place in rows:
                rows[place][0].names.append(name)
                continue
            row = _row(entry, self.format.itemsize)
            part = _Part([name], entry, end, row.size)
            rows[place] = part, row
            self.parts.append(part)
            end += row.size
        self.words: NDArray[Any] = np.concatenate([row for _, row in rows.values()])

    def spans(self) -> Iterator[tuple[str, int, int]]:
        """Yield the first name of each tensor, its start and its end in the row."""
        for part in self.parts:
            yield part.names[0], part.start, part.start + part.size

    def tensors(self) -> Any:
        """Return what was given with new tensors of the words as they are now."""
        made = {}
        for part in self.parts:
            words = self.words[part.start : part.start + part.size].copy()
            tensor = _like(part.source, words)
            made.update(dict.fromkeys(part.names, tensor))
        if not isinstance(self._given, Mapping):
            return made[""]
        return {**self._given, **made}

    def write_back(self) -> None:
        """Put the words into the tensors they were read from.

        Raises:
            ValueError: Two of the tensors share a part of their memory, or one cannot
                be written to.
        """
        ends: list[tuple[int, int]] = []
        for part in self.parts:
            source = part.source
            if isinstance(source, np.ndarray) and not source.flags.writeable:
                raise ValueError(f"read-only: {part.names[0]!r}")
            if part.size:
                ends.append(_bounds(part.source))
        ends.sort()
        if any(low < end for (_, end), (low, _) in pairwise(ends)):
            raise ValueError(
                "tensors that overlap in memory cannot be changed in place"
            )
        for part in self.parts:
            made = _like(part.source, self.words[part.start : part.start + part.size])
            if isinstance(part.source, np.ndarray):
                part.source[...] = made
            else:
                part.source.detach().copy_(made)


def _choose(
    entries: Mapping[str, Any],
    found: dict[str, str],
    dtype: str | None,
    tensors: Collection[str] | None,
) -> list[str]:
    """Return the names of the tensors of a cover, all of one dtype, in order."""
    if dtype is not None and dtype not in FORMATS:
        raise ValueError(f"no dtype to hide in: {dtype!r}; there are {list(FORMATS)}")
    if tensors is not None:
        if isinstance(tensors, str):
            raise TypeError("tensors is a collection of names, not one name")
        chosen = list(dict.fromkeys(tensors))
        odd = [name for name in chosen if name not in found]
        if odd:
            raise ValueError(f"no tensors to hide in: {odd}")
        if len({found[name] for name in chosen}) > 1:
            raise ValueError("the tensors named are of several dtypes: choose one")
    else:
        sizes: dict[str, int] = {}
        for name, kind in found.items():
            sizes[kind] = sizes.get(kind, 0) + _size(entries[name])
        most = max(sizes, key=lambda kind: sizes[kind], default="")
        chosen = [name for name, kind in found.items() if kind == most]
    if not chosen:
        raise ValueError("there are no weights to hide anything in")
    return chosen


def _dtype_of(entry: object, dtype: str | None) -> str:
    """Return the dtype of what can be a cover, and of no other; '' otherwise."""
    if isinstance(entry, np.ndarray):
        name = str(entry.dtype) if entry.dtype.isnative else ""
        # Words stand for a dtype that numpy lacks, or that the caller took them from.
        as_words = dtype in FORMATS and name == f"uint{8 * FORMATS[dtype].itemsize}"
        name = str(dtype) if as_words else name
    else:
        import torch

        if not isinstance(entry, torch.Tensor):
            return ""
        usable = entry.layout == torch.strided and entry.device.type != "meta"
        name = str(entry.dtype).removeprefix("torch.") if usable else ""
    return name if name in FORMATS and dtype in (None, name) else ""


def _size(entry: Any) -> int:
    """Return how many weights an array or tensor has."""
    return int(entry.size if isinstance(entry, np.ndarray) else entry.numel())


def _place_of(entry: Any) -> object:
    """Return what two names of one tensor have in common, and no other two."""
    if not _size(entry):
        return object()
    if isinstance(entry, np.ndarray):
        return (entry.ctypes.data, entry.shape, entry.strides)
    return (str(entry.device), entry.data_ptr(), entry.shape, entry.stride())


def _bounds(entry: Any) -> tuple[int, int]:
    """Return where the bytes of an array or tensor begin and end in memory."""
    if isinstance(entry, np.ndarray):
        address, itemsize, steps = entry.ctypes.data, entry.itemsize, entry.strides
    else:
        address, itemsize = entry.data_ptr(), entry.element_size()
        steps = tuple(itemsize * step for step in entry.stride())
    reach = [
        (length - 1) * step for length, step in zip(entry.shape, steps, strict=True)
    ]
    low = address + sum(step for step in reach if step < 0)
    return low, address + sum(step for step in reach if step > 0) + itemsize


def _row(entry: Any, itemsize: int) -> NDArray[Any]:
    """Return the words of an array or tensor, in order."""
    if isinstance(entry, np.ndarray):
        flat = np.ascontiguousarray(entry).reshape(-1).view(np.uint8)
    else:
        import torch

        # Bytes, because numpy does not know every dtype of torch.
        data = entry.detach().cpu().resolve_neg().reshape(-1).contiguous()
        flat = data.view(torch.uint8).numpy()
    return flat.view(np.dtype(f"u{itemsize}"))


def _like(source: Any, words: NDArray[Any]) -> Any:
    """Return an array or tensor of these words, of the kind and shape of another."""
    if isinstance(source, np.ndarray):
        return words.view(source.dtype).reshape(source.shape)
    import torch

    data = torch.from_numpy(words.view(np.uint8)).view(source.dtype)
    return data.reshape(source.shape).to(source.device)
