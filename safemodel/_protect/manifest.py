"""What is sealed: names, shapes and places of all tensors, their tags, and the rest.

Numbers are little-endian. In order:

1. the root (32 bytes) and the tag of the frame (32), see `tags`,
2. the bytes of what is compressed next (8), those it takes (8), and zlib: the number of
   pools (4), at most 256, and for each:

   a. the dtype after its length (4), and the bytes an element (4),
   b. its tensors in stored order: how many (4), and for each the length of its name
      (4), its name in UTF-8, the number of its axes (4) and each axis (8),
   c. its tensors in plain order, likewise,

3. for each pool a leaf (32) for each chunk in stored order (`layout` says where chunks
   end), and 1 (1) and a leaf for each chunk in plain order, or 0 (1); if tensors are
   encrypted only a leaf for each chunk in plain order, of its encrypted bytes,
4. all that is not tensors, after its length (8), for the file's format to read,
5. zero bytes up to a multiple of 1,024, so that the length says less about the names.

Where a tensor lies follows from those before it, and the length of a pool from its
tensors: what can be computed is not written, and so cannot contradict.
File id, epoch, expiry and the id of the key stand in the header, which is bound to it.
"""

from __future__ import annotations

import hmac
from math import prod
from struct import pack
from typing import TYPE_CHECKING

from safemodel._protect.encoding import Reader, Writer, deflated, inflated
from safemodel._protect.header import MAX_TIME
from safemodel._protect.layout import (
    CHUNK,
    MAX_DTYPE,
    MAX_SHAPE,
    PLAIN,
    STORED,
    Extent,
    Pool,
    leaf_ends,
    names_problem,
)
from safemodel._protect.tags import FILE_ID_BYTES, TAG_BYTES, Leaves
from safemodel._value import Value
from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from typing import TypeAlias

    from safemodel._protect.header import Header
    from safemodel.limits import Limits

    Data: TypeAlias = "tuple[bytes | memoryview, ...]"
    Packed: TypeAlias = "tuple[int, bytes]"

MAX_POOLS = 256
_PAD = 1024
_MIN_POOL = 4 + 1 + 4 + 4 + 4  # its fields, all as short as they may be
_MIN_TENSOR = 4 + 4


class Manifest(Value):
    """What a protected file is, for who holds its key.

    Attributes:
        file_id: 32 random bytes; every key of the file depends on them.
        epoch: Which of the file's versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether the tensors are encrypted.
        pools: The tensors.
        leaves: Of each pool, in stored order, and in plain order if they were taken:
            these find which of the plain tensors a change is in. Where tensors are
            encrypted, those in plain order are of encrypted bytes, and there are no
            others.
        frame: Tag of the bytes that are neither tensors nor the seal.
        data: All that is not tensors, in pieces that follow each other: it may be
            large, and putting it together would double it. Read back it is one piece.
    """

    file_id: bytes
    epoch: int
    expires: int | None
    confidential: bool
    pools: tuple[Pool, ...]
    leaves: tuple[Leaves, ...]
    frame: bytes
    data: Data

    def __post_init__(self) -> None:
        if problem := _problem(self):
            raise ValueError(problem)

    def __repr__(self) -> str:
        # What was sealed does not belong into a log.
        return f"<Manifest of {len(self.pools)} pools, epoch {self.epoch}>"

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(pool.length for pool in self.pools)

    def same_as(self, other: Manifest) -> bool:
        """Return whether two are equal, however their data are in pieces."""
        mine, theirs = ({**vars(one), "data": ()} for one in (self, other))
        return mine == theirs and _same(self.data, other.data)


def _problem(manifest: Manifest) -> str:
    """Return what is wrong with a manifest, or ""."""
    if len(manifest.file_id) != FILE_ID_BYTES or len(manifest.frame) != TAG_BYTES:
        return "a file id and a tag are 32 bytes"
    if not 0 <= manifest.epoch <= MAX_TIME:
        return "the epoch is out of range"
    if manifest.expires is not None and not 0 < manifest.expires <= MAX_TIME:
        return "the time it expires is out of range"
    if len(manifest.pools) > MAX_POOLS or len(manifest.leaves) != len(manifest.pools):
        return f"at most {MAX_POOLS} pools, with leaves for each"
    needed = PLAIN if manifest.confidential else STORED
    for pool, both in zip(manifest.pools, manifest.leaves, strict=True):
        if both[needed] is None or manifest.confidential != (both[STORED] is None):
            return "a pool has the leaves of another mode"
        for order, leaves in enumerate(both):
            if leaves is not None and len(leaves) != len(leaf_ends(pool, order)):
                return "a pool has one leaf for each chunk"
            if any(len(leaf) != TAG_BYTES for leaf in leaves or ()):
                return "a leaf is 32 bytes"
    return names_problem(manifest.pools)


def _same(one: Data, other: Data) -> bool:
    """Return whether pieces have the same bytes, and copy none of them."""
    if sum(map(len, one)) != sum(map(len, other)):
        return False
    first, second = (
        [memoryview(piece) for piece in both if piece] for both in (one, other)
    )
    while first:
        size = min(len(first[0]), len(second[0]))
        if not hmac.compare_digest(first[0][:size], second[0][:size]):
            return False
        for pieces in (first, second):
            pieces[0] = pieces[0][size:]
            if not pieces[0]:
                del pieces[0]
    return True


def encode(manifest: Manifest, root: bytes) -> bytes:
    """Return the encoding of a manifest.

    Args:
        manifest: What to encode.
        root: The root of its tags.
    """
    room = bytearray(encoded_size(manifest))
    encode_into(manifest, root, memoryview(room))
    return bytes(room)


def encode_into(
    manifest: Manifest, root: bytes, room: memoryview, pools: Packed | None = None
) -> memoryview:
    """Write the encoding of a manifest; return where its data are.

    Args:
        manifest: What to encode. Its data may be what was returned before.
        root: The root of its tags.
        room: As many bytes.
        pools: `packed` of its pools, where that is there already.
    """
    before = _before_data(manifest, root, pools).joined()
    start = at = len(before)
    room[:start] = before
    for piece in manifest.data:
        room[at : at + len(piece)] = piece
        at += len(piece)
    room[at:] = bytes(len(room) - at)
    return room[start:at]


def encoded_size(manifest: Manifest, pools: Packed | None = None) -> int:
    """Return how long the encoding of a manifest is, whatever its tags are.

    Args:
        manifest: What is to be encoded.
        pools: `packed` of its pools, where that is there already.
    """
    before = _before_data(manifest, bytes(TAG_BYTES), pools)
    size = before.size + sum(map(len, manifest.data))
    return size + -size % _PAD


def packed(pools: tuple[Pool, ...]) -> Packed:
    """Return what lies where in all pools: how long it is, and it compressed."""
    described = _described(pools)
    return len(described), deflated(described)


def _before_data(manifest: Manifest, root: bytes, pools: Packed | None) -> Writer:
    """Return the encoding up to the data."""
    size, described = packed(manifest.pools) if pools is None else pools
    out = Writer()
    out.raw(root)
    out.raw(manifest.frame)
    out.number(size)
    out.counted(described, 8)
    for stored, plain in manifest.leaves:
        out.raw(b"".join(stored or ()))
        if not manifest.confidential:
            out.number(plain is not None, 1)
        out.raw(b"".join(plain or ()))
    out.number(sum(map(len, manifest.data)))
    return out


def _described(pools: tuple[Pool, ...]) -> bytes:
    """Return the encoding of what lies where in all pools."""
    out = Writer()
    out.number(len(pools), 4)
    for pool in pools:
        out.text(pool.dtype)
        out.number(pool.itemsize, 4)
        for order in (STORED, PLAIN):
            extents = pool.extents(order)
            out.number(len(extents), 4)
            for extent in extents:
                # Not field by field: there may be very many tensors.
                name, shape = extent.name.encode("utf-8"), extent.shape
                out.counted(name)
                out.raw(pack(f"<I{len(shape)}Q", len(shape), *shape))
    return out.joined()


def decode(
    text: bytes | memoryview, header: Header, limits: Limits
) -> tuple[Manifest, bytes]:
    """Return a manifest and its root.

    Only the holder of a key can make a text that gets here. It is bounded all the same:
    a key may be shared by people who do not trust each other's machines. The data are
    a part of the text, not a copy.

    Args:
        text: The encoding.
        header: The header it was sealed with.
        limits: `max_tensors`, `max_dimensions`, `max_key_bytes` and `max_header_bytes`
            apply.

    Raises:
        LimitExceededError: It asks for too much.
        MalformedFileError: It is not the encoding of a manifest.
    """
    reader = Reader(memoryview(text))
    root, frame = reader.raw(TAG_BYTES), reader.raw(TAG_BYTES)
    size = reader.number()
    _check("max_header_bytes", size, limits.max_header_bytes)
    pools = _read_pools(inflated(reader.view(reader.number()), size), limits)
    read = _encrypted_leaves if header.confidential else _both_leaves
    leaves = [read(reader, pool) for pool in pools]
    data = reader.view(reader.number())
    if len(text) % _PAD or reader.left >= _PAD or any(reader.raw(reader.left)):
        raise MalformedFileError("a manifest ends in fewer than 1,024 zero bytes")
    try:
        manifest = Manifest(
            file_id=header.file_id,
            epoch=header.epoch,
            expires=header.expires,
            confidential=header.confidential,
            pools=tuple(pools),
            leaves=tuple(leaves),
            frame=frame,
            data=(data,),
        )
    except ValueError as error:
        raise MalformedFileError(str(error)) from error
    if manifest.tensor_bytes != header.tensor_bytes:
        raise MalformedFileError("header and manifest give two sizes")
    return manifest, root


def _read_pools(described: bytes, limits: Limits) -> list[Pool]:
    """Return what lies where in all pools."""
    reader = Reader(described)
    pools: list[Pool] = []
    for _ in range(_count(reader)):
        pools.append(_pool(reader, limits))
        tensors = max(
            sum(len(pool.extents(order)) for pool in pools) for order in (STORED, PLAIN)
        )
        _check("max_tensors", tensors, limits.max_tensors)
    if reader.left:
        raise MalformedFileError("bytes behind the last pool", position=reader.at)
    return pools


def _count(reader: Reader) -> int:
    """Return how many pools follow."""
    pools = reader.count(_MIN_POOL)
    if pools > MAX_POOLS:
        raise MalformedFileError(f"{pools:,} pools, where {MAX_POOLS} are the most")
    return pools


def _pool(reader: Reader, limits: Limits) -> Pool:
    """Return the next pool."""
    dtype = reader.raw(_dtype_length(reader))
    itemsize = reader.number(4)
    stored, length = _extents(reader, itemsize, limits)
    plain, _ = _extents(reader, itemsize, limits)
    try:
        return Pool(
            dtype=dtype.decode("latin-1"),
            itemsize=itemsize,
            length=length,
            stored=stored,
            plain=plain,
        )
    except ValueError as error:
        raise MalformedFileError(str(error), position=reader.at) from error


def _dtype_length(reader: Reader) -> int:
    """Return the length of the dtype that follows."""
    length = reader.number(4)
    if length > MAX_DTYPE:
        raise MalformedFileError(f"a dtype of {length:,} bytes", position=reader.at)
    return length


def _extents(
    reader: Reader, itemsize: int, limits: Limits
) -> tuple[tuple[Extent, ...], int]:
    """Return the tensors of one order, and how long they are together."""
    number = reader.count(_MIN_TENSOR)
    _check("max_tensors", number, limits.max_tensors)
    extents: list[Extent] = []
    at = 0
    for _ in range(number):
        name = reader.text("max_key_bytes", limits.max_key_bytes)
        axes = reader.at_most("max_dimensions", limits.max_dimensions)
        shape = reader.numbers(axes)
        length = prod(shape) * itemsize
        extents.append(Extent(name, shape, at, length))
        at += length
        if at > MAX_SHAPE:
            raise MalformedFileError("a pool larger than any", position=reader.at)
    return tuple(extents), at


def _encrypted_leaves(reader: Reader, pool: Pool) -> Leaves:
    """Return the leaves of a pool that is encrypted."""
    return None, _leaves(reader, pool, PLAIN)


def _both_leaves(reader: Reader, pool: Pool) -> Leaves:
    """Return the leaves of a pool in both orders; those in plain order if taken."""
    stored = _leaves(reader, pool, STORED)
    taken = reader.number(1)
    if taken > 1:
        raise MalformedFileError("neither yes nor no", position=reader.at)
    return stored, _leaves(reader, pool, PLAIN) if taken else None


def _leaves(reader: Reader, pool: Pool, order: int) -> tuple[bytes, ...]:
    """Return the next leaves."""
    if -(-pool.length // CHUNK) * TAG_BYTES > reader.left:
        # Before there is a list of them: shapes take eight bytes, whatever they say.
        raise MalformedFileError("a pool without its leaves", position=reader.at)
    size = len(leaf_ends(pool, order))
    data = reader.raw(size * TAG_BYTES)
    return tuple(
        data[at : at + TAG_BYTES] for at in range(0, size * TAG_BYTES, TAG_BYTES)
    )


def _check(limit: str, requested: int, allowed: int) -> None:
    """Raise if a field of `Limits` is exceeded."""
    if requested > allowed:
        raise LimitExceededError(limit, allowed=allowed, requested=requested)
