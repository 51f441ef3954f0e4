"""What the builders of composed tensors share."""

from __future__ import annotations

import torch

from safemodel._graph.specs import UNBUILT, Spec
from safemodel.errors import ForbiddenCallError

LAYOUTS = {
    "strided": torch.strided,
    "sparse_coo": torch.sparse_coo,
    "sparse_csr": torch.sparse_csr,
    "sparse_csc": torch.sparse_csc,
    "sparse_bsr": torch.sparse_bsr,
    "sparse_bsc": torch.sparse_bsc,
    "_mkldnn": torch._mkldnn,  # type: ignore[attr-defined]
    "jagged": torch.jagged,
}


def built_tensor(spec: Spec) -> torch.Tensor:
    """Return the tensor a part was built to."""
    built = spec.built
    if built is UNBUILT or not isinstance(built, torch.Tensor):
        raise TypeError(f"{type(spec).__name__} is no built tensor")
    return built


def require(name: str, *, holds: bool, otherwise: str) -> None:
    """Refuse arguments that would make torch read or write outside its memory."""
    if not holds:
        raise ForbiddenCallError(name, otherwise)
