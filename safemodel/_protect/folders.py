"""Folders of a model hub, protected, verified, restored and rotated.

1. Each model file becomes a protected file of its own, under the name it had. All other
   files, the index of shards among them, are sealed together with what says which
   shards belong together (`folder_seal`).
2. The new folder appears at once, or not at all. One that is there is never replaced.
3. Whatever is refused names its file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safemodel._containers.source import open_source
from safemodel._formats.protected import SEAL_NAME
from safemodel._protect.folder_files import files_to_protect
from safemodel._protect.folder_opening import (
    named,
    open_folder,
    open_signed_folder,
    opened_shard,
    same_seal,
)
from safemodel._protect.folder_seal import (
    FolderContents,
    folder_root,
    seal_digest,
    shard_tag,
)
from safemodel._protect.frames import find_seal
from safemodel._protect.header import MAX_TIME, read_header
from safemodel._protect.manifest import Manifest
from safemodel._protect.protecting import (
    How,
    is_model,
    protect_file,
    signer_of,
)
from safemodel._protect.reports import (
    ProtectReport,
    RestoreReport,
    RotateReport,
    VerifyReport,
)
from safemodel._protect.seal import seal
from safemodel._protect.tags import Tagger, new_file_id
from safemodel._protect.verifying import of_shard, remember, restore_to, verify_file
from safemodel._rewrite.output import whole_file
from safemodel._rewrite.output_folder import (
    checked_target,
    commit_folder,
    whole_folder,
)
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safemodel._protect.folder_files import File
    from safemodel._protect.folder_opening import OpenedFolder
    from safemodel._protect.rotating import Turn
    from safemodel._protect.verifying import Trust
    from safemodel.limits import Limits

    Report = Callable[[int, int], None]


class _Shares:
    """Progress of one file after the other, as that of all of them."""

    def __init__(self, report: Report | None, files: Sequence[File]) -> None:
        self._report = report
        self._total = sum(file.size for file in files)
        self._before = 0

    def next(self, file: File) -> Report | None:
        """Return what to tell about a file."""
        before, self._before = self._before, self._before + file.size
        report = self._report
        if report is None:
            return None

        def tell(done: int, total: int) -> None:
            report(before + file.size * done // max(total, 1), self._total)

        return tell


def protect_folder(folder: Path, target: Path, how: How) -> ProtectReport:
    """Protect a folder; see `safemodel.protect`."""
    started = time.perf_counter()
    real = checked_target(folder, target)
    found = files_to_protect(folder, how.limits)
    models = [file for file in found if is_model(file.name)]
    if not models:
        raise UnsupportedFormatError("a folder without any file that can be protected")
    others = [file for file in found if not is_model(file.name)]
    _check_sum(others, how.limits)
    shares = _Shares(how.progress, models)
    parts = []
    with whole_folder(real) as part:
        for file in models:
            each = How(
                **{**vars(how), "overwrite": False, "progress": shares.next(file)}
            )
            with named(file.name), open_source(file.path) as source:
                made = _place(part, file.name)
                report = protect_file(source, file.path, made, each)
            parts.append(_renamed(report, file.name, target))
        files = {file.name: _bytes_of(file) for file in others}
        file_id = new_file_id(b"".join(files.values()))
        _write_seal(part, file_id, parts, files, how)
        size = _size_of(part)
        commit_folder(part, real)
    return ProtectReport(
        path=str(folder),
        out=str(target),
        format="folder",
        size=sum(file.size for file in found),
        out_size=size,
        key_id=how.key.id,
        file_id=file_id.hex(),
        epoch=how.epoch,
        expires=how.expires,
        confidential=how.confidential,
        signer=signer_of(how.signer),
        seconds=_since(started),
        **_sums(parts),
    )


def verify_folder(folder: Path, trust: Trust) -> VerifyReport:
    """Verify a folder; see `safemodel.verify`."""
    started = time.perf_counter()
    parts = []
    if trust.keys is None and trust.public_key is not None:
        header, shards, digests = open_signed_folder(folder, trust.public_key, trust)
        accepted = [same_seal(digests[file.name]) for file in shards]
        by = "signature"
    else:
        opened = open_folder(folder, trust)
        header, shards = opened.header, list(opened.shards)
        accepted = [opened.accept(file.name) for file in shards]
        by = "key" if trust.public_key is None else "key and signature"
    shares = _Shares(trust.progress, shards)
    for file, accept in zip(shards, accepted, strict=True):
        each = of_shard(trust, accept, shares.next(file))
        with opened_shard(file) as source:
            parts.append(verify_file(source, file.name, each))
    remember(trust, header.file_id, header.epoch)
    return VerifyReport(
        path=str(folder),
        format="folder",
        size=_size_of(folder),
        key_id=header.key_id,
        file_id=header.file_id.hex(),
        epoch=header.epoch,
        expires=header.expires,
        confidential=header.confidential,
        signer="" if header.signer is None else header.signer.hex(),
        checked_by=by,
        tensor_bytes=sum(part.tensor_bytes for part in parts),
        seconds=_since(started),
        parts=tuple(parts),
    )


def restore_folder(folder: Path, target: Path, trust: Trust) -> RestoreReport:
    """Restore a folder; see `safemodel.restore`."""
    started = time.perf_counter()
    real = checked_target(folder, target)
    opened = open_folder(folder, trust)
    shares = _Shares(trust.progress, opened.shards)
    parts = []
    with whole_folder(real) as part:
        for file in opened.shards:
            each = of_shard(trust, opened.accept(file.name), shares.next(file))
            made = _place(part, file.name)
            with opened_shard(file) as source:
                report = restore_to(source, file.name, made, each, overwrite=False)
            parts.append(_renamed(report, file.name, target))
        for name, data in opened.contents.files.items():
            _write_file(_place(part, name), data)
        size = _size_of(part)
        remember(trust, opened.manifest.file_id, opened.manifest.epoch)
        commit_folder(part, real)
    return RestoreReport(
        path=str(folder),
        out=str(target),
        size=_size_of(folder),
        out_size=size,
        seconds=_since(started),
        **_facts(opened),
        **_sums(parts),
    )


def rotate_folder(folder: Path, target: Path, trust: Trust, turn: Turn) -> RotateReport:
    """Rotate a folder; see `safemodel.rotate`."""
    from safemodel._protect.rotating import rotate_file

    started = time.perf_counter()
    real = checked_target(folder, target)
    opened = open_folder(folder, trust)
    how = _next(opened, trust, turn)
    shares = _Shares(trust.progress, opened.shards)
    parts = []
    with whole_folder(real) as part:
        for file in opened.shards:
            each = of_shard(trust, opened.accept(file.name), shares.next(file))
            made = _place(part, file.name)
            with opened_shard(file) as source:
                report = rotate_file(source, file.name, made, each, turn)
            parts.append(_renamed(report, file.name, target))
        file_id = opened.manifest.file_id
        _write_seal(part, file_id, parts, opened.contents.files, how)
        size = _size_of(part)
        remember(trust, file_id, opened.manifest.epoch)  # the new one: as of one file
        commit_folder(part, real)
    remember(trust, file_id, how.epoch)
    known = _facts(opened) | {
        "key_id": how.key.id,
        "epoch": how.epoch,
        "expires": how.expires,
        "confidential": how.confidential,
        "signer": signer_of(how.signer),
    }
    return RotateReport(
        path=str(folder),
        out=str(target),
        size=_size_of(folder),
        out_size=size,
        old_key_id=opened.key.id,
        old_epoch=opened.manifest.epoch,
        seconds=_since(started),
        **known,
        **_sums(parts),
    )


def _next(opened: OpenedFolder, trust: Trust, turn: Turn) -> How:
    """Return how the folder is protected in its next epoch.

    Raises:
        KeyRequiredError: It would lose its signature.
        VerificationError: There is none.
    """
    old = opened.manifest
    turn.check_signer(opened.header.signer)
    if old.epoch >= MAX_TIME:
        raise VerificationError("it is in its last epoch: protect it as a new folder")
    return How(
        key=turn.key or opened.key,
        confidential=(
            old.confidential if turn.confidential is None else turn.confidential
        ),
        epoch=old.epoch + 1,
        expires=old.expires if turn.expires == -1 else turn.expires,
        signer=turn.signer,
        overwrite=False,
        limits=trust.limits,
        progress=None,
    )


def _write_seal(
    part: Path,
    file_id: bytes,
    parts: Sequence[ProtectReport | RotateReport],
    files: dict[str, bytes | memoryview],
    how: How,
) -> None:
    """Write the seal of a new folder, now that its shards are there."""
    tagger = Tagger.keyed(how.key, file_id, how.epoch)
    seals = sorted(_seal_of(part, report, tagger, how) for report in parts)
    shards = {name: tag for name, tag, _ in seals}
    data = FolderContents(shards=shards, files=files).encoded()
    manifest = Manifest(
        file_id=file_id,
        epoch=how.epoch,
        expires=how.expires,
        confidential=how.confidential,
        pools=(),
        leaves=(),
        frame=tagger.frame([data]),
        data=(data,),
    )
    root = None
    if how.signer is not None:
        digests = [(name, digest) for name, _, digest in seals]
        root = folder_root(file_id, how.epoch, digests)
    sealed = seal(
        manifest, how.key, signer=how.signer, public_root=root, limits=how.limits
    )
    _write_file(part / SEAL_NAME, sealed)


def _seal_of(
    part: Path, report: ProtectReport | RotateReport, tagger: Tagger, how: How
) -> tuple[str, bytes, bytes]:
    """Return the path of a shard that was written, and tag and digest of its seal.

    Raises:
        VerificationError: Another file is in its place.
    """
    with named(report.path), open_source(part / report.path) as source:
        found = find_seal(source, how.limits)
        if found is not None:
            header = read_header(found.data, how.limits)
            if (header.file_id.hex(), header.epoch) == (report.file_id, report.epoch):
                tag = shard_tag(tagger, found.data)
                return report.path, tag, seal_digest(found.data)
        raise VerificationError("it was exchanged while the folder was made")


def _place(part: Path, name: str) -> Path:
    """Return where a file of a new folder is written; its folder is there."""
    place = part / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _write_file(path: Path, data: bytes | memoryview) -> None:
    with whole_file(path, overwrite=False, read_back=False) as (out, commit):
        out.write(data)
        out.finish()
        commit()


def _bytes_of(file: File) -> bytes | memoryview:
    """Return a file that is sealed as a whole."""
    with open_source(file.path) as source:
        if source.size != file.size:  # which was bounded
            raise MalformedFileError("it changes while it is read", record=file.name)
        return source.read(0, source.size)


def _check_sum(files: list[File], limits: Limits) -> None:
    """Raise if there is more to seal than readers allow."""
    total = 0
    for file in files:
        total += file.size
        if total > limits.max_header_bytes:
            raise LimitExceededError(
                "max_header_bytes", allowed=limits.max_header_bytes, requested=total
            ).locate(record=file.name)


def _size_of(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(
        Path(place, name).lstat().st_size
        for place, _, names in os.walk(folder)
        for name in names
    )


def _renamed(report: Any, name: str, target: Path) -> Any:
    """Return the report of a file of a folder, with the names it will have."""
    given = {"path": name, "out": str(target / name)}
    return type(report)(**{**vars(report), **given})


def _sums(parts: list[Any]) -> dict[str, Any]:
    return {
        "tensors": sum(part.tensors for part in parts),
        "tensor_bytes": sum(part.tensor_bytes for part in parts),
        "parts": tuple(parts),
    }


def _facts(opened: OpenedFolder) -> dict[str, Any]:
    """Return what reports say of a folder that was opened."""
    of, signer = opened.manifest, opened.header.signer
    return {
        "format": "folder",
        "key_id": opened.key.id,
        "file_id": of.file_id.hex(),
        "epoch": of.epoch,
        "expires": of.expires,
        "confidential": of.confidential,
        "signer": "" if signer is None else signer.hex(),
    }


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)
