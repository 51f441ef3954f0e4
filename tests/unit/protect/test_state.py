"""The highest epochs that were seen: remembered by all, lost by nobody."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from safemodel._protect import header, state, tags
from safemodel._protect.state import MAX_EPOCH, MAX_FILES, EpochState
from safemodel.errors import StateFormatError, VerificationError

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = bytes(range(32)), bytes(range(1, 33))


def text_of(marks: dict[bytes, int], *, first: str = "safemodel-epochs-1") -> bytes:
    """Return the text of a state, written here a second time."""
    lines = [f"{file_id.hex()} {epoch}\n" for file_id, epoch in marks.items()]
    return summed(f"{first}\n{''.join(lines)}".encode())


def summed(body: bytes) -> bytes:
    """Return lines with their checksum."""
    return body + b"sha256 " + sha256(body).hexdigest().encode() + b"\n"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_epoch_below_the_highest_seen_is_a_replay(tmp_path):
    """The same and a higher one are not; another file has an epoch of its own."""
    marks = EpochState(tmp_path / "s")
    marks.check(ONE, 0)
    marks.record(ONE, 7)

    for epoch in (7, 8, MAX_EPOCH):
        marks.check(ONE, epoch)
    marks.check(TWO, 0)
    for epoch in (0, 6):
        with pytest.raises(VerificationError, match=f"epoch {epoch}, and epoch 7"):
            marks.check(ONE, epoch)
    assert (marks.highest(ONE), marks.highest(TWO)) == (7, None)


def test_a_mark_only_rises(tmp_path):
    """A lower epoch is refused when it is recorded, too: somebody was faster."""
    marks = EpochState(tmp_path / "s")
    marks.record(ONE, 3)
    before = (tmp_path / "s").read_bytes()

    with pytest.raises(VerificationError):
        marks.record(ONE, 2)
    assert (tmp_path / "s").read_bytes() == before
    marks.record(ONE, 5)
    assert EpochState(str(tmp_path / "s")).highest(ONE) == 5


def test_the_file_is_as_it_is_described(tmp_path):
    """One text, files in order; private, and nothing beside it but the lock."""
    path = tmp_path / "s"
    marks = EpochState(path)
    marks.record(TWO, MAX_EPOCH)
    marks.record(ONE, 0)

    assert path.read_bytes() == text_of({ONE: 0, TWO: MAX_EPOCH})
    assert names(tmp_path) == {"s", "s.lock"}
    for name in ("s", "s.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_what_is_known_already_is_not_written(tmp_path):
    """Not even the lock: a folder that cannot be written to is good enough."""
    path = tmp_path / "s"
    path.write_bytes(text_of({ONE: 4}))
    path.chmod(0o600)
    inode = path.stat().st_ino

    EpochState(path).record(ONE, 4)

    assert path.stat().st_ino == inode
    assert names(tmp_path) == {"s"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "damaged"),
        (b"\0" * 200, "damaged"),
        (text_of({ONE: 1})[:-1], "damaged"),
        (text_of({ONE: 1})[:-30], "damaged"),
        (text_of({ONE: 1}).replace(b" 1\n", b" 0\n"), "checksum"),
        (text_of({ONE: 1}) + b"\n", "damaged"),
        (b" " + text_of({ONE: 1}), "damaged"),
        (b"safemodel-epochs-1\n", "damaged"),
        (text_of({ONE: 1}, first="safemodel-epochs-2"), "another version"),
        (text_of({ONE: 1}, first="safemodel-epochs-0"), "another version"),
        (text_of({TWO: 1, ONE: 1}), "not written as one"),
        (summed(b"safemodel-epochs-1\n" + 2 * f"{ONE.hex()} 1\n".encode()), "as one"),
        (summed(b"safemodel-epochs-1\n" + f"{ONE.hex()} 01\n".encode()), "as one"),
        (summed(b"safemodel-epochs-1\n" + f"{ONE.hex()} -1\n".encode()), "as one"),
        (summed(b"safemodel-epochs-1\n" + f"{ONE.hex().upper()} 1\n".encode()), "one"),
        (summed(b"safemodel-epochs-1\n" + f"{ONE.hex()[:-2]} 1\n".encode()), "as one"),
        (summed(b"safemodel-epochs-1\nmore\n"), "as one"),
        (summed(b"safemodel-epochs-1\n\xc2\xb2\n"), "as one"),
        (text_of({ONE: MAX_EPOCH + 1}), "as one"),
        (b"safemodel-epochs-1\n" + b"x" * state._MAX_BYTES, "more than"),
    ],
)
def test_what_is_damaged_is_an_error_and_stays(tmp_path, data, words):
    """Nobody starts anew without noticing: neither reading nor recording does."""
    path = tmp_path / "s"
    path.write_bytes(data)
    path.chmod(0o600)
    marks = EpochState(path)

    for use in (marks.check, marks.record):
        with pytest.raises(StateFormatError, match=words):
            use(ONE, 9)
    assert path.read_bytes() == data
    assert names(tmp_path) == {"s"}


def test_every_byte_is_checked(tmp_path):
    """Whichever bit of the file flips, it is not believed."""
    path = tmp_path / "s"
    whole = text_of({ONE: 17, TWO: 4})
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        path.chmod(0o600)
        with pytest.raises(StateFormatError):
            EpochState(path).check(ONE, 99)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_remembers_nothing(tmp_path, mode):
    """They could lower an epoch. Reading it does not harm: it holds no secret."""
    path = tmp_path / "s"
    path.write_bytes(text_of({ONE: 1}))
    path.chmod(mode)
    with pytest.raises(StateFormatError, match=f"mode 0{mode:o}.*chmod 600"):
        EpochState(path).check(ONE, 1)
    path.chmod(0o644)
    EpochState(path).check(ONE, 1)


def test_of_another_user(tmp_path, monkeypatch):
    """Only the user and root may say what was seen."""
    path = tmp_path / "s"
    path.write_bytes(text_of({ONE: 1}))
    path.chmod(0o600)
    uid = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    if uid == 0:
        EpochState(path).check(ONE, 1)
        os.chown(path, 12345, -1)
    with pytest.raises(StateFormatError, match="another user"):
        EpochState(path).check(ONE, 1)


def test_only_a_regular_file_remembers(tmp_path):
    """Pipes do not block, folders and links are told apart."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for name, words in (("pipe", "regular"), ("folder", "regular"), ("link", "a link")):
        with pytest.raises(StateFormatError, match=words):
            EpochState(tmp_path / name).check(ONE, 1)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    """Nothing is made or opened where it leads."""
    (tmp_path / "s.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        EpochState(tmp_path / "s").record(ONE, 1)
    assert names(tmp_path) == {"s.lock"}


def test_names_of_files_are_quoted(tmp_path):
    """No terminal escape reaches an error."""
    path = tmp_path / "a\x1b[31m\n"
    path.write_bytes(b"")
    with pytest.raises(StateFormatError) as caught:
        EpochState(path).check(ONE, 1)
    assert str(caught.value).isprintable()
    assert repr(EpochState(path)).isprintable()


@pytest.mark.parametrize(
    "file_id", [b"", bytes(31), bytes(33), "0" * 32, bytearray(32)]
)
def test_only_ids_are_ids(tmp_path, file_id):
    """A mistake of the caller is no error about a file."""
    marks = EpochState(tmp_path / "s")
    for use in (marks.check, marks.record):
        with pytest.raises(ValueError, match="32 bytes"):
            use(file_id, 0)


@pytest.mark.parametrize("epoch", [-1, MAX_EPOCH + 1, True, 1.0])
def test_only_epochs_are_epochs(tmp_path, epoch):
    """Nothing else is written."""
    marks = EpochState(tmp_path / "s")
    for use in (marks.check, marks.record):
        with pytest.raises(ValueError, match="epoch"):
            use(ONE, epoch)
    assert names(tmp_path) == set()


def test_a_path_without_a_name_is_no_file():
    with pytest.raises(ValueError, match="not the name"):
        EpochState("/")


def test_ids_and_epochs_are_those_of_a_seal():
    """Written down twice, because reading a seal takes more imports."""
    assert MAX_EPOCH == header.MAX_TIME
    assert state.FILE_ID_BYTES == tags.FILE_ID_BYTES


def test_it_is_bounded(tmp_path):
    """A full one takes higher epochs of files it holds, and no others."""
    assert len(
        state._encoded({n.to_bytes(32, "big"): MAX_EPOCH for n in range(9)})
    ) == (state._MAX_BYTES - (MAX_FILES - 9) * state._LINE_BYTES)
    path = tmp_path / "s"
    path.write_bytes(text_of({n.to_bytes(32, "big"): 5 for n in range(MAX_FILES)}))
    path.chmod(0o600)
    marks = EpochState(path)

    with pytest.raises(StateFormatError, match="full: it holds 65,536 files"):
        marks.record(b"\xff" * 32, 1)
    marks.record(bytes(32), 6)
    assert marks.highest(bytes(32)) == 6
    assert marks.highest((MAX_FILES - 1).to_bytes(32, "big")) == 5


def test_a_lock_that_is_held_is_waited_for(tmp_path, monkeypatch):
    """But not for ever, and nothing is written without it."""
    monkeypatch.setattr(state, "_PATIENCE_S", 0.0)
    marks = EpochState(tmp_path / "s")
    descriptor = os.open(tmp_path / "s.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="keeps it locked"):
        marks.record(ONE, 1)
    assert names(tmp_path) == {"s.lock"}
    os.close(descriptor)
    marks.record(ONE, 1)
    assert marks.highest(ONE) == 1


def test_a_lock_that_was_cleared_away_is_no_lock(tmp_path, monkeypatch):
    """Who waits for a file that is gone by then locks the new one."""
    path = tmp_path / "s.lock"
    taken = []
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not taken:
            path.unlink()
            path.touch(0o600)
        taken.append(os.fstat(descriptor).st_ino)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    EpochState(tmp_path / "s").record(ONE, 1)
    assert taken[-1] == path.stat().st_ino != taken[0]


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    """No half of a file, and nothing beside it."""
    marks = EpochState(tmp_path / "s")
    marks.record(ONE, 1)
    before = (tmp_path / "s").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        marks.record(ONE, 2)
    assert (tmp_path / "s").read_bytes() == before
    assert names(tmp_path) == {"s", "s.lock"}


RECORDER = """\
import sys
from safemodel._protect.state import EpochState

marks, mine = EpochState(sys.argv[1]), bytes([int(sys.argv[2])]) * 32
print("ready", flush=True)
sys.stdin.readline()
for epoch in range(1, 21):
    marks.record(mine, epoch)
"""


def recorders(path: Path, count: int) -> list[subprocess.Popen[str]]:
    """Return processes that record epochs of one file each, once they are told to."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RECORDER, str(path), str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return started


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> int:
    with process:
        return process.wait()


def test_many_processes_lose_nothing(tmp_path):
    """Each records 20 epochs of a file of its own, all at once."""
    path = tmp_path / "s"
    started = recorders(path, 4)
    for process in started:
        go(process)
    assert [end(process) for process in started] == [0] * 4

    marks = EpochState(path)
    assert [marks.highest(bytes([n]) * 32) for n in range(4)] == [20] * 4
    assert names(tmp_path) == {"s", "s.lock"}


def test_many_threads_lose_nothing(tmp_path):
    """The lock is of an open file, not of the process."""
    marks = EpochState(tmp_path / "s")

    def record(number: int) -> None:
        for epoch in range(1, 6):
            marks.record(bytes([number]) * 32, epoch)

    threads = [threading.Thread(target=record, args=[n]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [marks.highest(bytes([n]) * 32) for n in range(6)] == [5] * 6


def test_a_killed_process_leaves_a_whole_file_and_no_lock(tmp_path):
    """Wherever kill -9 strikes, the next one reads and records."""
    path = tmp_path / "s"
    marks = EpochState(path)
    for least in (1, 4, 9):
        (process,) = recorders(path, 1)
        go(process)
        while (marks.highest(bytes(32)) or 0) < least:
            pass
        process.send_signal(signal.SIGKILL)
        end(process)
        marks.record(TWO, least)
        assert least <= (marks.highest(bytes(32)) or 0) <= 20
        path.unlink()
