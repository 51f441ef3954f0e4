"""Torch's zip archive, TorchScript, safetensors, and what is no model file."""

from __future__ import annotations

import codecs
import io
import json
import struct
import zipfile
from pathlib import Path

import pytest

from safemodel._containers.safetensors_file import ITEM_BITS
from safemodel._formats.safetensors import DTYPES
from safemodel.errors import (
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import Limits

FLOATS = (
    b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."
)


def archive(**records: bytes) -> bytes:
    """Return a torch archive of one float; underscores stand for slashes."""
    default = {"data.pkl": FLOATS, "byteorder": b"little", "data/0": bytes(4)}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in (default | records).items():
            made.writestr("archive/" + name.replace("__", "/"), content)
    return out.getvalue()


def test_a_storage_is_the_record_of_its_key(read):
    """And what nobody refers to is noted."""
    loaded = read(archive(data__1=b"more", extra=b"x"))
    assert loaded.root.value.record.name == "archive/data/0"
    assert list(loaded.graph.storages) == ["archive/data/0"]
    assert loaded.graph.unused == ["archive/data/1"]


@pytest.mark.parametrize(
    ("order", "big"), [(b"little", False), (b"big", True), (None, False)]
)
def test_the_byte_order_is_one_of_two(read, order, big):
    """Or not given, as before torch 2.1."""
    if order is None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            made.writestr("archive/data.pkl", FLOATS)
            made.writestr("archive/data/0", bytes(4))
        data = out.getvalue()
    else:
        data = archive(byteorder=order)
    assert read(data).root.value.big_endian is big


@pytest.mark.parametrize("order", [b"", b"middle", b"Little", b"little\n"])
def test_any_other_byte_order_is_malformed(read, order):
    """Exactly the word."""
    with pytest.raises(MalformedFileError) as caught:
        read(archive(byteorder=order))
    assert caught.value.record == "archive/byteorder"
    written = order.decode().replace("\n", "\\n")
    assert caught.value.reason == f"byte order is {written}"


def test_constants_of_torchscript_stand_beside_its_data(read):
    """Both pickles are checked before the file is refused for either."""
    parts = {"constants.pkl": FLOATS, "constants/0": bytes(4)}
    root = read(archive(**parts)).root
    assert root["data"].value is not root["constants"].value

    bad = {"data.pkl": b"cos\nsystem\n.", "constants.pkl": b"cos\npopen\n."}
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(archive(**parts | bad))
    assert [name[1:3] for name in caught.value.globals] == [
        ("system", "archive/data.pkl"),
        ("popen", "archive/constants.pkl"),
    ]


def test_a_foreign_archive_is_named(read):
    """By what is in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("[Content_Types].xml", b"<x/>")
    with pytest.raises(UnsupportedFormatError) as caught:
        read(out.getvalue())
    assert caught.value.what == "an Office document"


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"", "an empty file"), (b"<html>", "an HTML page"), (b"%PDF-1.7", "a PDF")],
)
def test_what_is_no_model_is_named(read, data, what):
    """In a sentence."""
    with pytest.raises(UnsupportedFormatError) as caught:
        read(data)
    assert caught.value.what.startswith(what)


def test_a_lone_pickle_is_as_long_as_the_limit(read):
    """With all that follows it, which is in memory too."""
    data = b"\x80\x02]." + bytes(6)
    assert read(data, limits=Limits(max_pickle_bytes=10)).consumed == 4
    with pytest.raises(LimitExceededError) as caught:
        read(data, limits=Limits(max_pickle_bytes=9))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_pickle_bytes", 9, 10)


def test_a_storage_without_its_record_is_malformed(read):
    """Found by its exact name, below one folder."""
    for other in ("data/00", "data/0.0", "Data/0", "more/data/0"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            made.writestr("archive/data.pkl", FLOATS)
            made.writestr(f"archive/{other}", bytes(4))
        with pytest.raises(MalformedFileError) as caught:
            read(out.getvalue())
        assert caught.value.reason == "storage 0 has no record"
        assert caught.value.record == "archive/data.pkl"


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


class InterruptionError(BaseException):
    """What a user's Ctrl-C is like."""


def test_what_is_no_fault_of_the_file_goes_out_as_it_is(tmp_path, read):
    """With all shards closed, although the first one would be refused."""

    def interrupt(error: UnicodeError) -> tuple[str, int]:
        raise InterruptionError

    codecs.register_error("safemodel-test-interrupt", interrupt)
    index = tmp_path / "model.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.bin", "b": "y.bin"}}))
    (tmp_path / "x.bin").write_bytes(b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\ns.")
    (tmp_path / "y.bin").write_bytes(b"\x80\x02}U\x01\xffK\x01s.")
    before = open_files()

    with pytest.raises(InterruptionError):
        read(index, errors="safemodel-test-interrupt")
    assert open_files() == before

    with pytest.raises(ForbiddenGlobalError):
        read(index)
    assert open_files() == before


def safetensors(**tensors: object) -> bytes:
    """Return a file whose bytes are as many as the last tensor says."""
    header = json.dumps(tensors).encode()
    size = max(tensor["data_offsets"][1] for tensor in tensors.values())
    return struct.pack("<Q", len(header)) + header + bytes(size)


def entry(dtype: str, shape: list[int], size: int) -> dict[str, object]:
    """Return one tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_safetensors_is_one_of_torch(read, dtype):
    """With its size, and a contiguous view over a storage of its own."""
    name, itemsize = DTYPES[dtype]
    width = 6 if dtype == "F4" else 3
    loaded = read(safetensors(w=entry(dtype, [2, width], 6 * itemsize)))
    spec = loaded.root["w"]
    assert (spec.dtype, spec.shape, spec.stride, spec.offset) == (
        name, (2, 3), (3, 1), 0,
    )  # fmt: skip
    assert (spec.storage.itemsize, spec.storage.numel) == (itemsize, 6)
    assert loaded.graph.specs == [spec]


@pytest.mark.parametrize(
    ("shape", "stride"), [([], ()), ([0, 3], (3, 1)), ([2, 0, 4], (4, 4, 1))]
)
def test_an_axis_of_no_length_has_strides_of_one(read, shape, stride):
    """As torch makes them."""
    spec = read(safetensors(w=entry("U8", shape, 0 if 0 in shape else 1))).root["w"]
    assert (spec.shape, spec.stride) == (tuple(shape), stride)


def test_every_dtype_of_the_format_that_fills_bytes_has_its_twin():
    """So that looking one up cannot fail."""
    assert DTYPES.keys() == ITEM_BITS.keys()


def test_half_a_pair_of_small_numbers_is_not_supported(read):
    """The format has rows of three four-bit numbers; torch has pairs of them."""
    with pytest.raises(UnsupportedFormatError) as caught:
        read(safetensors(w=entry("F4", [2, 3], 3)))
    assert caught.value.what == (
        "tensor w has rows of an odd number of F4, which torch lacks"
    )


def test_the_axes_of_safetensors_are_counted(read):
    """By the limit for all tensors, on both sides."""
    data = safetensors(w=entry("U8", [1, 1, 1], 1))
    assert read(data, limits=Limits(max_dimensions=3)).root["w"].shape == (1, 1, 1)
    with pytest.raises(LimitExceededError) as caught:
        read(data, limits=Limits(max_dimensions=2))
    assert caught.value.limit == "max_dimensions"
