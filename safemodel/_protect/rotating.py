"""A protected file → the same one in its next epoch, under the same key or another.

The plain order of a pool is only ever in memory, or on the disk under a key that is
forgotten with the process. What was read is checked before the new file appears.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safemodel._protect.header import MAX_TIME
from safemodel._protect.layout import PLAIN, Pool
from safemodel._protect.protecting import Progress, check_suffix, cut_pool, signer_of
from safemodel._protect.verifying import (
    check_pools,
    facts,
    open_trusted,
    remember,
    tensors_of,
)
from safemodel._value import Value
from safemodel.errors import KeyRequiredError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._containers.source import Source
    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.leaves import PoolTagger
    from safemodel._protect.opening import Opened
    from safemodel._protect.reports import RotateReport
    from safemodel._protect.restoring import WriteAt
    from safemodel._protect.scratch import Scratch
    from safemodel._protect.verifying import Trust
    from safemodel._protect.writing import Plain, Recipe, Step


class Turn(Value):
    """What a call changes.

    Attributes:
        key: The new key; None to keep the old one.
        confidential: Whether tensors are encrypted; None to keep it as it is.
        expires: Seconds since 1970; None for never; -1 to keep it as it is.
        signer: Who signs the new file; None for nobody.
        unsigned: Whether a file that is signed may become one that is not.
        overwrite: Whether the target may be there already.
    """

    key: ProtectionKey | None
    confidential: bool | None
    expires: int | None
    signer: Ed25519PrivateKey | None
    unsigned: bool
    overwrite: bool

    def check_signer(self, old: bytes | None) -> None:
        """Refuse to lose a signature by accident: readers without the key need it.

        Args:
            old: The Ed25519 key that signed the old file; None if none did.

        Raises:
            KeyRequiredError: The new file would not be signed, and nobody said so.
        """
        if old is not None and self.signer is None and not self.unsigned:
            raise KeyRequiredError(
                f"it is signed by {old.hex()}: the new file needs a signer, too, or"
                " leave to be unsigned"
            )


def rotate_file(
    source: Source, path: str, target: Path, trust: Trust, turn: Turn
) -> RotateReport:
    """Rotate one file; see `safemodel.rotate`."""
    from safemodel._protect.reports import RotateReport

    started = time.perf_counter()
    opened = open_trusted(source, trust)
    check_suffix(target, opened.contents.kind)
    recipe = _next(opened, trust, turn)
    size = _write(opened, recipe, target, trust, overwrite=turn.overwrite)
    known = facts(opened) | {
        "key_id": recipe.key.id,
        "epoch": recipe.epoch,
        "expires": recipe.expires,
        "confidential": recipe.confidential,
        "signer": signer_of(turn.signer),
    }
    return RotateReport(
        path=path,
        out=str(target),
        size=source.size,
        out_size=size,
        old_key_id=opened.key.id,
        old_epoch=opened.manifest.epoch,
        tensors=tensors_of(opened),
        seconds=round(time.perf_counter() - started, 3),
        **known,
    )


def _next(opened: Opened, trust: Trust, turn: Turn) -> Recipe:
    """Return what the file is to be in its next epoch.

    Raises:
        KeyRequiredError: It would lose its signature.
        VerificationError: There is none.
    """
    from safemodel._protect.writing import Recipe

    old = opened.manifest
    turn.check_signer(opened.signer)
    if old.epoch >= MAX_TIME:
        raise VerificationError("it is in its last epoch: protect it as a new file")
    return Recipe(
        kind=opened.contents.kind,
        key=turn.key or opened.key,
        file_id=old.file_id,
        epoch=old.epoch + 1,
        expires=old.expires if turn.expires == -1 else turn.expires,
        confidential=(
            old.confidential if turn.confidential is None else turn.confidential
        ),
        signer=turn.signer,
        pools=_cut_again(old.pools),
        skeleton=opened.take_skeleton,
        limits=trust.limits,
    )


def _write(
    opened: Opened, recipe: Recipe, target: Path, trust: Trust, *, overwrite: bool
) -> int:
    """Write the new file; return its size."""
    from safemodel._protect.restoring import passes
    from safemodel._protect.scratch import Scratch
    from safemodel._protect.writing import write
    from safemodel._rewrite.output import whole_file

    before, after = opened.manifest.confidential, recipe.confidential
    # What is encrypted before and after is not restored on the way.
    first = 0 if before and after else passes(confidential=before)
    each = first + (1 if after else 2)
    step = Progress(trust.progress, each * opened.manifest.tensor_bytes).step
    scratch = Scratch(target.parent, private=True)

    def plain_of(number: int) -> AbstractContextManager[Plain]:
        if before and after:
            return _decrypted(opened, number)
        return _plain(opened, number, scratch, step)

    whole = whole_file(
        target,
        overwrite=overwrite,
        read_back=False,
        unnamed=True,
        like=opened.source.name,
    )
    with whole as (out, commit):
        size = write(out, recipe, plain_of, scratch, step)
        out.finish()
        # The new epoch once there is a file of it: else the old one would be refused,
        # and there would be no other. That the state can be written is known by then.
        remember(trust, recipe.file_id, opened.manifest.epoch)
        commit()
    remember(trust, recipe.file_id, recipe.epoch)
    return size


@contextmanager
def _plain(
    opened: Opened, number: int, scratch: Scratch, step: Step
) -> Iterator[Plain]:
    """Give a pool in plain order, for as long as it is needed.

    If it is in a file meanwhile, its leaves in that order are compared as well: of the
    same bytes in memory of which the new ones are taken.

    Raises:
        VerificationError: It is not what was sealed.
    """
    from safemodel._protect.restoring import restore_pool_to
    from safemodel._protect.writing import Plain

    with scratch.file(opened.manifest.pools[number].length) as plain:
        write: WriteAt = plain.write_at
        expected: Sequence[bytes] | None = opened.manifest.leaves[number][PLAIN]
        if opened.manifest.confidential:
            write, expected = _noting(opened.plain_tagger(number), write)
        changed = restore_pool_to(opened, number, write, scratch=scratch, step=step)
        if changed:
            check_pools(opened, Progress(None, 0))  # names those of all pools
            raise opened.damage(changed, lambda _: plain.read_into)
        check = None
        if scratch.on_disk(plain.length):
            check = opened.plain_check(number, expected)
        yield Plain(plain.read_into, check)


@contextmanager
def _decrypted(opened: Opened, number: int) -> Iterator[Plain]:
    """Give a pool whose chunks are decrypted as they are asked for: the next is theirs.

    Raises:
        VerificationError: It is not what was sealed.
    """
    from safemodel._protect.writing import Plain

    pool = opened.encrypted(number)
    yield Plain(pool.decrypted(opened.read_stored(number)))
    changed = opened.differences(number, pool.tags)
    if changed:
        check_pools(opened, Progress(None, 0))  # names those of all pools
        raise opened.damage(changed, None)


def _noting(tagger: PoolTagger, write: WriteAt) -> tuple[WriteAt, Sequence[bytes]]:
    """Return what writes the chunks of a pool, and the leaves it takes of them."""
    tags = [b""] * tagger.chunks
    indices = {tagger.span(index)[0]: index for index in range(tagger.chunks)}

    def noting(at: int, view: memoryview) -> None:
        index = indices[at]
        tags[index] = tagger.leaf(index, view)
        write(at, view)

    return noting, tags


def _cut_again(pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """Return the same pools with other stored tensors."""
    names: set[str] = set()
    return tuple(
        Pool(**{**vars(pool), "stored": cut_pool(pool.length, pool.itemsize, names)})
        for pool in pools
    )
