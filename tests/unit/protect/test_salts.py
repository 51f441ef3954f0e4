"""Salts: with the passphrase they give the key again, and nothing else does."""

from __future__ import annotations

import stat
from hashlib import scrypt, sha256

import pytest

from safemodel._protect import salts
from safemodel._protect.keys import ProtectionKey
from safemodel.errors import KeyFormatError

PHRASE = "correct horse battery staple"
SALT = bytes(range(32))


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """Make new salts as cheap as is allowed."""
    monkeypatch.setattr(salts, "_N", 1 << 15)


def line_of(key_id: str, *, n: object = 1 << 15, r: int = 8, p: int = 1) -> bytes:
    """Return the text of a salt, written here a second time."""
    body = f"safemodel-salt-1:{key_id}:{SALT.hex()}:{n}:{r}:{p}"
    return f"{body}:{sha256(body.encode()).hexdigest()[:8]}\n".encode()


def test_the_key_comes_again(tmp_path):
    """It is scrypt of the passphrase under what the file says."""
    path = tmp_path / "salt"

    key = salts.new_key(PHRASE, path)

    assert salts.same_key(PHRASE, path) == key
    line = path.read_text("ascii").splitlines()[-1].split(":")
    assert line[1] == key.id
    made = scrypt(
        PHRASE.encode(), salt=bytes.fromhex(line[2]), n=1 << 15, r=8, p=1,
        maxmem=1 << 26, dklen=32,
    )  # fmt: skip
    assert ProtectionKey(made) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_salt_costs_what_is_recommended(tmp_path, monkeypatch):
    """128 MiB: as a key from Python does by default."""
    monkeypatch.undo()
    salts.new_key(PHRASE, tmp_path / "salt")
    assert b":131072:8:1:" in (tmp_path / "salt").read_bytes()


def test_every_salt_is_another(tmp_path):
    """One passphrase, two keys; a salt that is there is not replaced."""
    keys = {salts.new_key(PHRASE, tmp_path / name).id for name in "ab"}
    assert len(keys) == 2
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(FileExistsError):
        salts.new_key(PHRASE, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


def test_another_passphrase_is_noticed(tmp_path):
    """Before anything is protected with a key that nobody will find again."""
    key = salts.new_key(PHRASE, tmp_path / "salt")
    with pytest.raises(KeyFormatError, match=f"not the one of key {key.id}"):
        salts.same_key(PHRASE + " ", tmp_path / "salt")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has 0"),
        (b"# only\n", "has 0"),
        (line_of("0" * 32) * 2, "has 2"),
        (line_of("0" * 31), "damaged"),
        (line_of("0" * 32)[:-2] + b"x\n", "damaged"),
        (line_of("0" * 32).replace(b":00", b":11", 1), "checksum"),
        (line_of("0" * 32, n="0"), "damaged"),
        (line_of("0" * 32, n="1e9"), "damaged"),
        (b"\xff" * 100, "damaged"),
        (line_of("0" * 32) + b"#" * 4096, "at most 4,096"),
    ],
)
def test_what_is_no_salt_is_refused(tmp_path, data, words):
    """Any text but the one form."""
    path = tmp_path / "salt"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeyFormatError, match=words):
        salts.same_key(PHRASE, path)


@pytest.mark.parametrize(
    "costs", [{"n": 1 << 14}, {"n": 3 << 15}, {"r": 99}, {"p": 99}, {"n": 1 << 21}]
)
def test_costs_are_bounded(tmp_path, costs):
    """Neither cheap enough to guess nor dear enough to stop the machine."""
    path = tmp_path / "salt"
    path.write_bytes(line_of("0" * 32, **costs))
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"n is a power|r is 8 to"):
        salts.same_key(PHRASE, path)


def test_what_others_may_write_is_no_salt(tmp_path):
    """They could make guesses cheap. Reading it is no harm."""
    path = tmp_path / "salt"
    salts.new_key(PHRASE, path)
    path.chmod(0o644)
    salts.same_key(PHRASE, path)
    path.chmod(0o664)
    with pytest.raises(KeyFormatError, match="others may write it"):
        salts.same_key(PHRASE, path)
