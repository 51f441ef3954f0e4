"""The file around the pools: a `.safetensors` file or a torch archive, and its seal.

A protected file is *holes* and what lies between them, its *frame*. The first hole
holds the seal, each other one the bytes of one stored tensor, pool by pool, the pools
with the widest elements first, so that each tensor is aligned:

    frame | seal | frame | tensor | frame | tensor | ... | tensor | frame

1. The seal is found without reading anything else. In a `.safetensors` file it is the
   first value of the header, in base64, behind fixed bytes. In a torch archive it is
   the first record, behind a fixed header. There are no other places for it.
2. The frame follows from the pools, the length of the seal and, in an archive, the
   CRC-32 of each tensor. It says nothing that everyone could not count.
3. Where the holes lie is sealed. So a reader with the key parses no JSON and no zip.
4. The record of the seal ends in four bytes that make its CRC-32 `_CRC`, whatever the
   seal is: else the seal would depend on the frame and the frame on the seal.
5. Element types that a format lacks are stored as integers of the same size, and those
   of 16 bytes as two. So are all whose bytes are encrypted and could not be any.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from safemodel._formats.protected import SEAL_NAME
from safemodel.errors import LimitExceededError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safemodel._containers.source import Source
    from safemodel._protect.layout import Extent, Pool
    from safemodel.limits import Limits

SAFETENSORS, TORCH = 1, 2
"""What a protected file is; the numbers are sealed."""

ROOT = "archive"

_JSON_START = b'{"__metadata__":{"' + SEAL_NAME.encode() + b'":"'
_JSON_END = b'","format":"pt"}'
_JSON_AT = 8 + len(_JSON_START)
_ALIGNMENT = 8
_MOST_JSON = 100_000_000  # of the library of the format

_LOCAL_SIGNATURE = b"PK\x03\x04"
_LOCAL_BYTES = 30
_RECORD = f"{ROOT}/{SEAL_NAME}".encode()
_ZIP_AT = 64  # a multiple, and the first behind the header and its name
_CRC = 0x5EA1ED00
_FIX_BYTES = 4
_ENCODED = 4 / 3
_SEAL_PIECE = 3 << 18
_TEXT_PIECE = 4 << 18  # of base64: whole groups of characters

_SAFETENSORS_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16",
    "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_SAFETENSORS_INTEGERS = {1: ("U8", 1), 2: ("U16", 2), 4: ("U32", 4), 8: ("U64", 8)}
_TORCH_STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
_TORCH_INTEGERS = {
    1: ("ByteStorage", 1), 2: ("ShortStorage", 2), 4: ("IntStorage", 4),
    8: ("LongStorage", 8),
}  # fmt: skip


class FoundSeal(NamedTuple):
    """A seal as it lies in a file; anybody's words.

    Attributes:
        kind: `SAFETENSORS` or `TORCH`.
        start: First byte of its hole.
        end: One past the last byte of its hole.
        data: The seal, in bytes that are nobody else's.
    """

    kind: int
    start: int
    end: int
    data: memoryview


class Frame(NamedTuple):
    """What a protected file is made of.

    Attributes:
        gaps: What lies before each hole, and behind the last one.
        holes: The length of each hole; the first is that of the seal.
    """

    gaps: tuple[bytes, ...]
    holes: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each hole begins."""
        starts: list[int] = []
        at = 0
        for gap, hole in zip(self.gaps, self.holes, strict=False):
            starts.append(at + len(gap))
            at += len(gap) + hole
        return tuple(starts)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(map(len, self.gaps)) + sum(self.holes)


def find_seal(source: Source, limits: Limits) -> FoundSeal | None:
    """Return the seal of a file; None for a file without one.

    Args:
        source: The file.
        limits: `Limits.max_header_bytes` bounds the seal.

    Raises:
        LimitExceededError: It is longer than allowed.
        VerificationError: It is there, but not as `protect` writes it.
    """
    head = source.read(0, min(source.size, _JSON_AT))
    if head[8:] == _JSON_START:
        return _in_header(source, int.from_bytes(head[:8], "little"), limits)
    if head.startswith(_LOCAL_SIGNATURE) and source.size >= _ZIP_AT:
        head = source.read(0, _ZIP_AT)
        if head[_LOCAL_BYTES : _LOCAL_BYTES + len(_RECORD)] == _RECORD:
            return _in_record(source, int.from_bytes(head[18:22], "little"), limits)
    return None


def _in_header(source: Source, length: int, limits: Limits) -> FoundSeal:
    """Return the seal of a safetensors header."""
    most = int(limits.max_header_bytes * _ENCODED) + len(_JSON_START) + _MOST_FRAME
    length = min(length, source.size - 8)
    _bound(length, most)
    data, at, ended = bytearray(), _JSON_AT, False
    # Piece by piece: the text and what it says are not both in memory.
    while not ended and at < 8 + length:
        piece = source.read(at, min(_TEXT_PIECE, 8 + length - at))
        encoded, quote, _ = piece.partition(b'"')
        ended = bool(quote)
        at += len(encoded)
        decoded = _decoded(encoded)
        whole = len(encoded) // 4 * 3
        if decoded is None or not (ended or len(decoded) == whole):
            break
        data += decoded
    else:
        if ended and data:
            return FoundSeal(SAFETENSORS, _JSON_AT, at, memoryview(data))
    raise VerificationError("the seal was changed: its text is cut or not base64")


def _decoded(encoded: bytes) -> bytes | None:
    """Return what base64 says; None if it is not as it would be written.

    One seal has one text: what a lenient decoder skips would be a place to hide in.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == encoded else None


def _in_record(source: Source, size: int, limits: Limits) -> FoundSeal:
    """Return the seal of a torch archive."""
    _bound(size, limits.max_header_bytes + _MOST_FRAME)
    if not _FIX_BYTES < size <= source.size - _ZIP_AT:
        raise VerificationError("the seal was changed: its record is cut")
    field = bytearray(size)
    source.read_into(_ZIP_AT, memoryview(field))
    if zlib.crc32(field) != _CRC:
        raise VerificationError("the seal was changed: its record has another CRC-32")
    data = memoryview(field)[:-_FIX_BYTES]
    return FoundSeal(TORCH, _ZIP_AT, _ZIP_AT + size, data)


_MOST_FRAME = 1 << 20
"""What the frame adds to the header of a file, at the very most."""


def _bound(requested: int, allowed: int) -> None:
    """Raise if a header is longer than allowed."""
    if requested > allowed:
        raise LimitExceededError(
            "max_header_bytes", allowed=allowed, requested=requested
        )


def seal_field(kind: int, seal: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Yield what stands in the hole of a seal (rule 4), in pieces of at most 1 MiB."""
    view = memoryview(seal)
    for at in range(0, len(view), _SEAL_PIECE):
        piece = view[at : at + _SEAL_PIECE]
        yield base64.b64encode(piece) if kind == SAFETENSORS else piece
    if kind == TORCH:
        yield _bytes_for_crc(zlib.crc32(view), _CRC)


def seal_room(kind: int, size: int) -> int:
    """Return how long the hole of a seal of some bytes is."""
    return 4 * -(-size // 3) if kind == SAFETENSORS else size + _FIX_BYTES


def make_frame(
    kind: int,
    pools: Sequence[Pool],
    *,
    room: int,
    confidential: bool,
    checksums: Sequence[int] | None = None,
) -> Frame:
    """Return the frame of some pools (rule 2).

    Args:
        kind: `SAFETENSORS` or `TORCH`.
        pools: The pools; only their stored order counts.
        room: Length of the hole of the seal.
        confidential: Whether their bytes are encrypted.
        checksums: CRC-32 of each stored tensor; None while they are not known, which
            moves nothing.
    """
    stored = [
        (extent, *_element(kind, pools[number], confidential=confidential))
        for number in in_file_order(pools)
        for extent in pools[number].stored
    ]
    holes = (room, *[extent.length for extent, _, _ in stored])
    if kind == SAFETENSORS:
        return Frame(_safetensors_gaps(stored, room), holes)
    return Frame(_torch_gaps(stored, room, checksums or [0] * len(stored)), holes)


def in_file_order(pools: Sequence[Pool]) -> list[int]:
    """Return the numbers of the pools in the order in which they lie in the file."""
    return sorted(range(len(pools)), key=lambda number: -pools[number].itemsize)


def stored_lengths(pools: Sequence[Pool]) -> tuple[int, ...]:
    """Return the lengths of the stored tensors in the order of the file."""
    return tuple(
        extent.length
        for number in in_file_order(pools)
        for extent in pools[number].stored
    )


def _element(kind: int, pool: Pool, *, confidential: bool) -> tuple[str, int]:
    """Return as what elements of a pool are stored, and its bytes (rule 5)."""
    names = _SAFETENSORS_NAMES if kind == SAFETENSORS else _TORCH_STORAGES
    integers = _SAFETENSORS_INTEGERS if kind == SAFETENSORS else _TORCH_INTEGERS
    opaque = confidential and pool.dtype == "bool"
    if pool.dtype in names and not opaque:
        return names[pool.dtype], pool.itemsize
    return integers.get(pool.itemsize, integers[8 if pool.itemsize % 8 == 0 else 1])


def _safetensors_gaps(
    stored: Sequence[tuple[Extent, str, int]], room: int
) -> tuple[bytes, ...]:
    """Return the gaps of a safetensors file: tensors follow each other."""
    entries: list[tuple[str, str]] = []
    at = 0
    for extent, dtype, size in stored:
        fields = {
            "dtype": dtype,
            "shape": [extent.length // size],
            "data_offsets": [at, at + extent.length],
        }
        at += extent.length
        entries.append((extent.name, json.dumps(fields, separators=(",", ":"))))
    # The names are random, so their order says nothing.
    text = "".join(f',"{name}":{fields}' for name, fields in sorted(entries))
    tail = _JSON_END + text.encode("ascii") + b"}"
    length = len(_JSON_START) + room + len(tail)
    tail += b" " * (-length % _ALIGNMENT)
    length = len(_JSON_START) + room + len(tail)
    if length > _MOST_JSON:
        raise LimitExceededError(
            "max_header_bytes", allowed=_MOST_JSON, requested=length
        )
    first = length.to_bytes(8, "little") + _JSON_START
    return (first, tail, *[b""] * len(stored))


def _torch_gaps(
    stored: Sequence[tuple[Extent, str, int]], room: int, checksums: Sequence[int]
) -> tuple[bytes, ...]:
    """Return the gaps of a torch archive, as `torch.save` lays it out."""
    from safemodel._rewrite.zip_writer import Entry, directory, local_header

    entries: list[Entry] = []
    gaps: list[bytes] = []
    at = 0
    gap = b""

    def add(name: str, size: int, checksum: int, content: bytes | None) -> None:
        nonlocal at, gap
        start = at + len(gap)
        gap += local_header(name, size, start, checksum)
        entries.append(Entry(name, checksum, size, start, at + len(gap)))
        if content is not None:
            gap += content
            return
        gaps.append(gap)
        at += len(gap) + size
        gap = b""

    add(f"{ROOT}/{SEAL_NAME}", room, _CRC, None)
    pickle = _pickle(stored)
    for name, content in (("data.pkl", pickle), ("byteorder", b"little")):
        add(f"{ROOT}/{name}", len(content), zlib.crc32(content), content)
    for number, (extent, _, _) in enumerate(stored):
        add(f"{ROOT}/data/{number}", extent.length, checksums[number], None)
    add(f"{ROOT}/version", 2, zlib.crc32(b"3\n"), b"3\n")
    gaps.append(gap + directory(entries, at + len(gap)))
    return tuple(gaps)


def _pickle(stored: Sequence[tuple[Extent, str, int]]) -> bytes:
    """Return the pickle of a mapping of names to flat tensors, one storage each."""
    out = [b"\x80\x02}("]
    for number, (extent, storage, size) in enumerate(stored):
        count = extent.length // size
        out += [
            _text(extent.name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage"),
            f"ctorch\n{storage}\n".encode("ascii"),
            _text(str(number)),
            _text("cpu"),
            _integer(count),
            b"tQK\x00",
            _integer(count),
            b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join((*out, b"u."))


def _text(text: str) -> bytes:
    """Return the opcode of a text."""
    raw = text.encode("ascii")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    """Return the opcode of an integer that is not negative."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def _bytes_for_crc(crc: int, wanted: int) -> bytes:
    """Return the four bytes after which a CRC-32 is another.

    Source: Stigge et al., "Reversing CRC: theory and practice", 2006.
    """
    table = [zlib.crc32(bytes([byte]), 0xFFFFFFFF) ^ 0xFFFFFFFF for byte in range(256)]
    by_top = {entry >> 24: index for index, entry in enumerate(table)}
    state = wanted ^ 0xFFFFFFFF
    for _ in range(_FIX_BYTES):
        index = by_top[state >> 24]
        state = (state ^ table[index]) << 8 & 0xFFFFFFFF | index
    return (state ^ crc ^ 0xFFFFFFFF).to_bytes(_FIX_BYTES, "little")
