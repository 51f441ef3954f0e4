"""A safetensors file: a JSON header, then the tensors' bytes without any gap.

Element types the format lacks are written as numbers it has, and the header says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._build.checksums import crc32
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel._rewrite.contents import row_major
from safemodel._rewrite.names import Names, encodable
from safemodel._rewrite.notes import notes_text
from safemodel.errors import UnsupportedFormatError

if TYPE_CHECKING:
    from safemodel._rewrite.contents import Content, Reader
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.output import Output

NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16",
    "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
    "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""The format's name of each element type it has."""
_AS_NUMBERS = {
    "complex128": ("F64", (2,)), "complex32": ("F16", (2,)),
    "qint8": ("I8", ()), "quint8": ("U8", ()), "qint32": ("I32", ()),
}  # fmt: skip
_ALIGNMENT = 8
_METADATA = "__metadata__"
_MOST_HEADER = 100_000_000  # of the library of the format


class Part(NamedTuple):
    """One tensor of the file: entry in the header, bytes, what it is made of."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content
    leaf: TensorLeaf


def parts_of(flat: Flat) -> tuple[list[Part], dict[str, str], dict[str, str]]:
    """Return what is written in order, what was written as what, and other names.

    The widest elements come first, so that each tensor is aligned.
    """
    parts: list[Part] = []
    views: dict[str, str] = {}
    names: dict[str, str] = {}
    given = Names("~", [_METADATA])
    for name, leaf in flat.tensors.items():
        written = given.new(encodable(name))
        if written != name:
            names[name] = written
        part = _part(written, leaf)
        if leaf.dtype not in NAMES:
            views[name] = leaf.dtype
        parts.append(part)
    parts.sort(key=lambda part: -part.content.itemsize)
    return parts, views, names


def _part(name: str, leaf: TensorLeaf) -> Part:
    content = row_major(leaf.spec, DTYPE_ITEMSIZE[leaf.dtype], leaf.content)
    shape = leaf.spec.shape
    dtype = NAMES.get(leaf.dtype)
    if dtype is None:
        dtype, more = _AS_NUMBERS.get(leaf.dtype, ("U8", (content.itemsize,)))
        shape = (*shape, *more)
    return Part(name, dtype, shape, content, leaf)


class Written(NamedTuple):
    """What a file was written to hold.

    Attributes:
        parts: Its tensors, in the order of the file.
        checksums: CRC-32 of the bytes of each of them.
        metadata: Its metadata.
        start: Where the bytes of the first one start.
    """

    parts: list[Part]
    checksums: list[int]
    metadata: dict[str, str]
    start: int


def write_safetensors(out: Output, flat: Flat, read: Reader) -> Written:
    """Write a file; return what it holds.

    Raises:
        UnsupportedFormatError: The names and notes are longer than the format allows.
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    parts, views, names = parts_of(flat)
    notes = {"names": names, "same": flat.same, "data": flat.data, "views": views}
    kept = notes_text(notes)
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    if kept is not None:
        header[_METADATA]["safemodel"] = kept
    at = 0
    for part in parts:
        end = at + part.content.nbytes
        header[part.name] = {
            "dtype": part.dtype, "shape": list(part.shape), "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MOST_HEADER:
        raise UnsupportedFormatError(
            f"the header of a .safetensors file would take {len(text):,} bytes, and its"
            f" readers take {_MOST_HEADER:,}; write .pt instead"
        )
    out.write(len(text).to_bytes(8, "little") + text)
    start = out.at
    checksums = []
    for part in parts:
        out.record(out.at, out.at + part.content.nbytes)
        checksum = 0
        for piece in read(part.content):
            checksum = crc32(piece, checksum)
            out.write(piece)
        out.final()
        checksums.append(checksum)
    return Written(parts, checksums, header["__metadata__"], start)
