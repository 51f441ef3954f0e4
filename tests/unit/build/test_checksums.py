"""Checksums of storages, whoever computes them."""

from __future__ import annotations

import importlib
import sys
import zlib

import pytest
import torch

from safemodel._build.checksums import crc32


@pytest.mark.parametrize("size", [0, 1, 7, 64, 255, 4096, 1_000_003])
def test_checksums_are_those_of_zlib(size):
    """In one go and in two, from bytes and from memory."""
    data = torch.arange(size, dtype=torch.int64).to(torch.uint8).numpy()
    first, second = data[: size // 3], data[size // 3 :]

    assert crc32(data) == zlib.crc32(data)
    assert crc32(second.data, crc32(first.tobytes())) == zlib.crc32(data)


def test_zlib_takes_the_place_of_a_faster_library(monkeypatch):
    """On machines that it has no build for."""
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    monkeypatch.delitem(sys.modules, "safemodel._build.checksums")

    fallback = importlib.import_module("safemodel._build.checksums")

    assert fallback.crc32 is zlib.crc32
