"""transformers: models from `pytorch_model.bin`, and `Trainer` resume."""

from __future__ import annotations

import json
import random
import shutil
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)
from twins import poison_torch

import safemodel
from safemodel import STRICT, recipes

TINY_BERT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TINY_GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}
IDS = torch.arange(12).reshape(2, 6)


def bert() -> BertModel:
    torch.manual_seed(1)
    return BertModel(BertConfig(**TINY_BERT)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(2)
    return GPT2LMHeadModel(
        GPT2Config(**TINY_GPT2, n_positions=32, bos_token_id=0, eos_token_id=0)
    ).eval()


def write_bin(model, folder: Path, *, shards: int = 1) -> Path:
    """Write what older releases wrote: the newest only writes safetensors."""
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder / "pytorch_model.bin"
    names = list(state)
    where = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: state[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        where |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder / file


def same_state(left, right) -> None:
    assert list(left) == list(right)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def round_trip(case, make, folder: Path, shards: int) -> None:
    model = make()
    file = write_bin(model, folder, shards=shards)

    def load():
        return type(model).from_pretrained(folder)

    again = case.loads(load, files=shards)
    same_state(model.state_dict(), again.state_dict())
    assert torch.equal(model(IDS)[0], again(IDS)[0])
    poison_torch(file)
    case.refuses(load, runs=False)


@pytest.mark.case("transformers", "BERT, `pytorch_model.bin`")
def test_bert(case, tmp_path):
    round_trip(case, bert, tmp_path, 1)


@pytest.mark.case("transformers", "BERT, three shards")
def test_bert_in_shards(case, tmp_path):
    round_trip(case, bert, tmp_path, 3)


@pytest.mark.case("transformers", "GPT-2, `pytorch_model.bin`, tied weights")
def test_gpt2(case, tmp_path):
    round_trip(case, gpt2, tmp_path, 1)


@pytest.mark.case("transformers", "GPT-2, two shards")
def test_gpt2_in_shards(case, tmp_path):
    round_trip(case, gpt2, tmp_path, 2)


@pytest.mark.case("transformers", "BERT, `weights_only=False`")
def test_bert_without_weights_only(case, tmp_path):
    """The argument that old code gives."""
    model = bert()
    file = write_bin(model, tmp_path)

    def load():
        return BertModel.from_pretrained(tmp_path, weights_only=False)

    same_state(model.state_dict(), case.loads(load, files=2).state_dict())
    poison_torch(file)
    case.refuses(load, runs=True)
    case.note = (
        "the client opens the file twice, and the second time it wants weights only"
    )


class Numbers(Dataset):
    """Eight texts, the same for every run."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        ids = (torch.arange(6) + index) % 50
        return {"input_ids": ids, "labels": ids}


def trainer(folder: Path) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=6, save_steps=3, per_device_train_batch_size=2,
        learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
        logging_strategy="no", seed=5, dataloader_num_workers=0,
    )  # fmt: skip
    model = gpt2()
    model.train()
    return Trainer(model=model, args=arguments, train_dataset=Numbers())


def resumed(folder: Path, checkpoint: Path):
    # Whatever the state is here, the file's has to replace it.
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - it is the old state that Trainer keeps
    one = trainer(folder)
    one.train(resume_from_checkpoint=str(checkpoint))
    return one


@pytest.mark.case("transformers", "`Trainer` resume: optimiser, scheduler, RNG state")
def test_trainer_resume(case, tmp_path):
    """Dropout draws from the state in the file: the resumed run ends the same."""
    whole = trainer(tmp_path / "run")
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names

    def load():
        return resumed(tmp_path / "again", checkpoint)

    again = case.loads(load, files=3)
    same_state(whole.model.state_dict(), again.model.state_dict())
    left, right = whole.optimizer.state_dict(), again.optimizer.state_dict()
    for key, moments in left["state"].items():
        same_state(moments, right["state"][key])
    assert whole.lr_scheduler.state_dict() == again.lr_scheduler.state_dict()

    # The comparison can fail: without the file, dropout draws something else.
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "rng_state.pth").unlink()
    without = resumed(tmp_path / "without", other).model.state_dict()
    weight = "transformer.wte.weight"
    assert not torch.equal(without[weight], whole.model.state_dict()[weight])

    twin = tmp_path / "twin"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        shutil.rmtree(twin, ignore_errors=True)
        shutil.copytree(checkpoint, twin)
        poison_torch(twin / name)
        case.refuses(lambda: resumed(tmp_path / "hostile", twin), runs=False)
    case.note = "a twin of each of the three files"


@pytest.mark.case(
    "transformers",
    "`TrainingArguments`, `training_args.bin`",
    "policy=STRICT.with_extra(recipes.TRAINING_ARGUMENTS)",
    {"policy": STRICT.with_extra(recipes.TRAINING_ARGUMENTS)},
)
def test_training_arguments(case, tmp_path):
    made = trainer(tmp_path).args
    file = tmp_path / "training_args.bin"
    torch.save(made, file)
    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        torch.load(file)
    again = case.loads(lambda: torch.load(file))
    assert type(again) is dict
    whole = ("distributed_state", "accelerator_config")
    expected = {key: value for key, value in vars(made).items() if key not in whole}
    assert len(expected) > 80
    for key, value in expected.items():
        assert again[key] == (value.value if isinstance(value, Enum) else value), key
        assert type(again[key]).__module__ in ("builtins", "torch"), key
    assert again["accelerator_config"]["split_batches"] is False
    assert again["distributed_state"]["num_processes"] == 1
    poison_torch(file)
    case.refuses(lambda: torch.load(file), runs=False)
    case.note = "comes back as a dictionary; refused without the recipe"
