"""What all formats share: nothing of one file is left for the next, long pickles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from safemodel._containers.source import open_source
from safemodel._formats.formats import read_any
from safemodel._formats.reading import PickleStream, Reading
from safemodel._graph.check import FileCheck
from safemodel.errors import LimitExceededError, MalformedFileError, TruncatedFileError
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import STRICT

MIB = 1 << 20


def storage_on_no_device(kind: bytes) -> bytes:
    """Return a bare pickle of an empty storage, which needs no record."""
    return (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\n" + kind + b"\n"
        b"X\x01\x00\x00\x000X\x04\x00\x00\x00metaK\x00tQ."
    )


def stream_over(data: bytes) -> PickleStream:
    """Return a stream of pickles."""
    source = open_source(data)
    check = FileCheck(STRICT, DEFAULT_LIMITS, source.size)
    reading = Reading(check=check, limits=DEFAULT_LIMITS, read_any=read_any)
    return PickleStream(reading, source, "record")


def test_storages_of_one_bare_pickle_are_not_those_of_the_next(read):
    """Two files may give one key two types; two results do not share a storage."""
    floats = read(storage_on_no_device(b"FloatStorage")).root.value
    longs = read(storage_on_no_device(b"LongStorage")).root.value

    assert (floats.dtype, longs.dtype) == ("float32", "int64")
    assert read(storage_on_no_device(b"FloatStorage")).root.value is not floats


@pytest.mark.parametrize("length", [1, MIB - 20, MIB, 4 * MIB + 1, 5 * MIB])
def test_pickles_are_read_however_long_they_are(length):
    """The first chunk is 1 MiB; a longer pickle is read again in one four times."""
    first = pickle.dumps("first")
    long = pickle.dumps(b"x" * length, protocol=4)
    stream = stream_over(first + long + first + bytes(3 * MIB))

    head = stream.parse(0)
    body = stream.parse(head.end)
    tail = stream.parse(body.end)

    assert (head.root, tail.root) == ("first", "first")
    assert body.root == b"x" * length
    assert tail.end == len(first + long + first)


def test_a_pickle_that_starts_behind_the_first_chunk_is_read():
    """As the keys of a stream with a long object are."""
    long = pickle.dumps(list(range(70_000, 70_000 + 400_000)), protocol=2)
    assert len(long) > MIB
    stream = stream_over(long + pickle.dumps([1, 2]))

    end = stream.parse(0).end

    assert end == len(long)
    assert stream.parse(end).root == [1, 2]


def test_a_pickle_that_the_source_cuts_is_truncated():
    """However many chunks were tried."""
    data = pickle.dumps(b"x" * (2 * MIB), protocol=4)[:-3]
    with pytest.raises(TruncatedFileError) as caught:
        stream_over(data).parse(0)
    assert caught.value.record == "record"


def test_a_pickle_that_is_none_is_malformed_at_once():
    """Reading more does not help."""
    with pytest.raises(MalformedFileError) as caught:
        stream_over(b"\x80\x02a." + bytes(2 * MIB)).parse(0)
    assert type(caught.value) is MalformedFileError
    assert caught.value.position == 2


def nested(content: bytes) -> bytes:
    """Return a pickle that loads another file."""
    size = len(content).to_bytes(4, "little")
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + size + content + b"\x85R."


def test_files_nest_as_deep_as_the_limit(read):
    """A file within a file four times over, and not five times."""
    content = b"\x80\x02]."
    for _ in range(4):
        content = nested(content)
    assert read(content).root.value == []

    with pytest.raises(LimitExceededError) as caught:
        read(nested(content))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_nesting", 4, 5)


def test_files_beside_each_other_do_not_nest(read):
    """A level that is left is free again."""
    size = (4).to_bytes(4, "little")
    one = b"ctorch.storage\n_load_from_bytes\nB" + size + b"\x80\x02].\x85R"
    root = read(b"\x80\x03(" + one * 9 + b"t.").root

    assert [call.value for call in root] == [[]] * 9


def test_bytes_of_an_array_become_the_storage_of_a_tensor(read):
    """They are a record in memory, read as any other."""
    array = np.arange(4, dtype=">f4")
    data = b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n("
    data += pickle.dumps(array, protocol=2)[2:-1]
    data += b"ctorch\nfloat32\nX\x03\x00\x00\x00xla\x89tR."
    spec = read(data).root.value
    assert (spec.dtype, spec.shape, spec.storage.big_endian) == ("float32", (4,), True)
    assert spec.storage.record.read(limits=DEFAULT_LIMITS) == array.tobytes()
