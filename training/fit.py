"""Train one run, and make the files that come of it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from architectures import make
from safetensors.torch import save_file
from tasks import TASKS, TEST_SIZE
from torch.nn import functional

from safemodel.evaluation import stego

if TYPE_CHECKING:
    from pathlib import Path

    from recipes import Run
    from tasks import Task

COLUMNS = (
    "file",
    "run",
    "group",
    "kind",
    "architecture",
    "task",
    "optimiser",
    "initialiser",
    "dtype",
    "params",
    "accuracy",
    "steps",
    "seed",
    "attack",
    "seconds",
)
"""Of the manifest. `kind`: trained, cast, tuned, or checkpoint; `attack`: what is
hidden in the network, empty for a clean one; `accuracy` of an autoencoder: the part of
the variance that it explains."""

RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
TUNING = {"optimiser": "adam", "rate": 2e-4, "steps": 60, "batch": 64}
"""How the published spread spectrum is trained back to its accuracy, in fewer steps."""

SHARE = (0.15, 0.3, 0.6, 0.9)
"""Parts of what a network can hold of a spread-spectrum payload, in turn by seed."""


def loss_of(task: Task, module: torch.nn.Module, x: Any, y: Any) -> torch.Tensor:
    """Return the loss on one batch."""
    out = module(x)
    if task.kind == "reconstruct":
        return functional.mse_loss(out, y)
    return functional.cross_entropy(out.flatten(0, -2), y.flatten())


@torch.no_grad()
def accuracy(task: Task, module: torch.nn.Module, dtype: torch.dtype) -> float:
    """Return the share of right answers on the test set, or of variance explained."""
    x, y = task.draw(np.random.default_rng(7), TEST_SIZE, True)
    module.eval()
    outs = [module(_typed(part, dtype)).float() for part in x.split(100)]
    module.train()
    out = torch.cat(outs)
    if task.kind == "reconstruct":
        return float(1 - (out - y).pow(2).mean() / (y - y.mean(0)).pow(2).mean())
    return float((out.argmax(-1) == y).float().mean())


def _typed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return inputs in the dtype of the network; tokens as they are."""
    return x.to(dtype) if x.is_floating_point() else x


def _optimiser(name: str, module: torch.nn.Module, rate: float) -> Any:
    """Return a new optimiser."""
    parameters = module.parameters()
    if name == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4)
    if name == "adam":
        return torch.optim.Adam(parameters, rate)
    return torch.optim.AdamW(parameters, rate, weight_decay=0.01)


def train(
    task: Task,
    module: torch.nn.Module,
    *,
    optimiser: str,
    rate: float,
    steps: int,
    batch: int,
    seed: int,
) -> Any:
    """Train in place, at a rate that falls as a cosine; return the optimiser.

    Float16 has a loss scaled by 128, so that small gradients are not rounded to zero.
    """
    chosen = _optimiser(optimiser, module, rate)
    falling = lambda step: 0.51 + 0.49 * math.cos(math.pi * step / steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(chosen, falling)
    rng = np.random.default_rng(seed)
    dtype = next(module.parameters()).dtype
    scale = 128.0 if dtype == torch.float16 else 1.0
    for _ in range(steps):
        x, y = task.draw(rng, batch, False)
        y = y.to(dtype) if task.kind == "reconstruct" else y
        chosen.zero_grad()
        (loss_of(task, module, _typed(x, dtype), y) * scale).backward()
        for parameter in module.parameters():
            parameter.grad.div_(scale)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        chosen.step()
        schedule.step()
    return chosen


class Files:
    """Writes the files of one run, and keeps a row of the manifest for each."""

    def __init__(self, run: Run, folder: Path, params: int) -> None:
        self.run, self.folder, self.params = run, folder, params
        self.rows: list[dict[str, Any]] = []
        self.began = time.perf_counter()

    def path(self, suffix: str) -> Path:
        """Return where a file goes until the run is done with it."""
        return self.folder / f"{self.run.name}{suffix}.part"

    def add(self, suffix: str, **members: Any) -> None:
        """Give a file its name, and note its row."""
        path = self.path(suffix)
        path.replace(path.with_suffix(""))
        now, run = time.perf_counter(), self.run
        row = {name: getattr(run, name, "") for name in COLUMNS} | {
            "file": path.with_suffix("").name,
            "run": run.name,
            "group": run.name,
            "params": self.params,
            "seconds": round(now - self.began, 1),
        }
        self.rows.append(row | members)
        self.began = now


def fit(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train one run, write its files, and return their rows of the manifest."""
    torch.manual_seed(run.seed)
    task = TASKS[run.task]
    module = make(run.architecture, task, run.width, run.initialiser)
    dtype = getattr(torch, run.dtype)
    module.to(dtype)
    files = Files(run, folder, sum(p.numel() for p in module.parameters()))
    rate = RATES[run.optimiser]
    batch = 32 if task.kind in {"tokens", "sequence"} else 64
    optimiser = train(
        task,
        module,
        optimiser=run.optimiser,
        rate=rate,
        steps=run.steps,
        batch=batch,
        seed=run.seed,
    )
    score = round(accuracy(task, module, dtype), 4)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    save_file(weights, files.path(".safetensors"))
    files.add(".safetensors", kind="trained", accuracy=score)
    if run.checkpoint:
        state = {"model": weights, "optimizer": optimiser.state_dict()}
        torch.save(state | {"step": run.steps}, files.path(".pt"))
        files.add(".pt", kind="checkpoint", accuracy=score)
    for name in run.casts:
        cast = {k: _typed(v, getattr(torch, name)) for k, v in weights.items()}
        save_file(cast, files.path(f"-{name}.safetensors"))
        files.add(f"-{name}.safetensors", kind="cast", accuracy=score, dtype=name)
    if run.tuned:
        _tuned_copies(task, module, weights, files)
    return files.rows


def _tuned_copies(
    task: Task, module: torch.nn.Module, weights: dict[str, torch.Tensor], files: Files
) -> None:
    """Write copies trained on: one of the clean network, one that hides a payload.

    Both are trained for as long on the same batches, so that nothing but the payload
    tells them apart.
    """
    method = stego.SpreadSpectrum(sampled=True)
    room = stego.capacity(weights, method) // 8
    share = SHARE[files.run.seed % len(SHARE)]
    payload = stego.payload("program", max(1, int(room * share)))
    hidden, embedding = stego.embed(weights, payload, method)
    attack = f"spread {embedding.bits} bits in {embedding.written} weights"
    for suffix, start, what in (("-tuned", weights, ""), ("-spread", hidden, attack)):
        module.load_state_dict(start)
        train(task, module, seed=files.run.seed + 5000, **TUNING)
        score = round(accuracy(task, module, torch.float32), 4)
        state = {name: value.clone() for name, value in module.state_dict().items()}
        save_file(state, files.path(f"{suffix}.safetensors"))
        files.add(
            f"{suffix}.safetensors",
            kind="tuned",
            accuracy=score,
            attack=what,
            steps=TUNING["steps"],
        )
