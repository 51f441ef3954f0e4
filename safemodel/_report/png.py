"""Pictures in gray or with a palette, as PNG: what a page or a file can hold.

An encoder of images that are made here from bounded arrays; it reads nothing.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAGIC = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3


def png(
    pixels: bytes,
    width: int,
    *,
    depth: int = 8,
    palette: Sequence[tuple[int, int, int]] = (),
) -> bytes:
    """Return rows of pixels as PNG.

    Args:
        pixels: One byte each, row after row: a level of gray, or a number of a colour.
        width: Pixels of a row.
        depth: Bits that are kept of each: 8 or 4. Of 4, levels go from 0 to 15.
        palette: Colours in red, green and blue; none for gray.

    Raises:
        ValueError: No picture, or one whose last row is not whole.
    """
    if width < 1 or not pixels or len(pixels) % width:
        raise ValueError(f"{len(pixels):,} pixels do not make rows of {width:,}")
    kind = _PALETTE if palette else _GRAY
    height = len(pixels) // width
    rows = bytearray()
    for at in range(0, len(pixels), width):
        row = pixels[at : at + width]
        # Each row begins with its filter: none.
        rows += b"\0" + (row if depth == 8 else _halved(row))
    colours = b"".join(bytes(colour) for colour in palette)
    return b"".join(
        (
            _MAGIC,
            _chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)),
            _chunk(b"PLTE", colours) if palette else b"",
            _chunk(b"IDAT", zlib.compress(bytes(rows), 9)),
            _chunk(b"IEND", b""),
        )
    )


def data_uri(picture: bytes) -> str:
    """Return a PNG as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _halved(row: bytes) -> bytes:
    """Return two pixels a byte, the left one first."""
    even = row + b"\0" if len(row) % 2 else row
    pairs = zip(even[::2], even[1::2], strict=True)
    return bytes(left << 4 | right & 15 for left, right in pairs)


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
