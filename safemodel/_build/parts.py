"""What the builders of composed tensors share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from safemodel._graph.specs import UNBUILT, Spec
from safemodel.errors import ForbiddenCallError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUTS = {
    "strided": torch.strided,
    "sparse_coo": torch.sparse_coo,
    "sparse_csr": torch.sparse_csr,
    "sparse_csc": torch.sparse_csc,
    "sparse_bsr": torch.sparse_bsr,
    "sparse_bsc": torch.sparse_bsc,
    "_mkldnn": torch._mkldnn,  # type: ignore[attr-defined]  # not exported
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


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with plain strides where they lead nowhere.

    The stride of an axis of one place may be any number, and so may all of them where
    there are no elements. torch's kernels for composed tensors multiply with it, and
    read or write that far outside.
    """
    shape, step = tensor.shape, 1
    strides = list(tensor.stride())
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1 or not tensor.numel():
            strides[axis] = step
        step *= max(shape[axis], 1)
    offset = tensor.storage_offset() if tensor.numel() else 0
    if tuple(strides) == tensor.stride() and offset == tensor.storage_offset():
        # The very same one: that two nested tensors share their offsets says that
        # they are of one shape.
        return tensor
    return tensor.as_strided(shape, strides, offset)


@contextmanager
def torch_may_refuse(name: str) -> Iterator[None]:
    """Make an error of ours of what torch finds that no proof has looked at.

    Raises:
        ForbiddenCallError: torch does not make such a tensor, or not on this device.
    """
    try:
        yield
    except RuntimeError as error:
        first, _, _ = str(error).partition("\n")
        raise ForbiddenCallError(name, quote(first)) from error
