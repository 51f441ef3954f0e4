"""What is done to a protected file by someone who has no key.

Each way takes a file and chance, and returns bytes that somebody would read in its
place; or None where it does not apply. `ways` lists them by name, from single bits to
whole files of another time.
"""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from safemodel._containers.source import open_source
from safemodel._protect.frames import find_seal, seal_field
from safemodel.limits import DEFAULT_LIMITS
from tests.fuzz.protected_files import EPOCH, OTHER, Seed

_CHUNK = 1 << 20
_HEADER = 220
_SIGNED = b"safemodel seal signed 1\0"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
FIELDS = {
    "magic": (0, 8), "version": (8, 10), "flags": (10, 12), "key id": (12, 28),
    "file id": (28, 60), "epoch": (60, 68), "expiry": (68, 76),
    "tensor bytes": (76, 84), "sealed bytes": (84, 92), "salt": (92, 124),
    "public root": (124, 156), "signer": (156, 188), "commitment": (188, 220),
}  # fmt: skip

Rand = random.Random
Way = Callable[[Rand, Seed], "bytes | None"]


def _replaced(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _flipped(rand: Rand, content: bytes, start: int, end: int) -> bytes:
    """Return bytes with one bit of a span changed."""
    at = rand.randrange(start, end)
    return _replaced(content, at, bytes([content[at] ^ 1 << rand.randrange(8)]))


# Bits and bytes, wherever they are.


def flip_anywhere(rand: Rand, seed: Seed) -> bytes:
    """Change one bit, or a few."""
    content = seed.content
    for _ in range(rand.choice((1, 1, 1, 2, 8))):
        content = _flipped(rand, content, 0, len(content))
    return content


def flip_in_frame(rand: Rand, seed: Seed) -> bytes:
    """Change one bit that is neither the seal's nor a tensor's."""
    holes = [seed.hole, *seed.spans]
    edges = [0, *[edge for hole in holes for edge in hole], len(seed.content)]
    gaps = [gap for gap in zip(edges[::2], edges[1::2], strict=True) if gap[0] < gap[1]]
    weights = [end - start for start, end in gaps]
    return _flipped(rand, seed.content, *rand.choices(gaps, weights)[0])


def flip_in_seal(rand: Rand, seed: Seed) -> bytes:
    """Change one bit of the seal as it lies in the file, or of its text."""
    return _flipped(rand, seed.content, *seed.hole)


def flip_behind_seal(rand: Rand, seed: Seed) -> bytes | None:
    """Change a bit of what makes the CRC-32 of the seal's record what it is."""
    if seed.kind != "pt":
        return None
    return _flipped(rand, seed.content, seed.hole[1] - 4, seed.hole[1])


def flip_in_tensor(rand: Rand, seed: Seed) -> bytes:
    """Change one bit of a tensor; of the archive's CRC-32 nothing is said."""
    return _flipped(rand, seed.content, *_span(rand, seed))


def overwrite(rand: Rand, seed: Seed) -> bytes:
    """Write zeros, ones, noise or a number somewhere."""
    size = rand.choice((1, 2, 4, 8, 64, 4096))
    at = rand.randrange(len(seed.content))
    new = rand.choice((bytes(size), b"\xff" * size, rand.randbytes(size)))
    return _replaced(seed.content, at, new[: len(seed.content) - at])


def truncate(rand: Rand, seed: Seed) -> bytes:
    """Cut the end off: one byte, a few, any number."""
    size = len(seed.content)
    return seed.content[: rand.choice((size - 1, size - 8, rand.randrange(size)))]


def extend(rand: Rand, seed: Seed) -> bytes:
    """Append bytes: a zero, noise, itself, the plain file."""
    more = (b"\0", rand.randbytes(rand.randrange(1, 99)), seed.content)
    return seed.content + rand.choice((*more, seed.relatives["plain"]))


def prepend(rand: Rand, seed: Seed) -> bytes:
    """Put bytes before the first: noise, or a whole other file."""
    more = (b"\0", b"#!/bin/sh\n", seed.relatives["plain"], seed.relatives["again"])
    return rand.choice(more) + seed.content


def insert(rand: Rand, seed: Seed) -> bytes:
    """Put bytes in the middle; what follows moves."""
    at = rand.randrange(len(seed.content))
    more = rand.randbytes(rand.choice((1, 8, 64)))
    return seed.content[:at] + more + seed.content[at:]


def delete(rand: Rand, seed: Seed) -> bytes:
    """Take bytes from the middle; what follows moves."""
    at = rand.randrange(len(seed.content))
    return seed.content[:at] + seed.content[at + rand.choice((1, 8, 64)) :]


# Tensors: pieces that are all genuine, in another place.


def _span(rand: Rand, seed: Seed) -> tuple[int, int]:
    weights = [end - start for start, end in seed.spans]
    if rand.random() < 0.5:  # the small ones as often as the large ones
        weights = [1] * len(weights)
    return rand.choices(seed.spans, weights)[0]


def _piece(rand: Rand, spans: list[tuple[int, int]], size: int) -> int | None:
    """Return where a piece of some bytes begins in one of some spans."""
    fitting = [(start, end) for start, end in spans if end - start >= size]
    if not fitting:
        return None
    start, end = rand.choice(fitting)
    return start + 8 * rand.randrange((end - start - size) // 8 + 1)


def _swapped(content: bytes, one: int, two: int, size: int) -> bytes | None:
    if abs(one - two) < size:
        return None
    first, second = content[one : one + size], content[two : two + size]
    return _replaced(_replaced(content, one, second), two, first)


def swap_in_pool(rand: Rand, seed: Seed) -> bytes | None:
    """Let two pieces of one pool change place."""
    pool = rand.choice(seed.pools)
    mine = [
        s for s, number in zip(seed.spans, seed.pools, strict=True) if number == pool
    ]
    size = rand.choice((1, 4, 8, 1024, _CHUNK))
    one, two = _piece(rand, mine, size), _piece(rand, mine, size)
    if one is None or two is None:
        return None
    return _swapped(seed.content, one, two, size)


def swap_between_pools(rand: Rand, seed: Seed) -> bytes | None:
    """Let pieces of two pools change place."""
    if len(set(seed.pools)) < 2:
        return None
    pools = rand.sample(sorted(set(seed.pools)), 2)
    size = rand.choice((1, 2, 4, 8))
    places = [
        _piece(
            rand,
            [s for s, n in zip(seed.spans, seed.pools, strict=True) if n == pool],
            size,
        )
        for pool in pools
    ]
    if places[0] is None or places[1] is None:
        return None
    return _swapped(seed.content, places[0], places[1], size)


def swap_chunks(rand: Rand, seed: Seed) -> bytes | None:
    """Let two whole chunks of a pool change place, as its leaves count them."""
    pool = max(set(seed.pools), key=seed.pools.count)
    mine = [
        s for s, number in zip(seed.spans, seed.pools, strict=True) if number == pool
    ]
    stored = b"".join(seed.content[start:end] for start, end in mine)
    if len(stored) < 2 * _CHUNK:
        return None
    changed = _swapped(stored, 0, _CHUNK, _CHUNK)
    assert changed is not None
    content = seed.content
    for start, end in mine:
        content = _replaced(content, start, changed[: end - start])
        changed = changed[end - start :]
    return content


def repeat_piece(rand: Rand, seed: Seed) -> bytes | None:
    """Write one piece of the tensors over another."""
    size = rand.choice((8, 1024, _CHUNK))
    one, two = _piece(rand, seed.spans, size), _piece(rand, seed.spans, size)
    if one is None or two is None:
        return None
    return _replaced(seed.content, two, seed.content[one : one + size])


def piece_of_relative(rand: Rand, seed: Seed) -> bytes | None:
    """Take a piece of a relative, from the same place or another."""
    other = seed.relatives[rand.choice(sorted(seed.relatives))]
    size = rand.choice((8, 64, 1024, _CHUNK))
    at = _piece(rand, seed.spans, size)
    if at is None or len(other) < size:
        return None
    start = rand.choice((at, rand.randrange(len(other) - size + 1)))
    return _replaced(seed.content, at, other[start : start + size][:size])


def zero_tensor(rand: Rand, seed: Seed) -> bytes:
    """Write zeros over a whole stored tensor."""
    start, end = _span(rand, seed)
    return _replaced(seed.content, start, bytes(end - start))


# The seal: its fields, and seals of other files.


def _with_seal(seed: Seed, seal: bytes, *, fit: bool = True) -> bytes:
    """Return the file with another seal, and the length before it made to fit."""
    text = b"".join(seal_field(seed.made, seal))
    start, end = seed.hole
    head = seed.content[:start]
    if fit and len(text) != end - start:
        more = len(text) - (end - start)
        if seed.kind == "safetensors":
            (length,) = struct.unpack("<Q", head[:8])
            head = struct.pack("<Q", max(length + more, 0)) + head[8:]
        else:
            head = _replaced(head, 18, struct.pack("<II", len(text), len(text)))
    return head + text + seed.content[end:]


def field_changed(rand: Rand, seed: Seed, name: str, new: bytes | None = None) -> bytes:
    """Return the file with another field in the header of its seal."""
    start, end = FIELDS[name]
    if new is None:
        changed = _flipped(rand, seed.seal, start, end)
    else:
        changed = _replaced(seed.seal, start, new[: end - start])
    return _with_seal(seed, changed)


def seal_field_changed(rand: Rand, seed: Seed) -> bytes:
    """Change a field of the seal's header, with all that is around it made to fit."""
    name = rand.choice(sorted(FIELDS))
    start, end = FIELDS[name]
    size = end - start
    new = rand.choice((None, bytes(size), b"\xff" * size, rand.randbytes(size)))
    return field_changed(rand, seed, name, new)


def version_lowered(rand: Rand, seed: Seed) -> bytes:
    """Say that the seal is of an older version, or of none."""
    return field_changed(rand, seed, "version", b"\0\0")


def version_raised(rand: Rand, seed: Seed) -> bytes:
    """Say that the seal is of a later version."""
    return field_changed(
        rand, seed, "version", struct.pack("<H", rand.randrange(2, 1 << 16))
    )


def mode_changed(rand: Rand, seed: Seed) -> bytes:
    """Say that the tensors are encrypted where they are not, or the other way."""
    del rand
    return _with_seal(seed, _replaced(seed.seal, 10, bytes([seed.seal[10] ^ 1])))


def epoch_raised(rand: Rand, seed: Seed) -> bytes:
    """Say that an old file is a newer one."""
    return field_changed(
        rand, seed, "epoch", struct.pack("<Q", EPOCH + rand.randrange(1, 9))
    )


def expiry_moved(rand: Rand, seed: Seed) -> bytes:
    """Say that it expires later, or now."""
    return field_changed(
        rand, seed, "expiry", struct.pack("<Q", rand.choice((1, 2**62)))
    )


def key_id_changed(rand: Rand, seed: Seed) -> bytes:
    """Say that it is of another key."""
    new = rand.choice((bytes.fromhex(OTHER.id), rand.randbytes(16)))
    return field_changed(rand, seed, "key id", new)


def sealed_text_changed(rand: Rand, seed: Seed) -> bytes:
    """Change a bit of what is encrypted, or of its tag."""
    return _with_seal(seed, _flipped(rand, seed.seal, _HEADER, len(seed.seal)))


def seal_longer_or_shorter(rand: Rand, seed: Seed) -> bytes:
    """Append to the seal or cut it, with the length that it gives or without."""
    if rand.random() < 0.5:
        seal = seed.seal[: rand.randrange(len(seed.seal))]
    else:
        seal = seed.seal + rand.randbytes(rand.randrange(1, 99))
    if rand.random() < 0.5 and len(seal) > _HEADER:
        seal = _replaced(seal, 84, struct.pack("<Q", len(seal) - _HEADER))
    return _with_seal(seed, seal, fit=rand.random() < 0.8)


def seal_lengths_huge(rand: Rand, seed: Seed) -> bytes:
    """Let a length in the seal ask for as much as there is, or more."""
    number = rand.choice((1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1))
    name = rand.choice(("sealed bytes", "tensor bytes"))
    return field_changed(rand, seed, name, struct.pack("<Q", number))


def seal_of_relative(rand: Rand, seed: Seed) -> bytes | None:
    """Put in the seal of a relative: another file, epoch, key or mode."""
    other = seed.relatives[rand.choice(sorted(seed.relatives))]
    found = find_seal(open_source(other), DEFAULT_LIMITS)
    return None if found is None else _with_seal(seed, bytes(found.data))


def tensors_of_relative(rand: Rand, seed: Seed) -> bytes | None:
    """Keep frame and seal, and take all that follows the seal from a relative."""
    other = seed.relatives[rand.choice(sorted(seed.relatives))]
    found = find_seal(open_source(other), DEFAULT_LIMITS)
    if found is None:
        return None
    return seed.content[: seed.hole[1]] + other[found.end :]


def seal_taken_away(rand: Rand, seed: Seed) -> bytes:
    """Rename the seal, or the record of it, so that the file is one like any other."""
    name = b"safemodel.seal"
    at = seed.content.index(name)
    content = seed.content.replace(name, b"safemodel.sea1", rand.choice((1, -1)))
    return content if rand.random() < 0.5 else _replaced(seed.content, at, b"S")


def signature_taken_away(rand: Rand, seed: Seed) -> bytes | None:
    """Take the signature from the seal, and what the header says of it."""
    del rand
    if not seed.signed:
        return None
    seal = _replaced(seed.seal, 10, bytes([seed.seal[10] & ~2]))
    return _with_seal(seed, _replaced(seal, 124, bytes(64))[:-64])


def signed_by_another(rand: Rand, seed: Seed) -> bytes:
    """Sign it with a key of one's own, whether it was signed or not."""
    mine = Ed25519PrivateKey.from_private_bytes(rand.randbytes(32))
    seal = seed.seal[:-64] if seed.signed else seed.seal
    root = seal[124:156] if seed.signed else rand.randbytes(32)
    seal = _replaced(seal, 10, bytes([seal[10] | 2]))
    seal = _replaced(seal, 124, root + mine.public_key().public_bytes_raw())
    return _with_seal(seed, seal + mine.sign(_SIGNED + seal))


def signature_changed(rand: Rand, seed: Seed) -> bytes | None:
    """Change a bit of the signature."""
    if not seed.signed:
        return None
    size = len(seed.seal)
    return _with_seal(seed, _flipped(rand, seed.seal, size - 64, size))


# Replays: whole files that were genuine once, or elsewhere.


def replay(rand: Rand, seed: Seed) -> bytes:
    """Give an older epoch of the file, or one that has expired."""
    return seed.relatives[rand.choice(("oldest", "older", "expired"))]


def signer_gone(rand: Rand, seed: Seed) -> bytes | None:
    """Give the file as a holder of the key made it without the signature."""
    del rand
    return seed.relatives["unsigned"] if seed.signed else None


def file_of_another_key(rand: Rand, seed: Seed) -> bytes:
    """Give the same content under another key."""
    return seed.relatives[rand.choice(("rekeyed", "other key"))]


def plain_file(rand: Rand, seed: Seed) -> bytes:
    """Give a file that is not protected at all."""
    del rand
    return seed.relatives["plain"]


# The header of a safetensors file.


def _header(seed: Seed) -> tuple[dict[str, object], int]:
    (length,) = struct.unpack("<Q", seed.content[:8])
    return json.loads(seed.content[8 : 8 + length]), 8 + length


def _with_header(seed: Seed, text: bytes, end: int) -> bytes:
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + seed.content[end:]


def header_spaces(rand: Rand, seed: Seed) -> bytes | None:
    """Write the same header with more spaces, or other characters as escapes."""
    if seed.kind != "safetensors":
        return None
    _, end = _header(seed)
    text = seed.content[8:end]
    at = rand.choice([i for i, byte in enumerate(text) if byte in b'{,:"}'])
    before = text[:at].count(b'"') % 2 == 0 and text[at : at + 1] != b'"'
    change = rand.randrange(4) if before else 3
    if change == 0:
        text = text[:at] + rand.choice((b" ", b"\n", b"\t" * 8)) + text[at:]
    elif change == 1:
        text += b" " * 8 * rand.randrange(1, 9)
    elif change == 2:
        text = text.rstrip(b" ") + b"\n" * (-len(text.rstrip(b" ")) % 8 or 8)
    else:
        text = text.replace(b'"__metadata__"', b'"__metadat\\u0061__"', 1)
    return _with_header(seed, text, end)


def header_order(rand: Rand, seed: Seed) -> bytes | None:
    """Write the same header with its tensors, or metadata, in another order."""
    if seed.kind != "safetensors":
        return None
    header, end = _header(seed)
    items = list(header.items())
    rest = items[1:]
    rand.shuffle(rest)
    if rand.random() < 0.2:
        items = [*rest, items[0]]
    elif rand.random() < 0.2:
        metadata = dict(reversed(list(items[0][1].items())))
        items = [("__metadata__", metadata), *rest]
    else:
        items = [items[0], *rest]
    return _with_header(seed, _compact(dict(items)), end)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def header_duplicate(rand: Rand, seed: Seed) -> bytes | None:
    """Give a key twice: a tensor's, or that of the metadata."""
    if seed.kind != "safetensors":
        return None
    header, end = _header(seed)
    name = rand.choice(list(header))
    more = _compact({name: header[name]})
    text = seed.content[8:end].rstrip(b" ")[:-1] + b"," + more[1:]
    return _with_header(seed, text, end)


def header_value(rand: Rand, seed: Seed) -> bytes | None:
    """Change a name, dtype, shape or offset, the length of the header as it was."""
    if seed.kind != "safetensors":
        return None
    _, end = _header(seed)
    text = seed.content[8:end]
    tail = text[seed.hole[1] - 8 :]
    old, new = rand.choice((
        (b'"F32"', b'"I32"'), (b'"I64"', b'"F64"'), (b'"U64"', b'"I64"'),
        (b'"BF16"', b'"I16" '), (b'"BOOL"', b'"U8"  '), (b'"U32"', b'"F32"'),
        (b"[40]", b"[39]"), (b'"shape":[1', b'"shape":[2'), (b"offsets", b"offsetz"),
        (b'"shape":[', b'"shape" :[' [:9]), (b"[0,", b"[8,"), (b'"pt"', b'"tf"'),
        (b'":{"dtype', b'0:{"dtype'),
    ))  # fmt: skip
    if old not in tail or len(old) != len(new):
        return None
    tail = tail.replace(old, new, 1)
    return seed.content[: seed.hole[1]] + tail + seed.content[end:]


def header_length(rand: Rand, seed: Seed) -> bytes | None:
    """Let the header say that it is longer or shorter, or as long as anything."""
    if seed.kind != "safetensors":
        return None
    (length,) = struct.unpack("<Q", seed.content[:8])
    new = rand.choice((0, 1, length + 8, length - 8, 1 << 31, (1 << 64) - 1, 1 << 63))
    return struct.pack("<Q", new) + seed.content[8:]


def text_of_seal(rand: Rand, seed: Seed) -> bytes | None:
    """Write the same seal as another base64 text: what lenient decoders accept."""
    if seed.kind != "safetensors":
        return None
    start, end = seed.hole
    text = seed.content[start:end]
    last = len(text.rstrip(b"=")) - 1
    if last + 1 < len(text) and rand.random() < 0.7:
        # Bits that stand for nothing.
        new = _ALPHABET[_ALPHABET.index(text[last]) ^ 1]
        return _replaced(seed.content, start + last, bytes([new]))
    change = rand.choice((b"\\n", b"=", b" ", b"-", b"\\u0041"))
    at = rand.randrange(len(text) + 1)
    return seed.content[: start + at] + change + seed.content[start + at :]


# The records of an archive.


def _records(content: bytes) -> list[tuple[int, int, int, zipfile.ZipInfo]]:
    """Return of each record its header, bytes, directory entry, and what it says."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        at = archive.start_dir
        found = []
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
            found.append(
                (info.header_offset, info.header_offset + 30 + name + extra, at, info)
            )
            sizes = struct.unpack_from("<HHH", content, at + 28)
            at += 46 + sum(sizes)
    return found


def zip_checksum(rand: Rand, seed: Seed) -> bytes | None:
    """Change the CRC-32 of a record: in its header, in the directory, in both."""
    if seed.kind != "pt":
        return None
    header, _, entry, info = rand.choice(_records(seed.content))
    new = struct.pack("<I", info.CRC ^ (1 << rand.randrange(32)))
    content, where = seed.content, rand.randrange(3)
    if where != 0:
        content = _replaced(content, header + 14, new)
    return content if where == 1 else _replaced(content, entry + 16, new)


def zip_tensor(rand: Rand, seed: Seed) -> bytes | None:
    """Change a tensor, and both of its CRC-32 with it: stock readers see nothing."""
    if seed.kind != "pt":
        return None
    content = flip_in_tensor(rand, seed)
    return _sealed_by_crc(content)


def _sealed_by_crc(content: bytes) -> bytes:
    for header, data, entry, info in _records(content):
        new = struct.pack("<I", zlib.crc32(content[data : data + info.file_size]))
        content = _replaced(_replaced(content, header + 14, new), entry + 16, new)
    return content


def zip_pickle(rand: Rand, seed: Seed) -> bytes | None:
    """Change a name, dtype or shape in the pickle, and its CRC-32 with it."""
    if seed.kind != "pt":
        return None
    data, info = next(
        (data, info)
        for _, data, _, info in _records(seed.content)
        if info.filename.endswith("data.pkl")
    )
    pickle = seed.content[data : data + info.file_size]
    old, new = rand.choice((
        (b"FloatStorage", b"IntStorage\n2"), (b"LongStorage", b"DoubleStora"),
        (b"K\x00", b"K\x01"), (b"K\x01\x85\x89", b"K\x02\x85\x89"), (b"\x89", b"\x88"),
        (b"cpu", b"cpv"), (b"torch._utils", b"torch._utilz"), (b"X\x10", b"X\x0f"),
        (b"collections\nOrderedDict", b"collections\nOrderedDicu"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\nX\x0d\0\0\0true ####"),
    ))  # fmt: skip
    new = new[: len(old)].ljust(len(old), b" ")
    if old not in pickle:
        return None
    return _sealed_by_crc(_replaced(seed.content, data + pickle.index(old), new))


def zip_second_record(rand: Rand, seed: Seed) -> bytes | None:
    """Append a record, of a name that is there or of a new one, as other tools do."""
    if seed.kind != "pt":
        return None
    names = ("data.pkl", "data/0", "safemodel.seal", "byteorder", "version", "code.py")
    file = io.BytesIO(seed.content)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")  # of the name that is there twice
        archive.comment = b"" if rand.random() < 0.8 else b"see " + rand.randbytes(9)
        archive.writestr(f"archive/{rand.choice(names)}", rand.randbytes(20))
    return file.getvalue()


def zip_comment(rand: Rand, seed: Seed) -> bytes | None:
    """Give the archive a comment; one is a second end of directory."""
    if seed.kind != "pt":
        return None
    end = seed.content[-22:]
    comment = rand.choice((b"x", end, b"y" * 1000))
    return seed.content[:-2] + struct.pack("<H", len(comment)) + comment


def zip_second_archive(rand: Rand, seed: Seed) -> bytes | None:
    """Append a whole archive, which most readers then see instead."""
    if seed.kind != "pt":
        return None
    name = rand.choice(("plain", "older", "again", "other key"))
    return seed.content + seed.relatives[name]


def zip_directory(rand: Rand, seed: Seed) -> bytes | None:
    """Let entries of the directory change place, or point at each other's records."""
    if seed.kind != "pt":
        return None
    records = _records(seed.content)
    one, two = rand.sample(records, 2)
    content = seed.content
    if rand.random() < 0.5:
        for at, field in ((42, 4), (20, 4), (24, 4)):
            first, second = (content[r[2] + at : r[2] + at + field] for r in (one, two))
            content = _replaced(content, one[2] + at, second)
            content = _replaced(content, two[2] + at, first)
        return content
    entries = [
        content[a[2] : b]
        for a, b in zip(
            records, [*[r[2] for r in records[1:]], len(content) - 22], strict=True
        )
    ]
    rand.shuffle(entries)
    return content[: records[0][2]] + b"".join(entries) + content[-22:]


def zip_anew(rand: Rand, seed: Seed) -> bytes | None:
    """Write the same records anew, as another tool would: deflated, reordered."""
    if seed.kind != "pt":
        return None
    method = rand.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(seed.content)) as old,
        zipfile.ZipFile(file, "w", method) as new,
    ):
        infos = old.infolist()
        if rand.random() < 0.5:
            rand.shuffle(infos)
        for info in infos:
            new.writestr(info.filename, old.read(info))
    return file.getvalue()


def zip_flags(rand: Rand, seed: Seed) -> bytes | None:
    """Change a flag, method, time, version or attribute of a record."""
    if seed.kind != "pt":
        return None
    header, _, entry, _ = rand.choice(_records(seed.content))
    where = rand.choice(
        [header + at for at in (4, 6, 8, 10, 12, 28)]
        + [entry + at for at in (4, 6, 8, 10, 12, 14, 30, 32, 34, 36, 38)]
    )
    return _flipped(rand, seed.content, where, where + 2)


WAYS: tuple[Way, ...] = (
    flip_anywhere, flip_in_frame, flip_in_seal, flip_behind_seal, flip_in_tensor,
    overwrite, truncate, extend, prepend, insert, delete,
    swap_in_pool, swap_between_pools, swap_chunks, repeat_piece, piece_of_relative,
    zero_tensor,
    seal_field_changed, version_lowered, version_raised, mode_changed, epoch_raised,
    expiry_moved, key_id_changed, sealed_text_changed, seal_longer_or_shorter,
    seal_lengths_huge, seal_of_relative, tensors_of_relative, seal_taken_away,
    signature_taken_away, signed_by_another, signature_changed,
    replay, signer_gone, file_of_another_key, plain_file,
    header_spaces, header_order, header_duplicate, header_value, header_length,
    text_of_seal,
    zip_checksum, zip_tensor, zip_pickle, zip_second_record, zip_comment,
    zip_second_archive, zip_directory, zip_anew, zip_flags,
)  # fmt: skip
"""All ways there are."""


class Tampered(NamedTuple):
    """A file in the place of a protected one.

    Attributes:
        way: What was done, as the name of a function here.
        seed: To which file.
        content: What somebody would read.
        by_state: Whether the reader remembers epochs in a file, not in a number.
    """

    way: str
    seed: Seed
    content: bytes
    by_state: bool


def tampered(
    seeds: list[Seed], number: int, index: int, ways: tuple[Way, ...] = WAYS
) -> Tampered:
    """Return mutant ``index`` of run ``number``: never a file that was not changed."""
    rand = random.Random(f"{number}:{index}")  # noqa: S311 - repeatable, not secret
    small = [seed for seed in seeds if len(seed.content) < _CHUNK] or seeds
    while True:
        seed = rand.choice(small if rand.random() < 0.8 else seeds)
        way = rand.choice(ways)
        content = way(rand, seed)
        if content is None or content == seed.content:
            continue
        if rand.random() < 0.1:  # and a bit more, on top
            content = flip_anywhere(rand, replace_content(seed, content))
        if content != seed.content:
            return Tampered(way.__name__, seed, content, rand.random() < 0.5)


def replace_content(seed: Seed, content: bytes) -> Seed:
    """Return a seed that is another file, for ways that know nothing of its parts."""
    return Seed(seed.name, seed.kind, content or b"\0", (0, 0), [], [], b"")
