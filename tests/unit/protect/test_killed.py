"""What a process leaves that is killed while it protects, restores or rotates.

The process is a child that kills itself (SIGKILL) at a system call which writes,
renames or removes something: the first, the second, and so on up to the last. Between
two of them nothing happens that others could see. ``make kill`` kills at random moments
of large files.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safemodel import protect, restore, rotate, verify
from safemodel._rewrite.output import SUFFIX
from tests.unit.protect.helpers_protect import KEY, OTHER

CALLS = ("write", "pwrite", "fsync", "fdatasync", "rename", "replace", "link",
         "unlink", "open", "mkdir", "rmdir")  # fmt: skip
PLAIN = safetensors.torch.save({"w": torch.arange(3000.0), "n": torch.arange(7)})


def killed_at(number: int, call: Callable[[], object]) -> bool:
    """Run a call in a child that kills itself at a system call; return if it did."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def counted(name: str) -> None:
            real = getattr(os, name)

            def one(*args, **how):
                nonlocal count
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **how)

            setattr(os, name, one)

        try:
            for name in CALLS:
                counted(name)
            call()
        finally:
            os._exit(0 if count < number else 1)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def every_moment(call: Callable[[], object], look: Callable[[], str]) -> list[str]:
    """Kill a call at each of its moments; return what was found after each."""
    found = []
    number = 1
    call()  # once here, so that no child has to compile anything
    look()
    while killed_at(number, call):
        found.append(look())
        number += 1
    found.append(look())
    return found


def old_then_new(found: list[str]) -> None:
    """Assert that the old file was there up to some moment, and the new one since."""
    assert found[0] == "old"
    assert found[-1] == "new"
    assert found == sorted(found, reverse=True)
    assert len(found) > 5


def has_nameless_files(folder: Path) -> bool:
    """Return whether a file there can be written before it has a name."""
    try:
        os.close(os.open(folder, os.O_RDWR | os.O_TMPFILE))
    except (AttributeError, OSError):
        return False
    return True


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("there", [False, True])
def test_a_killed_restore_leaves_no_half_of_a_plain_file(
    tmp_path, monkeypatch, nameless, there
):
    """Where the system has files without names; else one that says what it is."""
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not has_nameless_files(tmp_path):
        pytest.skip("the file system has no files without names")
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    protect(PLAIN, source, key=KEY)
    left: list[list[bytes]] = []

    def look() -> str:
        known = {source, target}
        others = [path for path in tmp_path.iterdir() if path not in known]
        left.append([path.read_bytes() for path in others])
        for path in others:
            path.unlink()
        data = target.read_bytes() if target.exists() else b"old"
        target.unlink(missing_ok=True)
        if there:
            target.write_bytes(b"old")
        return "new" if data == PLAIN else "old" if data == b"old" else "half"

    def call() -> None:
        restore(source, target, key=KEY, overwrite=there)

    old_then_new(every_moment(call, look))
    if not nameless:
        assert any(data != [PLAIN] for data in left if data)
    elif there:
        # For the moment that it takes to replace the other file.
        assert [data for data in left if data] == [[PLAIN]]
    else:
        assert left == [[]] * len(left)


def parts_only(folder: Path, known: set[str]) -> None:
    """Assert that at most one other file was left, which says what it is; remove it."""
    others = [path for path in folder.iterdir() if path.name not in known]
    assert len(others) <= 1
    for path in others:
        assert path.name.startswith(".")
        assert path.name.endswith(SUFFIX)
        path.unlink()


@pytest.mark.parametrize(
    ("verb", "there", "confidential"),
    [
        ("protect", False, False),
        ("protect", True, True),
        ("restore", False, True),
        ("restore", True, False),
        ("rotate", False, False),
        ("rotate", True, True),
    ],
)
def test_a_killed_verb_leaves_the_old_file_or_the_new_one(
    tmp_path, verb, there, confidential
):
    """Whether there was one or not; what is found as the new one is whole."""
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    if verb == "protect":
        source.write_bytes(PLAIN)
    else:
        protect(PLAIN, source, key=KEY, confidential=confidential)
    how = {"confidential": confidential} if verb != "restore" else {}
    verbs = {"protect": protect, "restore": restore, "rotate": rotate}
    before = source.read_bytes()

    def call() -> None:
        verbs[verb](source, target, key=KEY, overwrite=there, **how)

    def look() -> str:
        assert source.read_bytes() == before
        parts_only(tmp_path, {source.name, target.name})
        if not there and not target.exists():
            return "old"
        data = target.read_bytes()
        target.unlink()
        if there:
            target.write_bytes(b"old")
            if data == b"old":
                return "old"
        if verb != "restore":
            back = tmp_path / "back"
            restore(data, back, key=KEY)
            data = back.read_bytes()
            back.unlink()
        return "new" if data == PLAIN else "half"

    if there:
        target.write_bytes(b"old")
    old_then_new(every_moment(call, look))


@pytest.mark.parametrize("new_key", [None, OTHER])
def test_a_rotation_in_place_that_is_killed_leaves_a_file_that_opens(tmp_path, new_key):
    """In its old epoch or the next one, and the state of epochs accepts it."""
    path, state, saved = (tmp_path / name for name in ("p", "state", "saved"))
    protect(PLAIN, saved, key=KEY)
    keys = {0: KEY, 1: new_key or KEY}

    def call() -> None:
        rotate(path, path, key=KEY, new_key=new_key, state=state, overwrite=True)

    def look() -> str:
        data = path.read_bytes()
        old = data == saved.read_bytes()
        epoch = 0 if old else 1
        # Who remembers epochs is not locked out by the kill.
        assert verify(path, key=keys[epoch], state=state).epoch == epoch
        back = tmp_path / "back"
        restore(data, back, key=keys[epoch])
        assert back.read_bytes() == PLAIN
        for left in tmp_path.iterdir():
            if left.name not in ("p", "saved", "state", "state.lock"):
                assert left.name == "back" or left.name.startswith(".")
                left.unlink()
        names = {left.name for left in tmp_path.iterdir()}
        assert names <= {"p", "saved", "state", "state.lock"}
        again = rotate(path, path, key=keys[epoch], overwrite=True)
        assert again.epoch == epoch + 1
        path.write_bytes(saved.read_bytes())
        state.unlink(missing_ok=True)
        return "old" if old else "new"

    path.write_bytes(saved.read_bytes())
    old_then_new(every_moment(call, look))


@pytest.mark.parametrize("verb", ["protect", "restore", "rotate"])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, verb):
    """And the one it was made from stays as it was."""
    source, target, plain = (tmp_path / name for name in ("in", "out", "plain"))
    plain.mkdir()
    (plain / "model.safetensors").write_bytes(PLAIN)
    (plain / "config.json").write_text("{}")
    if verb == "protect":
        source = plain
    else:
        protect(plain, source, key=KEY)
    verbs = {"protect": protect, "restore": restore, "rotate": rotate}

    def call() -> None:
        verbs[verb](source, target, key=KEY)

    def look() -> str:
        import shutil

        for left in tmp_path.iterdir():
            if left.name not in ("in", "out", "plain"):
                assert left.name.endswith(SUFFIX)
                shutil.rmtree(left)
        if not target.exists():
            return "old"
        if verb == "restore":
            whole = (target / "model.safetensors").read_bytes() == PLAIN
            whole &= (target / "config.json").read_text() == "{}"
        else:
            whole = verify(target, key=KEY).epoch == (verb == "rotate")
        shutil.rmtree(target)
        return "new" if whole else "half"

    old_then_new(every_moment(call, look))


def test_the_moments_are_all_there_are():
    """The counting child does get to the end, and is killed where it should be."""
    assert killed_at(1, lambda: os.write(os.open(os.devnull, os.O_WRONLY), b"x"))
    assert killed_at(2, lambda: os.write(os.open(os.devnull, os.O_WRONLY), b"x"))
    assert not killed_at(3, lambda: os.write(os.open(os.devnull, os.O_WRONLY), b"x"))
    assert not killed_at(1, lambda: io.BytesIO(b"x").read())
