"""What `disarm` writes: the same tensors, bit for bit, in a file of our own making."""

from __future__ import annotations

import json
import pickletools
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from safemodel import Limits, Scrub, safe_load
from safemodel._disarm import disarm
from tests.differential import values
from tests.unit.disarm.helpers_disarm import bits, differences, saved

# What a plain file cannot say: parts under their names, or text.
OTHERWISE = {
    "nested", "nested empty", "jagged", "size", "dtypes", "devices", "layouts",
    "schemes", "storages", "cyclic",
}  # fmt: skip


def is_bare_quantized(name: str) -> bool:
    """Say whether a case is a tensor that `safe_load` itself refuses."""
    return name.startswith("dtype q")


@pytest.mark.parametrize(
    "name", [n for n in values.TORCH if n not in OTHERWISE and not is_bare_quantized(n)]
)
def test_tensors_come_through_as_they_were(tmp_path, name):
    """Whatever torch saves, torch loads what is written of it with weights only."""
    data = saved(values.TORCH[name]())
    expected = safe_load(data)

    report = disarm(data, tmp_path / "out.pt")

    loaded = safe_load(tmp_path / "out.pt")
    if not report.changed:
        assert differences(expected, loaded) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = torch.load(tmp_path / "out.pt", weights_only=True)
    assert differences(loaded, stock) == []


def test_a_list_within_itself_is_written_as_such(tmp_path):
    """Containers that can change may hold themselves."""
    ring: list[object] = [torch.ones(2)]
    ring.append(ring)

    disarm(saved(ring), tmp_path / "out.pt")

    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded[1] is loaded
    assert torch.equal(loaded[0], torch.ones(2))


@pytest.mark.parametrize("depth", [1, 2, 300])
def test_what_a_tuple_holds_is_still_itself_afterwards(tmp_path, depth):
    """A text that is first seen inside a tuple, and again behind it."""
    inner: object = ("adam", [1])
    for _ in range(depth - 1):
        inner = ("adam", inner) if depth == 2 else (inner,)
    value = {"first": inner, ("adam", "key"): "key", "name": "adam", "again": inner}

    disarm(saved(value), tmp_path / "out.pt", limits=Limits(max_depth=1000))

    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert repr(loaded) == repr(value)


def shared() -> dict[str, torch.Tensor]:
    """Return tensors that share storages in every way, most of which is not theirs."""
    whole = torch.arange(1000, dtype=torch.float32)
    return {
        "part": whole[100:110], "overlap": whole[105:120], "alone": whole[500:503],
        "step": whole[600:700:10], "tied": whole[100:110],
    }  # fmt: skip


def test_equal_shapes_are_written_once(tmp_path):
    """A tuple for all shapes (2, 3), one for their strides; values stay two values."""
    shape = (2, 3)
    value = [torch.ones(shape), torch.zeros(shape), shape, tuple(range(2, 4))]
    disarm(saved(value), tmp_path / "out.pt")
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        opcodes = pickletools.genops(archive.read("archive/data.pkl"))
    assert [opcode.name for opcode, _, _ in opcodes].count("TUPLE2") == 4
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded[2:] == [shape, shape]
    assert [tuple(tensor.shape) for tensor in loaded[:2]] == [shape, shape]
    assert [tensor.stride() for tensor in loaded[:2]] == [(3, 1), (3, 1)]


def test_bytes_that_no_tensor_reaches_are_not_written(tmp_path):
    """What overlaps keeps sharing; a slice with a step stands for itself."""
    value = shared()
    disarm(saved(value), tmp_path / "out.pt")

    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        sizes = [i.file_size for i in archive.infolist() if "/data/" in i.filename]
    assert sorted(sizes) == [3 * 4, 10 * 4, 20 * 4]
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert differences(value, loaded) == []
    loaded["part"][5] = -1
    assert loaded["overlap"][0] == loaded["tied"][5] == -1


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_flat_files_hold_each_tensor_once(tmp_path, suffix):
    """The same elements under two names are written under the first."""
    value = shared()
    report = disarm(saved({"model": value, "epoch": 3}), tmp_path / f"out{suffix}")

    assert [kept.name for kept in report.tensors] == [
        "model.part", "model.overlap", "model.alone", "model.step",
    ]  # fmt: skip
    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as archive:
            loaded = {name: torch.from_numpy(archive[name]) for name in archive.files}
            notes = json.loads(bytes(loaded.pop("safemodel.json").numpy()))
    else:
        loaded = load_file(tmp_path / "out.safetensors")
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            notes = json.loads(file.metadata()["safemodel"])
    expected = {f"model.{name}": t for name, t in value.items() if name != "tied"}
    assert {name: bits(t) for name, t in loaded.items()} == {
        name: bits(t) for name, t in expected.items()
    }
    assert notes["same"] == {"model.tied": "model.part"}
    assert notes["data"] == {"epoch": 3}


ODD = torch.tensor(
    [0x7FC00001, 0x7F800001, 0x80000000, 1, 0x7F800000], dtype=torch.int64
)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_payloads_of_nan_and_signs_of_zero_are_kept(tmp_path, suffix):
    """Every bit: signalling NaNs, minus zero, the smallest number, no dimension."""
    tensor = ODD.to(torch.int32).view(torch.float32)
    value = {"odd": tensor, "scalar": tensor[1].clone(), "none": torch.empty(0, 3)}
    disarm(saved(value), tmp_path / f"out{suffix}")

    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as archive:
            loaded = {name: torch.from_numpy(archive[name]) for name in archive.files}
    else:
        loaded = dict(safe_load(tmp_path / f"out{suffix}"))
    assert {name: (bits(t), t.shape) for name, t in loaded.items()} == {
        name: (bits(t), t.shape) for name, t in value.items()
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_scrubbed_weights_keep_all_but_their_low_bits(tmp_path, suffix):
    """Floats lose twelve bits, in every layout; integers and arrays of them none."""
    torch.manual_seed(0)
    wide = torch.randn(2000, 300)
    value = {
        "wide": wide, "view": wide[:, ::2], "ints": torch.arange(9),
        "half": torch.randn(5).half(), "array": torch.randn(40).numpy(),
    }  # fmt: skip
    report = disarm(saved(value), tmp_path / f"out{suffix}", scrub=Scrub())

    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as archive:
            loaded = {name: torch.from_numpy(archive[name]) for name in value}
    else:
        loaded = dict(safe_load(tmp_path / f"out{suffix}"))
    assert {kept.name: kept.scrubbed_bits for kept in report.tensors} == {
        "wide": 12, "view": 12, "ints": 0, "half": 0, "array": 12,
    }  # fmt: skip
    for name in ("wide", "view", "array"):
        before, after = torch.as_tensor(value[name]), torch.as_tensor(loaded[name])
        changed = before.contiguous().view(torch.int32) ^ after.view(torch.int32)
        assert changed.max() < 1 << 12
        assert changed.min() >= 0
        assert (changed != 0).double().mean() > 0.9
    assert torch.equal(loaded["ints"], value["ints"])
    assert bits(loaded["half"]) == bits(value["half"])


def test_whatever_becomes_something_else_is_counted(tmp_path):
    """Constants of torch, storages, nested tensors, numbers of numpy, and the like."""
    large = 1 << 3000
    value = {
        "dtype": torch.float32, "device": torch.device("cpu"), "size": torch.Size([1]),
        "layout": torch.strided, "numbers": [np.float32(1), np.int64(2)],
        "large": [large, large], "storage": torch.ones(2).untyped_storage(),
        "nested": values.quiet(values.nested)(),
    }  # fmt: skip
    expected = {
        "dtype": 1, "device": 1, "size": 1, "layout": 1, "float32": 1, "int64": 1,
        "int": 2, "storage": 1, "nested tensor": 1,
    }  # fmt: skip
    for suffix in (".pt", ".safetensors", ".npz"):
        report = disarm(saved(value), tmp_path / f"out{suffix}")
        assert report.changed == expected
