"""What the networks are trained to do: digits, and tasks made from a seed.

A task gives batches and a test set. Images are (batch, 1, 28, 28), sequences (batch,
time, channels), tokens (batch, time) of int64, plain vectors (batch, channels).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MNIST = Path(__file__).resolve().parents[2] / "shared" / "datasets" / "mnist.npz"
TEST_SIZE = 1000

Batch = tuple[torch.Tensor, torch.Tensor]


class Task(NamedTuple):
    """How to draw examples of a task."""

    name: str
    kind: str  # "image", "sequence", "vector", "tokens" or "reconstruct"
    inputs: int  # channels of a step or a vector, or size of the vocabulary
    outputs: int
    draw: Callable[[np.random.Generator, int, bool], Batch]  # rng, size, of the test?


@cache
def _digits(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the arrays of the data set."""
    with np.load(path) as file:
        return {name: file[name] for name in file}


def _digit_batch(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return digits scaled to -1..1, and their labels."""
    data = _digits(MNIST)
    side = "test" if test else "train"
    images, labels = data[f"{side}_images"], data[f"{side}_labels"]
    chosen = rng.integers(0, len(images), size)
    x = torch.from_numpy(images[chosen]).float().div(127.5).sub(1)
    return x[:, None], torch.from_numpy(labels[chosen].astype(np.int64))


def _rotated(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return digits turned by quarters of a turn; how far is the label."""
    x, _ = _digit_batch(rng, size, test)
    y = torch.from_numpy(rng.integers(0, 4, size))
    turned = [image.rot90(int(k), (1, 2)) for image, k in zip(x, y, strict=True)]
    return torch.stack(turned), y


def _shapes(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return noisy pictures of one of eight shapes at any place and of any size."""
    del test  # every example is new
    row, column = np.mgrid[0:28, 0:28][:, None].astype(np.float32)
    centre = rng.uniform(9, 19, (2, size, 1, 1)).astype(np.float32)
    radius = rng.uniform(4, 9, (size, 1, 1)).astype(np.float32)
    dy, dx = np.abs(row - centre[0]), np.abs(column - centre[1])
    far, near, both = np.maximum(dy, dx), np.minimum(dy, dx), dy + dx
    round_ = np.hypot(dy, dx)
    shapes = np.stack(
        [
            round_ < radius,
            far < radius,
            both < radius,
            (near < 2) & (far < radius),
            (round_ < radius) & (round_ > radius - 2.5),
            (far < radius) & (far > radius - 2.5),
            (np.abs(dy - dx) < 2) & (far < radius),
            (far < radius) & ((row + column) % 4 < 2),
        ]
    )
    y = rng.integers(0, len(shapes), size)
    x = shapes[y, np.arange(size)].astype(np.float32) * 2 - 1
    x += rng.normal(0, 0.5, x.shape).astype(np.float32)
    return torch.from_numpy(x)[:, None], torch.from_numpy(y)


def _waves(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return sequences of 32 steps in 4 channels; the waveform is the label."""
    del test
    y = rng.integers(0, 6, size)
    phase = rng.uniform(0, 2 * np.pi, (size, 1, 4))
    speed = rng.uniform(0.3, 0.9, (size, 1, 1))
    t = speed * np.arange(32)[None, :, None] + phase
    forms = np.stack(
        [
            np.sin(t),
            np.sign(np.sin(t)),
            2 * (t / (2 * np.pi) % 1) - 1,
            np.abs(np.sin(t)) * 2 - 1,
            np.sin(t) * np.exp(-t / 12),
            np.sin(t**1.15),
        ]
    )
    x = forms[y, np.arange(size)] + rng.normal(0, 0.2, (size, 32, 4))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


@cache
def _teacher() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights of the network that labels vectors."""
    rng = np.random.default_rng(5)
    return rng.normal(0, 0.4, (64, 32)), rng.normal(0, 1, (32, 10))


def _taught(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return Gaussian vectors, labelled by a fixed random network."""
    del test
    first, second = _teacher()
    x = rng.normal(0, 1, (size, 64))
    y = (np.tanh(x @ first) @ second).argmax(1)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


@cache
def _chain() -> NDArray[np.float64]:
    """Return the cumulated transitions of the chain that writes tokens."""
    odds = np.random.default_rng(6).dirichlet(np.full(64, 0.05), 64)
    return odds.cumsum(1)


def _markov(rng: np.random.Generator, size: int, test: bool) -> Batch:
    """Return 33 tokens of a Markov chain: each but the last, and the one after it."""
    del test
    chain, tokens = _chain(), np.empty((size, 33), np.int64)
    tokens[:, 0] = rng.integers(0, 64, size)
    for i in range(1, 33):
        draws = rng.random((size, 1))
        tokens[:, i] = (chain[tokens[:, i - 1]] < draws).sum(1).clip(max=63)
    both = torch.from_numpy(tokens)
    return both[:, :-1], both[:, 1:]


def _copies(
    draw: Callable[[np.random.Generator, int, bool], Batch],
) -> Callable[[np.random.Generator, int, bool], Batch]:
    """Return a task's images as their own target."""

    def copied(rng: np.random.Generator, size: int, test: bool) -> Batch:
        x, _ = draw(rng, size, test)
        return x, x

    return copied


TASKS = {
    task.name: task
    for task in (
        Task("mnist", "image", 28, 10, _digit_batch),
        Task("rotation", "image", 28, 4, _rotated),
        Task("shapes", "image", 28, 8, _shapes),
        Task("waves", "sequence", 4, 6, _waves),
        Task("teacher", "vector", 64, 10, _taught),
        Task("markov", "tokens", 64, 64, _markov),
        Task("copy-mnist", "reconstruct", 28, 784, _copies(_digit_batch)),
        Task("copy-shapes", "reconstruct", 28, 784, _copies(_shapes)),
    )
}


def needs_digits(name: str) -> bool:
    """Return whether a task is made of the data set, and not from a seed alone."""
    return name in {"mnist", "rotation", "copy-mnist"}
