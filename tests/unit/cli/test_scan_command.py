"""`safemodel scan`: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from safemodel._cli import main
from safemodel._cli.interrupts import ends_clean, interrupts_count
from tests.unit.cli.helpers_terminal import COMMAND, ROOT, in_terminal
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import CHECKPOINT, EMPTY, EVIL, named, pickled


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
        "3 files: 1 clean, 1 refused (1 danger), 1 no model",
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
        (["page.html"], 0),
        (["page.bin"], 2),
        (["empty.PT"], 2),
    ],
)
def test_exit_codes(folder, capsys, paths, code):
    """1 for what is refused, 2 for what is not known, and 1 counts more."""
    (folder / "broken.pt").write_bytes(EMPTY[:-1])
    (folder / "foreign.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(26))
    # Both may lie beside models, but not where a model is expected.
    (folder / "empty.PT").touch()
    for name in ("page.html", "page.bin"):
        (folder / name).write_text("<!doctype html><html>404</html>")
    assert main(["scan", *paths]) == code


def test_notes_on_a_clean_file_are_not_said_to_be_left_out(folder, capsys):
    """They are hidden, however many there are."""
    notes = pickled(*(named(f"pkg.name{at}") for at in range(30)))
    (folder / "notes.pt").write_bytes(torch_zip({**CHECKPOINT, "archive/x": notes}))
    main(["scan", "notes.pt"])
    assert capsys.readouterr().out.splitlines() == [
        "notes.pt: clean (torch zip archive)",
        "1 file: 1 clean",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["scan"],
        ["scan", "-j", "0", "x"],
        ["scan", "-j", "x", "x"],
        ["scan", "--json", "--sarif", "x"],
        ["x"],
    ],
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


def test_a_terminal_gets_a_table_in_colour(folder):
    """With the file's own text as text: neither markup nor escapes of it count."""
    (folder / "[bold]x\x1b[2J.pt").write_bytes(EVIL)
    seen, code = in_terminal(["scan", "."], str(folder))
    assert code == 1
    assert "\x1b[2J" not in seen
    assert "[bold]x\\x1b[2J.pt" in seen
    assert "\x1b[1;31m" in seen
    assert "os.system('echo hi')" in seen
    assert "4 files: 1 clean, 2 refused (2 danger), 1 no model" in seen
    assert "safemodel inspect FILE" in seen


def test_of_many_files_a_terminal_shows_the_most_alarming(folder):
    """And says how many more there are, and how to see them."""
    for at in range(60):
        (folder / f"a{at}.pt").write_bytes(pickled(named("pkg.name")))
    seen, code = in_terminal(["scan", "."], str(folder))
    assert code == 1
    rows = [line for line in seen.splitlines() if ".pt" in line]
    assert len(rows) == 40
    assert "evil.pt" in rows[0]
    assert "21 less alarming files: --verbose or --json lists them" in seen
    assert "63 files: 1 clean, 61 refused (1 danger), 1 no model" in seen
    seen, _ = in_terminal(["scan", "-v", "."], str(folder))
    assert sum(".pt" in line for line in seen.splitlines()) == 62


def test_what_an_encoding_does_not_have_is_escaped(folder):
    """A name of a file is no reason to stop."""
    (folder / "模型.pt").write_bytes(EMPTY)
    done = subprocess.run(
        [*COMMAND, "scan", "."],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT, "PYTHONIOENCODING": "latin-1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert rb"./\u6a21\u578b.pt: clean (pickle)" in done.stdout.splitlines()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk_is_no_verdict(folder, form):
    """Exit code 2 and a line, not 1 and a traceback: that would mean refused."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "scan", *form, "clean.pt"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "safemodel: cannot write: No space left on device\n"


def interrupted(sent_to: int, folder: Path) -> tuple[int, bytes]:
    """Interrupt a scan in two processes; return its exit code and what it says."""
    for at in range(3000):
        (folder / f"{at}.pt").write_bytes(EVIL)
    process = subprocess.Popen(
        [*COMMAND, "scan", "-j", "2", "."],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    )
    # More than a pipe holds is to come, so that it cannot have ended.
    assert process.stdout.readline()
    os.killpg(process.pid, sent_to)
    # The workers have the same standard error: this waits for them as well.
    said = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    return process.wait(), said


def test_an_interrupt_ends_a_scan_and_its_workers(folder):
    """With the exit code shells expect and no traceback of anybody."""
    assert interrupted(signal.SIGINT, folder) == (130, b"")


def test_workers_end_with_a_scan_that_is_killed(folder):
    """They find nobody to answer, and leave without a word."""
    assert interrupted(signal.SIGTERM, folder) == (-signal.SIGTERM, b"")


class Finalised:
    """What is interrupted while it goes away."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_is_not_lost_in_a_finaliser():
    """Python would print it and go on."""
    with interrupts_count() as check:
        check()
        Finalised()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_not_lost_in_the_compiler():
    """It calls back from C, where Python would print it and go on, too."""
    namespace = {"__name__": "llvmlite.binding.x", "os": os, "signal": signal}
    exec("def back():\n    os.kill(os.getpid(), signal.SIGINT)", namespace)  # noqa: S102 - a module for the test
    with interrupts_count() as check:
        namespace["back"]()
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_end_is_not_lost_in_a_finaliser():
    """It comes again, until it is not lost."""

    def work() -> None:
        with ends_clean():
            Terminated()
            threading.Event().wait(10)

    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == 128 + signal.SIGTERM


class Terminated:
    """What is told to end while it goes away."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_ignored_interrupt_stays_ignored():
    """A shell starts jobs in the background like that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_count() as check:
            Finalised()
            check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


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
