"""Patched from outside: `safemodel run`, the hook, and `SAFEMODEL_PATCH`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from safemodel._patch import hook
from safemodel._patch.start import Wanted, wanted

ROOT = Path(__file__).resolve().parents[3]

SHOWS = """\
import sys
import torch
print(sys.argv[1:], torch.load.__module__)
"""

HOSTILE = """\
import os, torch
class Payload:
    def __reduce__(self):
        return os.system, ("echo RAN",)
torch.save({"x": Payload()}, "hostile.pt")
"""


def run(*arguments, cwd, **environment):
    """Run the command line; return what came out."""
    return subprocess.run(
        [sys.executable, "-m", "safemodel", "run", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with programs and a hostile file."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "shows.py").write_text(SHOWS)
    subprocess.run([sys.executable, "-c", HOSTILE], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("how", [["late.py"], ["-m", "late"]])
def test_the_main_module_is_there_to_the_end(tmp_path, how):
    """Exit handlers and threads use what the program defined."""
    (tmp_path / "late.py").write_text(
        "import atexit, os, sys, pickle\n"
        "class Own:\n    pass\n"
        "def end():\n"
        "    print(type(pickle.loads(pickle.dumps(Own()))).__name__)\n"
        "atexit.register(end)\n"
        "assert sys.modules['__main__'].__file__ == __file__ == sys.argv[0]\n"
        "assert os.path.basename(__file__) == 'late.py'\n"
    )

    done = run(*how, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("Own\n", "")


@pytest.mark.parametrize("flag", ["-E", "-S"])
def test_flags_that_leave_workers_unpatched_are_refused(tmp_path, flag):
    """Children inherit them, and would look patched."""
    (tmp_path / "program.py").write_text("print('ran')")
    packages = [one for one in sys.path if one.endswith("site-packages")]
    start = (
        f"import sys; sys.path += {[str(ROOT), *packages]!r};"
        "from safemodel._cli import main; sys.exit(main(['run', 'program.py']))"
    )

    done = subprocess.run(
        [sys.executable, flag, "-c", start],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, "")
    assert "-E, -I and -S" in done.stderr


def test_a_module_can_be_named_whose_pickles_are_data(folder):
    """In the program, and in the interpreters that it starts."""
    (folder / "somebodys.py").write_text(
        "import pickle as p\ndef read(data):\n    return p.loads(data)\n"
    )
    (folder / "reads_once.py").write_text(
        "import somebodys\n"
        "try:\n"
        "    somebodys.read(bytes([99]) + b'posix\\nsystem\\n(Vecho RAN\\ntR.')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, flush=True)\n"
    )
    (folder / "reads.py").write_text(
        "import subprocess, sys\n"
        "import reads_once\n"
        "subprocess.run([sys.executable, 'reads_once.py'])\n"
    )

    done = run("--pickle-in", "somebodys", "reads.py", cwd=folder)
    odd = run("--pickle-in", "no module", "reads.py", cwd=folder)

    assert done.stdout.split() == ["ForbiddenGlobalError"] * 2, done.stderr
    assert odd.returncode == 2
    assert "'no module' is no name of a module" in odd.stderr


def test_a_log_is_one_file_wherever_the_program_goes(folder, tmp_path):
    """A name without a folder is that of where the program started."""
    (folder / "goes.py").write_text(
        "import os, torch\npath = os.path.abspath('hostile.pt')\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "torch.load(path, weights_only=False)\n"
    )

    done = run("goes.py", cwd=folder, SAFEMODEL_LOG="went", PYTHONWARNINGS="ignore")

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    line = json.loads((folder / "went").read_text())
    assert (line["outcome"], line["opaque"]) == ("loaded", ["posix.system"])


@pytest.mark.parametrize("how", [["shows.py"], ["-m", "shows"]])
def test_a_program_runs_as_ever_but_for_its_loaders(folder, how):
    """Arguments that look like ours are the program's."""
    done = run(*how, "--log", "x", cwd=folder)

    assert done.stdout == "['--log', 'x'] safemodel._patch.opening\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("raise OSError('of the program')", 1, "OSError: of the program"),
        ("raise KeyboardInterrupt", 130, ""),
        ("import sys; sys.exit('words')", 1, "words"),
    ],
)
def test_a_program_ends_as_it_ends(tmp_path, program, code, said):
    """With its own exit code, and a traceback without our frames."""
    (tmp_path / "ends.py").write_text(program)

    done = run("ends.py", cwd=tmp_path)

    assert done.returncode == code
    assert said in done.stderr
    assert "safemodel" not in done.stderr


WORKERS = """\
import multiprocessing, subprocess, sys
import torch

def work(path):
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        return type(error).__name__

if __name__ == "__main__":
    for kind in ("spawn", "fork"):
        with multiprocessing.get_context(kind).Pool(1) as pool:
            print(kind, pool.map(work, ["hostile.pt"])[0])
    program = "import torch; torch.load('hostile.pt', weights_only=False)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program],
                          capture_output=True, text=True)
    print("process", done.returncode, done.stdout)
"""


def test_worker_processes_are_patched_and_written_down(folder):
    """Spawned, forked, and started by hand; each file is one line of the log."""
    (folder / "workers.py").write_text(WORKERS)

    done = run("--log", "log", "workers.py", cwd=folder)

    refused = "ForbiddenGlobalError"
    assert done.stdout.split("\n")[:3] == [
        f"spawn {refused}", f"fork {refused}", "process 0 ",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [one["outcome"] for one in lines] == ["refused", "refused", "loaded"]
    assert len({one["process"] for one in lines}) == 3


def test_torchrun_is_patched(folder):
    """Its workers are interpreters of their own."""
    (folder / "rank.py").write_text("import torch; print(torch.load.__module__)\n")

    done = run(
        "-m", "torch.distributed.run", "--nproc-per-node", 1, "--master-port", 0,
        "rank.py", cwd=folder,
    )  # fmt: skip

    assert "safemodel._patch.opening" in done.stdout, done.stderr


WALL = """\
import sys
import safemodel
from safemodel.policy import Policy

def imports(args, state):
    import this_is_not_imported
def starts(args, state):
    import os
    os.system("echo RAN")

for maker in (imports, starts):
    safemodel.unpatch()
    safemodel.patch(policy=Policy(extra={"posix.system": maker}))
    import torch
    try:
        torch.load("hostile.pt")
    except Exception as error:
        print(type(error).__name__, str(error).split(': ')[-1])
import os
sys.stdout.flush()
os.system("echo outside of a load")
"""


def test_the_wall_stops_imports_and_process_starts_during_a_load(folder):
    """Even those of a checker that the program itself gave; outside, nothing."""
    (folder / "wall.py").write_text(WALL)

    behind = run("--audit-wall", "wall.py", cwd=folder)
    without = run("wall.py", cwd=folder)

    assert behind.stdout.splitlines() == [
        "ForbiddenCallError a load was about to import this (audit wall)",
        "ForbiddenCallError a load was about to do this (audit wall)",
        "outside of a load",
    ]
    assert "ModuleNotFoundError" in without.stdout
    assert "RAN" in without.stdout


def test_a_sitecustomize_of_the_user_s_own_still_runs(folder, tmp_path):
    """Ours comes first on the path of child interpreters, and hands on."""
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.mine = 1\n")
    (folder / "child.py").write_text(
        "import subprocess, sys\n"
        "program = 'import sitecustomize, torch; '\\\n"
        "    'print(mine, sitecustomize.__file__, torch.load.__module__)'\n"
        "print(subprocess.run([sys.executable, '-c', program],\n"
        "    capture_output=True, text=True).stdout)\n"
    )

    done = run("child.py", cwd=folder, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")

    expected = f"1 {tmp_path / 'sitecustomize.py'} safemodel._patch.opening"
    assert done.stdout.strip() == expected


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return the interpreter and package folder of an environment with our package."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    ours = [one for one in sys.path if one.endswith("site-packages")]
    (packages / "a_path.pth").write_text("\n".join([str(ROOT), *ours]) + "\n")
    return python, packages


def interpret(python, program, **environment):
    """Run a program in an environment; return what came out."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [python, "-c", program], env={**variables, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_hook_patches_when_it_is_asked_to_and_goes_without_a_trace(environment):
    """Put in, used, not used, and taken out, in an environment of its own."""
    python, packages = environment
    shows = "import torch; print(torch.load.__module__)"
    command = "from safemodel._cli import main; import sys; sys.exit(main({}))"
    before = sorted(packages.iterdir())

    assert interpret(python, command.format(["install-hook"])).returncode == 0
    again = interpret(python, command.format(["install-hook"]))
    assert again.stdout.startswith("already there")
    assert [p.name for p in packages.iterdir() if p not in before] == [hook.NAME]
    asked = interpret(python, shows, SAFEMODEL_PATCH="1")
    assert asked.stdout == "safemodel._patch.opening\n", asked.stderr
    for value in ("", "0"):
        unasked = interpret(python, shows, SAFEMODEL_PATCH=value)
        assert unasked.stdout == "torch.serialization\n"
    odd = interpret(python, shows, SAFEMODEL_PATCH="opaqe")
    assert (odd.returncode, odd.stdout) == (78, "")
    assert "'opaqe'" in odd.stderr

    assert (
        interpret(python, command.format(["install-hook", "--remove"])).returncode == 0
    )
    assert sorted(packages.iterdir()) == before


def test_the_hook_fails_closed_where_safemodel_is_gone(environment, tmp_path):
    """An interpreter that was to be patched, and cannot be, ends at once."""
    path = tmp_path / hook.NAME
    hook.install(path)
    program = f"""\
import sys
class Gone:
    def find_spec(self, name, *_):
        if name.startswith("safemodel"):
            raise ImportError("gone")
sys.meta_path.insert(0, Gone())
exec({path.read_text()!r})
print("went on")
"""
    for value, code in (("1", 78), ("", 0)):
        done = interpret(environment[0], program, SAFEMODEL_PATCH=value)
        assert done.returncode == code, done.stderr
        assert ("went on" in done.stdout) == (code == 0)


def test_a_file_of_somebody_else_s_is_left_alone(tmp_path):
    """Neither replaced nor removed."""
    path = tmp_path / hook.NAME
    path.write_text("import theirs\n")

    for change in (hook.install, hook.remove):
        with pytest.raises(hook.ForeignHookError):
            change(path)
    assert path.read_text() == "import theirs\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "asked",
    [
        Wanted(),
        Wanted("opaque"),
        Wanted("raise", "tensors"),
        Wanted("opaque", "tensors", audit_wall=True),
        Wanted(pickle_in=("Somebodys.io", "theirs")),
    ],
)
def test_what_is_asked_for_survives_the_environment(asked):
    """Written for child processes, and read by them."""
    assert wanted(asked.to_text()) == asked


@pytest.mark.parametrize(
    "text", ["2", "raise,ignore", "torchscript", ",", "pickle-in=", "pickle-in=a b"]
)
def test_a_word_that_means_nothing_is_an_error(text):
    """Not taken for the nearest that does."""
    with pytest.raises(ValueError, match="SAFEMODEL_PATCH"):
        wanted(text)


def test_no_such_program(tmp_path):
    """The one exit code of the verb's own."""
    done = run("absent.py", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert textwrap.shorten(done.stderr, 80) == "safemodel: no such file: absent.py"
