"""Disarming one large file, against copying it and against loading and saving it.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`benchmarks/report.py disarm` measures one run, and replaces that part of RESULTS.md.
"""

from __future__ import annotations

import gc
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import torch
from blake3 import blake3
from generate import FULL, TINY, cache, shape_a
from safetensors.torch import load_file, save_file

from safemodel import disarm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY


def sync(path: Path) -> None:
    """Put a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy(source: Path, out: Path) -> None:
    """Copy a file as the command does, and put the copy on the disk."""
    subprocess.run(["/bin/cp", source, out], check=True)
    sync(out)


def load_and_save(source: Path, out: Path) -> None:
    """Turn a file into safetensors as the restricted loader and the library do."""
    save_file(torch.load(source, weights_only=True), out)


def load_save_and_sync(source: Path, out: Path) -> None:
    """Do the same, and put the new file on the disk, as disarm does."""
    load_and_save(source, out)
    sync(out)


def digest(path: Path) -> tuple[str, str]:
    """Return SHA-256 and BLAKE3 of a file, both of each piece while it is in the cache.

    The pieces are as large as those that disarm takes.
    """
    sha, blake = sha256(), blake3()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            sha.update(buffer[:size])
            blake.update(buffer[:size])
    return sha.hexdigest(), blake.hexdigest()


def digest_both(source: Path, out: Path) -> list[tuple[str, str]]:
    """Take the four digests that a report has, of each file in a thread of its own."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(digest, (source, out)))


def copy_and_digest(source: Path, out: Path) -> None:
    """Copy a file, put the copy on the disk, and say by digests what both are."""
    copy(source, out)
    digest_both(source, out)


def load_save_and_digest(source: Path, out: Path) -> None:
    """Load, save and put on the disk, and say by digests what both files are."""
    load_save_and_sync(source, out)
    digest_both(source, out)


CONTENDERS: dict[str, Callable[[Path, Path], object]] = {
    "cp and fsync": copy,
    "disarm to .pt": disarm,
    "disarm to .pt, no digests": lambda source, out: disarm(source, out, digests=False),
    "disarm to .safetensors": disarm,
    "disarm to .safetensors, no digests": lambda source, out: disarm(
        source, out, digests=False
    ),
    "load and save_file": load_and_save,
    "load, save_file and fsync": load_save_and_sync,
    "cp, fsync and digests": copy_and_digest,
    "load, save_file, fsync and digests": load_save_and_digest,
}
"""What writes a new file from another."""


def suffix_of(name: str) -> str:
    """Return the suffix of what a contender writes."""
    return ".safetensors" if "save" in name or "safetensors" in name else ".pt"


def settle(outs: Iterable[Path]) -> None:
    """Take away what was written; let the disk come to rest."""
    for out in outs:
        out.unlink(missing_ok=True)
    os.sync()
    gc.collect()


def forget(path: Path) -> None:
    """Have the system drop what it holds of a file; the disk is read next time."""
    sync(path)  # what is not on the disk is not dropped
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def same(source: Path, out: Path) -> bool:
    """Say whether two files hold the same tensors, by torch and the library."""
    before = torch.load(source, weights_only=True, mmap=True)
    after = (
        load_file(out)
        if out.suffix == ".safetensors"
        else torch.load(out, weights_only=True, mmap=True)
    )
    return before.keys() == after.keys() and all(
        torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
        for name in before
    )


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_disarm(benchmark: BenchmarkFixture, tmp_path: Path, name: str) -> None:
    """Each writes the same tensors, bit for bit."""
    folder = cache() / FULL.name if SIZES is FULL else tmp_path
    source, out = shape_a(folder, SIZES)[0], tmp_path / f"out{suffix_of(name)}"

    def prepare() -> tuple[tuple[Path, Path], dict[str, object]]:
        settle([out])
        return (source, out), {}

    benchmark.pedantic(CONTENDERS[name], setup=prepare)
    assert same(source, out)


def test_digests_for_comparison(tmp_path: Path) -> None:
    """The digests that the peers take are those of the report of disarm."""
    source, out = shape_a(tmp_path, TINY)[0], tmp_path / "out.pt"
    report = disarm(source, out)
    assert digest_both(source, out) == [
        (file.sha256, file.blake3) for file in (report.source, report.result)
    ]
