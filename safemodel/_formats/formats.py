"""Which module reads which format: content decides, never a name.

Every way into a file goes through `read_any`: the file itself, a file within a pickle
or an archive, a shard. So what is refused in one place is refused in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.sniff import (
    HEAD_BYTES,
    Format,
    classify_zip,
    describe_unknown,
    sniff,
)
from safemodel._containers.tar_archive import read_tar_archive
from safemodel._containers.zip_archive import read_zip
from safemodel._formats.arrays import read_npy, read_npz
from safemodel._formats.bundle import read_bundle
from safemodel._formats.legacy import read_legacy
from safemodel._formats.protected import refuse_protected
from safemodel._formats.reading import Reading
from safemodel._formats.safetensors import read_safetensors_file
from safemodel._formats.sharded import read_sharded
from safemodel._formats.tar import read_tar
from safemodel._formats.torch_zip import read_torch_zip, read_torchscript
from safemodel._graph.check import FileCheck
from safemodel.errors import (
    LimitExceededError,
    SafeModelError,
    UnsupportedFormatError,
)

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel.limits import Limits
    from safemodel.policy import Policy


def read_file(
    source: Source,
    *,
    policy: Policy,
    limits: Limits,
    verify: bool = True,
    encoding: str = "utf-8",
    errors: str = "strict",
    spool: bool = False,
) -> tuple[TensorGraph, Reading]:
    """Read and check a file; build nothing.

    The caller closes `Reading.sources` once it has built what it wants, and passes
    `Reading.consumed` to `Source.finish`.

    Raises:
        SafeModelError: The file is refused, malformed or of no format we read.
    """
    reading = Reading(
        check=FileCheck(policy, limits, source.size),
        limits=limits,
        read_any=read_any,
        encoding=encoding,
        errors=errors,
        verify=verify,
        spool=spool,
    )
    try:
        root, reading.consumed = read_any(reading, source, "")
        return reading.check.finish(root), reading
    except BaseException as error:
        reading.close()
        if isinstance(error, SafeModelError):
            reading.check.refuse(error)
        raise


def read_any(reading: Reading, source: Source, prefix: str) -> tuple[object, int]:
    """Return the value of a source of any format, and how many bytes it takes."""
    form = sniff(source)
    if form is Format.ZIP:
        return _read_zip(reading, source, prefix), source.size
    if form is Format.LEGACY:
        return read_legacy(reading, source, prefix)
    if form is Format.PICKLE:
        return _read_pickle(reading, source, prefix)
    if form is Format.SAFETENSORS:
        return read_safetensors_file(reading, source, prefix), source.size
    if form is Format.NPY:
        return read_npy(reading, source, prefix)
    if form is Format.TAR:
        records = read_tar_archive(source, limits=reading.limits)
        return read_tar(reading, records, prefix), source.size
    if form is Format.SHARD_INDEX:
        return read_sharded(reading, source), source.size
    head = source.read(0, min(source.size, HEAD_BYTES))
    raise UnsupportedFormatError(describe_unknown(head, source.size))


def _read_zip(reading: Reading, source: Source, prefix: str) -> object:
    """Return the value of a zip archive, by the names of its records."""
    archive = read_zip(source, limits=reading.limits)
    refuse_protected(archive.records, prefix)
    reading.archives[prefix] = archive
    form = reading.forms[prefix] = classify_zip(archive.records)
    if form is Format.TORCH_ZIP:
        return read_torch_zip(reading, archive, prefix)
    if form is Format.TORCHSCRIPT:
        return read_torchscript(reading, archive, prefix)
    if form is Format.NPZ:
        return read_npz(reading, archive.records, prefix)
    if form is Format.ZIP_OF_MODELS:
        return read_bundle(reading, archive.records, prefix)
    raise UnsupportedFormatError(form.value)


def _read_pickle(reading: Reading, source: Source, prefix: str) -> tuple[object, int]:
    """Return the value of a lone pickle; what follows its STOP is left alone."""
    if source.size > reading.limits.max_pickle_bytes:
        raise LimitExceededError(
            "max_pickle_bytes",
            allowed=reading.limits.max_pickle_bytes,
            requested=source.size,
        )
    pickle = reading.parse(source.read(0, source.size), 0, prefix)
    return reading.check_pickle(pickle, prefix), pickle.end
