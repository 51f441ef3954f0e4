"""Chunks that one thread makes while another uses those before."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safemodel._protect.layout import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

_READERS = 2
AHEAD = 3
"""Chunks that are made and not used yet."""

_NAME = "safemodel-protect"


def counted(
    act: Callable[[int, memoryview], None], step: Callable[[int], None]
) -> Callable[[int, memoryview], None]:
    """Return what reads or writes a view as before, and then says how long it is."""

    def acted(at: int, view: memoryview) -> None:
        act(at, view)
        step(len(view))

    return acted


def ahead(
    load: Callable[[int, memoryview], None], ends: list[int]
) -> Generator[memoryview, None, None]:
    """Yield chunks in order, while other threads load the next ones.

    Args:
        load: Fills a view with the chunk of an index; several threads call it at once.
        ends: Where each chunk ends; none is longer than 1 MiB. A chunk may be
            overwritten when the next one is asked for.
    """
    largest = min(CHUNK, ends[-1]) if ends else 0
    ring = [memoryview(bytearray(largest)) for _ in range(min(len(ends), AHEAD + 1))]
    waiting: deque[Future[memoryview]] = deque()

    def loaded(index: int) -> memoryview:
        start = ends[index - 1] if index else 0
        view = ring[index % len(ring)][: ends[index] - start]
        load(index, view)
        return view

    with ThreadPoolExecutor(_READERS, thread_name_prefix=_NAME) as workers:
        try:
            for index in range(len(ends)):
                # The one in use and those that are loaded never share a buffer.
                while len(waiting) < AHEAD and index + len(waiting) < len(ends):
                    waiting.append(workers.submit(loaded, index + len(waiting)))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def behind(chunks: Iterator[memoryview], use: Callable[[memoryview], None]) -> None:
    """Let another thread use each chunk, in order, while the next ones are made.

    Args:
        chunks: The chunks; `AHEAD` of them stay as they are when the next is asked for.
            A generator is closed in the end.
        use: Uses a chunk, and may change it.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix=_NAME) as worker, _closed(chunks):
        try:
            for chunk in chunks:
                waiting.append(worker.submit(use, chunk))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _closed(chunks: Iterator[memoryview]) -> Iterator[None]:
    """Close a generator in the end; a traceback would keep its threads and files."""
    try:
        yield
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
