"""Sparse tensors, every index of which is proved.

torch trusts the *values* of index tensors: `to_dense` of a sparse tensor with an
index outside its size writes outside its memory. So every index is proved first.

1. COO: 0 <= index < size. Coalesced: columns strictly increase, lexicographically.
2. Compressed: starts at 0, never decreases, ends at the number of values; plain
   indices lie in range and strictly increase within a row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from safemodel._build.parts import (
    LAYOUTS,
    built_tensor,
    plain,
    require,
    torch_may_refuse,
)
from safemodel.errors import StorageBoundsError

if TYPE_CHECKING:
    from safemodel._graph.specs import SparseSpec

Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_COMPRESSED = {
    # layout: (rows are compressed, values are blocks)
    "sparse_csr": (True, False),
    "sparse_csc": (False, False),
    "sparse_bsr": (True, True),
    "sparse_bsc": (False, True),
}


def _indices(tensor: torch.Tensor, axes: int, name: str) -> Indices:
    """Return index values; refuses what is no integer tensor of so many axes."""
    require(
        name,
        holds=tensor.dtype in (torch.int32, torch.int64)
        and tensor.dim() == axes
        and tensor.layout is torch.strided,
        otherwise="indices are not an integer tensor of the right rank",
    )
    return tensor.detach().cpu().numpy()


def build_sparse(spec: SparseSpec) -> None:
    """Build a sparse tensor whose indices are proved.

    Raises:
        ForbiddenCallError: The parts do not make a sparse tensor (rules 1 and 2).
        StorageBoundsError: An index lies outside its size.
    """
    with torch_may_refuse(spec.layout):
        parts = [plain(built_tensor(part).detach()) for part in spec.parts]
        proved = all(part.device.type != "meta" for part in parts)
        if spec.layout == "sparse_coo":
            tensor = _coo(spec, *parts, proved=proved)
        else:
            tensor = _compressed(spec, *parts, proved=proved)
    if spec.requires_grad and (tensor.is_floating_point() or tensor.is_complex()):
        tensor.requires_grad_()
    spec.built = tensor


def _coo(
    spec: SparseSpec, indices: torch.Tensor, values: torch.Tensor, *, proved: bool
) -> torch.Tensor:
    axes = indices.shape[0] if indices.dim() == 2 else -1
    require(
        spec.layout,
        holds=0 <= axes <= len(spec.shape)
        and values.dim() >= 1
        and values.shape[0] == indices.shape[1]
        and tuple(values.shape[1:]) == spec.shape[axes:],
        otherwise="indices, values and size do not fit together",
    )
    if proved:
        _prove_coo(spec, _indices(indices, 2, spec.layout), spec.shape[:axes])
    return torch.sparse_coo_tensor(
        indices,
        values,
        spec.shape,
        device=values.device,  # whatever the default device is at the moment
        check_invariants=False,  # proved above
        is_coalesced=spec.coalesced,
    )


def _prove_coo(spec: SparseSpec, index: Indices, shape: tuple[int, ...]) -> None:
    """Prove rule 1."""
    if index.shape[1]:
        for row, length in zip(index, shape, strict=True):
            low, high = int(row.min()), int(row.max())
            if low < 0 or high >= length:
                raise StorageBoundsError(
                    "sparse index", needed=min(low, high + 1) if low < 0 else high + 1,
                    available=length,
                )  # fmt: skip
        if spec.coalesced and index.shape[1] > 1:
            step = np.diff(index, axis=1)
            # The first axis that changes decides; none changing is a duplicate.
            first = (step != 0).argmax(axis=0) if len(step) else None
            grows = first is not None and bool(
                (np.take_along_axis(step, first[None], axis=0) > 0).all()
            )
            require(spec.layout, holds=grows, otherwise="is not coalesced as it says")


def _compressed_counts(
    spec: SparseSpec,
    compressed: torch.Tensor,
    plain: torch.Tensor,
    values: torch.Tensor,
) -> tuple[int, int]:
    """Return (compressed, plain) blocks of a matrix; refuse shapes that do not fit."""
    by_row, blocked = _COMPRESSED[spec.layout]
    batch = compressed.dim() - 1
    axes = len(spec.shape)
    require(
        spec.layout,
        holds=0 <= batch <= axes - 2
        and plain.dim() == batch + 1
        and compressed.dtype == plain.dtype
        and values.dim() == axes - 1 + 2 * blocked
        and compressed.shape[:-1] == plain.shape[:-1] == values.shape[:batch]
        and tuple(plain.shape[:-1]) == spec.shape[:batch]
        and values.shape[batch] == plain.shape[-1]
        and tuple(values.shape[batch + 1 + 2 * blocked :]) == spec.shape[batch + 2 :],
        otherwise="indices, values and size do not fit together",
    )
    block = tuple(values.shape[batch + 1 : batch + 3]) if blocked else (1, 1)
    matrix = spec.shape[batch : batch + 2]
    require(
        spec.layout,
        holds=min(block) > 0 and not matrix[0] % block[0] and not matrix[1] % block[1],
        otherwise="blocks do not divide the size",
    )
    counts = (matrix[0] // block[0], matrix[1] // block[1])
    return counts if by_row else counts[::-1]


def _compressed(
    spec: SparseSpec,
    compressed: torch.Tensor,
    plain: torch.Tensor,
    values: torch.Tensor,
    *,
    proved: bool,
) -> torch.Tensor:
    rows, columns = _compressed_counts(spec, compressed, plain, values)
    if proved:
        starts = _indices(compressed, compressed.dim(), spec.layout)
        index = _indices(plain, plain.dim(), spec.layout)
        require(
            spec.layout,
            holds=starts.shape[-1] == rows + 1,
            otherwise="compressed indices do not fit the size",
        )
        starts = starts.reshape(math.prod(starts.shape[:-1]), rows + 1)
        index = index.reshape(len(starts), index.shape[-1])
        for start, plain_index in zip(starts, index, strict=True):
            _prove_compressed(spec, start, plain_index, columns)
    return torch.sparse_compressed_tensor(
        compressed,
        plain,
        values,
        spec.shape,
        layout=LAYOUTS[spec.layout],
        device=values.device,
        check_invariants=proved,
    )


def _prove_compressed(
    spec: SparseSpec, starts: Indices, index: Indices, columns: int
) -> None:
    """Prove rule 2 for one matrix of a batch."""
    rises = starts[1:] >= starts[:-1]
    require(
        spec.layout,
        holds=int(starts[0]) == 0
        and int(starts[-1]) == len(index)
        and bool(rises.all()),
        otherwise="compressed indices do not partition the values",
    )
    if not len(index):
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= columns:
        raise StorageBoundsError(
            "sparse index", needed=low if low < 0 else high + 1, available=columns
        )
    first = np.zeros(len(index) + 1, dtype=bool)
    first[starts] = True  # a new row may start anywhere
    grows = (index[1:] > index[:-1]) | first[1 : len(index)]
    require(
        spec.layout, holds=bool(grows.all()), otherwise="indices of a row do not rise"
    )
