"""`safemodel protect`, `verify`, `restore` and `rotate`: what is written and said."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from safemodel._cli import main, make_parser, protect_terminal
from safemodel._cli.verdicts import Verdict
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.signing import write_signing_key
from safemodel._protect.state import EpochState
from safemodel.errors import VerificationError
from tests.unit.cli.helpers_terminal import COMMAND, ROOT, in_terminal

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
KEY = ["--key", "k"]
UNSIGNED = ["--unsigned"]  # the file of these tests is signed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a plain and a protected file, and keys; made once."""
    folder = tmp_path_factory.mktemp("made")
    ProtectionKey.generate().to_file(folder / "k")
    ProtectionKey.generate().to_file(folder / "other")
    write_signing_key(folder / "s", folder / "s.pub")
    write_signing_key(folder / "t", folder / "t.pub")
    values = np.arange(3000, dtype=np.float32).reshape(30, 100)
    tensors = {"layer.weight": values, "layer.bias": values[0].copy()}
    save_file(tensors, folder / "plain.safetensors", {"format": "pt"})
    done = subprocess.run(
        [
            *COMMAND,
            "protect",
            "plain.safetensors",
            "p.safetensors",
            *KEY,
            "--sign",
            "s",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """Return a copy of that folder, where we are."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).chmod(path.stat().st_mode)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder) -> set[str]:
    """Return what is in a folder, but for what it starts with."""
    there = {path.name for path in folder.iterdir()}
    first = {"k", "other", "s", "s.pub", "t", "t.pub"}
    return there - first - {"plain.safetensors", "p.safetensors"}


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def secret_of(path: str) -> str:
    return ProtectionKey.from_file(path)._secret.hex()


def test_there_and_back(folder, capsys):
    """Byte for byte, and nothing of the key or the names is printed."""
    assert main(["protect", "plain.safetensors", "q.safetensors", *KEY]) == 0
    assert main(["verify", "q.safetensors", *KEY]) == 0
    assert main(["restore", "q.safetensors", "r.safetensors", *KEY]) == 0
    plain = (folder / "plain.safetensors").read_bytes()
    assert (folder / "r.safetensors").read_bytes() == plain
    assert names(folder) == {"q.safetensors", "r.safetensors"}
    printed = capsys.readouterr()
    assert not printed.err
    assert secret_of("k") not in printed.out
    assert ProtectionKey.from_file("k").id in printed.out
    assert "layer" not in printed.out
    assert "values are not" in printed.out


def test_stock_readers_open_what_is_protected(folder):
    """And find other names and another order."""
    plain, other = load_file("plain.safetensors"), load_file("p.safetensors")
    assert plain.keys().isdisjoint(other)
    mixed = np.concatenate([one.reshape(-1) for one in other.values()])
    before = np.concatenate([one.reshape(-1) for one in plain.values()])
    assert sorted(mixed) == sorted(before)
    assert (mixed == before).mean() < 0.05


def test_a_changed_file_is_refused_and_the_tensor_is_named(folder, capsys):
    """By every verb, and nothing is written."""
    flip(folder / "p.safetensors", -3)
    assert main(["verify", "p.safetensors", *KEY]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("p.safetensors: refused: ")
    assert re.fullmatch(r"  changed  layer\.(weight|bias)", said[1])
    assert re.fullmatch(r"  within   pool 0, bytes [\d,]+ to [\d,]+", said[2])
    rotating = ["rotate", "p.safetensors"]
    for arguments in (["restore", "p.safetensors", "r.safetensors"],
                      [*rotating, "r.safetensors", *UNSIGNED],
                      [*rotating, "--in-place", *UNSIGNED]):  # fmt: skip
        before = (folder / "p.safetensors").read_bytes()
        assert main([*arguments, *KEY]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        first, *more = printed.err.splitlines()
        assert (
            first == "safemodel: p.safetensors: refused: bytes of tensors have changed"
        )
        assert more == said[1:]
        assert (folder / "p.safetensors").read_bytes() == before
    assert names(folder) == set()


def test_verdicts_on_several_files(folder, capsys):
    """Each its own line, all counted; what is refused decides about the code."""
    (folder / "bad.safetensors").write_bytes((folder / "p.safetensors").read_bytes())
    flip(folder / "bad.safetensors", 200)
    arguments = ["verify", "p.safetensors", "bad.safetensors", "none", *KEY]
    assert main(arguments) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("p.safetensors: verified (by key, epoch 0, not encrypted")
    assert said[1].startswith("bad.safetensors: refused: the seal was changed")
    assert said[-2] == "none: not verified: No such file or directory"
    assert said[-1] == "3 files: 1 verified, 1 refused, 1 not verified"
    assert main(["verify", "p.safetensors", "none", *KEY]) == 2
    capsys.readouterr()
    assert main([*arguments, "-q"]) == 1
    quiet = capsys.readouterr().out
    assert "p.safetensors: verified" not in quiet
    assert "bad.safetensors: refused" in quiet


def test_verdicts_as_json(folder, capsys):
    """The same, for programs; an error with all it knows."""
    (folder / "bad.safetensors").write_bytes((folder / "p.safetensors").read_bytes())
    flip(folder / "bad.safetensors", -3)
    arguments = ["verify", "p.safetensors", "bad.safetensors", "none", "--json", *KEY]
    assert main(arguments) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == {
        "verified": 1, "refused": 1, "not verified": 1, "exit_code": 1,
    }  # fmt: skip
    good, bad, none = found["files"]
    assert (good["verdict"], good["error"]) == ("verified", None)
    assert good["report"]["key_id"] == ProtectionKey.from_file("k").id
    assert (bad["verdict"], bad["report"]) == ("refused", None)
    assert bad["error"]["kind"] == "VerificationError"
    assert bad["error"]["tensors"][0].startswith("layer.")
    (changed,) = bad["error"]["ranges"]
    assert changed[0] == 0
    assert changed[1] < changed[2]
    assert none["error"]["kind"] == "FileNotFoundError"


@pytest.mark.parametrize("verb", ["protect", "restore", "rotate"])
def test_reports_as_json(folder, capsys, verb):
    """In place of the text."""
    source = "plain.safetensors" if verb == "protect" else "p.safetensors"
    rest = UNSIGNED if verb == "rotate" else []
    assert main([verb, source, "out.safetensors", "--json", *KEY, *rest]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["out"] == "out.safetensors"
    assert report["key_id"] == ProtectionKey.from_file("k").id
    assert report["tensors"] == 2


def test_errors_as_json(folder, capsys):
    """What has changed, for programs, on standard output; for people on the other."""
    flip(folder / "p.safetensors", -3)
    for verb in ("restore", "rotate"):
        rest = UNSIGNED if verb == "rotate" else []
        arguments = [verb, "p.safetensors", "out.safetensors", "--json", *KEY, *rest]
        assert main(arguments) == 1
        printed = capsys.readouterr()
        error = json.loads(printed.out)["error"]
        assert error["kind"] == "VerificationError"
        assert error["tensors"][0].startswith("layer.")
        assert len(error["ranges"]) == 1
        assert printed.err.startswith("safemodel: p.safetensors: refused: ")
    assert names(folder) == set()


def test_another_key_is_no_change(folder, capsys):
    """2, and the ids of both."""
    ids = [ProtectionKey.from_file(name).id for name in ("k", "other")]
    for verb in ("verify", "restore", "rotate"):
        out = [] if verb == "verify" else ["out.safetensors"]
        assert main([verb, "p.safetensors", *out, "--key", "other"]) == 2
        printed = capsys.readouterr()
        assert all(one in printed.out + printed.err for one in ids)
    both = ["--key", "other", "--key", "k"]
    assert main(["verify", "p.safetensors", *both]) == 0
    assert main(["restore", "p.safetensors", "out.safetensors", *both]) == 0
    capsys.readouterr()
    assert main(["protect", "plain.safetensors", "x.safetensors", *both]) == 2
    assert "protected with one key" in capsys.readouterr().err


def test_a_key_from_the_environment(folder, capsys, monkeypatch):
    """The line of a key file; unset it is an error of 2."""
    line = (folder / "k").read_text().splitlines()[-1]
    monkeypatch.setenv("MODEL_KEY", line)
    assert main(["verify", "p.safetensors", "--key-env", "MODEL_KEY"]) == 0
    monkeypatch.setenv("MODEL_KEY", line[:-1])
    assert main(["verify", "p.safetensors", "--key-env", "MODEL_KEY"]) == 2
    assert main(["verify", "p.safetensors", "--key-env", "NO_KEY"]) == 2
    printed = capsys.readouterr()
    assert "environment variable 'NO_KEY'" in printed.err.replace("NO_KEY", "'NO_KEY'")
    assert secret_of("k") not in printed.out + printed.err


def test_what_never_was_protected_is_refused(folder, capsys):
    """With a key, a file without a seal is one whose seal was taken away."""
    assert main(["verify", "plain.safetensors", *KEY]) == 1
    assert "refused: there is no seal" in capsys.readouterr().out
    assert main(["restore", "plain.safetensors", "out.safetensors", *KEY]) == 1
    assert "there is no seal" in capsys.readouterr().err
    assert names(folder) == set()


def test_a_file_that_is_there_stays(folder, capsys):
    """Unless it may be replaced."""
    (folder / "out.safetensors").write_text("mine")
    for verb, source in (("protect", "plain.safetensors"), ("restore", "p.safetensors"),
                         ("rotate", "p.safetensors")):  # fmt: skip
        rest = UNSIGNED if verb == "rotate" else []
        assert main([verb, source, "out.safetensors", *KEY, *rest]) == 2
        said = "safemodel: out.safetensors: File exists; -f replaces it\n"
        assert capsys.readouterr().err == said
        assert (folder / "out.safetensors").read_text() == "mine"
    assert main(["restore", "p.safetensors", "out.safetensors", "-f", *KEY]) == 0
    plain = (folder / "plain.safetensors").read_bytes()
    assert (folder / "out.safetensors").read_bytes() == plain


def test_rotation_goes_on(folder, capsys):
    """Another epoch, another order, another key; in place in one step."""
    before = (folder / "p.safetensors").read_bytes()
    new = ["--new-key", "other"]
    assert main(["rotate", "p.safetensors", "q.safetensors", *KEY, *new]) == 2
    assert "it is signed by" in capsys.readouterr().err
    new += UNSIGNED
    assert main(["rotate", "p.safetensors", "q.safetensors", *KEY, *new]) == 0
    ids = [ProtectionKey.from_file(name).id for name in ("k", "other")]
    said = capsys.readouterr().out
    assert f"key          {ids[0]} -> {ids[1]}\n" in said
    assert "epoch        0 -> 1\n" in said
    assert (folder / "p.safetensors").read_bytes() == before
    assert main(["verify", "q.safetensors", *KEY]) == 2
    other = ["--key", "other"]
    assert (
        main(["rotate", "q.safetensors", "--in-place", "--confidential", *other]) == 0
    )
    assert main(["restore", "q.safetensors", "r.safetensors", *other]) == 0
    plain = (folder / "plain.safetensors").read_bytes()
    assert (folder / "r.safetensors").read_bytes() == plain
    capsys.readouterr()
    assert main(["verify", "q.safetensors", *other, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["files"][0]["report"]
    assert (report["epoch"], report["confidential"]) == (2, True)
    assert names(folder) == {"q.safetensors", "r.safetensors"}


@pytest.mark.parametrize("arguments", [[], ["out.safetensors", "--in-place"]])
def test_rotation_goes_to_one_place(folder, capsys, arguments):
    """It is named, or it is the old one."""
    assert main(["rotate", "p.safetensors", *arguments, *KEY]) == 2
    assert "give DST or --in-place" in capsys.readouterr().err
    assert names(folder) == set()


def test_replays_are_refused(folder, capsys):
    """By a number, and by what was seen."""
    state = ["--state", "seen"]
    (folder / "old.safetensors").write_bytes((folder / "p.safetensors").read_bytes())
    arguments = ["--in-place", *KEY, *state, *UNSIGNED]
    assert main(["rotate", "p.safetensors", *arguments]) == 0
    for extra in (["--min-epoch", "1"], state):
        capsys.readouterr()
        assert main(["verify", "old.safetensors", *KEY, *extra]) == 1
        assert "epoch 0" in capsys.readouterr().out
        arguments = ["restore", "old.safetensors", "r.safetensors", *KEY, *extra]
        assert main(arguments) == 1
        assert main(["verify", "p.safetensors", *KEY, *extra]) == 0
    assert names(folder) == {"old.safetensors", "seen", "seen.lock"}
    file_id = json_of(["verify", "p.safetensors", *KEY], capsys)["file_id"]
    assert EpochState("seen").highest(bytes.fromhex(file_id)) == 1


def json_of(arguments, capsys):
    """Return the report on one file."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["files"][0]["report"]


def test_a_damaged_state_is_an_error_and_stays(folder, capsys):
    """2: nobody knows whether it is the newest."""
    (folder / "seen").write_text("rubbish")
    (folder / "seen").chmod(0o600)
    assert main(["verify", "p.safetensors", *KEY, "--state", "seen"]) == 2
    assert "not verified: seen: not a file of epochs" in capsys.readouterr().out
    restore = ["restore", "p.safetensors", "r.safetensors"]
    assert main([*restore, *KEY, "--state", "seen"]) == 2
    assert (folder / "seen").read_text() == "rubbish"
    assert names(folder) == {"seen"}


def test_what_has_expired_is_refused(folder, capsys, monkeypatch):
    """Said as a time of the calendar."""
    out = "e.safetensors"
    assert main(["protect", "plain.safetensors", out, "--expires", "1h", *KEY]) == 0
    assert main(["verify", out, *KEY]) == 0
    assert re.search(r"expires 20\d\d-\d\d-\d\d \d\d:\d\d UTC", capsys.readouterr().out)
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    assert main(["verify", out, *KEY]) == 1
    said = r"refused: it expired at 20\d\d-\d\d-\d\d \d\d:\d\d UTC"
    assert re.search(said, capsys.readouterr().out)


def test_signatures_are_for_readers_without_a_key(folder, capsys):
    """They learn that it is what was signed, or that it is not."""
    assert main(["verify", "p.safetensors", "--public-key", "s.pub"]) == 0
    assert "verified (by signature" in capsys.readouterr().out
    assert main(["verify", "p.safetensors", "--public-key", "t.pub"]) == 1
    assert main(["verify", "p.safetensors", "--public-key", "s.pub", *KEY]) == 0
    assert main(["verify", "p.safetensors", "--public-key", "s"]) == 2
    assert "a private key" in capsys.readouterr().err
    restore = ["restore", "p.safetensors", "r.safetensors", *KEY]
    assert main([*restore, "--public-key", "t.pub"]) == 1
    assert main([*restore, "--public-key", "s.pub"]) == 0
    flip(folder / "p.safetensors", -3)
    assert main(["verify", "p.safetensors", "--public-key", "s.pub"]) == 1
    capsys.readouterr()
    assert main(["verify", "p.safetensors"]) == 2
    assert "give --key, --key-env or --public-key" in capsys.readouterr().err


def test_a_folder_goes_the_same_way(folder, capsys):
    """Each verb; an error says which of its files it is about."""
    (folder / "hub").mkdir()
    for name in ("a.safetensors", "config.json"):
        source = "plain.safetensors" if name[0] == "a" else None
        text = (folder / source).read_bytes() if source else b"{}"
        (folder / "hub" / name).write_bytes(text)
    assert main(["protect", "hub", "p", *KEY]) == 0
    assert "  p/a.safetensors: " in capsys.readouterr().out
    assert main(["verify", "p", *KEY]) == 0
    assert main(["rotate", "p", "q", *KEY]) == 0
    assert main(["restore", "q", "back", *KEY]) == 0
    for name in ("a.safetensors", "config.json"):
        before = (folder / "hub" / name).read_bytes()
        assert (folder / "back" / name).read_bytes() == before
    capsys.readouterr()
    assert main(["protect", "hub", "p", "-f", *KEY]) == 2
    assert "-f replaces it" not in capsys.readouterr().err
    assert main(["rotate", "p", "--in-place", *KEY]) == 2
    assert "--in-place is for a file" in capsys.readouterr().err
    flip(folder / "p" / "a.safetensors", -3)
    assert main(["verify", "p", *KEY]) == 1
    said = capsys.readouterr().out
    assert said.startswith("p: refused: a.safetensors: bytes of tensors have changed\n")
    assert main(["restore", "p", "r", *KEY, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["file"] == "a.safetensors"
    assert "refused: a.safetensors: bytes of tensors" in printed.err
    assert not (folder / "r").exists()


def test_other_verbs_say_what_a_protected_file_is(folder, capsys):
    """It is not read, and nothing is wrong with it: 2."""
    (folder / "hub").mkdir()
    (folder / "hub" / "a.safetensors").write_bytes(
        (folder / "plain.safetensors").read_bytes()
    )
    assert main(["protect", "hub", "p", *KEY]) == 0
    capsys.readouterr()
    assert main(["scan", "p.safetensors", "p"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "p.safetensors: unsupported (a protected file)",
        "p/a.safetensors: unsupported (a protected file)",
        "p/safemodel.seal: unsupported (the seal of a protected folder)",
        "3 files: 3 unsupported",
    ]
    seen, code = in_terminal(["scan", "p.safetensors"], str(folder))
    assert (code, "a protected file" in seen) == (2, True)
    assert main(["inspect", "p.safetensors"]) == 2
    assert "KeyRequiredError" in capsys.readouterr().out
    assert main(["disarm", "p.safetensors", "out.safetensors"]) == 2
    assert "p.safetensors: a protected file" in capsys.readouterr().err
    assert names(folder) == {"hub", "p"}


def test_a_hostile_file_is_not_protected(folder, capsys):
    """It is refused as by `safe_load`: 1."""
    (folder / "evil.pt").write_bytes(b"cos\nsystem\n(X\x02\x00\x00\x00hitR.")
    assert main(["protect", "evil.pt", "out.pt", *KEY]) == 1
    assert capsys.readouterr().err.startswith("safemodel: evil.pt: refused: ")
    assert names(folder) == {"evil.pt"}


PATIENT = [
    sys.executable,
    "-c",
    """\
import sys
from safemodel._cli import main, protect_terminal

protect_terminal._PATIENCE_S = 3600.0
sys.exit(main(sys.argv[1:]))
""",
]
"""The command without a bar, however slow the machine is."""

IMPATIENT = [
    sys.executable,
    "-c",
    """\
import sys
from safemodel._cli import main, protect_terminal

protect_terminal._PATIENCE_S = 0.0
protect_terminal.Timer.cancel = lambda timer: None  # the end waits for the bar
sys.exit(main(sys.argv[1:]))
""",
]
"""The command with a bar, however fast the verb is."""


def test_a_terminal_gets_colour_and_a_pipe_gets_none(folder):
    """And a name is not obeyed."""
    name = "a\x1b[2J.safetensors"
    (folder / name).write_bytes((folder / "p.safetensors").read_bytes())
    verify = ["verify", name, *KEY]
    seen, code = in_terminal(verify, str(folder), columns=80, command=PATIENT)
    assert code == 0
    assert "\x1b[2J" not in seen
    assert "\x1b[32mverified" in seen
    plain = CONTROL.sub("", seen)
    assert plain.startswith("a\\x1b[2J.safetensors: verified (by key, epoch 0, ")
    done = subprocess.run(
        [*COMMAND, "verify", name, *KEY],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    assert b"\x1b" not in done.stdout
    assert done.stderr == b""


def writes_into(folder: Path, pid: int) -> bool:
    """Return whether a process has a file open there that is not whole yet."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # It may be closed meanwhile.
        with contextlib.suppress(OSError):
            path = link.readlink()
            if path.parent == folder and path.name.endswith(
                (" (deleted)", ".safemodel-part")
            ):
                return True
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_an_interrupted_verb_leaves_nothing(folder, number, code):
    """Whenever it comes: here once there is something to leave."""
    save_file({"w": np.zeros(1 << 22, np.float32)}, "large.safetensors")
    process = subprocess.Popen(
        [*COMMAND, "protect", "large.safetensors", "out.safetensors", *KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    while not writes_into(folder, process.pid):
        assert process.poll() is None
    process.send_signal(number)
    said, complaints = process.communicate()
    assert (process.returncode, said, complaints) == (code, b"", b"")
    assert names(folder) == {"large.safetensors"}


def test_a_terminal_shows_a_bar_and_a_pipe_does_not(folder):
    """Of what takes longer; here of everything. It is taken away again."""
    arguments = ["verify", "p.safetensors", *KEY]
    seen, code = in_terminal(arguments, str(folder), columns=80, command=IMPATIENT)
    assert code == 0
    assert re.search(r"verifying .*[\d.]+/[\d.?]+ \w+", CONTROL.sub("", seen))
    assert seen.rindex("\x1b[2K") < seen.rindex("p.safetensors: ")
    done = subprocess.run(
        [*IMPATIENT, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    assert done.stderr == b""
    assert done.stdout.startswith(b"p.safetensors: verified")


def test_a_bar_has_the_units_of_reports():
    """Of 1,024, and none before anything is known."""
    bar = protect_terminal.BytesBar("restoring")
    bar.update(3 << 20, 5 << 20)
    bar.close()
    bar._bar.tasks[0].finished_speed = 1536.0
    cells = [column(bar._bar.tasks[0]) for column in bar._bar.columns[2:4]]
    assert [str(cell) for cell in cells] == ["3.0/5.0 MiB", "1.5 KiB/s"]
    bar._bar.tasks[0].finished_speed = None
    assert str(bar._bar.columns[3](bar._bar.tasks[0])) == ""


@pytest.mark.parametrize("columns", [40, 80])
def test_long_lines_go_on_below(folder, columns):
    """No word is broken where it need not be, and no line is longer."""
    verify = ["verify", "plain.safetensors", *KEY]
    seen, code = in_terminal(verify, str(folder), columns=columns, command=PATIENT)
    assert code == 1
    first, *rest = CONTROL.sub("", seen).replace("\r\n", "\n").splitlines()
    assert first.startswith("plain.safetensors: refused: there is")
    assert rest
    for line in rest:
        assert line.startswith("  ")
        assert len(line) <= columns
    words = " ".join([first, *rest]).split()
    assert " ".join(words).endswith("or somebody took the seal away")


@pytest.mark.parametrize("verb", ["protect", "verify", "restore", "rotate"])
def test_no_key_in_an_argument(verb, capsys):
    """There is no option for one, and help says where keys come from."""
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "--key FILE" in shown
    assert "--key-env NAME" in shown


def test_long_lists_are_cut_and_json_has_all():
    """Twenty of each; names act on no terminal."""
    error = VerificationError(
        "bytes of tensors have changed",
        tensors=["a\x1b[2J", *(f"t{k}" for k in range(29))],
        ranges=[(0, k, k + 1) for k in range(25)],
    )
    verdict = Verdict("p", None, error)
    lines = list(verdict.lines())
    assert len(lines) == 1 + 20 + 20 + 1
    assert lines[1] == "  changed  a\\x1b[2J"
    assert lines[-1] == "  ... 10 tensors and 5 ranges more; --json has all"
    found = verdict.to_dict()["error"]
    assert (len(found["tensors"]), len(found["ranges"])) == (30, 25)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rotate", "S", *KEY, "D"], {"source": "S", "out": "D", "key": ["k"]}),
        (["rotate", *KEY, "S", "-f", "D"], {"source": "S", "out": "D"}),
        (["rotate", "S", "--in-place", *KEY], {"source": "S", "out": None}),
        (["rotate", *KEY, "--", "-S", "-D"], {"source": "-S", "out": "-D"}),
        (["restore", "S", *KEY, "D"], {"source": "S", "out": "D"}),
        (["verify", "a", *KEY, "b", "c"], {"paths": ["a", "b", "c"]}),
        (["scan", "a", "--json", "b"], {"paths": ["a", "b"], "json": True}),
        (["scan", "--json", "--", "-a"], {"paths": ["-a"], "json": True}),
        (["disarm", "S", "--json", "D"], {"source": "S", "out": "D"}),
    ],
)
def test_arguments_come_in_any_order(arguments, expected):
    """Options between them, too, which argparse alone does not take everywhere."""
    found = vars(make_parser().parse_args(arguments))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rotate", "S", *KEY, "D", "E"], "unrecognized arguments: E"),
        (["rotate", *KEY], "required: SRC"),
        (["rotate", "S", "--new-key", "n", "D"], "--key --key-env is required"),
        (["verify", "a", *KEY, "b", "--nothing"], "unrecognized arguments: --nothing"),
        (["restore", "S", *KEY, "--key-env", "E", "D"], "not allowed with"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(arguments, said, capsys):
    """As if they were in the usual order."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
