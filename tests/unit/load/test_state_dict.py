"""`state_dict`: the weights of whole-module pickles, key for key."""

from __future__ import annotations

import io
import warnings
from argparse import Namespace

import pytest
import torch
from torch import nn

import safemodel
from safemodel import LimitExceededError, Opaque, safe_load, state_dict
from tests.differential.values import Net


def saved(value, **arguments):
    """Return the bytes of a file of torch's."""
    file = io.BytesIO()
    torch.save(value, file, **arguments)
    return file.getvalue()


def normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the older of two ways to do this
        return nn.utils.weight_norm(nn.Linear(2, 2))


def twice():
    layer = nn.Linear(2, 2)
    return nn.ModuleList([layer, layer, nn.ModuleDict({"again": layer})])


MODULES = {
    "everything": Net,
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "gru": lambda: nn.GRU(2, 2),
    "data parallel": lambda: nn.DataParallel(Net()),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "parameter list": lambda: nn.ParameterList([torch.ones(2), torch.zeros(1)]),
    "parameter dict": lambda: nn.ParameterDict({"a": torch.ones(2)}),
    "shared": twice,
    "weight norm": normed,
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(2, 2)),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "no weights": nn.ReLU,
    "graph": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.*source:UserWarning")
def test_it_equals_the_modules_own(name, new):
    """The same keys in the same order, the same numbers."""
    module = MODULES[name]()
    expected = module.state_dict()
    data = saved(module, _use_new_zipfile_serialization=new)
    with pytest.raises(safemodel.ForbiddenGlobalError):
        safe_load(data)
    got = safe_load(data, weights_only=False)
    for weights in (got.state_dict(), state_dict(got), state_dict({"model": got})):
        assert list(weights) == list(expected)
        for key, tensor in expected.items():
            assert torch.equal(weights[key], tensor), key
            assert weights[key].dtype is tensor.dtype
            assert type(weights[key]) is torch.Tensor
            assert not weights[key].requires_grad
    module.load_state_dict(got.state_dict())


def test_tied_weights_are_one_tensor():
    """As they were in the module."""
    got = safe_load(saved(Net()), weights_only=False)
    weights = state_dict(got)
    assert weights["tied.weight"] is weights["second.weight"]
    weights["scale"].fill_(5)
    assert got["_parameters"]["scale"].item() == 5


def test_non_persistent_buffers_are_left_out():
    """As `Module.state_dict` does; they can still be read in the opaque value."""
    got = safe_load(saved(Net()), weights_only=False)
    assert "mask" in state_dict(got)
    assert "cache" not in state_dict(got)
    assert got["_buffers"]["cache"].tolist() == [0.0, 0.0]


# Where the weights sit in the files of common projects.

WEIGHTS = {"fc.weight": torch.ones(2), "fc.bias": torch.zeros(2)}
PLACES = {
    "a state dict": WEIGHTS,
    "lightning": {
        "epoch": 1,
        "state_dict": WEIGHTS,
        "optimizer_states": [{"state": {0: {"m": torch.ones(3)}}}],
    },
    "fairseq": {"args": Namespace(arch="x"), "model": WEIGHTS, "best": torch.ones(1)},
    "trainer": {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {}}},
    "net": {"net": WEIGHTS, "acc": 0.5},
    "parallel": {"module": WEIGHTS},
    "a name of its own": {"params_ema": WEIGHTS, "rng": {"cpu": torch.ones(1)}},
    "deeper": {"model": {"cfg": {"a": 1}, "state_dict": WEIGHTS}},
    "beside an optimiser": {
        "network": WEIGHTS,
        "opt": {"state": {0: {"exp_avg": torch.ones(2)}}},
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_a_state_dict_is_found_in_its_usual_places(place):
    """Under the names projects use."""
    got = state_dict(safe_load(saved(PLACES[place])))
    assert list(got) == list(WEIGHTS)
    assert all(torch.equal(got[key], WEIGHTS[key]) for key in WEIGHTS)


def test_a_module_beside_nothing_is_found_as_yolo_saves_it():
    """`{"model": module, "ema": None}`, and the module under "ema" alone."""
    for value in (
        {"epoch": -1, "model": nn.Linear(2, 2), "ema": None, "train_args": {"a": 1}},
        {"epoch": -1, "model": None, "ema": nn.Linear(2, 2)},
        [1, {"deep": (nn.Linear(2, 2),)}],
    ):
        got = state_dict(safe_load(saved(value), weights_only=False))
        assert list(got) == ["weight", "bias"]


def test_several_modules_are_listed_so_that_one_can_be_chosen():
    """The message says where they are."""
    value = safe_load(
        saved({"encoder": nn.Linear(1, 1), "decoders": [nn.Linear(1, 1)]}),
        weights_only=False,
    )
    with pytest.raises(ValueError) as caught:
        state_dict(value)
    assert "['encoder']" in str(caught.value)
    assert "['decoders'][0]" in str(caught.value)
    assert list(state_dict(value["encoder"])) == ["weight", "bias"]


def test_several_state_dicts_are_listed_so_that_one_can_be_chosen():
    """Which of them is meant, nobody but the caller can know."""
    with pytest.raises(ValueError) as caught:
        state_dict(safe_load(saved({"params": WEIGHTS, "params_ema": dict(WEIGHTS)})))
    assert str(caught.value) == (
        "several mappings of names to tensors; pass one of them:"
        " ['params'], ['params_ema']"
    )


def test_what_torch_has_marked_as_a_state_dict_is_one():
    """Whatever it holds: those of quantised modules hold scales and dtypes."""
    value = nn.Linear(2, 2).state_dict()
    value["scale"], value["dtype"] = 0.5, torch.qint8
    for place in (value, {"any": [value]}):
        got = state_dict(safe_load(saved(place)))
        assert list(got) == ["weight", "bias", "scale", "dtype"]
        assert (got["scale"], got["dtype"]) == (0.5, torch.qint8)


OPTIMISER = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.ones(())}}}
NOTHING = [{}, [], None, {"a": 1}, Opaque("a.B"), 5, {"rng": {"cpu": torch.ones(1)}}]


@pytest.mark.parametrize("value", [*NOTHING, OPTIMISER])
def test_nothing_to_be_found_is_said(value):
    """A `ValueError`: it is a question about a value, not about a file."""
    with pytest.raises(ValueError, match="no module and no mapping"):
        state_dict(value)


def test_a_module_that_contains_itself_is_said():
    """The walk ends."""
    module = Opaque("a.B", state={"_parameters": {}, "_buffers": {}, "_modules": {}})
    module.state["_modules"]["self"] = module
    with pytest.raises(ValueError, match="contains itself"):
        state_dict(module)


def test_a_chain_of_modules_may_be_deep():
    """No recursion."""
    inner = None
    for _ in range(3000):
        children = {"m": inner} if inner is not None else {}
        parts = {"_parameters": {}, "_buffers": {}, "_modules": children}
        inner = Opaque("a.B", state=parts)
    assert state_dict(inner) == {}


def test_modules_that_share_their_children_are_counted_by_name():
    """Sixty modules, each twice the child of the next, have 2**60 names."""
    module = Opaque("m.Leaf", state={"_parameters": {}, "_buffers": {}, "_modules": {}})
    for _ in range(60):
        children = {"a": module, "b": module}
        state = {"_parameters": {}, "_buffers": {}, "_modules": children}
        module = Opaque("m.Twice", state=state)

    with pytest.raises(LimitExceededError) as caught:
        module.state_dict()

    assert caught.value.allowed == 200_000
