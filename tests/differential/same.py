"""`assert_same`: two results are the same thing, not only equal.

Compares types exactly, order of dictionaries, bits of numbers (NaN payloads and signs
of zero included), strides and offsets, and which objects and storages are shared.
Nothing recurses, so that the depth of a result does not matter.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import struct
import types
from typing import Any

import numpy as np
import torch

from safemodel import Opaque

# Values that can be told apart by content only.
_PLAIN = (
    str, bytes, int, bool, type(None), range, slice, torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch.qscheme, type(...), type(NotImplemented),
    datetime.timedelta, datetime.timezone, datetime.date, np.dtype, np.ufunc,
    decimal.Decimal,
)  # fmt: skip
_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


class DifferenceError(AssertionError):
    """Two results differ; the message says where and how."""


def assert_same(expected: object, actual: object, *, sharing: bool = True) -> None:
    """Raise `DifferenceError` unless two results cannot be told apart.

    Without ``sharing``, storages may be separate where they were one: a pickle that
    is not torch's own file holds the storage of each tensor by itself.
    """
    _Comparison(expected, actual, sharing=sharing).run()


def storage_bytes(storage: torch.UntypedStorage) -> bytes:
    """Return the bytes of a storage on the CPU."""
    if not storage.nbytes():
        return b""
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


class _Comparison:
    def __init__(self, expected: object, actual: object, *, sharing: bool) -> None:
        self.sharing = sharing
        self.waiting: list[tuple[Any, Any, str]] = [(expected, actual, "result")]
        # Identity on one side ↔ identity on the other: who shares with whom.
        self.objects: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.storages: tuple[dict[int, int], dict[int, int]] = ({}, {})
        # Temporaries whose addresses must not be used again meanwhile.
        self.kept: list[object] = []
        self.where = ""

    def run(self) -> None:
        while self.waiting:
            expected, actual, self.where = self.waiting.pop()
            self.check(type(expected), type(actual), "type")
            self.compare(expected, actual)

    def check(self, expected: object, actual: object, what: str) -> None:
        if expected != actual:
            raise DifferenceError(
                f"{self.where}: {what} is {actual!r}, not {expected!r}"
            )

    def push(self, expected: object, actual: object, part: str) -> None:
        self.waiting.append((expected, actual, self.where + part))

    def paired(
        self, tables: tuple[dict[int, int], dict[int, int]], one: int, two: int
    ) -> bool:
        """Note that two identities belong together; say whether that is new."""
        forward, backward = tables
        if forward.get(one, two) != two or backward.get(two, one) != one:
            raise DifferenceError(f"{self.where}: shared with something else")
        new = one not in forward
        forward[one], backward[two] = two, one
        return new

    def compare(self, a: Any, b: Any) -> None:
        kind = type(a)
        if kind is float or kind is complex:
            self.check(_number_bits(a), _number_bits(b), f"bits of {a!r}")
        elif kind is torch.Size or kind is tuple:
            self.items(list(a), list(b))
        elif isinstance(a, np.generic):
            self.array(np.asarray(a), np.asarray(b))
        elif kind is datetime.datetime or kind is datetime.time:
            self.check((a, a.tzinfo, a.fold), (b, b.tzinfo, b.fold), "time")
        elif isinstance(a, _PLAIN):
            self.check(repr(a), repr(b), "value")
        elif kind is frozenset:
            self.check(_unordered(a), _unordered(b), "elements")
        elif kind is torch.UntypedStorage:
            self.storage(a, b)
        elif kind is torch.storage.TypedStorage:
            self.check(a.dtype, b.dtype, "dtype")
            self.storage(a._untyped_storage, b._untyped_storage)
        elif self.paired(self.objects, id(a), id(b)):
            self.shared(a, b)

    def shared(self, a: Any, b: Any) -> None:
        """Compare objects whose identity counts, the first time they are met."""
        kind = type(a)
        if isinstance(a, torch.Tensor):
            self.tensor(a, b)
        elif isinstance(a, dict):
            self.mapping(a, b)
        elif kind is list:
            self.items(a, b)
        elif kind is collections.deque:
            self.check(a.maxlen, b.maxlen, "maxlen")
            self.items(list(a), list(b))
        elif kind is set:
            self.check(_unordered(a), _unordered(b), "elements")
        elif kind is bytearray:
            self.check(a, b, "content")
        elif isinstance(a, np.ndarray):
            self.array(a, b)
        elif kind is Opaque:
            self.check(a.qualified_name, b.qualified_name, "name")
            for part in ("args", "kwargs", "state", "pairs", "elements"):
                self.push(getattr(a, part), getattr(b, part), f".{part}")
        elif kind is argparse.Namespace or kind is types.SimpleNamespace:
            self.push(vars(a), vars(b), ".__dict__")
        else:
            self.check(a, b, f"value of type {kind}")

    def items(self, a: list[Any], b: list[Any]) -> None:
        self.check(len(a), len(b), "length")
        for index in range(len(a)):
            self.push(a[index], b[index], f"[{index}]")

    def mapping(self, a: Any, b: Any) -> None:
        self.check(len(a), len(b), "length")
        for one, two in zip(list(a), list(b), strict=True):
            self.push(one, two, f" key {one!r:.40}")
            self.push(a[one], b[two], f"[{one!r:.40}]")
        if isinstance(a, collections.defaultdict):
            self.check(a.default_factory, b.default_factory, "factory")
        if type(a) is collections.OrderedDict:
            self.push(
                getattr(a, "_metadata", None),
                getattr(b, "_metadata", None),
                "._metadata",
            )

    def storage(self, a: torch.UntypedStorage, b: torch.UntypedStorage) -> None:
        """Compare storages, each pair once."""
        self.kept += [a, b]
        self.check(a.device, b.device, "device of the storage")
        # There are no bytes to share on the meta device: torch makes a storage for
        # every tensor anew there.
        shared = self.sharing and a.device.type != "meta"
        if shared and not self.paired(self.storages, a._cdata, b._cdata):
            return
        self.check(a.nbytes(), b.nbytes(), "bytes of the storage")
        if a.device.type == "cpu" and storage_bytes(a) != storage_bytes(b):
            raise DifferenceError(f"{self.where}: other bytes in the storage")

    def tensor(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for name in (
            "dtype", "layout", "shape", "device", "requires_grad", "is_leaf",
            "is_nested", "is_quantized", "grad",
        ):  # fmt: skip
            if name == "shape" and a.is_nested:
                continue
            self.check(getattr(a, name), getattr(b, name), name)
        if a.layout is torch.sparse_coo:
            self.check(a.is_coalesced(), b.is_coalesced(), "coalesced")
            self.inner(a._indices(), b._indices(), ".indices")
            self.inner(a._values(), b._values(), ".values")
        elif a.layout in _COMPRESSED:
            for part in _COMPRESSED[a.layout]:
                self.inner(getattr(a, part)(), getattr(b, part)(), f".{part}")
        elif a.layout is torch.jagged:
            self.check(a._ragged_idx, b._ragged_idx, "axis")
            self.inner(a.values(), b.values(), ".values")
            self.push(a.offsets(), b.offsets(), ".offsets")
            self.push(a.lengths(), b.lengths(), ".lengths")
        elif a.is_nested:
            self.inner(a._nested_tensor_size(), b._nested_tensor_size(), ".sizes")
            self.inner(
                a._nested_tensor_strides(), b._nested_tensor_strides(), ".strides"
            )
            self.inner(
                a._nested_tensor_storage_offsets(),
                b._nested_tensor_storage_offsets(),
                ".offsets",
            )
            self.storage(a.untyped_storage(), b.untyped_storage())
        else:
            self.strided(a, b)

    def inner(self, a: torch.Tensor, b: torch.Tensor, part: str) -> None:
        """Compare parts that torch makes anew each time they are asked for."""
        a, b = a.detach(), b.detach()
        self.kept += [a, b]
        self.push(a, b, part)

    def strided(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self.check(a.stride(), b.stride(), "stride")
        self.check(a.storage_offset(), b.storage_offset(), "offset")
        self.check(a.is_conj(), b.is_conj(), "conjugate bit")
        self.check(a.is_neg(), b.is_neg(), "negative bit")
        self.storage(a.untyped_storage(), b.untyped_storage())
        if not a.is_quantized:
            return
        self.check(a.qscheme(), b.qscheme(), "scheme")
        if a.qscheme() is torch.per_tensor_affine:
            self.push(a.q_scale(), b.q_scale(), ".scale")
            self.check(a.q_zero_point(), b.q_zero_point(), "zero point")
        else:
            self.check(a.q_per_channel_axis(), b.q_per_channel_axis(), "axis")
            self.check(
                a.q_per_channel_scales().numpy().tobytes(),
                b.q_per_channel_scales().numpy().tobytes(),
                "scales",
            )
            self.check(
                a.q_per_channel_zero_points().numpy().tobytes(),
                b.q_per_channel_zero_points().numpy().tobytes(),
                "zero points",
            )

    def array(self, a: np.ndarray, b: np.ndarray) -> None:
        self.check(repr(a.dtype), repr(b.dtype), "dtype")
        self.check(a.dtype.isalignedstruct, b.dtype.isalignedstruct, "alignment")
        self.check(a.shape, b.shape, "shape")
        if a.size:
            # numpy itself gives an empty array one or the other.
            self.check(a.strides, b.strides, "strides")
        self.check(a.flags.writeable, b.flags.writeable, "writeable")
        if a.dtype.kind == "O":
            self.items(a.ravel().tolist(), b.ravel().tolist())
        elif a.dtype.names is not None:
            # Field by field: what lies between them is copied by nobody.
            for name in a.dtype.names:
                parts = a[name], b[name]
                self.kept += parts
                self.push(*parts, f"[{name!r}]")
        else:
            self.check(a.tobytes("A"), b.tobytes("A"), "bytes")


def _number_bits(value: complex) -> bytes:
    return struct.pack("<dd", complex(value).real, complex(value).imag)


def _unordered(values: Any) -> Any:
    """Return elements by type and value; hashable, so they hold no tensors' content."""
    return collections.Counter((type(value).__name__, repr(value)) for value in values)
