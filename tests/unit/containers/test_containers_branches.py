"""Containers, seen from the odd side: what ordinary files never show them."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import threading
import zipfile

import pytest

from safemodel._containers import zip_salvage
from safemodel._containers.npy_header import read_npy_header
from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel._containers.tar_archive import BLOCK, read_tar_archive
from safemodel.errors import (
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.containers.helpers_containers import open_zip, plain_zip

MIB = 1 << 20


def test_a_record_is_shown_by_name_and_place():
    """With the name as messages show it."""
    record = Record("a\n" + "b" * 100, open_source(b"12345"), 1, 3)
    assert repr(record) == f"Record('a\\\\n{'b' * 74}...', offset=1, size=3)"


def test_a_header_that_claims_to_be_utf_8_is(tmp_path):
    """Version 3.0 only; before, any byte is a character."""
    text = "{'descr': [('\xff', '<i4')], 'fortran_order': False, 'shape': ()}"
    raw = text.encode("latin-1")
    old = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw
    new = b"\x93NUMPY\x03\x00" + struct.pack("<I", len(raw)) + raw

    assert read_npy_header(open_source(old), limits=DEFAULT_LIMITS).descr == [
        ("\xff", "<i4")
    ]
    with pytest.raises(MalformedFileError) as caught:
        read_npy_header(open_source(new), limits=DEFAULT_LIMITS)
    assert caught.value.reason == "npy header: it is not UTF-8"


@pytest.fixture
def path(tmp_path):
    """Return a file of 6 MiB, each of whose 8 bytes are their own offset."""
    made = tmp_path / "numbers"
    made.write_bytes(struct.pack(f"<{6 * MIB // 8}Q", *range(0, 6 * MIB, 8)))
    return made


def test_a_large_view_is_read_by_itself(path):
    """The window keeps what it had, for the small ones that follow."""
    with open_source(path) as source:
        small = source.view(8, 16)
        large = source.view(MIB, 5 * MIB)
        assert (large.nbytes, bytes(large[:8])) == (5 * MIB, MIB.to_bytes(8, "little"))
        assert bytes(source.view(16, 8)) == bytes(small[8:])
        with pytest.raises(TruncatedFileError):
            source.view(MIB + 1, 5 * MIB)


@pytest.mark.parametrize("left", [0, 10, 99])
def test_a_file_that_shrinks_while_it_is_read_is_truncated(path, left):
    """Whether anything of the span is left or not."""
    with open_source(path) as source:
        os.truncate(path, left)
        with pytest.raises(TruncatedFileError) as caught:
            source.read(8, 100)
    error = caught.value
    assert (error.needed, error.available) == (108, max(left, 8))
    assert error.position == 8


@pytest.mark.parametrize("left", [0, 10, 99])
def test_a_file_that_shrinks_while_it_fills_a_buffer_is_truncated(path, left):
    """As a tensor's memory is filled."""
    with open_source(path) as source:
        os.truncate(path, left)
        with pytest.raises(TruncatedFileError) as caught:
            source.read_into(8, memoryview(bytearray(100)))
    assert (caught.value.needed, caught.value.available) == (108, max(left, 8))


def test_nothing_is_read_of_no_bytes(path):
    """Wherever it is asked for."""
    with open_source(path) as source:
        assert source.read(6 * MIB, 0) == b""
        assert bytes(source.view(6 * MIB, 0)) == b""


class Reader:
    """A file object with a read method and nothing else."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.chunks = list(chunks)

    def read(self, size: int) -> bytes | None:
        """Return the next chunk."""
        return self.chunks.pop(0) if self.chunks else b""


def test_a_file_object_needs_no_more_than_a_read_method():
    """It is read to its end, and cannot be left anywhere."""
    source = open_source(Reader(b"12", b"345"))
    assert source.read(0, source.size) == b"12345"
    source.finish(2)


def test_a_file_object_that_has_nothing_yet_is_said_to():
    """A pipe that does not wait; its end is not reached."""
    with pytest.raises(BlockingIOError):
        open_source(Reader(b"12", None))


class Odd(Reader):
    """A file object whose position is no number."""

    def __init__(self, position: object) -> None:
        super().__init__(b"12345")
        self.position = position

    def seekable(self) -> bool:
        """Say so."""
        return True

    def tell(self) -> object:
        """Return the position, or raise it."""
        if isinstance(self.position, Exception):
            raise self.position
        return self.position


@pytest.mark.parametrize("position", [None, -1, 1.5, OSError(), ValueError()], ids=repr)
def test_a_file_object_of_no_position_is_not_moved(position):
    """It is read all the same."""
    source = open_source(Odd(position))
    assert source.size == 5
    source.finish(2)


def block(name: bytes, size: int = 0, kind: bytes = b"0") -> bytes:
    """Return a tar header with a right checksum."""
    header = bytearray(BLOCK)
    header[: len(name)] = name
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[156:157] = kind
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padded(content: bytes) -> bytes:
    """Return content as whole blocks."""
    return content + bytes(-len(content) % BLOCK)


def read_tar(data: bytes) -> dict[str, Record]:
    """Read an archive."""
    return read_tar_archive(open_source(data), limits=DEFAULT_LIMITS)


def malformed(data: bytes) -> str:
    """Return why an archive is malformed."""
    with pytest.raises(MalformedFileError) as caught:
        read_tar(data)
    assert type(caught.value) is MalformedFileError
    return caught.value.reason


def test_a_tar_member_has_a_name():
    """Neither an empty header, nor a long name of nothing, nor "./" before nothing."""
    first = block(b"a")
    assert malformed(first + block(b"")) == "a tar member has no name"
    empty = block(b"././@LongLink", 1, b"L") + padded(b"\0") + block(b"b")
    assert malformed(empty) == "a tar member has no name"
    assert list(read_tar(block(b"./", kind=b"5") + block(b"./a"))) == ["a"]


@pytest.mark.parametrize(
    ("name", "kind"), [(b"d", b"5"), (b"d/", b"5"), (b"d/", b"0"), (b"./", b"0")]
)
def test_a_folder_has_no_content(name, kind):
    """Old archives mark one by its slash alone."""
    assert read_tar(block(name, 0, kind)) == {}
    found = malformed(block(name, 3, kind) + padded(b"abc"))
    assert found == "a folder has content"


def test_an_extended_header_is_short():
    """64 KiB at most, on both sides of the bound."""
    for kind in (b"L", b"x", b"g"):
        size = (1 << 16) + 1
        found = malformed(block(b"x", size, kind) + padded(b"a" * size) + block(b"b"))
        assert found == "an extended tar header is too long"
    name = b"n" * 200 + b"\0" * ((1 << 16) - 200)
    data = block(b"x", 1 << 16, b"L") + name + block(b"b")
    assert list(read_tar(data)) == ["n" * 200]


def test_pax_fields_that_name_nothing_are_passed_over():
    """Times and owners; the name comes with them or not."""
    for fields, name in (
        (b"20 mtime=1234567.89\n", "b"),
        (b"20 mtime=1234567.89\n13 path=long\n", "long"),
    ):
        data = block(b"x", len(fields), b"x") + padded(fields) + block(b"b")
        assert list(read_tar(data)) == [name]


def test_an_unknown_kind_of_member_is_refused_by_number():
    """Vendors have their own."""
    with pytest.raises(UnsupportedFormatError) as caught:
        read_tar(block(b"a", kind=b"V"))
    assert caught.value.what == "tar member 'a' is of kind 0x56, not a regular file"


def test_a_long_directory_is_read_from_the_file():
    """Longer than the tail that was read to find it."""
    members = {f"{number:0200}": b"" for number in range(1000)}
    assert list(open_zip(plain_zip(members)).records) == list(members)


def test_found_records_of_one_name_have_keys_of_their_own():
    """Even where another record has the very name of such a key."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (("a#2", b"1"), ("a", b"22"), ("b", b"333")):
            archive.writestr(name, content)
    data = out.getvalue().replace(b"b", b"a")
    found = zip_salvage.find_records(open_source(data), limits=DEFAULT_LIMITS).records
    assert list(found) == ["a#2", "a", "a#2#"]
    assert [record.name for record in found.values()] == ["a#2", "a", "a"]


def test_a_file_in_a_named_pipe_is_no_regular_file(tmp_path):
    """Opening it does not wait for a writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            open_source(pipe)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert [str(error) for error in caught] == [
        f"[Errno 22] not a regular file: '{pipe}'"
    ]


def test_tarfile_agrees_about_the_headers_made_here():
    """The helper above writes what others read."""
    data = block(b"a", 3) + padded(b"abc") + bytes(2 * BLOCK)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.extractfile("a").read() == b"abc"
