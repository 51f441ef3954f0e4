"""The pytest plugin, in projects of its own, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from safemodel import pytest_plugin as plugin
from safemodel._patch.call_sites import CallSite
from safemodel._patch.journal import Digest, opened_file
from safemodel._testing.opened_files import OpenedFiles

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = "safemodel.pytest_plugin"
HERE = CallSite(__file__, 1, __name__)

HOSTILE = """
    import os
    import pytest
    import torch

    class Payload:
        def __reduce__(self):
            return os.mkdir, ("ran",)

    @pytest.fixture
    def hostile(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save({"x": Payload()}, "hostile.pt")
        return tmp_path / "hostile.pt"
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """Return a project with a hostile checkpoint as a fixture."""
    # The plugin comes from this checkout, whatever is installed.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(HOSTILE)
    return pytester


def run(project, *arguments):
    """Run the project's tests with the plugin."""
    return project.runpytest_subprocess("-p", PLUGIN, *arguments)


REFUSED = """
    import os
    import pytest
    import torch
    from torch import load
    from safemodel import UnsafeFileError

    def test_refused(hostile):
        for loader in (torch.load, load):
            with pytest.raises(UnsafeFileError):
                loader(hostile)
        assert not os.path.exists("ran")

    def test_loaded(tmp_path):
        torch.save({"a": 1}, tmp_path / "fine.pt")
        for _ in range(3):
            assert torch.load(tmp_path / "fine.pt") == {"a": 1}
"""


@pytest.mark.parametrize("how", ["flag", "ini"])
def test_the_whole_run_is_patched_and_the_summary_lists_the_files(project, how):
    """Before any test module is imported: early references are ours."""
    project.makepyfile(REFUSED)
    if how == "ini":
        project.makeini("[pytest]\nsafemodel_patch = true\n")

    result = run(project, *(["--safemodel-patch"] if how == "flag" else []))

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*model files opened (safemodel)*",
            "refused * *hostile.pt  sha256 * x2  ForbiddenGlobalError: *os*mkdir*",
            "loaded * *fine.pt  sha256 * x3",
            "2 files, 1 not loaded",
        ]
    )


def test_without_being_asked_the_plugin_does_nothing(project):
    """No patch, no summary, no fixture in the way."""
    project.makepyfile(
        """
        import os, torch
        def test_runs_as_ever(hostile):
            torch.load(hostile, weights_only=False)
            assert os.path.isdir("ran")
        """
    )

    result = run(project)

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*model files opened*")


def test_a_marked_test_has_the_loaders_of_old_and_only_that_one(project):
    """And a mark without a reason is a failure."""
    project.makepyfile(
        """
        import os, pytest, torch
        from safemodel import UnsafeFileError

        @pytest.mark.safemodel_allow_unsafe(reason="our own file")
        def test_marked(hostile):
            torch.load(hostile, weights_only=False)
            assert os.path.isdir("ran")

        def test_next(hostile):
            with pytest.raises(UnsafeFileError):
                torch.load(hostile)

        @pytest.mark.safemodel_allow_unsafe()
        def test_without_a_reason():
            pass
        """
    )

    result = run(project, "--safemodel-patch", "--strict-markers")

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*safemodel_allow_unsafe needs reason=*"])


def test_a_patch_on_top_of_ours_ends_no_run(project):
    """The marker's promise cannot be kept, and the loaders cannot be put back."""
    project.makepyfile(
        """
        import functools, pytest, torch

        torch.load = functools.partial(torch.load, weights_only=False)

        @pytest.mark.safemodel_allow_unsafe(reason="our own file")
        def test_marked():
            pass

        @pytest.mark.filterwarnings("ignore::safemodel.SafeModelWarning")
        def test_next(hostile):
            torch.load(hostile)
        """
    )

    result = run(project, "--safemodel-patch")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "safemodel_allow_unsafe: somebody has replaced *: torch.load.*",
            "loaded * *hostile.pt  sha256 *  inert: posix.mkdir",
            "1 file, 0 not loaded, 1 with inert values",
        ]
    )
    result.stderr.fnmatch_lines(["safemodel: somebody has replaced *: torch.load.*"])


def test_the_fixture_patches_one_test(project):
    """And gives the list of what that test opened."""
    project.makepyfile(
        """
        import os, pytest, torch
        from safemodel import UnsafeFileError

        def test_patched(hostile, safemodel_patch):
            with pytest.raises(UnsafeFileError):
                torch.load(hostile)
            assert [one.outcome for one in safemodel_patch] == ["refused"]

        def test_not_patched(hostile):
            torch.load(hostile, weights_only=False)
            assert os.path.isdir("ran")
        """
    )

    run(project).assert_outcomes(passed=2)


def test_hostile_model_is_every_hostile_file(project):
    """With the error that is expected of a safe loader."""
    project.makepyfile(
        """
        import pytest
        from safemodel import safe_load
        from safemodel.testing import assert_refuses, hostile_files

        seen = []

        def test_refused(hostile_model):
            assert_refuses(safe_load, hostile_model.path)
            with pytest.raises(hostile_model.error):
                safe_load(hostile_model.path)
            seen.append(hostile_model.name)

        def test_all():
            assert seen == [one.name for one in hostile_files()]
        """
    )

    result = run(project)

    assert result.ret == 0
    assert result.parseoutcomes()["passed"] > 10


def test_an_unsafe_loader_fails_with_hostile_model(project):
    """The fixture can fail: a loader that runs what files say."""
    project.makepyfile(
        """
        import pickle
        from safemodel.testing import assert_refuses

        def test_unsafe(hostile_model):
            def loader(path):
                return pickle.loads(path.read_bytes())
            assert_refuses(loader, hostile_model.path)
        """
    )

    result = run(project, "-k", "reduce")

    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*CanaryTrippedError: the loader ran the payload*"])


def test_stego_model_holds_what_it_says(project):
    """Extracted by the laboratory, and not there in the clean twin."""
    project.makepyfile(
        """
        from safetensors.numpy import load_file
        from safemodel.evaluation import stego

        def test_hidden(stego_model):
            method = stego.Lsb(bits=stego_model.bits)
            size = len(stego_model.payload)
            for path, there in ((stego_model.path, True), (stego_model.clean, False)):
                weights = dict(sorted(load_file(path).items()))
                found = stego.extract(weights, method, size)
                assert (found == stego_model.payload) is there
        """
    )

    run(project).assert_outcomes(passed=3)


def test_hidden_payloads_fail_an_assertion(project):
    """Each way of hiding is found, and the clean twin passes."""
    project.makepyfile(
        """
        import pytest
        from safemodel.testing import assert_no_hidden_payload

        def test_clean(stego_model):
            assert_no_hidden_payload(stego_model.clean)

        def test_hidden(stego_model):
            with pytest.raises(AssertionError, match="model.safetensors"):
                assert_no_hidden_payload(stego_model.path)
        """
    )

    run(project).assert_outcomes(passed=6)


def test_the_files_of_xdist_s_workers_are_in_the_summary():
    """Handed on as plain data, the only kind that workers can send."""
    worker, main = OpenedFiles(), OpenedFiles()
    for collected in (worker, main):
        digest, names = Digest(1, "ab" * 32), [f"os.name{n}" for n in range(5)]
        collected.add(opened_file("torch.load", b"x", digest, None, HERE, names))
    config = SimpleNamespace(stash={plugin._OPENED: worker}, workeroutput={})

    plugin.pytest_sessionfinish(SimpleNamespace(config=config))
    sent = json.loads(json.dumps(config.workeroutput))
    node = SimpleNamespace(
        config=SimpleNamespace(stash={plugin._OPENED: main}), workeroutput=sent
    )
    plugin.pytest_testnodedown(node)
    plugin.pytest_testnodedown(SimpleNamespace(config=node.config))  # one that crashed

    assert list(main.lines()) == [
        (
            f"loaded      (no path)  sha256 {'ab' * 6} x2"
            "  inert: os.name0, os.name1, os.name2 and 2 more"
        ),
        "1 file, 0 not loaded, 1 with inert values",
    ]


def test_xdist_for_real(project):
    """Each worker's files, once each, in the one summary; any worker takes any test."""
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    project.makepyfile(
        """
        import pytest, torch

        @pytest.mark.parametrize("number", range(4))
        def test_loads(tmp_path, number):
            torch.save({"number": number}, tmp_path / f"{number}.pt")
            assert torch.load(tmp_path / f"{number}.pt")["number"] == number
        """
    )

    result = run(project, "--safemodel-patch", "-n", "2")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        [
            *(f"loaded *{number}.pt  sha256 *" for number in range(4)),
            "4 files, 0 not loaded",
        ]
    )


def test_loading_the_plugin_costs_next_to_nothing(project):
    """Neither torch nor anything of safemodel but the plugin itself is imported."""
    code = (
        "import pytest, sys; before = set(sys.modules); import safemodel.pytest_plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.stdout.strip() == str(
        ["safemodel", "safemodel._version", "safemodel.pytest_plugin"]
    )


def test_it_is_announced_under_its_own_name():
    """As pip installs it, under the name that `-p` gives it, so that once is enough."""
    text = (ROOT / "pyproject.toml").read_text()

    assert f'[project.entry-points.pytest11]\n"{PLUGIN}" = "{PLUGIN}"\n' in text


def test_the_example_project_passes(tmp_path, monkeypatch):
    """As a downstream project would run it: from its own folder."""
    example = ROOT / "examples" / "downstream"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider",
         "--basetemp", tmp_path / "base", "-q"],
        cwd=example, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "model files opened (safemodel)" in done.stdout
