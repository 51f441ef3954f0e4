"""What is not handed on is counted."""

from __future__ import annotations

import zipfile
from collections import OrderedDict

import pytest
import torch

from safemodel import disarm
from safemodel._disarm import left_behind
from tests.unit.disarm.helpers_disarm import saved


def archive(path, value, more, comment=b""):
    """Write an archive of torch with more records and a comment."""
    (path / "plain.pt").write_bytes(saved(value))
    with (
        zipfile.ZipFile(path / "plain.pt") as plain,
        zipfile.ZipFile(path / "in.pt", "w") as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
        for name, data in more.items():
            packed.writestr(f"{name}", data)
        packed.comment = comment
    return path / "in.pt"


def found(report):
    """Return kind, name and size of what was left behind, without headers."""
    return {
        (one.kind, one.name): one.size
        for one in report.left_behind
        if one.kind != "headers"
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_records_comments_and_storage_bytes_are_counted(tmp_path, suffix):
    """A tensor is a tenth of its storage; a slice with a step reaches its elements."""
    whole = torch.randn(1000)
    value = {"part": whole[:100], "step": whole[500:600:10], "all": torch.ones(7)}
    more = {"archive/notes.txt": b"secret", "archive/data/77": b"x" * 500}
    source = archive(tmp_path, value, more, b"hidden")

    report = disarm(source, tmp_path / f"out{suffix}")

    assert found(report) == {
        ("record", "archive/notes.txt"): 6, ("record", "archive/data/77"): 500,
        ("comment", ""): 6, ("storage", "archive/data/0"): (1000 - 100 - 10) * 4,
    }  # fmt: skip
    (headers,) = [one for one in report.left_behind if one.kind == "headers"]
    stored = sum(i.compress_size for i in zipfile.ZipFile(source).infolist())
    assert headers.size == source.stat().st_size - stored - 6
    assert b"secret" not in (tmp_path / f"out{suffix}").read_bytes()


def test_bytes_behind_the_end_are_counted(tmp_path):
    """Of a pickle, and of the stream torch wrote before 1.6."""
    report = disarm(b"\x80\x02K\x01.trailing", tmp_path / "out.pt")
    assert found(report) == {("bytes", ""): 8}
    assert [one.code for one in report.anomalies] == ["bytes-after-end"]
    stream = saved({"w": torch.ones(3)}, _use_new_zipfile_serialization=False)
    report = disarm(stream + b"more", tmp_path / "legacy.pt")
    assert found(report) == {("bytes", ""): 4}
    assert found(disarm(stream, tmp_path / "whole.pt")) == {}


def test_the_list_is_cut_with_a_sum(tmp_path, monkeypatch):
    """The largest stay; one line stands for all others."""
    monkeypatch.setattr(left_behind, "_MOST", 2)
    more = {f"archive/x{size}": b"?" * size for size in (5, 40, 30, 6)}
    report = disarm(archive(tmp_path, {}, more), tmp_path / "out.pt")
    records = [one for one in report.left_behind if one.kind == "record"]
    assert [(one.name, one.size) for one in records] == [
        ("archive/x40", 40),
        ("archive/x30", 30),
        ("2 more", 11),
    ]


def test_hostile_names_are_escaped(tmp_path):
    """A report can be printed as it is."""
    source = archive(tmp_path, {}, {"archive/\u202ea": b"12"})
    report = disarm(source, tmp_path / "out.pt")
    (name,) = [one.name for one in report.left_behind if one.size == 2]
    assert name.isascii()
    assert name.isprintable()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_attributes_that_are_dropped_are_counted(tmp_path, suffix):
    """Those of a state dict but for its metadata, and those of tensors."""
    state = torch.nn.Linear(2, 2).state_dict()
    state.hint = "gone"
    state.note = "gone"
    plain = OrderedDict(a=1)
    plain.note = torch.ones(3)
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.hint = "gone"
    tensor = torch.ones(2)
    tensor.first, tensor.second = 1, 2
    source = tmp_path / "in.pt"
    source.write_bytes(
        saved({"state": state, "plain": plain, "weight": weight, "tensor": tensor})
    )

    report = disarm(source, tmp_path / f"out{suffix}")

    counted = {
        one.name: one.why.split()[0]
        for one in report.left_behind
        if one.kind == "attribute"
    }
    assert counted == {"collections.OrderedDict": "3", "torch.Tensor": "3"}
    assert b"gone" not in (tmp_path / f"out{suffix}").read_bytes()


def test_nothing_is_counted_where_there_is_nothing(tmp_path):
    """Metadata alone, an empty state, and none."""
    source = tmp_path / "in.pt"
    state = torch.nn.Linear(2, 2).state_dict()
    weight = torch.nn.Parameter(torch.zeros(2))
    source.write_bytes(saved({"state": state, "weight": weight, "e": OrderedDict()}))

    report = disarm(source, tmp_path / "out.pt")

    assert "attribute" not in {one.kind for one in report.left_behind}


def test_one_state_may_serve_any_number_of_values(tmp_path):
    """The count is of all of them; it takes no time for each attribute."""
    state = b"}(" + b"".join(b"X\x03\0\0\0%03dN" % at for at in range(300)) + b"u"
    one = b"ccollections\nOrderedDict\n)Rh\x00b"
    source = tmp_path / "in.pkl"
    source.write_bytes(b"\x80\x02]" + b"(" + state + b"q\x00" + one * 400 + b"e.")

    report = disarm(source, tmp_path / "out.pt")

    (found,) = [o for o in report.left_behind if o.kind == "attribute"]
    assert found.why.startswith("120,000 ")
