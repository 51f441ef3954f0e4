"""PNG, read by hand: by its specification, not by the encoder."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

MAGIC = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """What a PNG holds: (height, width) levels or colours, and its palette."""

    pixels: np.ndarray
    depth: int
    palette: np.ndarray


def decoded(data: bytes) -> Picture:
    """Return what a PNG of rows without filters holds; every checksum is compared."""
    assert data[:8] == MAGIC
    chunks, at = [], 8
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert zlib.crc32(name + body) == crc
        chunks.append((name, body))
        at += 12 + size
    assert chunks[0][0] == b"IHDR"
    assert chunks[-1] == (b"IEND", b"")
    width, height, depth, kind, *rest = struct.unpack(">2I5B", chunks[0][1])
    assert rest == [0, 0, 0]
    palette = b"".join(body for name, body in chunks if name == b"PLTE")
    assert bool(palette) == (kind == 3)
    rows = zlib.decompress(b"".join(b for name, b in chunks if name == b"IDAT"))
    stride = 1 + -(-width * depth // 8)
    assert len(rows) == height * stride
    table = np.frombuffer(rows, np.uint8).reshape(height, stride)
    assert not table[:, 0].any()
    pixels = table[:, 1:]
    if depth == 4:
        pixels = np.stack((pixels >> 4, pixels & 15), -1).reshape(height, -1)
        assert not pixels[:, width:].any()
        pixels = pixels[:, :width]
    return Picture(pixels, depth, np.frombuffer(palette, np.uint8).reshape(-1, 3))
