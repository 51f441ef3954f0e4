"""Plain files, what can be done to protected ones, and where their parts lie."""

from __future__ import annotations

import io
import json
import struct
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import save

from safemodel._containers.source import open_source
from safemodel._protect.frames import find_seal
from safemodel._protect.opening import Opened, open_protected
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.protect.helpers_protect import KEY

BIG = 700_000
"""Elements of a float32 tensor of more than two chunks."""


def tensors() -> dict[str, torch.Tensor]:
    """Return tensors of which each is odd in another way."""
    made = torch.Generator().manual_seed(7)
    return {
        "layer.weight": torch.randn(300, 200, generator=made),
        "layer.bias": torch.randn(200, generator=made),
        "scale": torch.tensor(1.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False, True]),
        "steps": torch.arange(9),
        "nan": torch.tensor([0x7FC00123, -0x7F1234], dtype=torch.int32).view(
            torch.float32
        ),
        "half": torch.randn(33, generator=made).half(),
        "double": torch.randn(5, generator=made).double(),
    }


def safetensors_file(more: dict[str, torch.Tensor] | None = None) -> bytes:
    """Return a `.safetensors` file with metadata."""
    return save(tensors() | (more or {}), {"author": "somebody", "format": "pt"})


def torch_file(more: dict[str, Any] | None = None) -> bytes:
    """Return a `.pt` file with tied, strided and quantised tensors, and plain data."""
    held = tensors()
    held["tied"] = held["layer.weight"]
    held["strided"] = torch.arange(24.0).reshape(4, 6).t()[1:]
    held["complex"] = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128)
    held["float8"] = torch.arange(5.0).to(torch.float8_e4m3fn)
    held["unsigned"] = torch.tensor([1, 2, 3], dtype=torch.uint16)
    file = io.BytesIO()
    torch.save(
        {"model": OrderedDict(held), "lr": 0.1, "note": "secret", **(more or {})}, file
    )
    return file.getvalue()


def opened(data: bytes) -> Opened:
    """Return a protected file, opened."""
    return open_protected(open_source(data), KEY, limits=DEFAULT_LIMITS)


def hole(data: bytes) -> tuple[int, int]:
    """Return where the seal lies in a protected file."""
    found = find_seal(open_source(data), DEFAULT_LIMITS)
    assert found is not None
    return found.start, found.end


def stored_spans(data: bytes) -> list[tuple[int, int]]:
    """Return where each stored tensor lies in a protected file."""
    of = opened(data)
    spans = list(of.contents.gaps(_lengths(of)))
    return [(a[1], b[0]) for a, b in pairwise(spans[1:])]


def _lengths(of: Opened) -> tuple[int, ...]:
    order = sorted(
        range(len(of.manifest.pools)),
        key=lambda number: -of.manifest.pools[number].itemsize,
    )
    return tuple(
        extent.length for number in order for extent in of.manifest.pools[number].stored
    )


def flipped(data: bytes, place: int, bit: int = 1) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= bit
    return bytes(changed)


def safetensors_header(data: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header
