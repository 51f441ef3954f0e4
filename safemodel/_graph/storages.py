"""Persistent ids → storages: which record, which element type, how many.

Rules:

1. A persistent id of a storage is ("storage", class, key, location, count), with a
   sixth item in files before torch 1.6 that cuts a view out of a storage.
2. The class is one of the storage classes by name; it gives the element type.
3. The record holds exactly count elements: no fewer, which torch once read past, and
   no more, which would hide bytes.
4. One key has one element type and one count in a file.
5. The location is text for the caller's `map_location`, and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from safemodel._graph.allowlist import STORAGE_DTYPES
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.specs import StorageSpec, StorageViewSpec
from safemodel._unpickle.nodes import GlobalRef, PersistentRef, TensorCall
from safemodel.errors import (
    ForbiddenCallError,
    MalformedFileError,
    StorageBoundsError,
    quote,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._containers.records import Record
    from safemodel._unpickle.nodes import TensorForm

_Placed: TypeAlias = PersistentRef | TensorCall

_MAX_LOCATION = 64
_MAX_KEY = 64
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,31}(:[0-9]{1,4})?", re.ASCII)
_PLAIN_ID = 5
_VIEW_ID = 6
_NUMEL_END = 1 << 62


def key_text(key: object) -> str | None:
    """Return the key of a storage as text; None if it is not a short text.

    Python 2 wrote bytes, and the oldest files integers. A memo names a long one in
    two bytes, so only short ones are made text.
    """
    if type(key) is str:
        return key
    if type(key) is bytes and len(key) <= _MAX_KEY:
        return key.decode("latin-1")
    if type(key) is int and key.bit_length() <= _MAX_KEY:
        return str(key)
    return None


def checked_location(location: str) -> str:
    """Return a file's location string if it is one.

    Raises:
        MalformedFileError: It is not.
    """
    if _TAG.fullmatch(location) is None:
        raise MalformedFileError(f"not a location tag: {quote(location)}")
    return location


class StorageTable:
    """The storages of one archive or stream.

    Args:
        find_record: Returns the record of a key, or None if there is none.
        record: Name of the pickle's record, for errors.
        big_endian: Byte order of the storages.
    """

    def __init__(
        self,
        find_record: Callable[[str], Record | None],
        *,
        record: str = "",
        big_endian: bool = False,
    ) -> None:
        self._find_record = find_record
        self._record = record
        self._big_endian = big_endian
        self._classes: dict[GlobalRef, tuple[str, int, bool]] = {}
        # Form of tensors → their element type and the bytes of their storages.
        self._forms: dict[TensorForm, tuple[str, int, bool, int]] = {}
        self._views: dict[tuple[str, str], StorageViewSpec] = {}
        self.storages: dict[str, StorageSpec] = {}

    def resolve(self, ref: PersistentRef) -> StorageSpec | StorageViewSpec:
        """Return the storage a persistent id stands for.

        Raises:
            MalformedFileError: It is not the id of a storage, or the record is missing.
            ForbiddenCallError: The class is not a storage class, or does not agree
                with an earlier use of the same key.
            StorageBoundsError: The record is not as long as the storage.
        """
        pid = ref.pid
        if type(pid) is not tuple or len(pid) not in (_PLAIN_ID, _VIEW_ID):
            raise self._malformed("not the persistent id of a storage", ref)
        tag, kind, key, location, numel = pid[:_PLAIN_ID]
        if tag not in ("storage", b"storage"):
            raise self._malformed("not the persistent id of a storage", ref)
        known = self.find(kind, self._key(key, ref), location, numel, ref)
        if len(pid) == _VIEW_ID and pid[_PLAIN_ID] is not None:
            return self._view(known, pid[_PLAIN_ID], ref)
        return known

    def of_tensor(self, call: TensorCall) -> StorageSpec:
        """Return the storage of a tensor; raises as `resolve`."""
        form, key = call.form, call.key
        facts = self._forms.get(form)
        if facts is not None and key not in self.storages:
            # One storage of this form has passed every rule that is not about its
            # record.
            dtype, itemsize, typed, nbytes = facts
            record = self._find_record(key)
            if record is not None and record.size == nbytes:
                spec = self.storages[key] = StorageSpec(
                    key, dtype, itemsize, form.numel, record, form.location, typed,
                    self._big_endian,
                )  # fmt: skip
                return spec
        known = self.find(form.storage_class, key, form.location, form.numel, call)
        if known.location == form.location:
            nbytes = known.numel * known.itemsize
            self._forms[form] = known.dtype, known.itemsize, known.typed, nbytes
        return known

    def find(
        self, kind: Any, key: str, location: object, numel: object, ref: _Placed
    ) -> StorageSpec:
        """Return the storage with these facts, the same one for the same key."""
        # Only a global is looked up: hashing what else a file puts here may not end.
        element = self._classes.get(kind) if type(kind) is GlobalRef else None
        dtype, itemsize, typed = element or self._class(kind, ref)
        known = self.storages.get(key)
        if known is None:
            return self._new(key, location, numel, (dtype, itemsize, typed), ref)
        if known.dtype != dtype or known.numel != numel or known.typed != typed:
            raise ForbiddenCallError(
                f"storage {key}",
                f"is {known.numel} × {known.dtype} and {quote(numel)} × {dtype}",
                position=ref.position,
                record=self._record,
            )
        return known

    def _new(
        self,
        key: str,
        location: object,
        numel: object,
        element: tuple[str, int, bool],
        ref: _Placed,
    ) -> StorageSpec:
        dtype, itemsize, typed = element
        if type(numel) is not int or not 0 <= numel < _NUMEL_END:
            raise self._malformed(f"a storage of {quote(numel)} elements", ref)
        if type(location) is bytes:
            location = location.decode("latin-1")
        if type(location) is not str or len(location) > _MAX_LOCATION:
            raise self._malformed("a storage location that is not a short text", ref)
        record = self._find_record(key) if len(key) <= _MAX_KEY else None
        available = 0 if record is None else record.size
        if record is None and (numel or location != "meta"):
            raise MalformedFileError(
                f"storage {quote(key)} has no record",
                record=self._record,
                position=ref.position,
            )
        # Rule 3.
        if numel * itemsize != available:
            raise StorageBoundsError(
                f"storage {quote(key)} of {numel:,} × {dtype}",
                needed=numel * itemsize,
                available=available,
                record=self._record,
                position=ref.position,
            )
        spec = StorageSpec(
            key,
            dtype,
            itemsize,
            numel,
            record,
            location,
            typed,
            self._big_endian,
        )
        self.storages[key] = spec
        return spec

    def _class(self, kind: object, ref: _Placed) -> tuple[str, int, bool]:
        """Rule 2: return (dtype, itemsize, typed) of a storage class."""
        if type(kind) is not GlobalRef:
            raise self._malformed("a storage class that is not a global", ref)
        element = STORAGE_DTYPES.get(canonical(kind.module, kind.name))
        if element is None:
            raise ForbiddenCallError(
                f"{kind.module}.{kind.name}",
                "is not a storage class",
                position=ref.position,
                record=self._record,
            )
        found = (*element, kind.name != "UntypedStorage")
        self._classes[kind] = found
        return found

    def _key(self, key: object, ref: PersistentRef) -> str:
        text = key_text(key)
        if text is None:
            raise self._malformed("a storage key that is not a short text", ref)
        return text

    def _view(
        self, base: StorageSpec, view: object, ref: PersistentRef
    ) -> StorageViewSpec:
        """Return the slice (key, offset, count) of a root storage."""
        if type(view) is not tuple or len(view) != 3:
            raise self._malformed("not a view of a storage", ref)
        key, offset, numel = view
        key = self._key(key, ref)
        if (
            type(offset) is not int
            or type(numel) is not int
            or offset < 0
            or numel < 0
            or offset + numel > base.numel
        ):
            raise StorageBoundsError(
                f"view of storage {quote(base.key)}",
                needed=offset + numel if type(offset) is type(numel) is int else 0,
                available=base.numel,
                record=self._record,
                position=ref.position,
            )
        known = self._views.get((base.key, key))
        if known is None:
            known = self._views[base.key, key] = StorageViewSpec(base, offset, numel)
        elif (known.offset, known.numel) != (offset, numel):
            raise self._malformed("two views of a storage under one key", ref)
        return known

    def _malformed(self, reason: str, ref: _Placed) -> MalformedFileError:
        return MalformedFileError(reason, record=self._record, position=ref.position)
