"""Records → torch storages: read, check, swap, place.

1. Copying gives every storage memory of its own that torch allocated, so that it can
   be resized, pinned and outlive the file.
2. Mapping gives tensors over a private map of the file. What cannot be mapped as it
   is (deflated, misaligned, big-endian, bool bytes above 1) is copied instead.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from safemodel._build.checksums import crc32
from safemodel._build.dtypes import torch_dtype
from safemodel._build.record_bytes import STORED, fill, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from safemodel._build.devices import Placement
    from safemodel._graph.specs import Spec, StorageSpec
    from safemodel.limits import Limits

_LARGE = 1 << 20  # from here on a storage is worth a thread's attention
_WORKERS = min(2, os.cpu_count() or 1)


class Storages:
    """The storages of one graph, each built once."""

    __slots__ = (
        "_built",
        "_limits",
        "_maps",
        "_mmap",
        "_placement",
        "_sole",
        "_verify",
    )

    def __init__(
        self,
        placement: Placement,
        sole: Mapping[StorageSpec, Spec | None],
        *,
        mmap: bool,
        verify: bool,
        limits: Limits,
    ) -> None:
        self._sole = sole
        self._placement = placement
        self._mmap = mmap
        self._verify = verify
        self._limits = limits
        self._built: dict[StorageSpec, torch.UntypedStorage] = {}
        self._maps: dict[int, tuple[object, memoryview | None]] = {}

    def load(self, specs: Iterable[StorageSpec]) -> None:
        """Build storages ahead of use, large ones on two threads.

        Raises:
            SafeModelError: A record is damaged or too short.
        """
        large: list[StorageSpec] = []
        for spec in specs:
            if spec not in self._built:
                if self._is_slow(spec):
                    large.append(spec)
                else:
                    self.untyped(spec)
        if len(large) < 2 or _WORKERS < 2:
            for spec in large:
                self.untyped(spec)
            return
        with ThreadPoolExecutor(_WORKERS) as pool:
            try:
                filled = list(pool.map(self._copy, large))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for spec, storage in zip(large, filled, strict=True):
            self._built[spec] = self._place(storage, spec)

    def _is_slow(self, spec: StorageSpec) -> bool:
        return (
            spec.record is not None
            and not self._mmap
            and not self._placement.meta
            and spec.numel * spec.itemsize >= _LARGE
        )

    def untyped(self, spec: StorageSpec) -> torch.UntypedStorage:
        """Return the storage of a spec, built now unless it was before."""
        storage = self._built.get(spec)
        if storage is None:
            storage = self._built[spec] = self._make(spec)
        return storage

    def _make(self, spec: StorageSpec) -> torch.UntypedStorage:
        sole = self._sole.get(spec)
        if sole is not None and isinstance(sole.built, torch.Tensor):
            return sole.built.untyped_storage()  # built without its storage
        if self._placement.meta:
            return _meta_storage(spec.numel * spec.itemsize)
        mapped = self.mapped(spec, torch.uint8)
        if mapped is not None:
            return self._place(mapped.untyped_storage(), spec)
        return self._place(self._copy(spec), spec)

    def _place(
        self, storage: torch.UntypedStorage, spec: StorageSpec
    ) -> torch.UntypedStorage:
        if self._placement.keeps_cpu(spec.location):
            return storage
        return self._placement.place(storage, spec.location)

    def _copy(self, spec: StorageSpec) -> torch.UntypedStorage:
        size = spec.numel * spec.itemsize
        memory = torch.empty(size, dtype=torch.uint8, device="cpu")
        if spec.record is not None and size:
            values = memory.numpy()
            fill(values.data, spec.record, verify=self._verify, limits=self._limits)
            settle(values, spec)
        return memory.untyped_storage()

    def mapped(self, spec: StorageSpec, dtype: torch.dtype) -> torch.Tensor | None:
        """Return a flat tensor over the file's private map, or None (rule 2)."""
        record = spec.record
        size = spec.numel * spec.itemsize
        if (
            not self._mmap
            or record is None
            or not size
            or record.method != STORED
            or record.size < size
            or record.offset % spec.itemsize
            or spec.big_endian
        ):
            return None
        source = record.source
        entry = self._maps.get(id(source))
        if entry is None:
            # The source is kept beside its map: its id must not be given to another.
            entry = self._maps[id(source)] = (source, source.private_map())
        whole = entry[1]
        if whole is None or record.offset + record.size > len(whole):
            return None
        if self._verify and record.crc32 is not None:
            part = whole[record.offset : record.offset + record.size]
            record.check_crc32(crc32(part))
        flat = torch.frombuffer(
            whole, dtype=dtype, count=size // dtype.itemsize, offset=record.offset
        )
        if spec.dtype == "bool" and int(flat.max()) > 1:
            return None
        return flat

    def is_built(self, spec: StorageSpec) -> bool:
        """Whether tensors of this storage have to share it."""
        return spec in self._built


def _meta_storage(size: int) -> torch.UntypedStorage:
    make: Callable[..., torch.UntypedStorage] = torch.UntypedStorage
    return make(size, device="meta")


def wrapped(
    untyped: torch.UntypedStorage, spec: StorageSpec
) -> torch.UntypedStorage | torch.storage.TypedStorage:
    """Return what the file holds: an untyped storage, or a typed one around it."""
    if not spec.typed:
        return untyped
    make: Callable[..., torch.storage.TypedStorage] = torch.storage.TypedStorage
    return make(wrap_storage=untyped, dtype=torch_dtype(spec.dtype), _internal=True)
