"""`verify` and `restore` of one protected file, and what `safe_load` reads of it."""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Any

from safemodel._protect.frames import SAFETENSORS, find_seal
from safemodel._protect.header import MAX_TIME, SIGNER_BYTES, read_header
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.opening import NOT_PROTECTED, open_protected
from safemodel._protect.protecting import Progress, check_suffix
from safemodel._protect.seal import check_fresh, verify_signature
from safemodel._protect.state import EpochState
from safemodel._value import Value
from safemodel.errors import (
    KeyRequiredError,
    MalformedFileError,
    VerificationError,
)
from safemodel.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from safemodel._containers.source import Source
    from safemodel._protect.frames import FoundSeal
    from safemodel._protect.header import Header
    from safemodel._protect.keys import KeyProvider
    from safemodel._protect.leaves import Difference
    from safemodel._protect.opening import Opened
    from safemodel._protect.reports import RestoreReport, VerifyReport
    from safemodel._protect.writing import Step
    from safemodel._types import StrPath
    from safemodel.limits import Limits


class Trust(Value):
    """What a call accepts.

    Attributes:
        keys: The key, or where keys come from; None for none.
        public_key: The 32 bytes of the Ed25519 key whose signature is trusted.
        min_epoch: The lowest epoch to accept.
        state: Remembers the highest epoch of each file.
        limits: How much the file may ask for.
        progress: Called with bytes done and bytes in all.
        accept: Raises if a seal is not that of the file that is wanted; None: any is.
    """

    keys: ProtectionKey | KeyProvider | None
    public_key: bytes | None
    min_epoch: int
    state: EpochState | None
    limits: Limits
    progress: Callable[[int, int], None] | None
    accept: Callable[[memoryview], None] | None = None

    def check_seal(self, data: memoryview) -> None:
        """Raise unless a seal is wanted, and signed by whom it should be.

        Raises:
            MalformedFileError: It is none.
            VerificationError: It is not.
        """
        if self.accept is not None:
            self.accept(data)
        if self.public_key is not None:
            verify_signature(data, self.public_key, limits=self.limits)


def trust_in(
    keys: ProtectionKey | KeyProvider | None,
    public_key: bytes | None = None,
    min_epoch: int = 0,
    state: StrPath | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trust:
    """Return what a call accepts, from what its caller gave.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range.
    """
    if keys is not None:
        check_keys(keys)
    if public_key is not None:
        check_public_key(public_key)
    return Trust(
        keys=keys,
        public_key=public_key,
        min_epoch=checked_epoch(min_epoch),
        state=None if state is None else EpochState(state),
        limits=limits or DEFAULT_LIMITS,
        progress=progress,
    )


def of_shard(
    trust: Trust,
    accept: Callable[[memoryview], None],
    progress: Callable[[int, int], None] | None = None,
) -> Trust:
    """Return what is accepted of a shard: its epoch is that of the folder's seal.

    Args:
        trust: What is accepted of the folder.
        accept: Raises unless a seal is that of the shard.
        progress: Called with bytes done and bytes in all.
    """
    given = {"min_epoch": 0, "state": None, "progress": progress, "accept": accept}
    return Trust(**{**vars(trust), **given})


def check_key(key: object) -> None:
    """Raise unless it is a key; the error does not show what else it is."""
    if type(key) is not ProtectionKey:
        raise TypeError(f"key is a ProtectionKey, not {type(key).__name__}")


def check_public_key(public_key: object) -> None:
    """Raise unless it is one: else each file would seem to be signed by another."""
    if type(public_key) is not bytes:
        raise TypeError(f"public_key is 32 bytes, not {type(public_key).__name__}")
    if len(public_key) != SIGNER_BYTES:
        raise ValueError(f"an Ed25519 public key is {SIGNER_BYTES} bytes")


def check_keys(keys: object) -> None:
    """Raise unless it is a key or gives some."""
    if type(keys) is not ProtectionKey and not callable(getattr(keys, "get", None)):
        raise TypeError(
            f"key is a ProtectionKey or a KeyProvider, not {type(keys).__name__}"
        )


def checked_epoch(epoch: int) -> int:
    """Return an epoch that a seal can hold."""
    if type(epoch) is not int:
        raise TypeError("an epoch is an integer")
    if not 0 <= epoch <= MAX_TIME:
        raise ValueError("an epoch is from 0 to 2**63 - 1")
    return epoch


def open_trusted(source: Source, trust: Trust) -> Opened:
    """Open a file with its key, and check all of it but its tensors.

    Raises:
        KeyRequiredError: There is no key, or it is another one.
        VerificationError: It was changed; tensors are named that were changed with it.
    """
    if trust.keys is None:
        raise key_needed(source, trust.limits)
    opened = open_protected(
        source,
        trust.keys,
        limits=trust.limits,
        min_epoch=trust.min_epoch,
        state=trust.state,
        accept=trust.check_seal,
    )
    opened.check_size()
    if not opened.frame_holds():
        raise _frame_damage(opened)
    return opened


def remember(trust: Trust, file_id: bytes, epoch: int) -> None:
    """Take note that a file was seen, now that all of it holds."""
    if trust.state is not None:
        trust.state.record(file_id, epoch)


def key_needed(source: Source, limits: Limits) -> KeyRequiredError:
    """Return the error of a protected file without a key.

    Raises:
        VerificationError: It is not protected.
    """
    found = _seal_of(source, limits)
    try:
        key_id = read_header(found.data, limits).key_id
    except MalformedFileError as error:
        raise VerificationError(f"the seal was changed: {error}") from error
    return KeyRequiredError(f"a protected file: key {key_id} is needed", key_id=key_id)


def verify_file(source: Source, path: str, trust: Trust) -> VerifyReport:
    """Verify one file; see `safemodel.verify`."""
    started = time.perf_counter()
    if trust.keys is None and trust.public_key is not None:
        return _verify_signed(source, path, trust.public_key, trust, started)
    opened = open_trusted(source, trust)
    check_pools(opened, Progress(trust.progress, opened.manifest.tensor_bytes))
    remember(trust, opened.manifest.file_id, opened.manifest.epoch)
    by = "key" if trust.public_key is None else "key and signature"
    return _verified(path, facts(opened), source.size, by, started)


def check_pools(opened: Opened, progress: Progress) -> None:
    """Raise if a byte of a tensor has changed; name the tensors.

    Raises:
        VerificationError: It has.
    """
    changed = _changed(opened, progress.step)
    if changed:
        raise _named_damage(opened, changed)


def _changed(opened: Opened, step: Step) -> list[Difference]:
    """Return which chunks of the pools are not as sealed."""
    return [
        one
        for number in range(len(opened.manifest.pools))
        for one in opened.differences(number, opened.stored_leaves(number, step))
    ]


def _frame_damage(opened: Opened) -> VerificationError:
    """Return the error of a frame that has changed, perhaps to hide what else has.

    Who changes a tensor of an archive makes its CRC-32 fit.
    """
    changed = _changed(opened, _quietly)
    if not changed:
        return VerificationError("bytes of the file around the tensors have changed")
    error = _named_damage(opened, changed)
    return VerificationError(
        "bytes of tensors, and around them, have changed",
        tensors=error.tensors,
        ranges=error.ranges,
    )


def _named_damage(opened: Opened, changed: list[Difference]) -> VerificationError:
    """Return the error that says what has changed.

    It may take longer than all before: only in plain order tensors have names.
    """
    from contextlib import ExitStack
    from tempfile import gettempdir

    from safemodel._protect.restoring import restore_pool_to
    from safemodel._protect.scratch import Scratch

    if opened.manifest.confidential:
        return opened.damage(changed, None)
    scratch = Scratch(gettempdir(), private=True)
    found = {}
    with ExitStack() as stack:
        try:
            for number in {one.pool for one in changed}:
                length = opened.manifest.pools[number].length
                plain = stack.enter_context(scratch.file(length))
                restore_pool_to(
                    opened, number, plain.write_at, scratch=scratch, step=_quietly
                )
                found[number] = plain.read_into
            return opened.damage(changed, found.__getitem__)
        except OSError:
            # No room to find the names: the alarm matters more than they do.
            return opened.damage(changed, None)


def _quietly(count: int) -> None:
    """Tell nobody."""


def restore_to(
    source: Source, path: str, target: Path, trust: Trust, *, overwrite: bool
) -> RestoreReport:
    """Restore one file; see `safemodel.restore`."""
    from safemodel._protect.reports import RestoreReport
    from safemodel._protect.restoring import bytes_to_restore, restore_file
    from safemodel._protect.scratch import Scratch
    from safemodel._rewrite.output import whole_file

    started = time.perf_counter()
    opened = open_trusted(source, trust)
    check_suffix(target, opened.contents.kind)
    scratch = Scratch(target.parent)
    step = Progress(trust.progress, bytes_to_restore(opened, scratch)).step
    whole = whole_file(
        target, overwrite=overwrite, read_back=False, unnamed=True, like=path
    )
    with whole as (out, commit):
        size = restore_file(opened, out, trust.limits, scratch=scratch, step=step)
        out.finish()
        # Before it appears: what is refused here is not to be used.
        remember(trust, opened.manifest.file_id, opened.manifest.epoch)
        commit()
    return RestoreReport(
        path=path,
        out=str(target),
        size=source.size,
        out_size=size,
        tensors=tensors_of(opened),
        seconds=round(time.perf_counter() - started, 3),
        **facts(opened),
    )


def facts(opened: Opened) -> dict[str, Any]:
    """Return what reports say of a file that was opened."""
    of = opened.manifest
    return {
        "format": format_of(opened.contents.kind),
        "key_id": opened.key.id,
        "file_id": of.file_id.hex(),
        "epoch": of.epoch,
        "expires": of.expires,
        "confidential": of.confidential,
        "signer": "" if opened.signer is None else opened.signer.hex(),
        "tensor_bytes": of.tensor_bytes,
    }


def tensors_of(opened: Opened) -> int:
    """Return how many plain tensors a file has."""
    return sum(len(pool.plain) for pool in opened.manifest.pools)


def format_of(kind: int) -> str:
    """Return what reports call a kind of file."""
    return "safetensors" if kind == SAFETENSORS else "torch"


def _seal_of(source: Source, limits: Limits) -> FoundSeal:
    """Return the seal of a file that should have one."""
    found = find_seal(source, limits)
    if found is None:
        raise VerificationError(NOT_PROTECTED)
    return found


def _signed(found: FoundSeal, trust: Trust) -> Header:
    """Return the header of a seal that the holder of a trusted key signed."""
    try:
        trust.check_seal(found.data)
        return read_header(found.data, trust.limits)
    except MalformedFileError as error:
        raise VerificationError(f"the seal was changed: {error}") from error


def _verify_signed(
    source: Source, path: str, public_key: bytes, trust: Trust, started: float
) -> VerifyReport:
    """Verify a file by its signature alone."""
    from safemodel._protect.public_tags import public_root

    found = _seal_of(source, trust.limits)
    header = _signed(found, trust)
    check_fresh(header, min_epoch=trust.min_epoch)
    if trust.state is not None:
        trust.state.check(header.file_id, header.epoch)
    root = public_root(
        source.read_into,
        source.size,
        found.kind,
        (found.start, found.end),
        header.file_id,
        header.epoch,
        progress=Progress(trust.progress, source.size - found.end + found.start).step,
    )
    if not hmac.compare_digest(root, header.public_root or b""):
        raise VerificationError(
            "bytes have changed; who holds the protection key can tell of which tensors"
        )
    remember(trust, header.file_id, header.epoch)
    known = {
        "format": format_of(found.kind),
        "key_id": header.key_id,
        "file_id": header.file_id.hex(),
        "epoch": header.epoch,
        "expires": header.expires,
        "confidential": header.confidential,
        "signer": public_key.hex(),
        "tensor_bytes": header.tensor_bytes,
    }
    return _verified(path, known, source.size, "signature", started)


def _verified(
    path: str, known: dict[str, Any], size: int, by: str, started: float
) -> VerifyReport:
    from safemodel._protect.reports import VerifyReport

    return VerifyReport(
        path=path,
        size=size,
        checked_by=by,
        seconds=round(time.perf_counter() - started, 3),
        **known,
    )
