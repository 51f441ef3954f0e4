"""Pools that are encrypted: chunks dealt by the key, one pass, no permutation.

Encrypted bytes show no order, so that of elements need not change. docs/adr/0026 has
the reasons.

1. A pool is cut into the chunks of its plain order (`layout`, rule 2), and these are
   put into another order: that of 16 bytes of keystream for each, which are those of
   the sub-key "chunks" (`subkeys`). So no tensor has a place that can be aimed at.
2. In this order they lie one after the other, and are encrypted as one run of bytes
   (`cipher`).
3. A chunk has one leaf: of its encrypted bytes, where they belong, and which plain
   tensors they are of. A change of it names these, and nothing has to be decrypted.
4. What is written or decrypted is what was tagged: the same bytes in memory.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from safemodel._protect.cipher import PoolCipher
from safemodel._protect.layout import CHUNK, ENCRYPTED, leaf_ends
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.subkeys import Keystream, PoolKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.layout import Pool
    from safemodel._protect.tags import Tagger

    ReadInto: TypeAlias = Callable[[int, memoryview], None]
    Check: TypeAlias = Callable[[int, memoryview], None]

_SORT_BYTES = 16


class Chunk(NamedTuple):
    """One chunk.

    Attributes:
        number: Which one in plain order.
        start: Its first byte in the plain pool.
        at: Its first byte in the stored pool.
        length: Its bytes.
    """

    number: int
    start: int
    at: int
    length: int


class EncryptedPool:
    """Reads and writes one pool. Threads may share one.

    Args:
        key: The protection key.
        tagger: The file's.
        number: Number of the pool in its file.
        pool: The pool.

    Attributes:
        tags: The leaf of each chunk that was written or read so far, in plain order.
        ends: Where each batch ends in the stored pool: chunks that follow each other
            there, of together at most 1 MiB.
    """

    def __init__(
        self, key: ProtectionKey, tagger: Tagger, number: int, pool: Pool
    ) -> None:
        self._tagger = PoolTagger(tagger, number, pool, ENCRYPTED)
        self._cipher = PoolCipher(key, tagger.file_id, tagger.epoch, number)
        self._chunks = _dealt(
            leaf_ends(pool, ENCRYPTED), PoolKey.of(tagger, key, number, pool)
        )
        self._batches = _batches(self._chunks)
        self._by_start = {chunk.start: chunk for chunk in self._chunks}
        self.tags = [b""] * len(self._chunks)
        self.ends = [batch[-1].at + batch[-1].length for batch in self._batches]

    def encrypt(
        self, index: int, view: memoryview, read: ReadInto, check: Check | None
    ) -> None:
        """Make a batch as it is stored.

        Args:
            index: Which one.
            view: Takes the bytes.
            read: Fills a view with the plain bytes of a chunk, given where it begins.
            check: Raises unless the chunk of an index is as it should be; or None.
        """
        batch = self._batches[index]
        for chunk, part in _parts(batch, view):
            read(chunk.start, part)
            if check is not None:
                check(chunk.number, part)
        self._cipher.apply(batch[0].at, view)
        self._tag(batch, view)

    def decrypt(self, index: int, view: memoryview, read: ReadInto) -> None:
        """Make a batch plain; each chunk of it is, but they are in stored order.

        Args:
            index: Which one.
            view: Takes the bytes.
            read: Fills a view with bytes of the stored pool from an offset on.
        """
        batch = self._batches[index]
        read(batch[0].at, view)
        self._tag(batch, view)
        self._cipher.apply(batch[0].at, view)

    def plain_chunks(
        self, index: int, view: memoryview
    ) -> Iterator[tuple[Chunk, memoryview]]:
        """Yield each chunk of a batch, with its bytes."""
        return _parts(self._batches[index], view)

    def decrypted(self, read: ReadInto) -> ReadInto:
        """Return what fills a view with the plain bytes of a chunk: see `encrypt`.

        Args:
            read: Fills a view with bytes of the stored pool from an offset on.
        """

        def read_into(start: int, view: memoryview) -> None:
            chunk = self._by_start[start]
            read(chunk.at, view)
            self._tag([chunk], view)
            self._cipher.apply(chunk.at, view)

        return read_into

    def leaves_of(self, read: ReadInto) -> list[bytes]:
        """Return the leaves of all chunks, without a byte decrypted.

        Args:
            read: Fills a view with bytes of the stored pool from an offset on; several
                threads call it at once.
        """

        def read_into(start: int, view: memoryview) -> None:
            read(self._by_start[start].at, view)

        return self._tagger.leaves_of(
            read_into, indices=[chunk.number for chunk in self._chunks]
        )

    def _tag(self, batch: list[Chunk], view: memoryview) -> None:
        for chunk, part in _parts(batch, view):
            self.tags[chunk.number] = self._tagger.leaf(chunk.number, part)


def _dealt(ends: list[int], key: PoolKey) -> list[Chunk]:
    """Return all chunks in the order in which they are stored (rule 1)."""
    stream = Keystream(key.use("chunks")).words(_SORT_BYTES * len(ends), "u1").tobytes()

    def sort_key(index: int) -> bytes:
        return stream[_SORT_BYTES * index : _SORT_BYTES * (index + 1)]

    spans = list(pairwise([0, *ends]))
    order = sorted(range(len(spans)), key=sort_key)
    lengths = [spans[index][1] - spans[index][0] for index in order]
    ats = accumulate(lengths, initial=0)
    return [
        Chunk(index, spans[index][0], at, length)
        for index, at, length in zip(order, ats, lengths, strict=False)
    ]


def _batches(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Return chunks in runs of at most 1 MiB, which one chunk alone may have."""
    batches: list[list[Chunk]] = []
    room = 0
    for chunk in chunks:
        if chunk.length > room:
            batches.append([])
            room = CHUNK
        batches[-1].append(chunk)
        room -= chunk.length
    return batches


def _parts(batch: list[Chunk], view: memoryview) -> Iterator[tuple[Chunk, memoryview]]:
    """Yield each chunk of a batch with its part of the batch's bytes."""
    for chunk in batch:
        first = chunk.at - batch[0].at
        yield chunk, view[first : first + chunk.length]
