"""`safemodel disarm`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from safemodel._cli import main
from safemodel.reports import DisarmReport
from tests.unit.cli.helpers_terminal import COMMAND, ROOT, in_terminal
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import CHECKPOINT, EVIL

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a clean and a hostile file in it, where we are."""
    (tmp_path / "clean.pt").write_bytes(torch_zip(CHECKPOINT))
    (tmp_path / "evil.pt").write_bytes(EVIL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder) -> list[str]:
    """Return what is in a folder, but for what it starts with."""
    return sorted({path.name for path in folder.iterdir()} - {"clean.pt", "evil.pt"})


def test_reports_are_written_beside_what_is_printed(folder, capsys):
    """As JSON and as a page; nothing else is left."""
    arguments = [
        "disarm",
        "evil.pt",
        "out.pt",
        "--report",
        "r.json",
        "--html",
        "r.html",
    ]
    assert main(arguments) == 0
    report = DisarmReport.from_dict(json.loads((folder / "r.json").read_text()))
    assert [one.name for one in report.removed] == ["os.system"]
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert page == report.to_html()
    assert "1 call removed" in page
    printed = capsys.readouterr()
    assert printed.out == f"{report}\n"
    assert "would call os.system('echo hi')" in printed.out
    assert not printed.err
    assert names(folder) == ["out.pt", "r.html", "r.json"]


def test_json_can_be_printed(folder, capsys):
    """In place of the text."""
    assert main(["disarm", "evil.pt", "out.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == "out.pt"


def test_a_report_that_is_there_is_replaced(folder, capsys):
    """As a whole, once the new model is there."""
    (folder / "r.html").write_text("old")
    assert main(["disarm", "evil.pt", "out.pt", "--html", "r.html"]) == 0
    assert "os.system" in (folder / "r.html").read_text(encoding="utf-8")


def test_nothing_is_written_of_what_is_refused(folder, capsys):
    """Neither a model nor a report, and an old report stays."""
    (folder / "r.html").write_text("old")
    arguments = [
        "disarm",
        "evil.pt",
        "out.pt",
        "--report",
        "r.json",
        "--html",
        "r.html",
    ]
    assert main([*arguments, "--strict"]) == 1
    assert "refused" in capsys.readouterr().err
    assert names(folder) == ["r.html"]
    assert (folder / "r.html").read_text() == "old"


@pytest.mark.parametrize("option", ["--report", "--html"])
@pytest.mark.parametrize(
    "path", ["evil.pt", "out.pt", "../{here}/out.pt", "link.pt", "models/r.html"]
)
def test_a_report_takes_the_place_of_no_model(folder, capsys, option, path):
    """Whichever way it is named; the clash is found before anything is written."""
    (folder / "models").mkdir()
    os.link(folder / "evil.pt", folder / "link.pt")
    before = names(folder)
    source = "models" if path.startswith("models") else "evil.pt"
    path = path.format(here=folder.name)
    assert main(["disarm", source, "out.pt", option, path]) == 2
    assert "the report would change" in capsys.readouterr().err
    assert names(folder) == before
    assert (folder / "evil.pt").read_bytes() == EVIL


def test_two_reports_are_two_files(folder, capsys):
    """One would replace the other."""
    arguments = ["disarm", "evil.pt", "out.pt", "--report", "r", "--html", "./r"]
    assert main(arguments) == 2
    assert "the report would change r" in capsys.readouterr().err
    assert names(folder) == []


@pytest.mark.parametrize(
    "path", ["missing/r.html", "folder", "link", "pipe", "x" * 300]
)
def test_a_report_that_cannot_be_written_is_known_before(folder, capsys, path):
    """No such folder, a folder, a link or a pipe in its place, a name too long."""
    (folder / "folder").mkdir()
    (folder / "target").write_text("mine")
    (folder / "link").symlink_to("target")
    os.mkfifo(folder / "pipe")
    before = names(folder)
    assert main(["disarm", "evil.pt", "out.pt", "--html", path]) == 2
    assert capsys.readouterr().err.startswith("safemodel: ")
    assert names(folder) == before
    assert (folder / "target").read_text() == "mine"


def test_a_full_disk_after_the_model_is_said_to_be_after_it(folder):
    """The model is there and whole, the report is not, and the exit code is 2."""
    program = (
        "import resource, sys\n"
        "from safemodel._cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "sys.exit(main(['disarm', 'clean.pt', 'out.pt', '--html', 'r.html']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        check=False,
    )
    assert done.returncode == 2
    message = "safemodel: out.pt is written, but not its report: File too large\n"
    assert done.stderr == message
    assert names(folder) == ["out.pt"]
    assert main(["scan", "out.pt"]) == 0


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_colour_and_no_longer_lines(folder, columns):
    """What goes on below stands below its own text; names are not obeyed."""
    name = "a\x1b[2J[red]" + "very-long " * 15 + ".pt"
    (folder / name).write_bytes(EVIL)
    seen, code = in_terminal(["disarm", name, "out.pt"], str(folder), columns=columns)
    assert code == 0
    assert "\x1b[1;31m" in seen
    assert "\x1b[2J" not in seen
    # In front of it there may be a spinner, which is taken away again.
    plain = CONTROL.sub("", seen[seen.index("before ") - 4 :]).replace("\r\n", "\n")
    lines = plain.splitlines()
    assert all(line.isprintable() and len(line) <= columns for line in lines)
    assert lines[0].startswith("before       a\\x1b[2J[red]very-long")
    assert lines[1].startswith(" " * 13 + "very-long")
    assert lines[-1].startswith("1 call removed; ")


def test_colours_can_be_switched_off(folder):
    """By NO_COLOR; a pipe has none anyway."""
    seen, code = in_terminal(["disarm", "evil.pt", "out.pt"], str(folder), colour=False)
    assert code == 0
    assert "\x1b[1;31m" not in seen
    assert "\x1b[31m" not in seen
    done = subprocess.run(
        [*COMMAND, "disarm", "--overwrite", "evil.pt", "out.pt"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    assert b"\x1b" not in done.stdout
    assert done.stderr == b""


def test_an_error_says_which_file_it_is_about(folder, capsys):
    """The path as it was given; within a folder that of the model, too."""
    (folder / "models").mkdir()
    (folder / "models" / "bad.pt").write_bytes(b"PK\3\4junk")
    (folder / "note.txt").write_text("hello")
    for arguments, code, said in (
        (["note.txt", "out.pt"], 2, "note.txt: a plain text file"),
        (["models/bad.pt", "out.pt"], 1, "models/bad.pt: refused: the zip archive has"),
        (["models", "out", "--strict"], 1, "models/bad.pt: refused: the zip archive"),
        (["evil.pt", "out.pt", "--strict"], 1, "evil.pt: refused: the file names"),
        (["none.pt", "out.pt"], 2, "none.pt: No such file or directory\n"),
        (["evil.pt", "models/bad.pt"], 2, "models/bad.pt: File exists; -f replaces it"),
        (["note.txt", "models"], 2, "models: a folder; name the file"),
    ):
        assert main(["disarm", *arguments]) == code
        assert capsys.readouterr().err.startswith(f"safemodel: {said}")
    assert names(folder) == ["models", "note.txt"]


def test_in_a_terminal_only_labels_are_bold(folder):
    """Names of files are not cut in two by it, and long lines go on below."""
    models = folder / "models"
    models.mkdir()
    (models / "config.json").write_text('{"auto_map": {}}')
    (models / "README.md").write_text("hello")
    (models / "lib.so").write_bytes(b"\x7fELF")
    shown, code = in_terminal(["disarm", "models", "out"], str(folder), columns=60)
    assert code == 0
    bold = [text.strip() for text in re.findall(r"\x1b\[1m([^\x1b]*)", shown)]
    assert {text for text in bold if text} == {
        "before", "after", "files", "left behind",
        "1 field that loads code removed; 0 tensors kept; 1 thing",
        "left behind (4 bytes).",
    }  # fmt: skip
    plain = CONTROL.sub("", shown)
    assert (
        "\r\n  README.md: No call and no name to remove; 0 tensors \r\n    kept."
        in plain
    )


_TERMINATED = """
import os, sys, time
from safemodel._cli import main

def fsync(_):
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(60)

os.fsync = fsync
main(["disarm", *sys.argv[2:]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("out", ["out.pt", "out"])
def test_a_command_that_is_told_to_end_leaves_nothing(folder, number, out):
    """Neither the file or folder that was begun nor the report."""
    (folder / "models").mkdir()
    os.link(folder / "clean.pt", folder / "models" / "a.pt")
    source = "clean.pt" if out == "out.pt" else "models"
    arguments = [str(int(number)), source, out, "--report", "r.json"]
    done = subprocess.run(
        [sys.executable, "-c", _TERMINATED, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=folder,
        check=False,
    )
    assert done.returncode == 128 + number
    assert names(folder) == ["models"]
