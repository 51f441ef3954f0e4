"""The stream of torch before 1.6: five pickles and raw storages, rule by rule."""

from __future__ import annotations

import pickle
import struct

import pytest

from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._unpickle.nodes import TensorCall
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    MalformedFileError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.policy import SALVAGE

MAGIC = 0x1950A86A20F9469CFC6C
FACTS = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}


def plain(value: object) -> bytes:
    """Return a pickle of plain data, as torch wrote it."""
    return pickle.dumps(value, protocol=2)


def text(value: str) -> bytes:
    """Return BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(key: bytes = text("0"), kind: str = "Float", count: bytes = b"K\x02",
            view: bytes = b"N") -> bytes:  # fmt: skip
    """Return the persistent id of a storage: 2 floats under key 0."""
    body = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + key
    return body + text("cpu") + count + view + b"tQ"


def stream(
    body: bytes = storage(),
    keys: object = ("0",),
    storages: bytes = struct.pack("<q2f", 2, 1.0, 2.0),
    **header: object,
) -> bytes:
    """Return a stream; what is not given is as torch writes it."""
    first = [header.get("magic", MAGIC), header.get("version", 1001),
             header.get("facts", FACTS)]  # fmt: skip
    pickles = [plain(value) for value in first]
    keys = keys if type(keys) is bytes else plain(list(keys))
    return b"".join(pickles) + b"\x80\x02" + body + b"." + keys + storages


def malformed(read, data: bytes) -> str:
    """Return why a stream is malformed."""
    with pytest.raises(MalformedFileError) as caught:
        read(data)
    assert type(caught.value) is MalformedFileError
    return caught.value.reason


def test_storages_follow_their_keys(read):
    """The stream takes its own bytes; what follows is another's."""
    second = struct.pack("<q3q", 3, 4, 5, 6)
    body = b"(" + storage() + storage(text("k"), "Long", b"K\x03") + storage() + b"t"
    data = stream(body, ("k", "0"), second + struct.pack("<q2f", 2, 1.0, 2.0))

    loaded = read(data + b"another")
    first, longs, again = (ref.value for ref in loaded.root)

    assert again is first
    assert (first.dtype, first.numel, first.big_endian) == ("float32", 2, False)
    assert (longs.dtype, longs.numel) == ("int64", 3)
    assert longs.record.read(limits=None) == second[8:]
    assert loaded.consumed == len(data)
    assert list(loaded.graph.storages) == ["0", "k"]


def test_a_stream_without_storages_is_just_its_object(read):
    """An empty list of keys."""
    loaded = read(stream(b"]", (), b""))
    assert (loaded.root, loaded.consumed) == ([], len(stream(b"]", (), b"")))


@pytest.mark.parametrize("key", ["0", b"0", 0])
@pytest.mark.parametrize("used", [text("0"), b"U\x010", b"K\x00"])
def test_keys_are_spelled_as_each_version_spelled_them(read, key, used):
    """Text, bytes or integers, here and there."""
    keys = pickle.dumps([key], protocol=2 if type(key) is not bytes else 3)
    assert read(stream(storage(used), keys), encoding="bytes").root.value.numel == 2


@pytest.mark.parametrize(
    "facts", [{"little_endian": False}, {b"little_endian": False}, {}]
)
def test_storages_are_little_endian_whatever_machine_wrote_them(read, facts):
    """torch turned them round on the others; the same file is the same to it."""
    facts = pickle.dumps(facts, protocol=3)
    data = plain(MAGIC) + plain(1001) + facts + b"\x80\x02" + storage() + b"."
    data += plain(["0"]) + struct.pack("<q2f", 2, 1.0, 2.0)
    assert not read(data).root.value.big_endian


@pytest.mark.parametrize("version", [1000, 1002, "1001", 1001.0, True, None])
def test_another_version_is_not_supported(read, version):
    """There has been one only."""
    with pytest.raises(UnsupportedFormatError) as caught:
        read(stream(version=version))
    assert caught.value.what.startswith("torch stream of version ")


@pytest.mark.parametrize("facts", [[], None, "little_endian", 7])
def test_the_facts_are_a_dictionary(read, facts):
    """Rule 1."""
    found = malformed(read, stream(facts=facts))
    assert found == "the third pickle is not a dictionary"


@pytest.mark.parametrize("place", ["version", "facts"])
@pytest.mark.parametrize(
    "body", [b"cos\nsystem\n", b"c__builtin__\nint\n(I1001\ntR", text("x") + b"Q"]
)
def test_the_header_names_nothing(read, place, body):
    """Rule 1, before any of it is used: neither globals nor calls nor storages."""
    header = {"version": plain(1001), "facts": plain(FACTS)}
    header[place] = b"\x80\x02" + body + b"."
    data = plain(MAGIC) + header["version"] + header["facts"]
    data += b"\x80\x02]." + plain([])
    found = malformed(read, data)
    assert found == "the header of a torch stream names a global"


def test_a_computed_magic_number_is_a_bare_pickle(read):
    """Only its literal makes a stream; the rest is left alone, as of any pickle."""
    first = b"\x80\x02" + text("x") + b"0\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
    assert read(first + stream()).root == MAGIC


@pytest.mark.parametrize(
    "keys",
    [plain(("0",)), plain("0"), plain({"0": 1}), b"\x80\x02]cos\nsystem\na.",
     b"\x80\x02]" + text("0") + b"Qa."],
)  # fmt: skip
def test_the_keys_are_a_plain_list(read, keys):
    """Rule 2: nothing in it names anything."""
    assert malformed(read, stream(keys=keys)) == "the storage keys are not a list"


@pytest.mark.parametrize("key", [None, 0.0, ("0",), True])
def test_a_key_is_short_text(read, key):
    """As in the object."""
    assert malformed(read, stream(keys=(key,))) == "a storage key is not short text"


def test_long_keys_that_a_memo_repeats_are_not_decoded(read):
    """A megabyte of text for every two bytes."""
    keys = b"\x80\x03](B" + struct.pack("<I", 65) + b"k" * 65 + b"q\x00" + b"h\x00" * 9
    found = malformed(read, stream(keys=keys + b"e."))
    assert found == "a storage key is not short text"


@pytest.mark.parametrize("keys", [("0", "0"), ("0", 0)])
def test_a_key_occurs_once(read, keys):
    """In whatever spelling."""
    assert malformed(read, stream(keys=keys)) == "a storage key occurs twice"


def test_every_storage_that_follows_is_used(read):
    """Rule 2: bytes that nobody asks for are hidden."""
    found = malformed(read, stream(b"]"))
    assert found == "storage 0 is not used"


def test_every_storage_that_is_used_follows(read):
    """Rule 2, from the other side."""
    assert "has no record" in malformed(read, stream(keys=(), storages=b""))


@pytest.mark.parametrize("size", [0, 7])
def test_a_count_that_is_cut_is_truncated(read, size):
    """It takes eight bytes."""
    with pytest.raises(TruncatedFileError) as caught:
        read(stream(storages=bytes(size)))
    assert (caught.value.needed, caught.value.available) == (8, size)


def test_a_storage_that_is_cut_is_truncated(read):
    """One byte too few."""
    with pytest.raises(TruncatedFileError) as caught:
        read(stream()[:-1])
    assert (caught.value.needed, caught.value.available) == (8, 7)


@pytest.mark.parametrize(
    ("count", "written", "needed"),
    [(b"K\x02", 1, 2), (b"K\x02", 3, 2), (b"K\x02", -2, 2), (b"N", 2, 0),
     (text("2"), 2, 0), (b"J\xff\xff\xff\xff", -1, -1)],
)  # fmt: skip
def test_a_count_is_the_one_the_object_gives(read, count, written, needed):
    """And is a number of elements."""
    storages = struct.pack("<q", written) + bytes(12)
    with pytest.raises(StorageBoundsError) as caught:
        read(stream(storage(count=count), storages=storages))
    assert (caught.value.needed, caught.value.available) == (needed, written)


def test_a_negative_count_leads_nowhere(read):
    """Else the next storage would start before the first byte."""
    big = b"J" + struct.pack("<i", -100_000)
    body = b"(" + storage(count=big) + storage(text("1")) + b"t"
    with pytest.raises(StorageBoundsError) as caught:
        read(stream(body, ("0", "1"), struct.pack("<q", -100_000) + bytes(64)))
    assert caught.value.available == -100_000


@pytest.mark.parametrize("count", [b"\x88", b"G@\x00\x00\x00\x00\x00\x00\x00"])
def test_a_count_that_only_equals_a_number_is_none(read, count):
    """True is 1 and 2.0 is 2; neither is a count."""
    written = 1 if count == b"\x88" else 2
    storages = struct.pack("<q", written) + bytes(4 * written)
    found = malformed(read, stream(storage(count=count), storages=storages))
    assert found.startswith("a storage of ")


def test_a_storage_class_that_is_none_is_refused(read):
    """Whatever its bytes are."""
    body = storage().replace(b"FloatStorage", b"FancyStorage")
    storages = struct.pack("<q", 2) + bytes(2)
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(stream(body, storages=storages))
    assert caught.value.name == "FancyStorage"
    with pytest.raises(ForbiddenCallError) as call:
        read(stream(body, storages=storages), policy=SALVAGE)
    assert call.value.reason == "is not a storage class"


def test_a_slice_of_a_storage_is_one_of_its_root(read):
    """As torch before 0.4 wrote them; the whole root follows."""
    view = b"(" + text("v") + b"K\x01K\x01t"
    loaded = read(stream(storage(view=view))).root.value
    assert (loaded.base.key, loaded.offset, loaded.numel) == ("0", 1, 1)


def module(name: bytes = b"cpkg.net\nNet\n", tag: bytes = text("module")) -> bytes:
    """Return the id of a class with its source code."""
    return b"(" + tag + name + text("net.py") + text("import os") + b"tQ"


@pytest.mark.parametrize("tag", [text("module"), b"U\x06module"])
def test_source_code_beside_a_class_is_text(read, tag):
    """Rule 3: the id stands for the class, which is a name as any other."""
    data = stream(module(tag=tag) + b")\x81}b", (), b"")
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(data, encoding="bytes")
    assert (caught.value.module, caught.value.name) == ("pkg.net", "Net")

    made = read(data, encoding="bytes", policy=SALVAGE).root.value
    assert type(made) is OpaqueSpec
    assert (made.name, made.state) == ("pkg.net.Net", {})


def test_a_class_that_is_an_argument_is_found_behind_its_id(read):
    """Protocols 0 and 1 write it there; tensors beside it stay what they are."""
    body = b"(ccopy_reg\n_reconstructor\n(" + module() + b"c__builtin__\nobject\nNtR"
    body += b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\x00K\x02\x85K\x01"
    body += b"\x85\x89ccollections\nOrderedDict\n)RtRt"
    made, tensor = read(stream(body), policy=SALVAGE).root
    assert (made.value.name, made.value.args) == ("pkg.net.Net", ())
    assert tensor.value.shape == (2,)


def test_source_code_without_a_class_is_malformed(read):
    """Its second part is a name, not text that looks like one."""
    found = malformed(read, stream(module(text("pkg.net.Net")), (), b""))
    assert found == "a module without a class"


def test_a_class_beside_a_tensor_read_in_one_step_is_found_behind_its_id(read):
    """With an id of five parts, which torch wrote in archives only."""

    def put(slot: int) -> bytes:
        return b"r" + struct.pack("<I", slot)

    body = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00" + text("storage") + b"q\x01"
    body += b"ctorch\nFloatStorage\nq\x02" + text("cpu") + b"q\x03"
    body += b"ccollections\nOrderedDict\nq\x0400000"
    body += b"".join(b"N" + put(slot) + b"0" for slot in range(5, 300))
    body += b"(" + module() + b")\x81}b"
    body += b"h\x00((h\x01h\x02" + text("0") + put(300) + b"h\x03K\x02t" + put(301)
    body += b"QK\x00K\x02\x85" + put(302) + b"K\x01\x85" + put(303) + b"\x89h\x04)R"
    body += put(304) + b"t" + put(305) + b"R" + put(306) + b"t"

    made, tensor = read(stream(body), policy=SALVAGE).root
    assert made.value.name == "pkg.net.Net"
    assert type(tensor) is TensorCall
    assert tensor.value.shape == (2,)


def test_a_storage_whose_class_is_no_name_is_not_one(read):
    """Neither for its size nor for its type."""
    body = storage().replace(b"ctorch\nFloatStorage\n", text("FloatStorage"))
    assert malformed(read, stream(body)) == "storage 0 is not used"
    found = malformed(read, stream(body, (), b""))
    assert found == "a storage class that is not a global"


def test_an_id_that_is_neither_is_malformed(read):
    """Shorter than a storage's, and no module's."""
    body = b"(" + text("other") + b"K\x00K\x00K\x00tQ"
    found = malformed(read, stream(body, (), b""))
    assert found == "not the persistent id of a storage"
