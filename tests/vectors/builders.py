"""Files that are easier to describe in Python than as a list of bytes.

A vector names one with `build: NAME`; each docstring says what the bytes are.
"""

from __future__ import annotations

import struct

from tests.vectors.packing import Member, pack_zip

_BINBYTES_CALL = b"\x80\x03ctorch.storage\n_load_from_bytes\nB"


def _checkpoint(data: bytes) -> list[Member]:
    """Return the members of a torch archive with that data.pkl."""
    return [
        Member("archive/data.pkl", content=bytearray(data)),
        Member("archive/byteorder", content=bytearray(b"little")),
        Member("archive/version", content=bytearray(b"3\n")),
    ]


def nested_zips() -> bytes:
    """A zip with one member: a zip with one member: ... ten deep."""
    content = pack_zip(_checkpoint(b"\x80\x02}."), {})
    for _ in range(10):
        content = pack_zip([Member("inner.pt", content=bytearray(content))], {})
    return content


def nested_load_from_bytes() -> bytes:
    """A pickle that calls `_load_from_bytes` on one that does the same, ten deep."""
    content = b"\x80\x02}."
    for _ in range(10):
        content = _BINBYTES_CALL + struct.pack("<I", len(content)) + content + b"\x85R."
    return content


def many_members() -> bytes:
    """A torch archive whose object is {}, with 30,000 empty members beside it."""
    members = _checkpoint(b"\x80\x02}.")
    members += [Member(f"archive/extra/{number}") for number in range(30_000)]
    return pack_zip(members, {})


def many_tensors() -> bytes:
    """A torch archive with a list of 20,000 tensors of one float32 each."""
    pickle = bytearray(b"\x80\x02]")
    members = []
    for number in range(20_000):
        key = str(number).encode()
        pickle += b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        pickle += b"ctorch\nFloatStorage\nX" + struct.pack("<I", len(key)) + key
        pickle += b"X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89"
        pickle += b"ccollections\nOrderedDict\n)RtRa"
        record = bytearray(struct.pack("<f", number))
        members.append(Member(f"archive/data/{number}", content=record))
    return pack_zip([*_checkpoint(bytes(pickle) + b"."), *members], {})


def quadratic_codec() -> bytes:
    """A pickle that encodes 20,000 different letters as punycode."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))).encode()
    operand = b"X" + struct.pack("<I", len(text)) + text
    return b"\x80\x02c_codecs\nencode\n" + operand + b"X\x08\0\0\0punycode\x86R."
