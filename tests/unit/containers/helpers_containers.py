"""Small archives of every kind, built on demand."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib

from safemodel._containers.source import Source, open_source
from safemodel._containers.zip_archive import ZipArchive, read_zip
from safemodel.limits import DEFAULT_LIMITS, Limits


class Stream(io.RawIOBase):
    """A writable stream that cannot seek, which makes zipfile write descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        chunk = bytes(data)
        self.data += chunk
        return len(chunk)


def open_zip(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ZipArchive:
    """Read a zip archive strictly."""
    return read_zip(open_source(data), limits=limits)


def plain_zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return what Python's zipfile writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def streamed_zip(members: dict[str, bytes], *, zip64: bool = False) -> bytes:
    """Return what Python's zipfile writes to a stream."""
    out = Stream()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
    return bytes(out.data)


def torch_zip(members: dict[str, bytes]) -> bytes:
    """Return an archive laid out as torch's writer does: padded, with descriptors."""
    out = bytearray()
    directory = bytearray()
    for name, data in members.items():
        raw = name.encode()
        start = len(out)
        padding = -(start + 30 + len(raw) + 4) % 64
        out += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(raw), padding + 4
        )
        out += raw + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + data
        sizes = struct.pack("<3I", zlib.crc32(data), len(data), len(data))
        out += b"PK\7\x08" + sizes
        directory += struct.pack("<4s6H", b"PK\1\2", 0, 0, 0x808, 0, 0, 0) + sizes
        directory += struct.pack("<5H2I", len(raw), 0, 0, 0, 0, 0, start) + raw
    count, offset = len(members), len(out)
    end64 = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 798, 45, 0, 0, count, count, len(directory), offset
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + len(directory), 1)
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), offset, 0
    )
    return bytes(out + directory + end64 + locator + end)


def safetensors(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, which may be wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tar(members: dict[str, bytes], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return what Python's tarfile writes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def npy(text: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a ``.npy`` file with this header text."""
    raw = text.encode("utf-8" if version == (3, 0) else "latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + length + raw + data


def source(data: bytes) -> Source:
    """Return a buffer as a source."""
    return open_source(data)
