"""Records → bytes in memory, and bytes → what numbers of this machine are; no torch.

What builds tensors and what writes files without building any both go through here.
A CRC-32 is taken over chunks that were just read, while they are in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from safemodel._build.checksums import crc32
from safemodel._containers.records import STORED
from safemodel.errors import StorageBoundsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._containers.records import Record
    from safemodel._graph.specs import StorageSpec
    from safemodel.limits import Limits

__all__ = ["STORED", "fill", "normalise_bool", "settle"]
_CHUNK = 4 << 20


def fill(target: memoryview, record: Record, *, verify: bool, limits: Limits) -> None:
    """Copy the first bytes of a record into memory, checking all of the record.

    Raises:
        ChecksumError: The bytes are not those the archive describes.
        StorageBoundsError: The record is shorter than the target.
        TruncatedFileError: The file is shorter than the record.
        LimitExceededError: A deflated record inflates beyond the limits.
    """
    size = target.nbytes
    if size > record.size:
        raise StorageBoundsError(
            "storage", needed=size, available=record.size, record=record.name
        )
    if record.method != STORED or size < record.size:
        target[:] = record.read(limits=limits, verify=verify)[:size]
        return
    source, offset = record.source, record.offset
    if not verify or record.crc32 is None:
        source.read_into(offset, target)
        return
    checksum = 0
    for start in range(0, size, _CHUNK):
        part = target[start : start + _CHUNK]
        source.read_into(offset + start, part)
        checksum = crc32(part, checksum)
    record.check_crc32(checksum)


def normalise_bool(values: NDArray[np.uint8]) -> None:
    """Turn bytes above 1 into 1: torch's kernels assume that a bool is 0 or 1."""
    if values.size and values.max() > 1:
        np.minimum(values, 1, out=values)


def settle(values: NDArray[np.uint8], spec: StorageSpec) -> None:
    """Give bytes of a storage the order and the values that this machine expects.

    Args:
        values: Bytes from any whole number of it on; changed in place.
        spec: The storage they are of.
    """
    if spec.big_endian:
        _swap(values, spec)
    if spec.dtype == "bool":
        normalise_bool(values)


def _swap(values: NDArray[np.uint8], spec: StorageSpec) -> None:
    """Reverse the bytes of each element; of each component, where it is complex."""
    unit = spec.itemsize // 2 if spec.dtype.startswith("complex") else spec.itemsize
    unit = spec.swapped or unit
    if unit > 1:
        # Untyped bytes need not be whole numbers at their end.
        whole = values[: len(values) // unit * unit]
        whole.view(f"u{unit}").byteswap(inplace=True)
