"""One model file, disarmed.

1. The file is checked as `safe_load` checks it, with globals outside the allowlist
   opaque unless the policy refuses them. It is parsed once: what is written and what
   the report says come from the same nodes.
2. What the root reaches becomes plain values and tensors; what it does not reach is
   not written.
3. A new file is written beside the target, read back by other people's readers, and
   only then renamed into place.
4. No byte of the input is handed on but those of tensors, numbers and text.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safemodel._containers.sniff import Format
    from safemodel._containers.source import Source
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._graph.specs import StorageSpec
    from safemodel._rewrite.digests import SourceDigests
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.leaves import Leaves, TensorLeaf
    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.writers import Form
    from safemodel._scan.recording import RecordingReading
    from safemodel._types import FileLike
    from safemodel.limits import Limits
    from safemodel.policy import Policy
    from safemodel.reports import (
        DisarmReport,
        FileDigests,
        FileReport,
        Finding,
        KeptOpaque,
        KeptTensor,
        LeftBehind,
    )
    from safemodel.scrub import Scrub

_SUFFIXES: dict[str, Form] = {
    ".safetensors": "safetensors", ".npz": "npz",
    ".zip": "zip", ".pt": "pt", ".pth": "pt", ".ckpt": "pt", ".bin": "pt",
}  # fmt: skip


class Settings(Value):
    """How a call disarms each of its files.

    Attributes:
        policy: Which globals are allowed.
        scrub: Which low bits of weights are overwritten.
        limits: How much a file may ask for.
        overwrite: Whether a target may be there already.
        digests: Whether SHA-256 and BLAKE3 are taken.
        durable: Whether a new file has to be on the disk when it gets its name: not
            where a whole folder gets there at once.
    """

    policy: Policy
    scrub: Scrub | None
    limits: Limits
    overwrite: bool
    digests: bool
    durable: bool = True


class _Written(NamedTuple):
    """What a new file holds, and what identifies both files."""

    tensors: tuple[KeptTensor, ...]
    opaque: tuple[KeptOpaque, ...]
    left_behind: tuple[LeftBehind, ...]
    changed: dict[str, int]
    source: FileDigests
    result: FileDigests


def form_of(target: Path) -> Form:
    """Return the format that a suffix stands for.

    Raises:
        ValueError: It stands for none.
    """
    form = _SUFFIXES.get(target.suffix.lower())
    if form is None:
        known = ", ".join(sorted(_SUFFIXES))
        raise ValueError(f"{target.name}: give a format, or one of {known}")
    return form


def disarm_file(
    f: FileLike, target: Path, form: Form | None, settings: Settings
) -> DisarmReport:
    """Disarm one file; see `safemodel.disarm`."""
    from safemodel._collector import collector_paused
    from safemodel._containers.source import open_source
    from safemodel._disarm.findings import sorted_out
    from safemodel._graph.allowlist import policy_version
    from safemodel._rewrite.writers import TORCH
    from safemodel._version import VERSION
    from safemodel.reports import DisarmReport

    started = time.perf_counter()
    form = form or form_of(target)
    path = os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else ""
    with collector_paused(), open_source(f) as source:
        seen, cleaned, written = _rewrite(source, path, target, form, settings)
    found = sorted_out((*seen.findings, *cleaned))
    return DisarmReport(
        path=path,
        out=str(target),
        source=written.source,
        result=written.result,
        format=seen.format,
        out_format="pt" if form in TORCH else form,
        removed=found.removed,
        anomalies=found.anomalies,
        notes=found.notes,
        left_behind=written.left_behind,
        tensors=written.tensors,
        opaque=written.opaque,
        changed=written.changed,
        version=VERSION,
        policy=policy_version(settings.policy),
        seconds=round(time.perf_counter() - started, 3),
    )


def _rewrite(
    source: Source, path: str, target: Path, form: Form, settings: Settings
) -> tuple[FileReport, list[Finding], _Written]:
    """Rules 1 to 3."""
    from safemodel._disarm.code_fields import Cleaner
    from safemodel._formats.members import Members
    from safemodel._rewrite.digests import SourceDigests
    from safemodel._scan.look import look_through
    from safemodel._scan.recording import check_file

    policy, limits = settings.policy, settings.limits
    clean = Cleaner()
    reading, graph, error = check_file(
        source,
        policy=policy,
        limits=limits,
        checksums=False,
        spool=True,
        members=Members(clean),
    )
    try:
        if graph is None or error is not None:
            reading.check.refuse(error)
            raise error or AssertionError("neither a graph nor an error")
        seen = look_through(source, reading, path=path, policy=policy, limits=limits)
        with SourceDigests(source, wanted=settings.digests) as digests:
            written = _write(source, reading, graph, target, form, settings, digests)
        return seen, clean.findings, written
    finally:
        reading.close()


def _write(
    source: Source,
    reading: RecordingReading,
    graph: TensorGraph,
    target: Path,
    form: Form,
    settings: Settings,
    digests: SourceDigests,
) -> _Written:
    """Rules 2 and 3."""
    from safemodel._disarm.left_behind import left_behind
    from safemodel._rewrite.bundle_writer import models_of, write_bundle
    from safemodel._rewrite.contents import Reader, check_repeats
    from safemodel._rewrite.flatten import flatten
    from safemodel._rewrite.output import whole_file
    from safemodel._rewrite.storage_bytes import StorageReader
    from safemodel._rewrite.writers import write

    limits, scrub = settings.limits, settings.scrub
    kinds = _kinds(reading, target, form)
    root, leaves, plain = _values(graph, form, limits)
    behind = left_behind(source, reading, graph, leaves.tensors)
    reading.parsed.clear()
    flat = flatten(models_of(root, kinds) if kinds else root, plain)
    check_repeats(_taken(leaves, flat, form), limits)
    whole = whole_file(
        target,
        overwrite=settings.overwrite,
        digests=settings.digests,
        durable=settings.durable,
    )
    with whole as (out, commit), StorageReader(limits, target.parent) as storages:
        reader = Reader(storages, scrub)
        if kinds:
            compare = write_bundle(out, root, kinds, target, plain, reader)
        else:
            compare = write(form, out, root, flat, plain, reader)
        found, result = out.finish()
        compare(commit.part, found)
        read = digests.result()
        commit()
    return _Written(
        tensors=_listed(flat.tensors, scrub),
        opaque=tuple(flat.opaques),
        left_behind=behind,
        changed=dict(leaves.changed + plain.changed),
        source=read,
        result=result,
    )


def _values(
    graph: TensorGraph, form: Form, limits: Limits
) -> tuple[object, Leaves, Plain]:
    """Return what is written of a graph, its leaves, and what makes it plain."""
    from safemodel._build.assemble import Assembler
    from safemodel._rewrite.leaves import Leaves
    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.writers import TORCH

    old = form == "pt-1.13"
    wide = form not in TORCH and form != "zip"
    leaves = Leaves(limits, wide_unsigned=wide, for_1_13=old)
    assemble = Assembler(leaves.make).assemble
    root = assemble(graph.root, graph.mutables, graph.immutables)
    leaves.settle()
    plain = Plain(wide_unsigned=wide, floats=not old, limits=limits)
    return root, leaves, plain


def _taken(leaves: Leaves, flat: Flat, form: Form) -> Iterator[tuple[StorageSpec, int]]:
    """Yield how many bytes of which storages are written."""
    from safemodel._rewrite.contents import row_major
    from safemodel._rewrite.writers import TORCH

    if form in TORCH or form == "zip":
        contents = {id(leaf.content): leaf for leaf in leaves.tensors}
        yield from (
            (leaf.spec.storage, leaf.content.nbytes)
            for leaf in contents.values()
            if leaf.content is not None
        )
        return
    for leaf in flat.tensors.values():
        if leaf.content is not None:
            itemsize = leaf.content.itemsize
            content = row_major(leaf.spec, itemsize, leaf.content)
            yield leaf.spec.storage, content.nbytes


def _kinds(
    reading: RecordingReading, target: Path, form: Form
) -> dict[str, dict[str, Format]]:
    """Return what the members of an archive are, if one is to be written.

    Raises:
        ValueError: One is to be written, and the input is none.
    """
    if form != "zip":
        return {}
    if reading.members is None or "" not in reading.members.kinds:
        raise ValueError(
            f"{target}: only an archive of several models is written as one"
        )
    return reading.members.kinds


def _listed(
    tensors: dict[str, TensorLeaf], scrub: Scrub | None
) -> tuple[KeptTensor, ...]:
    from safemodel.reports import KeptTensor

    return tuple(
        KeptTensor(
            name=name,
            dtype=leaf.dtype,
            shape=leaf.shape,
            scrubbed_bits=0 if scrub is None else scrub.bits_for(leaf.dtype),
        )
        for name, leaf in tensors.items()
    )
