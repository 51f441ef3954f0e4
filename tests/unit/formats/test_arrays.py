"""`.npy` and `.npz`: sizes proved before anything is made, objects read as pickles."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

import safemodel
from safemodel._graph.array_specs import ArraySpec, ObjectArraySpec
from safemodel.errors import (
    ChecksumError,
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
)
from safemodel.limits import Limits
from safemodel.policy import SALVAGE


def npy(descr: str, shape: str, content: bytes = b"", fortran: bool = False) -> bytes:
    """Return a file with that header, true or not."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"
    raw = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + content


def objects(*items: object) -> bytes:
    """Return the file numpy writes for an array of objects."""
    out = io.BytesIO()
    np.save(out, np.array([*items, None], dtype=object), allow_pickle=True)
    return out.getvalue()


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_an_array_takes_the_bytes_of_its_shape(read):
    """What follows belongs to whoever reads on."""
    loaded = read(npy("'<f4'", "(2, 3)", bytes(24) + b"more", fortran=True))
    spec = loaded.root
    assert type(spec) is ArraySpec
    assert (spec.shape, spec.fortran, spec.dtype.descr) == ((2, 3), True, "<f4")
    assert spec.data.size == 24
    assert loaded.consumed == len(npy("'<f4'", "(2, 3)", bytes(24), fortran=True))


def test_an_array_without_all_of_its_bytes_is_truncated(read):
    """One byte too few."""
    with pytest.raises(TruncatedFileError) as caught:
        read(npy("'<f4'", "(2, 3)", bytes(23)))
    assert (caught.value.needed, caught.value.available) == (24, 23)


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'|u1'", f"({1 << 61}, 2, 0)"),
        ("'<f4'", f"({1 << 60}, 0)"),
        ("'|V0'", f"({1 << 62},)"),
        ("[('a', '<f4', (0,))]", f"({1 << 31}, {1 << 31}, 0)"),
        ("'|u1'", f"(0, {10**19})"),
    ],
)
def test_axes_that_numpy_cannot_multiply_are_malformed(read, descr, shape):
    """Although an axis of no length, or a dtype of none, makes the bytes none."""
    with pytest.raises(MalformedFileError) as caught:
        read(npy(descr, shape))
    assert caught.value.reason == "the number of elements is out of range"


@pytest.mark.parametrize("shape", [(0, (1 << 61) - 1), (3, 0, 5), (), (0,)])
def test_axes_that_it_can_multiply_are_built(shape):
    """Up to the last one, by numpy itself."""
    content = bytes(1) if shape == () else b""
    array = safemodel.safe_load(npy("'|u1'", repr(shape), content))
    assert (array.shape, array.nbytes) == (shape, len(content))


@pytest.mark.parametrize("descr", ["'|V0'", "'|S0'", "[('a', '<f4', (0,))]"])
def test_elements_of_no_bytes_are_counted(descr):
    """No bytes bound them, so the limit on what is asked for does."""
    limits = Limits(min_amplified_bytes=1000)
    array = safemodel.safe_load(npy(descr, "(1000,)"), limits=limits)
    assert (array.shape, array.nbytes) == ((1000,), 0)
    assert safemodel.safe_load(npy(descr, "(0, 9999)"), limits=limits).size == 0
    with pytest.raises(LimitExceededError) as caught:
        safemodel.safe_load(npy(descr, "(1001,)"), limits=limits)
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == (
        "max_amplification", 1000, 1001,
    )  # fmt: skip


def test_objects_go_through_the_same_policy(read):
    """One by one, whatever the header says their shape is."""
    loaded = read(objects(1, "a") + b"more")
    array = loaded.root.value
    assert type(array) is ObjectArraySpec
    assert array.elements == [1, "a", None]
    assert loaded.consumed == len(objects(1, "a"))

    with pytest.raises(ForbiddenGlobalError) as caught:
        read(objects(print))
    assert (caught.value.module, caught.value.name) == ("builtins", "print")
    assert read(objects(print), policy=SALVAGE).graph.opaque == ["builtins.print"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("verify", [True, False])
def test_an_archive_is_a_dictionary(read, method, verify):
    """By name without the suffix, stored or deflated, checked or not."""
    data = npz({"a.npy": npy("'|u1'", "(3,)", b"abc"), "b.npy": objects(1)}, method)
    root = read(data, verify=verify).root
    assert list(root) == ["a", "b"]
    assert root["a"].shape == (3,)
    assert root["b"].value.elements == [1, None]


def test_a_member_that_another_reader_would_skip_is_no_archive_of_arrays(read):
    """Every name ends in the suffix, or the archive is read as another kind."""
    root = read(npz({"a.npy": npy("'|u1'", "(3,)", b"abc"), "b.txt": b"hello"})).root
    assert root["b.txt"] == "hello"
    assert root["a.npy"].shape == (3,)


def test_a_flipped_byte_of_an_array_is_seen(read):
    """Header and bytes are one record with one CRC-32."""
    data = bytearray(npz({"a.npy": npy("'|u1'", "(3,)", b"abc")}))
    data[data.index(b"abc")] ^= 1
    with pytest.raises(ChecksumError) as caught:
        read(bytes(data))
    assert caught.value.record == "a.npy"
    assert read(bytes(data), verify=False).root["a"].shape == (3,)
