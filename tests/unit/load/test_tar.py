"""The tar archive of torch 0.1."""

from __future__ import annotations

import io
import tarfile

import pytest
import torch

import safemodel
from safemodel import safe_load
from tests.differential.pickles import Made, assemble
from tests.differential.same import assert_same
from tests.differential.torch_tar import Old, tar

NUMBERS = torch.arange(6.0)
LONGS = torch.arange(4)
STORAGES = [(11, "Float", NUMBERS), (12, "Long", LONGS)]
TENSORS = [
    (21, 11, "Float", (2, 3), (3, 1), 0),
    (22, 11, "Float", (3,), (1,), 2),
    (23, 12, "Long", (4,), (1,), 0),
]


def test_tensors_and_storages_come_back_with_their_sharing():
    """Two tensors of one storage; a tensor used twice; a storage by itself."""
    first, second, third = Old(21), Old(22), Old(23)
    value = {"a": first, "again": first, "b": second, "c": [third], "n": 1}
    got = safe_load(tar(value, STORAGES, TENSORS))
    base = NUMBERS.clone()
    a = base.view(2, 3)
    assert_same({"a": a, "again": a, "b": base[2:5], "c": [LONGS], "n": 1}, got)


def test_a_storage_by_itself_and_a_view_of_one():
    """Views of storages share the bytes of their root."""
    views = [(13, 11, 1, 2)]
    got = safe_load(tar([Old(12), Old(13)], STORAGES, [], views))
    assert [type(part) for part in got] == [torch.storage.TypedStorage] * 2
    assert got[0]._untyped_storage.tolist() == LONGS.untyped_storage().tolist()
    assert got[1].dtype is torch.float32
    assert got[1]._untyped_storage.nbytes() == 8


def test_its_pickle_is_under_the_same_policy(canary):
    """torch ran it: CVE-2025-32434."""
    archive = tar([], STORAGES, TENSORS)
    evil = assemble(Made("safemodel.testing.trip", ("ran",), new=False))
    file = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        tarfile.open(fileobj=file, mode="w") as new,
    ):
        for info in old.getmembers():
            content = old.extractfile(info).read()
            if info.name == "pickle":
                content, info.size = evil, len(evil)
            new.addfile(info, io.BytesIO(content))
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safe_load(file.getvalue())
    assert (caught.value.module, caught.value.name) == ("safemodel.testing", "trip")
    assert caught.value.record == "pickle"


@pytest.mark.parametrize(
    "view",
    [
        (21, 11, "Float", (7,), (1,), 0),
        (21, 11, "Float", (2, 3), (4, 1), 0),
        (21, 11, "Float", (3,), (1,), 4),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(view):
    """As any view is."""
    with pytest.raises(safemodel.StorageBoundsError):
        safe_load(tar([Old(21)], STORAGES, [view]))
    fits = (21, 11, "Float", (3,), (1,), 3)
    assert safe_load(tar([Old(21)], STORAGES, [fits]))[0].tolist() == [3.0, 4.0, 5.0]


def test_a_key_that_is_not_there_is_malformed():
    """The message says which."""
    with pytest.raises(safemodel.MalformedFileError, match="no tensor or storage 99"):
        safe_load(tar([Old(99)], STORAGES, TENSORS))


def test_an_archive_of_something_else_is_no_model():
    """None of the members there are; with some of them it is malformed."""
    for name, error, match in (
        (
            "readme.txt",
            safemodel.UnsupportedFormatError,
            "a tar archive that is no model",
        ),
        ("pickle", safemodel.MalformedFileError, "has no member sys_info"),
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
        with pytest.raises(error, match=match):
            safe_load(file.getvalue())
