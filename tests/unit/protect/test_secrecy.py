"""What others may come to see: modes of files, bytes on the disk, frames of errors."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safemodel import (
    SafeModelError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._protect.scratch import Scratch
from safemodel._protect.tags import new_file_id
from safemodel._rewrite.output import Output
from tests.unit.protect.helpers_protect import KEY, holds_secret, text_of

MARK = torch.tensor([1.2345678])


def mode_of(path: Path) -> int:
    """Return who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Let everybody read and write what is made."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_replaces_a_private_file_is_private(tmp_path):
    """By every verb; what is new has the mode of what it was made of."""
    plain, file = tmp_path / "plain.safetensors", tmp_path / "file.safetensors"
    safetensors.torch.save_file({"w": MARK}, plain)
    plain.chmod(0o666)
    protect(plain, file, key=KEY)
    assert mode_of(file) == 0o666
    link = tmp_path / "link.safetensors"
    for mode, expected in ((0o600, 0o600), (0o640, 0o640), (0o400, 0o600)):
        plain.chmod(0o666)
        file.chmod(mode)
        protect(plain, file, key=KEY, overwrite=True)
        assert mode_of(file) == expected
        file.chmod(mode)
        rotate(file, file, key=KEY, overwrite=True)
        assert mode_of(file) == expected
        link.unlink(missing_ok=True)
        link.symlink_to(plain)
        plain.chmod(mode)
        restore(file, link, key=KEY, overwrite=True)
        assert mode_of(link) == expected
        assert not link.is_symlink()
    for mode in (0o666, 0o640, 0o604, 0o600):
        file.chmod(mode)
        link.unlink()
        link.symlink_to(tmp_path / "nothing")
        restore(file, link, key=KEY, overwrite=True)
        assert mode_of(link) == mode
        for verb in (restore, rotate):
            new = tmp_path / f"{verb.__name__}-{mode:o}.safetensors"
            verb(file, new, key=KEY)
            assert mode_of(new) == mode
        plain.chmod(mode)
        protect(plain, tmp_path / f"{mode:o}.safetensors", key=KEY)
        assert mode_of(tmp_path / f"{mode:o}.safetensors") == mode
    # What never was a file has the mode that the umask leaves.
    protect({"w": MARK}, tmp_path / "new.safetensors", key=KEY)
    assert mode_of(tmp_path / "new.safetensors") == 0o666


def written(monkeypatch, call) -> bytes:
    """Return all bytes that a call hands to the system, to any file."""
    parts: list[bytes] = []

    def noting(name: str) -> None:
        real = getattr(os, name)

        def note(descriptor, data, *more):
            parts.extend(map(bytes, [data] if name in ("write", "pwrite") else data))
            return real(descriptor, data, *more)

        monkeypatch.setattr(os, name, note)

    for name in ("write", "pwrite", "pwritev", "writev"):
        noting(name)
    call()
    return b"".join(parts)


@pytest.mark.parametrize("confidential", [False, True])
def test_confidential_numbers_never_reach_the_disk(tmp_path, monkeypatch, confidential):
    """Not in temporary files either: they lie where the protected file will be."""
    # The disk of the plain file may be another one.
    plain = tmp_path / "plain.safetensors"
    # Whole pairs of tiles: all of it goes through both rounds.
    safetensors.torch.save_file({"w": MARK.repeat(18 * 4096)}, plain)
    monkeypatch.setitem(Scratch.__init__.__kwdefaults__, "budget", 0)

    def call() -> None:
        out = tmp_path / "out.safetensors"
        protect(plain, out, key=KEY, confidential=confidential)

    there = written(monkeypatch, call)
    # What is permuted goes through a temporary file, what is encrypted does not.
    assert len(there) // (18 * 4096 * 4) == (1 if confidential else 2)
    assert (MARK.repeat(4).numpy().tobytes() in there) is not confidential


@pytest.mark.parametrize("verb", ["protect", "restore", "rotate"])
def test_a_full_disk_shows_no_names(tmp_path, monkeypatch, verb):
    """Crash reporters send the local variables of all frames along."""
    plain, file = tmp_path / "plain.safetensors", tmp_path / "file.safetensors"
    out = tmp_path / "out.safetensors"
    safetensors.torch.save_file({"secret.name": MARK.repeat(9)}, plain)
    protect(plain, file, key=KEY)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Output, "patch", full)
    monkeypatch.setattr(Output, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        {
            "protect": lambda: protect(plain, out, key=KEY),
            "restore": lambda: restore(file, out, key=KEY),
            "rotate": lambda: rotate(file, out, key=KEY),
        }[verb]()
    text = text_of(caught.value)
    assert "in _write" in text or "in restore_file" in text
    assert "secret.name" not in text
    assert not holds_secret(text)


CALLS = ("open", "fstat", "preadv", "pwritev", "write", "pwrite", "fsync", "link")
"""What verbs ask of the system, and may not get."""


def failing(monkeypatch, number: int) -> list[str]:
    """Let one call of the system fail, in any thread; return which were made."""
    made: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*given, **named):
            made.append(name)
            if len(made) == number:
                raise OSError(5, "Input/output error")
            return real(*given, **named)

        monkeypatch.setattr(os, name, call)

    for name in (*CALLS, "urandom"):
        wrap(name)
    return made


@pytest.mark.parametrize("confidential", [False, True])
@pytest.mark.parametrize("verb", ["protect", "verify", "restore", "rotate", "load"])
def test_no_call_that_fails_shows_anything(tmp_path, monkeypatch, verb, confidential):
    """Neither key nor names nor numbers, whichever call of a verb it is."""
    plain, file = tmp_path / "plain.pt", tmp_path / "file.pt"
    numbers = torch.randn(99)
    torch.save({"secret.name": numbers, "note": "secret.note"}, plain)
    protect(plain, file, key=KEY, confidential=confidential)
    out = tmp_path / "out.pt"
    call = {
        "protect": lambda: protect(plain, out, key=KEY, confidential=confidential),
        "verify": lambda: verify(file, key=KEY, state=tmp_path / "state"),
        "restore": lambda: restore(file, out, key=KEY),
        "rotate": lambda: rotate(file, out, key=KEY),
        "load": lambda: safe_load(file, key=KEY),
    }[verb]
    number, caught = 1, 0
    while True:
        out.unlink(missing_ok=True)
        with monkeypatch.context() as patched:
            made = failing(patched, number)
            try:
                call()
            except (OSError, SafeModelError) as error:
                text = text_of(error)
                caught += 1
                assert not holds_secret(text)
                assert "secret.n" not in text, (number, made[-1])
                # In the order that they had: what is stored anybody may see.
                assert not holds_secret(text, numbers[:8].numpy().tobytes())
        if number > len(made):
            break
        number += 1
    assert caught > len(made) // 2
    assert len(made) >= 5


def test_a_file_id_comes_once_even_if_random_bytes_come_twice(monkeypatch):
    """As in a copied virtual machine; one keystream for two texts gives both away."""
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    one, other = new_file_id(b"one"), new_file_id(b"other")
    monkeypatch.setattr(time, "time_ns", lambda: 2)
    later = new_file_id(b"one")
    monkeypatch.setattr(os, "urandom", lambda size: b"\1" * size)
    random = new_file_id(b"one")
    assert len({one, other, later, random}) == 4
    assert {len(each) for each in (one, other, later, random)} == {32}
