"""Files of torch, and whether two values hold the same numbers, bit for bit."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import torch


def saved(value, **options) -> bytes:
    """Return the bytes of a file of torch's."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, file, **options)
    return file.getvalue()


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Return where two values differ in type, shape or a bit; empty if nowhere."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if _same_tensor(left, right) else [f"{where}: {left} and {right}"]
    if type(left) is not type(right):
        return [f"{where}: {type(left).__name__} and {type(right).__name__}"]
    if isinstance(left, dict) and list(left) == list(right):
        return [
            found
            for key in left
            for found in differences(left[key], right[key], f"{where}[{key!r}]")
        ]
    if isinstance(left, (list, tuple)) and len(left) == len(right):
        return [
            found
            for at, pair in enumerate(zip(left, right, strict=True))
            for found in differences(*pair, f"{where}[{at}]")
        ]
    if isinstance(left, np.ndarray):
        same = left.dtype == right.dtype and left.tobytes() == right.tobytes()
        return [] if same else [f"{where}: arrays"]
    return [] if repr(left) == repr(right) else [f"{where}: {left!r} and {right!r}"]


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a strided tensor, row by row, conjugated as it reads."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    whole = plain.flatten().clone(memory_format=torch.contiguous_format)
    return whole.view(torch.uint8).numpy().tobytes()


def _same_tensor(left: torch.Tensor, right: torch.Tensor) -> bool:
    facts = ("dtype", "shape", "layout", "requires_grad", "is_quantized", "is_meta")
    if type(left) is not type(right):
        return False
    if any(getattr(left, name) != getattr(right, name) for name in facts):
        return False
    if left.is_meta:
        return True
    if left.is_quantized:
        return repr(left) == repr(right) and torch.equal(
            left.int_repr(), right.int_repr()
        )
    if left.layout is not torch.strided:
        return repr(left) == repr(right)
    return bits(left) == bits(right)
