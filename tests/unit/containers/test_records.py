"""Records: inflating is bounded, exact, and compared with its CRC-32."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest

from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel.errors import (
    ChecksumError,
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits

TEXT = b"weights " * 1000


def deflated(data: bytes = TEXT, **changes: object) -> Record:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(data) + packer.flush()
    fields = {"size": len(data), "crc32": zlib.crc32(data), "stored_size": len(packed)}
    packed += b"behind"
    return Record("r", open_source(packed), 0, method=8, **{**fields, **changes})


def test_a_deflated_record_inflates_to_its_bytes():
    """The ordinary case."""
    assert deflated().read(limits=DEFAULT_LIMITS) == TEXT
    assert deflated(b"").read(limits=DEFAULT_LIMITS) == b""


@pytest.mark.parametrize("off", [-1, 1])
def test_another_size_than_declared_is_malformed(off):
    """One byte more or less than declared is refused."""
    with pytest.raises(MalformedFileError) as caught:
        deflated(size=len(TEXT) + off).read(limits=DEFAULT_LIMITS)
    assert caught.value.record == "r"


@pytest.mark.parametrize("off", [-1, 1])
def test_the_stream_fills_its_span_exactly(off):
    """A cut stream and bytes behind its end are refused."""
    whole = deflated()
    with pytest.raises(MalformedFileError):
        deflated(stored_size=whole.stored_size + off).read(limits=DEFAULT_LIMITS)


def test_a_stream_that_never_says_that_it_ends_is_malformed():
    """All bytes are there, but another reader would wait for more."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(TEXT) + packer.flush(zlib.Z_SYNC_FLUSH)
    record = Record("r", open_source(packed), 0, len(TEXT), None, 8, len(packed))
    with pytest.raises(MalformedFileError) as caught:
        record.read(limits=DEFAULT_LIMITS)
    assert caught.value.reason == "does not inflate to exactly 8,000 bytes"


def test_no_more_is_inflated_than_was_declared():
    """A stream of 600 kB, for 600 MB, stops at the byte that is one too many."""
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    packed = b"".join(packer.compress(zeros) for _ in range(600)) + packer.flush()
    record = Record("r", open_source(packed), 0, 10, None, 8, len(packed))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFileError, match="exactly 10 bytes"):
            record.read(limits=DEFAULT_LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(packed)


def test_inflation_is_bounded_by_ratio_or_absolute_size():
    """The larger of both bounds decides, on both of its sides."""
    record = deflated()
    ratio = record.size / record.stored_size

    record.read(limits=Limits(max_inflation=ratio, min_inflated_bytes=1))
    record.read(limits=Limits(max_inflation=1, min_inflated_bytes=len(TEXT)))
    with pytest.raises(LimitExceededError) as caught:
        record.read(limits=Limits(max_inflation=1, min_inflated_bytes=len(TEXT) - 1))
    assert (caught.value.limit, caught.value.allowed) == ("max_inflation", 1)


def test_a_broken_stream_is_malformed():
    """zlib's own error does not escape."""
    record = Record("r", open_source(b"\xff" * 10), 0, 10, None, 8, 10)
    with pytest.raises(MalformedFileError):
        record.read(limits=DEFAULT_LIMITS)


@pytest.mark.parametrize("method", [0, 8])
def test_a_wrong_checksum_is_refused_unless_told_otherwise(method):
    """Torch loads such a record in silence."""
    right = zlib.crc32(TEXT)
    record = (
        deflated(crc32=right ^ 1)
        if method
        else Record("r", open_source(TEXT), 0, len(TEXT), right ^ 1)
    )
    assert record.read(limits=DEFAULT_LIMITS, verify=False) == TEXT
    with pytest.raises(ChecksumError) as caught:
        record.read(limits=DEFAULT_LIMITS)
    assert (caught.value.expected, caught.value.actual) == (right ^ 1, right)


def test_a_method_that_cannot_be_read_is_named():
    """The message says what the compression is called."""
    with pytest.raises(UnsupportedFormatError, match="zstd"):
        Record("r", open_source(b""), 0, 0, None, 93).read(limits=DEFAULT_LIMITS)


def test_a_record_past_the_end_is_truncated():
    """A span that is not there is not read."""
    with pytest.raises(TruncatedFileError):
        Record("r", open_source(b"abc"), 1, 3).read(limits=DEFAULT_LIMITS)


@pytest.mark.parametrize("crc32", [None, zlib.crc32(TEXT * 20_000)])
def test_a_record_is_verified_without_being_held(crc32):
    """Stored over several steps, deflated, or without a checksum: all is well."""
    data = TEXT * 20_000
    stored = Record("r", open_source(data), 0, len(data), crc32)

    assert stored.verify(limits=DEFAULT_LIMITS) is None
    assert deflated(data, crc32=crc32).verify(limits=Limits(max_inflation=1e6)) is None


@pytest.mark.parametrize("method", [0, 8])
def test_a_record_with_another_checksum_fails_its_verification(method):
    """The error says both."""
    right = zlib.crc32(TEXT)
    stored = Record("r", open_source(TEXT), 0, len(TEXT), right ^ 1)
    record = deflated(crc32=right ^ 1) if method else stored

    with pytest.raises(ChecksumError) as caught:
        record.verify(limits=DEFAULT_LIMITS)
    assert (caught.value.expected, caught.value.actual) == (right ^ 1, right)


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (8 << 20) + 7])
def test_a_large_record_inflates_piece_by_piece(size):
    """Also where the last piece is full: what follows may still hold an end."""
    data = (b"weights!" * (size // 8 + 1))[:size]
    record = deflated(data)
    limits = Limits(max_inflation=10_000)
    pieces = list(record.inflated(limits=limits))
    assert b"".join(pieces) == data == record.read(limits=limits)
    assert max(map(len, pieces)) <= 4 << 20


def test_pieces_are_checked_like_a_whole_record():
    """Its ratio before the first, its size and checksum with the last, and itself."""
    with pytest.raises(LimitExceededError):
        next(deflated().inflated(limits=Limits(max_inflation=1, min_inflated_bytes=1)))
    wrong = deflated(crc32=zlib.crc32(TEXT) ^ 1).inflated(limits=DEFAULT_LIMITS)
    with pytest.raises(ChecksumError):
        list(wrong)
    with pytest.raises(MalformedFileError, match="exactly"):
        list(deflated(size=len(TEXT) - 1).inflated(limits=DEFAULT_LIMITS))
    broken = Record("r", open_source(b"\xff" * 10), 0, 10, None, 8, 10)
    with pytest.raises(MalformedFileError, match="broken"):
        list(broken.inflated(limits=DEFAULT_LIMITS))
