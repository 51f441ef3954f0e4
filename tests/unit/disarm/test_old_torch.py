"""What the restricted loaders of older torch can read of what is written.

The tables are facts about releases: what `torch/_weights_only_unpickler.py` of each
accepts. The module itself is other people's, and not here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch

from safemodel import UnsupportedFormatError, disarm
from safemodel._rewrite.readback import FUNCTIONS, OPCODES
from tests.unit.disarm.helpers_disarm import saved

SINCE_2_0 = {"BINFLOAT"}
"""Opcodes of ours that torch 1.13 lacks: no call it allows returns a float, either."""
NEWER = {
    "torch._utils _rebuild_qtensor": "2.4",
    "torch._utils _rebuild_tensor_v3": "2.2",
    "torch.storage UntypedStorage": "2.2, where _rebuild_tensor_v3 is",
}
"""Functions of ours that came later; all others are in 1.13."""
OPCODES_1_13 = set(
    "APPEND APPENDS BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD"
    " EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT"
    " MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS SHORT_BINSTRING"
    " STOP TUPLE TUPLE1 TUPLE2 TUPLE3".split()
)


def test_all_opcodes_but_one_are_those_of_1_13():
    """Whoever adds one to the writer has to say which torch reads it."""
    assert OPCODES - OPCODES_1_13 == SINCE_2_0
    assert NEWER.keys() < FUNCTIONS


def said(path) -> tuple[set[str], set[str]]:
    """Return the opcodes and the globals of a written file."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("archive/data.pkl")
    found = list(pickletools.genops(data))
    return {op.name for op, _, _ in found}, {
        str(argument) for op, argument, _ in found if op.name == "GLOBAL"
    }


def test_weights_are_written_for_1_13(tmp_path):
    """A state dict with its metadata, a parameter, integers, text, tied tensors."""
    tied = torch.ones(3)
    state = OrderedDict(torch.nn.BatchNorm2d(4).state_dict())
    state._metadata = {"": {"version": 2}}
    value = {"state": state, "p": torch.nn.Parameter(tied), "tied": tied, "n": [1, "x"]}
    disarm(saved(value), tmp_path / "out.pt")
    opcodes, names = said(tmp_path / "out.pt")
    assert opcodes <= OPCODES_1_13
    assert not names & NEWER.keys()


NAN = struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\xff")[0]


def test_no_float_is_written_for_1_13(tmp_path):
    """Each is a tensor with the same bits, the same one where it was shared."""
    shared = [0.1]
    value = {
        "lr": 0.001, "betas": (0.9, 0.999), "a": shared, "b": shared, "nan": NAN,
        "n": 3, "c": complex(1, -0.0), "ns": Namespace(x=float("-inf")),
        0.5: "key", (1, 0.5): "part of one", "0.5": "taken",
    }  # fmt: skip
    report = disarm(saved(value), tmp_path / "out.pt", format="pt-1.13")
    opcodes, names = said(tmp_path / "out.pt")
    assert opcodes <= OPCODES_1_13
    assert not names & NEWER.keys()
    assert report.out_format == "pt"
    # Eight floats that are values, and two that are (part of) a key.
    assert report.changed == {"float": 10, "complex": 1, "Namespace": 1}
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded["a"] is loaded["b"]
    assert loaded["n"] == 3
    pairs = [
        (loaded["lr"], 0.001), (loaded["betas"][1], 0.999), (loaded["a"][0], 0.1),
        (loaded["nan"], NAN), (loaded["c"][1], -0.0),
        (loaded["ns"]["x"], float("-inf")),
    ]  # fmt: skip
    for tensor, number in pairs:
        assert tensor.dtype is torch.float64
        assert tensor.shape == ()
        assert tensor.numpy().tobytes() == struct.pack("<d", number)
    assert loaded["0.5"] == "taken"
    assert loaded["0.5~2"] == "key"
    assert loaded[1, "0.5"] == "part of one"


def test_floats_stay_floats_otherwise(tmp_path):
    """Whoever does not ask for the old form keeps them."""
    disarm(saved({"lr": 0.001}), tmp_path / "out.pt")
    assert type(torch.load(tmp_path / "out.pt", weights_only=True)["lr"]) is float


def test_sparse_tensors_are_written_for_1_13(tmp_path):
    """Its function takes no mark that they are coalesced."""
    value = {"coo": torch.eye(3).to_sparse().coalesce()}
    report = disarm(saved(value), tmp_path / "out.pt", format="pt-1.13")
    assert report.changed == {"coalesced": 1}
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)["coo"]
    assert not loaded.is_coalesced()
    assert loaded.to_dense().equal(torch.eye(3))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2).to(torch.float8_e5m2),
        lambda: torch.ones(2, dtype=torch.uint16),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.empty(2, dtype=torch.bool, device="meta"),
        lambda: torch.eye(2).to_sparse_csr(),
    ],
    ids=["float8", "uint16", "quantised", "meta", "csr"],
)
def test_what_1_13_does_not_read_is_refused(tmp_path, make):
    """By name, and with nothing written; a folder goes on without the file."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pt").write_bytes(saved({"t": make()}))
    (tmp_path / "in" / "b.pth").write_bytes(saved({"x": 0.5}))
    with pytest.raises(
        UnsupportedFormatError, match=r"torch 1\.13 reads no tensors of"
    ):
        disarm(tmp_path / "in" / "a.pt", tmp_path / "out.pt", format="pt-1.13")
    report = disarm(tmp_path / "in", tmp_path / "out", format="pt-1.13")
    assert [(one.kind, one.name) for one in report.left_behind] == [("refused", "a.pt")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    opcodes, _ = said(tmp_path / "out" / "b.pth")
    assert opcodes <= OPCODES_1_13


@pytest.mark.parametrize("dtype", ["u2", ">u4", "<u8"])
def test_arrays_of_wide_unsigned_integers_are_written_for_old_torch(tmp_path, dtype):
    """As the bits of signed ones, with a name; from a pickle as from an .npy file."""
    array = np.array([[0, 1], [2**15, 2**16 - 1]], dtype)
    path = tmp_path / "array.npy"
    np.save(path, array)
    for source in (pickle.dumps({"a": array}), path):
        disarm(source, tmp_path / "out.pt", overwrite=True)
        _, names = said(tmp_path / "out.pt")
        assert not names & NEWER.keys()
        loaded = torch.load(tmp_path / "out.pt", weights_only=True)
        loaded = loaded.get("a", loaded)
        values = loaded["values"].numpy().view(loaded["dtype"])
        assert np.array_equal(values, array)
        assert values.dtype == array.dtype.newbyteorder("<")
    disarm(path, tmp_path / "out.npz")
    (stored,) = [a for n, a in np.load(tmp_path / "out.npz").items() if a.ndim == 2]
    assert np.array_equal(stored, array)


@pytest.mark.skipif(
    np.finfo(np.longdouble).nmant != 63, reason="no ten-byte numbers on this machine"
)
def test_bytes_between_numbers_are_not_handed_on(tmp_path):
    """A long double is ten bytes of sixteen."""
    array = np.array([1.5, -2.25], np.longdouble)
    raw = array.view(np.uint8).reshape(-1, 16)
    raw[:, 10:] = list(b"SECRET")
    disarm(pickle.dumps({"a": array}), tmp_path / "out.pt")
    assert b"SECRET" not in (tmp_path / "out.pt").read_bytes()
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)["a"]
    back = loaded["bytes"].numpy().view(loaded["dtype"])
    assert back.tolist() == array.tolist()


def test_a_gradient_that_torch_cannot_rebuild_is_not_asked_for(tmp_path):
    """torch fails on its own file; ours has the bits, and says what it lacks."""
    tensor = torch.ones(4).to(torch.float8_e4m3fn).requires_grad_()
    parameter = torch.nn.Parameter(torch.ones(4).to(torch.float8_e5m2))
    data = saved({"t": tensor, "p": parameter})
    with pytest.raises(RuntimeError, match="requires grad"):
        torch.load(io.BytesIO(data), weights_only=True)
    report = disarm(data, tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert report.changed == {"requires_grad of float8_e4m3fn": 1}
    assert bytes(loaded["t"].view(torch.uint8)) == bytes(
        tensor.detach().view(torch.uint8)
    )
    assert loaded["p"].requires_grad
