"""Protected files, from file to file, against copying, hashing and encrypting them.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`benchmarks/report.py protect-files` measures 0.25, 1 and 2.5 GB, and replaces that part
of RESULTS.md.

All files are in the page cache. What is written ends with an `fsync` on both sides, and
is taken away before the next one writes. Kernels are compiled in the round that does
not count: what that takes has a row of its own.
"""

from __future__ import annotations

import filecmp
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from bench_disarm import copy, settle
from generate import FULL, TINY, cache, protectable
from measure import MIB, run
from protect_peers import decrypted_hash, encrypt, one_hash

from safemodel import ProtectionKey, protect, restore, rotate, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY
KEY = ProtectionKey(bytes(range(32)))

CP, GCM, HASH = "cp and fsync", "AES-256-GCM", "blake3, one thread"
PROTECT, CONFIDENTIAL = "protect", "protect, confidential"
VERIFY, RESTORE, ROTATE = "verify", "restore", "rotate"
NAMES = (CP, GCM, HASH, PROTECT, CONFIDENTIAL, VERIFY, RESTORE, ROTATE)

MEMORY = """
import pathlib, sys
from safemodel import ProtectionKey, protect, restore, rotate, verify
name, source, out = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
key = ProtectionKey(bytes(range(32)))
if name == "verify":
    verify(source, key=key)
elif name == "protect, confidential":
    protect(source, out, key=key, confidential=True)
else:
    {"protect": protect, "restore": restore, "rotate": rotate}[name](
        source, out, key=key
    )
text = pathlib.Path("/proc/self/status").read_text()
print(int(text.split("VmHWM:")[1].split()[0]) * 1024)
print("torch" in sys.modules)
"""


class Files(NamedTuple):
    """What contenders read and write.

    Attributes:
        plain: The model.
        stored: The same, protected.
        out: What is written.
    """

    plain: Path
    stored: Path
    out: Path

    @classmethod
    def of(cls, plain: Path) -> Files:
        """Return the files around a model, and protect it."""
        stored = plain.with_name(f"protected-{plain.name}")
        protect(plain, stored, key=KEY, overwrite=True)
        return cls(plain, stored, plain.with_name(f"out-{plain.name}"))


def contenders(files: Files) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    plain, stored, out = files
    return {
        CP: lambda: copy(plain, out),
        GCM: lambda: encrypt(plain, out),
        HASH: lambda: one_hash(stored),
        PROTECT: lambda: protect(plain, out, key=KEY),
        CONFIDENTIAL: lambda: protect(plain, out, key=KEY, confidential=True),
        VERIFY: lambda: verify(stored, key=KEY),
        RESTORE: lambda: restore(stored, out, key=KEY),
        ROTATE: lambda: rotate(stored, out, key=KEY),
    }


def check(name: str, files: Files, result: Any) -> None:
    """Assert that a contender did what it is timed for."""
    plain, stored, out = files
    if name in (CP, RESTORE):
        assert filecmp.cmp(plain, out, shallow=False)
    elif name == GCM:
        assert decrypted_hash(out) == one_hash(plain)
    elif name == HASH:
        assert result == one_hash(stored)
    elif name == VERIFY:
        assert result.size == stored.stat().st_size
    else:
        assert not filecmp.cmp(plain, out, shallow=False)
        found = verify(out, key=KEY)
        assert found.epoch == (1 if name == ROTATE else 0)
        assert found.confidential == (name == CONFIDENTIAL)


def peak_mib(name: str, files: Files) -> float:
    """Return the largest resident memory of a fresh process that does one of ours."""
    read = files.plain if name in (PROTECT, CONFIDENTIAL) else files.stored
    settle([files.out])
    command = [sys.executable, "-c", MEMORY, name, str(read), str(files.out)]
    peak, torch_there = run(command).split()
    assert torch_there == "False"
    settle([files.out])
    return int(peak) / MIB


@pytest.fixture(scope="module", params=["safetensors", "pt"])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """Return a model and what belongs to it."""
    folder = cache() / FULL.name
    if SIZES is TINY:
        folder = tmp_path_factory.mktemp("protect")
    return Files.of(protectable(folder, SIZES, 0.25, request.param))


@pytest.mark.parametrize("name", NAMES)
def test_files(benchmark: BenchmarkFixture, files: Files, name: str) -> None:
    """Each does what it says."""
    result = benchmark.pedantic(
        contenders(files)[name], setup=lambda: settle([files.out])
    )
    check(name, files, result)
    settle([files.out])


@pytest.mark.parametrize("name", NAMES[3:])
def test_memory_is_measured(files: Files, name: str) -> None:
    """Of a process that has not loaded torch."""
    assert 10 < peak_mib(name, files) < 512


def test_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has all rows, of which no figure is nothing."""
    import report_protect
    from tables import Report

    monkeypatch.setenv("SAFEMODEL_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(report_protect, "FULL", TINY)
    monkeypatch.setattr(report_protect, "SIZES_GB", (0.001,))
    for name in ("FILE_ROUNDS", "UNBOUND_ROUNDS"):
        monkeypatch.setattr(report_protect, name, 1)
    for name in ("ROUNDS", "SLOW_ROUNDS"):
        monkeypatch.setattr(report_protect.memory, name, 1)
    report = Report()
    report_protect.measure_pools(report)
    report_protect.measure_protected_files(report)
    required = [row for row in report.rows if row.must is not None]
    assert [row.must for row in required] == [
        *(2, 20, 12),  # in memory
        3,  # to compile
        *(3, 1.5, 1, 3, 1.5, 1),  # from file to file
        *[512] * 4,
    ]
    assert all(row.figure > 0 for row in report.rows)
