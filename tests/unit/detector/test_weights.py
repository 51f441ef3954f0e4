"""Weights of files, modules and mappings: which, in what pieces, and what for."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from safemodel._build.dtypes import quietly
from safemodel._detector import weights as module
from safemodel._detector.roles import optimiser_paths, role_of
from safemodel._detector.weights import (
    weights_of_file,
    weights_of_mapping,
    weights_of_module,
)
from safemodel.errors import UnsupportedFormatError


def joined(items):
    """Return the words of each tensor, its pieces checked and put together."""
    found = {}
    for item in items:
        assert item.bits.ndim == 1
        assert item.bits.flags.c_contiguous
        words, dtype, role, size = found.get(item.name, ([], item.dtype, item.role, 0))
        assert (item.dtype, item.role) == (dtype, role)
        assert item.start == size
        found[item.name] = ([*words, item.bits], dtype, role, size + item.bits.size)
        assert size + item.bits.size <= item.size
    return {n: (np.concatenate(w), d, r) for n, (w, d, r, _) in found.items()}


def words_of(tensor):
    """Return the bit patterns of a tensor."""
    data = tensor.detach().contiguous().reshape(-1)
    return data.view(torch.uint8).numpy().view(f"u{data.element_size()}")


def network():
    """Return a small network with a buffer and tied weights."""
    torch.manual_seed(1)
    layers = torch.nn.Sequential(
        torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40), torch.nn.Linear(40, 30)
    )
    layers.append(torch.nn.Linear(30, 40, bias=False))
    layers[3].weight = layers[0].weight
    return layers


def checkpoint():
    """Return what a training run saves, after a step."""
    net = network()
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.randn(8, 30)).square().mean().backward()
    optimiser.step()
    return {"model": net.state_dict(), "opt": optimiser.state_dict(), "epoch": 3}


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors", "npz"])
def test_every_format_gives_the_same_words(form, tmp_path):
    """Of all tensors, in the order of the file, with their dtypes."""
    state = network().state_dict()
    path = tmp_path / f"model.{form}"
    if form == "safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    elif form == "npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        zipped = form == "pt"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = joined(weights_of_file(path))
    tied = {"3.weight"} if form in ("pt", "legacy") else set()
    names = {name.removesuffix(".npy") for name in found}
    assert names == state.keys() - tied
    for name, (words, dtype, _) in found.items():
        tensor = state[name.removesuffix(".npy")]
        assert words.tolist() == words_of(tensor).tolist()
        assert dtype == str(tensor.dtype).removeprefix("torch.")


def test_roles_are_told_apart(tmp_path):
    """Weights, statistics of a layer, and the moments of an optimiser."""
    path = tmp_path / "checkpoint.pt"
    torch.save(checkpoint(), path)
    for found in (
        joined(weights_of_file(path)),
        joined(weights_of_mapping(checkpoint())),
    ):
        roles = {name: role for name, (_, _, role) in found.items()}
        assert roles["model.0.weight"] == "weight"
        assert roles["model.1.running_var"] == "buffer"
        assert roles["model.1.num_batches_tracked"] == "buffer"
        states = {r for n, r in roles.items() if n.startswith("opt.state.")}
        assert states == {"optimiser"}


def test_a_module_gives_parameters_and_buffers_once():
    """Tied weights once; buffers by what they are, not by their names."""
    net = network()
    net.register_buffer("odd", torch.randn(5))
    found = joined(weights_of_module(net))
    assert found["odd"][2] == "buffer"
    assert "3.weight" not in found
    assert found["0.weight"][0].tolist() == words_of(net[0].weight).tolist()


def test_large_tensors_come_in_pieces(monkeypatch, tmp_path):
    """Whole pieces but the last; rows that lie apart in a storage too."""
    monkeypatch.setattr(module, "PIECE", 64)
    base = torch.randn(40, 50)
    path = tmp_path / "strided.pt"
    torch.save({"a": base, "b": base.t(), "c": base[::3, 1::2]}, path)
    items = list(weights_of_file(path))
    assert {item.bits.size for item in items if item.name == "a"} == {64, 2000 % 64}
    found = joined(items)
    for name, value in (("a", base), ("b", base.t()), ("c", base[::3, 1::2])):
        assert found[name][0].tolist() == words_of(value).tolist()


def test_what_no_tensor_reaches_is_slack(tmp_path):
    """Three numbers of a storage of a thousand: the others come by themselves."""
    whole = torch.randn(1000)
    path = tmp_path / "slack.pt"
    torch.save({"bound": whole[500:503]}, path)
    found = joined(weights_of_file(path))
    slack = [words for words, _, role in found.values() if role == "slack"]
    assert [len(words) for words in slack] == [500, 497]
    rest = torch.cat((whole[:500], whole[503:]))
    assert np.concatenate(slack).tolist() == words_of(rest).tolist()


def test_shards_are_read_through_their_index(tmp_path):
    """By the index, or by the folder that has one; other folders are refused."""
    state = {"a": torch.randn(100), "b": torch.randn(7)}
    for name, value in state.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in state}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    for given in (path, tmp_path):
        found = joined(weights_of_file(given))
        assert {n: w.tolist() for n, (w, _, _) in found.items()} == {
            name: words_of(value).tolist() for name, value in state.items()
        }
    path.unlink()
    with pytest.raises(ValueError, match=r"no \*\.index\.json"):
        list(weights_of_file(tmp_path))


def test_kinds_of_tensors_are_read_by_their_words():
    """Complex numbers as two floats, quantised ones as integers, sparse by values."""
    dense = torch.randn(6, 6).relu()
    with quietly():
        scale = torch.quantize_per_tensor(dense, 0.05, 3, torch.quint8)
        rows = dense.to_sparse_csr()
    found = joined(weights_of_mapping({
        "c": torch.randn(5, dtype=torch.complex64), "q": scale,
        "s": dense.to_sparse(), "r": rows, "b": dense.bfloat16(),
        "n": [np.arange(4.0), {"deep": np.float32([1, 2])}], "text": "none",
    }))  # fmt: skip
    assert found["c"][1:] == ("float32", "weight")
    assert len(found["c"][0]) == 10
    assert found["q"][0].tolist() == scale.int_repr().reshape(-1).tolist()
    assert found["s"][0].tolist() == words_of(dense[dense > 0]).tolist()
    assert found["r"][0].tolist() == found["s"][0].tolist()
    assert found["b"][0].tolist() == words_of(dense.bfloat16()).tolist()
    assert found["n.1.deep"][0].tolist() == words_of(torch.tensor([1.0, 2.0])).tolist()
    with pytest.raises(TypeError, match="no mapping"):
        list(weights_of_mapping([1]))


def test_containers_within_themselves_end():
    """A mapping that holds itself is walked once."""
    inside = {"a": torch.ones(3)}
    inside["again"] = inside
    inside["list"] = [inside]
    assert list(joined(weights_of_mapping(inside))) == ["a"]


def test_what_is_no_model_is_refused(tmp_path):
    """With the error of `safe_load`."""
    path = tmp_path / "page.pt"
    path.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(UnsupportedFormatError):
        list(weights_of_file(path))


def test_roles_follow_structure_before_names():
    """An optimiser under another name; a moment without one; numbers of indices."""
    paths = optimiser_paths(["x.solver.param_groups.0.lr", "x.solver.state.0.p"])
    assert paths == ("x.solver.state.",)
    assert role_of("x.solver.state.0.p", "float32", paths) == "optimiser"
    assert role_of("y.exp_avg_sq", "float32") == "optimiser"
    assert role_of("y.table", "int64") == "buffer"
    assert role_of("statement.weight", "float32", paths) == "weight"
