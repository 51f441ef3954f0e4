"""The script that trains networks: its recipes, its files, and stopping it."""

import csv
import json

import networks
import pytest
import recipes
import torch
from safetensors.torch import load_file

from safemodel import safe_load


def test_the_default_set_is_what_was_asked_for():
    """Independent runs of many kinds, each with a name and a seed of its own."""
    runs = recipes.default_runs()

    assert len(runs) >= 60
    assert (
        len({run.name for run in runs}) == len({run.seed for run in runs}) == len(runs)
    )
    assert len({run.architecture for run in runs}) == 10
    assert {run.optimiser for run in runs} == {"sgd", "adam", "adamw"}
    assert {run.dtype for run in runs} == {"float32", "bfloat16", "float16"}
    assert len({run.initialiser for run in runs}) == 6
    assert sum(run.tuned for run in runs) >= 30
    assert sum(run.checkpoint for run in runs) >= 5


def test_quick_runs_share_nothing_with_the_default_set():
    """A detector must not be measured on a short copy of what trained it."""
    quick, default = recipes.quick_runs(), recipes.default_runs()

    assert not {run.seed for run in quick} & {run.seed for run in default}
    assert not {run.name for run in quick} & {run.name for run in default}


def test_held_out_runs_share_nothing_with_others():
    """They are as many, of the same kinds, and named by seeds of their own."""
    held, default = recipes.held_out_runs(), recipes.default_runs()
    others = [*default, *recipes.again_runs(), *recipes.quick_runs()]

    assert len({run.seed for run in others}) == len(others)
    assert len(held) == len(default)
    assert not {run.seed for run in held} & {run.seed for run in others}
    assert not {run.name for run in held} & {run.name for run in others}
    assert all(run.name.endswith(f"-{run.seed}") for run in held)
    # A copy is tuned on batches of its seed and 5,000 more.
    tuned = {run.seed + 5000 for run in held}
    assert not tuned & {run.seed + 5000 for run in others}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, with all that can be made of one."""
    folder = tmp_path_factory.mktemp("networks")
    run = recipes.Run(
        name="small",
        architecture="mlp",
        width=160,
        task="teacher",
        optimiser="adam",
        steps=2,
        seed=1,
        casts=("bfloat16",),
        tuned=True,
        checkpoint=True,
    )
    threads = torch.get_num_threads()
    networks.one(run, folder)
    torch.set_num_threads(threads)
    return run, folder, networks.write_manifest([run], folder)


def test_every_file_has_its_row(trained):
    """And every row its file, all in the group of the run."""
    run, folder, rows = trained
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    there = {path.name for path in folder.iterdir()} - {"manifest.csv", "small.json"}

    assert [row["file"] for row in written] == [row["file"] for row in rows]
    assert {row["file"] for row in rows} == there
    assert {row["group"] for row in rows} == {run.name}
    assert [row["kind"] for row in rows] == [
        *("trained", "checkpoint", "cast", "tuned", "tuned")
    ]
    assert [bool(row["attack"]) for row in rows] == [False] * 4 + [True]


def test_the_files_are_what_their_rows_say(trained):
    """Sizes, dtypes, the optimiser's moments, and another network after each."""
    _, folder, rows = trained
    plain = load_file(folder / "small.safetensors")
    cast = load_file(folder / "small-bfloat16.safetensors")
    state = safe_load(folder / "small.pt")

    assert sum(value.numel() for value in plain.values()) == rows[0]["params"]
    assert {value.dtype for value in cast.values()} == {torch.bfloat16}
    assert torch.equal(state["model"]["layers.1.weight"], plain["layers.1.weight"])
    assert state["optimizer"]["state"][0]["exp_avg"].shape == (160, 64)
    tuned, spread = (
        load_file(folder / f"small-{kind}.safetensors")["layers.1.weight"]
        for kind in ("tuned", "spread")
    )
    assert not torch.equal(tuned, plain["layers.1.weight"])
    assert (spread - tuned).std() > 0.005


def test_what_is_done_is_not_done_again(trained):
    """Unless the recipe has changed, or the note was never written."""
    run, folder, _ = trained

    assert networks.done(run, folder)
    assert not networks.done(run._replace(steps=3), folder)
    assert not networks.done(run._replace(name="other"), folder)
    assert json.loads((folder / "small.json").read_text())["rows"]
