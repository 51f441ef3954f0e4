"""Tensors → the bytes of a file, by the libraries of its format."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from typing import Any


def saved(tensors: dict[str, Any], *, safetensors: bool) -> bytes | memoryview:
    """Return a file of a mapping of tensors.

    Args:
        tensors: The mapping.
        safetensors: Whether it is to be a `.safetensors` file, which holds no tied
            tensors and only dense ones. In a `.pt` file tied tensors stay tied.

    Raises:
        TypeError: A value is no tensor.
        ValueError: The format cannot hold them.
    """
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"a mapping of tensors is protected; {type(name).__name__} key has a"
                f" {type(value).__name__}"
            )
    if safetensors:
        from safetensors.torch import save

        try:
            return save({name: t.contiguous() for name, t in tensors.items()})
        except (RuntimeError, ValueError, KeyError) as error:
            why = "not all are dense and of a dtype it has"
            if "share memory" in str(error):
                why = "some share their memory"
        # Outside the handler: those errors have names of tensors, and many lines.
        raise ValueError(
            f"no .safetensors file can hold these tensors, {why}; write .pt"
        )
    file = BytesIO()
    torch.save(tensors, file)
    return file.getbuffer()
