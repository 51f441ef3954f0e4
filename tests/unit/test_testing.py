"""`safemodel.testing`: the hostile files are hostile, and the check can fail."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import safemodel
from safemodel import testing
from safemodel.testing import (
    CANARY,
    CanaryTrippedError,
    assert_refuses,
    hostile_files,
)


@pytest.fixture
def harmless(tmp_path):
    """Return a file with nothing to refuse in it."""
    path = tmp_path / "harmless.pkl"
    path.write_bytes(b"\x80\x02}.")
    return path


@pytest.mark.parametrize("hostile", hostile_files(), ids=lambda file: file.name)
def test_safe_load_refuses_every_hostile_file(hostile, tmp_path, canary):
    """With the class the file is listed under, and nothing runs."""
    path = tmp_path / hostile.file_name
    path.write_bytes(hostile.content())

    with pytest.raises(hostile.error) as caught:
        safemodel.safe_load(path)

    assert type(caught.value) is hostile.error
    assert_refuses(safemodel.safe_load, path)


@pytest.mark.parametrize(
    "name", ["reduce", "stack_global", "inst", "obj", "popped", "resolver", "truncated"]
)
def test_a_loader_that_runs_the_payload_fails(name, tmp_path):
    """The unrestricted unpickler trips the canary, also where it then raises."""
    hostile = next(file for file in hostile_files() if file.name == name)
    path = tmp_path / hostile.file_name
    path.write_bytes(hostile.content())

    def unrestricted(where):
        return pickle.loads(Path(where).read_bytes())

    with pytest.raises(CanaryTrippedError, match="ran the payload"):
        assert_refuses(unrestricted, path)
    assert not CANARY.trips


def test_a_loader_that_returns_fails(harmless):
    """Returning is no refusal, even if nothing ran."""
    with pytest.raises(CanaryTrippedError, match="returned instead of refusing"):
        assert_refuses(safemodel.safe_load, harmless)


def test_a_loader_that_raises_passes(harmless):
    """Any exception is a refusal: the loader under test is not ours."""

    def strict(_):
        raise KeyError("no")

    assert_refuses(strict, harmless)


def test_trip_records_its_arguments():
    """The canary keeps what it was called with until it is reset."""
    CANARY.reset()
    assert testing.trip(1, "a") == "tripped"
    assert CANARY.trips == [(1, "a")]
    CANARY.reset()
    assert not CANARY.trips


def test_names_are_unique_and_every_error_is_ours():
    """Ids of parametrised tests must differ."""
    names = [file.name for file in hostile_files()]
    assert len(set(names)) == len(names)
    for file in hostile_files():
        assert issubclass(file.error, safemodel.SafeModelError)


def test_it_needs_neither_pickle_nor_pytest_nor_torch():
    """Importing it imports none of them."""
    code = (
        "import sys, safemodel.testing;"
        "print([m for m in ('pytest', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    tree = ast.parse(Path(testing.__file__).read_text("utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"os", "struct", "zlib"}
