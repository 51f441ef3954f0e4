"""The pools of a protected file in plain order, and what is made of them.

Tags are taken of the bytes in memory that are then put back in order. Nothing of it is
handed on before all of them are compared. What went through a file on its way may have
changed there: of that, the leaves in plain order are compared, too.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from safemodel._protect.flow import ahead, counted
from safemodel._protect.opening import ON_THE_WAY
from safemodel._protect.pool_stream import restored
from safemodel._protect.skeleton import Packed, PlainSource, Skeleton, check_lengths
from safemodel._protect.spans import Piece, Scattered
from safemodel.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    from safemodel._protect.leaves import Difference
    from safemodel._protect.opening import Opened
    from safemodel._protect.scratch import Scratch
    from safemodel._protect.writing import Step
    from safemodel._rewrite.output import Output
    from safemodel.limits import Limits

    WriteAt: TypeAlias = Callable[[int, memoryview], None]


def restore_pool_to(
    opened: Opened, number: int, write: WriteAt, *, scratch: Scratch, step: Step
) -> tuple[Difference, ...]:
    """Put a pool back in order; return which of its chunks were not as sealed.

    Args:
        opened: The file.
        number: Which pool.
        write: Takes bytes of the pool that belong at an offset.
        scratch: Room for a pool that does not fit into memory.
        step: Is told how many bytes more were read or, of a permuted pool, handed on;
            `passes` says how many those are in all.
    """
    if opened.manifest.confidential:
        return _decrypt_pool(opened, number, write, step)
    pool = opened.manifest.pools[number]
    load, tags = opened.loader(number, step)
    # Closed here: a traceback would keep its threads.
    with closing(ahead(load, opened.ends(number))) as chunks:
        restored(
            chunks,
            pool.length,
            pool.itemsize,
            opened.permutation(number),
            counted(write, step),
            scratch=scratch,
        )
    return opened.differences(number, tags)


def passes(*, confidential: bool) -> int:
    """Return how often `restore_pool_to` counts each byte of a pool."""
    return 1 if confidential else 2


def bytes_to_restore(opened: Opened, scratch: Scratch) -> int:
    """Return how many bytes `restore_file` counts in all."""
    each = passes(confidential=opened.manifest.confidential)
    again = sum(
        pool.length
        for number, pool in enumerate(opened.manifest.pools)
        if scratch.on_disk(pool.length) and opened.has_plain_leaves(number)
    )
    return each * opened.manifest.tensor_bytes + again


def _decrypt_pool(
    opened: Opened, number: int, write: WriteAt, step: Step
) -> tuple[Difference, ...]:
    """Decrypt a pool, chunk by chunk; return which were not as sealed."""
    pool = opened.encrypted(number)
    read = opened.read_stored(number)

    def load(index: int, view: memoryview) -> None:
        pool.decrypt(index, view, read)
        step(len(view))

    with closing(ahead(load, pool.ends)) as batches:
        for index, view in enumerate(batches):
            for chunk, part in pool.plain_chunks(index, view):
                write(chunk.start, part)
    return opened.differences(number, pool.tags)


def restore_file(
    opened: Opened, out: Output, limits: Limits, *, scratch: Scratch, step: Step
) -> int:
    """Write the plain file; return its size.

    Args:
        opened: The protected file.
        out: The new file, which is not to be seen before this returns.
        limits: How much the skeleton may ask for.
        scratch: Room for pools that do not fit into memory.
        step: Is told how many bytes more were read or handed on: `bytes_to_restore`.

    Raises:
        VerificationError: Tensors were changed; what was written is to be thrown away.
        OSError: Reading or writing failed.
    """
    skeleton = Packed(opened.take_skeleton(), limits)
    pools = opened.manifest.pools
    check_lengths(skeleton.places, [pool.length for pool in pools])
    spans = [
        Scattered(
            Piece(place.at, place.start, place.length)
            for place in skeleton.places
            if place.pool == number
        )
        for number in range(len(pools))
    ]
    changed: list[Difference] = []
    for number in range(len(pools)):

        def write(at: int, view: memoryview, number: int = number) -> None:
            spans[number].each(out.patch, at, view)

        changed += restore_pool_to(opened, number, write, scratch=scratch, step=step)
    for start, gap in skeleton.gaps():
        out.patch(start, gap)

    def plain(number: int, step: Step = lambda _: None) -> WriteAt:
        return counted(partial(spans[number].each, out.read_into), step)

    if changed:
        raise opened.damage(changed, plain)
    for number, pool in enumerate(pools):
        if scratch.on_disk(pool.length) and opened.plain_differences(
            number, plain(number, step)
        ):
            raise VerificationError(ON_THE_WAY)
    return skeleton.size


def restore_in_memory(opened: Opened, limits: Limits) -> PlainSource:
    """Return the plain file without writing it.

    Args:
        opened: The protected file.
        limits: How much the skeleton may ask for.

    Raises:
        VerificationError: Tensors were changed.
    """
    skeleton = Skeleton.decode(opened.take_skeleton(), limits)
    views: list[memoryview] = []
    changed: list[Difference] = []
    for number in range(len(opened.manifest.pools)):
        view, differences = _in_memory(opened, number)
        views.append(view)
        changed += differences

    def read_pool(number: int, at: int, target: memoryview) -> None:
        target[:] = views[number][at : at + len(target)]

    if changed:
        raise opened.damage(
            changed, lambda number: lambda at, view: read_pool(number, at, view)
        )
    lengths = [len(view) for view in views]
    return PlainSource(skeleton, lengths, read_pool, name=opened.source.name)


def _in_memory(
    opened: Opened, number: int
) -> tuple[memoryview, tuple[Difference, ...]]:
    """Return a pool in plain order, and which of its chunks were not as sealed."""
    from safemodel._protect.permutation import aligned, restore_pool

    pool = opened.manifest.pools[number]
    if opened.manifest.confidential:
        return _decrypted_in_memory(opened, number)
    size = pool.length // pool.itemsize
    # Numpy has no integers of 16 bytes; numbers of as many are moved, not looked at.
    kind = f"u{pool.itemsize}" if pool.itemsize < 16 else "c16"
    stored = aligned(size, kind)
    data = _bytes_of(stored)
    load, tags = opened.loader(number, lambda _: None)
    at = 0
    for index, end in enumerate(opened.ends(number)):
        load(index, data[at:end])
        at = end
    plain = aligned(size, kind)
    restore_pool(stored, plain, opened.permutation(number))
    return _bytes_of(plain), opened.differences(number, tags)


def _decrypted_in_memory(
    opened: Opened, number: int
) -> tuple[memoryview, tuple[Difference, ...]]:
    """Return an encrypted pool in plain order, and which of its chunks have changed."""
    from safemodel._protect.permutation import aligned

    data = _bytes_of(aligned(opened.manifest.pools[number].length, "u1"))

    def write(at: int, view: memoryview) -> None:
        data[at : at + len(view)] = view

    return data, _decrypt_pool(opened, number, write, lambda _: None)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array; a view of none cannot be cast."""
    return array.data.cast("B") if array.size else memoryview(bytearray())
