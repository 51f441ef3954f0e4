"""skorch and e3nn: weights, whole objects, and classes of their own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from e3nn import o3
from skorch import NeuralNetClassifier
from twins import poison_pickle, poison_torch

import safemodel

X = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4)
Y = (X.sum(1) > 0).astype(np.int64)


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, values):
        return torch.softmax(self.layer(values), -1)


def network(seed: int) -> NeuralNetClassifier:
    torch.manual_seed(seed)
    return NeuralNetClassifier(
        Classifier, max_epochs=2, lr=0.1, verbose=0, optimizer=torch.optim.Adam
    )


@pytest.mark.case("skorch", "`save_params`, `load_params`: weights and optimiser")
def test_params(case, tmp_path):
    made = network(13).fit(X, Y)
    weights, moments = tmp_path / "weights.pt", tmp_path / "optimizer.pt"
    made.save_params(f_params=weights, f_optimizer=moments)

    def load():
        again = network(14).initialize()
        again.load_params(f_params=weights, f_optimizer=moments)
        return again

    again = case.loads(load, files=2)
    assert np.array_equal(made.predict_proba(X), again.predict_proba(X))
    left, right = made.optimizer_.state_dict(), again.optimizer_.state_dict()
    assert left["param_groups"] == right["param_groups"]
    for key, values in left["state"].items():
        for name, value in values.items():
            assert torch.equal(value, right["state"][key][name])
    for file in (weights, moments):
        kept = file.read_bytes()
        poison_torch(file)
        case.refuses(load, runs=False)
        file.write_bytes(kept)
    case.note = "a twin of each of the two files"


@pytest.mark.case(
    "skorch",
    "a pickle of the whole net",
    "pickle_in=[...]",
    {"pickle_in": [__name__]},
)
def test_whole_net(case, tmp_path):
    """Its `__setstate__` unpickles bytes in its state: no class can be given back."""
    made = network(15).fit(X, Y)
    file = tmp_path / "net.pkl"
    with file.open("wb") as stream:
        pickle.dump(made, stream)

    def load():
        with file.open("rb") as stream:
            return pickle.load(stream)

    with safemodel.patched(pickle_in=[__name__]):
        with pytest.raises(safemodel.ForbiddenGlobalError) as refused:
            load()
    assert refused.value.name == "NeuralNetClassifier"
    case.loaded = "refused: use `save_params`"
    poison_pickle(file)
    case.refuses(load, runs=True)
    case.note = (
        "the net keeps a pickle within its state and opens that itself, so that giving"
        " the class back would open what was not checked"
    )


@pytest.mark.case("e3nn", "`state_dict` of `o3.Linear`")
def test_weights(case, tmp_path):
    torch.manual_seed(16)
    made = o3.Linear("2x0e+1x1o", "1x0e+1x1o")
    file = tmp_path / "linear.pt"
    torch.save(made.state_dict(), file)

    def load():
        again = o3.Linear("2x0e+1x1o", "1x0e+1x1o")
        again.load_state_dict(torch.load(file))
        return again

    again = case.loads(load)
    values = torch.arange(10.0).reshape(2, 5)
    assert torch.equal(made(values), again(values))
    poison_torch(file)
    case.refuses(load, runs=False)


@pytest.mark.case("e3nn", "`o3.Linear` as a whole module, `weights_only=False`")
def test_whole_module(case, tmp_path):
    torch.manual_seed(17)
    made = o3.Linear("2x0e+1x1o", "1x0e+1x1o")
    file = tmp_path / "linear.pt"
    torch.save(made, file)

    def load():
        again = o3.Linear("2x0e+1x1o", "1x0e+1x1o")
        again.load_state_dict(torch.load(file, weights_only=False).state_dict())
        return again

    again = case.loads(load)
    values = torch.arange(10.0).reshape(2, 5)
    assert torch.equal(made(values), again(values))
    poison_torch(file)
    case.refuses(load, runs=True, inert="not run; the rest loads")
    case.note = "the module is an `Opaque`, whose `state_dict()` goes into a new one"


def irrep(args: tuple[object, ...], state: object) -> o3.Irrep:
    """Make one irreducible representation of a degree and a parity."""
    match args:
        case ((int(degree), int(parity)),) if state is None:
            return o3.Irrep(degree, parity)
    raise ValueError("not an Irrep")


def count_and_irrep(args: tuple[object, ...], state: object) -> tuple[int, o3.Irrep]:
    """Make how many of which."""
    match args:
        case ((int(count), o3.Irrep() as which),) if state is None and count >= 0:
            return count, which
    raise ValueError("not a number of Irreps")


def irreps(args: tuple[object, ...], state: object) -> o3.Irreps:
    """Make the whole of pairs that are made already."""
    match args:
        case (tuple(pairs),) if state is None:
            return o3.Irreps(list(pairs))
    raise ValueError("not Irreps")


IRREPS = {
    "e3nn.o3._irreps.Irrep": irrep,
    "e3nn.o3._irreps._MulIr": count_and_irrep,
    "e3nn.o3._irreps.Irreps": irreps,
}


@pytest.mark.case(
    "e3nn",
    "`Irreps` beside the weights",
    "policy=STRICT.with_extra(...)",
    {"policy": safemodel.STRICT.with_extra(IRREPS)},
)
def test_irreps(case, tmp_path):
    made = o3.Irreps("2x0e+1x1o+3x2e")
    file = tmp_path / "model.pt"
    torch.save({"irreps": made, "weight": torch.ones(2)}, file)
    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        torch.load(file)
    again = case.loads(lambda: torch.load(file))["irreps"]
    assert type(again) is o3.Irreps
    assert (again, again.dim) == (made, made.dim)
    poison_torch(file)
    case.refuses(lambda: torch.load(file), runs=False)
    case.note = "recipe below; refused without it"
