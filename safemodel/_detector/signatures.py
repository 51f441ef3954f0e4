"""What bytes begin with: programs, archives, scripts. Nothing is run or unpacked far.

1. A signature counts as many bits as its check leaves no choice about: that many coins
   would have to fall right by chance.
2. Formats with a short signature (zlib) count only once a piece of them inflates.
"""

from __future__ import annotations

import re
import struct
import zlib
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_BIT = log(2)
_TEXT = 256
_PRINTABLE = frozenset(range(32, 127)) | {9, 10, 13}
_INFLATED = 1 << 16
_CONSUMED = 256
_GROWN = 1.3
_VARIED = 150


class Signature(NamedTuple):
    """What bytes seem to be.

    Attributes:
        kind: Name of the format.
        log_p: Logarithm of the chance that random bytes look like it.
        length: Bytes of the whole, if its head says so; else 0.
    """

    kind: str
    log_p: float
    length: int = 0


def _elf(data: bytes) -> Signature | None:
    if len(data) < 64 or data[4] not in (1, 2) or data[5] not in (1, 2) or data[6] != 1:
        return None
    order = "<" if data[5] == 1 else ">"
    kind, version = struct.unpack_from(f"{order}H", data, 16)[0], data[20:24]
    if kind not in (1, 2, 3, 4) or 1 not in (version[0], version[3]):
        return None
    if data[4] == 2:
        offset = struct.unpack_from(f"{order}Q", data, 40)[0]
        size, count = struct.unpack_from(f"{order}HH", data, 58)
    else:
        offset = struct.unpack_from(f"{order}I", data, 32)[0]
        size, count = struct.unpack_from(f"{order}HH", data, 46)
    length = offset + size * count
    return Signature("ELF", -_BIT * 96, length if 0 < length < 1 << 40 else 0)


def _pe(data: bytes) -> Signature | None:
    if len(data) < 64:
        return None
    at = struct.unpack_from("<I", data, 60)[0]
    if at > len(data) - 4 or data[at : at + 4] != b"PE\0\0":
        return None
    return Signature("PE", -_BIT * 48)


def _mach_o(data: bytes) -> Signature | None:
    order = "<" if data[3] == 0xFE or data[0] in (0xCE, 0xCF) else ">"
    if len(data) < 28:
        return None
    cpu, _, kind, commands = struct.unpack_from(f"{order}IIII", data, 4)
    if cpu & 0x00FFFFFF > 32 or not 1 <= kind <= 16 or not 0 < commands < 1000:
        return None
    return Signature("Mach-O", -_BIT * 90)


def _zip(data: bytes) -> Signature | None:
    if len(data) < 30:
        return None
    version, flags, method = struct.unpack_from("<HHH", data, 4)
    if version > 63 or flags & 0xF780 or method not in (0, 8, 9, 12, 14, 93, 95):
        return None
    return Signature("zip", -_BIT * 56)


def _deflated(kind: str, bits: int) -> Callable[[bytes], Signature | None]:
    def check(data: bytes) -> Signature | None:
        wbits = 31 if kind == "gzip" else 15
        unpacker = zlib.decompressobj(wbits)
        try:
            made = unpacker.decompress(data, _INFLATED)
        except zlib.error:
            return None
        used = len(data) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data)
        if unpacker.eof:
            # The checksum is right by chance once in 2**32.
            return Signature(kind, -_BIT * (bits + 32), used) if made else None
        inner = recognise(made) if not made.startswith(data[:2]) else None
        if inner is not None and inner.kind not in ("zlib", "gzip"):
            return Signature(kind, -_BIT * bits + inner.log_p)
        # What inflates without an error is no proof: of what seems to be DEFLATE, some
        # goes on for long. What comes out of it then is as even as what went in.
        if (
            used < _CONSUMED
            or len(made) < _GROWN * used
            or len(set(made[:_TEXT])) > 150
        ):
            return None
        return Signature(kind, -_BIT * bits)

    return check


def _exact(kind: str, bits: int) -> Callable[[bytes], Signature | None]:
    return lambda _: Signature(kind, -_BIT * bits)


_CHECKS: tuple[tuple[bytes, Callable[[bytes], Signature | None]], ...] = (
    (b"\x7fELF", _elf),
    (b"MZ", _pe),
    (b"\xce\xfa\xed\xfe", _mach_o), (b"\xcf\xfa\xed\xfe", _mach_o),
    (b"\xfe\xed\xfa\xce", _mach_o), (b"\xfe\xed\xfa\xcf", _mach_o),
    (b"PK\x03\x04", _zip),
    (b"\x1f\x8b\x08", _deflated("gzip", 24)),
    (b"x\x01", _deflated("zlib", 16)), (b"x\x5e", _deflated("zlib", 16)),
    (b"x\x9c", _deflated("zlib", 16)), (b"x\xda", _deflated("zlib", 16)),
    (b"\x89PNG\r\n\x1a\n", _exact("PNG", 64)),
    (b"\xfd7zXZ\0", _exact("xz", 48)), (b"7z\xbc\xaf'\x1c", _exact("7z", 48)),
    (b"BZh91AY&SY", _exact("bzip2", 80)), (b"Rar!\x1a\x07", _exact("rar", 48)),
    (b"\0asm\x01\0\0\0", _exact("WebAssembly", 64)),
    (b"dex\n03", _exact("dex", 48)), (b"%PDF-1.", _exact("PDF", 56)),
    (b"#!/bin/", _exact("script", 56)), (b"#!/usr/", _exact("script", 56)),
)  # fmt: skip
STRONG = tuple(magic for magic, _ in _CHECKS if len(magic) >= 4)
"""What is worth looking for anywhere in a stream."""
_ANY = re.compile(b"|".join(map(re.escape, STRONG)))


def recognise(data: bytes) -> Signature | None:
    """Return what bytes begin with; None if nothing known.

    >>> recognise(b"#!/bin/sh" + b" " * 64).kind
    'script'
    """
    for magic, check in _CHECKS:
        if data.startswith(magic):
            return check(data)
    head = data[:_TEXT]
    if len(head) == _TEXT and _PRINTABLE.issuperset(head) and _is_varied(head):
        return Signature("text", -_TEXT * log(256 / len(_PRINTABLE)))
    return None


def _masked(magic: bytes) -> tuple[int, int]:
    """Return the first eight bytes of a signature as a number, and which bits count."""
    head = magic[:8]
    number = int.from_bytes(head.ljust(8, b"\0"), "big")
    return number, int.from_bytes(b"\xff" * len(head) + bytes(8 - len(head)), "big")


_MAGICS, _MASKS = np.array([_masked(magic) for magic, _ in _CHECKS], np.uint64).T
_IS_PRINTABLE = np.array([value in _PRINTABLE for value in range(256)])


def may_begin(heads: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say of streams whether `recognise` may know them.

    Args:
        heads: (n, 8); the first bytes of each.
    """
    numbers = heads.view(">u8").astype(np.uint64)
    known = (numbers & _MASKS == _MAGICS).any(1)
    found: NDArray[np.bool_] = known | _IS_PRINTABLE[heads].all(1)
    return found


def _is_varied(head: bytes) -> bool:
    """Say whether bytes are many different ones, as those of a text are."""
    return len(set(head)) > 16 and max(map(head.count, set(head))) < len(head) // 3


def within(data: bytes) -> Iterator[tuple[int, Signature]]:
    """Yield where in bytes a long signature is, and what it is of."""
    for match in _ANY.finditer(data):
        found = recognise(data[match.start() :])
        if found is not None:
            yield match.start(), found
