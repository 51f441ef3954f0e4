"""The images that the published detector is trained and measured on, of our networks.

Zoos, after those of the published experiments:

- conv: convolutional networks of 0.5 to 4 million weights; three of them train.
- other: the other families of that size, never trained on.
- tiny: many networks of one architecture, of 2,464 weights each.
- tuned: fine-tuned copies, clean ones and those with a spread-spectrum payload.
"""

from __future__ import annotations

import csv
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fit import train
from safetensors.numpy import load_file
from tasks import TASKS
from torch import nn

from safemodel._detector.xray import image_of
from safemodel.evaluation.stego import Lsb, embed

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONVOLUTIONAL = {"cnn", "cnn-bn", "mobilenet", "resnet"}
SMALLEST = 500_000
TRAINING = (
    "cnn-bn-80-mnist-sgd-129",
    "mobilenet-160-shapes-adamw-135",
    "resnet-64-rotation-adamw-141",
)
"""The runs that train every detector but those of the tiny zoo, as in the published
experiments: fixed, so that no interval below holds the variance of that choice."""

TINY = 60
XS = range(1, 24)


def library(which: str) -> Path:
    """Return a shared library that is there wherever this package is."""
    if which == "A":
        return Path(torch.__file__).parent / "lib" / "libtorch_python.so"
    import llvmlite

    return Path(llvmlite.__file__).parent / "binding" / "libllvmlite.so"


@cache
def payload(which: str) -> bytes:
    """Return what is hidden: library A or B, or as many random bytes."""
    if which == "random":
        return np.random.default_rng(0).bytes(16_000_000)
    with library(which).open("rb") as file:
        return file.read(30_000_000)


def row(path: Path) -> NDArray[np.float32]:
    """Return all float32 weights of a file, tensor after tensor, by name."""
    arrays = load_file(path)
    kept = [arrays[name].ravel() for name in sorted(arrays)]
    return np.concatenate([array for array in kept if array.dtype == np.float32])


def images(
    weights: NDArray[np.float32], which: str, xs: range, sides: tuple[int, ...]
) -> list[NDArray[np.uint8]]:
    """Return, for each size, images of the weights with a payload in the lowest bits.

    X = 0 is the clean network.
    """
    made: list[list[NDArray[np.uint8]]] = [[] for _ in sides]
    for x in xs:
        changed = weights
        if x:
            method = Lsb(bits=x, fill=True, tile=False)
            changed, _ = embed(weights, payload(which), method)
        for kept, side in zip(made, sides, strict=True):
            kept.append(image_of(changed.view(np.uint32), side))
    return [np.stack(kept) for kept in made]


def support(folder: Path) -> NDArray[np.uint8]:
    """Return (2, 3, 100, 100): the training networks clean, and 6 bits replaced."""
    made = []
    for name in TRAINING:
        weights = row(folder / f"{name}.safetensors")
        made += images(weights, "A", range(0, 7, 6), (100,))
    return np.stack(made, axis=1)


def one_network(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Return all images of one network of the conv and other zoos."""
    torch.set_num_threads(1)
    weights = row(path)
    small, large = images(weights, "A", range(24), (100, 256))
    small_b, large_b = images(weights, "B", range(1, 24), (100, 256))
    (small_random,) = images(weights, "random", range(1, 24), (100,))
    return {
        "A-100": small,
        "A-256": large,
        "B-100": np.concatenate([small[:1], small_b]),
        "B-256": np.concatenate([large[:1], large_b]),
        "random-100": np.concatenate([small[:1], small_random]),
    }


def one_pair(paths: tuple[Path, Path]) -> dict[str, NDArray[np.uint8]]:
    """Return images of a clean fine-tuned network, and of one with a payload."""
    torch.set_num_threads(1)
    pair = [
        [image_of(row(p).view(np.uint32), side) for p in paths] for side in (100, 256)
    ]
    return {"100": np.stack(pair[0]), "256": np.stack(pair[1])}


def one_tiny(seed: int) -> dict[str, NDArray[np.uint8]]:
    """Train a network of 2,464 weights on shapes, and return its images."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )
    name, rate = (("sgd", 0.03), ("adam", 2e-3), ("adamw", 1e-3))[seed % 3]
    train(
        TASKS["shapes"],
        module,
        optimiser=name,
        rate=rate,
        steps=200,
        batch=64,
        seed=seed,
    )
    flat = [parameter.detach().numpy().ravel() for parameter in module.parameters()]
    (small,) = images(np.concatenate(flat), "A", range(24), (100,))
    return {"100": small}


def make(folder: Path, jobs: int, tiny: int = TINY) -> dict[str, NDArray[Any]]:
    """Return the images of all zoos, as arrays by name."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [
        entry
        for entry in rows
        if entry["kind"] == "trained"
        and entry["dtype"] == "float32"
        and int(entry["params"]) >= SMALLEST
    ]
    groups = {
        "conv": [e["run"] for e in kept if e["architecture"] in CONVOLUTIONAL],
        "other": [e["run"] for e in kept if e["architecture"] not in CONVOLUTIONAL],
        "tuned": [e["run"] for e in rows if e["file"].endswith("-spread.safetensors")],
    }
    pairs = [
        tuple(folder / f"{run}-{kind}.safetensors" for kind in ("tuned", "spread"))
        for run in groups["tuned"]
    ]
    arrays: dict[str, NDArray[Any]] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for zoo in ("conv", "other"):
            paths = [folder / f"{run}.safetensors" for run in groups[zoo]]
            arrays |= _stacked(zoo, list(pool.map(one_network, paths)))
        arrays |= _stacked("tuned", list(pool.map(one_pair, pairs)))
        arrays |= _stacked("tiny", list(pool.map(one_tiny, range(7000, 7000 + tiny))))
    names = {f"{zoo}-names": np.array(runs) for zoo, runs in groups.items()}
    return arrays | names


def _stacked(
    zoo: str, made: list[dict[str, NDArray[np.uint8]]]
) -> dict[str, NDArray[np.uint8]]:
    """Return what was made of each network, as one array for each name."""
    return {f"{zoo}-{key}": np.stack([one[key] for one in made]) for key in made[0]}
