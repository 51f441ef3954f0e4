"""The leaves of a pool, taken by several threads, and what differs between two sets.

`tags` says what a leaf is.
"""

from __future__ import annotations

import hmac
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from struct import pack
from typing import TYPE_CHECKING, NamedTuple

from safemodel._protect.encoding import Writer
from safemodel._protect.layout import CHUNK, STORED, Spans, leaf_ends
from safemodel._protect.tags import describe, described
from safemodel.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from safemodel._protect.layout import Pool
    from safemodel._protect.tags import Tagger

THREADS = 2
_NAME = "safemodel-tags"


class Difference(NamedTuple):
    """Chunks next to each other whose tags are not as expected.

    Attributes:
        pool: Number of the pool in its file.
        start: First byte in the pool.
        end: One past the last byte.
        tensors: Names of the tensors with bytes there, in their order.
    """

    pool: int
    start: int
    end: int
    tensors: tuple[str, ...]


def change_error(differences: Iterable[Difference]) -> VerificationError:
    """Return the error that says what has changed, in all pools together."""
    found = tuple(differences)
    names = dict.fromkeys(name for one in found for name in one.tensors)
    return VerificationError(
        "bytes of tensors have changed",
        tensors=tuple(names),
        ranges=tuple((one.pool, one.start, one.end) for one in found),
    )


class PoolTagger:
    """Takes the leaves of one pool, chunk by chunk. Threads may share one.

    Args:
        tagger: The file's.
        number: Number of the pool in the file.
        pool: The pool.
        order: `STORED`, `PLAIN` or `ENCRYPTED`.
    """

    def __init__(
        self, tagger: Tagger, number: int, pool: Pool, order: int = STORED
    ) -> None:
        self._tagger = tagger
        self._length = pool.length
        self._ends = leaf_ends(pool, order)
        self._spans = Spans(pool.extents(order))
        head = Writer()
        head.raw(b"safemodel leaf 1")
        head.number(order, 1)
        head.raw(tagger.file_id)
        head.number(tagger.epoch)
        head.number(number, 4)
        describe(head, pool)
        self._head = head.joined()

    @cached_property
    def _described(self) -> list[bytes]:
        # Who only compares leaves needs none of it.
        return [described(extent) for extent in self._spans.extents]

    @property
    def chunks(self) -> int:
        """How many chunks the pool has."""
        return len(self._ends)

    def span(self, index: int) -> tuple[int, int]:
        """Return where a chunk begins and ends in its pool.

        Raises:
            ValueError: The pool has no such chunk.
        """
        if not 0 <= index < len(self._ends):
            raise ValueError(f"a pool of {len(self._ends):,} chunks, and chunk {index}")
        return self._ends[index - 1] if index else 0, self._ends[index]

    def context(self, index: int) -> bytes:
        """Return what a chunk's bytes are bound to (1 to 7 of a leaf)."""
        start, end = self.span(index)
        tensors = self._described[self._spans.within(start, end)]
        place = pack("<QQI", start, end - start, len(tensors))
        return b"".join((self._head, place, *tensors))

    def leaf(self, index: int, chunk: bytes | memoryview) -> bytes:
        """Return the leaf of a chunk.

        Raises:
            ValueError: The pool has no such chunk, or it is of another length.
        """
        start, end = self.span(index)
        if memoryview(chunk).nbytes != end - start:
            raise ValueError(f"chunk {index} has {end - start:,} bytes")
        return self._tagger.tag(self.context(index), chunk)

    def leaves(
        self, chunks: Iterable[bytes | memoryview], *, threads: int = THREADS
    ) -> list[bytes]:
        """Return the leaves of all chunks, which come in order.

        They may lie in a ring of ``threads + 1`` buffers: the one that is asked for
        next may be where the oldest was.

        Raises:
            ValueError: They are not the chunks of this pool.
        """
        tags: list[bytes] = []
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix=_NAME) as workers:
            for index, chunk in enumerate(chunks):
                if len(waiting) == threads:
                    tags.append(waiting.popleft().result())
                waiting.append(workers.submit(self.leaf, index, chunk))
            tags += [future.result() for future in waiting]
        if len(tags) != self.chunks:
            raise ValueError(f"{len(tags):,} chunks; the pool has {self.chunks:,}")
        return tags

    def leaves_of(
        self,
        read_into: Callable[[int, memoryview], None],
        *,
        check: Callable[[int, memoryview], None] | None = None,
        indices: Sequence[int] | None = None,
        threads: int = THREADS,
    ) -> list[bytes]:
        """Return the leaves of a pool that can be read anywhere, by several threads.

        Args:
            read_into: Fills a view with the pool's bytes from an offset on; as
                `Source.read_into`, it may be called by several threads at once.
            check: Is given the index of each chunk, and the bytes that were tagged.
            indices: All chunks, in the order in which they are read; None: as they are.
            threads: How many read and tag. Each has a buffer of 1 MiB, which stays in
                its processor's cache between the two.
        """

        def worker() -> Callable[[int, int], memoryview]:
            buffer = memoryview(bytearray(min(CHUNK, self._length)))

            def read(start: int, end: int) -> memoryview:
                read_into(start, buffer[: end - start])
                return buffer[: end - start]

            return read

        return self._by_threads(worker, threads, check, indices)

    def leaves_in(self, data: memoryview, *, threads: int = THREADS) -> list[bytes]:
        """Return the leaves of a pool that is in memory, by several threads.

        Args:
            data: Its bytes.
            threads: How many tag.

        Raises:
            ValueError: They are not as many as the pool's.
        """
        if data.nbytes != self._length:
            raise ValueError(f"the pool has {self._length:,} bytes")
        # A view of nothing cannot be cast.
        flat = data.cast("B") if self._length else data
        return self._by_threads(lambda: lambda start, end: flat[start:end], threads)

    def _by_threads(
        self,
        worker: Callable[[], Callable[[int, int], memoryview]],
        threads: int,
        check: Callable[[int, memoryview], None] | None = None,
        indices: Sequence[int] | None = None,
    ) -> list[bytes]:
        """Return all leaves; each thread takes the next chunk by means of its own."""
        tags: list[bytes] = [b""] * self.chunks
        left = iter(range(self.chunks) if indices is None else indices)

        def start() -> Callable[[], bool]:
            get = worker()

            def work() -> bool:
                index = next(left, None)
                if index is None:
                    return False
                chunk = get(*self.span(index))
                tags[index] = self.leaf(index, chunk)
                if check is not None:
                    check(index, chunk)
                return True

            return work

        _in_threads(start, min(threads, self.chunks))
        return tags

    def differences(
        self, number: int, expected: Sequence[bytes], found: Sequence[bytes]
    ) -> tuple[Difference, ...]:
        """Return which chunks differ, neighbours together.

        All leaves are compared, and each in the same time.

        Args:
            number: Number of the pool in the file, for the result.
            expected: The leaves of the manifest.
            found: Those of the bytes that are there.

        Raises:
            ValueError: They are not as many as the pool has chunks.
        """
        if not len(expected) == len(found) == self.chunks:
            raise ValueError(f"a pool of {self.chunks:,} chunks has as many leaves")
        changed = [
            index
            for index, (one, other) in enumerate(zip(expected, found, strict=True))
            if not hmac.compare_digest(one, other)
        ]
        return tuple(
            self._difference(number, first, last) for first, last in _runs(changed)
        )

    def _difference(self, number: int, first: int, last: int) -> Difference:
        """Return what is said of chunks from ``first`` to ``last``."""
        start, end = self.span(first)[0], self.span(last)[1]
        extents = self._spans.extents[self._spans.within(start, end)]
        names = tuple(extent.name for extent in extents)
        return Difference(number, start, end, names)


def _in_threads(worker: Callable[[], Callable[[], bool]], threads: int) -> None:
    """Let several threads work until there is nothing left, or one has failed."""
    failed: list[BaseException] = []

    def run() -> None:
        work = worker()
        try:
            while not failed and work():
                pass
        except BaseException as error:
            failed.append(error)
            raise

    if threads <= 1:
        run()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix=_NAME) as workers:
        futures = [workers.submit(run) for _ in range(threads)]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            # Interrupted while waiting: the others are not to go on to the end.
            failed.append(error)
            raise


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of numbers that follow each other."""
    start = 0
    for at, index in enumerate(indices):
        if at + 1 == len(indices) or indices[at + 1] != index + 1:
            yield indices[start], index
            start = at + 1
