"""Tar archives: regular files, plain names, honest numbers."""

from __future__ import annotations

import io
import tarfile

import pytest

from safemodel._containers.source import open_source
from safemodel._containers.tar_archive import is_tar_header, read_tar_archive
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.containers.helpers_containers import tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def contents(data: bytes, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    records = read_tar_archive(open_source(data), limits=limits)
    return {name: record.read(limits=limits) for name, record in records.items()}


def signed(header: bytes) -> bytes:
    """Return a header with its checksum made right."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % total + header[156:]


@pytest.mark.parametrize("fmt", FORMATS)
def test_what_tarfile_writes_is_read(fmt):
    """Names in order, long ones too, and their bytes."""
    members = {"a": b"1" * 513, "d/" + "x" * 90 + "/" + "y" * 40: b"", "c": b"3" * 512}
    assert list(contents(tar(members, fmt)).items()) == list(members.items())


@pytest.mark.parametrize("fmt", FORMATS[1:])
def test_long_names_beyond_ascii_are_read(fmt):
    """GNU and pax headers rename their successor only."""
    members = {"ü" * 150: b"1", "b": b"2"}
    assert contents(tar(members, fmt)) == members


def test_folders_and_a_leading_dot_are_dropped():
    """``tar c .`` writes both."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in (".", "./d"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        member = tarfile.TarInfo("./d/a")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"1"))
    assert contents(out.getvalue()) == {"d/a": b"1"}


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"M", b"K", b"Z"])
def test_anything_but_a_file_is_refused(kind):
    """Links, devices, pipes, sparse files and unknown kinds (C19)."""
    data = tar({"a": b""})
    with pytest.raises(UnsupportedFormatError):
        contents(signed(data[:156] + kind + data[157:512]) + data[512:])


@pytest.mark.parametrize(
    "name", ["/a", "../a", "a/../b", "a\\b", "C:a", "a//b", "a\x01"]
)
def test_names_that_are_not_plain_are_refused(name):
    """The rules for names are those of every archive (C18)."""
    with pytest.raises(MalformedFileError):
        contents(tar({name: b""}))


@pytest.mark.parametrize("byte", [b"\x7f", b"\x80"])
def test_a_checksum_may_be_that_of_signed_bytes(byte):
    """As some old writers made it; from 0x80 on, a byte counts as negative."""
    header = bytearray(signed(tar({"a": b""})[:512]))
    header[400:401] = byte
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    header[148:156] = b"%06o\0 " % (total - 256 * (byte > b"\x7f"))
    assert contents(bytes(header) + bytes(1024)) == {"a": b""}

    header[148:156] = b"%06o\0 " % (total - 256 * (1 + (byte > b"\x7f")))
    with pytest.raises(MalformedFileError) as caught:
        contents(bytes(header) + bytes(1024))
    assert caught.value.reason == "the checksum of a tar header is wrong"


def test_duplicates_are_refused():
    """Names equal after case folding are one file to some reader."""
    with pytest.raises(MalformedFileError):
        contents(tar({"a": b"", "A": b""}))


def test_a_wrong_checksum_is_refused():
    """Each byte of a header counts."""
    data = tar({"a": b"1"})
    assert is_tar_header(data)
    for at in (0, 100, 124, 156, 257, 400, 511):
        wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert not is_tar_header(wrong)
        with pytest.raises(MalformedFileError):
            contents(wrong)


def test_sizes_are_octal_or_base_256_and_within_the_file():
    """Both notations are read; what reaches past the end is not there."""
    data = tar({"a": b"12345"})
    wide = data[:124] + b"\x80" + bytes(10) + b"\5" + data[136:]
    assert contents(signed(wide[:512]) + wide[512:]) == {"a": b"12345"}
    for size, error in (
        (b"\x80\x7f" + bytes(10), TruncatedFileError),
        (b"77777777777\0", TruncatedFileError),
        (b"\xff" * 12, MalformedFileError),
        (b"0000000x005\0", MalformedFileError),
        (b"-0000000005\0", MalformedFileError),
    ):
        wrong = data[:124] + size + data[136:]
        with pytest.raises(error):
            contents(signed(wrong[:512]) + wrong[512:])


def test_the_last_byte_must_be_there():
    """A member may end exactly at the end of the file."""
    data = tar({"a": b"12345"})
    assert contents(data[: 512 + 5]) == {"a": b"12345"}
    with pytest.raises(TruncatedFileError) as caught:
        contents(data[: 512 + 4])
    assert (caught.value.needed, caught.value.available) == (5, 4)


def test_the_number_of_members_is_limited():
    """As many as allowed, and one more."""
    data = tar({"a": b"", "b": b""})
    assert len(contents(data, Limits(max_records=2))) == 2
    with pytest.raises(LimitExceededError) as caught:
        contents(data, Limits(max_records=1))
    assert (caught.value.limit, caught.value.requested) == ("max_records", 2)


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (b"12 size=99\n\n", UnsupportedFormatError),
        (b"23 GNU.sparse.major=1\n\n", UnsupportedFormatError),
        (b"99 path=b\n", MalformedFileError),
        (b"path=b\n", MalformedFileError),
        (b"0 path=b\n", MalformedFileError),
        (b"10 path=bc", MalformedFileError),
    ],
)
def test_pax_fields_that_would_change_more_than_a_name_are_refused(record, error):
    """A size or a sparse map beside the header's own is a second truth."""
    data = tar({"a": record})
    extended = signed(data[:156] + b"x" + data[157:512]) + data[512:1024]
    with pytest.raises(error):
        contents(extended + tar({"b": b""}))
