"""Who is measured: each contender is a function from a path to what it loads.

All run in one process on the same file, one after the other, so that a ratio
compares like with like. Everything goes to the CPU: many real files name a GPU.
The unrestricted unpickler reads only a pickle that generate.py has just made: it is
here for its speed, never for files of others.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from safemodel import safe_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def ours(path: Path) -> Any:
    """Load with the defaults: copying, checksums verified, unknown names refused."""
    return safe_load(path, "cpu")


def ours_mmap(path: Path) -> Any:
    """Load with tensors mapped privately from the file."""
    return safe_load(path, mmap=True)


def torch_strict(path: Path) -> Any:
    """Load with torch's restricted unpickler."""
    return torch.load(path, "cpu", weights_only=True)


def torch_mmap(path: Path) -> Any:
    """Load with torch's restricted unpickler, tensors mapped from the file."""
    return torch.load(path, weights_only=True, mmap=True)


def safetensors(path: Path) -> Any:
    """Load the same tensors from a .safetensors file."""
    return load_file(path)


def unrestricted(path: Path) -> Any:
    """Read our own pickle with the C unpickler: the speed of running whatever."""
    with path.open("rb") as file:
        return pickle.load(file)


CONTENDERS: dict[str, Callable[[Path], Any]] = {
    "safe_load": ours,
    "safe_load mmap": ours_mmap,
    "torch": torch_strict,
    "torch mmap": torch_mmap,
    "safetensors": safetensors,
    "pickle (C, unrestricted)": unrestricted,
}


def differences(left: object, right: object) -> list[str]:
    """Return where two loaded values differ, bit for bit; empty if nowhere."""
    found: list[str] = []
    todo: list[tuple[str, Any, Any]] = [("", left, right)]
    seen: set[tuple[int, int]] = set()
    while todo:
        where, a, b = todo.pop()
        if (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if type(a) is not type(b):
            found.append(f"{where}: {type(a).__name__} and {type(b).__name__}")
        elif isinstance(a, dict) and list(a) == list(b):
            todo += [(f"{where}[{key!r}]", a[key], b[key]) for key in a]
        elif isinstance(a, list | tuple) and len(a) == len(b):
            todo += [(f"{where}[{i}]", a[i], b[i]) for i in range(len(a))]
        elif not _same_leaf(a, b):
            found.append(f"{where}: {a!r:.60} and {b!r:.60}")
    return found


def _same_leaf(a: object, b: object) -> bool:
    """Return whether two tensors, arrays or scalars of one type are the same."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same_tensor(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape
        return same and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether dtype, layout in memory and every bit agree."""
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.requires_grad != b.requires_grad or a.is_quantized != b.is_quantized:
        return False
    if a.layout is not torch.strided or a.is_quantized:
        return repr(a) == repr(b)
    if a.stride() != b.stride():
        return False
    left, right = (x.detach().contiguous().reshape(-1) for x in (a, b))
    return torch.equal(left.view(torch.uint8), right.view(torch.uint8))
