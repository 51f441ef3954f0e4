"""What reads back otherwise is thrown away: writers with a fault, and single bits."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from safemodel import DisarmError, SafeModelError, disarm
from safemodel._rewrite import npz_writer, safetensors_writer, torch_writer, writers
from safemodel._rewrite.pickle_writer import PickleWriter
from safemodel._rewrite.plain import Plain
from safemodel._rewrite.readback_compare import Comparison
from safemodel._rewrite.readback_flat import check_npy
from safemodel._rewrite.readback_pickle import OPCODES, read_pickle
from tests.differential import values
from tests.unit.disarm.helpers_disarm import saved

CONSTANTS = writers._CONSTANTS


def model():
    """Return a value with one of everything that a pickle of ours can say."""
    whole = torch.arange(12, dtype=torch.float32)
    inner = [1, 2]
    ordered = OrderedDict(b=0.5, a=-0.0)
    ordered._metadata = OrderedDict([("", {"version": 1})])
    return {
        "view": whole[2:8].view(2, 3), "over": whole[4:10], "other": torch.ones(6),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "small": torch.zeros(3, dtype=torch.float8_e5m2),
        "grad": torch.ones(2, requires_grad=True),
        "scheme": values.per_channel(0), "sparse": values.coo(coalesced=True),
        "shared": [inner, inner], "equal": [[7, 8], [7, 8]], "ordered": ordered,
        "nested": ("outer text", ("inner text", None, True), [3, 1 << 70]),
        1: "one", (2, "b"): "two", "nan": float("nan"), "empty": [(), {}, []],
    }  # fmt: skip


def quiet_model() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved(model())


# Faults of the writers. Each takes `monkeypatch` and breaks one of their functions.


def leaf_fault(**changes):
    """Return a fault: tensors are written with another attribute."""

    def fault(patch):
        real = PickleWriter._tensor

        def tensor(self, leaf):
            leaf = copy.copy(leaf)
            for name, change in changes.items():
                setattr(leaf, name, change(getattr(leaf, name)))
            return real(self, leaf)

        patch.setattr(PickleWriter, "_tensor", tensor)

    return fault


def value_fault(method: str, change):
    """Return a fault: a method of the pickle's writer gets another value."""

    def fault(patch):
        real = getattr(PickleWriter, method)
        patch.setattr(
            PickleWriter, method, lambda self, value: real(self, change(value))
        )

    return fault


def scalar_fault(old, new):
    """Return a fault: one scalar is written as another."""
    same = (type(old), repr(old))
    return value_fault("_scalar", lambda v: new if (type(v), repr(v)) == same else v)


def memo_slot_twice(patch):
    """Count slots as the writer once did: open tuples count, too."""

    def put(self, key, value=None):
        slot = len(self._memo)
        self._memo[key] = slot
        self._kept.append(value)
        self._out += b"r" + slot.to_bytes(4, "little")

    patch.setattr(PickleWriter, "_put", put)


def memo_slot_read(patch):
    real = PickleWriter._fetch

    def fetch(self, key):
        known = real(self, key)
        if known and self._out[-2:-1] == b"h" and self._out[-1]:
            self._out[-1] -= 1
        return known

    patch.setattr(PickleWriter, "_fetch", fetch)


def lost_sharing(patch):
    real = PickleWriter._list

    def written(self, value):
        return real(self, list(value))

    patch.setattr(PickleWriter, "_list", written)


def invented_sharing(patch):
    real, seen = PickleWriter._list, {}

    def written(self, value):
        return real(self, seen.setdefault(repr(value), value))

    patch.setattr(PickleWriter, "_list", written)


def storages_swapped(patch):
    """The pickle is as it should be; the bytes go to the wrong records."""
    real = PickleWriter.write

    def write(self, root):
        data = real(self, root)
        self.contents[0], self.contents[1] = self.contents[1], self.contents[0]
        return data

    patch.setattr(PickleWriter, "write", write)


def keys_swapped(patch):
    other = {"0": "1", "1": "0"}
    value_fault("_text", lambda text: other.get(text, text))(patch)


def storages_joined(patch):
    """Tensors whose storages are alike in length and kind share one."""
    seen = {}

    def first(content):
        return seen.setdefault((content.dtype, content.numel), content)

    value_fault("_storage", first)(patch)


def storages_parted(patch):
    value_fault("_storage", copy.copy)(patch)


def items_fault(change):
    def fault(patch):
        real = PickleWriter._items
        patch.setattr(
            PickleWriter, "_items", lambda self, items: real(self, change(list(items)))
        )

    return fault


def ordered(value):
    return OrderedDict(value) if type(value) is dict else value


def without_metadata(value):
    return OrderedDict(value) if type(value) is OrderedDict else value


def other_metadata(value):
    if not hasattr(value, "_metadata"):
        return value
    made = OrderedDict(value)
    made._metadata = OrderedDict([("", {"version": 2})])
    return made


def foreign_opcode(patch):
    """INT instead of BININT1: the same number, by an opcode that is not ours."""

    def scalar(self, value):
        if type(value) is int:
            self._out += b"I%d\n" % value
        else:
            real(self, value)

    real = PickleWriter._scalar
    patch.setattr(PickleWriter, "_scalar", scalar)


def global_fault(old: str, module: str, name: str):
    def fault(patch):
        real = PickleWriter._global

        def written(self, *was):
            real(self, *((module, name) if was[1] == old else was))

        patch.setattr(PickleWriter, "_global", written)

    return fault


def after_the_end(patch):
    real = PickleWriter.write
    patch.setattr(PickleWriter, "write", lambda self, root: real(self, root) + b"N.")


def record_too_many(patch):
    class Writer(torch_writer.ZipWriter):
        def close(self):
            self.add("archive/data/99", 1, [b"x"])
            super().close()

    patch.setattr(torch_writer, "ZipWriter", Writer)


def other_byteorder(patch):
    class Writer(torch_writer.ZipWriter):
        def add(self, name, size, pieces):
            if name.endswith("byteorder"):
                size, pieces = 3, [b"big"]
            return super().add(name, size, pieces)

    patch.setattr(torch_writer, "ZipWriter", Writer)


def _swap(items):
    return [items[1], items[0], *items[2:]] if len(items) > 1 else items


def tuple_as_list(patch):
    real = PickleWriter._tuple

    def written(self, value):
        is_one = value[:1] == ("outer text",)
        return self._list(list(value)) if is_one else real(self, value)

    patch.setattr(PickleWriter, "_tuple", written)


NAN, OTHER_NAN = struct.unpack("<2d", struct.pack("<2Q", 0x7FF8 << 48, 0x7FF9 << 48))
MADE = "tensor is made"
PICKLE_FAULTS = {
    "memo slot twice": (memo_slot_twice, "gives slot"),
    "memo slot read": (memo_slot_read, ""),
    "lost sharing": (lost_sharing, "one value is two"),
    "invented sharing": (invented_sharing, "two values is one"),
    "storages swapped": (storages_swapped, "storage has other bytes"),
    "keys swapped": (keys_swapped, "storage has other bytes"),
    "storages joined": (storages_joined, "storages is one|was not written"),
    "storages parted": (storages_parted, "was not written|storage is two"),
    "shape": (leaf_fault(shape=lambda v: v[::-1]), "shape of a tensor is another"),
    "more shape": (leaf_fault(shape=lambda v: (*v, 1)), "shape of a tensor is another"),
    "stride": (leaf_fault(stride=lambda v: v[::-1]), "stride of a tensor is another"),
    "offset": (leaf_fault(offset=lambda v: v and v - 1), "int is another"),
    "no gradient": (leaf_fault(requires_grad=lambda _: False), "bool is another"),
    "gradient": (leaf_fault(requires_grad=lambda _: True), "bool is another"),
    "gradient as number": (leaf_fault(requires_grad=int), "bool is another"),
    "parameter": (leaf_fault(parameter=lambda _: True), MADE),
    "no scheme": (leaf_fault(scheme=lambda _: None), MADE),
    "axis": (leaf_fault(scheme=lambda s: s and (*s[:-1], s[-1] + 1)), "int is another"),
    "dropped item": (items_fault(lambda v: v[:-1]), "dictionary is longer or shorter"),
    "swapped items": (items_fault(_swap), "is another"),
    "item twice": (items_fault(lambda v: v + v[:1]), "dictionary is longer or shorter"),
    "dropped element": (value_fault("_list", lambda v: v[:-1]), "longer or shorter"),
    "swapped elements": (value_fault("_tuple", lambda v: v[::-1]), "another"),
    "ordered as dict": (value_fault("_mapping", dict), "dictionary is another kind"),
    "dict as ordered": (value_fault("_mapping", ordered), "dictionary is another kind"),
    "no metadata": (value_fault("_mapping", without_metadata), "state"),
    "other metadata": (value_fault("_mapping", other_metadata), "int is another"),
    "tuple as list": (tuple_as_list, "tuple is another kind"),
    "integer": (scalar_fault(7, 4), "int is another"),
    "large integer": (scalar_fault(1 << 70, 1 << 71), "int is another"),
    "true as one": (scalar_fault(True, 1), "bool is another"),
    "one as true": (scalar_fault(8, True), "int is another"),
    "float as integer": (scalar_fault(0.5, 1), "float is another"),
    "minus zero": (scalar_fault(-0.0, 0.0), "float is another"),
    "payload of nan": (scalar_fault(NAN, OTHER_NAN), "float is another"),
    "none as false": (scalar_fault(None, False), "NoneType is another"),
    "text": (value_fault("_text", str.upper), "is another|lies elsewhere"),
    "foreign opcode": (foreign_opcode, "has INT"),
    "foreign global": (global_fault("_rebuild_tensor_v2", "os", "system"), "names 'os"),
    "other function": (
        global_fault("_rebuild_tensor_v2", "torch._utils", "_rebuild_tensor_v3"), MADE,
    ),
    "storage class": (
        global_fault("FloatStorage", "torch", "IntStorage"), "FloatStorage' is another",
    ),
    "element type": (
        global_fault("float8_e5m2", "torch", "float8_e4m3fn"), "e5m2' is another",
    ),
    "name of a scheme": (
        global_fault("per_channel_affine", "torch", "per_channel_symmetric"),
        "affine' is another",
    ),
    "after the end": (after_the_end, "ends early"),
    "record too many": (record_too_many, "storages of no tensor"),
    "byte order": (other_byteorder, "byteorder are others"),
}  # fmt: skip


def check_is_caught(tmp_path, data, suffix, fault, message):
    """Disarm without the fault and with it; the second leaves nothing."""
    disarm(data, tmp_path / f"sound{suffix}")
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises(DisarmError, match=f"reads otherwise: .*(?:{message})"):
            disarm(data, tmp_path / f"out{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"sound{suffix}"]


@pytest.fixture(scope="module")
def data():
    return quiet_model()


@pytest.mark.parametrize("name", PICKLE_FAULTS)
def test_a_fault_of_the_pickle_writer_is_noticed(tmp_path, data, name):
    """Whatever it says wrongly, nothing gets the name of the target."""
    check_is_caught(tmp_path, data, ".pt", *PICKLE_FAULTS[name])


# Faults of the writers of flat files.


def flat() -> bytes:
    a = torch.arange(6.0).view(2, 3)
    return saved(
        {
            "a": a, "b": torch.ones(2, 3), "tied": a, "epoch": 3, "loss": float("nan"),
            "odd": torch.ones(2, dtype=torch.complex128), "half": torch.ones(3).half(),
            "small": torch.zeros(3, dtype=torch.float8_e4m3fnuz),
        }
    )  # fmt: skip


def header_fault(change):
    """Return a fault: the header of a safetensors file is changed as it is written."""

    def fault(patch):
        def dumps(value, **options):
            if "__metadata__" in value:
                value = copy.deepcopy(value)
                value = change(value) or value
            return json.dumps(value, **options)

        patch.setattr(safetensors_writer, "json", SimpleNamespace(dumps=dumps))

    return fault


def offsets_swapped(header):
    a, b = header["a"], header["b"]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]


def header_reordered(header):
    return dict(reversed(header.items()))


def parts_fault(change):
    """Return a fault: a part is written as another; not only its header."""

    def fault(patch):
        real = safetensors_writer._part
        patch.setattr(safetensors_writer, "_part", lambda *args: change(real(*args)))

    return fault


def contents_swapped(patch):
    real = safetensors_writer.parts_of

    def parts_of(given):
        parts, *more = real(given)
        at = {part.name: place for place, part in enumerate(parts)}
        a, b = parts[at["a"]], parts[at["b"]]
        parts[at["a"]] = a._replace(content=b.content)
        parts[at["b"]] = b._replace(content=a.content)
        return parts, *more

    patch.setattr(safetensors_writer, "parts_of", parts_of)


SAFETENSORS_FAULTS = {
    "offsets swapped": (header_fault(offsets_swapped), "'a' lies elsewhere"),
    "another order": (header_fault(header_reordered), "tensors are others"),
    "contents swapped": (contents_swapped, "'a' is made of other bytes"),
    "element type": (
        lambda patch: patch.setitem(safetensors_writer.NAMES, "float32", "I32"),
        "'a' has another element type",
    ),
    "bits under another type": (
        lambda patch: patch.setitem(
            safetensors_writer._AS_NUMBERS, "complex128", ("I64", (2,))
        ),
        "'odd' has another element type",
    ),
    "no note of a view": (
        lambda patch: patch.setitem(
            safetensors_writer.NAMES, "float8_e4m3fnuz", "F8_E4M3"
        ),
        "'small' has another element type",
    ),
    "shape": (
        parts_fault(lambda part: part._replace(shape=part.shape[::-1])),
        "'a' has another element type or shape",
    ),
    "shape in the header": (
        header_fault(lambda header: header["a"]["shape"].reverse()),
        "'a' has another element type or shape",
    ),
    "type in the header": (
        header_fault(lambda header: header["a"].update(dtype="U32")),
        "'a' has another element type or shape",
    ),
    "metadata": (
        header_fault(lambda header: header["__metadata__"].update(format="np")),
        "metadata",
    ),
    "dropped tensor": (header_fault(lambda h: h.pop("half") and None), "tensors"),
}


@pytest.mark.parametrize("name", SAFETENSORS_FAULTS)
def test_a_fault_of_the_safetensors_writer_is_noticed(tmp_path, name):
    """Be it in the header alone, where every CRC-32 still agrees."""
    check_is_caught(tmp_path, flat(), ".safetensors", *SAFETENSORS_FAULTS[name])


def array_fault(change):
    """Return a fault: the header of an `.npy` member says something else."""

    def fault(patch):
        real = npz_writer._header
        patch.setattr(npz_writer, "_header", lambda *args: change(real, *args))

    return fault


def read_swapped(patch):
    """Two tensors of one shape get each other's bytes."""
    real, held = npz_writer.row_major, []

    def row_major(spec, itemsize, content=None):
        if spec.shape == (2, 3):
            held.append(real(spec, itemsize, content))
            return held[0]
        return real(spec, itemsize, content)

    patch.setattr(npz_writer, "row_major", row_major)


NPZ_FAULTS = {
    "shape": (
        array_fault(lambda real, descr, shape: real(descr, shape[::-1])),
        "'a' has another element type or shape",
    ),
    "element type": (
        array_fault(lambda real, descr, shape: real(descr.replace("f4", "i4"), shape)),
        "'a' has another element type or shape",
    ),
    "byte order": (
        array_fault(lambda real, descr, shape: real(descr.replace("<", ">"), shape)),
        "'a' has another element type or shape",
    ),
    "order of axes": (
        array_fault(lambda real, *args: real(*args).replace(b"False", b"True ")),
        "notes are no text",
    ),
    "another's bytes": (read_swapped, "'b' is made of other bytes"),
    "no note of a view": (
        lambda patch: patch.setitem(npz_writer._DESCR, "float8_e4m3fnuz", "|u1"),
        "'small' was written as is not noted",
    ),
}


@pytest.mark.parametrize("name", NPZ_FAULTS)
def test_a_fault_of_the_npz_writer_is_noticed(tmp_path, name):
    """Numpy's own functions read the headers."""
    check_is_caught(tmp_path, flat(), ".npz", *NPZ_FAULTS[name])


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (np.array([1, 2, 3], "<f4"), "element type or shape"),
        (np.array([[1], [2], [3]], "<i4"), "element type or shape"),
        (np.array([1, 2, 4], "<i4"), "bytes of the array are others"),
    ],
)
def test_the_file_of_one_array_is_compared(tmp_path, there, message):
    """A member of an archive of models may be a bare `.npy`."""
    array = np.array([1, 2, 3], "<i4")
    leaf, path = Plain().of(array), tmp_path / "a.npy"

    def check(written):
        np.save(path, written)
        raw = path.read_bytes()
        check_npy(path, leaf, expected, {(0, len(raw)): zlib.crc32(raw)})

    np.save(path, array)
    expected = zlib.crc32(path.read_bytes())
    check(array)
    with pytest.raises(DisarmError, match=message):
        check(there)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("title", ["same", "data"])
def test_notes_that_are_not_the_value_s_are_noticed(tmp_path, suffix, title):
    """The text is as it was written; what it says is not what the value holds."""

    def fault(patch):
        for form in ("write_safetensors", "write_npz"):
            real = getattr(writers, form)

            def write(out, flat, read, real=real):
                other = copy.copy(flat)
                setattr(other, title, {})
                return real(out, other, read)

            patch.setattr(writers, form, write)

    check_is_caught(tmp_path, flat(), suffix, fault, f"notes of {title}")


def test_what_the_disk_changed_is_noticed(tmp_path, data, monkeypatch):
    """One bit of a file, once it was written: every bit of the last tensor's bytes."""
    for suffix in (".pt", ".safetensors", ".npz"):
        disarm(data, tmp_path / f"sound{suffix}")
        real = writers.write

        def write(form, out, *args, real=real):
            check = real(form, out, *args)
            out.flush()
            raw = bytes.fromhex("0000803f")  # of a tensor of ones
            at = os.pread(out._descriptor, out.at, 0).index(raw)
            os.pwrite(out._descriptor, b"\1", at)
            return check

        with monkeypatch.context() as patch:
            patch.setattr(writers, "write", write)
            with pytest.raises(DisarmError, match="the bytes of"):
                disarm(data, tmp_path / f"out{suffix}")
    assert len(list(tmp_path.iterdir())) == 3


# What is sound passes.


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_everything_that_can_be_written_reads_back(tmp_path, suffix):
    """No value of the differential tests is taken for a fault."""
    ways = {**values.TORCH, **values.PYTHON, **values.NUMPY}
    outcomes = Counter()
    for name, make in ways.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = saved(make())
        try:
            disarm(made, tmp_path / f"out{suffix}", overwrite=True)
        except SafeModelError as error:
            outcomes[type(error).__name__, name] += 1
        else:
            outcomes["written"] += 1
    refused = [key for key in outcomes if key != "written"]
    assert [key for key in refused if key[0] == "DisarmError"] == []
    assert outcomes["written"] == len(ways) - len(refused)
    assert all(name.startswith("dtype q") for _, name in refused), refused


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_names_that_push_each_other_aside_are_no_fault(tmp_path, suffix):
    """Half of a surrogate pair, the text that takes its place, and what both note."""
    names = {
        "\ud800": torch.ones(2, dtype=torch.complex128),
        "\\ud800": torch.ones(2),
        "\ud800.x": torch.ones(2).bfloat16(),
    }
    report = disarm(
        saved({**names, "data": {"\ud800": 1, "\\ud800": 2}}), tmp_path / f"out{suffix}"
    )
    assert len(report.tensors) == 3


def through(root):
    """Write a value without tensors and compare it with what its pickle reads as."""
    plain = Plain()
    read = read_pickle(PickleWriter(plain).write(root), CONSTANTS)
    Comparison(plain, {}, {}).compare(root, read)


def test_depth_and_cycles_take_no_recursion():
    """A hundred thousand lists in each other, and a dictionary in itself."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    ring: dict[str, object] = {"list": [deep]}
    ring["self"] = ring
    ring["list"].append(ring)
    through(ring)


def test_a_value_shared_again_and_again_is_looked_into_once():
    """Two to the sixtieth paths, sixty lists."""
    value: object = [1]
    for _ in range(60):
        value = [value, value]
    through(value)


def test_a_cycle_that_ends_elsewhere_is_noticed():
    """The same shape to whoever prints it, other lists to whoever changes one."""
    ring: list[object] = []
    ring.append([ring])
    longer: list[object] = []
    longer.append([[[longer]]])
    plain = Plain()
    read = read_pickle(PickleWriter(plain).write(longer), CONSTANTS)
    with pytest.raises(DisarmError, match="one value is two"):
        Comparison(plain, {}, {}).compare(ring, read)


# The bytes of a pickle.

LOOSE = {
    "no value": b"\x80\x02.",
    "two values": b"\x80\x02NN.",
    "an open mark": b"\x80\x02(N.",
    "below a mark": b"\x80\x02N(R.",
    "an empty memo": b"\x80\x02h\0.",
    "a gap in the memo": b"\x80\x02Nq\x01.",
    "half an item": b"\x80\x02}(Nu.",
    "items of a list": b"\x80\x02](NNu.",
    "elements of a dictionary": b"\x80\x02}(Ne.",
    "a state of a list": b"\x80\x02]}b.",
    "a call of a value": b"\x80\x02N)R.",
    "a call of OrderedDict": b"\x80\x02ccollections\nOrderedDict\nN\x85R.",
    "a name in escapes": b"\x80\x02c\\x74orch\nper_tensor_affine\n.",
    "a name cut elsewhere": b"\x80\x02ctorch per\ntensor_affine\n.",
    "an unknown name": b"\x80\x02ctorch\nload\n.",
    "another protocol": b"\x80\x04N.",
    "a second protocol": b"\x80\x02\x80\x02N.",
    "no protocol": b"N.",
    "no end": b"\x80\x02N",
    "bytes after the end": b"\x80\x02N.N",
    "a text cut short": b"\x80\x02X\x09\0\0\0ab.",
    "a text that is none": b"\x80\x02X\x01\0\0\0\xff.",
    "an unknown opcode": b"\x80\x02\xff.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_pickle_that_is_not_of_ours_is_noticed(name):
    """Alone, before any value is compared."""
    with pytest.raises(DisarmError):
        read_pickle(LOOSE[name], CONSTANTS)


OURS = {ord(opcode.code) for opcode in pickletools.opcodes if opcode.name in OPCODES}


@pytest.mark.parametrize("code", sorted(set(range(256)) - OURS))
def test_every_opcode_but_ours_is_foreign(code):
    """All that there are, each where a value is expected."""
    arguments = {"I": b"1\n", "i": b"os\nsystem\n", "V": b"a\n", "P": b"0\n"}
    argument = arguments.get(chr(code), b"\0" * 9)
    with pytest.raises(DisarmError):
        read_pickle(b"\x80\x02N" + bytes([code]) + argument + b".", CONSTANTS)


def test_no_opcode_was_added_by_the_way():
    """Two dozen, and five more to spell small integers and far slots."""
    assert len(OPCODES) == len(OURS) == 29


class Inert:
    """What a global stands for to a stock unpickler here: its name, and no call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object) -> object:
        if self.name == "collections.OrderedDict" and not args:
            return OrderedDict()
        return ("call", self.name, args)


class Stock(pickle.Unpickler):
    def find_class(self, module, name):
        return Inert(f"{module}.{name}")

    def persistent_load(self, pid):
        return ("storage", pid)


def seen_by_stock(data: bytes) -> str:
    """Return what the unpickler of the standard library makes of a pickle, as text.

    Containers get numbers in the order in which they are met, so sharing shows.
    """
    numbers: dict[int, int] = {}

    def shown(value: object) -> str:
        if isinstance(value, (dict, list, tuple)) and value != ():
            if id(value) in numbers:
                return f"#{numbers[id(value)]}"
            numbers[id(value)] = len(numbers)
        if isinstance(value, dict):
            inside = [shown(part) for item in value.items() for part in item]
            state = getattr(value, "__dict__", None)
            inside += [shown(state)] if state else []
        elif isinstance(value, (list, tuple)):
            inside = list(map(shown, value))
        elif isinstance(value, float):
            inside = [struct.pack("<d", value).hex()]
        else:
            inside = [value.name if isinstance(value, Inert) else repr(value)]
        return f"{type(value).__name__}({', '.join(inside)})"

    return shown(Stock(io.BytesIO(data)).load())


def small():
    ordered = OrderedDict(a=torch.arange(3.0), n=-1.5)
    ordered._metadata = OrderedDict(v=1)
    inner = [1, True, None]
    return {"o": ordered, "l": [inner, inner], 3: ("x", 70_000, 1 << 40), "e": ()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the pickle of a small value, and a function that checks another one."""
    held = []
    real = writers.check_torch

    def check(path, made, root, plain, *more):
        held.append((made, root, plain))
        real(path, made, root, plain, *more)

    path = tmp_path_factory.mktemp("small") / "out.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "check_torch", check)
        disarm(saved(small()), path)
    made, root, plain = held[0]
    contents = {id(content): checksum for content, checksum in made.contents}
    keys = {
        str(key): (content.nbytes, checksum)
        for key, (content, checksum) in enumerate(made.contents)
    }

    def compare(data: bytes) -> None:
        Comparison(plain, contents, keys).compare(root, read_pickle(data, CONSTANTS))

    with zipfile.ZipFile(path) as archive:
        return archive.read("archive/data.pkl"), compare


def test_every_flipped_bit_is_noticed_or_makes_no_difference(written):
    """Each bit of a pickle, and each byte as a whole: what passes is the same value."""
    data, compare = written
    compare(data)
    expected = seen_by_stock(data)
    noticed, same = 0, []
    for at in range(len(data)):
        for change in (*(1 << bit for bit in range(8)), 0xFF):
            other = bytearray(data)
            other[at] ^= change
            try:
                with warnings.catch_warnings():
                    # pickletools warns of a backslash in a name.
                    warnings.simplefilter("ignore")
                    compare(bytes(other))
            except DisarmError:
                noticed += 1
            else:
                same.append(bytes(other))
    assert noticed + len(same) == 9 * len(data)
    assert [seen_by_stock(other) == expected for other in same] == [True] * len(same)
    assert len(same) <= 0.01 * noticed


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (b"K\x01", b"M\x01\0"),
        (b"K\x01", b"J\x01\0\0\0"),
        (b"K\x01", b"\x8a\x01\x01"),
        (b"J\x70\x11\x01\0", b"\x8a\x03\x70\x11\x01"),
        (b"h\x14", b"j\x14\0\0\0"),
    ],
)
def test_a_value_that_is_only_spelt_otherwise_passes(written, ours, other):
    """It is values that are compared; the stock unpickler agrees that they are one."""
    data, compare = written
    changed = data.replace(ours, other, 1)
    assert changed != data
    compare(changed)
    assert seen_by_stock(changed) == seen_by_stock(data)
