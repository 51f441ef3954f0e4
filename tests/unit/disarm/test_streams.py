"""What goes on beside the writer, and how storages are read piece by piece."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3

from safemodel import disarm, safe_load
from safemodel._rewrite import output, storage_bytes, trail
from safemodel._rewrite.output import whole_file
from safemodel.errors import ChecksumError, DisarmError
from tests.unit.disarm.helpers_disarm import bits, differences, saved

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def small_steps(monkeypatch):
    """Let small files be read, followed and synced in many steps, in threads."""
    monkeypatch.setattr(trail, "_PIECE", 1000)
    monkeypatch.setattr(trail, "_STEP", 3000)
    monkeypatch.setattr(output, "SYNC", 5000)
    monkeypatch.setattr(output, "_SMALL", 100)
    monkeypatch.setattr(storage_bytes, "PIECE", 1024)
    from safemodel._rewrite import digests

    monkeypatch.setattr(digests, "_SMALL", 0)
    monkeypatch.setattr(digests, "_PIECE", 777)


def value() -> dict[str, torch.Tensor]:
    """Return tensors of many sizes, some over parts of one storage."""
    whole = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    parts = {f"w{i}": whole[i * 37 : i * 37 + i * 5 + 1] for i in range(60)}
    return {**parts, "step": whole[::3], "turned": whole[:4900].view(70, 70).t()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_both_files_are_digested_beside_the_writer(tmp_path, small_steps, suffix):
    """What the report says is what the files are."""
    source, target = tmp_path / "in.pt", tmp_path / f"out{suffix}"
    source.write_bytes(saved(value()))
    report = disarm(source, target)
    for path, found in ((source, report.source), (target, report.result)):
        data = path.read_bytes()
        assert found.size == len(data)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        assert found.blake3 == blake3(data).hexdigest()
    if suffix == ".pt":
        stock = torch.load(target, weights_only=True)
        assert differences(value(), stock) == []


def test_digests_are_left_out_on_request(tmp_path):
    """The sizes stay."""
    report = disarm(saved({"w": torch.ones(3)}), tmp_path / "o.pt", digests=False)
    assert (report.source.sha256, report.result.blake3) == ("", "")
    assert report.result.size == (tmp_path / "o.pt").stat().st_size


def deflated(path: Path, data: bytes) -> Path:
    """Write an archive of torch with every record deflated; return its path."""
    (path / "plain.pt").write_bytes(data)
    with (
        zipfile.ZipFile(path / "plain.pt") as plain,
        zipfile.ZipFile(path / "in.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return path / "in.pt"


@pytest.mark.parametrize("in_memory", [0, 64 << 20])
def test_deflated_storages_are_inflated_once(
    tmp_path, monkeypatch, small_steps, in_memory
):
    """Into a temporary file, however many tensors are parts of them."""
    monkeypatch.setattr(storage_bytes, "_IN_MEMORY", in_memory)
    source = deflated(tmp_path, saved(value()))
    inflated = []
    record = storage_bytes.StorageReader._inflate

    def counted(reader, storage):
        before = len(reader._inflated)
        record(reader, storage)
        inflated.append(len(reader._inflated) - before)

    monkeypatch.setattr(storage_bytes.StorageReader, "_inflate", counted)
    disarm(source, tmp_path / "out.safetensors")
    assert sum(inflated) == 1
    loaded = safe_load(tmp_path / "out.safetensors")
    assert {n: bits(t) for n, t in loaded.items()} == {
        n: bits(t) for n, t in value().items() if n in loaded
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.pt", "out.safetensors", "plain.pt",
    ]  # fmt: skip


def test_a_storage_of_many_parts_is_not_read_as_often(tmp_path, monkeypatch):
    """Once as a whole, for its checksum; then the parts alone."""
    whole = torch.zeros(1 << 18)
    parts = {f"w{i}": whole[i * 10 : i * 10 + 5] for i in range(1000)}
    source = tmp_path / "in.pt"
    source.write_bytes(saved(parts))
    sizes = []
    from safemodel._containers.source import _FileSource

    read = _FileSource.read_into

    def counted(self, offset, target):
        sizes.append(target.nbytes)
        read(self, offset, target)

    monkeypatch.setattr(_FileSource, "read_into", counted)
    disarm(source, tmp_path / "out.pt", digests=False)
    assert sum(sizes) < 1.2 * source.stat().st_size


def test_a_wrong_checksum_is_found_even_if_a_part_is_written(tmp_path):
    """The byte that is wrong is not one of those that are kept."""
    whole = torch.arange(1000)
    data = bytearray(saved({"w": whole[:10], "step": whole[0:20:2]}))
    data[data.index((777).to_bytes(8, "little"))] ^= 1
    for suffix in ("pt", "safetensors"):
        with pytest.raises(ChecksumError):
            disarm(bytes(data), tmp_path / f"out.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_is_not_lost_in_a_thread(
    tmp_path, monkeypatch, small_steps
):
    """The system reports it once, to whoever syncs first."""
    calls = []

    def failing(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(output.os, "fdatasync", failing)
    with pytest.raises(OSError, match="Input/output"):
        disarm(saved(value()), tmp_path / "out.pt")
    assert len(calls) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrinks_while_it_is_read_back(tmp_path, monkeypatch, small_steps):
    """Is an error of reading; nothing gets the name."""
    sync = output.os.fsync

    def cut(descriptor):
        sync(descriptor)
        os.ftruncate(descriptor, 10)

    monkeypatch.setattr(output.os, "fsync", cut)
    with pytest.raises((OSError, DisarmError)):
        disarm(saved({"w": torch.ones(5000)}), tmp_path / "out.pt")
    assert list(tmp_path.iterdir()) == []


def test_records_are_checked_as_they_lie(tmp_path):
    """Empty ones, neighbours, and ones across the pieces that are read."""
    with whole_file(tmp_path / "x", overwrite=False) as (out, _):
        spans = []
        for size in (0, 5, 0, 1_500_000, 3):
            out.write(b"head")
            start = out.at
            out.write(bytes([size % 251]) * size)
            out.record(start, out.at)
            out.final()
            spans.append((start, out.at))
        found, digests = out.finish()
        data = (tmp_path / next(p.name for p in tmp_path.iterdir())).read_bytes()
    import zlib

    assert found == {span: zlib.crc32(data[span[0] : span[1]]) for span in spans}
    assert digests.sha256 == hashlib.sha256(data).hexdigest()


PEAK = """\
import sys
from safemodel import disarm
disarm(sys.argv[1], sys.argv[2])
text = open("/proc/self/status").read()
print(int(text.split("VmHWM:")[1].split()[0]) >> 10, "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Arrays, deflated records and transposed tensors of 200 MB each; no torch."""
    numbers = np.zeros((5000, 5000))
    numbers[:, ::50] = np.random.default_rng(0).standard_normal((5000, 100))
    np.savez_compressed(tmp_path / "a.npz", numbers=numbers)
    np.save(tmp_path / "b.npy", np.asfortranarray(numbers))
    tensor = torch.from_numpy(numbers)
    torch.save({"turned": tensor.t(), "step": tensor[:, ::2]}, tmp_path / "c.pt")
    for name in ("a.npz", "b.npy", "c.pt"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / name, tmp_path / "o.safetensors"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        peak, torch_imported = done.stdout.split()
        assert int(peak) < 200, name
        assert torch_imported == "False"
        (tmp_path / "o.safetensors").unlink()
