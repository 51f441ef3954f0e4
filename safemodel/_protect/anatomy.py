"""A model file taken apart: where its tensors' bytes lie, and what they are.

Rules:

1. A file is taken apart only if `safe_load` would load it: what that refuses under
   `STRICT`, this refuses with the same error (see `value_checks`).
2. A part is a whole storage, or a whole array that is a span of the file. Bytes of it
   that no tensor reaches belong to it. Parts do not overlap.
3. A storage or array that is no span of the file, because it is deflated or within a
   pickle, is refused: `disarm` writes it as one. Arrays that a pickle spells out stay
   with the pickle.
4. A part has the name of the tensor that covers it, else of the first tensor on it,
   else of its storage. Names are unique; a lone surrogate in one is escaped, a long one
   is cut, and so many characters are there for all of them; then they are numbers.
5. A part has the dtype of its storage, or of the tensor that covers untyped bytes. What
   torch has no dtype for is uint8. The bytes are those of the file, whatever their
   order within a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from safemodel._collector import collector_paused
from safemodel._containers.records import STORED, Record
from safemodel._containers.sniff import Format, sniff
from safemodel._formats.formats import read_file
from safemodel._graph.reconstructors.torch_special import NUMPY_DTYPES
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel._protect.layout import MAX_SHAPE, Extent
from safemodel._protect.tracebacks import drop_frames
from safemodel._protect.uses import LONGEST_NAME, Uses, as_name
from safemodel._protect.value_checks import check_values
from safemodel._rewrite.names import Names
from safemodel._value import Value
from safemodel.errors import (
    LimitExceededError,
    UnsupportedFormatError,
    quote,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from safemodel.policy import STRICT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from safemodel._containers.source import Source
    from safemodel._graph.array_specs import ArraySpec
    from safemodel._graph.specs import StorageSpec, TensorSpec

_MARK = "~"
_ROOT = "tensor"
_HINT = "`safemodel disarm` first: what it writes can be protected"


class Part(NamedTuple):
    """The bytes of one storage in a file.

    Attributes:
        name: Its name, which no other has.
        dtype: Torch's name without prefix.
        itemsize: Bytes an element.
        shape: That of the tensor that covers it, else flat.
        start: Its first byte in the file.
        length: Its bytes.
    """

    name: str
    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    start: int
    length: int


class PlainPool(NamedTuple):
    """The parts of one dtype, one after another as they are in the file.

    Attributes:
        dtype: Torch's name without prefix.
        itemsize: Bytes an element.
        length: Bytes.
        extents: Where each part lies in the pool.
        starts: Where each part lies in the file.
    """

    dtype: str
    itemsize: int
    length: int
    extents: tuple[Extent, ...]
    starts: tuple[int, ...]

    def __repr__(self) -> str:
        # What is to be sealed does not belong into a log.
        return f"<PlainPool of {self.length:,} bytes, {self.dtype}>"


class Anatomy(Value):
    """A file taken apart.

    Attributes:
        format: What kind of protected file it becomes: "safetensors" or "torch".
        size: Bytes of the file.
        parts: The tensors' bytes, in the order of the file.
    """

    format: Literal["safetensors", "torch"]
    size: int
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        end = 0
        for part in self.parts:
            if part.start < end:
                raise ValueError("parts overlap, or are not in the order of the file")
            end = part.start + part.length
        if end > self.size:
            raise ValueError("a part ends behind the file")

    def __repr__(self) -> str:
        # What is to be sealed does not belong into a log.
        return f"<Anatomy of {len(self.parts)} parts>"

    def pools(self) -> tuple[PlainPool, ...]:
        """Return the parts by dtype, in the order in which dtypes come in the file."""
        found: dict[tuple[str, int], list[Part]] = {}
        for part in self.parts:
            found.setdefault((part.dtype, part.itemsize), []).append(part)
        return tuple(
            _pool(dtype, itemsize, parts) for (dtype, itemsize), parts in found.items()
        )


def dissect(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> Anatomy:
    """Check a file as `safe_load` does, and say where its tensors' bytes lie.

    Args:
        source: The file. It is read as a whole once, to compare CRC-32.
        limits: How much it may ask for.

    Raises:
        SafeModelError: `safe_load` would refuse it, with this error.
        UnsupportedFormatError: Its tensors are not all spans of the file.
        LimitExceededError: It has more storages than `Limits.max_tensors`.
    """
    try:
        return _dissected(source, limits)
    except BaseException as error:
        # Where it came from: the frames of the loader hold what is to be sealed.
        drop_frames(error)
        raise


def _dissected(source: Source, limits: Limits) -> Anatomy:
    """Return a file taken apart; see `dissect`."""
    form = sniff(source)
    with collector_paused():
        graph, reading = read_file(source, policy=STRICT, limits=limits, spool=True)
        try:
            uses = Uses(graph)
            storages = dict(graph.storages)
            if form is Format.SHARD_INDEX:
                raise UnsupportedFormatError("an index of shards: protect its folder")
            check_values(graph, uses.storages, limits)
        finally:
            reading.close()
        if form is Format.PICKLE:
            raise UnsupportedFormatError(f"a pickle holds its tensors itself; {_HINT}")
        return Anatomy(
            format="safetensors" if form is Format.SAFETENSORS else "torch",
            size=source.size,
            parts=_parts(source, storages, uses, limits),
        )


def _parts(
    source: Source, storages: Mapping[str, StorageSpec], uses: Uses, limits: Limits
) -> tuple[Part, ...]:
    """Return all parts in the order of the file."""
    found = [_of_array(source, spec, uses) for spec in uses.arrays]
    parts = [part for part in found if part is not None]
    seen: set[int] = set()
    for key, storage in _all(storages, uses):
        if id(storage) not in seen:
            seen.add(id(storage))
            parts.append(_of_storage(source, key, storage, uses))
    if len(parts) > limits.max_tensors:
        raise LimitExceededError(
            "max_tensors", allowed=limits.max_tensors, requested=len(parts)
        )
    parts.sort(key=lambda part: (part.start, part.length))
    names = Names(_MARK)
    for at, part in enumerate(parts):
        name = names.new(part.name or _ROOT)
        if name != part.name:
            parts[at] = part._replace(name=name)
    return tuple(parts)


def _all(
    storages: Mapping[str, StorageSpec], uses: Uses
) -> Iterator[tuple[str, StorageSpec]]:
    """Yield storages with their keys, some of them twice."""
    yield from storages.items()
    yield from ((storage.key, storage) for storage in uses.storages)


def _of_storage(source: Source, key: str, storage: StorageSpec, uses: Uses) -> Part:
    """Return the part that a storage is."""
    length = storage.numel * storage.itemsize
    dtype, itemsize = storage.dtype, storage.itemsize
    view = uses.covers.get(id(storage))
    if view is not None and not storage.typed:
        dtype, itemsize = view.dtype, DTYPE_ITEMSIZE[view.dtype]
    shape = None if view is None else _shape(view, itemsize)
    name = uses.names.get(id(storage))
    return Part(
        name=as_name(f"storage {key}", LONGEST_NAME) if name is None else name,
        dtype=dtype,
        itemsize=itemsize,
        shape=(length // itemsize,) if shape is None else shape,
        start=_start(source, storage.record, length, key),
        length=length,
    )


def _of_array(source: Source, array: ArraySpec, uses: Uses) -> Part | None:
    """Return the part that an array is; None if a pickle spells it out."""
    if type(array.data) is not Record:
        return None
    length = array.data.size
    descr = array.dtype.descr
    dtype = NUMPY_DTYPES.get(descr[1:]) if type(descr) is str else None
    name = uses.names[id(array)]
    return Part(
        name=name,
        dtype=dtype or "uint8",
        itemsize=DTYPE_ITEMSIZE[dtype or "uint8"],
        shape=(length,) if dtype is None else array.shape,
        start=_start(source, array.data, length, name),
        length=length,
    )


def _shape(view: TensorSpec, itemsize: int) -> tuple[int, ...] | None:
    """Return the shape of the tensor that covers a part, if that has its elements."""
    same = DTYPE_ITEMSIZE[view.dtype] == itemsize
    return view.shape if same and max(view.shape, default=0) <= MAX_SHAPE else None


def _start(source: Source, record: Record | None, length: int, key: str) -> int:
    """Return where a record lies in the file (rule 3); those of no bytes may not."""
    whole, first = source.origin(0)
    if record is not None and record.method == STORED:
        origin, start = record.source.origin(record.offset)
        if origin is whole and start >= first:
            return start - first
    if length:
        raise UnsupportedFormatError(
            f"tensor bytes {quote(key)} are compressed, or within a pickle; {_HINT}"
        )
    return 0


def _pool(dtype: str, itemsize: int, parts: list[Part]) -> PlainPool:
    extents: list[Extent] = []
    at = 0
    for part in parts:
        extents.append(Extent(part.name, part.shape, at, part.length))
        at += part.length
    starts = tuple(part.start for part in parts)
    return PlainPool(dtype, itemsize, at, tuple(extents), starts)
