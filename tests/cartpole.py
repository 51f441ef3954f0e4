"""A policy that balances a pole: a real one of the zoo, or one like it made here.

What a protected model is good for without its key can be counted in steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import ZOO

REAL = ZOO / "files" / "nikhilbarhate99+PPO-PyTorch"
REAL /= "PPO_preTrained/CartPole-v1/PPO_CartPole-v1_0_0.pth"
MOST = 500
SHAPES = {
    f"{net}.{layer}.{part}": shape
    for net, last in (("actor", 2), ("critic", 1))
    for layer, rows, columns in ((0, 64, 4), (2, 64, 64), (4, last, 64))
    for part, shape in (("weight", (rows, columns)), ("bias", (rows,)))
}
"""Those of the real file: two nets of three layers."""


def policy_file(path: Path) -> Path:
    """Return a file with a policy: the real one, or a new one where that is absent."""
    if REAL.is_file():
        path.write_bytes(REAL.read_bytes())
    else:
        torch.save(made_policy(), path)
    return path


def made_policy() -> dict[str, torch.Tensor]:
    """Return a policy that pushes towards where the pole falls; the rest is noise."""
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    for name in state:
        if name.startswith("actor"):
            state[name] *= 1e-3
    # Unit 0 of each layer is all that counts: it weighs what is seen, all but linearly.
    state["actor.0.weight"][0] = torch.tensor([0.1, 0.3, 1.0, 1.0])
    state["actor.2.weight"][0, 0] = 1.0
    state["actor.4.weight"][:, 0] = torch.tensor([-1.0, 1.0])
    for layer in (0, 2, 4):
        state[f"actor.{layer}.bias"].zero_()
    return state


def put_together(tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a policy of numbers in the order in which they are, whatever it is."""
    flat = torch.cat([one.reshape(-1) for one in tensors])
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    parts = zip(SHAPES.items(), flat.split(sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def balanced(state: Mapping[str, torch.Tensor]) -> int:
    """Return how many steps of 500 a policy keeps the pole up.

    Source: Barto, Sutton and Anderson, 1983, as CartPole-v1 of OpenAI's Gym has it.
    """
    net = [state[name].double().numpy() for name in SHAPES if name.startswith("actor")]
    x = speed = angle = turn = 0.02
    for step in range(MOST):
        force = 10.0 if _pushes_right(net, (x, speed, angle, turn)) else -10.0
        cosine, sine = math.cos(angle), math.sin(angle)
        push = (force + 0.05 * turn**2 * sine) / 1.1
        turning = 9.8 * sine - cosine * push
        turning /= 0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1)
        pushing = push - 0.05 * turning * cosine / 1.1
        x, speed = x + 0.02 * speed, speed + 0.02 * pushing
        angle, turn = angle + 0.02 * turn, turn + 0.02 * turning
        if abs(x) > 2.4 or abs(angle) > math.radians(12):
            return step + 1
    return MOST


def _pushes_right(net: list[Any], seen: tuple[float, ...]) -> bool:
    values = np.tanh(net[0] @ np.array(seen) + net[1])
    values = net[4] @ np.tanh(net[2] @ values + net[3]) + net[5]
    return bool(values[1] > values[0])
