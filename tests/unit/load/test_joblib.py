"""Files of `joblib.dump`: arrays between the opcodes of a pickle."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest

import safemodel
from safemodel import testing
from safemodel._unpickle.joblib_arrays import elements_of
from safemodel._unpickle.nodes import Call

ROOT = Path(__file__).resolve().parents[3]
ARRAYS = {
    "rows": np.arange(12.0).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "objects": np.array([1, None, "text", [2.5]], dtype=object),
    "text": np.array(["ab", "cde"]),
    "bytes": np.array([b"ab", b"cde"]),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(3.5),
    "fields": np.array([(1.5, 2)], dtype=[("x", "<f4"), ("y", "<i8")]),
    "days": np.array(["2020-01-01"], dtype="M8[D]"),
    "big-endian": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j], dtype=np.complex64),
    "half": np.arange(4, dtype=np.float16),
}


class Tripping:
    def __reduce__(self):
        return testing.trip, ("unpickled",)


def dumped(value, **arguments):
    """Return the bytes of `joblib.dump`."""
    out = io.BytesIO()
    joblib.dump(value, out, **arguments)
    return out.getvalue()


def same(left, right):
    """Return whether two arrays are the same, dtype and order included."""
    assert type(left) is np.ndarray
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.flags.f_contiguous == right.flags.f_contiguous
    return left.tolist() == right.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back_as_joblib_loads_them(protocol):
    """Every kind, in one file, with plain data around them."""
    value = {**ARRAYS, "again": ARRAYS["rows"], "plain": [1, ("a", None)]}
    data = dumped(value, protocol=protocol)

    found = safemodel.safe_load(data)

    expected = joblib.load(io.BytesIO(data), ensure_native_byte_order=False)
    assert found.keys() == expected.keys()
    assert found.pop("plain") == expected.pop("plain")
    assert all(same(found[name], expected[name]) for name in found)


def test_arrays_of_old_files_without_padding():
    """Before joblib 1.2 nothing said how the elements were aligned."""
    old = joblib.numpy_pickle.NumpyArrayWrapper.safe_get_numpy_array_alignment_bytes

    class Old(joblib.numpy_pickle.NumpyArrayWrapper):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            del self.numpy_array_alignment_bytes

    Old.__module__, Old.__qualname__ = "joblib.numpy_pickle", "NumpyArrayWrapper"
    Old.__name__ = "NumpyArrayWrapper"
    original = joblib.numpy_pickle.NumpyArrayWrapper
    joblib.numpy_pickle.NumpyArrayWrapper = Old
    try:
        data = dumped(ARRAYS["rows"])
    finally:
        joblib.numpy_pickle.NumpyArrayWrapper = original
    assert b"alignment" not in data
    assert old is original.safe_get_numpy_array_alignment_bytes

    assert same(safemodel.safe_load(data), joblib.load(io.BytesIO(data)))


@pytest.mark.parametrize("where", ["beside", "within"])
def test_hostile_files_are_refused(where, canary):
    """Also in the pickle of an array of objects, which is a file of its own."""
    value = [np.zeros(3), Tripping()]
    if where == "within":
        value[1] = np.array([Tripping()], dtype=object)
    data = dumped(value)

    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safemodel.safe_load(data)
    report = safemodel.inspect_file(data)

    assert caught.value.globals[0][:2] == ("safemodel.testing", "trip")
    assert "safemodel.testing.trip" in report.globals
    joblib.load(io.BytesIO(data))
    assert canary.trips == [("unpickled",)]
    canary.reset()


def test_every_truncation_is_an_error_of_ours():
    """Wherever the file ends, and wherever in an array."""
    data = dumped([ARRAYS["rows"], ARRAYS["objects"]])

    for end in range(len(data)):
        with pytest.raises(safemodel.SafeModelError):
            safemodel.safe_load(data[:end])


def test_changed_bytes_are_read_as_joblib_would_or_refused(rand):
    """No byte makes anything but our errors come out, or an array of another size."""
    data = dumped({"a": np.arange(4, dtype=np.uint8), "b": ARRAYS["objects"]})
    read = refused = 0

    for _ in range(3000):
        changed = bytearray(data)
        changed[rand.randrange(len(data))] ^= 1 << rand.randrange(8)
        try:
            found = safemodel.safe_load(bytes(changed))
        except safemodel.SafeModelError:
            refused += 1
            continue
        read += 1
        if isinstance(found, dict) and isinstance(found.get("a"), np.ndarray):
            assert found["a"].nbytes <= len(data)
    assert read > 100
    assert refused > 100


def state(**changes):
    """Return the bytes of a wrapper with a changed state, and what follows it."""
    wrapper = joblib.numpy_pickle.NumpyArrayWrapper(
        np.ndarray, (4,), "C", np.dtype("u1")
    )
    for name, value in changes.items():
        setattr(wrapper, name, value)
    pickled = pickle.dumps([wrapper], protocol=2)
    # The array goes where BUILD has been, before what closes the list.
    at = pickled.rindex(b"b") + 1
    return pickled[:at], pickled[at:]


@pytest.mark.parametrize(
    ("changes", "behind"),
    [
        ({}, b"\0abc"),
        ({}, b"\3\xff\xff\xfeabcd"),
        ({"shape": (1 << 61, 1 << 61)}, b"\0abcd"),
        ({"shape": (-1, -4)}, b"\0abcd"),
        ({"shape": [4]}, b"\0abcd"),
        ({"shape": (1,) * 65}, b"\0abcd"),
        ({"order": "A"}, b"\0abcd"),
        ({"dtype": "u1"}, b"\0abcd"),
        ({"subclass": "numpy.ndarray"}, b"\0abcd"),
        ({"extra": 1}, b"\0abcd"),
        ({"dtype": np.dtype("O"), "shape": (1,)}, pickle.dumps([1])),
        ({"dtype": np.dtype("O"), "shape": (1,)}, pickle.dumps(np.arange(1))),
    ],
)
def test_what_joblib_does_not_write_is_refused(changes, behind):
    """Shapes, padding, states and arrays that do not fit together."""
    before, after = state(**changes)

    with pytest.raises((safemodel.MalformedFileError, safemodel.UnsafeFileError)):
        safemodel.safe_load(before + behind + after)


def test_the_builder_of_those_files_makes_good_ones():
    """The control: unchanged, it is read, with padding or without any."""
    before, after = state()
    for padding in (b"\0", b"\3\xff\xff\xff"):
        found = safemodel.safe_load(before + padding + b"abcd" + after)
        assert found[0].tolist() == list(b"abcd")


def test_an_array_cannot_be_put_there_by_opcodes():
    """APPEND to a wrapper is refused, before and after its array."""
    before, after = state()
    cut = before[:-1]  # up to BUILD
    at = cut.rindex(b"}")  # the state begins here
    appended = cut[:at] + b"K\x01a" + cut[at:] + b"b\0abcd" + after

    for data in (appended, before + b"\0abcd" + b"K\x01a" + after):
        with pytest.raises(safemodel.SafeModelError):
            safemodel.safe_load(data)


def test_wrappers_do_not_nest():
    """An array of objects with arrays of joblib's in it could nest without end."""
    before, after = state(dtype=np.dtype("O"), shape=(1,))
    inner_before, inner_after = state()
    inner = inner_before + b"\0abcd" + inner_after

    with pytest.raises(safemodel.MalformedFileError, match="within one of objects"):
        safemodel.safe_load(before + inner + after)


def test_arrays_of_objects_refer_to_nothing_outside():
    """A persistent id in one would be looked for in tables of the pickle around it."""
    before, after = state(dtype=np.dtype("O"), shape=(1,))

    with pytest.raises(safemodel.MalformedFileError, match="persistent ids"):
        safemodel.safe_load(before + b"\x80\x02]K\x01Qa." + after)


@pytest.mark.parametrize(
    ("code", "given", "itemsize"),
    [
        ("f8", None, 8),
        ("c16", None, 16),
        ("O8", None, -1),
        ("U5", (3, "<", None, None, None, 20, 4, 8), 20),
        ("V12", (3, "|", None, None, None, 12, 1, 16), 12),
        ("S3", (3, "|", None, None, None, 3, 1, 0), 3),
    ],
)
def test_sizes_of_elements(code, given, itemsize):
    """As numpy writes dtypes."""
    dtype = Call(None, (code, False, True), 0x52, 0)
    if given is not None:
        dtype.state = given

    assert elements_of({"dtype": dtype}).itemsize == itemsize


@pytest.mark.parametrize("compress", ["zlib", "gzip", "bz2", "lzma", "xz"])
def test_the_patch_unpacks_what_joblib_packs(tmp_path, compress, canary):
    """By path, as a stream, and through a reference taken early."""
    early = joblib.load
    joblib.dump({"a": np.arange(5)}, tmp_path / "fine", compress=(compress, 3))
    joblib.dump([Tripping()], tmp_path / "evil", compress=(compress, 3))

    with safemodel.patched():
        for load in (joblib.load, early):
            assert load(tmp_path / "fine")["a"].tolist() == [0, 1, 2, 3, 4]
            with pytest.raises(safemodel.ForbiddenGlobalError):
                load(tmp_path / "evil")
        with (tmp_path / "fine").open("rb") as stream:
            assert joblib.load(stream)["a"].tolist() == [0, 1, 2, 3, 4]

    assert joblib.load is early
    assert canary.trips == []


@pytest.mark.parametrize("compress", ["zlib", "gzip", "bz2", "lzma", "xz"])
def test_what_unpacks_without_end_is_refused(tmp_path, compress, monkeypatch):
    """No more is kept than a pickle may have."""
    limits = safemodel.Limits(max_pickle_bytes=4 << 20)
    monkeypatch.setattr("safemodel._patch.bounded.DEFAULT_LIMITS", limits)
    joblib.dump(bytes(8 << 20), tmp_path / "bomb", compress=(compress, 1))
    data = (tmp_path / "bomb").read_bytes()
    assert len(data) < 1 << 20

    with safemodel.patched():
        with pytest.raises(safemodel.LimitExceededError, match="max_pickle_bytes"):
            joblib.load(tmp_path / "bomb")
        for end in (10, len(data) // 2, len(data) - 3):
            (tmp_path / "cut").write_bytes(data[:end])
            with pytest.raises(safemodel.SafeModelError):
                joblib.load(tmp_path / "cut")


def test_the_format_of_old_is_refused(tmp_path, canary):
    """joblib reads it with another function, also for an early reference."""
    early = joblib.load
    packed, size = (
        zlib.compress(pickle.dumps(Tripping())),
        len(pickle.dumps(Tripping())),
    )
    (tmp_path / "old").write_bytes(b"ZF" + hex(size).encode().ljust(19) + packed)

    with safemodel.patched(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for load in (joblib.load, early, joblib.numpy_pickle_compat.load_compatibility):
            with pytest.raises(safemodel.UnsupportedFormatError, match=r"old|0\.10"):
                load(str(tmp_path / "old"))
    assert canary.trips == []


PARALLEL = """\
import joblib, numpy as np

def total(x):
    return type(x).__name__, float(x.sum())

class Own:
    pass

if __name__ == "__main__":
    large = np.ones(200_000)
    workers = joblib.Parallel(n_jobs=2, max_nbytes=1_000)
    print(workers(joblib.delayed(total)(large) for _ in range(2)))
    memory = joblib.Memory("cache", verbose=0)
    count = []
    for make in (lambda: {"a": np.arange(3)}, Own):
        @memory.cache
        def made(name):
            count.append(name)
            return make()
        for _ in range(2):
            made(make.__name__)
    print(count)
"""


def test_joblib_s_own_workers_and_cache_go_on(tmp_path):
    """Arrays go to workers through files of joblib's own; a cache is only a cache."""
    (tmp_path / "parallel.py").write_text(PARALLEL)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "safemodel", "run", "parallel.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.stdout.splitlines() == [
        "[('memmap', 200000.0), ('memmap', 200000.0)]",
        "['<lambda>', 'Own', 'Own']",
    ], done.stderr


def test_lz4_is_named():
    """It would need a package of its own."""
    with (
        safemodel.patched(),
        pytest.raises(safemodel.UnsupportedFormatError, match="LZ4"),
    ):
        joblib.load(io.BytesIO(struct.pack("<I", 0x184D2204) + bytes(20)))
