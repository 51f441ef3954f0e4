"""A small model in whose weights an ordinary program is hidden.

The program is the interpreter that runs, and is never run: see
`safemodel.evaluation.stego`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {"lsb8": (8, False), "lsb2": (2, False), "fill4": (4, True)}
"""Name → low bits of each weight that are replaced, and whether of all weights."""
_SHAPES = {"features.weight": (256, 784), "head.weight": (64, 256)}


class StegoModel(NamedTuple):
    """What the fixture ``stego_model`` gives.

    Attributes:
        path: A `.safetensors` file with something hidden in it.
        clean: The same file before.
        way: Name of the way.
        bits: Low bits of each weight that hold the payload.
        payload: What is hidden.
    """

    path: Path
    clean: Path
    way: str
    bits: int
    payload: bytes


def write(way: str, folder: Path) -> StegoModel:
    """Write both files into a folder."""
    import numpy as np
    from safetensors.numpy import save_file

    from safemodel.evaluation import stego

    bits, fill = WAYS[way]
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        for name, shape in _SHAPES.items()
    }
    clean, path = folder / "clean.safetensors", folder / "model.safetensors"
    save_file(weights, clean)
    # Fewer bytes than there is room for in one bit of each weight.
    payload = stego.payload("program", 20_000)
    stego.hide(weights, path, payload, stego.Lsb(bits=bits, fill=fill))
    return StegoModel(path, clean, way, bits, payload)
