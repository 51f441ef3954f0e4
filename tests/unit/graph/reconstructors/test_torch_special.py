import pytest

from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel._graph.array_specs import ArraySpec
from safemodel._graph.specs import MetaTensorSpec, NestedSpec, SparseSpec, TensorSpec
from safemodel.errors import ForbiddenCallError

UTILS = "torch._utils."
SPARSE = UTILS + "_rebuild_sparse_tensor"
QUANTISED = UTILS + "_rebuild_qtensor"


def layout(file, name):
    return file.made("torch.serialization._get_layout", f"torch.{name}")


@pytest.mark.parametrize("flag", [(), (True,), (False,), (None,)])
def test_a_coo_tensor_of_every_version(file, flag):
    """With and without is_coalesced; the size is a torch.Size or a tuple."""
    indices, values = file.tensor((2, 5), "int64", 8), file.tensor((5, 3))
    size = file.made("torch.Size", (4, 4, 3))

    spec = file.check(
        SPARSE, layout(file, "sparse_coo"), (indices, values, size, *flag)
    )

    assert type(spec) is SparseSpec
    assert spec.parts == (indices.value, values.value)
    assert (spec.shape, spec.coalesced) == ((4, 4, 3), flag[0] if flag else None)


@pytest.mark.parametrize(
    ("indices", "dtype", "values", "size"),
    [
        ((2, 5), "int32", (5,), (4, 4)),
        ((10,), "int64", (5,), (4, 4)),
        ((2, 5), "int64", (4,), (4, 4)),
        ((2, 5), "int64", (5,), (4,)),
        ((2, 5), "int64", (5, 3), (4, 4, 2)),
        ((2, 5), "int64", (), (4, 4)),
    ],
)
def test_a_coo_tensor_whose_shapes_disagree_is_refused(
    file, indices, dtype, values, size
):
    """Torch 2.13 takes some of these and reads past the end later."""
    parts = (file.tensor(indices, dtype, 8), file.tensor(values), size)

    with pytest.raises(ForbiddenCallError) as caught:
        file.check(SPARSE, layout(file, "sparse_coo"), parts)

    assert caught.value.name == SPARSE


@pytest.mark.parametrize(
    ("name", "compressed", "values"),
    [
        ("sparse_csr", 5, (6,)),
        ("sparse_csc", 7, (6,)),
        ("sparse_bsr", 3, (6, 2, 3)),
        ("sparse_bsc", 3, (6, 2, 3)),
    ],
)
def test_compressed_tensors_fit_their_size(file, name, compressed, values):
    """A 4 x 6 tensor; one compressed index more or fewer is refused."""

    def check(length):
        parts = (
            file.tensor((length,), "int64", 8),
            file.tensor((6,), "int64", 8),
            file.tensor(values),
            (4, 6),
        )
        return file.check(SPARSE, layout(file, name), parts)

    assert check(compressed).layout == name
    for wrong in (compressed - 1, compressed + 1):
        with pytest.raises(ForbiddenCallError) as caught:
            check(wrong)
        assert caught.value.reason == "the compressed indices have the wrong length"


def test_compressed_tensors_have_one_index_dtype(file):
    """Both index tensors are int64 or both are int32."""
    for dtypes in (("int64", "int32"), ("float32", "float32")):
        sizes = [8 if "64" in dtype else 4 for dtype in dtypes]
        parts = (
            file.tensor((5,), dtypes[0], sizes[0]),
            file.tensor((6,), dtypes[1], sizes[1]),
            file.tensor((6,)),
            (4, 6),
        )
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(SPARSE, layout(file, "sparse_csr"), parts)
        assert caught.value.reason == "its indices are not of one integer dtype"


def test_a_sparse_tensor_of_a_dense_layout_is_refused(file):
    """The layout is one of the five, and given as a torch.layout."""
    parts = (file.tensor((2, 5), "int64", 8), file.tensor((5,)), (4, 4))

    for kind in (layout(file, "strided"), layout(file, "sparse_csr"), "sparse_coo"):
        with pytest.raises(ForbiddenCallError):
            file.check(SPARSE, kind, parts)


def quantised(file, settings, shape=(4, 2), dtype="qint8", grad=False):
    return file.check(
        QUANTISED, file.storage(8, dtype, 1), 0, shape, (shape[1], 1), settings, grad,
        None,
    )  # fmt: skip


def test_quantised_per_tensor(file):
    """One scale and one zero point; only the tensor itself is listed."""
    spec = quantised(file, (file.ref("torch.per_tensor_affine"), 0.5, -3))

    assert (spec.scale, spec.zero_point, spec.axis) == (0.5, -3, None)
    assert spec.view.dtype == "qint8"
    assert file.ctx.specs[-1] is spec
    assert spec.view not in file.ctx.specs


def test_quantised_per_channel_has_one_number_a_channel(file):
    """Tensors today, lists in old versions; the axis exists."""
    scheme = file.ref("torch.per_channel_affine")
    scales = file.tensor((4,), "float64", 8)
    zeros = file.tensor((4,), "int64", 8)

    spec = quantised(file, (scheme, scales, zeros, 0))
    assert (spec.scale, spec.zero_point, spec.axis) == (scales.value, zeros.value, 0)
    lists = quantised(file, (scheme, [0.5, 1], [0, 1], 1))
    assert type(lists.scale) is ArraySpec
    assert (lists.scale.dtype.descr, lists.zero_point.dtype.descr) == ("<f8", "<i8")

    for settings in (
        (scheme, scales, zeros, 1),
        (scheme, scales, zeros, 2),
        (scheme, scales, zeros, -1),
        (scheme, [0.5], [0, 1], 1),
        (scheme, [0.5, "1"], [0, 1], 1),
        (scheme, [0.5, 1], [0, 1 << 63], 1),
        (scheme, scales, zeros),
        (file.ref("torch.per_tensor_affine"), 1, 0),
        (file.ref("torch.per_tensor_affine"), 1.0, 1 << 31),
        (file.ref("torch.per_tensor_symmetric"), 1.0, 0),
        (file.ref("torch.float32"), 1.0, 0),
        (),
    ):
        with pytest.raises(ForbiddenCallError):
            quantised(file, settings)


def test_a_quantised_tensor_has_a_quantised_storage(file):
    """And never a gradient."""
    settings = (file.ref("torch.per_tensor_affine"), 0.5, 0)

    with pytest.raises(ForbiddenCallError) as caught:
        quantised(file, settings, dtype="int8")
    assert caught.value.reason == "int8 is not a quantised dtype"
    with pytest.raises(ForbiddenCallError):
        quantised(file, settings, grad=True)


@pytest.mark.parametrize(("dtype", "elements"), [("quint4x2", 2), ("quint2x4", 4)])
def test_packed_elements_share_a_byte(file, dtype, elements):
    """8 bytes hold 16 or 32 of them, and no more."""
    settings = (file.ref("torch.per_tensor_affine"), 0.5, 0)

    assert quantised(file, settings, (8, elements), dtype).view.dtype == dtype
    with pytest.raises(Exception, match="available"):
        quantised(file, settings, (8, elements + 1), dtype)


def test_a_nested_tensor_fits_together(file):
    """Buffer, sizes, strides and offsets are strided tensors of matching shapes."""
    name = UTILS + "_rebuild_nested_tensor"
    sizes = file.tensor((2, 2), "int64", 8)
    offsets = file.tensor((2,), "int64", 8)

    spec = file.check(name, file.tensor((36,)), sizes, sizes, offsets)
    assert type(spec) is NestedSpec
    for args in (
        (file.tensor((6, 6)), sizes, sizes, offsets),
        (file.tensor((36,)), sizes, sizes, sizes),
        (file.tensor((36,)), file.tensor((2, 2)), sizes, offsets),
        (file.tensor((36,)), sizes, sizes, [0, 4]),
    ):
        with pytest.raises(ForbiddenCallError):
            file.check(name, *args)


def test_a_meta_tensor_has_a_shape_and_no_memory(file):
    """Its numbers are bounded although nothing is allocated."""
    name = UTILS + "_rebuild_meta_tensor_no_storage"
    dtype = file.ref("torch.float32")

    spec = file.check(name, dtype, (1 << 40,), (1,), True)
    assert type(spec) is MetaTensorSpec
    assert (spec.dtype, spec.shape, spec.requires_grad) == ("float32", (1 << 40,), True)
    for shape, stride in (((1 << 61,), (1,)), ((2,), (1 << 61,)), ((-1,), (1,))):
        with pytest.raises(ForbiddenCallError):
            file.check(name, dtype, shape, stride, False)


def test_tensors_of_other_devices_come_from_their_cpu_twin(file):
    """The dtype stays, the device is the caller's decision."""
    name = UTILS + "_rebuild_device_tensor_from_cpu_tensor"
    data = file.tensor()

    spec = file.check(name, data, file.ref("torch.float32"), "xla:0", True)
    assert (spec.storage, spec.requires_grad) == (data.value.storage, True)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(name, data, file.ref("torch.float16"), "xla:0", True)
    assert caught.value.reason == "its argument is not a float16 tensor"
    for other in (5, file.dtype(), file.ref("torch.float32")):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(name, other, file.ref("torch.float32"), "xla:0", True)
        assert caught.value.reason == "its argument is not a float32 tensor"


@pytest.mark.parametrize(
    "old", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_tensors_of_other_devices_come_from_an_array(file, old, order):
    """The array's bytes become a storage, its order becomes strides."""
    file.ctx.memory_record = lambda data: Record("", open_source(data), 0, len(data))
    array = file.made(
        "numpy.core.numeric._frombuffer", bytes(24), file.dtype(), (2, 3), order
    )

    spec = file.check(UTILS + old, array, file.ref("torch.float32"), "xla:0", False)

    assert type(spec) is TensorSpec
    assert spec.stride == ((3, 1) if order == "C" else (1, 2))
    assert (spec.storage.numel, spec.storage.record.size) == (6, 24)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(UTILS + old, array, file.ref("torch.int32"), "xla:0", False)
    assert caught.value.reason == "an array of <f4 becomes int32"
