"""What a result holds: every storage, array and opaque object that can be reached."""

from __future__ import annotations

import argparse
import collections
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from safemodel import Opaque
from tests.differential.same import storage_bytes

_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def reachable(result: object) -> Iterator[Any]:
    """Yield every object of a result once, containers and their keys included."""
    waiting: list[Any] = [result]
    seen: dict[int, object] = {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept alive, so that no identity comes back
        yield value
        waiting += _inside(value)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Opaque):
        return [
            value.args, value.kwargs, value.state, value.pairs, value.elements
        ]  # fmt: skip
    if isinstance(value, dict):
        return [*value, *value.values(), getattr(value, "_metadata", None)]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    if isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
        return [vars(value)]
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return value.ravel().tolist()
    if isinstance(value, torch.Tensor):
        if value.layout in _PARTS:
            return [getattr(value.detach(), part)() for part in _PARTS[value.layout]]
        if value.is_quantized and value.qscheme() is not torch.per_tensor_affine:
            return [value.q_per_channel_scales(), value.q_per_channel_zero_points()]
        return [value.untyped_storage()]
    if isinstance(value, torch.storage.TypedStorage):
        return [value._untyped_storage]
    return []


def contents(result: object) -> set[bytes]:
    """Return the bytes of every storage, array and scalar that can be reached."""
    found: set[bytes] = set()
    for value in reachable(result):
        if isinstance(value, torch.UntypedStorage) and value.device.type == "cpu":
            found.add(storage_bytes(value))
        elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
            found.add(value.tobytes("A"))
    return found
