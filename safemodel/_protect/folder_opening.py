"""A protected folder, opened: which files are in it is checked before any is read.

1. The seal of the folder is opened first. Its shards and no other files are there.
2. Each shard is opened as a file is, but by the one seal that the folder's seal names:
   no shard is of another folder or epoch. That seal is read once: who can write the
   shard could else change it in between.
"""

from __future__ import annotations

import hmac
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safemodel._containers.source import open_source
from safemodel._formats.protected import SEAL_NAME
from safemodel._protect.folder_files import files_there
from safemodel._protect.folder_seal import (
    decode_folder,
    folder_root,
    is_shard,
    seal_digest,
)
from safemodel._protect.frames import find_seal
from safemodel._protect.header import HEADER_BYTES, SIGNATURE_BYTES, read_header
from safemodel._protect.keys import key_for
from safemodel._protect.opening import NOT_PROTECTED
from safemodel._protect.seal import check_fresh, open_sealed, verify_signature
from safemodel._protect.tags import Tagger
from safemodel._value import Value
from safemodel.errors import (
    KeyRequiredError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    VerificationError,
    quote,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from safemodel._containers.source import Source
    from safemodel._protect.folder_files import File
    from safemodel._protect.folder_seal import FolderContents
    from safemodel._protect.header import Header
    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.manifest import Manifest
    from safemodel._protect.verifying import Trust
    from safemodel.limits import Limits


_OTHER_SHARD = "a file of another folder or another epoch, or its seal was changed"


class OpenedFolder(Value):
    """A protected folder whose seal holds.

    Attributes:
        key: Its key.
        header: What everyone may know.
        manifest: What was sealed.
        contents: Its shards and all other files.
        shards: The files that are the shards.
    """

    key: ProtectionKey
    header: Header
    manifest: Manifest
    contents: FolderContents
    shards: tuple[File, ...]

    def __repr__(self) -> str:
        return f"<OpenedFolder of {len(self.shards)} shards>"

    def accept(self, name: str) -> Callable[[memoryview], None]:
        """Return what raises unless a seal is that of a shard (rule 2)."""
        tagger = Tagger.keyed(self.key, self.manifest.file_id, self.manifest.epoch)

        def accept(seal: memoryview) -> None:
            if not is_shard(tagger, seal, self.contents.shards[name]):
                raise VerificationError(_OTHER_SHARD)

        return accept


def same_seal(digest: bytes) -> Callable[[memoryview], None]:
    """Return what raises unless a seal is the one that was seen before."""

    def accept(seal: memoryview) -> None:
        if seal_digest(seal) != digest:
            raise VerificationError(_OTHER_SHARD)

    return accept


@contextmanager
def opened_shard(file: File) -> Iterator[Source]:
    """Open a file of a folder, and name it in errors."""
    with named(file.name), open_source(file.path) as source:
        yield source


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say in errors about a file of a folder which one it is."""
    try:
        yield
    except SafeModelError as error:
        error.locate(record=name)
        raise


def open_folder(folder: Path, trust: Trust) -> OpenedFolder:
    """Open a protected folder and check which files are in it.

    Raises:
        KeyRequiredError: There is no key, or another one is needed.
        VerificationError: It was changed, is too old, or is not protected.
    """
    data, there = _seal_of(folder, trust.limits)
    try:
        header = read_header(data, trust.limits)
        if trust.keys is None:
            raise KeyRequiredError(
                f"a protected folder: key {header.key_id} is needed",
                key_id=header.key_id,
            )
        key = key_for(header.key_id, trust.keys)
        if trust.public_key is not None:
            verify_signature(data, trust.public_key, limits=trust.limits)
        manifest = open_sealed(data, key, limits=trust.limits)
        _check_is_folder(manifest, key)
        (inside,) = manifest.data
        contents = decode_folder(inside, trust.limits)
    except MalformedFileError as error:
        raise VerificationError(f"the seal was changed: {error}") from error
    _check_fresh(manifest, trust)
    names = {file.name for file in there}
    for name in sorted(names ^ contents.shards.keys()):
        what = "was added to the folder" if name in names else "is missing"
        raise VerificationError(f"{quote(name)} {what}")
    return OpenedFolder(
        key=key,
        header=header,
        manifest=manifest,
        contents=contents,
        shards=tuple(there),
    )


def open_signed_folder(
    folder: Path, public_key: bytes, trust: Trust
) -> tuple[Header, list[File], dict[str, bytes]]:
    """Open a folder that is signed, without its key.

    Returns:
        Its header, its shards, and the digest of the seal of each shard by its name.

    Raises:
        VerificationError: It was changed, is too old, or is not signed by this key.
    """
    data, there = _seal_of(folder, trust.limits)
    try:
        header = verify_signature(data, public_key, limits=trust.limits)
    except MalformedFileError as error:
        raise VerificationError(f"the seal was changed: {error}") from error
    _check_fresh(header, trust)
    digests = []
    for file in there:
        with opened_shard(file) as source:
            found = find_seal(source, trust.limits)
            if found is None:
                raise VerificationError(NOT_PROTECTED)
            digests.append((file.name, seal_digest(found.data)))
            del found  # before the next one
    root = folder_root(header.file_id, header.epoch, digests)
    if not hmac.compare_digest(root, header.public_root or b""):
        raise VerificationError("files were added, taken away or exchanged")
    return header, there, dict(digests)


def _check_is_folder(manifest: Manifest, key: ProtectionKey) -> None:
    """Raise unless a manifest is that of a folder: that of a file is read otherwise."""
    tagger = Tagger.keyed(key, manifest.file_id, manifest.epoch)
    frame = tagger.frame(manifest.data)
    if manifest.pools or not hmac.compare_digest(manifest.frame, frame):
        raise VerificationError("the seal is that of a file, not of a folder")


def _check_fresh(of: Header | Manifest, trust: Trust) -> None:
    """Refuse what was put in the place of something newer."""
    check_fresh(of, min_epoch=trust.min_epoch)
    if trust.state is not None:
        trust.state.check(of.file_id, of.epoch)


def _seal_of(folder: Path, limits: Limits) -> tuple[bytes, list[File]]:
    """Return the seal of a folder, and all other files in it (rule 1)."""
    files, others = files_there(folder, limits)
    seal = next((file for file in files if file.name == SEAL_NAME), None)
    if seal is None:
        raise VerificationError(NOT_PROTECTED)
    if others:
        raise VerificationError(
            f"{quote(others[0])} is a link or a special file, and was not protected"
        )
    most = limits.max_header_bytes + HEADER_BYTES + SIGNATURE_BYTES
    with open_source(seal.path) as source:
        if source.size > most:
            raise LimitExceededError(
                "max_header_bytes", allowed=most, requested=source.size
            )
        data = source.read(0, source.size)
    return data, [file for file in files if file.name != SEAL_NAME]
