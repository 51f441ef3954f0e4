"""Files that change while they are read: the seal that is checked is the one used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from safemodel import (
    MalformedFileError,
    VerificationError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._protect import (
    folder_opening,
    folders,
    opening,
    scratch,
    verifying,
    writing,
)
from safemodel._protect.frames import find_seal
from tests.unit.protect.helpers_protect import KEY, PUBLIC, SIGNER

OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(70, 102)))


def one_number(value: float) -> bytes:
    """Return a file that has one length, however it is protected."""
    return safetensors.torch.save({"w": torch.tensor([value])})


@pytest.fixture
def changing(monkeypatch) -> Callable[[Path, bytes], None]:
    """Return what lets a file hold other bytes once its seal was read."""

    def change(path: Path, data: bytes) -> None:
        def found(source, limits):
            seal = find_seal(source, limits)
            if source.name == str(path):
                assert path.stat().st_size == len(data)
                path.write_bytes(data)
            return seal

        for module in (folder_opening, opening, verifying):
            monkeypatch.setattr(module, "find_seal", found)

    return change


@pytest.mark.parametrize("verb", ["verify", "restore", "rotate"])
def test_the_seal_that_is_signed_is_the_one_that_is_opened(tmp_path, changing, verb):
    """Not that of another file of the same key, which another one signed."""
    signed, other = tmp_path / "signed.safetensors", tmp_path / "other.safetensors"
    protect(one_number(1), signed, key=KEY, signer=SIGNER)
    protect(one_number(2), other, key=KEY, signer=OTHER)
    out = tmp_path / "out.safetensors"
    changing(signed, other.read_bytes())
    with pytest.raises(VerificationError):
        {
            "verify": lambda: verify(signed, key=KEY, public_key=PUBLIC),
            "restore": lambda: restore(signed, out, key=KEY, public_key=PUBLIC),
            "rotate": lambda: rotate(
                signed, out, key=KEY, public_key=PUBLIC, unsigned=True
            ),
        }[verb]()
    assert not out.exists()


@pytest.mark.parametrize("verb", ["verify", "signature", "restore", "rotate", "load"])
def test_a_shard_is_opened_by_the_seal_that_its_folder_names(tmp_path, changing, verb):
    """Not by that of the same shard of another folder."""
    for number, name in enumerate(("made", "other")):
        plain = tmp_path / f"plain {name}"
        plain.mkdir()
        (plain / "model.safetensors").write_bytes(one_number(number))
        protect(plain, tmp_path / name, key=KEY, signer=SIGNER)
    made, out = tmp_path / "made", tmp_path / "out"
    other = tmp_path / "other" / "model.safetensors"
    changing(made / "model.safetensors", other.read_bytes())
    with pytest.raises(VerificationError):
        {
            "verify": lambda: verify(made, key=KEY),
            "signature": lambda: verify(made, public_key=PUBLIC),
            "restore": lambda: restore(made, out, key=KEY),
            "rotate": lambda: rotate(made, out, key=KEY, unsigned=True),
            "load": lambda: safe_load(made, key=KEY),
        }[verb]()
    assert not out.exists()


def test_a_file_beside_the_shards_that_grows_is_not_read(tmp_path, monkeypatch):
    """Its size was bounded before it was opened."""
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "model.safetensors").write_bytes(one_number(1))
    (plain / "config.json").write_text("{}")
    found = folders.files_to_protect

    def growing(folder, limits):
        files = found(folder, limits)
        (plain / "config.json").write_text("{}" * 1000)
        return files

    monkeypatch.setattr(folders, "files_to_protect", growing)
    with pytest.raises(MalformedFileError, match="changes"):
        protect(plain, tmp_path / "made", key=KEY)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("verb", ["protect", "rotate"])
def test_a_frame_is_tagged_as_it_was_written(tmp_path, monkeypatch, suffix, verb):
    """Not as the disk has it by then, which may be that of somebody else."""
    file, out = tmp_path / f"file{suffix}", tmp_path / f"out{suffix}"
    protect({"w": torch.ones(9)}, file, key=KEY)
    real, changed = writing._settle, []

    def settle(part, before, after):
        real(part, before, after)
        # Behind the hole of the seal: in the pickle, or in the header.
        at = after.starts[0] + after.holes[0] + 40
        byte = bytearray(1)
        part.read_into(at, memoryview(byte))
        part.patch(at, bytes([byte[0] ^ 1]))
        changed.append(at)

    monkeypatch.setattr(writing, "_settle", settle)
    if verb == "protect":
        protect({"w": torch.ones(9)}, out, key=KEY)
    else:
        rotate(file, out, key=KEY)
    assert changed
    with pytest.raises(VerificationError, match="around the tensors"):
        verify(out, key=KEY)
    verify(file, key=KEY)


@pytest.mark.parametrize("verb", ["protect", "rotate"])
@pytest.mark.parametrize("by", ["another file of the key", "a plain file"])
def test_a_shard_that_is_exchanged_is_not_sealed(tmp_path, monkeypatch, verb, by):
    """Between its writing and that of the folder's seal, by whoever can write there."""
    plain, made = tmp_path / "plain", tmp_path / "made"
    plain.mkdir()
    (plain / "model.safetensors").write_bytes(one_number(1))
    protect(plain, made, key=KEY)
    other = tmp_path / "other.safetensors"
    other.write_bytes(one_number(2))
    if by == "another file of the key":
        protect(one_number(2), other, key=KEY, epoch=1, overwrite=True)
    real = folders._write_seal

    def exchanged(part, *rest):
        (part / "model.safetensors").write_bytes(other.read_bytes())
        real(part, *rest)

    monkeypatch.setattr(folders, "_write_seal", exchanged)
    with pytest.raises(VerificationError, match="exchanged"):
        {
            "protect": lambda: protect(plain, tmp_path / "new", key=KEY, epoch=1),
            "rotate": lambda: rotate(made, tmp_path / "new", key=KEY),
        }[verb]()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", ["bytes", "bytes, and the time set back"])
def test_a_plain_file_that_changes_is_not_protected(tmp_path, how):
    """It is read several times: what came of two versions could not be restored."""
    plain, out = tmp_path / "plain.safetensors", tmp_path / "out.safetensors"
    plain.write_bytes(one_number(1))
    before = plain.stat()

    def change(done: int, total: int) -> None:
        while plain.stat().st_ctime_ns == before.st_ctime_ns:  # ticks are coarse
            with plain.open("r+b") as file:
                file.write(one_number(2))
            if how != "bytes":
                os.utime(plain, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(MalformedFileError, match="changes"):
        protect(plain, out, key=KEY, progress=change)
    assert list(tmp_path.iterdir()) == [plain]
    protect(plain, out, key=KEY, progress=lambda *_: plain.read_bytes())


@pytest.fixture
def altering(monkeypatch) -> Callable[[int], list[object]]:
    """Return what lets one temporary file have other bits than were written.

    In 16 numbers: one alone may be among those that change place with the rest, whose
    values between the rounds come from elsewhere. Then nothing would be wrong.
    """
    monkeypatch.setitem(scratch.Scratch.__init__.__kwdefaults__, "budget", 1 << 16)
    real = scratch._OnDisk.read_parts

    def alter(number: int) -> list[object]:
        seen: list[object] = []

        def read_parts(self, parts, view):
            parts, done = list(parts), 0
            real(self, parts, view)
            if self not in seen:
                seen.append(self)
            for at, length in parts:
                if at == 0 and self in seen[number - 1 : number]:
                    for place in range(done, done + min(length, 64)):
                        view[place] ^= 1
                done += length

        monkeypatch.setattr(scratch._OnDisk, "read_parts", read_parts)
        return seen

    return alter


@pytest.mark.parametrize(
    ("verb", "number"), [("restore", 1), ("rotate", 1), ("rotate", 2)]
)
def test_a_temporary_file_that_changes_is_noticed(tmp_path, altering, verb, number):
    """What was verified is what is written, and what the next epoch vouches for."""
    file, out = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    protect({"w": torch.arange(300_000.0)}, file, key=KEY)
    seen = altering(number)
    with pytest.raises(VerificationError, match="on their way"):
        {"restore": restore, "rotate": rotate}[verb](file, out, key=KEY)
    assert len(seen) >= number
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("verb", "number"), [("protect", 1), ("rotate", 3)])
def test_what_changes_before_it_is_written_never_opens(
    tmp_path, altering, verb, number
):
    """Between two rounds: the plain leaves are those of the plain bytes."""
    file, out = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    tensors = {"w": torch.arange(300_000.0)}
    protect(tensors, file, key=KEY)
    seen = altering(number)
    if verb == "protect":
        protect(tensors, out, key=KEY)
    else:
        rotate(file, out, key=KEY)
    assert len(seen) == number
    altering(0)
    back = tmp_path / "back.safetensors"
    with pytest.raises(VerificationError, match="on their way"):
        restore(out, back, key=KEY)
    assert not back.exists()
    restore(file, back, key=KEY)


@pytest.fixture
def large(tmp_path) -> Path:
    """A file whose only pool is of several chunks."""
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file({"w": torch.arange(3_000_000)}, path)
    return path


def test_leaves_that_cannot_be_taken_end_it(large, tmp_path, monkeypatch):
    """They are taken beside the writing; nothing appears."""

    def leaves_of(self, read_into, **_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writing.PoolTagger, "leaves_of", leaves_of)
    out = tmp_path / "out.safetensors"
    with pytest.raises(OSError, match="Input/output error"):
        protect(large, out, key=KEY)
    assert list(tmp_path.iterdir()) == [large]


def test_leaves_that_nobody_wants_are_not_taken_to_the_end(
    large, tmp_path, monkeypatch
):
    """When writing has failed, the thread that takes them ends, too."""
    taken = []
    leaves_of = writing.PoolTagger.leaves_of

    def all_read(self, read_into, **kwargs):
        def read(at, view):
            written.wait(60)
            time.sleep(0.02)
            read_into(at, view)
            taken.append(at)

        return leaves_of(self, read, **kwargs)

    def put(self, view):
        written.set()
        raise OSError(28, "No space left on device")

    written = threading.Event()
    monkeypatch.setattr(writing.PoolTagger, "leaves_of", all_read)
    monkeypatch.setattr(writing._Holes, "put", put)
    with pytest.raises(OSError, match="No space left"):
        protect(large, tmp_path / "out.safetensors", key=KEY)
    assert len(taken) < 24
    assert not [one for one in threading.enumerate() if "leaves" in one.name]
    assert list(tmp_path.iterdir()) == [large]
