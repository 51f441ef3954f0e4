"""`safe_load` against `torch.load(weights_only=True)`, bit for bit."""

from __future__ import annotations

import collections
import gc
import io
import struct
import warnings
import weakref
import zipfile

import numpy as np
import pytest
import torch

from safemodel._build.dtypes import _DTYPES, QUANTIZED
from safemodel._load import safe_load
from safemodel.errors import (
    ChecksumError,
    ForbiddenCallError,
    MalformedFileError,
    StorageBoundsError,
    UnsafeFileError,
)

# Dtypes no checkpoint can hold: torch itself has no storage or kernel for them.
WITHOUT_STORAGE = {f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}
PLAIN = sorted(set(_DTYPES) - QUANTIZED - WITHOUT_STORAGE)


@pytest.fixture(params=["copy", "mmap"])
def both(request, tmp_path):
    """Return a function that saves a value and loads it with torch and with us."""

    def load(value, **arguments):
        path = tmp_path / "value.pt"
        torch.save(value, path)
        ours = safe_load(path, mmap=request.param == "mmap", **arguments)
        return torch.load(path, weights_only=True, **arguments), ours

    return load


def raw(tensor):
    """Return the bytes of a strided tensor's storage."""
    storage = tensor.untyped_storage().cpu()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return flat.numpy().tobytes()


def assert_same(expected, actual):
    """Compare everything that can be told apart about two tensors."""
    assert type(actual) is type(expected)
    for name in ("dtype", "shape", "layout", "device", "requires_grad", "is_leaf"):
        assert getattr(actual, name) == getattr(expected, name), name
    if expected.layout is torch.strided and not expected.is_nested:
        assert actual.stride() == expected.stride()
        assert actual.storage_offset() == expected.storage_offset()
        assert actual.is_conj() == expected.is_conj()
        assert actual.is_neg() == expected.is_neg()
        assert actual._is_view() == expected._is_view()
        if expected.device.type != "meta":
            assert raw(actual) == raw(expected)


def random_bytes(count, seed=0):
    """Return bytes with every pattern in them, NaN payloads included."""
    return bytearray(np.random.RandomState(seed).bytes(count))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("count", [2, 3 << 10])
def test_every_dtype_has_the_same_bits(name, count, both):
    """Random bit patterns of each dtype come back unchanged, small or large."""
    data = random_bytes(count * 16)
    if name == "bool":
        data = bytearray(byte & 1 for byte in data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = torch.frombuffer(data, dtype=_DTYPES[name]).clone()
        expected, actual = both({"a": tensor})

    assert_same(expected["a"], actual["a"])


def test_our_loads_of_experimental_dtypes_warn_of_nothing(tmp_path):
    """torch warns of complex32 and quantised tensors; the reader of a file cannot."""
    path = tmp_path / "value.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = torch.frombuffer(bytearray(64), dtype=torch.complex32).clone()
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.5, 3, torch.quint8)
    torch.save([half, quantised], path)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = safe_load(path)
    finally:
        torch.set_warn_always(False)

    assert [tensor.dtype for tensor in loaded] == [torch.complex32, torch.quint8]


VIEWS = {
    "zero axes": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty with axes": lambda: torch.empty(3, 0, 2),
    "transposed": lambda: torch.arange(12.0).view(3, 4).t(),
    "part": lambda: torch.arange(100.0)[10:20],
    "strided": lambda: torch.arange(100.0)[3::7],
    "expanded": lambda: torch.arange(3.0)[:, None].expand(3, 5),
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(
        memory_format=torch.channels_last
    ),
    "one element axes": lambda: torch.rand(1, 4, 1).transpose(0, 2),
    "requires grad": lambda: torch.rand(3, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.rand(3)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.rand(3), requires_grad=False),
    "buffer": lambda: torch.nn.Buffer(torch.rand(3)),
    "conjugate": lambda: torch.rand(3, dtype=torch.complex64).conj(),
    "negative": lambda: torch.rand(3, dtype=torch.complex64).conj().imag,
    "meta": lambda: torch.empty(3, 4, device="meta"),
    "large": lambda: torch.rand(700_000),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_every_kind_of_view_is_the_same(kind, both):
    """Shape, stride, offset, flags and memory are those torch gives."""
    expected, actual = both([VIEWS[kind](), VIEWS[kind]()])

    for left, right in zip(expected, actual, strict=True):
        assert_same(left, right)


def test_shared_storages_stay_shared(both):
    """What is written through one view is read through the other, as with torch."""
    base = torch.arange(20.0)
    tied = torch.nn.Parameter(torch.rand(4))
    value = {"all": base, "part": base[4:8], "a": tied, "b": tied, "other": base + 1}
    expected, actual = both(value)

    for key, tensor in expected.items():
        assert_same(tensor, actual[key])
    assert actual["a"] is actual["b"]
    actual["part"].fill_(-1)
    assert actual["all"][4:8].tolist() == [-1.0] * 4
    assert actual["other"].tolist() == (base + 1).tolist()


def test_small_tensors_own_memory_that_can_grow(tmp_path):
    """Tensors that were cut out of one buffer are still as separate as torch's."""
    path = tmp_path / "value.pt"
    torch.save([torch.full((8,), float(i)) for i in range(50)], path)

    loaded = safe_load(path)

    assert len({tensor.data_ptr() for tensor in loaded}) == 50
    for index, tensor in enumerate(loaded):
        assert tensor.untyped_storage().nbytes() == 32
        assert tensor.untyped_storage().resizable()
        assert tensor.tolist() == [float(index)] * 8
        assert not tensor._is_view()
    loaded[0].resize_(100)
    assert loaded[1].tolist() == [1.0] * 8


DENSE = torch.tensor([[0, 1, 0, 2], [3, 0, 0, 4.0], [0] * 4, [5, 6, 0, 0]])


def coo(indices, values, size, **flags):
    return torch.sparse_coo_tensor(
        indices, values, size, check_invariants=False, **flags
    )


SPARSE = {
    "coo": DENSE.to_sparse_coo,
    "coo uncoalesced": lambda: coo([[1, 1], [2, 2]], [1.0, 2], (3, 3)),
    "coo with dense axes": lambda: coo([[0, 2]], torch.rand(2, 3), (4, 3)),
    "coo empty": lambda: torch.sparse_coo_tensor(size=(3, 4)),
    "coo coalesced": lambda: coo([[0, 1], [2, 0]], [1.0, 2], (3, 3)).coalesce(),
    "csr": DENSE.to_sparse_csr,
    "csc": DENSE.to_sparse_csc,
    "bsr": lambda: DENSE.to_sparse_bsr((2, 2)),
    "bsc": lambda: DENSE.to_sparse_bsc((2, 1)),
    "csr batch": lambda: torch.stack([DENSE, DENSE.flip(1)]).to_sparse_csr(),
    "csr empty": lambda: torch.zeros(3, 5).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_tensors_are_the_same(kind, both):
    """Parts, size and the coalesced flag are those torch gives."""
    expected, actual = both(SPARSE[kind]())

    assert_same(expected, actual)
    assert torch.equal(expected.to_dense(), actual.to_dense())
    if expected.layout is torch.sparse_coo:
        assert actual.is_coalesced() == expected.is_coalesced()
        assert torch.equal(expected._indices(), actual._indices())
        assert torch.equal(expected._values(), actual._values())


BAD_SPARSE = {
    "coo too large": (
        lambda: coo([[0, 3]], [1.0, 2], (3,)),
        StorageBoundsError,
    ),
    "coo negative": (
        lambda: coo([[0, -1]], [1.0, 2], (3,)),
        StorageBoundsError,
    ),
    "coo not coalesced": (
        lambda: coo([[1, 1]], [1.0, 2], (3,), is_coalesced=True),
        ForbiddenCallError,
    ),
    "csr not from 0": (lambda: _csr([1, 1, 2], [0, 1]), ForbiddenCallError),
    "csr falling": (lambda: _csr([0, 2, 1, 2], [0, 1]), ForbiddenCallError),
    "csr past the values": (lambda: _csr([0, 1, 3], [0, 1]), ForbiddenCallError),
    "csr column too large": (lambda: _csr([0, 1, 2], [0, 9]), StorageBoundsError),
    "csr column negative": (lambda: _csr([0, 1, 2], [0, -1]), StorageBoundsError),
    "csr column twice": (lambda: _csr([0, 2, 2], [1, 1]), ForbiddenCallError),
}


def _csr(starts, columns):
    values = torch.ones(len(columns))
    size = (len(starts) - 1, 3)
    return torch.sparse_csr_tensor(
        starts, columns, values, size, check_invariants=False
    )


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", BAD_SPARSE)
def test_sparse_indices_outside_their_size_are_refused(kind, tmp_path):
    """torch would read or write outside its memory when such a tensor is used."""
    make, error = BAD_SPARSE[kind]
    torch.save(make(), tmp_path / "bad.pt")

    with pytest.raises(error) as caught:
        safe_load(tmp_path / "bad.pt")

    assert type(caught.value) is error


def test_sparse_index_bound_is_exact(tmp_path):
    """The last index of an axis loads, the one after it does not, and says so."""
    for index in (2, 3):
        bad = coo([[index]], [1.0], (3,))
        torch.save(bad, tmp_path / f"{index}.pt")

    assert safe_load(tmp_path / "2.pt").to_dense().tolist() == [0, 0, 1]
    with pytest.raises(StorageBoundsError) as caught:
        safe_load(tmp_path / "3.pt")

    assert (caught.value.needed, caught.value.available) == (4, 3)


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:TypedStorage")
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8, torch.qint32])
def test_quantised_tensors_are_the_same(dtype, both):
    """Integers, scales, zero points and axis are those torch gives."""
    values = torch.rand(4, 3)
    scales, zeros = torch.rand(4, dtype=torch.float64) + 0.1, torch.arange(4)
    value = [
        torch.quantize_per_tensor(values, 0.25, 3, dtype),
        torch.quantize_per_channel(values, scales, zeros, 0, dtype),
    ]
    expected, actual = both(value)

    for left, right in zip(expected, actual, strict=True):
        assert_same(left, right)
        assert right.qscheme() == left.qscheme()
        assert torch.equal(left.int_repr(), right.int_repr())
        assert torch.equal(left.dequantize(), right.dequantize())
    assert actual[1].q_per_channel_axis() == 0
    assert torch.equal(actual[1].q_per_channel_scales(), scales)


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:TypedStorage")
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -1.0])
def test_impossible_scale_is_refused(scale, tmp_path):
    """A scale that divides to nonsense is no quantiser."""
    bad = torch._empty_affine_quantized(
        [3], scale=scale, zero_point=0, dtype=torch.qint8
    )
    torch.save(bad, tmp_path / "bad.pt")

    with pytest.raises(ForbiddenCallError) as caught:
        safe_load(tmp_path / "bad.pt")

    assert "scale" in caught.value.reason


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:TypedStorage")
def test_nested_tensors_are_the_same(both):
    """Every part of a strided nested tensor has its own shape and bytes."""
    parts = [torch.rand(2, 3), torch.rand(4, 3), torch.rand(1, 3)]
    expected, actual = both(torch.nested.nested_tensor(parts))

    assert actual.is_nested
    for left, right in zip(expected.unbind(), actual.unbind(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:TypedStorage")
def test_nested_part_past_its_buffer_is_refused(tmp_path):
    """torch would read past the buffer."""
    sizes, strides = torch.tensor([[2, 2], [2, 2]]), torch.tensor([[2, 1], [2, 1]])
    buffer = torch.arange(8.0)
    good, bad = torch.tensor([0, 4]), torch.tensor([0, 5])
    made = torch._nested_view_from_buffer(buffer, sizes, strides, good)
    torch.save(made, tmp_path / "good.pt")
    data = (tmp_path / "good.pt").read_bytes()
    old = good.numpy().tobytes()
    assert data.count(old) == 1
    (tmp_path / "bad.pt").write_bytes(data.replace(old, bad.numpy().tobytes()))

    assert safe_load(tmp_path / "good.pt").is_nested
    with pytest.raises(StorageBoundsError) as caught:
        safe_load(tmp_path / "bad.pt", verify_checksums=False)

    assert (caught.value.needed, caught.value.available) == (9, 8)


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_storages_are_the_same(both):
    """Typed and untyped storages, shared with a tensor."""
    tensor = torch.arange(6.0)
    value = {
        "typed": tensor.storage(),
        "untyped": torch.arange(4).untyped_storage(),
        "tensor": tensor,
    }
    expected, actual = both(value)

    assert type(actual["typed"]) is type(expected["typed"])
    assert actual["typed"].dtype is torch.float32
    assert actual["typed"].tolist() == expected["typed"].tolist()
    assert type(actual["untyped"]) is torch.UntypedStorage
    assert actual["untyped"].tolist() == expected["untyped"].tolist()
    actual["typed"][0] = 9.0
    assert actual["tensor"][0] == 9.0


ARRAY_DTYPES = [
    "?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8",
    "<c8", "<c16", ">i4", ">f8", "S5", "<U3", ">U3", "<M8[ns]", "<m8[s]", "V7",
    "<f16", "S0", "U0",
]  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("code", ARRAY_DTYPES)
def test_numpy_arrays_are_the_same(code, order, tmp_path):
    """Values, dtype and order of every dtype; memory that can be written to."""
    dtype = np.dtype(code)
    data = random_bytes(dtype.itemsize * 6)
    if dtype.kind in "USb":
        data = bytearray(len(data))
    flat = np.ndarray((6,), dtype=dtype, buffer=data)
    array = np.asarray(flat.reshape(2, 3), order=order)
    torch.save({"array": array}, tmp_path / "value.pt")

    actual = safe_load(tmp_path / "value.pt")["array"]

    assert type(actual) is np.ndarray
    assert (actual.dtype, actual.shape) == (array.dtype, array.shape)
    assert actual.tobytes() == array.tobytes()
    assert actual.flags.writeable
    assert actual.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("code", [c for c in ARRAY_DTYPES if c not in ("V7", "S0")])
def test_numpy_scalars_are_the_same(code, tmp_path):
    """A numpy scalar comes back as a numpy scalar of its type and bytes."""
    dtype = np.dtype(code)
    raw_bytes = bytes(max(dtype.itemsize, 1))
    value = np.ndarray((1,), dtype=dtype, buffer=raw_bytes)[0]
    torch.save([value], tmp_path / "value.pt")

    (actual,) = safe_load(tmp_path / "value.pt")

    assert type(actual) is type(value)
    assert actual.tobytes() == value.tobytes()


def test_structured_arrays_are_the_same(tmp_path):
    """Fields, offsets, sub-arrays and alignment are kept."""
    dtype = np.dtype(
        [("a", "<i2"), ("b", [("c", "<f8"), ("d", "?")]), ("e", "<u4", (2, 2))],
        align=True,
    )
    array = np.zeros(3, dtype=dtype)
    array["a"], array["b"]["c"], array["e"][1] = [1, 2, 3], 0.5, 7
    torch.save({"array": array, "row": array[1]}, tmp_path / "value.pt")

    actual = safe_load(tmp_path / "value.pt")

    assert actual["array"].dtype == dtype
    assert actual["array"].dtype.isalignedstruct
    assert actual["array"].tobytes() == array.tobytes()
    assert type(actual["row"]) is np.void
    assert actual["row"].tobytes() == array[1].tobytes()


def test_object_arrays_are_built_element_by_element(tmp_path):
    """Tensors, lists and numbers keep their places, in either order of memory."""
    array = np.empty((2, 3), dtype=object)
    array[:] = [[1, "two", None], [torch.arange(2), [4, 5], 6.0]]
    torch.save([array, np.asfortranarray(array)], tmp_path / "value.pt")

    arrays = safe_load(tmp_path / "value.pt")
    assert len(arrays) == 2
    for actual in arrays:
        assert actual.dtype == object
        assert actual[0].tolist() == [1, "two", None]
        assert actual[1, 0].tolist() == [0, 1]
        assert actual[1, 1:].tolist() == [[4, 5], 6.0]


def test_random_state_comes_back_as_data(tmp_path):
    """What numpy's get_state gives is a tuple with an array in it."""
    state = np.random.RandomState(3).get_state()
    torch.save({"numpy": state, "torch": torch.get_rng_state()}, tmp_path / "value.pt")

    actual = safe_load(tmp_path / "value.pt")

    assert actual["numpy"][0] == "MT19937"
    assert actual["numpy"][1].tolist() == state[1].tolist()
    assert actual["numpy"][2:] == state[2:]
    assert torch.equal(actual["torch"], torch.get_rng_state())


def test_state_dicts_keep_their_type_and_metadata(both):
    """An OrderedDict with `_metadata`, and the class load_state_dict expects."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    expected, actual = both(model.state_dict())

    assert type(actual) is collections.OrderedDict
    assert list(actual) == list(expected)
    assert actual._metadata == expected._metadata
    for key, tensor in expected.items():
        assert_same(tensor, actual[key])
    model.load_state_dict(actual)


def big_endian_copy(path, value, dtypes):
    """Write ``value`` as a big-endian machine would."""
    plain = io.BytesIO()
    torch.save(value, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            key = item.filename.rpartition("/data/")[2]
            if item.filename.endswith("byteorder"):
                data = b"big"
            elif key in dtypes:
                unit = dtypes[key]
                data = np.frombuffer(data, f"<u{unit}").byteswap().tobytes()
            target.writestr(item.filename, data)


@pytest.mark.parametrize("mapped", [False, True])
def test_big_endian_archives_are_swapped(mapped, tmp_path):
    """Each element is swapped; of complex numbers, each component."""
    value = [
        torch.rand(5),
        torch.arange(5, dtype=torch.int16),
        torch.rand(3, dtype=torch.complex128),
        torch.arange(5, dtype=torch.uint8),
        torch.rand(4).bfloat16(),
    ]
    path = tmp_path / "big.pt"
    units = {"0": 4, "1": 2, "2": 8, "3": 1, "4": 2}
    big_endian_copy(path, value, units)

    actual = safe_load(path, mmap=mapped)

    for left, right in zip(value, actual, strict=True):
        assert_same(left, right)


def test_flipped_byte_is_found(tmp_path):
    """The checksum of a tensor's record is compared, for small and large ones."""
    for count in (4, 1 << 20):
        path = tmp_path / f"{count}.pt"
        torch.save([torch.zeros(count), torch.ones(count), torch.ones(count)], path)
        data = bytearray(path.read_bytes())
        place = data.index(struct.pack("<f", 1.0) * 2)
        data[place] ^= 1
        path.write_bytes(data)

        with pytest.raises(ChecksumError) as caught:
            safe_load(path)
        assert caught.value.record.endswith("data/1")
        assert caught.value.actual != caught.value.expected
        with pytest.raises(ChecksumError):
            safe_load(path, mmap=True, verify_checksums="all")
        assert safe_load(path, mmap=True)[2][0] == 1
        assert safe_load(path, verify_checksums=False)[0][0] == 0


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("count", [5, 20_000])
def test_bool_bytes_above_one_become_one(count, mapped, tmp_path):
    """torch's kernels assume 0 or 1; a file may say 2."""
    path = tmp_path / "bool.pt"
    torch.save(torch.ones(count, dtype=torch.bool), path)
    data = path.read_bytes()
    assert data.count(b"\1" * count) == 1
    path.write_bytes(data.replace(b"\1" * count, b"\2" * count))

    actual = safe_load(path, mmap=mapped, verify_checksums=False)

    assert raw(actual) == b"\1" * count


def test_mapped_tensors_change_nothing_on_disk(tmp_path):
    """The map is private: writing to a tensor is not writing to the file."""
    path = tmp_path / "value.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    before = path.read_bytes()

    actual = safe_load(path, mmap=True)
    actual["a"].zero_()

    assert path.read_bytes() == before


def test_loading_ignores_the_default_device(tmp_path):
    """Inside `with torch.device(...)` a file still loads to where it belongs."""
    torch.save([torch.rand(3), torch.rand(600, 600)], tmp_path / "value.pt")

    with torch.device("meta"):
        for mapped in (False, True):
            loaded = safe_load(tmp_path / "value.pt", mmap=mapped)
            assert [t.device.type for t in loaded] == ["cpu", "cpu"]


def test_containers_keep_sharing_and_cycles(tmp_path):
    """One list twice is one list; a list in itself is in itself."""
    shared = [torch.arange(2)]
    loop: list[object] = [1]
    loop.append(loop)
    inner = (shared, 1)
    value = {"a": shared, "b": shared, "loop": loop, "t": inner, "u": inner}
    torch.save(value, tmp_path / "value.pt")

    actual = safe_load(tmp_path / "value.pt")

    assert actual["a"] is actual["b"]
    assert actual["loop"][1] is actual["loop"]
    assert actual["t"] is actual["u"]
    assert actual["t"][0] is actual["a"]


@pytest.mark.parametrize("mapped", [False, True])
def test_result_dies_with_its_last_reference(mapped, tmp_path):
    """Nothing but the result keeps tensors alive, collector or not."""
    state = collections.OrderedDict(b=torch.rand(5), c=torch.rand(100_000))
    values = [torch.rand(3), {"a": torch.rand(4)}, state, np.arange(3)]
    torch.save(values, tmp_path / "value.pt")
    gc.collect()
    gc.disable()
    try:
        loaded = safe_load(tmp_path / "value.pt", mmap=mapped)
        watched = [loaded[0], *loaded[1].values(), *loaded[2].values(), loaded[3]]
        ghosts = [weakref.ref(value) for value in [*watched, loaded[2]]]
        del watched, loaded
        alive = [ghost() for ghost in ghosts]
    finally:
        gc.enable()

    assert alive == [None] * 6


@pytest.mark.parametrize(
    "place",
    [
        None,
        "cpu",
        "meta",
        torch.device("cpu"),
        torch.device("meta"),
        {"cpu": "meta"},
        {"cuda:0": "cpu"},
        lambda storage, _: storage,
        lambda *_: None,
        lambda storage, _: storage.clone(),
    ],
)
def test_every_form_of_map_location_means_what_torch_means(place, both):
    """Device and bytes are those of torch.load with the same argument."""
    expected, actual = both([torch.rand(4), torch.rand(5000)], map_location=place)

    for left, right in zip(expected, actual, strict=True):
        assert left.device == right.device
        assert left.shape == right.shape
        if left.device.type == "cpu":
            assert torch.equal(left, right)


def test_map_location_function_sees_storage_and_location_once_each(tmp_path):
    """The protocol of torch.load: (untyped storage, tag), once per storage."""
    seen = []
    base = torch.rand(4)
    torch.save([base, base[1:], torch.rand(2)], tmp_path / "value.pt")

    def place(storage, location):
        seen.append((type(storage), storage.nbytes(), location))
        return storage

    safe_load(tmp_path / "value.pt", map_location=place)

    assert sorted(seen, key=lambda item: -item[1]) == [
        (torch.UntypedStorage, 16, "cpu"),
        (torch.UntypedStorage, 8, "cpu"),
    ]


def located(path, location):
    """Save a tensor whose storage says it was somewhere else."""
    torch.save(torch.arange(3.0), path)
    with zipfile.ZipFile(path) as archive:
        records = {item.filename: archive.read(item) for item in archive.infolist()}
    tag = location.encode()
    old = b"X\x03\0\0\0cpu"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("data.pkl"):
                assert data.count(old) == 1
                new = b"X" + struct.pack("<I", len(tag)) + tag
                archive.writestr(name, data.replace(old, new))
            else:
                archive.writestr(name, data)


@pytest.mark.parametrize("tag", ["cuda:0", "cuda:97", "mps", "xpu:1", "nowhere:1"])
def test_device_of_a_file_that_is_not_there_means_cpu(tag, tmp_path):
    """A file from a larger machine loads; torch.load raises RuntimeError."""
    located(tmp_path / "value.pt", tag)
    if torch.cuda.is_available() and tag == "cuda:0":
        pytest.skip("this machine has that device")

    assert safe_load(tmp_path / "value.pt").device.type == "cpu"


@pytest.mark.parametrize("tag", ["../../etc", "a b", "cuda:0\n", "é", ":0"])
def test_location_that_is_no_tag_is_malformed(tag, tmp_path):
    """Nobody sees a location that is not one, but the caller may overrule it."""
    located(tmp_path / "value.pt", tag)

    with pytest.raises(MalformedFileError) as caught:
        safe_load(tmp_path / "value.pt", lambda storage, _: storage)

    assert type(caught.value) is MalformedFileError
    assert "location" in caught.value.reason
    assert safe_load(tmp_path / "value.pt", "cpu").tolist() == [0, 1, 2]


def test_caller_s_missing_device_is_torch_s_error(tmp_path):
    """What the caller asks for and cannot have is not the file's fault."""
    torch.save(torch.rand(3), tmp_path / "value.pt")

    with pytest.raises(RuntimeError) as caught:
        safe_load(tmp_path / "value.pt", "cuda:97")

    assert not isinstance(caught.value, UnsafeFileError)


@pytest.mark.parametrize("place", [3, object(), [1]])
def test_map_location_of_another_type_is_a_type_error(place, tmp_path):
    """Neither string, device, mapping nor callable."""
    torch.save(torch.rand(3), tmp_path / "value.pt")

    with pytest.raises(TypeError):
        safe_load(tmp_path / "value.pt", place)


def test_map_location_function_that_returns_nonsense_is_a_type_error(tmp_path):
    """torch would fail later, and less clearly."""
    torch.save(torch.rand(3), tmp_path / "value.pt")

    with pytest.raises(TypeError) as caught:
        safe_load(tmp_path / "value.pt", lambda *_: 3)

    assert "int" in str(caught.value)


COMPRESSED = {
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
}


@pytest.mark.parametrize("layout", COMPRESSED)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_compressed_tensor_that_requires_a_gradient_still_does(layout, both):
    """As with torch, but as a leaf: what is loaded has no history."""
    for wanted in (True, False):
        value = COMPRESSED[layout]().requires_grad_(wanted)
        expected, got = both(value)
        assert (expected.requires_grad, got.requires_grad) == (wanted, wanted)
        assert got.is_leaf
        assert torch.equal(got.detach().to_dense(), torch.eye(4))


@pytest.mark.parametrize("layout", [*COMPRESSED, "coo"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_default_device_of_the_moment_changes_nothing(layout):
    """Neither a context nor `set_default_device`: a tensor is where its storage is."""
    value = {**COMPRESSED, "coo": lambda: torch.eye(4).to_sparse()}[layout]()
    file = io.BytesIO()
    torch.save(value, file)
    with torch.device("meta"):
        got = safe_load(file.getvalue())
    assert torch.equal(got.to_dense(), torch.eye(4))
