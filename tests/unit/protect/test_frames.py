"""The bytes around pools, written down a second time; and what reads them."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zipfile
import zlib
from itertools import pairwise

import pytest
import torch
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safemodel import protect, restore, verify
from safemodel._containers.source import open_source
from safemodel._containers.zip_archive import read_zip
from safemodel._protect import contents as layouts
from safemodel._protect.cipher import PoolCipher
from safemodel._protect.contents import Contents
from safemodel._protect.flow import AHEAD, ahead, behind
from safemodel._protect.frames import (
    SAFETENSORS,
    TORCH,
    find_seal,
    make_frame,
    seal_field,
    seal_room,
)
from safemodel._protect.layout import Extent
from safemodel._protect.public_tags import public_root
from safemodel._protect.seal import open_sealed
from safemodel._protect.spans import Scattered
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    VerificationError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.protect.helpers_protect import FILE_ID, KEY, MIB, SECRET, pool_of
from tests.unit.protect.helpers_protection import (
    flipped,
    safetensors_file,
    safetensors_header,
    stored_spans,
    torch_file,
)

PREFIX = b'{"__metadata__":{"safemodel.seal":"'
CONSTANT = 0x5EA1ED00


def tag_key(file_id: bytes, epoch: int) -> bytes:
    """Return the key of the tags."""
    bound = b"safemodel tags\0" + struct.pack("<Q", epoch)
    return HKDF(SHA256(), 32, file_id, bound).derive(SECRET)


def seal_by_hand(data: bytes) -> tuple[bytes, int, int]:
    """Return the seal of a file, and where its hole begins and ends."""
    if data.startswith(b"PK"):
        (size,) = struct.unpack("<I", data[18:22])
        assert data[30:52] == b"archive/safemodel.seal"
        assert zlib.crc32(data[64 : 64 + size]) == CONSTANT
        assert data[14:18] == struct.pack("<I", CONSTANT)
        return data[64 : 64 + size - 4], 64, 64 + size
    assert data[8 : 8 + len(PREFIX)] == PREFIX
    start = 8 + len(PREFIX)
    end = data.index(b'"', start)
    return base64.b64decode(data[start:end]), start, end


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_file_is_as_described(tmp_path, kind):
    """Seal, sealed places, frame: found here by hand."""
    plain = {"safetensors": safetensors_file, "pt": torch_file}[kind]()
    file = tmp_path / f"p.{kind}"
    protect(plain, file, key=KEY, epoch=6)
    data = file.read_bytes()
    seal, start, end = seal_by_hand(data)
    manifest = open_sealed(seal, KEY)

    (sealed,) = manifest.data
    count = sum(len(pool.stored) for pool in manifest.pools)
    kinds = {"safetensors": 1, "pt": 2}
    size, room, *starts = struct.unpack(f"<{3 + count}Q", sealed[1 : 25 + 8 * count])
    assert (sealed[0], size, room) == (kinds[kind], len(data), end - start)
    assert starts[0] == start
    step = max(1024, 1 << (len(sealed).bit_length() - 5))
    assert len(sealed) % min(step, 1024) == 0
    (length,) = struct.unpack_from("<Q", sealed, 25 + 8 * count)
    body = 33 + 8 * count
    assert sealed[body : body + 8] == b"skeleton"
    assert not any(sealed[body + length :])

    order = sorted(
        range(len(manifest.pools)), key=lambda n: -manifest.pools[n].itemsize
    )
    lengths = [e.length for n in order for e in manifest.pools[n].stored]
    edges, at = [], 0
    for begin, hole in zip(starts, [room, *lengths], strict=True):
        edges.append((at, begin))
        at = begin + hole
    edges.append((at, len(data)))
    head = struct.pack("<Q", len(edges)) + b"".join(
        struct.pack("<2Q", *edge) for edge in edges
    )
    text = b"safemodel frame1" + head + b"".join(data[a:b] for a, b in edges)
    key = tag_key(manifest.file_id, 6)
    assert manifest.frame == blake3(text, key=key).digest()


def test_a_safetensors_header_is_plain(tmp_path):
    """Metadata, then flat tensors by name, aligned, without a gap."""
    file = tmp_path / "p.safetensors"
    protect(safetensors_file(), file, key=KEY)
    header = safetensors_header(file.read_bytes())
    metadata = header.pop("__metadata__")

    assert list(metadata) == ["safemodel.seal", "format"]
    assert metadata["format"] == "pt"
    assert list(header) == sorted(header)
    spans = sorted((entry["data_offsets"], entry["dtype"]) for entry in header.values())
    widths = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2, "BOOL": 1}
    assert [widths[dtype] for _, dtype in spans] == sorted(
        (widths[dtype] for _, dtype in spans), reverse=True
    )
    base = len(file.read_bytes()) - spans[-1][0][1]
    for (begin, _), dtype in spans:
        assert (base + begin) % widths[dtype] == 0


def test_the_crc_of_a_seal_is_always_the_same(rand):
    """Whatever the seal is; the four bytes are the only ones."""
    for _ in range(200):
        seal = rand.randbytes(rand.randrange(1, 99))
        field = b"".join(seal_field(TORCH, seal))
        assert field[:-4] == seal
        assert len(field) == seal_room(TORCH, len(seal))
        assert zlib.crc32(field) == CONSTANT
        assert zlib.crc32(flipped(field, rand.randrange(len(field)))) != CONSTANT
    for size in range(1, 9):
        field = b"".join(seal_field(SAFETENSORS, bytes(size)))
        assert len(field) == seal_room(SAFETENSORS, size)


def safetensors_with(text: bytes, length: int | None = None) -> bytes:
    """Return a file whose header has this text for a seal."""
    header = PREFIX + text + b'","format":"pt"}}'
    size = len(header) if length is None else length
    return struct.pack("<Q", size) + header


def test_a_seal_has_one_text():
    """What lenient decoders skip or ignore is refused."""
    good = safetensors_with(base64.b64encode(b"seal!"))
    found = find_seal(open_source(good), DEFAULT_LIMITS)
    assert found is not None
    assert (found.data, found.kind) == (b"seal!", SAFETENSORS)
    assert good[found.start : found.end] == b"c2VhbCE="
    for bad in (b"c2VhbCF=", b"c2Vh\nbCE=", b"c2VhbCE", b"c2VhbCE==", b"", b"c2Vh_-E=",
                b" c2VhbCE=", b"c2VhbCE=\\n", "c2VhbCE\u00e9".encode()):  # fmt: skip
        with pytest.raises(VerificationError):
            find_seal(open_source(safetensors_with(bad)), DEFAULT_LIMITS)


def test_a_long_seal_has_one_text_too(rand):
    """It is read in pieces; no piece but the last may be padded, or cut."""
    seal = rand.randbytes((3 << 18) * 2 + 100)
    text = b"".join(seal_field(SAFETENSORS, seal))
    assert text == base64.b64encode(seal)
    found = find_seal(open_source(safetensors_with(text)), DEFAULT_LIMITS)
    assert found is not None
    assert found.data == seal
    assert (found.start, found.end) == (8 + len(PREFIX), 8 + len(PREFIX) + len(text))
    edge = 4 << 18
    padded = base64.b64encode(seal[: 3 * edge // 4 - 1])
    assert len(padded) == edge
    for bad in (
        padded + text[edge:],
        text[:edge] + b"=" + text[edge + 1 :],
        text[: edge - 1] + b"\n" + text[edge - 1 :],
        text[:-1],
    ):
        with pytest.raises(VerificationError):
            find_seal(open_source(safetensors_with(bad)), DEFAULT_LIMITS)


def test_a_seal_that_is_cut_is_no_crash():
    """Lengths that lie, in both formats, at every length of the file."""
    good = safetensors_with(base64.b64encode(b"seal!"))
    for length in (0, 5, len(PREFIX), len(PREFIX) + 3, 1 << 40, (1 << 64) - 1):
        changed = struct.pack("<Q", length) + good[8:]
        try:
            found = find_seal(open_source(changed), DEFAULT_LIMITS)
        except (VerificationError, LimitExceededError):
            continue
        assert found is not None
        assert found.data == b"seal!"
    for data in (good, torch_seal(b"seal!")):
        for end in range(len(data)):
            try:
                found = find_seal(open_source(data[:end]), DEFAULT_LIMITS)
            except VerificationError:
                continue
            assert found is None or found.data == b"seal!"


def torch_seal(seal: bytes) -> bytes:
    """Return the beginning of an archive with a seal."""
    frame = make_frame(TORCH, (), room=seal_room(TORCH, len(seal)), confidential=False)
    return b"".join((frame.gaps[0], *seal_field(TORCH, seal), frame.gaps[1]))


def test_a_seal_is_bounded_before_it_is_read():
    """By `Limits.max_header_bytes`; both sides."""
    for data in (
        safetensors_with(base64.b64encode(bytes(3 << 20))),
        torch_seal(bytes(3 << 20)),
    ):
        source = open_source(data)
        assert find_seal(source, Limits(max_header_bytes=3 << 20)) is not None
        with pytest.raises(LimitExceededError):
            find_seal(source, Limits(max_header_bytes=1 << 20))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"PK\x03\x04", bytes(64), safetensors_file(), torch_file()]
)
def test_other_files_have_no_seal(data):
    """Short ones, empty ones, plain ones."""
    assert find_seal(open_source(data), DEFAULT_LIMITS) is None


def test_no_json_and_no_zip_is_parsed(tmp_path, monkeypatch):
    """Neither to verify nor to restore: what nobody parses can attack nobody."""
    plain = {"safetensors": safetensors_file(), "pt": torch_file()}
    for kind, data in plain.items():
        protect(data, tmp_path / f"p.{kind}", key=KEY)

    def never(*_args, **_more):
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", never)
    monkeypatch.setattr("safemodel._containers.zip_archive.read_zip", never)
    monkeypatch.setattr("safemodel._formats.formats.read_zip", never)
    monkeypatch.setattr("safemodel._formats.formats.read_any", never)
    for kind, data in plain.items():
        verify(tmp_path / f"p.{kind}", key=KEY)
        restore(tmp_path / f"p.{kind}", tmp_path / f"r.{kind}", key=KEY)
        assert (tmp_path / f"r.{kind}").read_bytes() == data


def test_an_archive_of_more_than_four_gigabytes_is_well_formed(tmp_path):
    """zip64 where a number needs it: our own strict reader and zipfile agree."""
    sizes = (5 << 30, 100, (4 << 30) - 64, 7)
    names = [(f"t{number}", (size,)) for number, size in enumerate(sizes)]
    pool = pool_of("uint8", 1, names, names)
    frame = make_frame(TORCH, (pool,), room=5000, confidential=False)
    path = tmp_path / "sparse.pt"
    with path.open("wb") as file:
        at = 0
        for gap, hole in zip(frame.gaps, (*frame.holes, 0), strict=True):
            file.seek(at)
            file.write(gap)
            at += len(gap) + hole
    assert path.stat().st_size == frame.size == at

    with open_source(path) as source:
        records = read_zip(source, limits=DEFAULT_LIMITS).records
    assert [records[f"archive/data/{n}"].size for n in range(4)] == list(sizes)
    starts = [records[f"archive/data/{n}"].offset for n in range(4)]
    assert tuple(starts) == frame.starts[1:]
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/0").file_size == 5 << 30
    loaded = torch.load(path, mmap=True, weights_only=True)
    assert [len(loaded[name]) for name, _ in names] == list(sizes)


CONTENTS = Contents(
    kind=TORCH, size=500, starts=(64, 300, 400), room=100, skeleton=b"s" * 50
)


def test_contents_read_back_and_nothing_else_does():
    """Kinds there are not, other bytes than zeros, cut ones; holes that overlap."""
    data = b"".join(CONTENTS.encoded())
    assert layouts.decode(data, 2) == CONTENTS
    layouts.check(CONTENTS, (50, 50))
    for bad in (
        b"\3" + data[1:],
        data[:-1],
        data[:-1] + b"\1",
        data + bytes(1024),
        b"",
    ):
        with pytest.raises(MalformedFileError):
            layouts.decode(bad, 2)
    for lengths in ((101, 50), (50, 101), (1 << 62, 1)):
        with pytest.raises(MalformedFileError):
            layouts.check(CONTENTS, lengths)
    assert "ssss" not in repr(CONTENTS)


def test_lengths_of_contents_are_rounded():
    """By a 32nd at most, and at least to the next 1,024 bytes."""
    lengths = set()
    for size in (*range(0, 3000, 7), *range(1 << 20, (1 << 20) + 70_000, 997)):
        made = Contents(**{**vars(CONTENTS), "skeleton": bytes(size)})
        data = b"".join(made.encoded())
        length = len(data)
        plain = 1 + 8 * 5 + 8 + size
        assert plain <= length < plain + max(1024, plain // 8)
        assert layouts.decode(data, 2) == made
        lengths.add(length)
    assert len(lengths) < 10


def test_a_pool_is_encrypted_as_described(rand):
    """AES-256 in counter mode from zero, whatever parts it is done in."""
    plain = rand.randbytes(3 * MIB + 5)
    info = b"safemodel tensor bytes\0" + struct.pack("<QI", 7, 2)
    key = HKDF(SHA256(), 32, FILE_ID, info).derive(SECRET)
    whole = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    expected = whole.update(plain)

    data = bytearray(plain)
    cipher = PoolCipher(KEY, FILE_ID, 7, 2)
    edges = [0, 5, 16, MIB - 1, MIB, MIB + 33, 3 * MIB + 2, len(data)]
    spans = list(pairwise(edges))
    rand.shuffle(spans)
    for start, end in spans:
        cipher.apply(start, memoryview(data)[start:end])
    assert bytes(data) == expected
    for epoch, number, file_id in ((8, 2, FILE_ID), (7, 3, FILE_ID), (7, 2, bytes(32))):
        other = bytearray(plain[:64])
        PoolCipher(KEY, file_id, epoch, number).apply(0, memoryview(other))
        assert bytes(other) != expected[:64]
    assert key.hex() not in repr(cipher)
    with pytest.raises(TypeError):
        vars(cipher)


def test_a_public_root_is_as_described(rand):
    """One pool of the whole file but the hole; every byte and the hole are bound."""
    size, hole = 2 * MIB + 77, (100, 100 + MIB + 7)
    data = rand.randbytes(size)

    def root(data=data, kind=2, hole=hole, epoch=3):
        def read(at, view):
            view[:] = data[at : at + len(view)]

        return public_root(read, len(data), kind, hole, FILE_ID, epoch)

    inside = data[:100] + rand.randbytes(MIB + 7) + data[hole[1] :]
    assert root(inside) == root()
    assert root(flipped(data, 99)) != root()
    assert root(flipped(data, hole[1])) != root()
    others = {
        root(),
        root(kind=1),
        root(hole=(101, hole[1] + 1)),
        root(epoch=4),
        root(data + b"\0"),
    }
    assert len(others) == 5


def test_pieces_are_found_as_by_hand(rand):
    """Against a pool that is put together byte by byte."""
    for _ in range(50):
        file = rand.randbytes(400)
        places, at, expected = [], 0, b""
        where = 0
        for number in range(rand.randrange(1, 8)):
            where += rand.choice([0, 0, 3])
            length = rand.choice([0, 1, 5, 30])
            places.append((Extent(str(number), (length,), at, length), where))
            expected += file[where : where + length]
            at, where = at + length, where + length
        spans = Scattered.of(*zip(*places, strict=True))

        def read(start, view, file=file):
            view[:] = file[start : start + len(view)]

        for _ in range(20):
            first = rand.randrange(at + 1)
            length = rand.randrange(at - first + 1)
            room = bytearray(length)
            spans.each(read, first, memoryview(room))
            assert room == expected[first : first + length]


def test_chunks_are_loaded_ahead_in_order():
    """Each is whole until the next is asked for, however late that is."""
    ends = [MIB, 2 * MIB, 2 * MIB + 5, 3 * MIB, 4 * MIB, 5 * MIB, 5 * MIB + 1]

    def load(index, view):
        view[:] = bytes([index]) * len(view)

    seen = [(chunk[0], chunk[-1], len(chunk)) for chunk in ahead(load, ends)]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert seen == [(index, index, size) for index, size in enumerate(sizes)]
    assert list(ahead(load, [])) == []


def test_errors_of_threads_come_out_and_end_them():
    """Of what loads, of what uses, of what makes."""
    before = threading.active_count()

    def load(index, view):
        if index == 5:
            raise OSError(5, "gone")

    with pytest.raises(OSError, match="gone"):
        for _ in ahead(load, [MIB * n for n in range(1, 20)]):
            pass
    used = []

    def use(view):
        used.append(len(view))
        if len(used) == 3:
            raise OSError(28, "full")

    chunks = [memoryview(bytearray(10))] * 50
    with pytest.raises(OSError, match="full"):
        behind(iter(chunks), use)
    assert len(used) < 10

    ended = []

    def endless():
        try:
            while True:
                yield chunks[0]
        finally:
            ended.append(True)

    used.clear()
    with pytest.raises(OSError, match="full") as caught:
        behind(endless(), use)
    assert ended == [True], caught  # although the traceback is still there

    def broken():
        yield chunks[0]
        raise KeyError("no more")

    used.clear()
    with pytest.raises(KeyError):
        behind(broken(), used.append)
    assert threading.active_count() == before


def test_what_is_used_behind_is_what_was_made():
    """Although it is made in few places: those that are held, and one more."""
    rooms = [memoryview(bytearray(3)) for _ in range(AHEAD + 1)]
    seen = []

    def made():
        for number in range(40):
            room = rooms[number % len(rooms)]
            room[:] = bytes([number]) * 3
            yield room

    def use(view):
        time.sleep(0.001)  # longer than making one takes
        seen.append(bytes(view))

    behind(made(), use)
    assert seen == [bytes([number]) * 3 for number in range(40)]


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_no_plain_name_and_no_run_of_numbers_is_left(tmp_path, kind):
    """In the protected file there are no 16 bytes of the plain one that say a thing."""
    numbers = torch.arange(100_000, dtype=torch.int32)
    plain = tmp_path / f"a.{kind}"
    torch.save({"secret.name": numbers}, plain) if kind == "pt" else plain.write_bytes(
        safetensors_file({"secret.name": numbers})
    )
    for confidential in (False, True):
        file = tmp_path / f"p.{kind}"
        protect(plain, file, key=KEY, confidential=confidential, overwrite=True)
        data = file.read_bytes()
        assert b"secret" not in data
        order = b"".join(data[a:b] for a, b in stored_spans(data))
        pairs = sum(
            struct.pack("<2i", n, n + 1) in order for n in range(0, 100_000, 997)
        )
        assert pairs <= 2
    assert file.stat().st_size <= plain.stat().st_size * 1.005 + (64 << 10)
