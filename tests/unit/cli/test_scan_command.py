"""`safemodel scan`: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from safemodel._cli import main
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import CHECKPOINT, EMPTY, EVIL, named, pickled

ROOT = str(Path(__file__).resolve().parents[3])
COMMAND = [sys.executable, "-m", "safemodel"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a clean, a hostile, a foreign and another file in it."""
    (tmp_path / "clean.pt").write_bytes(torch_zip(CHECKPOINT))
    (tmp_path / "evil.pt").write_bytes(EVIL)
    (tmp_path / "README.md").write_text("# Models\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_text_has_a_line_a_file_and_a_line_a_finding(folder, capsys):
    """In a pipe: no table, no colour, no bar."""
    assert main(["scan", "."]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "./README.md: no model (a plain text file)",
        "./clean.pt: clean (torch zip archive)",
        "./evil.pt: refused (ForbiddenGlobalError)",
        "  danger  would call os.system('echo hi')  [@27 REDUCE]",
        "3 files: 1 clean, 1 refused, 1 no model",
    ]
    assert not printed.err


def test_quiet_prints_only_what_is_not_clean(folder, capsys):
    """Nothing at all where all is well."""
    assert main(["scan", "-q", "clean.pt", "evil.pt"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["scan", "--quiet", "clean.pt"]) == 0
    assert not capsys.readouterr().out


def test_verbose_prints_every_finding(folder, capsys):
    """Notes on a clean file, too."""
    (folder / "notes.pt").write_bytes(
        torch_zip({**CHECKPOINT, "archive/x": pickled(named("pkg.name"))})
    )
    main(["scan", "notes.pt"])
    short = capsys.readouterr().out
    main(["scan", "-v", "notes.pt"])
    assert "pkg.name" not in short
    assert "pkg.name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (["clean.pt"], 0),
        (["evil.pt"], 1),
        (["broken.pt"], 1),
        (["missing.pt"], 2),
        (["foreign.7z"], 2),
        (["clean.pt", "missing.pt"], 2),
        (["missing.pt", "evil.pt"], 1),
        (["README.md", "clean.pt"], 0),
    ],
)
def test_exit_codes(folder, capsys, paths, code):
    """1 for what is refused, 2 for what is not known, and 1 counts more."""
    (folder / "broken.pt").write_bytes(EMPTY[:-1])
    (folder / "foreign.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(26))
    assert main(["scan", *paths]) == code


@pytest.mark.parametrize(
    "arguments",
    [[], ["scan"], ["scan", "-j", "0", "x"], ["scan", "--json", "--sarif", "x"], ["x"]],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    """As argparse does, with a line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_json_is_one_document(folder, capsys):
    """The reports, and what they come to."""
    assert main(["scan", "--json", "."]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [file["status"] for file in document["files"]] == [
        "unsupported",
        "clean",
        "refused",
    ]
    assert document["files"][2]["findings"][0]["name"] == "os.system"
    assert document["summary"]["exit_code"] == 1
    assert document["summary"]["no model"] == 1


def test_json_of_nothing_is_json(tmp_path, capsys):
    """An empty folder has an empty list."""
    assert main(["scan", "--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == []


def test_hostile_names_reach_no_terminal(tmp_path, capsys):
    """Escapes in the name of a file and in what it holds are shown, not obeyed."""
    path = tmp_path / "a\x1b[2J\u202eb\n[red].pt"
    path.write_bytes(pickled(named("pkg.\x1b[31mname")))
    main(["scan", str(path)])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "a\\x1b[2J\\u202eb\\n[red].pt" in out
    assert "pkg.\\x1b[31mname" in out


def in_terminal(arguments: list[str], cwd: str) -> tuple[str, int]:
    """Run the command in a pseudo-terminal; return what appeared and the exit code."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=follower,
        stderr=follower,
        cwd=cwd,
        env={**environment, "PYTHONPATH": ROOT},
    )
    os.close(follower)
    seen = bytearray()
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    return seen.decode(), process.wait()


def test_a_terminal_gets_a_table_in_colour(folder):
    """With the file's own text as text: neither markup nor escapes of it count."""
    (folder / "[bold]x\x1b[2J.pt").write_bytes(EVIL)
    seen, code = in_terminal(["scan", "."], str(folder))
    assert code == 1
    assert "\x1b[2J" not in seen
    assert "[bold]x\\x1b[2J.pt" in seen
    assert "\x1b[1;31m" in seen
    assert "os.system('echo hi')" in seen
    assert "4 files: 1 clean, 2 refused, 1 no model" in seen


def test_a_closed_pipe_is_no_traceback(folder):
    """As when the output goes into `head`."""
    for at in range(200):
        (folder / f"{at}.pt").write_bytes(EMPTY)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "scan", "."],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_scan_imports_nothing_heavy(folder):
    """Neither torch nor numpy nor rich, nor what takes long in the standard library."""
    program = (
        "import sys; from safemodel._cli import main; main(['scan', 'evil.pt']);"
        "print(sorted({'torch', 'numpy', 'numba', 'rich', 'dataclasses', 'inspect',"
        " 'uuid', 'shutil', 'pathlib', 'subprocess'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
    )
    # A site hook of the environment may import pathlib before anyone asks.
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print('pathlib' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "['pathlib']" if bare.stdout.strip() == "True" else "[]"
    assert done.stdout.splitlines()[-1] == expected
