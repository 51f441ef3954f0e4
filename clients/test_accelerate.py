"""accelerate: `save_state` and `load_state`, random states and objects of its user."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from twins import poison_torch


class Counter:
    """Something that the user registers for checkpoints."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, object]:
        return {"count": self.count, "seen": torch.arange(self.count)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.count = state["count"]


def prepared(count: int = 0):
    torch.manual_seed(6)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    data = DataLoader(TensorDataset(torch.ones(4, 4)), batch_size=2)
    parts = accelerator.prepare(model, optimizer, scheduler, data)
    counter = Counter(count)
    accelerator.register_for_checkpointing(counter)
    return accelerator, *parts[:3], counter


def drawn() -> tuple[float, float, float]:
    """Draw from the three generators whose state is saved."""
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002, S311 - the states that are saved


def saved(folder: Path, *, safe: bool):
    """Train a step, and save; return what there was, and what would be drawn next."""
    accelerator, model, optimizer, scheduler, counter = prepared(7)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002 - it is the old state that accelerate keeps
    accelerator.save_state(folder, safe_serialization=safe)
    return (model, optimizer, scheduler, counter), drawn()


def load_into(folder: Path):
    accelerator, *parts = prepared()
    random.seed(98)
    np.random.seed(98)  # noqa: NPY002 - the same
    accelerator.load_state(folder)
    return parts


def compare(left, right) -> None:
    for one, other in zip(left[:2], right[:2], strict=True):
        flat = torch.utils._pytree.tree_flatten
        values, shape = flat(one.state_dict())
        others, same = flat(other.state_dict())
        assert shape == same
        for value, again in zip(values, others, strict=True):
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, again)
            else:
                assert value == again
    assert left[2].state_dict() == right[2].state_dict()
    assert (left[3].count, right[3].count) == (7, 7)


def round_trip(case, folder: Path, *, safe: bool, files: int) -> None:
    before, numbers = saved(folder, safe=safe)
    after = case.loads(lambda: load_into(folder), files=files)
    assert drawn() == numbers
    compare(before, after)
    twin = folder.with_name("twin")
    names = ["optimizer.bin", "scheduler.bin", *([] if safe else ["pytorch_model.bin"])]
    for name in names:
        shutil.rmtree(twin, ignore_errors=True)
        shutil.copytree(folder, twin)
        poison_torch(twin / name)
        case.refuses(lambda: load_into(twin), runs=False)
    case.note = "a twin of each of " + ", ".join(f"`{name}`" for name in names)


@pytest.mark.case("accelerate", "`save_state`, `load_state`, RNG states, `.bin`")
def test_state_in_bin_files(case, tmp_path):
    round_trip(case, tmp_path / "state", safe=False, files=5)


@pytest.mark.case("accelerate", "the same, model in safetensors")
def test_state_with_safetensors(case, tmp_path):
    round_trip(case, tmp_path / "state", safe=True, files=4)


@pytest.mark.case("accelerate", "the file of random states alone")
def test_hostile_random_states(case, tmp_path):
    """Accelerate catches every error here: the states stay as they were."""
    _, numbers = saved(tmp_path / "state", safe=False)
    case.loads(lambda: load_into(tmp_path / "state"), files=5)
    assert drawn() == numbers
    poison_torch(tmp_path / "state" / "random_states_0.pkl")
    case.refuses(
        lambda: load_into(tmp_path / "state"),
        runs=False,
        inert="refused; accelerate goes on without",
    )
    assert drawn() != numbers
    case.note = "accelerate catches all errors of this file, and logs them"


@pytest.mark.case("accelerate", "registered objects, `weights_only=False`")
def test_registered_objects(case, tmp_path):
    before, _ = saved(tmp_path / "state", safe=False)
    after = case.loads(lambda: load_into(tmp_path / "state"), files=5)
    compare(before, after)
    poison_torch(tmp_path / "state" / "custom_checkpoint_0.pkl")
    case.refuses(
        lambda: load_into(tmp_path / "state"),
        runs=True,
        inert="not run; the rest loads",
    )
    case.note = "accelerate asks for `weights_only=False` here, whatever it was told"
