"""`disarm`: read, understand, write what was understood; nothing else.

1. The file is checked as `safe_load` checks it, with globals outside the allowlist
   opaque unless the policy refuses them.
2. What the root reaches becomes plain values and tensors; what it does not reach is
   not written.
3. A new file is written beside the target, read back by other people's readers, and
   only then renamed into place.
4. No byte of the input is handed on but those of tensors, numbers and text.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE

if TYPE_CHECKING:
    from pathlib import Path

    from safemodel._containers.source import Source
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.writers import Form
    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits
    from safemodel.policy import Policy
    from safemodel.reports import DisarmReport, FileDigests, KeptTensor
    from safemodel.scrub import Scrub

_SUFFIXES: dict[str, Form] = {
    ".safetensors": "safetensors", ".npz": "npz",
    ".pt": "pt", ".pth": "pt", ".ckpt": "pt", ".bin": "pt",
}  # fmt: skip
_STEP = 1 << 22


def disarm(
    f: FileLike,
    out: StrPath,
    *,
    format: Form | None = None,  # noqa: A002 - the word of the command line
    policy: Policy = SALVAGE,
    scrub: Scrub | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
) -> DisarmReport:
    """Write a new file that holds only what was understood of another.

    Args:
        f: What to read: a path, bytes, or a binary file object.
        out: Where to write.
        format: "safetensors", "pt" or "npz"; None to go by the suffix of ``out``.
        policy: Which globals are allowed. By default all others become plain data;
            `STRICT` refuses the file instead.
        scrub: Low mantissa bits of floating-point tensors to overwrite, in which data
            may hide; None to keep every bit.
        limits: How much the file may ask for.
        overwrite: Whether ``out`` may be there already.

    Returns:
        What was kept, what was left behind, and what the file would have run.

    Raises:
        SafeModelError: The file is refused, malformed or of another format; ``out`` is
            as it was.
        DisarmError: What was written does not read back as it should.
        FileExistsError: ``out`` is there, and ``overwrite`` is false.
        OSError: Reading or writing failed; ``out`` is as it was.
        ValueError: The suffix of ``out`` names no format.
    """
    from pathlib import Path

    from safemodel._collector import collector_paused
    from safemodel._containers.source import open_source
    from safemodel._scan.look import look_at
    from safemodel.reports import DisarmReport

    started = time.perf_counter()
    target = Path(out)
    form = format or _form_of(target)
    limits = DEFAULT_LIMITS if limits is None else limits
    path = os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else ""
    with collector_paused(), open_source(f) as source:
        seen = look_at(
            source, path=path, policy=policy, limits=limits, tensors=False,
            checksums=False,
        )  # fmt: skip
        tensors, changed = _rewrite(
            source, target, form, policy, limits, scrub, overwrite=overwrite
        )
        read = _digests(source)
    with open_source(target) as written:
        made = _digests(written)
    return DisarmReport(
        path=path,
        out=str(target),
        source=read,
        result=made,
        format=seen.format,
        out_format=form,
        findings=seen.findings,
        tensors=tensors,
        changed=changed,
        seconds=round(time.perf_counter() - started, 3),
    )


def _form_of(target: Path) -> Form:
    """Return the format that a suffix stands for."""
    form = _SUFFIXES.get(target.suffix.lower())
    if form is None:
        known = ", ".join(sorted(_SUFFIXES))
        raise ValueError(f"{target.name}: give a format, or one of {known}")
    return form


def _rewrite(
    source: Source,
    target: Path,
    form: Form,
    policy: Policy,
    limits: Limits,
    scrub: Scrub | None,
    *,
    overwrite: bool,
) -> tuple[tuple[KeptTensor, ...], dict[str, int]]:
    """Rules 1 to 3, for one file; return its tensors and what became plain data."""
    from safemodel._build.assemble import Assembler
    from safemodel._formats.formats import read_file
    from safemodel._rewrite.contents import Reader
    from safemodel._rewrite.flatten import flatten
    from safemodel._rewrite.leaves import Leaves
    from safemodel._rewrite.output import whole_file
    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.writers import write

    graph, reading = read_file(
        source, policy=policy, limits=limits, verify=True, encoding="utf-8",
        errors="strict",
    )  # fmt: skip
    try:
        leaves, plain = Leaves(limits), Plain()
        assembler = Assembler(leaves.make)
        root = assembler.assemble(graph.root, graph.mutables, graph.immutables)
        leaves.settle()
        flat = flatten(root, plain)
        with whole_file(target, overwrite=overwrite) as (file, commit):
            check = write(form, file, root, flat, plain, Reader(limits, scrub))
            commit.flush()
            check(commit.part)
            commit()
    finally:
        reading.close()
    return _listed(flat.tensors, scrub), dict(plain.changed)


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


def _digests(source: Source) -> FileDigests:
    """Return size and digests of a whole file."""
    from hashlib import sha256

    from blake3 import blake3

    from safemodel.reports import FileDigests

    wide, strong = blake3(max_threads=blake3.AUTO), sha256()
    for start in range(0, source.size, _STEP):
        piece = source.view(start, min(_STEP, source.size - start))
        wide.update(piece)
        strong.update(piece)
    return FileDigests(
        size=source.size, sha256=strong.hexdigest(), blake3=wide.hexdigest()
    )
