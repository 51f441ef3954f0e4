"""Starting up: what one small file costs over a bare interpreter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from generate import TINY, small_folder
from measure import console_script, run

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


def commands(small: Path) -> dict[str, list[str]]:
    """Return what is started, by name."""
    return {
        "python3 -c pass": [sys.executable, "-c", "pass"],
        "import safemodel": [sys.executable, "-c", "import safemodel"],
        "safemodel --help": [console_script("safemodel"), "--help"],
        "safemodel scan": [console_script("safemodel"), "scan", str(small)],
        "picklescan": [console_script("picklescan"), "-p", str(small)],
    }


@pytest.mark.parametrize("name", list(commands(__file__)))
def test_start(benchmark: BenchmarkFixture, tmp_path: Path, name: str) -> None:
    """Each ends with 0."""
    small = next(small_folder(tmp_path, TINY).rglob("*.pt"))
    benchmark(run, commands(small)[name])
