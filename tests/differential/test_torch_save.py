"""Whatever `torch.save` and `pickle` write comes back as it was."""

from __future__ import annotations

import bz2
import collections
import copy
import enum
import gzip
import io
import lzma
import pathlib
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.utils.serialization

import safemodel
from safemodel import safe_load
from tests.differential import values
from tests.differential.same import assert_same

EVERYTHING = {**values.TORCH, **values.PYTHON, **values.NUMPY}
PROTOCOLS = (2, 3, 4, 5)
# What torch writes as a stream and does not read back: it stumbles over the untyped
# storages of newer dtypes, and makes nested tensors before it has read their sizes.
# Everything else in `values.TORCH` is compared with what torch itself loads.
NOT_IN_STREAMS = {
    "dtype complex32", "dtype uint64", "dtype uint32", "dtype uint16",
    "dtype float8_e4m3fn", "dtype float8_e4m3fnuz", "dtype float8_e5m2",
    "dtype float8_e5m2fnuz", "dtype float8_e8m0fnu", "nested",
}  # fmt: skip


def saved(value, *, new=True, protocol=2):
    """Return the bytes of a file of torch's."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about typed storages, in torch's own code
        torch.save(
            value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=new
        )
    return file.getvalue()


def by_torch(data, **arguments):
    """Return what torch loads with weights only, or None where it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(io.BytesIO(data), weights_only=True, **arguments)
        except (pickle.UnpicklingError, AttributeError):
            return None


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("name", values.TORCH)
def test_what_torch_loads_is_the_same(name, new):
    """At every protocol; torch itself is asked wherever it reads the file."""
    original = values.TORCH[name]()
    ask = new or name not in NOT_IN_STREAMS
    answers = 0
    for protocol in PROTOCOLS:
        data = saved(original, new=new, protocol=protocol)
        expected = by_torch(data) if ask else None
        answers += expected is not None
        assert_same(original if expected is None else expected, safe_load(data))
    assert bool(answers) == ask


@pytest.mark.parametrize("name", [*values.PYTHON, *values.NUMPY])
def test_plain_data_comes_back_as_it_was_saved(name):
    """Values torch refuses with weights only, in both of its formats."""
    original = {**values.PYTHON, **values.NUMPY}[name]()
    for new in (True, False):
        for protocol in PROTOCOLS:
            data = saved(original, new=new, protocol=protocol)
            assert_same(original, safe_load(data))


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_bare_pickle_holds_the_same(name):
    """`pickle.dump` at every protocol; each tensor brings its storage as a file."""
    original = EVERYTHING[name]()
    for protocol in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pickle.dumps(original, protocol)
        assert_same(original, safe_load(data), sharing=False)


@pytest.mark.parametrize("name", values.TORCH)
def test_a_mapped_file_holds_the_same(name, tmp_path):
    """`mmap=True`, as torch maps it where torch does."""
    path = tmp_path / "value.pt"
    path.write_bytes(saved(values.TORCH[name]()))
    assert_same(safe_load(path), safe_load(path, mmap=True))


def test_an_untyped_storage_stays_untyped():
    """Torch's zip reader returns a typed storage of bytes; the file says otherwise."""
    value = {"raw": torch.arange(3).untyped_storage(), "same": torch.arange(3)}
    for new in (True, False):
        assert_same(value, safe_load(saved(value, new=new)))
    assert type(by_torch(saved(value))["raw"]) is torch.storage.TypedStorage


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - as old code has it


class Ordered(collections.OrderedDict):
    """A subclass, as some projects save."""


class Words(list):
    """A list with attributes."""


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


def test_named_tuples_come_back_as_tuples():
    """Ours and torch's own, wherever a named tuple is allowed at all."""
    value = {"point": Point(1, torch.ones(2)), "max": torch.ones(2, 3).max(0)}
    for protocol in PROTOCOLS:
        data = saved(value, protocol=protocol)
        got = safe_load(data, weights_only=False)
        assert_same({name: tuple(part) for name, part in value.items()}, got)


def test_subclasses_of_containers_are_opaque_with_their_content():
    """Items, elements and attributes can all be read."""
    ordered = Ordered(a=1, b=torch.ones(2))
    words = Words(["x", "y"])
    words.note = 5
    for protocol in PROTOCOLS:
        data = saved([ordered, words, Colour.RED], protocol=protocol)
        with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
            safe_load(data)
        assert [name for _, name, _, _ in caught.value.globals] == [
            "Ordered",
            "Words",
            "Colour",
        ]
        one, two, three = safe_load(data, weights_only=False)
        assert one.qualified_name == f"{__name__}.Ordered"
        assert one["a"] == 1
        assert torch.equal(one["b"], torch.ones(2))
        assert (two.elements, two["note"]) == (["x", "y"], 5)
        assert (three.qualified_name, three.args) == (f"{__name__}.Colour", ("red",))


def test_paths_come_back_as_text():
    """A path is a name; the kind of system it was written on shows in it."""
    value = [
        pathlib.PurePosixPath("/a/b"),
        pathlib.PureWindowsPath("c:/d"),
        pathlib.Path("e") / "f",
    ]
    for protocol in range(6):
        data = pickle.dumps(value, protocol)
        assert safe_load(data) == ["/a/b", "c:\\d", "e/f"]


def test_numpy_subclasses_come_back_as_arrays():
    """A matrix or record array is its numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = np.matrix([[1.0, 2.0]])
    records = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    texts = np.char.array(["a"])
    for protocol in PROTOCOLS:
        got = safe_load(saved([matrix, records, texts], protocol=protocol))
        assert type(got[0]) is np.ndarray
        assert got[0].tolist() == [[1.0, 2.0]]
        assert type(got[1]) is np.ndarray
        assert got[1].tolist() == [(1, 2.0)]
        assert type(got[2]) is np.ndarray
        assert got[2].tolist() == ["a"]


@pytest.mark.parametrize("kind", ["RandomState", "Generator"])
def test_a_random_state_comes_back_as_data(kind):
    """The numbers of the generator are there; nothing draws from it."""
    made = (
        np.random.RandomState(3) if kind == "RandomState" else np.random.default_rng(3)
    )
    for protocol in PROTOCOLS:
        got = safe_load(saved({"rng": made}, protocol=protocol))["rng"]
        text = repr(got)
        assert "MT19937" in text or "PCG64" in text


class Tagged(torch.Tensor):
    """A subclass of tensor."""


def test_a_tensor_subclass_is_opaque_around_its_tensor():
    """The class is refused by default; the numbers are in the opaque value."""
    data = saved({"a": torch.arange(3.0).as_subclass(Tagged)})
    with pytest.raises(safemodel.ForbiddenGlobalError, match="Tagged"):
        safe_load(data)
    got = safe_load(data, weights_only=False)["a"]
    assert got.qualified_name == f"{__name__}.Tagged"
    assert_same(torch.arange(3.0), got.args[0])


def test_attributes_of_a_parameter_are_dropped():
    """torch restores them, whatever they are called; ours comes without."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "x"
    got = safe_load(saved(parameter))
    assert_same(torch.nn.Parameter(torch.ones(2)), got)
    assert not hasattr(got, "note")


def test_storages_that_are_left_out_are_listed(tmp_path):
    """What was dropped with the attributes of a parameter, and unused records."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = torch.arange(7.0)
    path = tmp_path / "value.pt"
    torch.save({"p": parameter}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("value/data/77", b"nobody asks for this")
    report = safemodel.inspect_file(path)
    assert set(report.unreachable) == {"value/data/1", "value/data/77"}
    assert_same({"p": torch.nn.Parameter(torch.ones(2))}, safe_load(path))


def test_a_whole_scheduler_is_opaque():
    """A pickled scheduler holds its optimiser; both are inert."""
    used = torch.optim.SGD(values.Net().parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(used, 0.9)
    got = safe_load(saved(schedule), weights_only=False)
    assert got.qualified_name == "torch.optim.lr_scheduler.ExponentialLR"
    assert got["gamma"] == 0.9
    assert got["optimizer"].qualified_name == "torch.optim.sgd.SGD"


# Streams.


def test_several_objects_in_one_stream_come_one_after_the_other():
    """Each call takes one object and leaves the file behind it, as torch does."""
    objects = [values.tied(), values.checkpoint(), {"x": 1}, torch.ones(3)]
    file = io.BytesIO()
    for value in objects:
        file.write(saved(value, new=False))
    file.seek(0)
    twin = io.BytesIO(file.getvalue())
    for _ in objects:
        assert_same(torch.load(twin, weights_only=True), safe_load(file))
        assert file.tell() == twin.tell()
    assert not file.read()


def test_several_bare_pickles_come_one_after_the_other():
    """As with `pickle.load`."""
    file = io.BytesIO(pickle.dumps([1]) + pickle.dumps({"a": np.arange(3)}) + b"rest")
    assert safe_load(file) == [1]
    assert_same({"a": np.arange(3)}, safe_load(file))
    assert file.read() == b"rest"


def test_several_arrays_come_one_after_the_other():
    """As with `numpy.load`."""
    file = io.BytesIO()
    np.save(file, np.arange(3))
    np.save(file, np.ones((2, 2)))
    file.seek(0)
    assert_same(np.arange(3), safe_load(file))
    assert_same(np.ones((2, 2)), safe_load(file))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_a_file_is_read_from_where_it_stands(new, tmp_path):
    """Bytes before the position belong to somebody else."""
    data = saved(values.tied(), new=new)
    path = tmp_path / "joined.pt"
    path.write_bytes(b"somebody's header" + data)
    for file in (path.open("rb"), io.BytesIO(path.read_bytes())):
        with file:
            file.seek(17)
            assert_same(values.tied(), safe_load(file))


class Pipe(io.RawIOBase):
    """A binary file that cannot seek, and reads a little at a time."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, target):
        return self.inner.readinto(memoryview(target)[:1000])


class OnlyRead:
    """The least a file can be."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("kind", [Pipe, OnlyRead, io.BytesIO])
def test_any_binary_file_will_do(kind, new):
    """Seekable or not."""
    value = {"a": torch.arange(5000), "b": "x"}
    assert_same(value, safe_load(kind(saved(value, new=new))))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_a_compressed_file_opens_through_its_own_reader(module, new, tmp_path):
    """`gzip.open(path)` works as it does with torch; the path alone says what to do."""
    path = tmp_path / "packed.pt"
    with module.open(path, "wb") as file:
        file.write(saved(values.tied(), new=new))
    with module.open(path, "rb") as file:
        assert_same(values.tied(), safe_load(file))
    with pytest.raises(safemodel.UnsupportedFormatError, match="compressed with"):
        safe_load(path)


def test_paths_of_every_kind_name_a_file(tmp_path):
    """Text, `Path`, `os.PathLike`; and bytes are content."""
    path = tmp_path / "value.pt"
    data = saved([1])
    path.write_bytes(data)

    class Like:
        def __fspath__(self):
            return str(path)

    for given in (str(path), path, Like(), data, bytearray(data), memoryview(data)):
        assert safe_load(given) == [1]


# Where tensors go.

PLACES = {
    "none": None,
    "text": "cpu",
    "device": torch.device("cpu"),
    "mapping": {"cpu": "cpu"},
    "mapping of others": {"cuda:0": "cpu"},
    "mapping to meta": {"cpu": "meta"},
    "callable": lambda storage, _: storage,
    "callable that declines": lambda *_: None,
    "meta": "meta",
    "meta device": torch.device("meta"),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("place", PLACES)
def test_map_location_means_what_it_means_to_torch(place, new):
    """Every form of it, on a state dict with ties."""
    value = values.checkpoint()
    data = saved(value, new=new)
    expected = by_torch(data, map_location=PLACES[place])
    assert expected is not None
    assert_same(expected, safe_load(data, PLACES[place]))


def test_a_callable_map_location_sees_each_storage_once():
    """With the location the file gives, as torch calls it."""
    value = values.tied()
    theirs, ours = [], []
    data = saved(value)
    torch.load(
        io.BytesIO(data),
        map_location=lambda storage, place: theirs.append((storage.nbytes(), place)),
        weights_only=True,
    )
    safe_load(data, lambda storage, place: ours.append((storage.nbytes(), place)))
    assert sorted(ours) == sorted(theirs)


def test_a_device_that_is_not_there_is_the_callers_mistake():
    """torch's own error, because the file is not to blame."""
    data = saved(torch.ones(2))
    for place in ("cuda:77", "nonsense"):
        with pytest.raises(RuntimeError) as theirs:
            torch.load(io.BytesIO(data), map_location=place, weights_only=True)
        with pytest.raises(RuntimeError) as ours:
            safe_load(data, place)
        assert type(ours.value) is type(theirs.value)


# Byte order.


def rewritten(data, change):
    """Return an archive with its records changed by a function of name and bytes."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return made.getvalue()


# torch writes these as untyped bytes, in its machine's order, and reads bytes back.
TURNED_BY_US = {"complex32", "uint64", "uint32", "uint16"}


@pytest.mark.parametrize("dtype", values.DTYPES)
def test_a_big_endian_archive_is_read_as_such(dtype):
    """Every element is turned round, parts of complex numbers by themselves."""
    value = values.quiet(lambda: values.bits(dtype))()
    size = value.dtype.itemsize // (2 if value.is_complex() else 1)

    def swap(name, content):
        if name.endswith("/byteorder"):
            return b"big"
        if "/data/" in name:
            return np.frombuffer(content, f"u{size}").byteswap().tobytes()
        return content

    data = rewritten(saved([value]), swap)
    assert_same([value], safe_load(data))
    if dtype not in TURNED_BY_US:
        assert_same(by_torch(data), safe_load(data))


def test_a_stream_of_a_big_endian_machine_is_read_as_torch_reads_it():
    """Its storages are little-endian like all others; only the facts differ."""
    value = {"a": torch.arange(5.0), "b": torch.tensor([1 + 2j])}
    data = saved(value, new=False)
    other = data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    assert other != data
    assert_same(by_torch(other), safe_load(other))
    assert_same(value, safe_load(other))


def test_an_archive_without_a_byte_order_is_little_endian():
    """Older versions of torch wrote no such record."""
    value = torch.arange(3.0)
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(value))) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            if not name.endswith("/byteorder"):
                new.writestr(name, old.read(name))
    assert_same(value, safe_load(made.getvalue()))


def test_a_byte_order_that_is_none_is_malformed():
    """Neither little nor big."""

    def garble(name, content):
        return b"middle" if name.endswith("/byteorder") else content

    with pytest.raises(safemodel.MalformedFileError, match="byte order"):
        safe_load(rewritten(saved(torch.ones(1)), garble))


# What comes back is ordinary.


@pytest.mark.parametrize("mmap", [False, True])
def test_what_comes_back_can_be_used_changed_and_saved_again(mmap, tmp_path):
    """Tensors are ordinary ones: trained, resized, copied, pickled."""
    path = tmp_path / "value.pt"
    path.write_bytes(saved(values.checkpoint()))
    got = safe_load(path, mmap=mmap)
    net = values.Net()
    net.load_state_dict(got["model"])
    assert_same(copy.deepcopy(got), got)
    before = path.read_bytes()
    for tensor in got["model"].values():
        tensor.zero_()
    assert path.read_bytes() == before
    assert_same(got, safe_load(saved(got)))


def test_an_archive_may_be_without_checksums():
    """torch leaves them out on request: each of them is zero."""
    with torch.utils.serialization.config.patch("save.compute_crc32", False):
        data = saved(values.tied())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not any(member.CRC for member in archive.infolist())
    assert_same(values.tied(), safe_load(data, verify_checksums="all"))


def test_flipped_bytes_are_noticed_where_torch_is_silent():
    """`verify_checksums` compares the CRC-32 of every record used."""
    data = bytearray(saved(torch.arange(8, dtype=torch.int64)))
    at = data.index((5).to_bytes(8, "little"))
    data[at] ^= 0x40
    assert by_torch(bytes(data)) is not None
    with pytest.raises(safemodel.ChecksumError) as caught:
        safe_load(bytes(data))
    assert caught.value.record.endswith("/data/0")
    assert safe_load(bytes(data), verify_checksums=False)[5] == 5 ^ 0x40


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("kind", ["memory", "file", "gzip"])
def test_a_file_that_is_refused_is_left_where_it_stood(kind, new, tmp_path):
    """So that a second call with `weights_only=False` reads the same bytes."""
    data = b"before" + saved(Colour.RED, new=new)
    path = tmp_path / "value.pt"
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    opened = {
        "memory": lambda: io.BytesIO(data),
        "file": lambda: path.open("rb"),
        "gzip": lambda: gzip.open(path),
    }[kind]
    with opened() as file:
        file.seek(6)
        with pytest.raises(safemodel.ForbiddenGlobalError):
            safe_load(file)
        assert file.tell() == 6
        safemodel.inspect_file(file)
        assert file.tell() == 6
        assert safe_load(file, weights_only=False).args == ("red",)
        assert not file.read()
