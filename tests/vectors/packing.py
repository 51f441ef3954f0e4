"""Zip and tar archives with every field open to lies.

Written from the ZIP application note (local header, central directory, zip64, end
record) and the ustar header layout; no archive module, because those refuse to
write what an attack needs.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

ALIGNMENT = 64


@dataclass
class Member:
    """One archive member and the header fields that are not what they should be.

    `options` overrides single fields; the names are listed in README.md.
    """

    name: str
    options: dict[str, object] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)

    def number(self, key: str, default: int) -> int:
        value = self.options.get(key, default)
        assert isinstance(value, int), f"{key} must be a number"
        return value

    def raw(self, key: str, default: bytes = b"") -> bytes:
        value = self.options.get(key, default)
        if isinstance(value, str):
            return value.encode("latin-1")
        assert isinstance(value, bytes), f"{key} must be text"
        return value


MEMBER_OPTIONS = frozenset(
    """flags method crc csize usize offset external made_by extra local_extra
    local_name local_flags local_method local_crc local_csize local_usize
    descriptor descriptor_csize descriptor_usize descriptor_crc stored align
    type link absent central""".split()
)
ARCHIVE_OPTIONS = frozenset(
    "prefix trailing comment count cd_size cd_offset comment_length gap root".split()
)


def deflate(content: bytes) -> bytes:
    """Return raw DEFLATE data, as method 8 stores it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def pack_zip(members: list[Member], options: dict[str, object]) -> bytes:
    """Return a zip archive of the members, in order."""
    archive = Member("", options)
    out = bytearray(archive.raw("prefix"))
    entries: list[tuple[Member, bytearray]] = []
    offsets: dict[str, int] = {}
    for member in members:
        offsets.setdefault(member.name, len(out))
        entries.append((member, _write_member(out, member, len(out))))
    central = bytearray()
    count = 0
    for member, entry in entries:
        other = member.options.get("offset")
        if isinstance(other, str):
            entry[42:46] = struct.pack("<I", offsets[other])
        if member.number("central", 1):
            central += entry
            count += 1
    out += b"\0" * archive.number("gap", 0)
    start = len(out)
    comment = archive.raw("comment")
    count = archive.number("count", count)
    out += central
    out += struct.pack(
        "<IHHHHIIH",
        0x06054B50,
        0,
        0,
        count & 0xFFFF,
        count & 0xFFFF,
        archive.number("cd_size", len(central)),
        archive.number("cd_offset", start),
        archive.number("comment_length", len(comment)),
    )
    out += comment + archive.raw("trailing")
    return bytes(out)


def _write_member(out: bytearray, member: Member, offset: int) -> bytearray:
    """Append local header and data; return the central directory entry."""
    content = bytes(member.content)
    method = member.number("method", 0)
    stored = deflate(content) if method == 8 else content
    stored = member.raw("stored", stored)
    crc = member.number("crc", zlib.crc32(content))
    csize = member.number("csize", len(stored))
    usize = member.number("usize", len(content))
    descriptor = bool(member.number("descriptor", 0))
    flags = member.number("flags", 8 if descriptor else 0)
    name = member.name.encode("utf-8")
    local_name = member.raw("local_name", name)
    if not member.number("absent", 0):
        extra = member.raw("local_extra")
        if member.number("align", 1) and not extra:
            extra = _padding(offset + 30 + len(local_name))
        out += struct.pack(
            "<IHHHHHIIIHH",
            0x04034B50,
            20,
            member.number("local_flags", flags),
            member.number("local_method", method),
            0,
            0x21,
            member.number("local_crc", 0 if descriptor else crc),
            member.number("local_csize", 0 if descriptor else csize),
            member.number("local_usize", 0 if descriptor else usize),
            len(local_name),
            len(extra),
        )
        out += local_name + extra + stored
        if descriptor:
            out += struct.pack(
                "<IIII",
                0x08074B50,
                member.number("descriptor_crc", crc),
                member.number("descriptor_csize", csize),
                member.number("descriptor_usize", usize),
            )
    extra = member.raw("extra")
    given = member.options.get("offset", offset)
    entry = bytearray(
        struct.pack(
            "<IHHHHHHIIIHHHHHII",
            0x02014B50,
            member.number("made_by", 0),
            20,
            flags,
            method,
            0,
            0x21,
            crc,
            csize,
            usize,
            len(name),
            len(extra),
            0,
            0,
            0,
            member.number("external", 0),
            given if isinstance(given, int) else 0,
        )
    )
    return entry + name + extra


def _padding(position: int) -> bytes:
    """Return the extra field by which torch aligns the data of a record."""
    gap = -(position + 4) % ALIGNMENT
    return b"FB" + struct.pack("<H", gap) + b"Z" * gap


def pack_tar(members: list[Member]) -> bytes:
    """Return a ustar archive; `type` is the type flag, `link` the link name."""
    out = bytearray()
    for member in members:
        content = bytes(member.content)
        size = member.number("usize", len(content))
        header = bytearray(512)
        header[:100] = member.name.encode().ljust(100, b"\0")
        header[100:108] = b"0000644\0"
        header[108:116] = header[116:124] = b"0000000\0"
        header[124:136] = b"%011o\0" % size
        header[136:148] = b"00000000000\0"
        header[156:157] = member.raw("type", b"0")
        header[157:257] = member.raw("link").ljust(100, b"\0")
        header[257:265] = b"ustar\x0000"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % member.number("crc", sum(header))
        out += header + content + b"\0" * (-len(content) % 512)
    return bytes(out) + b"\0" * 1024
