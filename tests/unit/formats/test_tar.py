"""The tar archive of torch 0.1: descriptions, raw numbers, views inside storages."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile

import pytest

from safemodel._graph.specs import StorageSpec, StorageViewSpec, TensorSpec
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    StorageBoundsError,
    TruncatedFileError,
)
from safemodel.limits import Limits
from safemodel.policy import SALVAGE


def plain(value: object) -> bytes:
    """Return a pickle of plain data."""
    return pickle.dumps(value, protocol=2)


def push(value: object) -> bytes:
    """Return the opcodes of plain data, or those that are given."""
    return value if type(value) is bytes else plain(value)[2:-1]


def described(*parts: object) -> bytes:
    """Return a description: a tuple."""
    return b"\x80\x02(" + b"".join(map(push, parts)) + b"t."


FLOATS, LONGS = b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n"
TENSOR = b"ctorch\nFloatTensor\n"


def storage(key: object = 1, kind: bytes = FLOATS, count: int = 4,
            raw: bytes = bytes(16), location: object = "cpu") -> bytes:  # fmt: skip
    """Return one entry of the member `storages`."""
    return described(key, location, kind) + struct.pack("<q", count) + raw


def tensor(key: object = 2, of: object = 1, ndim: int | None = None,
           shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,),
           offset: int = 0) -> bytes:  # fmt: skip
    """Return one entry of the member `tensors`."""
    ndim = len(shape) if ndim is None else ndim
    numbers = struct.pack(f"<{len(shape) + len(stride)}q", *shape, *stride)
    head = described(key, of, TENSOR) + struct.pack("<i4x", ndim)
    return head + numbers + struct.pack("<q", offset)


def persistent(key: object) -> bytes:
    """Return a pickle of one persistent id."""
    return b"\x80\x02" + push(key) + b"Q."


def archive(**members: bytes | None) -> bytes:
    """Return an archive of one storage of 4 floats and a tensor over it."""
    default = {
        "sys_info": plain({"protocol_version": 1000}),
        "pickle": persistent(2),
        "storages": plain(1) + storage() + plain([]),
        "tensors": plain(1) + tensor(),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in (default | members).items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def malformed(read, data: bytes, record: str) -> str:
    """Return why an archive is malformed; the error names the member."""
    with pytest.raises(MalformedFileError) as caught:
        read(data)
    assert type(caught.value) is MalformedFileError
    assert caught.value.record == record
    return caught.value.reason


def test_an_archive_is_read(read):
    """A tensor over a storage, both by their keys."""
    loaded = read(archive())
    spec = loaded.root.value
    assert type(spec) is TensorSpec
    assert (spec.dtype, spec.offset, spec.shape, spec.stride) == (
        "float32", 0, (4,), (1,),
    )  # fmt: skip
    assert spec.storage.record.size == 16
    assert list(loaded.graph.storages) == ["storages/1"]


@pytest.mark.parametrize("member", ["sys_info", "pickle", "storages", "tensors"])
def test_all_four_members_are_there(read, member):
    """Whatever the others hold."""
    with pytest.raises(MalformedFileError) as caught:
        read(archive(**{member: None}, other=b"x"))
    assert caught.value.reason == f"the tar archive has no member {member}"


@pytest.mark.parametrize("key", [1, "1"])
@pytest.mark.parametrize("used", [1, "1"])
def test_a_key_is_one_in_either_spelling(read, key, used):
    """Text and integers name the same storage."""
    data = archive(
        storages=plain(1) + storage(key), tensors=plain(1) + tensor(of=used),
        pickle=persistent(used),
    )  # fmt: skip
    assert type(read(data).root.value) is StorageSpec


@pytest.mark.parametrize("key", [3, "x", None, (), (1,), 1.0], ids=repr)
def test_a_key_that_is_not_there_is_malformed(read, key):
    """A tuple is one only where it starts with a class."""
    data = archive(pickle=persistent(key))
    with pytest.raises(MalformedFileError) as caught:
        read(data)
    assert caught.value.record == "pickle"


def test_a_class_with_its_source_code_is_its_name(read):
    """(class, file, source), which torch 0.1 wrote for modules."""
    pid = b"(cpkg\nNet\n" + push("net.py") + push("import os") + b"t"
    data = archive(pickle=persistent(pid))
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(data)
    assert (caught.value.module, caught.value.record) == ("pkg", "pickle")
    assert read(data, policy=SALVAGE).root.value.value.name == "pkg.Net"


def test_the_location_is_text_or_the_processor(read):
    """Nothing but the caller's `map_location` looks at it."""
    for location, kept in (("cuda:1", "cuda:1"), (None, "cpu"), (7, "cpu")):
        data = archive(
            storages=plain(1) + storage(location=location), pickle=persistent(1)
        )
        assert read(data).root.value.location == kept


@pytest.mark.parametrize(
    "count",
    [plain("1"), plain([1]), plain(True), plain(1.0), b"\x80\x02cos\nsystem\n."],
)
def test_a_member_starts_with_a_count(read, count):
    """A plain integer."""
    for member in ("storages", "tensors"):
        reason = malformed(read, archive(**{member: count}), member)
        assert reason == "not the description of a storage or tensor"


@pytest.mark.parametrize("count", [-1, 10_000])
def test_a_count_is_no_more_than_the_member_could_hold(read, count):
    """Each item takes more than a byte."""
    for member in ("storages", "tensors"):
        reason = malformed(read, archive(**{member: plain(count)}), member)
        assert reason == f"{count} items"


@pytest.mark.parametrize(
    "body",
    [b"\x80\x02(K\x01X\x03\x00\x00\x00cpuc__builtin__\nint\n)Rt.",
     b"\x80\x02(K\x01K\x02QK\x03t.", plain({}), plain(None)],
)  # fmt: skip
def test_a_description_calls_nothing(read, body):
    """Rule 1: it may name a class and no more."""
    data = archive(storages=plain(1) + body)
    reason = malformed(read, data, "storages")
    assert reason == "not the description of a storage or tensor"


@pytest.mark.parametrize("parts", [(1, "cpu"), (1, "cpu", FLOATS, 4)])
def test_a_description_has_three_parts(read, parts):
    """Key, location or storage, class."""
    data = archive(storages=plain(1) + described(*parts))
    assert malformed(read, data, "storages") == "not a description"


@pytest.mark.parametrize("key", [None, 1.0, (), True])
def test_the_key_of_a_description_is_text_or_a_number(read, key):
    """A bool is none."""
    data = archive(storages=plain(1) + storage(key))
    assert malformed(read, data, "storages") == "a key that is not text"


@pytest.mark.parametrize(
    ("kind", "named"),
    [(b"cos\nsystem\n", "os.system"), (TENSOR, "torch.FloatTensor"),
     (push("torch.FloatStorage"), "storage")],
)  # fmt: skip
def test_the_class_of_a_storage_is_a_storage_class(read, kind, named):
    """In opaque mode as well: there would be no size."""
    data = archive(storages=plain(1) + storage(kind=kind))
    for policy in ({}, {"policy": SALVAGE}):
        with pytest.raises(ForbiddenCallError) as caught:
            read(data, **policy)
        error = caught.value
        assert (error.name, error.reason) == (named, "is not a storage class")
        assert error.record == "storages"


@pytest.mark.parametrize("count", [5, -1, 1 << 62, -(1 << 63)])
def test_a_storage_lies_inside_its_member(read, count):
    """Neither one number too many nor fewer than none."""
    data = archive(storages=plain(1) + storage(count=count))
    with pytest.raises(StorageBoundsError) as caught:
        read(data)
    error = caught.value
    assert (error.needed, error.available, error.record) == (4 * count, 16, "storages")


@pytest.mark.parametrize("cut", [1, 8])
def test_numbers_that_are_cut_are_truncated(read, cut):
    """Of storages and tensors."""
    with pytest.raises(TruncatedFileError) as caught:
        read(archive(storages=plain(1) + storage(raw=b"")[:-cut]))
    assert (caught.value.needed, caught.value.available) == (8, 8 - cut)
    assert caught.value.record == "storages"
    with pytest.raises(TruncatedFileError):
        read(archive(tensors=plain(1) + tensor()[:-cut]))


def test_a_slice_of_a_storage_is_a_storage(read):
    """Behind the storages: key, root, offset, count."""
    views = plain([(3, 1, 1, 2), ("4", "1", 4, 0)])
    data = archive(storages=plain(1) + storage() + views, pickle=persistent(3))
    spec = read(data).root.value
    assert type(spec) is StorageViewSpec
    assert (spec.base.key, spec.offset, spec.numel) == ("1", 1, 2)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ([3, 1, 1, 2], "not the view of a storage"),
        ((3, 1, 1), "not the view of a storage"),
        ((3, 9, 1, 2), "the view of no storage"),
        ((3, None, 1, 2), "the view of no storage"),
        ((3, 1, "1", 2), "the view of no storage"),
    ],
)
def test_a_slice_is_one_of_a_storage(read, view, reason):
    """Rule 2, before any number is compared."""
    data = archive(storages=plain(1) + storage() + plain([view]))
    assert malformed(read, data, "storages") == reason


def test_a_slice_of_a_slice_is_malformed(read):
    """Its root is a storage (T27)."""
    views = plain([(3, 1, 1, 2), (4, 3, 0, 1)])
    data = archive(storages=plain(1) + storage() + views)
    assert malformed(read, data, "storages") == "the view of no storage"


@pytest.mark.parametrize(
    ("offset", "count", "needed"),
    [(0, 5, 5), (5, 0, 5), (-1, 1, 0), (2, -1, 1), (0, "4", 0), (0, None, 0)],
)
def test_a_slice_lies_inside_its_storage(read, offset, count, needed):
    """On every side."""
    views = plain([(3, 1, offset, count)])
    with pytest.raises(StorageBoundsError) as caught:
        read(archive(storages=plain(1) + storage() + views))
    error = caught.value
    assert (error.needed, error.available, error.record) == (needed, 4, "storages")


@pytest.mark.parametrize("ndim", [-1, 3, 1 << 30])
def test_a_tensor_has_as_many_axes_as_the_limit(read, ndim):
    """Compared before their lengths are read."""
    limits = Limits(max_dimensions=2)
    flat = tensor(shape=(2, 2), stride=(2, 1))
    assert read(archive(tensors=plain(1) + flat), limits=limits).root.value.shape
    with pytest.raises(LimitExceededError) as caught:
        read(archive(tensors=plain(1) + tensor(ndim=ndim)), limits=limits)
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_dimensions", 2, ndim)


@pytest.mark.parametrize("of", [9, None, "x"])
def test_a_tensor_has_a_storage(read, of):
    """By its key."""
    data = archive(tensors=plain(1) + tensor(of=of))
    assert malformed(read, data, "tensors") == "tensor 2 has no storage"


def test_a_tensor_of_a_tensor_is_refused(read):
    """Tensors and storages share their keys, but not their place."""
    data = archive(tensors=plain(2) + tensor() + tensor(key=3, of=2))
    with pytest.raises(ForbiddenCallError) as caught:
        read(data)
    assert caught.value.record == "tensors"
    assert caught.value.reason == "its first argument is not a storage"


@pytest.mark.parametrize(("shape", "offset"), [((5,), 0), ((4,), 1)])
def test_a_tensor_lies_inside_its_storage(read, shape, offset):
    """One element too many."""
    data = archive(tensors=plain(1) + tensor(shape=shape, offset=offset))
    with pytest.raises(StorageBoundsError) as caught:
        read(data)
    error = caught.value
    assert (error.needed, error.available, error.record) == (5, 4, "tensors")


def test_members_without_entries_are_read(read):
    """A model without weights; slices need not be there."""
    data = archive(storages=plain(0), tensors=plain(0), pickle=plain([1]))
    assert read(data).root == [1]
