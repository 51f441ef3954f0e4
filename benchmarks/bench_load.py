"""Loading, against torch and safetensors: as tests at tiny size, timed on request.

The suite runs each once. ``pytest benchmarks --benchmark-enable`` times them, at full
size with SAFEMODEL_BENCH=full; `make bench` writes the table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from contenders import CONTENDERS, differences
from generate import (
    FULL,
    TINY,
    cache,
    flat_state,
    optimiser_state,
    shape_a,
    shape_b,
    shape_c,
    vocabulary,
    weights,
    zoo_files,
)
from measure import MIB, peak_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the models are: the cache at full size, else a temporary folder."""
    if SIZES is FULL:
        return cache() / FULL.name
    return tmp_path_factory.mktemp("models")


def by_name(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same tensors in the order of their names: safetensors sorts them."""
    return dict(sorted(tensors.items()))


@pytest.mark.parametrize(
    "name", ["safe_load", "safe_load mmap", "torch", "torch mmap", "safetensors"]
)
def test_a_large_tensors(benchmark: BenchmarkFixture, folder: Path, name: str) -> None:
    """Shape A: what comes back is what was saved."""
    path = shape_a(folder, SIZES)[name == "safetensors"]
    result = benchmark(CONTENDERS[name], path)
    assert (
        differences(dict(sorted(result.items())), dict(sorted(weights(SIZES).items())))
        == []
    )


@pytest.mark.parametrize("name", ["safe_load", "torch", "safetensors"])
def test_b_many_tensors(benchmark: BenchmarkFixture, folder: Path, name: str) -> None:
    """Shape B: every moment and every step comes back."""
    path = shape_b(folder, SIZES)[name == "safetensors"]
    result = benchmark(CONTENDERS[name], path)
    tensors = result if name == "safetensors" else flat_state(result)
    expected = flat_state(optimiser_state(SIZES))
    assert (
        differences(dict(sorted(tensors.items())), dict(sorted(expected.items()))) == []
    )
    if name != "safetensors":
        assert differences(result, optimiser_state(SIZES)) == []


@pytest.mark.parametrize("name", ["safe_load", "torch", "pickle (C, unrestricted)"])
def test_c_dictionary(benchmark: BenchmarkFixture, folder: Path, name: str) -> None:
    """Shape C: every entry comes back, in order."""
    path = shape_c(folder, SIZES)[name.startswith("pickle")]
    result = benchmark(CONTENDERS[name], path)
    assert list(result.items()) == list(vocabulary(SIZES).items())


@pytest.mark.skipif(not zoo_files(TINY), reason="the zoo is not beside this checkout")
def test_d_real_files(benchmark: BenchmarkFixture) -> None:
    """Shape D: on files of other people, what torch loads we load the same."""
    paths = [path for path in zoo_files(SIZES) if torch_loads(path)]
    results = benchmark(lambda: [CONTENDERS["safe_load"](path) for path in paths])
    for path, result in zip(paths, results, strict=True):
        assert differences(result, CONTENDERS["torch"](path)) == []


def torch_loads(path: Path) -> bool:
    """Return whether torch's restricted unpickler loads a file."""
    try:
        CONTENDERS["torch"](path)
    except Exception:  # noqa: BLE001  # torch answers hostile input with many types
        return False
    return True


@pytest.mark.parametrize(
    ("name", "factor"), [("safe_load", 1.1), ("safe_load mmap", 0)]
)
def test_peak_memory(folder: Path, name: str, factor: float) -> None:
    """Copying needs the file's size and 10 %; mapping less than 100 MiB."""
    paths = shape_a(folder, SIZES)
    tiny = shape_b(folder / "warm-up", TINY)[0]
    allowed = paths[0].stat().st_size * factor + (100 * MIB if not factor else 16 * MIB)
    assert peak_bytes(name, paths[0], tiny) < allowed
