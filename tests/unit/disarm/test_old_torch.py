"""What the restricted loaders of older torch can read of what is written.

The tables are facts about releases: what `torch/_weights_only_unpickler.py` of each
accepts. The module itself is other people's, and not here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from safemodel import disarm
from safemodel._rewrite.readback import FUNCTIONS, OPCODES
from tests.unit.disarm.helpers_disarm import saved

SINCE_2_0 = {"BINFLOAT"}
"""Opcodes of ours that torch 1.13 lacks: no call it allows makes a float, either."""
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
