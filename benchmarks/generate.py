"""Seeded models for the benchmarks: made once, kept in ``.cache``, never in git.

Shapes, at full size:

* A: 200 tensors of float32, 1 GB.
* B: the state of an Adam optimiser: 21,000 tensors of 64 floats, and its steps.
* C: a dictionary of 500,000 strings to integers.
* folder: 1,000 small checkpoints of 30 tensors each.

Shape D is the folder of real files beside the checkout, where it is there.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT.parent / "shared" / "zoo" / "files"
SEED = 20260729


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the shapes are.

    Attributes:
        name: Folder name in the cache.
        tensors: Shape A: tensors.
        elements: Shape A: elements a tensor.
        states: Shape B: tensors of 64 floats, an even number.
        entries: Shape C: entries of the dictionary.
        files: Files in the folder.
        zoo_files: How many real files shape D takes.
    """

    name: str
    tensors: int
    elements: int
    states: int
    entries: int
    files: int
    zoo_files: int


FULL = Sizes(
    name="full",
    tensors=200,
    elements=1_250_000,
    states=21_000,
    entries=500_000,
    files=1000,
    zoo_files=10_000,
)
TINY = Sizes(
    name="tiny",
    tensors=4,
    elements=1000,
    states=40,
    entries=500,
    files=6,
    zoo_files=4,
)


def cache() -> Path:
    """Return where generated models are kept between runs."""
    return Path(os.environ.get("SAFEMODEL_BENCH_CACHE", ROOT / ".cache" / "benchmarks"))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def weights(sizes: Sizes) -> dict[str, torch.Tensor]:
    """Return shape A: a few large tensors."""
    rand = _seeded()
    return {
        f"layer.{i}.weight": torch.randn(sizes.elements, generator=rand)
        for i in range(sizes.tensors)
    }


def optimiser_state(sizes: Sizes) -> dict[str, Any]:
    """Return shape B: two moments of 64 floats and a step for every parameter."""
    rand = _seeded()
    state = {
        i: {
            "step": torch.tensor(float(1000 + i)),
            "exp_avg": torch.randn(64, generator=rand),
            "exp_avg_sq": torch.rand(64, generator=rand),
        }
        for i in range(sizes.states // 2)
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "params": list(state)}
    return {"state": state, "param_groups": [group]}


def flat_state(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of shape B under flat names, as safetensors needs them."""
    return {
        f"{i}.{name}": tensor
        for i, moments in state["state"].items()
        for name, tensor in moments.items()
    }


def vocabulary(sizes: Sizes) -> dict[str, int]:
    """Return shape C: a dictionary of strings to integers."""
    return {f"token-{i * 7919:x}": i for i in range(sizes.entries)}


def small_checkpoint(seed: int) -> dict[str, Any]:
    """Return one file of the folder: 30 small tensors and some plain data."""
    rand = torch.Generator().manual_seed(SEED + seed)
    tensors = {
        f"block.{i}.weight": torch.randn(16, 16, generator=rand) for i in range(30)
    }
    return {"state_dict": tensors, "epoch": seed, "args": {"lr": 0.1, "name": "small"}}


def _make(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file once; a half-written one never gets the final name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        write(part)
        part.rename(path)
    return path


def _pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def shape_a(folder: Path, sizes: Sizes) -> tuple[Path, Path]:
    """Return shape A as torch and as safetensors wrote it."""
    return (
        _make(folder / "a.pt", lambda path: torch.save(weights(sizes), path)),
        _make(folder / "a.safetensors", lambda path: save_file(weights(sizes), path)),
    )


def protectable(folder: Path, sizes: Sizes, gigabytes: float, suffix: str) -> Path:
    """Return shape A in so many GB, at full size: 200 tensors for each of them."""
    some = replace(sizes, tensors=max(int(sizes.tensors * gigabytes), 1))
    write = torch.save if suffix == "pt" else save_file
    path = folder / f"protect-{gigabytes:g}.{suffix}"
    return _make(path, lambda path: write(weights(some), path))


def shape_b(folder: Path, sizes: Sizes) -> tuple[Path, Path]:
    """Return shape B as torch wrote it, and its tensors as safetensors wrote them."""
    return (
        _make(folder / "b.pt", lambda path: torch.save(optimiser_state(sizes), path)),
        _make(
            folder / "b.safetensors",
            lambda path: save_file(flat_state(optimiser_state(sizes)), path),
        ),
    )


def shape_c(folder: Path, sizes: Sizes) -> tuple[Path, Path]:
    """Return shape C as torch wrote it, and its bare pickle."""
    return (
        _make(folder / "c.pt", lambda path: torch.save(vocabulary(sizes), path)),
        _make(folder / "c.pkl", lambda path: _pickle(vocabulary(sizes), path)),
    )


def small_folder(folder: Path, sizes: Sizes) -> Path:
    """Return the folder of small checkpoints."""
    for i in range(sizes.files):
        _make(
            folder / "small" / f"{i // 100:02d}" / f"{i:04d}.pt",
            lambda path, i=i: torch.save(small_checkpoint(i), path),
        )
    return folder / "small"


def zoo_files(sizes: Sizes) -> list[Path]:
    """Return real files of formats safemodel reads; empty where the zoo is absent."""
    foreign = {".onnx", ".h5", ".hdf5", ".keras"}
    found = [path for path in sorted(ZOO.rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix not in foreign][: sizes.zoo_files]


def main() -> None:
    """Make every file at full size."""
    folder = cache() / FULL.name
    for make in (shape_a, shape_b, shape_c, small_folder):
        print(f"{make.__name__}: {make(folder, FULL)}")


if __name__ == "__main__":
    main()
