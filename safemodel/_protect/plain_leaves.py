"""The leaves of a pool in plain order, taken by a thread while its chunks are written.

Called by `writing`. Nothing is read any more once whoever writes has failed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from safemodel._protect.leaves import PoolTagger


class PlainLeaves:
    """Takes the leaves of one pool, from the first chunk on that is written.

    Not before: until then, the permutation keeps all processors busy; then much is
    waiting for the disk.

    Args:
        tagger: The pool's, in plain order.
        read: Fills a view with the pool's bytes from an offset on.
        check: Is given the index of each chunk, and the bytes that were tagged; None
            where there is nothing to compare.
    """

    def __init__(
        self,
        tagger: PoolTagger,
        read: Callable[[int, memoryview], None],
        check: Callable[[int, memoryview], None] | None,
    ) -> None:
        self._tagger, self._read, self._check = tagger, read, check
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="safemodel-leaves")
        self._leaves: Future[list[bytes]] | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.shutdown()

    def begin(self) -> Future[list[bytes]]:
        """Begin, unless it has begun; return where all leaves will be.

        Raises:
            Exception: Whatever reading or checking has raised meanwhile.
        """
        if self._leaves is None:
            self._leaves = self._thread.submit(
                self._tagger.leaves_of, self._wanted, check=self._check, threads=1
            )
        elif self._leaves.done():
            self._leaves.result()
        return self._leaves

    def _wanted(self, at: int, view: memoryview) -> None:
        if self._ended:
            raise InterruptedError("nobody wants the leaves any more")
        self._read(at, view)
