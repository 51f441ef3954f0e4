"""Tensors → the bytes of a `.pt` file, by torch itself."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from typing import Any


def saved(tensors: dict[str, Any]) -> memoryview:
    """Return what `torch.save` writes of a mapping of tensors.

    Args:
        tensors: The mapping; tied tensors stay tied.

    Raises:
        TypeError: A value is no tensor.
    """
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"a mapping of tensors is protected; {type(name).__name__} key has a"
                f" {type(value).__name__}"
            )
    file = BytesIO()
    torch.save(tensors, file)
    return file.getbuffer()
