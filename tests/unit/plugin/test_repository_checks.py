"""What keeps unsafe model files out of a repository: the hook and the action, run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from safemodel.testing import hostile_files

ROOT = Path(__file__).resolve().parents[3]
HOOKS = ROOT / ".pre-commit-hooks.yaml"
HOOK = HOOKS.read_text()
ACTION = (ROOT / "action.yml").read_text()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a folder, with the `safemodel` of this checkout on the path."""
    command = tmp_path / "bin" / "safemodel"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m safemodel "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    models = tmp_path / "models"
    models.mkdir()
    (models / "fine.pkl").write_bytes(b"\x80\x02}.")
    return tmp_path


@pytest.fixture
def hostile(repository):
    """Put a hostile file into the repository."""
    made = next(one for one in hostile_files() if one.name == "torch_zip")
    path = repository / "models" / "-evil model.pt"
    path.write_bytes(made.content())
    return path


def field(text, name):
    """Return a field of a YAML file of ours."""
    return re.search(rf"^\s*-?\s*{name}: (.*)$", text, re.MULTILINE)[1]


def hook(repository, *files):
    """Run the hook as pre-commit does: the entry, with the files that match."""
    pattern = re.compile(field(HOOK, "files"))
    matching = [file for file in files if pattern.search(file)]
    command = [*shlex.split(field(HOOK, "entry")), *matching]
    return subprocess.run(
        command, cwd=repository, capture_output=True, text=True, check=False
    ), matching


def test_the_hook_refuses_a_hostile_file(repository, hostile):
    """And names it; what is no model is not handed to it."""
    name = str(hostile.relative_to(repository))

    done, matching = hook(repository, "README.md", "models/fine.pkl", name)

    assert matching == ["models/fine.pkl", name]
    assert done.returncode == 1
    assert "evil model.pt: refused" in done.stdout


def test_the_hook_passes_harmless_files(repository):
    """The other answer."""
    done, _ = hook(repository, "models/fine.pkl")

    assert done.returncode == 0, done.stderr


def test_both_hooks_are_the_same_but_for_the_environment():
    """One makes its own, the other uses what is on the path."""
    own, installed = HOOK.split("- id: ")[1:]
    for name in ("entry", "files", "types"):
        assert field(own, name) == field(installed, name)
    assert (field(own, "language"), field(installed, "language")) == (
        "python",
        "system",
    )


def test_with_pre_commit_for_real(repository, hostile):
    """It finds the files, runs the hook and stops what is hostile."""
    command = shutil.which("pre-commit")
    if command is None:
        pytest.skip("pre-commit is not installed")
    hooks = repository / "hooks"
    hooks.mkdir()
    shutil.copy(HOOKS, hooks)
    for folder in (hooks, repository / "models"):
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@example.invalid", "commit",
         "--quiet", "--message", "hooks"],
        cwd=hooks, check=True,
    )  # fmt: skip
    hook = [command, "try-repo", "../hooks", "safemodel-scan-installed", "--all-files"]
    environment = {**os.environ, "PRE_COMMIT_HOME": str(repository / "home")}
    seen = []
    for _ in range(2):
        done = subprocess.run(
            hook, cwd=hostile.parent, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seen.append((done.returncode, "evil model.pt: refused" in done.stdout))
        subprocess.run(
            ["git", "rm", "--quiet", "--force", "--", hostile.name],
            cwd=hostile.parent, check=False,
        )  # fmt: skip
    assert seen == [(1, True), (0, False)], done.stdout + done.stderr


def action(repository, **inputs):
    """Run the script of the action's last step as a runner does."""
    script = ACTION.split("run: |\n")[-1]
    script = "\n".join(line.removeprefix(" " * 8) for line in script.splitlines())
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=repository, capture_output=True, text=True, check=False,
        env={**os.environ, "PATHS": "models\n\n", "SARIF": "", **inputs},
    )  # fmt: skip


def test_the_action_passes_and_fails(repository, request):
    """On a folder without, and with, a hostile file."""
    assert action(repository).returncode == 0
    request.getfixturevalue("hostile")

    done = action(repository, SARIF="out.sarif")

    assert done.returncode == 1
    assert "evil model.pt: refused" in done.stdout
    sarif = json.loads((repository / "out.sarif").read_text())
    assert sarif["runs"][0]["results"]


@pytest.mark.parametrize(
    ("version", "installed"), [("", "where it is"), ("name==1.0", "name==1.0")]
)
def test_the_action_installs_what_it_is_part_of(repository, version, installed):
    """Not whatever an index has under that name, unless that is asked for."""
    python = repository / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    script = re.search(r"run: (python .*)", ACTION)[1]

    subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=repository, check=True,
        env={**os.environ, "VERSION": version, "GITHUB_ACTION_PATH": "where it is"},
    )  # fmt: skip

    asked = (repository / "asked").read_text().splitlines()
    assert asked == ["-m", "pip", "install", "--quiet", "--", installed]


def test_no_input_of_the_action_is_part_of_a_script():
    """`${{ }}` in a script would run what the input says."""
    scripts = re.findall(r"run: (?:\|\n((?: {8}.*\n)+)|(.*))", ACTION)

    assert len(scripts) == 2
    assert not any("${{" in one for pair in scripts for one in pair)


def test_a_path_that_looks_like_an_option_is_a_path(repository, hostile):
    """The action hands paths on behind `--`."""
    done = action(repository / "models", PATHS=hostile.name)

    assert done.returncode == 1
    assert "refused" in done.stdout


def test_what_pip_is_to_install_is_no_option_of_pip():
    """A workflow may take it from a request."""
    assert 'pip install --quiet -- "${VERSION:-' in ACTION
    given = [line for line in ACTION.splitlines() if "${{" in line]
    assert len(given) == 3
    # Variables only: text in a script would be run.
    assert all(re.fullmatch(r" +[A-Z]+: \$\{\{ inputs\.\w+ \}\}", one) for one in given)
