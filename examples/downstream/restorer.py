"""Train a little, save, and go on from what was saved: as many projects do it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn


def make_model() -> nn.Module:
    """Return the network of this project."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def save(path: Path, model: nn.Module, step: int) -> None:
    """Write a checkpoint."""
    torch.save({"model": model.state_dict(), "step": step}, path)


def resume(path: Path, model: nn.Module) -> int:
    """Take up a checkpoint; return its step."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=False)
    model.load_state_dict(checkpoint["model"])
    return int(checkpoint["step"])
