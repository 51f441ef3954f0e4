"""Keys: they last, they are found, and they show nowhere."""

from __future__ import annotations

import base64
import copy
import hmac
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
from hashlib import scrypt, sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safemodel._protect import key_files
from safemodel._protect.keys import (
    KeyProvider,
    KeyRing,
    ProtectionKey,
    key_for,
)
from safemodel.errors import KeyFormatError, KeyRequiredError, SafeModelError
from tests.unit.protect.helpers_protect import KEY, OTHER, SECRET, holds_secret, text_of

ROOT = Path(__file__).resolve().parents[3]
SALT = b"0123456789abcdef"


def line_of(secret: bytes = SECRET, key_id: str | None = None) -> str:
    """Return the text form of a key, written here a second time."""
    shown = ProtectionKey(secret).id if key_id is None else key_id
    body = f"safemodel-key-1:{shown}:{secret.hex()}"
    return f"{body}:{sha256(body.encode()).hexdigest()[:8]}"


def private(path: Path, text: str | bytes) -> Path:
    """Write a file that only its owner may read."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def test_the_id_is_one_way_and_of_its_own_label():
    """It is HKDF-SHA-256 of the key under "safemodel key id", and nothing of it."""
    hkdf = HKDF(SHA256(), 16, b"", b"safemodel key id\0")

    assert KEY.id == hkdf.derive(SECRET).hex()
    assert KEY.id != OTHER.id
    assert not holds_secret(KEY.id)


def test_every_new_key_is_another():
    """256 bits from the system."""
    keys = [ProtectionKey.generate() for _ in range(50)]

    assert len({key.id for key in keys}) == 50
    assert all(len(key._secret) == 32 for key in keys)


def test_a_key_survives_its_file(tmp_path):
    """What is written is private, and is the same key when read."""
    path = tmp_path / "k.key"

    KEY.to_file(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ProtectionKey.from_file(path) == KEY
    assert ProtectionKey.from_file(str(path)).id == KEY.id
    lines = path.read_text(encoding="ascii").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [line_of()]
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.key"]


def test_the_umask_does_not_open_a_key_file(tmp_path):
    """0600 whatever the umask takes away or leaves."""
    for mask in (0o000, 0o777):
        before = os.umask(mask)
        try:
            KEY.to_file(tmp_path / f"{mask}")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling"])
def test_a_key_file_replaces_nothing(tmp_path, kind):
    """What was protected with the other key would be lost."""
    path = tmp_path / "k"
    if kind == "file":
        OTHER.to_file(path)
    elif kind == "folder":
        path.mkdir()
    else:
        OTHER.to_file(tmp_path / "real")
        path.symlink_to(tmp_path / ("real" if kind == "link" else "nowhere"))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(FileExistsError) as caught:
        KEY.to_file(path)

    assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path / "nowhere").exists()
    if kind in ("file", "link"):
        assert ProtectionKey.from_file(path) == OTHER
    assert not holds_secret(text_of(caught.value))


def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    """The last step is one that cannot replace."""
    path = tmp_path / "k"
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    OTHER.to_file(path)

    with pytest.raises(FileExistsError) as caught:
        KEY.to_file(path)

    assert ProtectionKey.from_file(path) == OTHER
    assert [entry.name for entry in tmp_path.iterdir()] == ["k"]
    assert not holds_secret(text_of(caught.value))


@pytest.mark.parametrize("fault", ["write", "fsync", "link", "fchmod"])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, fault):
    """Neither half a key file nor a temporary one; and the error has no key."""

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_files.os, fault, fail)

    with pytest.raises(OSError, match="No space left") as caught:
        KEY.to_file(tmp_path / "k")

    assert list(tmp_path.iterdir()) == []
    assert not holds_secret(text_of(caught.value))


def test_a_short_write_or_no_modes_is_an_error(tmp_path, monkeypatch):
    """Both sides of what a file system may do."""
    with monkeypatch.context() as patched:
        patched.setattr(key_files.os, "write", lambda *_: 5)
        with pytest.raises(OSError, match="not all bytes"):
            KEY.to_file(tmp_path / "k")
    with monkeypatch.context() as patched:
        # As on a file system that has one mode for all files.
        real = os.fchmod
        patched.setattr(key_files.os, "fchmod", lambda fd, _: real(fd, 0o700))
        with pytest.raises(OSError, match="keeps no modes"):
            KEY.to_file(tmp_path / "k")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "link", "unlink"])
def test_a_process_that_is_killed_leaves_a_whole_key_or_none(tmp_path, call):
    """Before any step; what else is left is private."""
    program = f"""
import os, signal
from pathlib import Path
from safemodel._protect.keys import ProtectionKey

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Path if {call!r} == "unlink" else os, {call!r}, die)
ProtectionKey(bytes(range(200, 232))).to_file("k")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert len(left) >= 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in left)
    if call == "unlink":
        assert ProtectionKey.from_file(tmp_path / "k") == KEY
    else:
        assert not (tmp_path / "k").exists()


def test_a_file_system_without_folder_sync_is_enough(tmp_path, monkeypatch):
    """Some have none; the file itself was synced."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(key_files.os, "fsync", fsync)
    KEY.to_file(tmp_path / "k")

    assert ProtectionKey.from_file(tmp_path / "k") == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path, mode):
    """Reading and writing alike, unless it is meant to be shared."""
    path = private(tmp_path / "k", line_of())
    path.chmod(mode)

    with pytest.raises(KeyFormatError, match=f"mode 0{mode:o}.*chmod 600") as caught:
        ProtectionKey.from_file(path)

    assert not holds_secret(text_of(caught.value))
    assert ProtectionKey.from_file(path, shared=True) == KEY


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_private_file_is_not_refused(tmp_path, mode):
    """The other side: what the owner may do is the owner's business."""
    path = private(tmp_path / "k", line_of())
    path.chmod(mode)

    assert ProtectionKey.from_file(path) == KEY


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    """Who owns a file may change it; root may anyway."""
    path = private(tmp_path / "k", line_of())
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    if owner == 0:
        assert ProtectionKey.from_file(path) == KEY
        os.chown(path, 12345, -1)
    with pytest.raises(KeyFormatError, match="another user"):
        ProtectionKey.from_file(path)


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    """A pipe would be waited for, a device read without end; links are followed."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "link").symlink_to(private(tmp_path / "k", line_of()))

    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(KeyFormatError, match="not a regular file"):
            ProtectionKey.from_file(path)
    with pytest.raises(FileNotFoundError):
        ProtectionKey.from_file(tmp_path / "absent")
    assert ProtectionKey.from_file(tmp_path / "link") == KEY


@pytest.mark.parametrize(
    "text",
    [
        "{line}",
        "{line}\n",
        "{line}\r\n",
        "# mine\n\n  # of May\n {line}\t\n\n",
        "\n" * 100 + "{line}",
        "# \u00fcber\n{line}",
    ],
)
def test_comments_and_empty_lines_are_allowed(tmp_path, monkeypatch, text):
    """In a file, and in a variable that was filled from one."""
    content = text.format(line=line_of())

    assert ProtectionKey.from_file(private(tmp_path / "k", content)) == KEY
    monkeypatch.setenv("KEY", content)
    assert ProtectionKey.from_env("KEY") == KEY


DAMAGE = {
    "empty": "",
    "comment": "# nothing else",
    "twice": line_of() + "\n" + line_of(),
    "two": line_of() + "\n" + line_of(OTHER._secret),
    "upper": line_of().upper(),
    "upper_hex": line_of().replace(SECRET.hex(), SECRET.hex().upper()),
    "version_2": line_of().replace("key-1", "key-2"),
    "version_0": line_of().replace("key-1", "key-0"),
    "version_01": line_of().replace("key-1", "key-01"),
    "no_prefix": SECRET.hex(),
    "cut": line_of()[:-1],
    "longer": line_of() + "0",
    "no_check": line_of().rpartition(":")[0],
    "other_id": line_of(key_id=OTHER.id),
    "short_key": line_of().replace(SECRET.hex(), SECRET.hex()[2:]),
    "inside": line_of().replace(":", " :", 1),
    "quoted": f'"{line_of()}"',
    "bom": "\ufeff" + line_of(),
    "digits": line_of().replace("c8", "\u0663\u0663"),
    "too_long": "#" * 4096 + "\n" + line_of(),
    "page": line_of() + "\f",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_key_is_refused_and_not_shown(tmp_path, monkeypatch, kind):
    """Any text but the one form; in a file and in a variable."""
    path = private(tmp_path / "k", DAMAGE[kind])
    monkeypatch.setenv("KEY", DAMAGE[kind])
    expected = KeyRequiredError if kind == "empty" else KeyFormatError

    with pytest.raises(KeyFormatError) as of_file:
        ProtectionKey.from_file(path)
    with pytest.raises(expected) as of_env:
        ProtectionKey.from_env("KEY")

    for caught in (of_file, of_env):
        assert not holds_secret(text_of(caught.value))
        # pytest's own frames hold the text; ours and the error must not.
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_every_changed_character_is_noticed(tmp_path):
    """Each place, each bit that leaves ASCII ASCII."""
    line = line_of().encode()
    path = tmp_path / "k"
    for at in range(len(line)):
        for bit in range(7):
            changed = bytearray(line)
            changed[at] ^= 1 << bit
            private(path, bytes(changed))
            with pytest.raises(KeyFormatError) as caught:
                ProtectionKey.from_file(path)
            assert not holds_secret(text_of(caught.value))


def test_a_version_and_a_checksum_are_told_apart(tmp_path):
    """What to do differs: a newer program, or a copy of the key."""
    path = tmp_path / "k"
    for kind, words in {
        "version_2": "another version",
        "cut": "damaged",
        "other_id": "not the one its id names",
        "two": "has 2",
        "comment": "has 0",
        "too_long": "at most 4,096 bytes",
    }.items():
        with pytest.raises(KeyFormatError, match=words):
            ProtectionKey.from_file(private(path, DAMAGE[kind]))
    flipped = line_of()[:-1] + ("0" if line_of()[-1] != "0" else "1")
    with pytest.raises(KeyFormatError, match="checksum"):
        ProtectionKey.from_file(private(path, flipped))


def test_a_file_of_4096_bytes_is_read_and_no_more(tmp_path):
    """Both sides of the bound; a huge file is not read."""
    line = line_of()
    fits = "#" * (4096 - len(line) - 1) + "\n" + line
    assert len(fits) == 4096
    assert ProtectionKey.from_file(private(tmp_path / "k", fits)) == KEY
    with pytest.raises(KeyFormatError, match="at most"):
        ProtectionKey.from_file(private(tmp_path / "k", fits + "\n"))
    huge = private(tmp_path / "huge", "")
    os.truncate(huge, 1 << 40)
    with pytest.raises(KeyFormatError, match="at most"):
        ProtectionKey.from_file(huge)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    """The name, quoted; no key is wrong."""
    monkeypatch.delenv("NO\nKEY", raising=False)

    with pytest.raises(KeyRequiredError, match=r"NO\\nKEY is not set") as caught:
        ProtectionKey.from_env("NO\nKEY")

    assert (caught.value.key_id, caught.value.given) == ("", ())


def test_a_passphrase_gives_the_key_of_scrypt():
    """As another implementation of RFC 7914 makes it, from the text in form NFC."""
    expected = scrypt(
        b"caf\xc3\xa9", salt=SALT, n=1 << 15, r=8, p=2, maxmem=1 << 27, dklen=32
    )

    made = ProtectionKey.from_passphrase("cafe\u0301", SALT, n=1 << 15, p=2)

    assert made == ProtectionKey(expected)
    assert made == ProtectionKey.from_passphrase("caf\u00e9", SALT, n=1 << 15, p=2)
    assert made != ProtectionKey.from_passphrase("cafe", SALT, n=1 << 15, p=2)


@pytest.mark.parametrize(
    "given",
    [
        {"salt": b"x" * 15},
        {"salt": b"x" * 1025},
        {"salt": "x" * 16},
        {"n": 1 << 14},
        {"n": (1 << 15) + 1},
        {"n": 1 << 21},
        {"r": 7},
        {"r": 33},
        {"p": 0},
        {"p": 17},
        {"n": 1 << 20, "r": 16},
        {"passphrase": ""},
        {"passphrase": "swordfish" * 114},
        {"passphrase": "swordfish\ud800"},
        {"passphrase": b"swordfish"},
        {"passphrase": ["swordfish"]},
    ],
)
def test_costs_and_passphrases_are_bounded(given):
    """Neither a cheap guess nor a gigabyte; and the passphrase is not shown."""
    settings = {"passphrase": "swordfish", "salt": SALT, "n": 1 << 15} | given

    with pytest.raises(ValueError) as caught:
        ProtectionKey.from_passphrase(**settings)

    assert "swordfish" not in text_of(caught.value)
    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None


def test_a_passphrase_is_not_shown_for_want_of_memory(monkeypatch):
    """Scrypt asks for up to a gigabyte, and its error would hold on to the frame."""

    class Full:
        def __init__(self, **_: object) -> None:
            pass

        def derive(self, _: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr("cryptography.hazmat.primitives.kdf.scrypt.Scrypt", Full)
    typed = "swordfish"  # not in the line that the traceback quotes
    with pytest.raises(ValueError, match="little memory") as caught:
        ProtectionKey.from_passphrase(typed, SALT)

    assert "swordfish" not in text_of(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_a_key_is_32_bytes(secret):
    """And no error shows what it was."""
    with pytest.raises(ValueError, match="a key is 32 bytes") as caught:
        ProtectionKey(secret)

    assert "xxxx" not in text_of(caught.value)


def test_a_key_shows_its_id_and_nothing_else(caplog):
    """`repr`, `str`, formats, containers, logs, and what object browsers look at."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").info("%s %r %s", KEY, KEY, {"key": KEY})
    shown = [repr(KEY), str(KEY), f"{KEY}", f"{KEY!r}", repr([KEY]), caplog.text]
    shown += [repr(KeyRing([KEY])), repr(dir(KEY))]

    assert repr(KEY) == f"<ProtectionKey {KEY.id}>"
    assert not any(holds_secret(text) for text in shown)
    with pytest.raises(TypeError):
        vars(KEY)
    with pytest.raises(TypeError):
        bytes(KEY)
    with pytest.raises(TypeError):
        memoryview(KEY)
    with pytest.raises(TypeError):
        list(KEY)


def test_the_search_for_a_secret_can_find_one():
    """The check itself can fail: each form, in a message and in a local variable."""
    assert holds_secret(f"key {SECRET.hex()}")
    assert holds_secret(repr(SECRET))
    assert holds_secret(repr(SECRET[16:]))
    assert holds_secret(base64.b64encode(b"ab" + SECRET + b"c").decode())

    def chained():
        try:
            raise ValueError(SECRET.hex())
        except ValueError:
            raise KeyError("nothing") from None

    with pytest.raises(KeyError) as caught:
        chained()
    assert holds_secret(text_of(caught.value))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(protocol):
    """By itself, in a container, or by way of `copyreg`."""
    for what in (KEY, [KEY], {"key": KEY}, KeyRing([KEY])):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(what, protocol)
        assert not holds_secret(text_of(caught.value))
    for method in (KEY.__reduce__, KEY.__getstate__):
        with pytest.raises(TypeError, match="not pickled"):
            method()


def test_a_copy_is_the_key_itself():
    """One copy of a secret in memory is enough."""
    assert copy.copy(KEY) is KEY
    assert copy.deepcopy({"key": KEY})["key"] is KEY


def test_a_key_does_not_change():
    """Neither its bits nor its id."""
    for name in ("_secret", "id", "other"):
        with pytest.raises(AttributeError):
            setattr(KEY, name, b"")
        with pytest.raises(AttributeError):
            delattr(KEY, name)


def test_keys_are_equal_by_their_bits_and_hash_by_their_id(monkeypatch):
    """Compared in one time, by the function that is made for it."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b)
    )

    assert ProtectionKey(SECRET) == KEY
    assert KEY != OTHER
    assert len(compared) == 2
    assert KEY != SECRET
    assert KEY != KEY.id
    assert hash(KEY) == hash(KEY.id)


def test_sub_keys_differ_by_label_salt_info_and_key():
    """No two uses share one, and no label and info read as another's."""
    made = [
        key._derive(label, 32, salt=salt, info=info)
        for key in (KEY, OTHER)
        for label in ("seal", "tags", "sealx")
        for salt in (b"", b"1" * 32)
        for info in (b"", b"x", b"\0x")
    ]

    assert len(set(made)) == len(made)
    assert SECRET not in made


def test_a_ring_finds_keys_by_id():
    """While rotating there are two; one that is not there is named."""
    ring = KeyRing([KEY])
    provider: KeyProvider = ring

    assert provider.get(KEY.id) is KEY
    with pytest.raises(KeyRequiredError) as caught:
        ring.get(OTHER.id)
    assert (caught.value.key_id, caught.value.given) == (OTHER.id, (KEY.id,))
    assert str(caught.value) == f"key {OTHER.id} is needed, given: {KEY.id}"
    assert not holds_secret(text_of(caught.value))
    ring.add(OTHER)
    assert ring.get(OTHER.id) is OTHER
    assert len(ring) == 2
    ring.remove(KEY.id)
    ring.remove(KEY.id)
    ring.remove(OTHER.id)
    with pytest.raises(KeyRequiredError, match="none is given"):
        ring.get(KEY.id)


def test_a_provider_that_gives_another_key_is_not_believed():
    """What is needed is the key of that id."""

    class Wrong:
        def get(self, key_id: str, /) -> ProtectionKey:
            return OTHER

    assert key_for(KEY.id, KEY) is KEY
    assert key_for(OTHER.id, Wrong()) is OTHER
    for keys in (OTHER, Wrong()):
        with pytest.raises(KeyRequiredError) as caught:
            key_for(KEY.id, keys)
        assert caught.value.given == (OTHER.id,)


@pytest.mark.parametrize("kind", [KeyFormatError, KeyRequiredError])
def test_the_errors_are_ours(kind):
    """One root for all; neither a `ValueError` nor a `KeyError`."""
    assert issubclass(kind, SafeModelError)
    assert not issubclass(kind, (ValueError, LookupError))


def test_the_formats_do_not_change():
    """Ids, sub-keys and texts of files that are out there."""
    assert KEY.id == "f2dd6243116474346208759c5b092b1b"
    assert line_of().rpartition(":")[2] == "60cf956d"
    assert KEY._derive("seal", 8, salt=b"s", info=b"i").hex() == "f2ccf114492aee90"
