"""The soft reading of archives that break the rules shows what any reader may see."""

from __future__ import annotations

import struct

import pytest

from safemodel._containers.source import open_source
from safemodel._containers.zip_archive import read_zip
from safemodel._containers.zip_entries import CENTRAL
from safemodel._containers.zip_salvage import find_records
from safemodel.errors import LimitExceededError
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.containers.helpers_containers import plain_zip, streamed_zip, torch_zip

MEMBERS = {"t/data.pkl": b"\x80\x02}.", "t/data/0": b"zero" * 9}


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def salvage(data: bytes) -> tuple[dict[str, bytes], list[str]]:
    archive = read_zip(open_source(data), limits=DEFAULT_LIMITS, strict=False)
    contents = {
        key: record.read(limits=DEFAULT_LIMITS, verify=False)
        for key, record in archive.records.items()
    }
    return contents, archive.anomalies


@pytest.mark.parametrize("writer", [torch_zip, plain_zip, streamed_zip])
def test_a_good_archive_has_no_anomalies(writer):
    """The soft reading of a good archive is the strict one."""
    assert salvage(writer(MEMBERS)) == (MEMBERS, [])


@pytest.mark.parametrize("writer", [torch_zip, plain_zip, streamed_zip])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"prefix" + data,
        lambda data: data + b"suffix",
        lambda data: data[:-22],
        lambda data: data[: data.index(b"PK\1\2")],
    ],
    ids=["prefix", "suffix", "no end", "no directory"],
)
def test_records_are_found_in_spite_of_damage(spoil, writer):
    """Prefixes, suffixes and a lost directory hide nothing."""
    contents, anomalies = salvage(spoil(writer(MEMBERS)))
    assert anomalies
    assert MEMBERS.items() <= contents.items()


def test_both_names_of_a_record_are_shown():
    """Readers that believe the directory and readers that do not are served (C3)."""
    data = torch_zip(MEMBERS).replace(b"t/data.pkl", b"t/data.txt", 1)
    contents, anomalies = salvage(data)
    assert contents["t/data.pkl"] == contents["t/data.txt"] == MEMBERS["t/data.pkl"]
    assert anomalies


def test_both_of_two_equal_names_are_shown():
    """First and last are both kept, under keys of their own (C7)."""
    data = torch_zip({"t/a": b"first", "t/b": b"second"}).replace(b"t/b", b"t/a")
    contents, _ = salvage(data)
    assert sorted(contents.values()) == [b"first", b"second"]


def test_the_number_of_headers_is_limited():
    """A file full of signatures is refused, not collected: three for each record."""
    limits = Limits(max_records=100)
    read_zip(open_source(b"PK\3\4" * 300), limits=limits, strict=False)
    with pytest.raises(LimitExceededError) as caught:
        read_zip(open_source(b"PK\3\4" * 301), limits=limits, strict=False)
    assert (caught.value.limit, caught.value.requested) == ("max_records", 100)


def test_folders_are_no_records():
    """They hold nothing, in the directory and in front of the records."""
    contents, _ = salvage(plain_zip({"a/": b"", "a/b": b"c"}) + b"!")
    assert contents == {"a/b": b"c"}


def test_a_header_may_be_the_last_thing_of_a_file():
    """One that is cut by a byte announces nothing."""
    local = plain_zip({"": b""}).partition(b"PK\1\2")[0]
    assert salvage(local)[0] == {"": b""}
    assert salvage(local[:-1])[0] == {}

    central = plain_zip({"": b""}).partition(b"PK\5\6")[0]
    moved = replaced(central, central.index(b"PK\1\2") + 10, b"\x63")
    found = find_records(open_source(moved), limits=DEFAULT_LIMITS)
    assert [record.method for record in found.records.values()] == [99, 0]
    cut = find_records(open_source(moved[:-1]), limits=DEFAULT_LIMITS)
    assert [record.method for record in cut.records.values()] == [0]

    behind = plain_zip({"": b""}).partition(b"PK\1\2")
    first = struct.pack("<I", CENTRAL.size)
    entry = b"PK\1\2" + behind[2][: CENTRAL.size - 4]
    data = replaced(replaced(entry, 42, first), 10, b"\x63") + behind[0]
    found = find_records(open_source(data), limits=DEFAULT_LIMITS)
    assert [record.method for record in found.records.values()] == [99, 0]


def test_overlapping_records_do_not_multiply_the_file():
    """Spans add up to a few times the file at most (a zip bomb without ratio)."""
    whole = plain_zip({"a": b"x" * 100_000})
    entry = whole[whole.index(b"PK\1\2") : whole.index(b"PK\5\6")]
    data = whole[: whole.index(b"PK\1\2")]
    data += b"".join(entry.replace(b"a", b"%c" % (97 + i % 26)) for i in range(1000))
    archive = read_zip(open_source(data + b"!"), limits=DEFAULT_LIMITS, strict=False)
    total = sum(record.stored_size for record in archive.records.values())
    assert 0 < total <= 4 * len(data) + (2 << 20)
