"""`inspect_file` lists what a file holds without building it."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from safemodel import STRICT, inspect_file
from safemodel.reports import Status
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import EVIL


def saved(value: object, **options: object) -> bytes:
    """Return what torch.save writes."""
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_have_names_dtypes_shapes_and_bytes(zipped):
    """By the path to them, in the order of the file."""
    value = {
        "model": OrderedDict(w=torch.zeros(2, 3), b=torch.zeros(3, dtype=torch.int8)),
        "list": [torch.ones((), dtype=torch.complex64)],
        "array": np.zeros((4, 2), dtype="f4"),
        "parameter": nn.Parameter(torch.zeros(5, dtype=torch.bfloat16)),
    }
    report = inspect_file(saved(value, _use_new_zipfile_serialization=zipped))
    listed = [(t.name, t.dtype, t.shape, t.nbytes) for t in report.tensors]
    assert listed == [
        ("model.w", "float32", (2, 3), 24),
        ("model.b", "int8", (3,), 3),
        ("list[0]", "complex64", (), 8),
        ("array", "<f4", (4, 2), 32),
        ("parameter", "bfloat16", (5,), 10),
    ]
    assert report.unreachable == ()
    assert (report.status, report.path) == (Status.CLEAN, "")


def test_tied_tensors_name_one_storage():
    """Both are listed, with the same storage."""
    weight = torch.zeros(4)
    report = inspect_file(saved({"a": weight, "b": weight[1:]}))
    first, second = report.tensors
    assert first.storage == second.storage == "archive/data/0"
    assert (second.shape, second.nbytes) == ((3,), 12)


def test_sparse_and_quantised_tensors_are_listed():
    """With the bytes of all their parts."""
    sparse = torch.eye(3).to_sparse()
    with warnings.catch_warnings():
        # torch 2.13 warns that quantised tensors will go.
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    report = inspect_file(saved([sparse, quantised]))
    listed = [(t.kind, t.dtype, t.shape, t.nbytes) for t in report.tensors]
    assert listed == [
        ("sparse_coo", "float32", (3, 3), 2 * 3 * 8 + 3 * 4),
        ("quantized", "qint8", (4,), 4),
    ]


def test_the_tensors_of_a_whole_module_are_listed():
    """Though `safe_load` refuses its classes unless told otherwise."""
    data = saved(nn.Linear(2, 3))
    report = inspect_file(data)
    strict = inspect_file(data, policy=STRICT)
    names = {tensor.name for tensor in report.tensors}
    assert names == {"_parameters.weight", "_parameters.bias"}
    assert not report.refused
    assert "torch.nn.modules.linear.Linear" in report.globals
    assert (strict.error, strict.tensors) == ("ForbiddenGlobalError", ())


def test_records_nothing_uses_are_listed():
    """A storage that no tensor refers to."""
    data = torch_zip({"archive/data.pkl": b"\x80\x02}.", "archive/data/7": b"1234"})
    assert inspect_file(data).unreachable == ("archive/data/7",)


def test_a_storage_that_was_dropped_is_unreachable():
    """The pickle refers to it, and the result does not."""
    tensor = saved(torch.zeros(4))
    with zipfile.ZipFile(io.BytesIO(tensor)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = members["archive/data.pkl"][:-1]
    members["archive/data.pkl"] = body + b"0}."
    report = inspect_file(torch_zip(members))
    assert report.tensors == ()
    assert report.unreachable == ("archive/data/0",)


def test_a_file_object_stays_where_it_was():
    """Looking is not reading: the caller may load from it next."""
    file = io.BytesIO(b"junk" + saved({"a": torch.zeros(1)}))
    file.seek(4)
    assert len(inspect_file(file).tensors) == 1
    assert file.tell() == 4


def test_what_would_have_run_is_reported_for_bytes_too():
    """Opaque mode refuses nothing, and hides nothing."""
    report = inspect_file(EVIL)
    assert not report.refused
    assert [one.name for one in report.findings] == ["os.system"]


def test_what_cannot_be_opened_raises(tmp_path):
    """There is no report about no file."""
    with pytest.raises(FileNotFoundError):
        inspect_file(tmp_path / "missing.pt")
    with pytest.raises(TypeError):
        inspect_file(7)


def test_a_tensor_named_again_and_again_is_not_listed_each_time():
    """Ten thousand further names are; what comes after them is listed all the same."""
    one = torch.zeros(1)
    report = inspect_file(saved([*[one] * 12_000, torch.ones(2)]))
    assert len(report.tensors) == 10_002
    assert report.tensors[-1].shape == (2,)
    (finding,) = report.findings
    assert finding.code == "more-findings"
    assert finding.message.startswith("1,999 more names")


def test_names_of_deep_members_are_cut():
    """Else a list of a million, two hundred deep, has a million long names."""
    value: object = torch.zeros(1)
    for _ in range(200):
        value = [value]
    (listed,) = inspect_file(saved(value)).tensors
    assert len(listed.name) == 200
    assert listed.name.startswith("...")
