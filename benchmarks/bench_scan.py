"""Scanning a folder, against picklescan: as tests at tiny size, timed on request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from generate import FULL, TINY, cache, small_folder
from measure import console_script, run
from picklescan.scanner import scan_directory_path

from safemodel import scan_files

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of small checkpoints."""
    if SIZES is FULL:
        return small_folder(cache() / FULL.name, SIZES)
    return small_folder(tmp_path_factory.mktemp("models"), SIZES)


def test_safemodel_in_process(benchmark: BenchmarkFixture, folder: Path) -> None:
    """Every file of the folder is looked at, and none is refused."""
    reports = benchmark(lambda: list(scan_files([folder])))
    assert [report.refused for report in reports] == [False] * SIZES.files


def test_picklescan_in_process(benchmark: BenchmarkFixture, folder: Path) -> None:
    """The peer reads the same files and finds nothing either."""
    result = benchmark(scan_directory_path, folder)
    # It counts a second member of an archive whose name or first bytes are a pickle's.
    assert result.scanned_files >= SIZES.files
    assert result.issues_count == 0


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_safemodel_command(
    benchmark: BenchmarkFixture, folder: Path, jobs: str
) -> None:
    """The command ends with 0: clean."""
    command = [console_script("safemodel"), "scan", "-j", jobs, str(folder)]
    benchmark(run, command)


def test_picklescan_command(benchmark: BenchmarkFixture, folder: Path) -> None:
    """The peer's command ends with 0 as well."""
    benchmark(run, [console_script("picklescan"), "-p", str(folder)])
