"""A real model, protected: useless without its key, bit-exact with it, and guarded."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from safemodel import ProtectionKey, VerificationError, protect, safe_load, verify
from safemodel._cli import main
from tests import cartpole


@pytest.fixture
def folder(zoo, tmp_path, monkeypatch) -> Path:
    """Return a folder with the real policy and a key, where we are."""
    assert cartpole.REAL.is_file()
    monkeypatch.chdir(tmp_path)
    cartpole.policy_file(Path("plain.pth"))
    assert main(["keygen", "k"]) == 0
    return tmp_path


@pytest.mark.parametrize("confidential", [[], ["--confidential"]])
def test_a_real_policy_is_of_no_use_without_its_key(folder, capsys, confidential):
    """Torch opens each of nine versions; the pole falls; the original comes back."""
    plain = torch.load("plain.pth", weights_only=True, map_location="cpu")
    assert cartpole.balanced(plain) == cartpole.MOST
    key = ["--key", "k"]
    assert main(["protect", "plain.pth", "p.pth", *key, *confidential]) == 0
    steps = []
    for epoch in range(9):
        stored = torch.load("p.pth", weights_only=True)
        assert all(one.dim() == 1 for one in stored.values())
        steps.append(cartpole.balanced(cartpole.put_together(stored.values())))
        assert main(["rotate", "p.pth", "--in-place", *key]) == 0, epoch
    assert sorted(steps)[4] < 100
    assert main(["restore", "p.pth", "back.pth", *key]) == 0
    assert Path("back.pth").read_bytes() == cartpole.REAL.read_bytes()
    loaded = safe_load("p.pth", key=ProtectionKey.from_file("k"))
    assert list(loaded) == list(plain)
    assert all(loaded[name].equal(plain[name]) for name in plain)


def test_the_alarm_names_the_tensor_of_a_flipped_bit(folder, capsys):
    """Each of twelve, by one of its own numbers; and 100 bits anywhere are noticed."""
    key = ProtectionKey.from_file("k")
    protect("plain.pth", "p.pth", key=key)
    plain = torch.load("plain.pth", weights_only=True, map_location="cpu")
    stored = torch.load("p.pth", weights_only=True)
    whole = Path("p.pth").read_bytes()
    every = torch.cat([one.reshape(-1) for one in plain.values()])
    for name, tensor in plain.items():
        value = next(x for x in tensor.reshape(-1) if (every == x).sum() == 1)
        number, piece = next(
            found for found in enumerate(stored.values()) if value in found[1]
        )
        at = record_start("p.pth", f"archive/data/{number}")
        changed = bytearray(whole)
        changed[at + 4 * piece.tolist().index(value)] ^= 1
        with pytest.raises(VerificationError) as caught:
            verify(bytes(changed), key=key)
        assert caught.value.tensors == (name,)
    for at in range(0, len(whole), len(whole) // 100):
        changed = bytearray(whole)
        changed[at] ^= 16
        Path("changed.pth").write_bytes(changed)
        capsys.readouterr()
        assert main(["verify", "changed.pth", "--key", "k", "--json"]) == 1
        (found,) = json.loads(capsys.readouterr().out)["files"]
        assert found["verdict"] == "refused"


def record_start(path: str, name: str) -> int:
    """Return where the bytes of a record begin."""
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(name).header_offset
    name_and_extra = struct.unpack_from("<HH", Path(path).read_bytes(), at + 26)
    return at + 30 + sum(name_and_extra)
