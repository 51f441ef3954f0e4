"""An `.npz` archive: one `.npy` member a tensor.

Element types numpy lacks are written as bits: bfloat16 as uint16, float8 as uint8. The
member ``safemodel.json.npy`` says which, and holds everything that is no tensor.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safemodel._build.checksums import crc32
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel._rewrite.contents import row_major
from safemodel._rewrite.names import DEVICE, Names
from safemodel._rewrite.notes import notes_text
from safemodel._rewrite.zip_writer import Entry, ZipWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._rewrite.contents import Content, Reader
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.output import Output

_DESCR = {
    "bool": "|b1", "uint8": "|u1", "int8": "|i1", "int16": "<i2", "uint16": "<u2",
    "int32": "<i4", "uint32": "<u4", "int64": "<i8", "uint64": "<u8",
    "float16": "<f2", "float32": "<f4", "float64": "<f8",
    "complex64": "<c8", "complex128": "<c16",
    "qint8": "|i1", "quint8": "|u1", "qint32": "<i4",
}  # fmt: skip
_BITS = {1: "|u1", 2: "<u2", 4: "<u4"}
_ODD = re.compile(r"[^A-Za-z0-9_.\-]")
_MOST = 200
_NOTES = "safemodel.json"


def write_npz(out: Output, flat: Flat, read: Reader) -> list[Entry]:
    """Write an archive; return its members.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    writer = ZipWriter(out)
    members = Names("-", [_NOTES], str.lower)
    names: dict[str, str] = {}
    views: dict[str, str] = {}
    for name, leaf in flat.tensors.items():
        member = members.new(_member(name))
        content = row_major(leaf.spec, DTYPE_ITEMSIZE[leaf.dtype], leaf.content)
        descr = _DESCR.get(leaf.dtype)
        if descr is None:
            descr = _BITS[content.itemsize]
            views[name] = leaf.dtype
        if member != name:
            names[name] = member
        header = _header(descr, leaf.spec.shape)
        size = len(header) + content.nbytes
        writer.add(f"{member}.npy", size, _after(header, content, read))
    notes = {"names": names, "same": flat.same, "data": flat.data, "views": views}
    kept = notes_text(notes)
    if kept is not None:
        text = kept.encode("ascii")
        header = _header("|u1", (len(text),))
        writer.add(f"{_NOTES}.npy", len(header) + len(text), [header, text])
    writer.close()
    return writer.entries


def write_npy(out: Output, leaf: TensorLeaf, read: Reader) -> int:
    """Write the file of one array; return its CRC-32.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    content = row_major(leaf.spec, DTYPE_ITEMSIZE[leaf.dtype], leaf.content)
    header = _header(_DESCR[leaf.dtype], leaf.spec.shape)
    out.record(0, len(header) + content.nbytes)
    checksum = 0
    for piece in _after(header, content, read):
        checksum = crc32(piece, checksum)
        out.write(piece)
        out.final()
    return checksum


def _after(header: bytes, content: Content, read: Reader) -> Iterator[memoryview]:
    yield memoryview(header)
    yield from read(content)


def _member(name: str) -> str:
    """Return a file name for a tensor that nobody takes for a path, or for another."""
    plain = _ODD.sub("_", name)[:_MOST].strip(".") or "tensor"
    if DEVICE.fullmatch(plain):
        plain = f"_{plain}"
    # Numpy finds the member of "x" under the names "x" and "x.npy".
    return f"{plain[:-4]}_npy" if plain.lower().endswith(".npy") else plain


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an `.npy` file of version 1.0, or 2.0 if it is long."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}"
    width = 2 if len(text) < 65_000 else 4
    start = 8 + width
    text += " " * (-(start + len(text) + 1) % 64) + "\n"
    version = b"\x01\x00" if width == 2 else b"\x02\x00"
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text.encode()
