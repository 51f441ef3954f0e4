"""Seeded mutations: of bytes, of opcodes, and of the members of an archive.

`mutant(seeds, seed, index)` is a pure function: a failure is named by two numbers.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.vectors.opcode_table import OPCODES
from tests.vectors.packing import Member, pack_tar, pack_zip

if TYPE_CHECKING:
    from tests.fuzz.corpus import Seed

LARGEST = 60_000
_CODES = bytes(code for code, _ in OPCODES.values())
_NUMBERS = (
    *(0, 1, 2, 7, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF),
    *(0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)

Mutation = Callable[[random.Random, bytes, Sequence["Seed"]], bytes]


def mutant(seeds: Sequence[Seed], seed: int, index: int) -> bytes:
    """Return mutant number `index` of the run `seed`."""
    rand = random.Random(f"{seed}:{index}")  # noqa: S311 - repeatable, not secret
    # Checkpoints are fewer than the vectors, and no less worth breaking.
    generated = rand.random() < 0.5
    parent = rand.choice([part for part in seeds if part.generated >= generated])
    kind = rand.random()
    if parent.members and kind < 0.75:
        pack = _pack_zip if parent.content.startswith(b"PK") else pack_tar
        content = pack(_mutate_members(rand, parent.members, seeds))
    elif parent.opcodes and kind < 0.6:
        content = mutate_opcodes(rand, parent.opcodes, seeds)
    else:
        content = mutate_bytes(rand, parent.content, seeds)
    return content[:LARGEST]


def mutate_bytes(rand: random.Random, content: bytes, seeds: Sequence[Seed]) -> bytes:
    """Apply a few mutations that know nothing of the format."""
    for _ in range(rand.choice((1, 1, 1, 2, 3, 6))):
        content = rand.choice(_BYTE_MUTATIONS)(rand, content, seeds)
    return content


def _flip(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    if not content:
        return b"\0"
    at = rand.randrange(len(content))
    changed = bytearray(content)
    changed[at] ^= 1 << rand.randrange(8)
    return bytes(changed)


def _set(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    at = rand.randrange(len(content) + 1)
    value = rand.choice((0, 1, 0x7F, 0x80, 0xFF, rand.randrange(256)))
    if rand.random() < 0.3:
        value = rand.choice(_CODES)
    return content[:at] + bytes([value]) + content[at + 1 :]


def _truncate(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    return content[: rand.randrange(len(content) + 1)]


def _number(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    """Write a number where a length, size, offset or count may be."""
    layout = rand.choice(("<B", "<H", "<I", "<Q", "<I", ">I", ">Q"))
    size = struct.calcsize(layout)
    number = rand.choice((*_NUMBERS, len(content), rand.randrange(64)))
    at = rand.randrange(len(content) + 1)
    packed = struct.pack(layout, number & ((1 << 8 * size) - 1))
    return content[:at] + packed + content[at + size :]


def _nudge(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    """Add one to a byte, or take one away."""
    if not content:
        return content
    at = rand.randrange(len(content))
    changed = bytearray(content)
    changed[at] = (changed[at] + rand.choice((-1, 1))) & 0xFF
    return bytes(changed)


def _repeat(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    """Write a chunk several times, at its place or elsewhere."""
    start = rand.randrange(len(content) + 1)
    chunk = content[start : start + rand.choice((1, 2, 8, 64, 512))]
    at = rand.choice((start, rand.randrange(len(content) + 1)))
    return content[:at] + chunk * rand.choice((1, 1, 2, 20)) + content[at:]


def _delete(rand: random.Random, content: bytes, _: Sequence[Seed]) -> bytes:
    start = rand.randrange(len(content) + 1)
    return content[:start] + content[start + rand.choice((1, 2, 8, 64)) :]


def _splice(rand: random.Random, content: bytes, seeds: Sequence[Seed]) -> bytes:
    """Go on in another file from some point."""
    other = seeds[rand.randrange(len(seeds))].content
    at = rand.randrange(len(content) + 1)
    start = rand.randrange(len(other) + 1)
    if rand.random() < 0.5:
        return content[:at] + other[start : start + 100] + content[at:]
    return content[:at] + other[start:]


_BYTE_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _set, _set, _truncate, _number, _number, _nudge, _repeat, _delete,
    _splice,
)  # fmt: skip


def mutate_opcodes(
    rand: random.Random, opcodes: list[bytes], seeds: Sequence[Seed]
) -> bytes:
    """Delete, repeat, swap, replace or borrow whole opcodes, or edit an operand."""
    parts = list(opcodes)
    if rand.random() < 0.6:
        return _swap_values(rand, parts, seeds)
    for _ in range(rand.choice((1, 1, 2, 3, 8))):
        at = rand.randrange(len(parts))
        what = rand.randrange(7)
        if what == 0 and len(parts) > 1:
            del parts[at]
        elif what == 1:
            parts[at:at] = parts[at : at + rand.choice((1, 2, 5))] * rand.choice((1, 9))
        elif what == 2:
            other = rand.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif what == 3:
            parts.insert(at, _opcode(rand))
        elif what == 4:
            donor = seeds[rand.randrange(len(seeds))].opcodes or parts
            start = rand.randrange(len(donor))
            parts[at:at] = donor[start : start + rand.choice((1, 3, 12))]
        elif what == 5 and len(parts[at]) > 1:
            operand = mutate_bytes(rand, parts[at][1:], seeds)
            parts[at] = parts[at][:1] + operand
        else:
            parts[at] = rand.choice(parts)
    return b"".join(parts)


# Opcodes that push one value and take none: any may stand in for any other.
_PUSHES = frozenset(b"KMJN\x88\x89\x8aX\x8cGCB]})\x8fhjcUT")
_VALUES = (
    b"N", b"\x88", b"K\x00", b"K\x01", b"K\x02", b"K\x40", b"M\xff\xff",
    b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x05\x00\x00\x00\x00\x01",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"X\x00\x00\x00\x00", b"X\x01\x00\x00\x000", b"X\x03\x00\x00\x00cpu",
    b"C\x00", b"C\x04abcd", b"]", b"}", b")", b"\x8f", b"cevil\nThing\n",
    b"csafemodel.testing\ntrip\n", b"ctorch\nFloatStorage\n", b"ctorch\nint64\n",
    b"ctorch\nQInt8Storage\n", b"ccollections\nOrderedDict\n",
    b"ccollections\nOrderedDict\n)R", b"cbuiltins\nset\n", b"cbuiltins\nlist\n",
    b"cnumpy\ndtype\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    # Whoever hashes or compares these does not come back.
    b")" + b"2\x86" * 60, b"]" + b"2\x86" * 60, b"]" + b"\x85" * 30_000,
)  # fmt: skip


def _swap_values(
    rand: random.Random, parts: list[bytes], seeds: Sequence[Seed]
) -> bytes:
    """Replace values by others, so that the stack still adds up.

    Most mutants of this kind reach the checks of arguments, shapes and keys.
    """
    places = [at for at, part in enumerate(parts) if part and part[0] in _PUSHES]
    if not places:
        return b"".join(parts)
    for _ in range(rand.choice((1, 1, 1, 2, 4))):
        at = rand.choice(places)
        what = rand.random()
        if what < 0.5:
            parts[at] = rand.choice(_VALUES)
        elif what < 0.7:
            parts[at] = parts[rand.choice(places)]
        elif what < 0.85:
            donor = seeds[rand.randrange(len(seeds))].opcodes or parts
            value = rand.choice(donor)
            parts[at] = value if value and value[0] in _PUSHES else parts[at]
        else:
            # One more or less item, or a wrapping tuple, list or call.
            wrapped = rand.choice((b"\x85", b"0N", b"2\x86", b"]0", b")\x81", b")R",
                                   b"}b", b"Q", b"2"))  # fmt: skip
            parts[at] += wrapped
    return b"".join(parts)


def _opcode(rand: random.Random) -> bytes:
    """Return an opcode with a small operand."""
    code, kind = rand.choice(list(OPCODES.values()))
    sizes = {"none": 0, "u1": 1, "u2": 2, "u4": 4, "i4": 4, "u8": 8, "f8": 8}
    if kind in sizes:
        number = rand.choice((0, 1, 2, 3, 5, 255))
        operand = number.to_bytes(max(sizes[kind], 1), "little")[: sizes[kind]]
    elif kind == "line":
        operand = rand.choice((b"0\n", b"1\n", b"'a'\n", b"1.5\n", b"12L\n"))
    elif kind == "pair":
        operand = rand.choice(
            (b"collections\nOrderedDict\n", b"safemodel.testing\ntrip\n",
             b"torch\nFloatStorage\n", b"builtins\nset\n", b"evil\nThing\n")
        )  # fmt: skip
    else:
        width = {"1": 1, "4": 4, "8": 8}[kind.rstrip("s")[-1]]
        text = rand.choice((b"", b"a", b"storage", b"abc"))
        operand = len(text).to_bytes(width, "little") + text
    return bytes([code]) + operand


def _pack_zip(members: list[Member]) -> bytes:
    return pack_zip(members, {})


def _mutate_members(
    rand: random.Random, members: list[tuple[str, bytes]], seeds: Sequence[Seed]
) -> list[Member]:
    """Mutate a member; the archive's CRCs and headers will fit it.

    Such a mutation reaches the pickle machine, where one of the archive's bytes would
    stop at its checksum.
    """
    packed = [Member(name, {}, bytearray(content)) for name, content in members]
    pickles = [member for member in packed if member.name.endswith(".pkl")]
    chosen = rand.choice(pickles if pickles and rand.random() < 0.7 else packed)
    content, opcodes = bytes(chosen.content), None
    if rand.random() < 0.6:
        opcodes = _split_cached(content)
    if content.startswith(b"PK\x03\x04") and rand.random() < 0.7:
        inner = _mutate_members(rand, _members_cached(content), seeds)
        chosen.content = bytearray(pack_zip(inner, {}))
    elif opcodes:
        chosen.content = bytearray(mutate_opcodes(rand, opcodes, seeds))
    else:
        chosen.content = bytearray(mutate_bytes(rand, content, seeds))
    _change_headers(rand, packed)
    return packed


def _change_headers(rand: random.Random, packed: list[Member]) -> None:
    """Leave a member out, name one like another, or let a header lie."""
    what = rand.random()
    if what < 0.05:
        packed.remove(rand.choice(packed))
    elif what < 0.1:
        rand.choice(packed).name = rand.choice(packed).name + rand.choice(("", "x"))
    elif what < 0.2:
        key = rand.choice(("flags", "method", "csize", "usize", "crc", "offset",
                           "local_csize", "descriptor", "external"))  # fmt: skip
        number = rand.choice((0, 1, 8, 0x800, 0xFFFF))
        rand.choice(packed).options[key] = number
    elif what < 0.3:
        rand.choice(packed).options["method"] = 8


_SPLIT: dict[bytes, list[bytes] | None] = {}


def _split_cached(content: bytes) -> list[bytes] | None:
    """Split a member that occurs in every mutant of its parent once only."""
    if content not in _SPLIT:
        from tests.fuzz.corpus import split_opcodes

        if len(_SPLIT) > 4096:
            _SPLIT.clear()
        _SPLIT[content] = split_opcodes(content)
    return _SPLIT[content]


_MEMBERS: dict[bytes, list[tuple[str, bytes]]] = {}


def _members_cached(content: bytes) -> list[tuple[str, bytes]]:
    """Read an archive that occurs in every mutant of its parent once only."""
    if content not in _MEMBERS:
        from tests.fuzz.corpus import as_seed

        _MEMBERS[content] = as_seed("inner", content).members or [("x", content)]
    return _MEMBERS[content]
