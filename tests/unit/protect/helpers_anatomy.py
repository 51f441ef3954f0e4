"""A file taken apart, put into pools in memory, and read again from those."""

from __future__ import annotations

import io

import torch

from safemodel import safe_load
from safemodel._build.objects import build
from safemodel._containers.source import Source, open_source
from safemodel._formats.formats import read_file
from safemodel._protect.anatomy import Anatomy, dissect
from safemodel._protect.skeleton import PlainSource, Skeleton, take
from safemodel.errors import SafeModelError
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import STRICT


def saved(value: object, **options: object) -> bytes:
    """Return what torch writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def anatomy_of(data: bytes) -> Anatomy:
    """Return a file taken apart."""
    with open_source(data) as source:
        return dissect(source)


def skeleton_of(data: bytes) -> bytes:
    """Return the encoded skeleton of a file."""
    with open_source(data) as source:
        return take(source, dissect(source))


def pools_of(data: bytes, anatomy: Anatomy) -> list[bytes]:
    """Return the bytes of each pool."""
    return [
        b"".join(
            data[start : start + extent.length]
            for start, extent in zip(pool.starts, pool.extents, strict=True)
        )
        for pool in anatomy.pools()
    ]


def put_together(data: bytes) -> PlainSource:
    """Return a file as it is read once it was taken apart."""
    pools = pools_of(data, anatomy_of(data))

    def read_pool(number: int, at: int, view: memoryview) -> None:
        view[:] = pools[number][at : at + view.nbytes]

    skeleton = Skeleton.decode(skeleton_of(data))
    return PlainSource(skeleton, [len(pool) for pool in pools], read_pool)


def loaded(source: Source) -> object:
    """Return what `safe_load` makes of a source."""
    graph, reading = read_file(source, policy=STRICT, limits=DEFAULT_LIMITS)
    try:
        return build(graph)
    finally:
        reading.close()


def refusal_by_load(data: bytes) -> SafeModelError | None:
    """Return the error with which `safe_load` refuses a file, if it does."""
    try:
        safe_load(data, policy=STRICT)
    except SafeModelError as error:
        return error
    return None


def refusal_by_dissect(data: bytes) -> SafeModelError | None:
    """Return the error with which `dissect` refuses a file, if it does."""
    try:
        anatomy_of(data)
    except SafeModelError as error:
        return error
    return None
