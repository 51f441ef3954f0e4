"""Get a class of your own back, by a checker you write and pass.

The policy is a value: it holds for this call only. The file still runs nothing; the
checker is your code, called with data, and decides what it accepts.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from safemodel import STRICT, ForbiddenGlobalError, safe_load


@dataclass
class Config:
    """A class of ours that older checkpoints hold as a pickled object."""

    hidden: int
    dropout: float


def make_config(args: tuple[object, ...], state: object) -> Config:
    """Return a `Config` from what the file gives, or say what is wrong with it."""
    if args or not isinstance(state, dict) or set(state) != {"hidden", "dropout"}:
        raise ValueError("not the state of a Config")
    hidden, dropout = state["hidden"], state["dropout"]
    if type(hidden) is not int or type(dropout) is not float:
        raise ValueError("a Config holds an int and a float")
    return Config(hidden, dropout)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.pt"
    torch.save({"config": Config(64, 0.1), "weight": torch.ones(2)}, path)

    try:
        safe_load(path)
    except ForbiddenGlobalError as error:
        name = f"{error.module}.{error.name}"
        print("refused without a policy:", name)

    checkpoint = safe_load(path, policy=STRICT.with_extra({name: make_config}))
    print("with one:", checkpoint["config"])
    assert checkpoint["config"] == Config(64, 0.1)
