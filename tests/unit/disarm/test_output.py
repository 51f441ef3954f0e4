"""The output appears whole or not at all, and nothing of a hostile input is in it."""

from __future__ import annotations

import json
import os
import pickletools
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from safemodel import (
    STRICT,
    DisarmError,
    ForbiddenCallError,
    ForbiddenGlobalError,
    SafeModelError,
    disarm,
    safe_load,
)
from safemodel._cli import main
from safemodel._rewrite import output
from safemodel._rewrite.readback import FUNCTIONS, OPCODES
from safemodel.testing import CANARY
from tests.stock import foreign
from tests.unit.disarm.helpers_disarm import saved
from tests.vectors.test_vectors import LIGHT, by_name

ROOT = Path(__file__).resolve().parents[3]


CANNOT_BE_WRITTEN = "v46_tuple_in_itself"
"""It loads: a tuple around a list around that tuple. No plain pickle makes one."""


@pytest.fixture(scope="module")
def disarmed(tmp_path_factory):
    """Return what became of every light vector: its file, or the class of the error."""
    folder = tmp_path_factory.mktemp("disarmed")
    made: dict[str, Path | type[SafeModelError]] = {}
    for vector in LIGHT:
        path = folder / f"{vector.name}.pt"
        try:
            disarm(vector.assemble(), path)
        except SafeModelError as error:
            made[vector.name] = type(error)
        else:
            made[vector.name] = path
    assert CANARY.trips == []
    return made


@pytest.mark.parametrize("vector", LIGHT, ids=by_name)
def test_a_hostile_file_is_refused_or_comes_out_as_data(disarmed, vector):
    """Its pickle holds our opcodes and our globals, or the error is that of a load."""
    made = disarmed[vector.name]
    if vector.name == CANNOT_BE_WRITTEN:
        assert made is ForbiddenCallError
        return
    if isinstance(made, type):
        with pytest.raises(made):
            safe_load(vector.assemble(), weights_only=False)
        return
    with zipfile.ZipFile(made) as archive:
        data = archive.read("archive/data.pkl")
    for opcode, argument, _ in pickletools.genops(data):
        assert opcode.name in OPCODES
        if opcode.name == "GLOBAL":
            assert argument in FUNCTIONS or argument.startswith("torch ")
    assert b"safemodel.testing\ntrip\n" not in data


def test_stock_loaders_run_nothing_of_what_was_written(disarmed, stock):
    """An audit hook sees no import, no other file, no process, and no other name."""
    paths = [made for made in disarmed.values() if isinstance(made, Path)]
    assert len(paths) > 100

    found = {path.stem: foreign(path, stock.open(path)) for path in paths}

    assert {name: what for name, what in found.items() if what} == {}


# What happens where nothing is disarmed: the proof above can fail.
SEEN = {
    "v14_inst": "the canary was called",
    "v22_ext1": "the canary was called",
    "c24_legacy_fourth_pickle": "the canary was called",
    "i06_import_side_effects": "event: import ['antigravity', 'NoneType']",
    "c26_hub_load": "event: os.mkdir ",
    "v18_code_objects": "event: marshal.loads ",
    "v07_platform_and_c_twins": "event: import ['nt', 'NoneType']",
    "n02_npy_code_in_header": "event: compile ",
    "c19_symlink_tar": "event: tempfile.mkdtemp",
    "v46_object_in_its_arguments": "name: collections deque",
}


def test_stock_loaders_do_run_what_was_not_disarmed(tmp_path, stock):
    """The same readers under the same hook, on the hostile files themselves."""
    assert {vector.name for vector in LIGHT} >= SEEN.keys()
    for vector in LIGHT:
        if vector.name in SEEN:
            path = tmp_path / f"{vector.name}.pt"
            path.write_bytes(vector.assemble())
            assert foreign(path, stock.open(path)).startswith(SEEN[vector.name])


def test_an_output_that_does_not_open_is_not_proven(tmp_path, stock):
    """What fails early runs nothing either, which proves nothing."""
    disarm(saved({"w": torch.ones(100)}), tmp_path / "out.pt")
    disarm(saved({"w": torch.ones(100)}), tmp_path / "out.safetensors")
    disarm(saved({"w": torch.ones(100)}), tmp_path / "out.npz")
    written = list(tmp_path.iterdir())
    assert len(written) == 3
    for path in written:
        assert foreign(path, stock.open(path)) == ""
        path.write_bytes(path.read_bytes()[:-40])
        assert "did not open it" in foreign(path, stock.open(path))


def test_a_strict_policy_refuses_instead(tmp_path):
    """And leaves no output behind."""
    hostile = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."
    with pytest.raises(ForbiddenGlobalError):
        disarm(hostile, tmp_path / "out.pt", policy=STRICT)
    assert list(tmp_path.iterdir()) == []

    report = disarm(hostile, tmp_path / "out.pt")
    (found,) = [f for f in report.removed if f.name == "os.system"]
    assert (found.opcode, found.position) == ("REDUCE", 23)
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded == {"class": "os.system", "args": ("true",)}


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path):
    """It is replaced only with leave."""
    source = saved({"w": torch.ones(3)})
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    with pytest.raises(FileExistsError):
        disarm(source, path)
    assert path.read_bytes() == b"old"

    disarm(source, path, overwrite=True)
    assert torch.equal(safe_load(path)["w"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("link", ["", "symlink_to", "hardlink_to"])
def test_the_input_is_never_replaced(tmp_path, overwrite, link):
    """Not even with leave to overwrite, and by whatever name it goes."""
    path = other = tmp_path / "model.pt"
    path.write_bytes(saved({"w": torch.ones(3)}))
    before = path.read_bytes()
    if link:
        other = tmp_path / "other.pt"
        getattr(other, link)(path)

    for source, target in ((path, other), (other, path)):
        with pytest.raises(ValueError, match="the new file is the one to read"):
            disarm(source, target, overwrite=overwrite)

    assert path.read_bytes() == before
    assert set(tmp_path.iterdir()) == {path, other}


def test_a_file_that_appears_meanwhile_stays(tmp_path):
    """The name is taken only if it is free at that very moment."""
    path = tmp_path / "out"
    with output.whole_file(path, overwrite=False) as (file, commit):
        file.write(b"ours")
        path.write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            commit()
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing_behind(tmp_path):
    """A record whose bytes are not those of its checksum is found while writing."""
    data = bytearray(saved({"w": torch.arange(1000)}))
    data[data.index((777).to_bytes(8, "little"))] ^= 1
    (tmp_path / "out.pt").write_bytes(b"old")

    with pytest.raises(SafeModelError):
        disarm(bytes(data), tmp_path / "out.pt", overwrite=True)

    assert (tmp_path / "out.pt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The error is the system's, and says so."""
    target = tmp_path / "out.pt"
    target.write_bytes(b"old")
    program = (
        "import resource, signal, sys, torch; from safemodel import disarm\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "disarm(sys.argv[1], sys.argv[2], overwrite=True)\n"
    )
    source = tmp_path / "in.pt"
    source.write_bytes(saved({"w": torch.ones(100_000)}))

    done = subprocess.run(
        [sys.executable, "-c", program, source, target], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert "OSError" in done.stderr
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.pt", "out.pt"]


@pytest.mark.parametrize("written", [0, 1, 5_000_000, 15_000_000])
def test_a_killed_process_leaves_the_old_file(tmp_path, written):
    """At the first byte, in the middle, near the end."""
    source, target = tmp_path / "in.pt", tmp_path / "out.pt"
    source.write_bytes(saved({f"w{i}": torch.ones(1_000_000) for i in range(5)}))
    target.write_bytes(b"old")
    child = subprocess.Popen(
        [sys.executable, "-m", "safemodel", "disarm", source, target, "--overwrite"],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while child.poll() is None:
        parts = list(tmp_path.glob(f".out.pt.*{output.SUFFIX}"))
        if parts and parts[0].stat().st_size >= written:
            os.kill(child.pid, signal.SIGKILL)
            break
    child.wait()

    whole = target.read_bytes() == b"old" or len(safe_load(target)) == 5
    assert whole


def test_what_reads_back_otherwise_never_gets_its_name(tmp_path, monkeypatch):
    """A disk that changes a byte is noticed."""
    path = tmp_path / "out.pt"
    sync = output.os.fsync

    def corrupt(descriptor):
        sync(descriptor)
        os.pwrite(descriptor, b"?", os.fstat(descriptor).st_size - 200_000)

    monkeypatch.setattr(output.os, "fsync", corrupt)
    with pytest.raises(DisarmError):
        disarm(saved({"w": torch.ones(100_000)}), path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_was_left_behind(tmp_path, capsys):
    """Exit codes, the report as text and as JSON."""
    source, target = tmp_path / "in.pt", str(tmp_path / "out.safetensors")
    source.write_bytes(saved({"w": torch.ones(2, 3)}))

    assert main(["disarm", str(source), target]) == 0
    assert "1 tensor kept bit for bit" in capsys.readouterr().out
    assert main(["disarm", str(source), target]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["disarm", "--json", "--overwrite", str(source), target]) == 0
    report = json.loads(capsys.readouterr().out)
    (kept,) = report["tensors"]
    assert (kept["name"], kept["shape"], kept["scrubbed_bits"]) == ("w", [2, 3], 0)
    scrub = ["--scrub-bits", "auto", "--json", "--overwrite", str(source), target]
    assert main(["disarm", *scrub]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"][0]["scrubbed_bits"] == 12
    with pytest.raises(SystemExit):
        main(["disarm", "--scrub-bits", "53", str(source), target])
    source.write_bytes(b"\x80\x02cos\nsystem\n.")
    assert main(["disarm", "--strict", str(source), str(tmp_path / "o.pt")]) == 1
    assert main(["disarm", str(source), str(tmp_path / "o.txt")]) == 2


@pytest.mark.parametrize("doing", ["write", "pwrite", "fsync"])
def test_errors_of_the_system_say_which_file(tmp_path, monkeypatch, doing):
    """The one that was to be, not the temporary one: while writing and at the end."""

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, doing, fails)
    path = tmp_path / "out.pt"
    with pytest.raises(OSError, match="No space left on device: ") as caught:
        disarm(saved([torch.zeros(1 << 18)]), path)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_appears_meanwhile_is_named(tmp_path, monkeypatch):
    """By its own name, and it stays."""
    path = tmp_path / "out.pt"
    link = os.link

    def late(part, target):
        path.write_bytes(b"theirs")
        link(part, target)

    monkeypatch.setattr(output.os, "link", late)
    with pytest.raises(FileExistsError) as caught:
        disarm(saved([1]), path)
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_may_be_written_the_folder_is_named(tmp_path, monkeypatch):
    """Such a file system refuses to remove, too, even what is not there."""

    def refuse(path, *_, **__):
        raise OSError(30, "Read-only file system", str(path))

    source = saved([1])
    monkeypatch.setattr(output.os, "open", refuse)
    monkeypatch.setattr(output.Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as caught:
        disarm(source, tmp_path / "out.pt")
    assert caught.value.filename == str(tmp_path)
