"""Layers as they are before any training, by every way in which torch draws weights.

    python training/initialised.py FOLDER        # writes them; takes seconds

Many files that people publish, and most that tests make, hold weights that were never
trained. Their densities have edges and no tails, or are exactly normal: unlike those of
trained ones. Of the first `TRAIN` seeds is what the detector is trained on, and of as
many from `recipes.HELD_OUT` on what it is measured on.

Rules:

1. What a file holds follows from its recipe and its seed alone.
2. A file is there whole or not at all, and none is made twice.
"""

from __future__ import annotations

import argparse
import random
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import save_file
from source import DRAWN, Source
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INITIALISED = Path(__file__).resolve().parents[1] / ".cache" / "initialised"
TRAIN = 3


def _size(chance: random.Random, least: int, most: int) -> int:
    """Return a width; each octave is as likely as another."""
    return round(least * (most / least) ** chance.random())


LAYERS: dict[str, Callable[[random.Random], nn.Module]] = {
    "linear": lambda c: nn.Linear(_size(c, 16, 2000), _size(c, 30, 1000)),
    "perceptron": lambda c: nn.Sequential(
        nn.Linear(_size(c, 16, 800), width := _size(c, 64, 512)), nn.ReLU(),
        nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 10)),
    "convolution": lambda c: nn.Sequential(
        nn.Conv2d(3, width := _size(c, 16, 128), 3), nn.BatchNorm2d(width),
        nn.Conv2d(width, 2 * width, 3)),
    "lstm": lambda c: nn.LSTM(_size(c, 16, 300), _size(c, 32, 400)),
    "gru": lambda c: nn.GRU(_size(c, 16, 300), _size(c, 32, 400)),
    "embedding": lambda c: nn.Embedding(_size(c, 100, 5000), _size(c, 16, 256)),
    "transformer": lambda c: nn.TransformerEncoderLayer(
        8 * _size(c, 8, 40), 8, 8 * _size(c, 16, 100)),
}  # fmt: skip
DRAWS: dict[str, Callable[[torch.Tensor, float], object] | None] = {
    "as-torch-does": None,
    "kaiming-uniform": lambda weight, _: nn.init.kaiming_uniform_(weight),
    "kaiming-normal": lambda weight, _: nn.init.kaiming_normal_(weight),
    "xavier-uniform": lambda weight, _: nn.init.xavier_uniform_(weight),
    "xavier-normal": lambda weight, _: nn.init.xavier_normal_(weight),
    "orthogonal": lambda weight, _: nn.init.orthogonal_(weight),
    "normal": lambda weight, _: nn.init.normal_(weight, std=0.02),
    "normal-any": lambda weight, width: nn.init.normal_(weight, std=width),
    "cut-normal": lambda weight, _: nn.init.trunc_normal_(weight, std=0.02),
    "cut-at-two": lambda weight, width: nn.init.trunc_normal_(
        weight, std=width, a=-2 * width, b=2 * width
    ),
    "even": lambda weight, width: nn.init.uniform_(weight, -width, width),
}
"""How a matrix is drawn, given a width that is another one in each file."""
_WIDTHS = (0.01, 0.3)


class Recipe(NamedTuple):
    """What layer, drawn how, of which seed."""

    layer: str
    draw: str
    seed: int

    @property
    def group(self) -> str:
        """Those of one layer and one draw have a density of one form."""
        return f"{self.layer} {self.draw}"

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.layer}-{self.draw}-{self.seed}.safetensors"


def recipes(first: int, seeds: int) -> Iterator[Recipe]:
    """Yield every layer with every draw, and so many seeds of each."""
    for seed, (layer, draw) in product(range(seeds), product(LAYERS, DRAWS)):
        yield Recipe(layer, draw, first + seed)


def made(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the state of a layer that was just drawn."""
    torch.manual_seed(recipe.seed)
    chance = random.Random(recipe.name)  # noqa: S311 - no secret
    layer = LAYERS[recipe.layer](chance)
    low, high = _WIDTHS
    width = low * (high / low) ** chance.random()
    draw = DRAWS[recipe.draw]
    if draw is not None:
        for weight in layer.parameters():
            if weight.dim() > 1:
                draw(weight, width)
    return {
        name: value.detach().contiguous() for name, value in layer.state_dict().items()
    }


def of_initialised(first: int, seeds: int, folder: Path) -> Iterator[Source]:
    """Yield the files of so many seeds, which are written where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in recipes(first, seeds):
        path = folder / recipe.name
        if not path.is_file():
            part = path.with_suffix(".part")
            save_file(made(recipe), part)
            part.replace(path)
        yield Source(path.stem, path, recipe.group, f"drawn {recipe.layer}", DRAWN, "",
                     False)  # fmt: skip


def main() -> None:
    """Write those that the detector is trained on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", default=INITIALISED)
    for _ in of_initialised(0, TRAIN, parser.parse_args().folder):
        pass


if __name__ == "__main__":
    main()
