"""lightning: `load_from_checkpoint`, and resume with hyper-parameters."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.data import AttributeDict
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset
from twins import poison_torch

import safemodel
from safemodel import STRICT, recipes


class Trained(lightning.LightningModule):
    """What is the same of the networks below."""

    def training_step(self, batch, _):
        return self.layers(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.rate)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def train_dataloader(self):
        values = torch.arange(32.0).reshape(8, 4) / 32
        return DataLoader(TensorDataset(values), batch_size=4)


class Net(Trained):
    """A network with dropout, so that the order of random numbers counts."""

    def __init__(self, width: int, rate: float, extra: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 2)
        )


class Configured(Trained):
    """A network whose only argument is a configuration, as projects with Hydra do."""

    def __init__(self, config) -> None:
        super().__init__()
        self.save_hyperparameters(config)
        self.kept = config
        self.layers = torch.nn.Linear(4, config["width"])


def trainer(folder: Path, epochs: int) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        enable_checkpointing=False,
    )  # fmt: skip


def checkpoint(folder: Path, **more: object) -> tuple[Net, Path]:
    lightning.seed_everything(3, verbose=False)
    net = Net(8, 0.05, **more)
    one = trainer(folder, 1)
    one.fit(net)
    one.save_checkpoint(folder / "net.ckpt")
    return net, folder / "net.ckpt"


def same_state(left, right) -> None:
    assert list(left) == list(right)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.case("lightning", "`load_from_checkpoint`")
def test_load_from_checkpoint(case, tmp_path):
    net, file = checkpoint(tmp_path)

    def load():
        return Net.load_from_checkpoint(file)

    again = case.loads(load)
    same_state(net.state_dict(), again.state_dict())
    assert dict(again.hparams) == {"width": 8, "rate": 0.05, "extra": None}
    poison_torch(file)
    case.refuses(load, runs=False)


@pytest.mark.case("lightning", "`load_from_checkpoint(weights_only=False)`")
def test_load_from_checkpoint_without_weights_only(case, tmp_path):
    net, file = checkpoint(tmp_path)

    def load():
        return Net.load_from_checkpoint(file, weights_only=False)

    same_state(net.state_dict(), case.loads(load).state_dict())
    poison_torch(file)
    case.refuses(load, runs=True, inert="not run; the rest loads")
    case.note = "`weights_only=False` makes of it an inert value, which is dropped"


@pytest.mark.case("lightning", "hyper-parameters in an `argparse.Namespace`")
def test_hyper_parameters_of_a_command_line(case, tmp_path):
    _, file = checkpoint(tmp_path, extra=Namespace(depth=3, names=["a", "b"]))

    def load():
        return Net.load_from_checkpoint(file)

    again = case.loads(load)
    assert again.hparams.extra == Namespace(depth=3, names=["a", "b"])
    assert type(again.hparams.extra) is Namespace
    poison_torch(file)
    case.refuses(load, runs=False)


@pytest.mark.case(
    "lightning",
    "hyper-parameters in an `AttributeDict`",
    "policy=STRICT.with_extra(recipes.LIGHTNING)",
)
def test_hyper_parameters_in_an_attribute_dict(case, tmp_path):
    values = AttributeDict(depth=3, names=["a", "b"])
    _, file = checkpoint(tmp_path, extra=values)

    def load():
        return Net.load_from_checkpoint(file)

    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError) as refused:
        load()
    assert refused.value.name == "AttributeDict"
    case.patch["policy"] = STRICT.with_extra(recipes.LIGHTNING)
    again = case.loads(load)
    assert again.hparams.extra == {"depth": 3, "names": ["a", "b"]}
    assert type(again.hparams.extra) is dict
    poison_torch(file)
    case.refuses(load, runs=False)
    case.note = "comes back as a `dict`; refused without the recipe"


@pytest.mark.case("lightning", "`Trainer.fit(ckpt_path=)`: optimiser, scheduler, loops")
def test_resume(case, tmp_path):
    """Two epochs at once, and one after the other, end with the same optimiser."""
    _, file = checkpoint(tmp_path)

    def go_on(path: Path) -> Net:
        lightning.seed_everything(7, verbose=False)
        net = Net(8, 0.05)
        trainer(tmp_path, 2).fit(net, ckpt_path=path)
        return net

    expected = go_on(file)
    again = case.loads(lambda: go_on(file))
    same_state(expected.state_dict(), again.state_dict())
    assert again.trainer.global_step == 4
    left = expected.optimizers().state_dict()
    right = again.optimizers().state_dict()
    assert left["param_groups"] == right["param_groups"]
    for key, moments in left["state"].items():
        same_state(moments, right["state"][key])
    assert expected.lr_schedulers().state_dict() == again.lr_schedulers().state_dict()
    poison_torch(file)
    case.refuses(lambda: go_on(file), runs=False)
    case.note = "compared with a resume without the patch"


@pytest.mark.case("lightning", "`Fabric.save` and `Fabric.load`")
def test_fabric(case, tmp_path):
    fabric = Fabric(accelerator="cpu")
    torch.manual_seed(4)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    file = tmp_path / "state.ckpt"
    fabric.save(file, {"model": model, "optimizer": optimizer, "step": 5})

    def load():
        new = torch.nn.Linear(4, 2)
        state = {"model": new, "optimizer": torch.optim.Adam(new.parameters())}
        return state, fabric.load(file, state)

    state, rest = case.loads(load)
    assert rest == {"step": 5}
    same_state(model.state_dict(), state["model"].state_dict())
    moments = state["optimizer"].state_dict()["state"]
    for key, expected in optimizer.state_dict()["state"].items():
        same_state(expected, moments[key])
    twin = shutil.copy(file, tmp_path / "twin.ckpt")
    poison_torch(Path(twin))
    case.refuses(lambda: fabric.load(twin), runs=False)


@pytest.mark.case(
    "lightning",
    "hyper-parameters of omegaconf",
    "policy=STRICT.with_extra(recipes.OMEGACONF)",
)
def test_hyper_parameters_of_omegaconf(case, tmp_path):
    """The whole of the hyper-parameters is one `DictConfig`, and its class is named."""
    lightning.seed_everything(3, verbose=False)
    config = OmegaConf.create(
        {"width": 8, "rate": 0.05, "deep": [{"a": None, "b": [True, "x"]}]}
    )
    made = Configured(config)
    one = trainer(tmp_path, 1)
    one.fit(made)
    file = tmp_path / "configured.ckpt"
    one.save_checkpoint(file)

    def load():
        return Configured.load_from_checkpoint(file)

    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError) as refused:
        load()
    assert "DictConfig" in {found[1] for found in refused.value.globals}
    case.patch["policy"] = STRICT.with_extra(recipes.OMEGACONF)
    again = case.loads(load)
    same_state(made.state_dict(), again.state_dict())
    assert OmegaConf.create(again.kept) == made.kept
    assert type(again.kept) is dict
    poison_torch(file)
    case.refuses(load, runs=False)
    case.note = "comes back as dictionaries and lists; refused without the recipe"
