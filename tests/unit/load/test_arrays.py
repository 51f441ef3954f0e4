"""`.npy` and `.npz`: what numpy writes comes back, object arrays included."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import safemodel
from safemodel import safe_load
from tests.differential.pickles import assemble, instance
from tests.differential.same import assert_same
from tests.differential.values import NUMPY, objects

ARRAYS = {
    name: make
    for name, make in NUMPY.items()
    if name.startswith("array ") and name != "array objects"
}


def npy(array, **arguments):
    file = io.BytesIO()
    np.save(file, array, **arguments)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_numpy_loads_it(name, tmp_path):
    """Every dtype, order and structure; numpy is asked without pickles."""
    data = npy(ARRAYS[name](), allow_pickle=False)
    expected = np.load(io.BytesIO(data), allow_pickle=False)
    assert_same(expected, safe_load(data))
    path = tmp_path / "array"
    path.write_bytes(data)
    for got in (safe_load(path), safe_load(path, mmap=True)):
        assert_same(np.array(expected), np.array(got))
        assert got.dtype == expected.dtype


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_comes_back_as_a_dictionary(packed):
    """Stored or deflated."""
    arrays = {f"a{index}": ARRAYS[name]() for index, name in enumerate(ARRAYS)}
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    got = safe_load(file.getvalue())
    assert list(got) == list(arrays)
    with np.load(io.BytesIO(file.getvalue()), allow_pickle=False) as expected:
        assert_same({name: expected[name] for name in arrays}, got)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_object_array_comes_back_element_by_element(order):
    """Through the same machine as any pickle."""
    array = np.asarray(objects(), order=order)
    got = safe_load(npy(array, allow_pickle=True))
    assert got.shape == array.shape
    assert_same(array.ravel().tolist(), got.ravel().tolist())
    file = io.BytesIO()
    np.savez(file, plain=np.arange(3), objects=array)
    assert_same(np.arange(3), safe_load(file.getvalue())["plain"])


def test_an_object_array_is_refused_for_what_is_in_it():
    """Alone and in an archive, where the error names the record."""
    header = npy(np.array([None], dtype=object), allow_pickle=True)
    start = header.index(b"\x80")
    evil = header[:start] + assemble(instance("evil.Thing"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("good.npy", npy(np.arange(3)))
        archive.writestr("evil.npy", evil)
    for data, record in ((evil, ""), (file.getvalue(), "evil.npy")):
        with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
            safe_load(data)
        assert (caught.value.module, caught.value.record) == ("evil", record)


def test_an_array_that_ends_early_is_truncated():
    """The header says more than there is."""
    data = npy(np.arange(10, dtype="<i8"))
    with pytest.raises(safemodel.TruncatedFileError) as caught:
        safe_load(data[:-1])
    assert (caught.value.needed, caught.value.available) == (80, 79)
