"""The root that readers without the key compare, and who signs puts into the header.

For them a protected file is one pool in stored order, of all its bytes but those of the
hole of the seal: dtype "uint8", one tensor named "file". Its leaves and its root are
those of `tags`, under the key that everyone has; the frame is the tag of what the file
is (1 byte) and where the hole begins and ends (8 bytes each).
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from safemodel._protect.layout import STORED, Extent, Pool
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.tags import Tagger

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "file"


def public_root(
    read: Callable[[int, memoryview], None],
    size: int,
    kind: int,
    hole: tuple[int, int],
    file_id: bytes,
    epoch: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> bytes:
    """Return the root of a file's public tags.

    Args:
        read: Fills a view with the file's bytes from an offset on.
        size: Bytes of the file.
        kind: What it is.
        hole: Where the hole of its seal begins and ends.
        file_id: Its id.
        epoch: Which of its versions.
        progress: Is told how many bytes more were read.

    Raises:
        TruncatedFileError: The file was made shorter meanwhile.
    """
    start, end = hole
    length = size - (end - start)
    extent = Extent(_NAME, (length,), 0, length)
    pool = Pool(
        dtype="uint8", itemsize=1, length=length, stored=(extent,), plain=(extent,)
    )

    def read_into(at: int, view: memoryview) -> None:
        before = max(min(start - at, len(view)), 0)
        read(at, view[:before])
        if before < len(view):
            read(max(at + before, start) + end - start, view[before:])
        if progress is not None:
            progress(len(view))

    tagger = Tagger.public(file_id, epoch)
    leaves = PoolTagger(tagger, 0, pool).leaves_of(read_into)
    frame = tagger.frame([pack("<BQQ", kind, start, end)])
    return tagger.root((pool,), [(tuple(leaves), None)], frame, orders=(STORED,))
