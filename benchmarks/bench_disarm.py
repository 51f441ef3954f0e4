"""Disarming one large file, against copying it and against loading and saving it.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`benchmarks/report.py disarm` prints the ratios of one run.
"""

from __future__ import annotations

import gc
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import torch
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
