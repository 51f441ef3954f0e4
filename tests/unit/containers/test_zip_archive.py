"""Zip archives: what real writers write is read, and every lie is refused."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from safemodel._containers.source import open_source
from safemodel._containers.zip_archive import read_zip
from safemodel._containers.zip_end import END, END64, LOCATOR, find_directory
from safemodel._containers.zip_entries import Entry, check_local, read_entry
from safemodel.errors import (
    ChecksumError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.containers.helpers_containers import (
    open_zip,
    plain_zip,
    streamed_zip,
    torch_zip,
)

MEMBERS = {"t/data.pkl": b"\x80\x02}.", "t/data/0": b"zero" * 9, "t/data/1": b"one."}
ZOO = Path(__file__).parents[4] / "shared" / "zoo" / "files"
WRITERS = {
    "torch": torch_zip,
    "zipfile": plain_zip,
    "deflated": lambda members: plain_zip(members, zipfile.ZIP_DEFLATED),
    "streamed": streamed_zip,
    "streamed zip64": lambda members: streamed_zip(members, zip64=True),
}


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def contents(data: bytes) -> dict[str, bytes]:
    records = open_zip(data).records
    return {
        name: record.read(limits=DEFAULT_LIMITS) for name, record in records.items()
    }


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_what_real_writers_write_is_read(writer, count):
    """Every layout gives the names in order and the bytes."""
    members = {f"t/data/{i}": b"x" * (i % 7) * i for i in range(count)}
    read = contents(WRITERS[writer](members))
    assert list(read.items()) == list(members.items())


def test_folders_are_left_out():
    """A folder's entry is checked and is no record."""
    assert contents(plain_zip({"a/": b"", "a/b": b"c"})) == {"a/b": b"c"}


def test_names_beyond_ascii_are_text():
    """UTF-8 where the flag says so, code page 437 where it does not."""
    assert list(contents(plain_zip({"größe": b""}))) == ["größe"]
    old = plain_zip({"ab": b""}).replace(b"ab", b"a\x81")
    assert list(contents(old)) == ["aü"]


def test_a_comment_of_exact_length_is_kept():
    """The archive's own comment is data."""
    data = plain_zip(MEMBERS)
    with_comment = replaced(data, len(data) - 2, b"\5\0") + b"notes"
    assert open_zip(with_comment).comment == b"notes"
    for wrong in (with_comment + b"!", with_comment[:-1]):
        with pytest.raises(MalformedFileError):
            open_zip(wrong)


@pytest.mark.parametrize("writer", ["torch", "zipfile"])
def test_the_number_of_records_is_limited(writer):
    """As many as allowed are read, one more is refused."""
    data = WRITERS[writer](MEMBERS)
    assert len(open_zip(data, Limits(max_records=3)).records) == 3
    with pytest.raises(LimitExceededError) as caught:
        open_zip(data, Limits(max_records=2))
    assert (caught.value.limit, caught.value.allowed, caught.value.requested) == (
        "max_records",
        2,
        3,
    )


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"
# What is changed: header, which one, offset in it, new bytes.
LIES = {
    "local flags": (LOCAL, 6, b"\x06"),
    "local method": (LOCAL, 8, b"\x08"),
    "local crc": (LOCAL, 14, b"\x01\x02"),
    "local stored size": (LOCAL, 18, b"\x01"),
    "local size": (LOCAL, 22, b"\x01"),
    "local name": (LOCAL, 32, b"X"),
    "local name length": (LOCAL, 26, b"\x09"),
    "local extra length": (LOCAL, 28, b"\xff"),
    "local signature": (LOCAL, 0, b"PX"),
    "central flags": (CENTRAL, 8, b"\x20"),
    "central crc": (CENTRAL, 16, b"\x01\x02"),
    "central stored size": (CENTRAL, 20, b"\x01"),
    "central size": (CENTRAL, 24, b"\x01"),
    "central name": (CENTRAL, 48, b"X"),
    "central offset": (CENTRAL, 42, b"\x01"),
    "central name length": (CENTRAL, 28, b"\x09"),
    "central extra length": (CENTRAL, 30, b"\x01"),
    "symbolic link": (CENTRAL, 38, struct.pack("<I", 0o120777 << 16)),
    "device": (CENTRAL, 38, struct.pack("<I", 0o060777 << 16)),
    "folder with content": (CENTRAL, 38, b"\x10"),
}


@pytest.mark.parametrize("writer", ["torch", "zipfile", "streamed"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("lie", LIES)
def test_two_headers_that_disagree_are_refused(lie, which, writer):
    """Whatever is said twice must be said alike, in each record (C3 to C5, C19)."""
    data = WRITERS[writer](MEMBERS)
    signature, offset, new = LIES[lie]
    at = -1
    for _ in range(which + 1):
        at = data.index(signature, at + 1)
    with pytest.raises(MalformedFileError):
        open_zip(replaced(data, at + offset, new))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("at", range(16))
def test_a_data_descriptor_repeats_its_entry(which, at):
    """Each byte of each descriptor counts (C16)."""
    data = torch_zip(MEMBERS)
    found = -1
    for _ in range(which + 1):
        found = data.index(b"PK\7\x08", found + 1)
    with pytest.raises(MalformedFileError):
        open_zip(replaced(data, found + at, bytes([data[found + at] ^ 1])))


@pytest.mark.parametrize(
    ("offset", "new", "what"),
    [
        (8, b"\x01", "encrypted"),
        (8, b"\x41", "encrypted"),
        (10, b"\x0c", "bzip2"),
        (10, b"\x63", "AES"),
        (34, b"\x01", "multi-volume"),
    ],
)
def test_what_is_not_ours_to_read_is_named(offset, new, what):
    """Encryption, foreign compression and volumes are unsupported, not malformed."""
    data = plain_zip(MEMBERS)
    data = replaced(data, data.index(CENTRAL) + offset, new)
    with pytest.raises(UnsupportedFormatError, match=what):
        open_zip(data)


def test_extra_fields_that_rename_or_repeat_are_refused():
    """Unicode paths and a second zip64 field would show other readers others (C17)."""
    for tag, times, error in (
        (0x7075, 1, MalformedFileError),
        (0x9901, 1, UnsupportedFormatError),
        (0x0001, 2, MalformedFileError),
    ):
        entry = zipfile.ZipInfo("a")
        entry.extra = struct.pack("<HHQ", tag, 8, 0) * times
        with pytest.raises(error):
            read_entry(_central_entry(entry.extra), 0)
    assert read_entry(_central_entry(struct.pack("<HHQ", 0x5455, 8, 0)), 0)[1] == 59


def _central_entry(extra: bytes, size: int = 0) -> bytes:
    head = struct.pack("<4s6H3I", CENTRAL, 0, 0, 0, 0, 0, 0, 0, size, size)
    return head + struct.pack("<5H2I", 1, len(extra), 0, 0, 0, 0, 0) + b"a" + extra


def test_zip64_numbers_are_taken_only_where_one_is_needed():
    """A zip64 field must hold exactly the numbers that do not fit (C15)."""
    big = 1 << 32
    extra = struct.pack("<HHQQ", 1, 16, big, big)
    entry, _ = read_entry(_central_entry(extra, 0xFFFFFFFF), 0)
    assert (entry.size, entry.stored_size) == (big, big)
    for wrong in (
        struct.pack("<HHQQ", 1, 16, 5, 5),
        struct.pack("<HHQ", 1, 8, big),
        struct.pack("<HHQQQ", 1, 24, big, big, 0),
    ):
        with pytest.raises(MalformedFileError):
            read_entry(_central_entry(wrong, 0xFFFFFFFF), 0)
    with pytest.raises(MalformedFileError):
        read_entry(_central_entry(extra, 5), 0)


@pytest.mark.parametrize("local_extra", ["offset", "sizes"])
def test_local_zip64_fields_of_torch_beyond_4_gib(local_extra):
    """Torch writes the offset alone, or both sizes, and a descriptor of 24 bytes."""
    extra = struct.pack("<HHQ", 1, 8, 0)
    sizes = 4
    if local_extra == "sizes":
        extra = struct.pack("<HHQQ", 1, 16, 4, 0)
    head = struct.pack("<4s5H3I2H", LOCAL, 0, 0x808, 0, 0, 0, 0, 0, 0, 1, len(extra))
    data = head + b"a" + extra + b"data" + struct.pack("<4sIQQ", b"PK\7\x08", 7, 4, 4)
    entry = Entry(b"a", 0x808, 0, 7, sizes, sizes, 0)
    start = len(head) + 1 + len(extra)
    assert check_local(open_source(data), entry, len(data)) == start
    other = extra[:4] + b"\x09" + extra[5:]
    with pytest.raises(MalformedFileError):
        check_local(open_source(data.replace(extra, other)), entry, len(data))


def zip64(**lies: int) -> bytes:
    """Return an archive with a zip64 end record and its locator, or lies in them."""
    data = plain_zip(MEMBERS)
    at = len(data) - END.size
    _, _, _, here, count, size, offset, _ = END.unpack_from(data, at)
    signature = lies.get("signature", 0x06064B50).to_bytes(4, "little")
    end64 = END64.pack(
        *(signature, lies.get("length", END64.size - 12), 45, 45, 0, 0),
        *(here, lies.get("count", count), size, offset),
    )
    locator = LOCATOR.pack(
        b"PK\x06\x07",
        lies.get("disk", 0),
        at + lies.get("off", 0),
        lies.get("disks", 1),
    )
    return data[:at] + end64 + locator + data[at:]


def test_a_zip64_end_record_repeats_the_short_one():
    """What `zip64` writes is an archive, and each lie in it is refused (C15)."""
    assert contents(zip64()) == MEMBERS
    for lie, kind, reason in (
        ({"disk": 1}, UnsupportedFormatError, "multi-volume"),
        ({"disks": 2}, UnsupportedFormatError, "multi-volume"),
        ({"off": -1}, MalformedFileError, "not where its locator stands"),
        ({"off": 1}, MalformedFileError, "not where its locator stands"),
        ({"signature": 0x06064B51}, MalformedFileError, "record is malformed"),
        ({"length": END64.size - 11}, MalformedFileError, "record is malformed"),
        ({"count": 4}, MalformedFileError, "says 4, the short one 3"),
    ):
        with pytest.raises(kind, match=reason):
            open_zip(zip64(**lie))


def test_a_locator_with_nothing_in_front_of_it_is_malformed():
    """The zip64 end record would start before the file."""
    data = zip64()
    locator = data[-END.size - LOCATOR.size :]
    with pytest.raises(MalformedFileError, match="not where its locator stands"):
        open_zip(locator)


def test_bytes_around_the_archive_are_refused():
    """Nothing before the first header (C12), nothing behind the end (C13)."""
    for writer in WRITERS.values():
        data = writer(MEMBERS)
        for around in (b"x" + data, data + b"x", data + data, b"MZ" * 50 + data):
            with pytest.raises(MalformedFileError):
                open_zip(around)


def test_a_second_end_record_is_refused():
    """An archive within the comment of another is ambiguous (C14)."""
    inner = plain_zip({"inner": b""})
    outer = plain_zip({"outer": b""})
    both = replaced(outer, len(outer) - 2, struct.pack("<H", len(inner))) + inner
    with pytest.raises(MalformedFileError):
        open_zip(both)


def test_a_gap_between_records_is_refused():
    """Every byte belongs to something (C4)."""
    data = plain_zip({"a": b"12345678"})
    shorter = data.replace(struct.pack("<II", 8, 8), struct.pack("<II", 7, 7))
    with pytest.raises(MalformedFileError, match="belong to no record"):
        open_zip(shorter)


def test_records_out_of_order_are_refused():
    """Two entries that trade their headers are caught (C4)."""
    data = plain_zip({"a": b"1", "b": b"2"})
    first = data.index(CENTRAL)
    second = data.index(CENTRAL, first + 1)
    size = second - first
    swapped = data[:first] + data[second : second + size] + data[first:second]
    with pytest.raises(MalformedFileError):
        open_zip(swapped + data[second + size :])


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["t/data.pkl", "t/DATA.PKL"],
        ["\u00e9", "e\u0301"],
        ["a", "a/"],
        ["/etc/passwd"],
        ["../a"],
        ["a/../b"],
        ["a/./b"],
        ["a//b"],
        ["a\\b"],
        ["C:/a"],
        ["a\x1fb"],
        [""],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_readers_take_differently_are_refused(names):
    """Duplicates, look-alikes and anything but a plain relative path (C7, C8, C18)."""
    with pytest.raises(MalformedFileError, match=" name") as caught:
        open_zip(_zip_of([(name, b"") for name in names]))
    assert type(caught.value) is MalformedFileError


def _zip_of(members: list[tuple[str, bytes]]) -> bytes:
    out, directory = bytearray(), bytearray()
    for name, data in members:
        raw = name.encode()
        fixed = struct.pack(
            "<5H3I2H", 0, 0x800, 0, 0, 0, 0, len(data), len(data), len(raw), 0
        )
        directory += (
            CENTRAL + b"\0\0" + fixed + struct.pack("<3H2I", 0, 0, 0, 0, len(out)) + raw
        )
        out += LOCAL + fixed + raw + data
    end = struct.pack(
        "<4s4H2IH",
        b"PK\5\6",
        0,
        0,
        len(members),
        len(members),
        len(directory),
        len(out),
        0,
    )
    return bytes(out + directory + end)


def test_a_nul_in_a_name_is_refused():
    """C readers would stop there (C18)."""
    with pytest.raises(MalformedFileError):
        open_zip(_zip_of([("a\0b", b"")]))
    assert list(open_zip(_zip_of([("a b", b"")])).records) == ["a b"]


def test_a_name_that_is_not_utf8_is_refused():
    """The flag promises UTF-8."""
    with pytest.raises(MalformedFileError):
        open_zip(_zip_of([("aé", b"")]).replace("é".encode(), b"\xff\xfe"))


def test_a_wrong_checksum_is_found_on_reading():
    """A flipped byte of a record does not pass in silence (C6)."""
    data = torch_zip(MEMBERS)
    at = data.index(b"zero")
    records = open_zip(replaced(data, at, b"Z")).records
    with pytest.raises(ChecksumError):
        records["t/data/0"].read(limits=DEFAULT_LIMITS)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_truncation_is_refused(writer):
    """No prefix of an archive is an archive."""
    data = WRITERS[writer](MEMBERS)
    for size in range(len(data)):
        with pytest.raises(MalformedFileError):
            open_zip(data[:size])


@pytest.mark.parametrize("writer", WRITERS)
def test_the_short_and_the_careful_path_decide_alike(writer):
    """Reading every entry the careful way gives the same records."""
    members = {f"t/data/{i}": b"y" * (i % 5) for i in range(50)}
    data = WRITERS[writer](members)
    source = open_source(data)
    directory = find_directory(source, DEFAULT_LIMITS)
    entries, at = [], 0
    while at < len(directory.data):
        entry, at = read_entry(directory.data, at)
        entries.append(entry)
    ends = [entry.start for entry in entries[1:]] + [directory.offset]
    offsets = [
        check_local(source, entry, end)
        for entry, end in zip(entries, ends, strict=True)
    ]
    records = open_zip(data).records.values()
    assert [(r.offset, r.size, r.crc32, r.method, r.stored_size) for r in records] == [
        (at, e.size, e.crc32, e.method, e.stored_size)
        for at, e in zip(offsets, entries, strict=True)
    ]


def test_every_single_bit_of_the_headers_decides_alike_on_both_paths():
    """A flipped bit is accepted or refused whether it hits the first entry or the last.

    The first entry takes the careful path, the last one the short path.
    """
    members = {f"t/{i}": b"same" for i in range(3)}
    data = torch_zip(members)
    starts = [data.index(LOCAL), data.rindex(LOCAL)]
    centrals = [data.index(CENTRAL), data.rindex(CENTRAL)]
    for first, last, length in ((*starts, 30), (*centrals, 46)):
        for bit in range(8 * length):
            answers = []
            for start in (first, last):
                at = start + bit // 8
                mutant = replaced(data, at, bytes([data[at] ^ 1 << bit % 8]))
                try:
                    records = open_zip(mutant).records
                except SafeModelError:
                    answers.append(None)
                else:
                    answers.append(list(records))
            assert answers[0] == answers[1], (first, bit)


def test_large_records_are_not_read_while_headers_are_compared(tmp_path):
    """Headers that lie far apart are fetched one by one."""

    class Counting:
        def __init__(self) -> None:
            self.total = 0

    path = tmp_path / "large.pt"
    path.write_bytes(torch_zip({f"t/data/{i}": bytes(1 << 18) for i in range(20)}))
    count = Counting()
    with open_source(path) as source:
        read = source.read

        def counted(offset: int, size: int) -> bytes:
            count.total += size
            return read(offset, size)

        source.read = counted
        assert len(read_zip(source, limits=DEFAULT_LIMITS).records) == 20
    assert count.total < 70_000 + 20 * 400


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo of real files is not here")
def test_every_zip_of_the_zoo_is_read():
    """Real archives by other people keep every rule, and their checksums are right."""
    paths = [path for path in ZOO.rglob("*") if path.is_file()]
    found = 0
    for path in paths:
        with open_source(path) as source:
            if source.size > 4 and source.read(0, 4) == LOCAL:
                found += 1
                with zipfile.ZipFile(path) as reference:
                    names = [n for n in reference.namelist() if not n.endswith("/")]
                records = read_zip(source, limits=DEFAULT_LIMITS).records
                assert list(records) == names
                for record in records.values():
                    record.read(limits=DEFAULT_LIMITS)
    assert found > 40
