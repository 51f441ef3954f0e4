"""The bytes of tensors: read when asked for, and then judged as `safe_load` does."""

from __future__ import annotations

import zipfile

import pytest
import torch

from safemodel import ChecksumError, inspect_file, safe_load, scan_files
from safemodel.reports import Status


def flipped(tmp_path, compression: int) -> str:
    """Write a checkpoint over several steps of reading, one bit of its tensor wrong."""
    original = tmp_path / "original.pt"
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.arange(100_000)}, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            kind = compression if "/data/" in info.filename else zipfile.ZIP_STORED
            target.writestr(info.filename, source.read(info), kind)
    data = bytearray(path.read_bytes())
    if compression == zipfile.ZIP_STORED:
        data[data.index((77_777).to_bytes(8, "little"))] ^= 1
    else:
        with zipfile.ZipFile(path) as archive:
            (info,) = [i for i in archive.infolist() if "/data/" in i.filename]
        data = data.replace(info.CRC.to_bytes(4, "little"), bytes(4))
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_of_a_tensor_is_found_when_asked_for(tmp_path, compression):
    """Without, the bytes are not read; with, the verdict is that of `safe_load`."""
    path = flipped(tmp_path, compression)
    with pytest.raises(ChecksumError) as caught:
        safe_load(path)

    (quick,) = scan_files([path])
    (whole,) = scan_files([path], verify_checksums=True)

    assert quick.status is Status.CLEAN
    assert (whole.status, whole.error) == (Status.REFUSED, "ChecksumError")
    assert whole.error_message == str(caught.value)
    assert inspect_file(path).error is None
    assert inspect_file(path, verify_checksums=True).error == "ChecksumError"


def test_right_checksums_are_clean_in_every_process(tmp_path):
    """The setting reaches the workers."""
    bad = flipped(tmp_path, zipfile.ZIP_STORED)
    good = str(tmp_path / "original.pt")
    for jobs in (1, 2):
        reports = scan_files([good, bad], verify_checksums=True, jobs=jobs)

        statuses = [report.status for report in reports]
        assert statuses == [Status.CLEAN, Status.REFUSED]
