"""The seal of a folder: which shards belong together, and all other files.

It is a seal like that of a file, in a file of its own, ``safemodel.seal``. Its manifest
has no pools, and the tag of its frame is that of its data. Numbers are little-endian;
the data are, in this order:

1. the number of shards (4), and for each: its path after its length (4), and the tag
   (32) of ``safemodel shard1`` and of the shard's seal, which binds all else of it,
2. the bytes of what follows, inflated (8),
3. zlib: the number of other files (4), and for each: its path after its length (4), and
   its bytes after their number (8).

For readers without the key, the public root has no pools either. Its frame is that of
the paths of all shards, in order, each after its length (4) and followed by the
BLAKE3 (32) of the shard's seal.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from blake3 import blake3

from safemodel._protect.encoding import Reader, Writer, deflated, inflated
from safemodel._protect.folder_files import name_problem
from safemodel._protect.layout import STORED
from safemodel._protect.tags import TAG_BYTES, Tagger
from safemodel._value import Value
from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel.limits import Limits

_SHARD = b"safemodel shard1"


class FolderContents(Value):
    """What the seal of a folder holds.

    Attributes:
        shards: Path of each shard → the tag of its seal.
        files: Path of each other file → its bytes.
    """

    shards: dict[str, bytes]
    files: dict[str, bytes | memoryview]

    def __repr__(self) -> str:
        return f"<FolderContents of {len(self.shards)} shards>"

    def encoded(self) -> bytes:
        """Return the encoding."""
        out = Writer()
        out.number(len(self.shards), 4)
        for name, tag in sorted(self.shards.items()):
            out.text(name)
            out.raw(tag)
        rest = Writer()
        rest.number(len(self.files), 4)
        for name, data in sorted(self.files.items()):
            rest.text(name)
            rest.counted(data, 8)
        text = rest.joined()
        out.number(len(text))
        return out.joined() + deflated(text)


def decode_folder(data: bytes | memoryview, limits: Limits) -> FolderContents:
    """Return what an encoding says.

    Args:
        data: The encoding, out of a seal that was opened.
        limits: `max_records` and `max_header_bytes` apply.

    Raises:
        LimitExceededError: It asks for too much.
        MalformedFileError: It is not one.
    """
    reader = Reader(data)
    shards: dict[str, bytes] = {}
    number = _count(reader, 4 + TAG_BYTES, limits)
    for _ in range(number):
        name = _name(reader, limits)
        shards[name] = reader.raw(TAG_BYTES)
    size = reader.number()
    if size > limits.max_header_bytes:
        raise LimitExceededError(
            "max_header_bytes", allowed=limits.max_header_bytes, requested=size
        )
    files: dict[str, bytes | memoryview] = {}
    reader = Reader(memoryview(inflated(reader.view(reader.left), size)))
    others = _count(reader, 12, limits)
    for _ in range(others):
        name = _name(reader, limits)
        files[name] = reader.view(reader.number())
    if reader.left or len({*shards, *files}) != number + others:
        raise MalformedFileError("not the contents of a folder, as they are written")
    return FolderContents(shards=shards, files=files)


def _count(reader: Reader, size: int, limits: Limits) -> int:
    found = reader.count(size)
    if found > limits.max_records:
        raise LimitExceededError(
            "max_records", allowed=limits.max_records, requested=found
        )
    return found


def _name(reader: Reader, limits: Limits) -> str:
    """Return a path that leads nowhere else: holders of a key may be attackers, too."""
    name = reader.text("max_key_bytes", limits.max_key_bytes)
    if problem := name_problem(name):
        raise MalformedFileError(problem, position=reader.at)
    return name


def shard_tag(tagger: Tagger, seal: bytes | memoryview) -> bytes:
    """Return the tag of a shard's seal."""
    return tagger.tag(_SHARD, seal)


def is_shard(tagger: Tagger, seal: bytes | memoryview, tag: bytes) -> bool:
    """Return whether a seal is that of a shard; in constant time."""
    return hmac.compare_digest(shard_tag(tagger, seal), tag)


def seal_digest(seal: bytes | memoryview) -> bytes:
    """Return what stands for the seal of a shard, which may be large."""
    return blake3(seal).digest()


def folder_root(
    file_id: bytes, epoch: int, digests: Iterable[tuple[str, bytes]]
) -> bytes:
    """Return the public root of a folder.

    Args:
        file_id: Its id.
        epoch: Which of its versions.
        digests: The path of each shard, and its `seal_digest`, in the order of paths.
    """
    out = Writer()
    for name, digest in digests:
        out.text(name)
        out.raw(digest)
    tagger = Tagger.public(file_id, epoch)
    return tagger.root((), (), tagger.frame([out.joined()]), orders=(STORED,))
