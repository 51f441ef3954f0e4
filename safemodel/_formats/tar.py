"""The tar archive torch 0.1 wrote: `sys_info`, `storages`, `tensors` and `pickle`.

`storages` and `tensors` are a pickled count, then for each a pickled description and
raw numbers; `pickle` is the object, whose persistent ids name tensors and storages.

Rules:

1. All pickles go through the same machine and policy as any other; those that
   describe storages and tensors may name storage and tensor classes only.
2. A tensor is proved to lie inside its storage like any other view.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from safemodel._containers.records import Record
from safemodel._formats.reading import PickleStream
from safemodel._graph.allowlist import STORAGE_DTYPES
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.specs import StorageSpec, StorageViewSpec
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.nodes import Call, GlobalRef, PersistentRef
from safemodel.errors import (
    ForbiddenCallError,
    LimitExceededError,
    MalformedFileError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading

MEMBERS = ("sys_info", "pickle", "storages", "tensors")
_INT64 = Struct("<q")
_NDIM = Struct("<i4x")
_DESCRIPTION = 3
_VIEW_DESCRIPTION = 4


class _Cursor:
    """Reads pickles and numbers in turn from one record."""

    def __init__(self, reading: Reading, record: Record) -> None:
        self.source: Source = record.source.part(record.offset, record.size)
        self.name = record.name
        self.position = 0
        self._stream = PickleStream(reading, self.source, record.name)

    def plain(self, kinds: tuple[type, ...]) -> Any:
        """Return the value of a pickle that may name nothing but classes (rule 1)."""
        pickle = self._stream.parse(self.position)
        if pickle.calls or pickle.persistent or type(pickle.root) not in kinds:
            raise MalformedFileError(
                "not the description of a storage or tensor",
                record=self.name,
                position=self.position,
            )
        self.position = pickle.end
        return pickle.root

    def numbers(self, layout: Struct, count: int = 1) -> list[int]:
        """Return raw numbers."""
        size = layout.size * count
        if size > self.source.size - self.position:
            raise TruncatedFileError(
                "numbers",
                needed=size,
                available=self.source.size - self.position,
                record=self.name,
                position=self.position,
            )
        raw = self.source.view(self.position, size)
        self.position += size
        return [number for (number,) in layout.iter_unpack(raw)]


def read_tar(reading: Reading, records: Mapping[str, Record], prefix: str) -> object:
    """Return the object of an archive.

    Raises:
        MalformedFileError: A member is missing, or does not hold what it should.
        UnsupportedFormatError: It is the archive of something else.
    """
    if records.keys().isdisjoint(MEMBERS):
        raise UnsupportedFormatError("a tar archive that is no model; unpack it first")
    for member in MEMBERS:
        if member not in records:
            raise MalformedFileError(f"the tar archive has no member {member}")
    objects = _read_storages(_Cursor(reading, records["storages"]))
    storages = [spec for spec in objects.values() if type(spec) is StorageSpec]
    reading.check.add_storages(storages, f"{prefix}storages/")
    _read_tensors(reading, _Cursor(reading, records["tensors"]), objects)

    def resolve(ref: PersistentRef) -> object:
        pid: Any = ref.pid
        if type(pid) is tuple and pid and type(pid[0]) is GlobalRef:
            return pid[0]
        found = objects.get(_name(pid))
        if found is None:
            raise MalformedFileError(
                f"no tensor or storage {quote(pid)}", position=ref.position
            )
        return found

    record = records["pickle"]
    data = record.read(limits=reading.limits)
    name = f"{prefix}pickle"
    return reading.check_pickle(reading.parse(data, 0, name), name, resolve)


def _read_storages(cursor: _Cursor) -> dict[str, Any]:
    objects: dict[str, Any] = {}
    for _ in range(_count(cursor)):
        key, location, kind = _description(cursor)
        dtype, itemsize = _storage_class(kind, cursor)
        (numel,) = cursor.numbers(_INT64)
        available = cursor.source.size - cursor.position
        if not 0 <= numel * itemsize <= available:
            raise StorageBoundsError(
                f"storage {quote(key)}",
                needed=numel * itemsize,
                available=available,
                record=cursor.name,
                position=cursor.position,
            )
        record = Record(str(key), cursor.source, cursor.position, numel * itemsize)
        cursor.position += record.size
        objects[str(key)] = StorageSpec(
            str(key), dtype, itemsize, numel, record, location=_location(location)
        )
    views = cursor.plain((list,)) if cursor.position < cursor.source.size else []
    for view in views:
        if type(view) is not tuple or len(view) != _VIEW_DESCRIPTION:
            raise MalformedFileError("not the view of a storage", record=cursor.name)
        key, root, offset, numel = view
        base = objects.get(_name(root))
        if type(base) is not StorageSpec or type(offset) is not int:
            raise MalformedFileError("the view of no storage", record=cursor.name)
        if type(numel) is not int or not 0 <= offset <= offset + numel <= base.numel:
            raise StorageBoundsError(
                f"view {quote(key)}",
                needed=offset + numel if type(numel) is int else 0,
                available=base.numel,
                record=cursor.name,
            )
        objects[_name(key)] = StorageViewSpec(base, offset, numel)
    return objects


def _read_tensors(reading: Reading, cursor: _Cursor, objects: dict[str, Any]) -> None:
    """Add every tensor, proved as a call of `_rebuild_tensor` would be (rule 2)."""
    rebuild = GlobalRef("torch._utils", "_rebuild_tensor", 0)
    for _ in range(_count(cursor)):
        key, storage_key, _ = _description(cursor)
        (ndim,) = cursor.numbers(_NDIM)
        if not 0 <= ndim <= reading.limits.max_dimensions:
            raise LimitExceededError(
                "max_dimensions", allowed=reading.limits.max_dimensions, requested=ndim
            )
        shape = tuple(cursor.numbers(_INT64, ndim))
        stride = tuple(cursor.numbers(_INT64, ndim))
        (offset,) = cursor.numbers(_INT64)
        storage = objects.get(_name(storage_key))
        if storage is None:
            raise MalformedFileError(
                f"tensor {quote(key)} has no storage", record=cursor.name
            )
        call = Call(rebuild, (storage, offset, shape, stride), op.REDUCE, 0)
        objects[str(key)] = reading.check.add_call(call, f"{cursor.name}")


def _name(key: object) -> str:
    """Return the name of a storage or tensor; nothing else is written out as text."""
    return str(key) if type(key) in (str, int) else ""


def _count(cursor: _Cursor) -> int:
    count: int = cursor.plain((int,))
    # Every item takes more than a byte, so the record bounds the loop.
    if not 0 <= count <= cursor.source.size:
        raise MalformedFileError(f"{count} items", record=cursor.name)
    return count


def _description(cursor: _Cursor) -> tuple[Any, Any, Any]:
    described = cursor.plain((tuple, list))
    if len(described) != _DESCRIPTION:
        raise MalformedFileError("not a description", record=cursor.name)
    key, second, kind = described
    if type(key) not in (str, int):
        raise MalformedFileError("a key that is not text", record=cursor.name)
    return key, second, kind


def _location(location: object) -> str:
    return location if type(location) is str else "cpu"


def _storage_class(kind: object, cursor: _Cursor) -> tuple[str, int]:
    element = None
    if type(kind) is GlobalRef:
        element = STORAGE_DTYPES.get(canonical(kind.module, kind.name))
    if element is None:
        named = f"{kind.module}.{kind.name}" if type(kind) is GlobalRef else "storage"
        raise ForbiddenCallError(
            named,
            "is not a storage class",
            record=cursor.name,
            position=cursor.position,
        )
    return element
