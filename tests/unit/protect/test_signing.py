"""Keys to sign with: what their files may be, and that they show nowhere."""

from __future__ import annotations

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from safemodel._protect.signing import (
    read_public_key,
    read_signing_key,
    write_signing_key,
)
from safemodel.errors import KeyFormatError
from tests.unit.protect.helpers_protect import SECRET, holds_secret, text_of

KEY = Ed25519PrivateKey.from_private_bytes(SECRET)
PUBLIC = KEY.public_key().public_bytes_raw()
PEM = Encoding.PEM
PKCS8 = PrivateFormat.PKCS8
SPKI = PublicFormat.SubjectPublicKeyInfo
PRIVATE_PEM = KEY.private_bytes(PEM, PKCS8, NoEncryption())
PUBLIC_PEM = KEY.public_key().public_bytes(PEM, SPKI)


def private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_a_new_pair_is_read_back(tmp_path):
    """The private file is private, the public one is not, and they belong together."""
    one, two = tmp_path / "s", tmp_path / "s.pub"

    public = write_signing_key(one, two)

    assert read_public_key(two) == public
    assert read_signing_key(one).public_key().public_bytes_raw() == public
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert two.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s.pub"}


@pytest.mark.parametrize("there", ["s", "s.pub"])
def test_neither_file_is_replaced(tmp_path, there):
    """And no half of a pair is left."""
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError):
        write_signing_key(tmp_path / "s", tmp_path / "s.pub")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("data", [SECRET, PRIVATE_PEM, b"\n" + PRIVATE_PEM])
def test_a_private_key_is_pem_or_its_bytes(tmp_path, data):
    """And is what they say."""
    key = read_signing_key(private(tmp_path / "s", data))
    assert key.private_bytes_raw() == SECRET


@pytest.mark.parametrize("data", [PUBLIC, PUBLIC_PEM])
def test_a_public_key_is_pem_or_its_bytes(tmp_path, data):
    """Everybody may read it."""
    path = private(tmp_path / "s", data)
    path.chmod(0o644)
    assert read_public_key(path) == PUBLIC


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither PEM nor 32 bytes"),
        (SECRET + b"\n", "neither PEM nor 32 bytes"),
        (SECRET.hex().encode(), "neither PEM nor 32 bytes"),
        (PRIVATE_PEM[:60] + b"\n", "damaged"),
        (PRIVATE_PEM.replace(b"M", b"N", 1), "damaged"),
        (PUBLIC_PEM, "damaged"),
        (PRIVATE_PEM + b" " * 4096, "at most 4,096"),
        (
            KEY.private_bytes(PEM, PKCS8, BestAvailableEncryption(b"x")),
            "encrypted with a passphrase",
        ),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                PEM, PKCS8, NoEncryption()
            ),
            "not an Ed25519 key",
        ),
    ],
)
def test_nothing_else_signs(tmp_path, data, words):
    """And whatever it is, it does not show in the error."""
    with pytest.raises(KeyFormatError, match=words) as caught:
        read_signing_key(private(tmp_path / "s", data))
    assert not holds_secret(text_of(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither PEM nor 32 bytes"),
        (PRIVATE_PEM, "a private key; readers get the public one"),
        (PUBLIC_PEM[:60], "damaged"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(PEM, SPKI),
            "not an Ed25519 key",
        ),
    ],
)
def test_nothing_else_is_a_public_key(tmp_path, data, words):
    """A private key given by mistake does not show either."""
    with pytest.raises(KeyFormatError, match=words) as caught:
        read_public_key(private(tmp_path / "s", data))
    assert not holds_secret(text_of(caught.value))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_is_for_the_user_alone(tmp_path, mode):
    """Unless they say that it is shared."""
    path = private(tmp_path / "s", SECRET)
    path.chmod(mode)
    with pytest.raises(KeyFormatError, match="others may use it"):
        read_signing_key(path)
    assert read_signing_key(path, shared=True).private_bytes_raw() == SECRET


def test_a_pipe_does_not_block(tmp_path):
    """Nobody writes to it."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for read in (read_signing_key, read_public_key):
        with pytest.raises(KeyFormatError, match="not a regular file"):
            read(tmp_path / "pipe")
