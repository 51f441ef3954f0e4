"""Tags: keyed BLAKE3 over every MiB of a pool, bound to where it lies and what it is.

A pool is cut into chunks of at most 1 MiB, in each of its two orders (`layout`). Each
has a *leaf*; leaves are put together by *nodes* up to one tag a pool and order, and
those by the *root*. All are keyed BLAKE3 of 32 bytes, under one key for each file
and epoch: HKDF-SHA-256 of the protection key, label "tags", salt the file id, info the
epoch (8 bytes). Numbers are little-endian; the first 16 bytes say what a tag is of: one
of the five here, or a shard (`folder_seal`).

A leaf is the tag of, in this order:

1. ``safemodel leaf 1`` (16 bytes; the digit is the version of this layout),
2. the order of the bytes: 0 stored, 1 plain, 2 plain and encrypted (1 byte),
3. the file id (32 bytes) and the epoch (8),
4. the number of the pool in its file (4) and the pool's length (8),
5. the dtype: its length (4), its name in ASCII, and the bytes an element (4),
6. the first byte of the chunk in the pool (8) and its length (8),
7. how many tensors have bytes in it (4), and for each: the length of its name (4), its
   name in UTF-8, its number of axes (4), each axis (8), its first byte in the pool (8)
   and its length (8),
8. the bytes of the chunk; with order 2, those that it has in the file.

A node is the tag of:

1. ``safemodel node 1``, the order (1), the number of the pool (4),
2. its level, from 1 (4), its position in that level (8), its number of children (4),
3. the tags of the children (32 each): 256, or what is left of them.

There is always one node at the top: of one leaf, or of none if the pool is empty.

A layout, which names empty tensors too, is the tag of:

1. ``safemodel map  1``, the order (1), the number of the pool (4),
2. its length (8), dtype and element size as in a leaf,
3. its tensors as in a leaf, number first.

The frame, the bytes of a file that are neither tensors nor its seal, is the tag of
``safemodel frame1`` and those bytes. The root is the tag of the following; of a file
whose tensors are encrypted, order 2 stands in the place of 1:

1. ``safemodel root 1``, the file id (32), the epoch (8), the number of pools (4) and of
   orders (1): both, or the stored one alone,
2. for each pool and each of these orders: how many leaves (8), the tag of its top node
   and that of its layout; no leaves and no top node, 32 zero bytes, for an order whose
   leaves were not taken,
3. the tag of the frame.

Whoever holds no key can take the same tags under a key that everyone has: the BLAKE3
key derivation (context "safemodel 2026-11 public tags 1") of file id and epoch. They
say nothing by themselves; a signature over their root does.
"""

from __future__ import annotations

import os
import time
from struct import pack
from typing import TYPE_CHECKING, Self, TypeAlias

from blake3 import blake3

from safemodel._protect.encoding import Writer
from safemodel._protect.layout import CHUNK, PLAIN, STORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.layout import Extent, Pool

Leaves: TypeAlias = "tuple[tuple[bytes, ...] | None, tuple[bytes, ...] | None]"
"""The leaves of a pool in stored and in plain order; None for those not taken."""

__all__ = ["CHUNK", "TAG_BYTES", "Leaves", "Tagger"]

TAG_BYTES = 32
FILE_ID_BYTES = 32
FAN = 256
_NO_TAG = bytes(TAG_BYTES)
_PUBLIC = "safemodel 2026-11 public tags 1"
_FILE_ID = "safemodel 2026-11 file id 1"


def new_file_id(about: bytes) -> bytes:
    """Return an id that no other file has.

    Two files of one id, epoch and key would be encrypted with one keystream. So it is
    random, and depends on the time and the file as well: a virtual machine that was
    copied gives the same random bytes again.

    Args:
        about: What is known of the file.
    """
    hasher = blake3(os.urandom(FILE_ID_BYTES), derive_key_context=_FILE_ID)
    hasher.update(time.time_ns().to_bytes(8, "little"))
    return hasher.update(about).digest()


class Tagger:
    """Takes the tags of one file and epoch. Threads may share one.

    Args:
        key: A key for this file, this epoch and tags only.
        file_id: 32 random bytes.
        epoch: Which of the file's versions.
    """

    __slots__ = ("_key", "epoch", "file_id")

    def __init__(self, key: bytes, file_id: bytes, epoch: int) -> None:
        self._key = key
        self.file_id = file_id
        self.epoch = epoch

    @classmethod
    def keyed(cls, key: ProtectionKey, file_id: bytes, epoch: int) -> Self:
        """Return what takes tags that only holders of the key can make."""
        info = epoch.to_bytes(8, "little")
        tag_key = key._derive("tags", TAG_BYTES, salt=file_id, info=info)
        return cls(tag_key, file_id, epoch)

    @classmethod
    def public(cls, file_id: bytes, epoch: int) -> Self:
        """Return what takes tags that everyone can make, for a signature."""
        hasher = blake3(file_id, derive_key_context=_PUBLIC)
        hasher.update(epoch.to_bytes(8, "little"))
        return cls(hasher.digest(), file_id, epoch)

    def __repr__(self) -> str:
        return f"<Tagger of epoch {self.epoch}>"

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        raise TypeError("it holds a key, and is not pickled")

    def tag(self, *parts: bytes | memoryview) -> bytes:
        """Return the tag of bytes, of which the first say what they are."""
        # The GIL is free while it works on a part.
        hasher = blake3(key=self._key)
        for part in parts:
            hasher.update(part)
        return hasher.digest()

    def frame(self, pieces: Iterable[bytes | memoryview]) -> bytes:
        """Return the tag of the bytes that are neither tensors nor the seal."""
        return self.tag(b"safemodel frame1", *pieces)

    def root(
        self,
        pools: Sequence[Pool],
        leaves: Sequence[Leaves],
        frame: bytes,
        *,
        orders: tuple[int, ...] = (STORED, PLAIN),
    ) -> bytes:
        """Return the tag of everything.

        Args:
            pools: The pools of the file.
            leaves: Of each pool, in stored order and in plain.
            frame: The tag of the rest of the file.
            orders: Which of the two it is about; only the stored one for readers who
                do not know the other.
        """
        out = Writer()
        out.raw(b"safemodel root 1" + self.file_id)
        out.number(self.epoch)
        out.number(len(pools), 4)
        out.number(len(orders), 1)
        for number, (pool, both) in enumerate(zip(pools, leaves, strict=True)):
            for order, tags in zip(orders, both, strict=False):
                out.number(len(tags or ()))
                out.raw(_NO_TAG if tags is None else self._top(order, number, tags))
                out.raw(self._layout(order, number, pool))
        out.raw(frame)
        return self.tag(out.joined())

    def _top(self, order: int, number: int, leaves: Sequence[bytes]) -> bytes:
        """Return the tag of a pool's leaves."""
        tags, level = list(leaves), 0
        while level == 0 or len(tags) > 1:
            level += 1
            tags = [
                self._node(order, number, level, at // FAN, tags[at : at + FAN])
                for at in range(0, max(len(tags), 1), FAN)
            ]
        return tags[0]

    def _node(
        self, order: int, number: int, level: int, at: int, children: list[bytes]
    ) -> bytes:
        """Return the tag of some tags."""
        out = Writer()
        out.raw(b"safemodel node 1")
        out.number(order, 1)
        out.number(number, 4)
        out.number(level, 4)
        out.number(at)
        out.number(len(children), 4)
        return self.tag(out.joined(), b"".join(children))

    def _layout(self, order: int, number: int, pool: Pool) -> bytes:
        """Return the tag of what lies where in a pool."""
        out = Writer()
        out.raw(b"safemodel map  1")
        out.number(order, 1)
        out.number(number, 4)
        describe(out, pool)
        extents = pool.extents(order)
        out.number(len(extents), 4)
        return self.tag(out.joined(), b"".join(map(described, extents)))


def describe(out: Writer, pool: Pool) -> None:
    """Append a pool's length and elements."""
    out.number(pool.length)
    out.text(pool.dtype)
    out.number(pool.itemsize, 4)


def described(extent: Extent) -> bytes:
    """Return what a leaf or a layout says of a tensor."""
    # Not by a `Writer`: there may be very many tensors.
    name, shape, start, length = extent
    said = name.encode("utf-8")
    numbers = pack(f"<I{len(shape) + 2}Q", len(shape), *shape, start, length)
    return b"".join((len(said).to_bytes(4, "little"), said, numbers))
