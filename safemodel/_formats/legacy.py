"""The stream `torch.save` wrote before 1.6: five pickles, then raw storages.

The pickles are: a magic number, the protocol version, facts about the writing
machine, the object, and the keys of the storages in the order in which they follow.
Each storage is a 64-bit count of elements and the elements, both little-endian: a
big-endian machine turned them round, and says what it is in facts that nobody needs.

Rules:

1. The first three pickles are exactly what torch wrote: two integers and a dictionary
   of plain values. Nothing in them names anything.
2. Every key the object uses has a storage, and every storage is used; counts agree.
3. A class may come with its source code (a "module" persistent id). It is text.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from safemodel._containers.records import Record
from safemodel._formats.reading import PickleStream
from safemodel._graph.allowlist import STORAGE_DTYPES
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.storages import StorageTable, key_text
from safemodel._unpickle.nodes import GlobalRef, PersistentRef, TensorCall
from safemodel.errors import (
    MalformedFileError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
    quote,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading
    from safemodel._unpickle.parsed import Pickle

PROTOCOL_VERSION = 1001
_COUNT = Struct("<q")
_COUNT_BYTES = 8
_MODULE_ID = 4
_MIN_STORAGE_ID = 5


def read_legacy(reading: Reading, source: Source, prefix: str) -> tuple[object, int]:
    """Return the object of a stream, and how many bytes of the source it takes."""
    stream = PickleStream(reading, source, prefix)
    position, values = 0, []
    for _ in range(3):
        header = stream.parse(position)
        if header.globals or header.calls or header.persistent:
            raise MalformedFileError(
                "the header of a torch stream names a global", position=position
            )
        values.append(header.root)
        position = header.end
    _check_header(values)
    pickle = stream.parse(position)
    keys, end = _keys(stream, pickle.end)
    records, end = _storages(source, pickle, keys, end)

    table = StorageTable(records.get, record=prefix)

    def resolve(ref: PersistentRef) -> object:
        return _module_class(ref) or table.resolve(ref)

    value = reading.check_pickle(pickle, prefix, resolve, table)
    reading.check.add_storages(table.storages.values(), prefix)
    reading.check.add_unused(
        f"{prefix}{key}" for key in records if key not in table.storages
    )
    return value, end


def _check_header(values: list[Any]) -> None:
    """Rule 1."""
    # The first one is the magic number: `sniff` has compared it byte for byte.
    _, version, facts = values
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise UnsupportedFormatError(f"torch stream of version {quote(version)}")
    if type(facts) is not dict:
        raise MalformedFileError("the third pickle is not a dictionary")


def _keys(stream: PickleStream, start: int) -> tuple[list[str], int]:
    """Return the keys of the storages in their order, and where the first begins."""
    pickle = stream.parse(start)
    keys = pickle.root
    if type(keys) is not list or pickle.globals or pickle.persistent:
        raise MalformedFileError("the storage keys are not a list", position=start)
    names: list[str] = []
    for key in keys:
        name = key_text(key)
        if name is None:
            raise MalformedFileError("a storage key is not short text", position=start)
        names.append(name)
    if len(set(names)) != len(names):
        raise MalformedFileError("a storage key occurs twice", position=start)
    return names, pickle.end


def _storages(
    source: Source, pickle: Pickle, keys: list[str], position: int
) -> tuple[dict[str, Record], int]:
    """Return the record of each storage, and where the last one ends (rule 2)."""
    sizes = _item_sizes(pickle)
    records: dict[str, Record] = {}
    for key in keys:
        if key not in sizes:
            raise MalformedFileError(
                f"storage {quote(key)} is not used", position=position
            )
        if position + _COUNT_BYTES > source.size:
            raise TruncatedFileError(
                f"storage {quote(key)}",
                needed=_COUNT_BYTES,
                available=max(source.size - position, 0),
                position=position,
            )
        itemsize, expected = sizes[key]
        (count,) = _COUNT.unpack(source.view(position, _COUNT_BYTES))
        # A negative count would lead back, and before the first byte.
        if count != expected or count < 0:
            raise StorageBoundsError(
                f"storage {quote(key)}",
                needed=expected if type(expected) is int else 0,
                available=count,
                position=position,
            )
        position += _COUNT_BYTES
        size = count * itemsize
        if size > source.size - position:
            raise TruncatedFileError(
                f"storage {quote(key)}",
                needed=size,
                available=source.size - position,
                position=position,
            )
        records[key] = Record(key, source, position, size)
        position += size
    return records, position


def _item_sizes(pickle: Pickle) -> dict[str, tuple[int, object]]:
    """Return bytes an element and element count of every storage the object uses.

    Only what is needed to find the records; `StorageTable` checks all of it again.
    """
    sizes: dict[str, tuple[int, object]] = {}
    for ref in pickle.persistent:
        pid: Any = ref.pid
        if type(pid) is not tuple or len(pid) < _MIN_STORAGE_ID:
            continue
        _, kind, key, _, count = pid[:_MIN_STORAGE_ID]
        name = key_text(key)
        if type(kind) is GlobalRef and name is not None:
            _, itemsize = STORAGE_DTYPES.get(
                canonical(kind.module, kind.name), ("uint8", 1)
            )
            sizes.setdefault(name, (itemsize, count))
    for call in pickle.calls:
        if type(call) is TensorCall:
            kind = call.form.storage_class
            _, itemsize = STORAGE_DTYPES.get(
                canonical(kind.module, kind.name), ("uint8", 1)
            )
            sizes.setdefault(call.key, (itemsize, call.form.numel))
    return sizes


def _module_class(ref: PersistentRef) -> object | None:
    """Rule 3: return the class of a ("module", class, file, source) id."""
    pid: Any = ref.pid
    if (
        type(pid) is tuple
        and len(pid) == _MODULE_ID
        and pid[0] in ("module", b"module")
    ):
        if type(pid[1]) is not GlobalRef:
            raise MalformedFileError("a module without a class", position=ref.position)
        return pid[1]
    return None
