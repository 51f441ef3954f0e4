"""Layers that were never trained: what is drawn, and who sees which."""

import detect_material
import initialised
import material
import pytest
import torch
from initialised import DRAWS, LAYERS, TRAIN, Recipe, made, recipes
from recipes import HELD_OUT
from source import DRAWN

from safemodel import safe_load


@pytest.fixture
def few(monkeypatch):
    """Let there be one layer, and one way to draw it."""
    for name, only in (("LAYERS", "linear"), ("DRAWS", "even")):
        known = getattr(initialised, name)
        monkeypatch.setattr(initialised, name, {only: known[only]})


def test_every_layer_is_drawn_in_every_way():
    """And each file has a name of its own."""
    every = list(recipes(0, 2))
    assert (
        len({one.name for one in every}) == len(every) == 2 * len(LAYERS) * len(DRAWS)
    )
    assert len({one.group for one in every}) == len(LAYERS) * len(DRAWS)


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_recipe_is_a_file(layer):
    """The same again, and another one of another seed."""
    first, again, other = (made(Recipe(layer, "normal-any", at)) for at in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = next(name for name, value in first.items() if value.dim() > 1)
    assert not torch.equal(first[name].reshape(-1)[:9], other[name].reshape(-1)[:9])


@pytest.mark.parametrize(
    ("draw", "most"), [("normal", None), ("cut-at-two", 2.01), ("even", 1.74)]
)
def test_draws_differ(draw, most):
    """In how far their largest weight is out, in standard deviations."""
    weight = made(Recipe("embedding", draw, 1))["weight"]
    furthest = float(weight.abs().max() / weight.std())
    assert furthest > 3 if most is None else 1.5 < furthest < most + 0.3


def test_what_is_made_is_not_made_again(tmp_path, few):
    """A file that is there stays as it is; none is there in part."""
    first = list(initialised.of_initialised(0, 1, tmp_path))
    assert {one.path for one in first} == set(tmp_path.iterdir())
    assert {one.kind for one in first} == {DRAWN}
    assert not any(one.carrier for one in first)
    assert "weight" in safe_load(first[0].path)
    before = [one.path.stat().st_mtime_ns for one in first]
    again = list(initialised.of_initialised(0, 1, tmp_path))
    assert again == first
    assert [one.path.stat().st_mtime_ns for one in again] == before


def test_no_seed_is_on_both_sides(tmp_path, few):
    """What is measured on was never seen in training."""
    none = tmp_path / "none"
    (tmp_path / "manifest.csv").write_text("repo,role,params_float32,file\n")
    trained = material.sources(none, none, none, tmp_path)
    sides = [detect_material.files(side, none, tmp_path, none, tmp_path)
             for side in ("train", "test")]  # fmt: skip
    assert [one.name for one in trained] == [f"linear-even-{at}" for at in range(TRAIN)]
    assert sides[0] == trained
    assert [one.name for one in sides[1]] == [
        f"linear-even-{HELD_OUT + at}" for at in range(TRAIN)
    ]
