"""`safemodel keygen`: keys that are private, and never shown or replaced."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess

import pytest

from safemodel._cli import main
from safemodel._protect import salts
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.signing import read_public_key, read_signing_key
from tests.unit.cli.helpers_terminal import COMMAND, ROOT, typed_in_terminal


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder where we are; passphrases cost as little as is allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(salts, "_N", 1 << 15)
    return tmp_path


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_the_id_of_a_new_key_is_printed(folder, capsys):
    """It is the key in the file, which is private."""
    assert main(["keygen", "k"]) == 0
    printed = capsys.readouterr()
    key = ProtectionKey.from_file("k")
    assert printed.out == f"{key.id}\n"
    assert not printed.err
    assert key._secret.hex() not in printed.out
    assert stat.S_IMODE((folder / "k").stat().st_mode) == 0o600
    assert names(folder) == ["k"]


def test_json_of_a_key(folder, capsys):
    """The id and the file."""
    assert main(["keygen", "k", "--json"]) == 0
    key = ProtectionKey.from_file("k")
    assert json.loads(capsys.readouterr().out) == {"file": "k", "key_id": key.id}


@pytest.mark.parametrize("options", [[], ["--signing"], ["--passphrase", "salt"]])
def test_a_key_is_never_replaced(folder, capsys, options):
    """Whatever was protected with it would be lost."""
    (folder / "k").write_text("mine")
    assert main(["keygen", "k", *options]) == 2
    assert capsys.readouterr().err == "safemodel: k: File exists\n"
    assert (folder / "k").read_text() == "mine"
    assert names(folder) == ["k"]


def test_a_pair_to_sign_with(folder, capsys):
    """The public key is printed, and written beside the private one."""
    assert main(["keygen", "s", "--signing"]) == 0
    public = read_public_key("s.pub")
    assert capsys.readouterr().out == f"{public.hex()}\n"
    assert read_signing_key("s").public_key().public_bytes_raw() == public
    assert names(folder) == ["s", "s.pub"]


def test_a_passphrase_gives_the_same_key_again(folder, capsys, monkeypatch):
    """From standard input, where there is no terminal."""
    for name in ("a", "b"):
        monkeypatch.setattr("sys.stdin", io.StringIO("pass phrase\nand more\n"))
        assert main(["keygen", name, "--passphrase", "salt"]) == 0
    assert ProtectionKey.from_file("a") == ProtectionKey.from_file("b")
    printed = capsys.readouterr()
    assert "pass phrase" not in printed.out + printed.err
    monkeypatch.setattr("sys.stdin", io.StringIO("another\n"))
    assert main(["keygen", "c", "--passphrase", "salt"]) == 2
    assert "the passphrase is not the one of key" in capsys.readouterr().err
    assert names(folder) == ["a", "b", "salt"]


@pytest.mark.parametrize("typed", [b"", b"\n", b"x" * 2000, b"\xff\xfe\n"])
def test_what_is_no_passphrase_makes_no_key(folder, typed):
    """Nothing, too much, or not text; and it is not shown."""
    done = subprocess.run(
        [*COMMAND, "keygen", "k", "--passphrase", "salt"],
        input=typed,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"safemodel: ")
    assert b"xxx" not in done.stderr
    assert b"\\xff" not in done.stderr
    assert names(folder) == []


def test_a_salt_is_not_the_key(folder, capsys, monkeypatch):
    """One name for both would leave a salt where the key should be."""
    monkeypatch.setattr("sys.stdin", io.StringIO("pass phrase\n"))
    assert main(["keygen", "k", "--passphrase", "./k"]) == 2
    assert "two files" in capsys.readouterr().err
    assert names(folder) == []


def test_a_terminal_is_asked_twice_and_shows_nothing(folder):
    """For a new salt; a slip of the finger is noticed."""
    arguments = ["keygen", "k", "--passphrase", "salt"]
    seen, code = typed_in_terminal(arguments, str(folder), ["open sesame", "open"])
    assert (code, names(folder)) == (2, [])
    assert "the passphrases are not the same" in seen
    seen, code = typed_in_terminal(arguments, str(folder), ["open sesame"] * 2)
    assert code == 0
    assert seen.split() == [
        "New", "passphrase:", "Once", "more:", ProtectionKey.from_file("k").id,
    ]  # fmt: skip
    again = ["keygen", "again", "--passphrase", "salt"]
    seen, code = typed_in_terminal(again, str(folder), ["open sesame"])
    assert code == 0
    assert seen.split() == ["Passphrase:", ProtectionKey.from_file("k").id]


def test_there_is_no_way_to_give_a_key_or_passphrase_in_an_argument(capsys):
    """Other users see the arguments of a process."""
    with pytest.raises(SystemExit):
        main(["keygen", "--help"])
    shown = capsys.readouterr().out
    assert "--passphrase SALT" in shown
    assert "--key" not in shown
