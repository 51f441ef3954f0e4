"""A plain file → a protected one.

1. The file is checked as `safe_load` checks it under `STRICT`, and taken apart.
2. Each pool is cut into stored tensors at random places, into a random number of them,
   under random names: they say nothing of the plain ones but how long all are together.
3. The file id is random, so every protected file has keys of its own; see
   `new_file_id`.
4. Nothing appears under the target's name before it is complete and on the disk.
5. The file is read several times. If it changed meanwhile, the new one might be of two
   of its versions, and could not be restored: so nothing appears then, either.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from safemodel._protect.frames import SAFETENSORS, TORCH
from safemodel._protect.layout import Extent, Pool
from safemodel._protect.spans import Scattered
from safemodel._protect.tags import new_file_id
from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._containers.source import Source
    from safemodel._protect.anatomy import Anatomy, PlainPool
    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.reports import ProtectReport
    from safemodel._protect.writing import Plain, Recipe
    from safemodel.limits import Limits

KINDS = {"safetensors": SAFETENSORS, "torch": TORCH}
_SUFFIXES = {
    ".safetensors": SAFETENSORS, ".pt": TORCH, ".pth": TORCH, ".ckpt": TORCH,
    ".bin": TORCH,
}  # fmt: skip
_MOST_PIECES = 16
_ID_BYTES = 8


class How(Value):
    """How a call protects each of its files.

    Attributes:
        key: The key.
        confidential: Whether tensors are encrypted.
        epoch: Which version it is to be.
        expires: Seconds since 1970; None for never.
        signer: Who signs; None for nobody.
        overwrite: Whether the target may be there already.
        limits: How much the file may ask for.
        progress: Called with bytes done and bytes in all.
    """

    key: ProtectionKey
    confidential: bool
    epoch: int
    expires: int | None
    signer: Ed25519PrivateKey | None
    overwrite: bool
    limits: Limits
    progress: Callable[[int, int], None] | None


class Progress:
    """Adds up what several threads have done.

    Args:
        report: Called with bytes done and bytes in all; None for nobody.
        total: Bytes in all.
    """

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        from threading import Lock

        self._report, self._total = report, total
        self._lock = Lock()
        self._done = 0

    def step(self, count: int) -> None:
        """Take note of some bytes more."""
        if self._report is None:
            return
        with self._lock:
            self._done += count
            self._report(min(self._done, self._total), self._total)


def protect_file(source: Source, path: str, target: Path, how: How) -> ProtectReport:
    """Protect one file; see `safemodel.protect`."""
    from safemodel._protect.anatomy import dissect
    from safemodel._protect.frames import find_seal
    from safemodel._protect.reports import ProtectReport
    from safemodel.errors import MalformedFileError, UnsupportedFormatError

    started = time.perf_counter()
    stamp = source.stamp()
    if find_seal(source, how.limits) is not None:
        raise UnsupportedFormatError(
            "a protected file: rotate it, which also takes another key"
        )
    anatomy = dissect(source, limits=how.limits)
    check_suffix(target, KINDS[anatomy.format])
    recipe = _recipe(source, anatomy, how)

    def check() -> None:
        if source.stamp() != stamp:
            raise MalformedFileError("it changes while it is read")

    size = _write(source, anatomy, recipe, target, how, check, path)
    return ProtectReport(
        path=path,
        out=str(target),
        format=anatomy.format,
        size=anatomy.size,
        out_size=size,
        key_id=how.key.id,
        file_id=recipe.file_id.hex(),
        epoch=how.epoch,
        expires=how.expires,
        confidential=how.confidential,
        signer=signer_of(how.signer),
        tensors=len(anatomy.parts),
        tensor_bytes=sum(part.length for part in anatomy.parts),
        seconds=round(time.perf_counter() - started, 3),
    )


def _recipe(source: Source, anatomy: Anatomy, how: How) -> Recipe:
    """Return what the protected file is to be (rules 2 and 3)."""
    from safemodel._protect.skeleton import take
    from safemodel._protect.writing import Recipe

    held = [take(source, anatomy, limits=how.limits)]
    return Recipe(
        kind=KINDS[anatomy.format],
        key=how.key,
        file_id=new_file_id(held[0]),
        epoch=how.epoch,
        expires=how.expires,
        confidential=how.confidential,
        signer=how.signer,
        pools=cut(anatomy.pools()),
        skeleton=held.pop,
        limits=how.limits,
    )


def _write(
    source: Source,
    anatomy: Anatomy,
    recipe: Recipe,
    target: Path,
    how: How,
    check: Callable[[], None],
    path: str,
) -> int:
    """Write the protected file; return its size (rules 4 and 5)."""
    from safemodel._protect.scratch import Scratch
    from safemodel._protect.writing import Plain, write
    from safemodel._rewrite.output import whole_file

    spans = [Scattered.of(pool.extents, pool.starts) for pool in anatomy.pools()]

    @contextmanager
    def plain_of(number: int) -> Iterator[Plain]:
        yield Plain(lambda at, view: spans[number].each(source.read_into, at, view))

    total = sum(part.length for part in anatomy.parts)
    step = Progress(how.progress, total if how.confidential else 2 * total).step
    # What was only in memory must not reach the disk on its way. What is encrypted
    # needs no temporary file.
    scratch = Scratch(target.parent, private=not path)
    whole = whole_file(
        target, overwrite=how.overwrite, read_back=False, unnamed=True, like=path
    )
    with whole as (out, commit):
        size = write(out, recipe, plain_of, scratch, step)
        out.finish()
        check()
        commit()
    return size


def signer_of(signer: Ed25519PrivateKey | None) -> str:
    """Return the public key of who signs, in hexadecimal; "" for nobody."""
    return "" if signer is None else signer.public_key().public_bytes_raw().hex()


def is_model(name: str) -> bool:
    """Return whether a name is that of a file to protect."""
    _, dot, suffix = name.rpartition(".")
    return (dot + suffix).lower() in _SUFFIXES


def check_suffix(target: Path, kind: int) -> None:
    """Raise if a name says another format than a file is going to have.

    Raises:
        ValueError: It does.
    """
    if _SUFFIXES.get(target.suffix.lower(), kind) != kind:
        format_ = next(name for name, number in KINDS.items() if number == kind)
        raise ValueError(
            f"{target.name}: a protected file has the format it had before, {format_}"
        )


def cut(plain: Sequence[PlainPool]) -> tuple[Pool, ...]:
    """Return pools with stored tensors that depend on chance and length (rule 2)."""
    names: set[str] = set()
    return tuple(
        Pool(
            dtype=pool.dtype,
            itemsize=pool.itemsize,
            length=pool.length,
            stored=cut_pool(pool.length, pool.itemsize, names),
            plain=pool.extents,
        )
        for pool in plain
    )


def cut_pool(length: int, itemsize: int, names: set[str]) -> tuple[Extent, ...]:
    """Return the stored tensors of a pool.

    Args:
        length: Bytes of the pool.
        itemsize: Bytes an element.
        names: Those that are taken; the new ones are added.
    """
    from secrets import SystemRandom

    chance = SystemRandom()
    count = length // itemsize
    pieces = min(chance.randint(1, _MOST_PIECES), count)
    inner = chance.sample(range(1, count), pieces - 1) if pieces else []
    edges = [0, *sorted(inner), count] if pieces else []
    extents: list[Extent] = []
    for start, end in pairwise(edges):
        name = os.urandom(_ID_BYTES).hex()
        while name in names:
            name = os.urandom(_ID_BYTES).hex()
        names.add(name)
        extents.append(
            Extent(name, (end - start,), start * itemsize, (end - start) * itemsize)
        )
    return tuple(extents)
