"""Write model files that hold a payload."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel.evaluation.stego._hiding import Embedding, embed

if TYPE_CHECKING:
    from safemodel._types import StrPath
    from safemodel.evaluation.stego._methods import Method


def hide(
    source: StrPath | Mapping[str, Any],
    out: StrPath,
    payload: bytes,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
) -> Embedding:
    """Write a model file whose weights hold a payload.

    It holds the tensors and nothing else of the source. A `.safetensors` file has its
    tensors in the order of their names, so that is the order they are used in. Tied
    tensors stay tied in the other formats; that one cannot say so and holds them twice.

    Args:
        source: A model file, which `safe_load` opens and `state_dict` finds the weights
            in; or a mapping of tensors or arrays.
        out: Where to write: `.pt`, `.pth`, `.bin` or `.safetensors`. It must not exist.
        payload: What to hide; not empty.
        method: How.
        dtype: As for `embed`.
        tensors: As for `embed`.

    Returns:
        What was written, and where.

    Raises:
        TypeError: An argument has another type.
        ValueError: The name says no format, or as for `embed`.
        FileExistsError: There is something at `out`.
        OSError: It cannot be written.
        SafeModelError: The source is refused or holds no weights.
    """
    import torch

    path = Path(out)
    if path.suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        raise ValueError(f"neither .pt, .pth, .bin nor .safetensors: {path.name!r}")
    weights = source if isinstance(source, Mapping) else _weights(source)
    if path.suffix == ".safetensors":
        weights = dict(sorted(weights.items()))
    hidden, embedding = embed(weights, payload, method, dtype=dtype, tensors=tensors)
    made: dict[str, Any] = {}
    copies: dict[int, Any] = {}  # arrays that have two names stay one tensor
    for name, entry in hidden.items():
        if isinstance(entry, np.ndarray):
            copies.setdefault(id(entry), torch.from_numpy(np.ascontiguousarray(entry)))
            made[name] = copies[id(entry)]
        else:
            made[name] = entry
    _write(made, path)
    return embedding


def _write(made: dict[str, Any], path: Path) -> None:
    """Write tensors to a file that is new, or no file at all."""
    import torch

    with path.open("xb") as file:
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import save

                alone = {name: _alone(tensor) for name, tensor in made.items()}
                file.write(save(alone))
            else:
                torch.save(made, file)
        except BaseException:
            path.unlink()
            raise


def _weights(source: StrPath) -> Mapping[str, Any]:
    """Return the weights in a model file."""
    from safemodel._graph.modules import state_dict
    from safemodel._load import safe_load

    return state_dict(safe_load(source))


def _alone(tensor: Any) -> Any:
    """Return a tensor that shares its memory with no other."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"no tensor: {type(tensor).__name__}")
    return tensor.detach().clone(memory_format=torch.contiguous_format)
