"""Composed tensors that load, and then end the process when they are used.

Each of these was printed, added or made dense, and torch 2.13 died of it.
"""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch

from safemodel import safe_load
from safemodel.errors import ForbiddenCallError
from tests.unit.load.test_repeated_calls import (
    archive,
    ints,
    named,
    storage,
    tensor,
    tuple_of,
)

UTILS = "torch._utils"


def made(name: str, *args: bytes) -> bytes:
    """Return the pickle of a call of a rebuild function."""
    return b"\x80\x02" + named(UTILS, name) + tuple_of(*args) + b"R."


def refused(data: bytes, match: str, **options: object) -> None:
    """Require that a file is refused in both modes."""
    for weights_only in (True, False):
        with pytest.raises(ForbiddenCallError, match=match):
            safe_load(data, weights_only=weights_only, **options)


BYTES = storage("QInt8Storage", 0, 4)
LAYOUT = (b"K\x00", ints(4), ints(1))


@pytest.mark.parametrize(
    "pickle",
    [
        made("_rebuild_tensor", BYTES, *LAYOUT),
        made("_rebuild_tensor_v2", BYTES, *LAYOUT, b"\x89", b"N"),
        made(
            "_rebuild_tensor_v2", BYTES, *LAYOUT, b"\x89",
            named("collections", "OrderedDict") + b")R",
        ),
        b"\x80\x02" + named("torch", "Tensor") + b")R"
        + tuple_of(BYTES, *LAYOUT) + b"b.",
    ],
    ids=["v1", "v2", "v2 with hooks", "class"],
)  # fmt: skip
def test_integers_of_a_quantised_tensor_need_their_scale(pickle: bytes) -> None:
    """Printing them without one follows a null pointer."""
    refused(archive(pickle, s0=bytes(4)), "without a scale")


def test_they_need_it_in_the_sequence_torch_writes_as_well() -> None:
    """Which is read in one step."""
    stream = io.BytesIO()
    torch.save([torch.zeros(4, dtype=torch.int8) for _ in range(200)], stream)
    data = stream.getvalue()
    changed = archive(
        pickle_of(data).replace(b"CharStorage\n", b"QInt8Storage\n"),
        **{f"s{key}": bytes(4) for key in range(200)},
    )
    refused(changed, "without a scale")


def pickle_of(data: bytes) -> bytes:
    """Return the pickle of a torch archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return source.read("archive/data.pkl")


def test_zero_points_of_wide_integers_are_integers() -> None:
    """For others torch has no code, and nothing stops it from running what is there."""
    settings = tuple_of(
        named("torch", "per_channel_affine"),
        tensor("FloatStorage", 1, 2, (2,), (1,)),
        tensor("FloatStorage", 1, 2, (2,), (1,)),
        b"K\x00",
    )
    for kind in ("QInt32Storage", "QInt8Storage"):
        call = made(
            "_rebuild_qtensor", storage(kind, 0, 2), b"K\x00", ints(2), ints(1),
            settings, b"\x89", b"N",
        )  # fmt: skip
        size = 8 if kind == "QInt32Storage" else 2
        data = archive(call, s0=bytes(size), s1=struct.pack("<2f", 1, 1))
        if size == 8:
            refused(data, "zero points that are none")
        else:
            assert safe_load(data).dequantize().tolist() == [-1, -1]


@pytest.mark.parametrize("stride", [7, 1 << 61])
def test_a_stride_that_leads_nowhere_is_not_kept_in_a_sparse_tensor(
    stride: int,
) -> None:
    """`to_dense` multiplied with it, and wrote that far outside."""
    step = b"\x8a\x08" + struct.pack("<q", stride)
    values = (
        named(UTILS, "_rebuild_tensor_v2")
        + tuple_of(
            storage("FloatStorage", 1, 1), b"K\x00", ints(1, 1),
            tuple_of(step, b"K\x01"), b"\x89", b"N",
        )
        + b"R"
    )  # fmt: skip
    call = made(
        "_rebuild_sparse_tensor",
        named("torch", "sparse_coo"),
        tuple_of(tensor("LongStorage", 0, 1, (1, 1), (1, 1)), values, ints(1, 1)),
    )
    loaded = safe_load(archive(call, s0=bytes(8), s1=struct.pack("<f", 5)))

    assert loaded._values().stride() == (1, 1)
    assert loaded.to_dense().tolist() == [[5.0]]
    assert "5." in repr(loaded)


@pytest.mark.parametrize("layout", ["sparse_csr", "sparse_csc"])
def test_a_batch_of_no_matrices_is_refused(layout: str) -> None:
    """`to_sparse_csr` divides by their number."""
    parts = (
        tensor("LongStorage", 0, 0, (0, 2), (2, 1)),
        tensor("LongStorage", 0, 0, (0, 1), (1, 1)),
        tensor("FloatStorage", 1, 0, (0, 1), (1, 1)),
        ints(0, 1, 1),
    )
    call = made("_rebuild_sparse_tensor", named("torch", layout), tuple_of(*parts))
    refused(archive(call, s0=b"", s1=b""), "do not fit together")


def nested(kind: str, numel: int, rows: int, grad: bytes = b"\x89") -> bytes:
    """Return the pickle of a nested tensor of one axis, one element a part."""
    buffer = (
        named(UTILS, "_rebuild_tensor_v2")
        + tuple_of(
            storage(kind, 1, numel), b"K\x00", ints(numel), ints(1), grad, b"N"
        )
        + b"R"
    )  # fmt: skip
    sizes = tensor("LongStorage", 0, rows, (rows, 1), (1, 1))
    offsets = tensor("LongStorage", 2, rows, (rows,), (1,))
    return made("_rebuild_nested_tensor", buffer, sizes, sizes, offsets)


def test_a_nested_tensor_of_no_parts_is_refused() -> None:
    """torch looks at the first."""
    refused(
        archive(nested("FloatStorage", 0, 0), s0=b"", s1=b"", s2=b""),
        "do not fit together",
    )


def test_what_torch_does_not_make_is_an_error_of_ours() -> None:
    """A complex buffer with a gradient, and the meta device for either kind."""
    one = struct.pack("<q", 1)
    data = archive(
        nested("ComplexFloatStorage", 1, 1, b"\x88"), s0=one, s1=bytes(8), s2=bytes(8)
    )
    refused(data, "nested tensor")
    data = archive(nested("FloatStorage", 1, 1), s0=one, s1=bytes(4), s2=bytes(8))
    assert safe_load(data).is_nested
    refused(data, "nested tensor", map_location="meta")
    scale = tuple_of(
        named("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 1), b"K\x00"
    )
    call = made("_rebuild_qtensor", BYTES, *LAYOUT, scale, b"\x89", b"N")
    data = archive(call, s0=bytes(4))
    assert safe_load(data).is_quantized
    refused(data, "quantised tensor", map_location="meta")


def test_a_quantised_tensor_has_no_place_on_the_meta_device() -> None:
    """torch raises NotImplementedError there."""
    call = made(
        "_rebuild_meta_tensor_no_storage", named("torch", "qint8"), ints(1), ints(1),
        b"\x89",
    )  # fmt: skip
    refused(call, "on the meta device")
