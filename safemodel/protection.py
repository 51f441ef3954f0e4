"""Protected files: `protect`, `verify`, `restore`, `rotate`, and the keys they need.

A protected file is a valid file of the format it had, in which nothing is where it was
and nothing is called what it was called: how, depends on a key. Who does not have the
key cannot put it back and cannot change a bit unnoticed.

The order of the numbers is hidden, not the numbers: who must not see those wants
``confidential=True``, which encrypts them.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from safemodel._protect.keys import KeyProvider, KeyRing, ProtectionKey
from safemodel._protect.reports import (
    ProtectReport,
    RestoreReport,
    RotateReport,
    VerifyReport,
)
from safemodel.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    import torch
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._containers.source import Source
    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits

__all__ = [
    "KeyProvider",
    "KeyRing",
    "ProtectReport",
    "ProtectionKey",
    "RestoreReport",
    "RotateReport",
    "VerifyReport",
    "protect",
    "restore",
    "rotate",
    "verify",
]

_MAX_EPOCH = (1 << 63) - 1
_KEEP = "keep"


def protect(
    f: FileLike | torch.nn.Module | Mapping[str, torch.Tensor],
    out: StrPath,
    *,
    key: ProtectionKey,
    confidential: bool = False,
    epoch: int = 0,
    expires: int | datetime | None = None,
    signer: Ed25519PrivateKey | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProtectReport:
    """Write a protected file: one whose structure and order depend on a key.

    Any reader opens it, and gets numbers in an order that says nothing. Names, shapes
    and all that is not tensors are encrypted in it. The numbers themselves are not,
    without ``confidential=True``: each is still there, in another place.

    Args:
        f: A `.safetensors` or `.pt` file: a path, bytes, or a binary file object; or a
            module, of which the state dict is protected, or a mapping of tensors; or
            the path of a folder in the layout of a model hub.
        out: Where to write. It has the format of ``f``; a module or a mapping becomes a
            `.safetensors` file if that is the suffix, else a `.pt` file. A folder must
            not be there yet, or be empty.
        key: The key. Without it nobody can restore the file, the author included.
        confidential: Whether to encrypt the bytes of tensors, in place of permuting
            their elements.
        epoch: Which version of its content this is, for ``min_epoch``.
        expires: When to refuse the file from: seconds since 1970, or a time with a time
            zone. The clock is the reader's.
        signer: Signs the file, so that those who hold no key can verify it.
        overwrite: Whether ``out`` may be there already; a folder is never replaced.
        limits: How much the file may ask for.
        progress: Called now and then with bytes done and bytes in all, one call at a
            time, by any thread.

    Returns:
        What was written: ids, epoch, sizes; never a key or a name.

    Raises:
        SafeModelError: The file is one that `safe_load` refuses, or its tensors are not
            spans of it; the message says what to do. Or it changed meanwhile.
        FileExistsError: ``out`` is there, and ``overwrite`` is false.
        OSError: Reading or writing failed; ``out`` is as it was.
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of range, or ``out`` has the suffix of another
            format, or of one that cannot hold these tensors.
    """
    from pathlib import Path

    from safemodel._protect.protecting import How, protect_file
    from safemodel._protect.signing import check_signer
    from safemodel._protect.verifying import check_key, checked_epoch

    check_key(key)
    check_signer(signer)
    how = How(
        key=key,
        confidential=bool(confidential),
        epoch=checked_epoch(epoch),
        expires=_seconds(expires),
        signer=signer,
        overwrite=overwrite,
        limits=limits or DEFAULT_LIMITS,
        progress=progress,
    )
    target = Path(out)
    if folder := _folder_of(f):
        from safemodel._protect.folders import protect_folder

        return protect_folder(folder, target, how)
    with _opened(_file_of(f, target)) as (source, path):
        return protect_file(source, path, target, how)


def verify(
    f: FileLike,
    *,
    key: ProtectionKey | KeyProvider | None = None,
    public_key: bytes | None = None,
    min_epoch: int = 0,
    state: StrPath | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Check that no bit of a protected file has changed; return only if none has.

    Args:
        f: The file: a path, bytes, or a binary file object; or the path of a folder.
        key: Its key, or where keys come from.
        public_key: The 32 bytes of the Ed25519 key that must have signed it. Without
            ``key`` the signature is all that is checked, and covers the whole file; but
            then nobody can tell which tensors have changed.
        min_epoch: The lowest epoch to accept.
        state: A file that remembers the highest epoch that was seen of each file; an
            older one is refused.
        limits: How much the file may ask for.
        progress: Called now and then with bytes done and bytes in all, one call at a
            time, by any thread.

    Returns:
        What everyone may know of the file, now that it holds.

    Raises:
        KeyRequiredError: Another key is needed, or there is none.
        VerificationError: The file was changed, is older than ``min_epoch`` or
            ``state`` allow, has expired, or is not protected. It names the tensors.
        SafeModelError: It is of a later version, or asks for too much.
        OSError: It cannot be read, or the state cannot be written.
        TypeError: An argument is of the wrong type, or ``key`` returned no key.
    """
    from safemodel._protect.verifying import trust_in, verify_file

    trust = trust_in(key, public_key, min_epoch, state, limits, progress)
    if folder := _folder_of(f):
        from safemodel._protect.folders import verify_folder

        return verify_folder(folder, trust)
    with _opened(f) as (source, path):
        return verify_file(source, path, trust)


def restore(
    f: FileLike,
    out: StrPath,
    *,
    key: ProtectionKey | KeyProvider,
    public_key: bytes | None = None,
    min_epoch: int = 0,
    state: StrPath | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RestoreReport:
    """Write the file that was protected, byte for byte; only if nothing has changed.

    Args:
        f: The protected file: a path, bytes, or a binary file object; or the path of a
            folder.
        out: Where to write the plain one.
        key: Its key, or where keys come from.
        public_key: As in `verify`: who must have signed it, too.
        min_epoch: The lowest epoch to accept.
        state: As in `verify`.
        overwrite: Whether ``out`` may be there already; a folder is never replaced.
        limits: How much the file may ask for.
        progress: Called now and then with bytes done and bytes in all, one call at a
            time, by any thread.

    Returns:
        What was written.

    Raises:
        KeyRequiredError: Another key is needed.
        VerificationError: As in `verify`; ``out`` is as it was.
        SafeModelError: It is of a later version, or asks for too much.
        FileExistsError: ``out`` is there, and ``overwrite`` is false.
        OSError: Reading or writing failed; ``out`` is as it was.
        TypeError: An argument is of the wrong type, or ``key`` returned no key.
        ValueError: ``out`` has the suffix of another format.
    """
    from pathlib import Path

    from safemodel._protect.verifying import check_keys, restore_to, trust_in

    check_keys(key)
    trust = trust_in(key, public_key, min_epoch, state, limits, progress)
    if folder := _folder_of(f):
        from safemodel._protect.folders import restore_folder

        return restore_folder(folder, Path(out), trust)
    with _opened(f) as (source, path):
        return restore_to(source, path, Path(out), trust, overwrite=overwrite)


def rotate(
    f: FileLike,
    out: StrPath,
    *,
    key: ProtectionKey | KeyProvider,
    new_key: ProtectionKey | None = None,
    public_key: bytes | None = None,
    confidential: bool | None = None,
    expires: int | datetime | Literal["keep"] | None = "keep",
    signer: Ed25519PrivateKey | None = None,
    unsigned: bool = False,
    min_epoch: int = 0,
    state: StrPath | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RotateReport:
    """Write a protected file anew, in its next epoch: another order, other names.

    The file keeps its id. Its plain order is never on the disk, but for parts that do
    not fit into memory, which are encrypted there with a key that nobody has.

    Args:
        f: The protected file: a path, bytes, or a binary file object; or the path of a
            folder.
        out: Where to write; it may be the path of ``f`` if that is a file and
            ``overwrite`` is true.
        key: Its key, or where keys come from.
        new_key: The key of the new file; None for the same.
        public_key: As in `verify`: who must have signed the old file.
        confidential: Whether to encrypt the bytes of tensors; None as it is now.
        expires: As in `protect`; "keep" for what it is now.
        signer: Signs the new file. A signature is never taken over from the old one.
        unsigned: Whether a file that is signed may become one that is not.
        min_epoch: The lowest epoch to accept.
        state: As in `verify`; afterwards it remembers the new epoch.
        overwrite: Whether ``out`` may be there already. It is replaced in one step; a
            folder never is.
        limits: How much the file may ask for.
        progress: Called now and then with bytes done and bytes in all, one call at a
            time, by any thread.

    Returns:
        What was written.

    Raises:
        KeyRequiredError: Another key is needed; or the file is signed, and there is
            neither ``signer`` nor ``unsigned``.
        VerificationError: As in `verify`; ``out`` is as it was.
        SafeModelError: It is of a later version, or asks for too much.
        FileExistsError: ``out`` is there, and ``overwrite`` is false.
        OSError: Reading or writing failed; ``out`` is as it was.
        TypeError: An argument is of the wrong type, or ``key`` returned no key.
        ValueError: ``out`` has the suffix of another format, or ``expires`` is out of
            range.
    """
    from pathlib import Path

    from safemodel._protect.rotating import Turn, rotate_file
    from safemodel._protect.signing import check_signer
    from safemodel._protect.verifying import check_key, check_keys, trust_in

    check_keys(key)
    if new_key is not None:
        check_key(new_key)
    check_signer(signer)
    turn = Turn(
        key=new_key,
        confidential=confidential,
        expires=-1 if expires == _KEEP else _seconds(expires),
        signer=signer,
        unsigned=unsigned,
        overwrite=overwrite,
    )
    trust = trust_in(key, public_key, min_epoch, state, limits, progress)
    if folder := _folder_of(f):
        from safemodel._protect.folders import rotate_folder

        return rotate_folder(folder, Path(out), trust, turn)
    with _opened(f) as (source, path):
        return rotate_file(source, path, Path(out), trust, turn)


@contextmanager
def _opened(f: FileLike) -> Iterator[tuple[Source, str]]:
    """Open a file; give it and its name. A file object is left at its end."""
    from safemodel._containers.source import open_source

    path = os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else ""
    with open_source(f) as source:
        yield source, path
        source.finish(source.size)


def _folder_of(f: Any) -> Path | None:
    """Return the folder that a path is; None for a file, or what is no path."""
    from pathlib import Path

    if not isinstance(f, (str, os.PathLike)):
        return None
    path = Path(f)
    return path if path.is_dir() else None


def _file_of(f: Any, target: Path) -> Any:
    """Return a file, or one that is made of a module or a mapping."""
    from collections.abc import Mapping

    if isinstance(f, Mapping):
        tensors = dict(f)
    elif callable(getattr(f, "state_dict", None)):
        tensors = dict(f.state_dict())
    else:
        return f
    from safemodel._build.saving import saved

    return saved(tensors, safetensors=target.suffix.lower() == ".safetensors")


def _seconds(expires: Any) -> int | None:
    """Return a time as seconds since 1970."""
    from datetime import datetime

    if expires is None:
        return None
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise ValueError("expires: a time without a time zone")
        expires = int(expires.timestamp())
    if type(expires) is not int:
        raise TypeError("expires is seconds since 1970, a time, or None")
    if not 0 < expires <= _MAX_EPOCH:
        raise ValueError("expires is from 1 to 2**63 - 1 seconds since 1970")
    return expires
