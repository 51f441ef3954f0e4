"""Deflated records: each, all of them, and archives within archives are bounded."""

from __future__ import annotations

import io
import zipfile

import pytest

from safemodel.errors import LimitExceededError
from safemodel.limits import Limits

PICKLE = b"\x80\x02]."
KIB = 1 << 10


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return out.getvalue()


def refused(read, data: bytes, limits: Limits) -> None:
    """Require that the ratio of the whole file is what is refused."""
    with pytest.raises(LimitExceededError) as caught:
        read(data, limits=limits)
    error = caught.value
    assert (error.limit, error.allowed) == ("max_inflation", limits.max_inflation)
    assert error.requested > 0


def exactly(allowed: int) -> Limits:
    """Return limits under which deflated records add up to so many bytes."""
    return Limits(min_amplified_bytes=allowed, max_inflation=0.001)


def test_many_small_records_are_counted_together(read):
    """Each inflates to what one always may; the last byte that fits is accepted."""
    members = {f"m{number}": b"\n" * KIB for number in range(9)}
    data = archive({**members, "model.pkl": PICKLE + b"\n" * (KIB - len(PICKLE))})

    assert len(read(data, limits=exactly(10 * KIB)).root) == 10
    refused(read, data, exactly(10 * KIB - 1))


def test_the_size_of_the_file_is_what_they_are_compared_with(read):
    """A large file may hold more than a small one."""
    members = {f"m{number}": b"\n" * KIB for number in range(99)}
    data = archive({**members, "model.pkl": PICKLE + b"\n" * KIB})
    share = (100 * KIB + len(PICKLE)) / len(data)

    few = Limits(min_amplified_bytes=1, max_inflation=share * 0.99)
    enough = Limits(min_amplified_bytes=1, max_inflation=share * 1.01)
    assert len(read(data, limits=enough).root) == 100
    refused(read, data, few)


def test_an_archive_within_an_archive_counts_for_the_file(read):
    """A hundred times a hundred times its bytes is not a hundred times."""
    inner = archive({"x": b"\n" * KIB, "model.pkl": PICKLE + b"\n" * KIB})
    outer = archive({"a.zip": inner, "b.zip": inner})
    total = 2 * (len(inner) + 2 * KIB + len(PICKLE))

    assert list(read(outer, limits=exactly(total)).root) == ["a.zip", "b.zip"]
    refused(read, outer, exactly(total - 1))


def test_deflated_storages_are_counted_with_their_pickle(read):
    """Torch stores them; another writer may deflate each of them a hundredfold."""
    pickle = b"\x80\x02("
    for key in (b"0", b"1"):
        pickle += b"(X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x00"
        pickle += key + b"X\x03\x00\x00\x00cpuM\x00\x04tQ"
    pickle += b"t."
    records = {"a/data.pkl": pickle, "a/byteorder": b"little"}
    data = archive(records | {"a/data/0": bytes(KIB), "a/data/1": bytes(KIB)})
    total = 2 * KIB
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        for name, content in records.items():
            # What deflating leaves as it is costs nothing.
            if made.getinfo(name).compress_size != len(content):
                total += len(content)

    read(data, limits=exactly(total))
    refused(read, data, exactly(total - 1))


def test_stored_records_cost_nothing(read):
    """Their bytes are the file's own."""
    members = {"m": b"\n" * 100 * KIB, "model.pkl": PICKLE}
    data = archive(members, zipfile.ZIP_STORED)
    assert len(read(data, limits=exactly(1)).root) == 2
