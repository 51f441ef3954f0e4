"""Benign files: what comes out of `disarm`, compared bit for bit with what was in.

1. What should come out is worked out here, from the table of docs/disarm.md and not
   from the code that writes: it starts from what ``torch.load(weights_only=True)``
   returns where torch opens the input, else from `safe_load(weights_only=False)`.
2. What came out is read by other people's readers only: torch with weights only, the
   safetensors library, numpy without pickles.
3. Tensors: name or place, dtype, shape, every bit; in a `.pt` also gradients, order,
   types, and whether what overlapped in memory still does. Everything else: equal.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import itertools
import json
import math
import types
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

import safemodel
from safemodel import Opaque
from tools.compatibility import _BUNDLE, _LOADS, _TORCHSCRIPT, ask_torch, torch_parts

if TYPE_CHECKING:
    from pathlib import Path

_PICKLED = ":serialized:"
SUFFIXES = (".pt", ".safetensors", ".npz")


class DifferenceError(AssertionError):
    """What came out is not what went in."""


@dataclass
class Survival:
    """One benign file.

    Attributes:
        file: Its path in the zoo.
        container: What kind of file it is.
        reference: Who read the input: "torch" or "safe_load".
        tensors: Tensors in it, each object once.
        nbytes: Bytes of their elements.
        shared: Pairs of tensors that overlap in memory, in and out.
        changed: Values that became plain data, by what they were.
        wrong: Suffix → what is wrong; empty: it survives.
        refused: Class of the error where it is refused.
    """

    file: str
    container: str
    reference: str = ""
    tensors: int = 0
    nbytes: int = 0
    shared: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    refused: str = ""


def reference(path: Path, container: str) -> tuple[object, str]:
    """Return what a file holds, and who says so (rule 1)."""
    ours = safemodel.safe_load(path, "cpu", weights_only=False)
    if container == _TORCHSCRIPT:
        return ours, "safe_load"
    found = {}
    for name, source in torch_parts(path, container).items():
        value, answer = ask_torch(source)
        if answer != _LOADS:
            return ours, "safe_load"
        found[name] = value
    if container != _BUNDLE:
        return found[""], "torch"
    # The members torch reads are torch's; the rest of the archive is not its business.
    whole = {name: found.get(name, item) for name, item in ours.items()}
    return whole | {"data": _without_pickles(whole.get("data"))}, "torch"


def _without_pickles(data: object) -> object:
    """Return the JSON of Stable-Baselines3 without its pickles in base64.

    They are for a loader to run; `disarm` removes them, and its report lists them.
    """
    if not isinstance(data, dict):
        return data
    return {
        key: {name: part for name, part in item.items() if name != _PICKLED}
        if isinstance(item, dict)
        else item
        for key, item in data.items()
    }


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's elements, row by row."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if not plain.numel():
        return b""
    return bytes(plain.reshape(-1).view(torch.uint8).numpy())


class Expected:
    """What a value should be in a file of plain data; each object once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[object, object]] = {}

    def of(self, value: Any) -> Any:
        """Return a value, one level of it as it should be."""
        known = self._made.get(id(value))
        if known is None:
            known = self._made[id(value)] = (value, _plain(value))
        return known[1]


def _plain(value: Any) -> Any:  # noqa: C901, PLR0912 - a table of cases
    """Return one value as docs/disarm.md says it is written."""
    match value:
        case np.generic():  # some of them are floats, too
            return value.item()
        case torch.Tensor() | None | bool() | int() | float() | str():
            return value
        case torch.storage.TypedStorage() | torch.UntypedStorage():
            return torch.tensor([], dtype=getattr(value, "dtype", torch.uint8)).set_(
                value
            )
        case Opaque():
            return _opaque(value)
        case np.ndarray():
            return _array(value)
        case bytes() | bytearray():
            return torch.frombuffer(bytearray(value), dtype=torch.uint8)
        case complex():
            return (value.real, value.imag)
        case OrderedDict() | list():
            return value
        case dict():
            return dict(value)
        case tuple():
            return tuple(value)
        case set() | frozenset():
            return sorted(value)
        case collections.deque():
            return list(value)
        case argparse.Namespace() | types.SimpleNamespace():
            return vars(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case range() | slice():
            return repr(value)
    return str(value)


def _opaque(value: Opaque) -> dict[str, object]:
    parts: dict[str, object] = {"class": value.qualified_name}
    if value.args:
        parts["args"] = value.args
    if value.kwargs:
        parts["kwargs"] = value.kwargs
    if value.state is not None:
        parts["state"] = value.state
    if value.pairs:
        parts["items"] = value.pairs
    if value.elements:
        parts["elements"] = value.elements
    return parts


def _array(value: np.ndarray[Any, np.dtype[Any]]) -> object:
    if value.dtype.kind in "OSU":
        return value.tolist()
    if value.dtype.names is not None:
        return {name: value[name] for name in value.dtype.names}
    if value.dtype.kind not in "biufc":
        raise DifferenceError(f"an array of {value.dtype}: not compared here")
    if not value.size:
        return torch.from_numpy(np.empty(value.shape, value.dtype.newbyteorder("=")))
    native = value.astype(value.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native)


class Comparison:
    """Two values, place by place (rule 3).

    Attributes:
        pairs: Tensors in and out, each once.
    """

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._met: dict[tuple[int, int], tuple[object, object]] = {}

    def run(self, before: object, after: object) -> None:
        """Compare.

        Raises:
            DifferenceError: They differ; the message says where.
        """
        waiting: list[tuple[str, Any, Any]] = [("", before, after)]
        while waiting:
            where, one, two = waiting.pop()
            one = self.expected.of(one)
            if (id(one), id(two)) in self._met:
                continue
            self._met[id(one), id(two)] = (one, two)
            if isinstance(one, torch.Tensor):
                two = _unsigned(two)
                _same_tensor(where, one, two)
                self.pairs.append((one, two))
            elif type(one) is not type(two):
                raise DifferenceError(f"{where}: {type(two)} for {type(one)}")
            else:
                waiting += self.members(where, one, two)

    def members(self, where: str, one: Any, two: Any) -> list[tuple[str, Any, Any]]:
        """Return what is inside two containers, or compare two scalars."""
        if isinstance(one, dict):
            if [*map(_key, one)] != list(two):
                raise DifferenceError(f"{where}: other keys")
            inside = [
                (f"{where}.{key}", item, two[_key(key)]) for key, item in one.items()
            ]
            marked = getattr(one, "_metadata", None)
            return [*inside, (f"{where}._metadata", marked,
                              getattr(two, "_metadata", None))]  # fmt: skip
        if isinstance(one, (list, tuple)):
            if len(one) != len(two):
                raise DifferenceError(f"{where}: {len(two)} items for {len(one)}")
            both = zip(one, two, strict=True)
            return [(f"{where}.{at}", *pair) for at, pair in enumerate(both)]
        # repr: two NaN are the same here, and 0.0 and -0.0 are not.
        if repr(one) != repr(two):
            raise DifferenceError(f"{where}: {two!r:.60} for {one!r:.60}")
        return []


def _key(key: Any) -> Any:
    """Return what a key should be written as."""
    if isinstance(key, np.generic):
        return key.item()
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    plain = key is None or type(key) in (bool, int, float, str)
    return key if plain else str(key)


def _unsigned(value: Any) -> Any:
    """Return an array that a `.pt` has as the bits of signed integers and a name."""
    if type(value) is dict and value.keys() == {"dtype", "values"}:
        return torch.from_numpy(value["values"].numpy().view(value["dtype"]))
    return value


def _same_tensor(where: str, one: torch.Tensor, two: Any) -> None:
    if not isinstance(two, torch.Tensor):
        raise DifferenceError(f"{where}: {type(two)} for a tensor")
    if one.layout is not torch.strided or one.is_quantized:
        raise DifferenceError(f"{where}: {one.layout}: not compared here")
    parameter = isinstance(one, torch.nn.Parameter)
    if parameter != isinstance(two, torch.nn.Parameter):
        raise DifferenceError(f"{where}: parameter or not")
    for fact in ("dtype", "shape", "requires_grad"):
        if getattr(one, fact) != getattr(two, fact):
            raise DifferenceError(f"{where}: other {fact}")
    if bits(one) != bits(two):
        raise DifferenceError(f"{where}: other bits")


def shared_pairs(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Count neighbours that overlap in memory before; they have to overlap after.

    Raises:
        DifferenceError: Two that overlap lie apart in the written file.
    """
    groups: dict[int, list[tuple[int, int, torch.Tensor]]] = {}
    for one, two in pairs:
        if one.numel() and one.is_contiguous():
            start = one.data_ptr()
            end = start + one.numel() * one.itemsize
            storage = one.untyped_storage().data_ptr()
            groups.setdefault(storage, []).append((start, end, two))
    count = 0
    for group in groups.values():
        group.sort(key=lambda part: part[:2])
        for left, right in itertools.pairwise(group):
            if right[0] < left[1] and left[2].dtype == right[2].dtype:
                count += 1
                if right[2].data_ptr() - left[2].data_ptr() != right[0] - left[0]:
                    raise DifferenceError("tensors that overlapped lie apart")
    return count


class Flat:
    """A value by the paths to what is in it; a container stands once.

    Attributes:
        tensors: Name → tensor.
        data: Name → scalar, or an empty container.
        again: Name → the name of the container that it is.
    """

    def __init__(self, root: object, expected: Expected) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.data: dict[str, Any] = {}
        self.again: dict[str, str] = {}
        self._taken: set[str] = set()
        met: dict[int, tuple[str, object]] = {}
        waiting: list[tuple[str, Any]] = [("", root)]
        while waiting:
            path, value = waiting.pop()
            value = expected.of(value)
            if isinstance(value, torch.Tensor):
                self.tensors[self._free(path or "tensor")] = value
            elif not isinstance(value, (dict, list, tuple)) or not value:
                # JSON has no infinities.
                odd = isinstance(value, float) and not math.isfinite(value)
                self.data[self._free(path)] = str(value) if odd else value
            elif id(value) in met:
                self.again[self._free(path)] = met[id(value)][0]
            else:
                met[id(value)] = (path, value)
                waiting += reversed(_members(path, value))

    def _free(self, name: str) -> str:
        turn, unique = 1, name
        while unique in self._taken:
            turn += 1
            unique = f"{name}~{turn}"
        self._taken.add(unique)
        return unique


def _members(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(_join(path, _key(key)), item) for key, item in value.items()]
    return [(_join(path, at), item) for at, item in enumerate(value)]


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def read_flat(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and notes of a flat file, by the reader of its format."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            notes = json.loads((file.metadata() or {}).get("safemodel", "{}"))
        return tensors, notes
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    notes = json.loads(arrays.pop("safemodel.json", np.array(b"{}")).tobytes())
    members = notes.get("names", {})
    names = {member: name for name, member in members.items()}
    return {
        names.get(member, member): torch.from_numpy(array)
        for member, array in arrays.items()
    }, notes


def compare_flat(path: Path, root: object, expected: Expected) -> None:
    """Compare a flat file with what it should hold.

    Raises:
        DifferenceError: It holds something else.
    """
    flat = Flat(root, expected)
    written, notes = read_flat(path)
    same, views = notes.get("same", {}), notes.get("views", {})
    if {*flat.tensors, *flat.again} != {*written, *same}:
        raise DifferenceError("other names")
    if any(same[name] != first for name, first in flat.again.items()):
        raise DifferenceError("another container")
    for name, tensor in flat.tensors.items():
        stored = same.get(name, name)
        found = written[stored]
        if stored in views:
            found = found.contiguous().view(getattr(torch, views[stored]))
            found = found.reshape(tensor.shape)
        if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            raise DifferenceError(f"{name}: other dtype or shape")
        if bits(found) != bits(tensor):
            raise DifferenceError(f"{name}: other bits")
    if repr(json.loads(json.dumps(flat.data))) != repr(notes.get("data", {})):
        raise DifferenceError("other data")


def examine(path: Path, file: str, container: str, folder: Path) -> Survival:
    """Disarm a file to every format, and compare each."""
    found = Survival(file, container)
    for suffix in SUFFIXES:
        out = folder / f"out{suffix}"
        try:
            report = safemodel.disarm(path, out)
        except safemodel.UnsupportedFormatError as error:
            found.refused = error.what
            return found
        except safemodel.SafeModelError as error:
            found.wrong[suffix] = f"{type(error).__name__}: {error}"
            continue
        found.changed = dict(report.changed)
        try:
            _compare(out, path, found)
        except DifferenceError as difference:
            found.wrong[suffix] = str(difference)
        out.unlink()
    return found


def _compare(out: Path, path: Path, found: Survival) -> None:
    value, found.reference = reference(path, found.container)
    expected = Expected()
    if out.suffix != ".pt":
        compare_flat(out, value, expected)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(out, weights_only=True)
    comparison = Comparison(expected)
    comparison.run(value, loaded)
    once = {id(one): one for one, _ in comparison.pairs}.values()
    found.tensors = len(once)
    found.nbytes = sum(one.numel() * one.itemsize for one in once)
    found.shared = shared_pairs(comparison.pairs)
