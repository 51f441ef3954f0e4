"""Persistent ids → storages: each rule of `storages`, on both sides."""

from __future__ import annotations

import pytest

from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel._graph.specs import StorageSpec, StorageViewSpec
from safemodel._graph.storages import StorageTable, key_text
from safemodel._unpickle.nodes import (
    GlobalRef,
    PersistentRef,
    TensorCall,
    TensorForm,
)
from safemodel.errors import (
    ForbiddenCallError,
    MalformedFileError,
    StorageBoundsError,
)

RECORD = "archive/data.pkl"
POSITION = 31
FLOAT = GlobalRef("torch", "FloatStorage", 5)
LONG = GlobalRef("torch", "LongStorage", 6)


def ref(*pid: object) -> PersistentRef:
    """Return a persistent id, as the machine records it."""
    return PersistentRef(pid, POSITION)


def floats(key: object = "0", numel: object = 4, *more: object) -> PersistentRef:
    """Return the id of a storage of floats."""
    return ref("storage", FLOAT, key, "cpu", numel, *more)


@pytest.fixture
def table():
    """Return a table over two records of 16 bytes."""
    records = {
        key: Record(key, open_source(bytes(16)), 0, 16) for key in ("0", "1", "k" * 64)
    }
    return StorageTable(records.get, record=RECORD, big_endian=True)


def malformed(table: StorageTable, node: PersistentRef) -> str:
    """Return why an id is malformed; it says where it is."""
    with pytest.raises(MalformedFileError) as caught:
        table.resolve(node)
    error = caught.value
    assert type(error) is MalformedFileError
    assert (error.record, error.position) == (RECORD, POSITION)
    return error.reason


def test_a_storage_has_what_its_id_and_its_class_say(table):
    """Type and size of an element from the class, the bytes from the record."""
    spec = table.resolve(floats())

    assert type(spec) is StorageSpec
    assert (spec.key, spec.dtype, spec.itemsize, spec.numel) == ("0", "float32", 4, 4)
    assert (spec.location, spec.typed, spec.big_endian) == ("cpu", True, True)
    assert spec.record.size == 16
    assert table.storages == {"0": spec}


def test_an_untyped_storage_counts_bytes(table):
    """Under every name its class has had."""
    for module, name in (("torch.storage", "UntypedStorage"),):
        kind = GlobalRef(module, name, 0)
        spec = table.resolve(ref("storage", kind, "1", "cpu", 16))
        assert (spec.dtype, spec.itemsize, spec.typed) == ("uint8", 1, False)


@pytest.mark.parametrize("key", ["0", b"0", 0])
@pytest.mark.parametrize("tag", ["storage", b"storage"])
def test_one_key_spelled_differently_is_one_storage(table, key, tag):
    """Python 2 wrote bytes, the oldest files integers (T24)."""
    known = table.resolve(floats("0"))

    assert table.resolve(ref(tag, FLOAT, key, b"cpu", 4)) is known
    assert list(table.storages) == ["0"]


@pytest.mark.parametrize("key", ["00", " 0", "0 ", "+0", "٠", 1 << 40, -1])
def test_a_key_that_is_only_like_another_is_not_it(table, key):
    """A record is found by its exact name (T18)."""
    assert "has no record" in malformed(table, floats(key))


def test_keys_are_short():
    """A memo names a megabyte in two bytes; only 64 of them are decoded."""
    assert key_text(b"k" * 64) == "k" * 64
    assert key_text(b"k" * 65) is None
    assert key_text((1 << 64) - 1) == "18446744073709551615"
    assert key_text(1 << 64) is None
    assert key_text("k" * 1000) == "k" * 1000


def test_the_record_of_a_long_key_is_not_looked_for(table):
    """64 characters are, 65 are not."""
    assert table.resolve(floats("k" * 64)).key == "k" * 64
    assert "has no record" in malformed(table, floats("k" * 65))


@pytest.mark.parametrize("key", [None, 0.0, True, (), FLOAT, b"k" * 65], ids=repr)
def test_a_key_that_is_no_short_text_is_malformed(table, key):
    """A bool is no integer."""
    assert malformed(table, floats(key)) == "a storage key that is not a short text"


@pytest.mark.parametrize(
    "pid",
    [
        ("storage", FLOAT, "0", "cpu"),
        ("storage", FLOAT, "0", "cpu", 4, None, None),
        ("module", FLOAT, "0", "cpu", 4),
        ("Storage", FLOAT, "0", "cpu", 4),
        (FLOAT, FLOAT, "0", "cpu", 4),
        (),
    ],
    ids=repr,
)
def test_what_is_no_id_of_a_storage_is_malformed(table, pid):
    """Rule 1."""
    assert malformed(table, ref(*pid)) == "not the persistent id of a storage"


@pytest.mark.parametrize("pid", ["storage", 7, None, ["storage"]], ids=repr)
def test_an_id_that_is_no_tuple_is_malformed(table, pid):
    """Protocol 0 writes text; tar files give numbers: neither is a storage."""
    node = PersistentRef(pid, POSITION)
    assert malformed(table, node) == "not the persistent id of a storage"


@pytest.mark.parametrize("kind", ["torch.FloatStorage", None, ((),), {}], ids=repr)
def test_a_class_that_is_no_global_is_malformed(table, kind):
    """It is not even hashed, which a nest of tuples would make endless."""
    node = ref("storage", kind, "0", "cpu", 4)
    assert malformed(table, node) == "a storage class that is not a global"


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("torch", "Tensor"), ("torch", "TypedStorage")],
)
def test_a_global_that_is_no_storage_class_is_refused(table, module, name):
    """Rule 2: exact names, and none that has no element type."""
    with pytest.raises(ForbiddenCallError) as caught:
        table.resolve(ref("storage", GlobalRef(module, name, 0), "0", "cpu", 4))
    error = caught.value
    assert (error.name, error.reason) == (f"{module}.{name}", "is not a storage class")
    assert (error.record, error.position) == (RECORD, POSITION)


@pytest.mark.parametrize(
    ("kind", "numel"),
    [
        (LONG, 2),
        (GlobalRef("torch", "IntStorage", 0), 4),
        (GlobalRef("torch.storage", "UntypedStorage", 0), 16),
        (FLOAT, 3),
        (FLOAT, 5),
        (FLOAT, "4"),
        (FLOAT, None),
    ],
    ids=repr,
)
def test_one_key_has_one_type_and_one_count(table, kind, numel):
    """Rule 4: neither another type of as many bytes nor another count (T6)."""
    table.resolve(floats())
    with pytest.raises(ForbiddenCallError) as caught:
        table.resolve(ref("storage", kind, "0", "cpu", numel))
    error = caught.value
    assert error.name == "storage 0"
    assert error.reason.startswith("is 4 × float32 and ")
    assert (error.record, error.position) == (RECORD, POSITION)


def test_bytes_typed_and_untyped_under_one_key_are_refused(table):
    """uint8 is the type of both: the caller would get one of two kinds."""
    byte = GlobalRef("torch", "ByteStorage", 0)
    table.resolve(ref("storage", byte, "0", "cpu", 16))
    untyped = GlobalRef("torch.storage", "UntypedStorage", 0)
    with pytest.raises(ForbiddenCallError):
        table.resolve(ref("storage", untyped, "0", "cpu", 16))


@pytest.mark.parametrize("numel", [3, 5, 0, 1 << 61])
def test_a_record_is_exactly_as_long_as_its_storage(table, numel):
    """Rule 3: bytes that are missing, and bytes that would be hidden (T5)."""
    with pytest.raises(StorageBoundsError) as caught:
        table.resolve(floats("0", numel))
    error = caught.value
    assert (error.needed, error.available) == (4 * numel, 16)
    assert (error.record, error.position) == (RECORD, POSITION)


@pytest.mark.parametrize("numel", [-1, 1 << 62, 4.0, True, None, "4"], ids=repr)
def test_a_count_is_a_number_of_elements(table, numel):
    """Neither negative nor beyond what 64 bits can add up."""
    assert malformed(table, floats("0", numel)).startswith("a storage of ")


@pytest.mark.parametrize("location", [None, 0, "x" * 65, b"x" * 65, ()], ids=repr)
def test_a_location_is_short_text(table, location):
    """Rule 5; at 64 it still is (T17)."""
    kept = table.resolve(ref("storage", FLOAT, "1", "../" + "x" * 61, 4))
    assert kept.location == "../" + "x" * 61
    node = ref("storage", FLOAT, "0", location, 4)
    assert malformed(table, node) == "a storage location that is not a short text"


def test_only_an_empty_storage_of_no_device_may_lack_its_record(table):
    """Torch writes none for a tensor on the meta device."""
    meta = table.resolve(ref("storage", FLOAT, "9", "meta", 0))
    assert (meta.record, meta.numel, meta.location) == (None, 0, "meta")

    assert "has no record" in malformed(table, ref("storage", FLOAT, "8", "meta", 1))
    assert "has no record" in malformed(table, ref("storage", FLOAT, "8", "cpu", 0))


def test_a_tensor_finds_the_storage_that_its_id_would(table):
    """`TensorCall` holds the parts of the id."""
    form = tensor_form()
    call = TensorCall(form, "0", POSITION)
    assert table.of_tensor(call) is table.resolve(floats())
    assert table.of_tensor(call) is table.resolve(floats())


def tensor_form(location: str = "cpu", numel: int = 4) -> TensorForm:
    """Return the form of a tensor that is all of its storage."""
    return TensorForm(FLOAT, FLOAT, location, numel, 0, (numel,), (1,), False)


def test_tensors_of_one_form_get_storages_that_the_long_way_would_make(table):
    """Once a form has passed, only what is about the record is looked at."""
    form = tensor_form()
    first, second = (table.of_tensor(TensorCall(form, key, 7)) for key in "01")
    alone = StorageTable(table._find_record, record=RECORD, big_endian=True)
    expected = alone.resolve(floats("1"))

    assert first is not second
    facts = ("key", "dtype", "itemsize", "numel", "record", "location", "typed")
    for name in (*facts, "big_endian", "swapped", "views"):
        assert getattr(second, name) == getattr(expected, name)


def test_tensors_of_one_form_need_records_of_one_size():
    """The second record is shorter, the third is missing."""
    records = {key: Record(key, open_source(bytes(16)), 0, 16) for key in "01"}
    records["1"] = Record("1", open_source(bytes(16)), 0, 12)
    table = StorageTable(records.get, record=RECORD)
    form = tensor_form()
    table.of_tensor(TensorCall(form, "0", 7))

    with pytest.raises(StorageBoundsError) as caught:
        table.of_tensor(TensorCall(form, "1", 8))
    assert (caught.value.needed, caught.value.available) == (16, 12)
    with pytest.raises(MalformedFileError) as missing:
        table.of_tensor(TensorCall(form, "2", 9))
    assert (missing.value.record, missing.value.position) == (RECORD, 9)


def test_a_form_that_only_met_known_storages_has_passed_nothing(table):
    """The location of a storage is looked at when the storage is new."""
    table.resolve(floats())
    form = tensor_form(location="x" * 65)
    table.of_tensor(TensorCall(form, "0", 7))

    with pytest.raises(MalformedFileError) as caught:
        table.of_tensor(TensorCall(form, "1", 8))
    assert caught.value.reason == "a storage location that is not a short text"


def test_a_view_lies_inside_its_storage(table):
    """The sixth item of files before torch 0.4: key, offset, count."""
    base = table.resolve(floats("0", 4, None))
    whole = table.resolve(floats("0", 4, ("v", 0, 4)))
    empty = table.resolve(floats("0", 4, (b"w", 4, 0)))

    assert type(base) is StorageSpec
    assert type(whole) is StorageViewSpec
    assert (whole.base, whole.offset, whole.numel) == (base, 0, 4)
    assert (empty.base, empty.offset, empty.numel) == (base, 4, 0)
    assert table.resolve(floats("0", 4, (b"v", 0, 4))) is whole


@pytest.mark.parametrize(
    ("offset", "numel", "needed"),
    [
        (0, 5, 5), (4, 1, 5), (5, 0, 5), (-1, 2, 1), (2, -1, 1), (1 << 70, 0, 1 << 70),
        (True, 1, 0), (0, None, 0), ("0", 1, 0),
    ],
)  # fmt: skip
def test_a_view_past_its_storage_is_refused(table, offset, numel, needed):
    """One element too many, one before the first, and numbers that are none."""
    with pytest.raises(StorageBoundsError) as caught:
        table.resolve(floats("0", 4, ("v", offset, numel)))
    error = caught.value
    assert (error.needed, error.available) == (needed, 4)
    assert (error.record, error.position) == (RECORD, POSITION)


@pytest.mark.parametrize("view", [("v", 0), ("v", 0, 4, 0), ["v", 0, 4], 0], ids=repr)
def test_a_view_is_key_offset_and_count(table, view):
    """Anything else is malformed."""
    assert malformed(table, floats("0", 4, view)) == "not a view of a storage"


@pytest.mark.parametrize("key", [None, b"v" * 65], ids=repr)
def test_the_key_of_a_view_is_short_text(table, key):
    """As that of a storage."""
    node = floats("0", 4, (key, 0, 4))
    assert malformed(table, node) == "a storage key that is not a short text"


@pytest.mark.parametrize(("offset", "numel"), [(1, 3), (0, 3)])
def test_one_key_is_one_view(table, offset, numel):
    """The same view elsewhere would be two objects to torch."""
    table.resolve(floats("0", 4, ("v", 0, 4)))
    node = floats("0", 4, ("v", offset, numel))
    assert malformed(table, node) == "two views of a storage under one key"
