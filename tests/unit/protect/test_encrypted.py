"""Encrypted pools: one pass, the key's order of whole chunks, no byte plain on a disk.

What is stored is opened here by hand, from the descriptions and not from the code.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise

import pytest
import torch
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from safetensors.torch import save

from safemodel import (
    SafeModelError,
    VerificationError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._containers.source import open_source
from safemodel._protect import rotating, scratch
from safemodel._protect.encrypted import EncryptedPool
from safemodel._protect.frames import find_seal
from safemodel._protect.layout import PLAIN, leaf_ends
from safemodel._protect.seal import open_sealed
from safemodel._protect.tags import Tagger
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.protect.helpers_protect import (
    FILE_ID,
    KEY,
    MIB,
    OTHER,
    SECRET,
    pool_of,
)
from tests.unit.protect.helpers_protection import opened, stored_spans, torch_file

FILES = {
    "safetensors": lambda: save(
        {
            "big": torch.arange(700_000.0),
            "small": torch.arange(7.0),
            "a": torch.arange(3),
            "flag": torch.tensor([True, False, True]),
            "empty": torch.zeros(0, 3),
        }
    ),
    "pt": lambda: torch_file({"big": torch.arange(700_000.0)}),
}


def derived(label: str, info: bytes, file_id: bytes) -> bytes:
    """Return 32 bytes of HKDF under the protection key."""
    bound = b"safemodel " + label.encode() + b"\0" + info
    return HKDF(SHA256(), 32, file_id, bound).derive(SECRET)


def counted(text: str) -> bytes:
    """Return a text after its length."""
    return struct.pack("<Q", len(text)) + text.encode()


def plain_pools(data: bytes) -> list[bytes]:
    """Return each pool of a file in plain order, opened by hand, its tags compared."""
    found = find_seal(open_source(data), DEFAULT_LIMITS)
    assert found is not None
    of = open_sealed(found.data, KEY)
    epoch = struct.pack("<Q", of.epoch)
    spans = iter(stored_spans(data))
    in_file = sorted(range(len(of.pools)), key=lambda n: -of.pools[n].itemsize)
    stored = {
        number: b"".join(
            data[slice(*next(spans))] for _ in range(len(of.pools[number].stored))
        )
        for number in in_file
    }
    made = []
    for number, pool in enumerate(of.pools):
        name = f"{number} {pool.dtype}"
        info = epoch + counted(name) + counted("chunks")
        zeros = bytes(16 * len(of.leaves[number][1]))
        deal = Cipher(
            algorithms.ChaCha20(derived("permute", info, of.file_id), bytes(16)), None
        ).encryptor()
        words = deal.update(zeros)
        ends = leaf_ends(pool, PLAIN)
        chunks = list(pairwise([0, *ends]))
        order = sorted(
            range(len(chunks)), key=lambda k, w=words: w[16 * k : 16 * k + 16]
        )
        key = derived("tensor bytes", epoch + struct.pack("<I", number), of.file_id)
        cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        text = cipher.update(stored[number])
        plain, at = bytearray(pool.length), 0
        for index in order:
            start, end = chunks[index]
            plain[start:end] = text[at : at + end - start]
            assert of.leaves[number][1][index] == leaf_by_hand(
                of, number, (start, end), stored[number][at : at + end - start]
            )
            at += end - start
        assert at == pool.length
        made.append(bytes(plain))
    return made


def leaf_by_hand(of, number: int, span: tuple[int, int], data: bytes) -> bytes:
    """Return the leaf of a chunk of encrypted bytes."""
    (start, end), pool = span, of.pools[number]
    said = b"safemodel leaf 1\2" + of.file_id
    said += struct.pack("<QIQ", of.epoch, number, pool.length)
    said += struct.pack("<I", len(pool.dtype)) + pool.dtype.encode()
    said += struct.pack("<IQQ", pool.itemsize, start, end - start)
    there = [
        one
        for one in pool.plain
        if one.length and one.start < end and one.start + one.length > start
    ]
    said += struct.pack("<I", len(there))
    for one in there:
        said += struct.pack("<I", len(one.name.encode())) + one.name.encode()
        said += struct.pack("<I", len(one.shape))
        said += struct.pack(f"<{len(one.shape)}Q", *one.shape)
        said += struct.pack("<QQ", one.start, one.length)
    key = derived("tags", struct.pack("<Q", of.epoch), of.file_id)
    return blake3(said + data, key=key).digest()


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_encrypted_as_described(tmp_path, kind):
    """Order, cipher and leaves, in two epochs; every plain byte is there again."""
    plain, file = FILES[kind](), tmp_path / f"file.{kind}"
    protect(plain, file, key=KEY, confidential=True)
    first = plain_pools(file.read_bytes())
    rotate(file, file, key=KEY, overwrite=True)
    assert plain_pools(file.read_bytes()) == first
    assert torch.arange(700_000.0).numpy().tobytes() in b"".join(first)
    back = tmp_path / f"back.{kind}"
    restore(file, back, key=KEY)
    assert back.read_bytes() == plain


def order_of(key=KEY, file_id=FILE_ID, epoch=3, number=0, chunks=64) -> list[int]:
    """Return in which order the chunks of a pool lie."""
    pool = pool_of("uint8", 1, [("w", (chunks * MIB,))], [("t", (chunks * MIB,))])
    made = EncryptedPool(key, Tagger.keyed(key, file_id, epoch), number, pool)
    return [chunk.number for chunk in made._chunks]


def test_every_file_epoch_and_pool_deals_chunks_anew():
    """Into any order; of three, each of the six comes as often as by chance."""
    orders = [
        order_of(),
        order_of(epoch=4),
        order_of(number=1),
        order_of(file_id=bytes(32)),
        order_of(key=OTHER),
    ]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(600):
        order = tuple(order_of(epoch=epoch, chunks=3))
        counts[order] = counts.get(order, 0) + 1
    # Five deviations of a chance of one in six, in 600.
    assert len(counts) == 6
    assert all(abs(count - 100) < 46 for count in counts.values())


def keystreams(data: bytes) -> list[bytes]:
    """Return what was added to the stored bytes of each pool of 64 bytes or more."""
    of = opened(data)
    streams = []
    for number, pool in enumerate(of.manifest.pools):
        room = memoryview(bytearray(min(pool.length, 1 << 16)))
        of.encrypted(number)._cipher.apply(0, room)
        if len(room) >= 64:
            streams.append(bytes(room))
    return streams


def test_no_keystream_comes_twice(tmp_path):
    """Neither in two pools, two epochs, two keys, nor in two files of one model."""
    plain = FILES["pt"]()
    files = [tmp_path / f"{name}.pt" for name in ("one", "two", "three", "four")]
    protect(plain, files[0], key=KEY, confidential=True)
    protect(plain, files[1], key=KEY, confidential=True)
    rotate(files[0], files[2], key=KEY)
    rotate(files[2], files[3], key=KEY, confidential=False)
    rotate(files[3], files[3], key=KEY, confidential=True, overwrite=True)
    blocks = [
        stream[at : at + 16]
        for file in files
        for stream in keystreams(file.read_bytes())
        for at in range(0, len(stream) - 15, 16)
    ]
    assert len(blocks) > 4 * 4096
    assert len(set(blocks)) == len(blocks)


@pytest.fixture
def little_room(monkeypatch):
    """Let scratch files be files, whatever their size."""
    monkeypatch.setitem(scratch.Scratch.__init__.__kwdefaults__, "budget", 1 << 12)


@pytest.mark.usefixtures("little_room")
def test_no_verb_makes_a_temporary_file(tmp_path, monkeypatch):
    """From one encrypted file to the next: neither of plain bytes nor of others."""
    plain, file = FILES["pt"](), tmp_path / "file.pt"
    monkeypatch.setattr(
        scratch.Scratch, "file", lambda *_: pytest.fail("a temporary file")
    )
    protect(plain, file, key=KEY, confidential=True)
    verify(file, key=KEY)
    rotate(file, file, key=KEY, new_key=OTHER, overwrite=True)
    restore(file, tmp_path / "back.pt", key=OTHER)
    assert (tmp_path / "back.pt").read_bytes() == plain
    assert safe_load(file, key=OTHER)["lr"] == 0.1


@pytest.mark.usefixtures("little_room")
def test_rotate_reads_once_and_writes_no_plain_byte(tmp_path, monkeypatch):
    """One pass: each tensor byte is read once, and written once, encrypted."""
    mark = torch.tensor([1.2345678]).numpy().tobytes() * 4
    file, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    tensor = torch.full((700_000,), 1.2345678)
    protect({"w": tensor}, file, key=KEY, confidential=True)
    read, written = [0], bytearray()
    real_read, real_write = os.preadv, os.write

    def preadv(descriptor, views, at):
        count = real_read(descriptor, views, at)
        read[0] += count
        return count

    def write(descriptor, data):
        written.extend(data)
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "write", write)
    rotate(file, out, key=KEY)
    monkeypatch.undo()
    length = tensor.nbytes
    assert length <= len(written) < length + 100_000
    assert mark not in written
    assert read[0] < length + 100_000
    assert verify(out, key=KEY).epoch == 1


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_file_turns_from_each_mode_to_each(tmp_path, before, after):
    """And the progress that is told is all there is."""
    plain, file = FILES["safetensors"](), tmp_path / "file.safetensors"
    told: list[tuple[int, int]] = []
    protect(
        plain, file, key=KEY, confidential=before, progress=lambda *x: told.append(x)
    )
    assert told[-1][0] == told[-1][1]
    told.clear()
    rotate(
        file,
        file,
        key=KEY,
        confidential=after,
        overwrite=True,
        progress=lambda *x: told.append(x),
    )
    assert told[-1][0] == told[-1][1]
    assert verify(file, key=KEY).confidential is after
    back = tmp_path / "back.safetensors"
    restore(file, back, key=KEY)
    assert back.read_bytes() == plain


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_what_changes_between_two_modes_is_noticed(
    tmp_path, monkeypatch, before, after
):
    """In the temporary file, from which one mode becomes the other."""
    file, out = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    protect({"w": torch.arange(70_000.0)}, file, key=KEY, confidential=before)
    real = rotating._plain
    changed = []

    def plain(opened, number, scratch, step):
        inner = real(opened, number, scratch, step)
        kept = inner.__enter__()

        def read(at, view):
            kept.read(at, view)
            view[len(view) // 2] ^= 1
            changed.append(at)

        class Altered:
            def __enter__(self):
                return kept._replace(read=read)

            def __exit__(self, *error):
                return inner.__exit__(*error)

        return Altered()

    monkeypatch.setattr(rotating, "_plain", plain)
    with pytest.raises(VerificationError, match="on their way"):
        rotate(file, out, key=KEY, confidential=after)
    assert changed
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("verb", ["verify", "restore", "rotate", "load"])
def test_a_change_names_its_tensor_without_decrypting_it_twice(tmp_path, verb):
    """By the leaf alone; several changes of several tensors are all named."""
    file, out = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    tensors = {f"t{k:02}": torch.full((3000,), float(k)) for k in range(20)}
    protect(save(tensors), file, key=KEY, confidential=True)
    data = bytearray(file.read_bytes())
    of = opened(bytes(data))
    chunks = {chunk.number: chunk for chunk in of.encrypted(0)._chunks}
    spans = stored_spans(bytes(data))
    inside = [place for start, end in spans for place in range(start, end)]
    for number in (3, 17):
        data[inside[chunks[number].at + 5000]] ^= 4
    file.write_bytes(data)
    with pytest.raises(VerificationError) as caught:
        {
            "verify": lambda: verify(file, key=KEY),
            "restore": lambda: restore(file, out, key=KEY),
            "rotate": lambda: rotate(file, out, key=KEY),
            "load": lambda: safe_load(file, key=KEY),
        }[verb]()
    assert caught.value.tensors == ("t03", "t17")
    assert caught.value.ranges == ((0, 36_000, 48_000), (0, 204_000, 216_000))
    assert list(tmp_path.iterdir()) == [file]


def test_two_chunks_that_change_place_are_two_changes(tmp_path):
    """Of the same length and the same plain bytes: place and name are bound."""
    file = tmp_path / "file.safetensors"
    protect(
        save({name: torch.ones(9) for name in "abc"}), file, key=KEY, confidential=True
    )
    data = file.read_bytes()
    inside = [place for start, end in stored_spans(data) for place in range(start, end)]
    changed = bytearray(data)
    for k in range(36):
        changed[inside[k]], changed[inside[36 + k]] = (
            data[inside[36 + k]],
            data[inside[k]],
        )
    with pytest.raises(VerificationError) as caught:
        verify(bytes(changed), key=KEY)
    assert len(caught.value.tensors) == 2


def test_the_flag_of_the_mode_is_bound(tmp_path):
    """Both ways: what is sealed opens under the flag that it was sealed with alone."""
    for confidential in (False, True):
        file = tmp_path / f"{confidential}.pt"
        protect({"w": torch.ones(9)}, file, key=KEY, confidential=confidential)
        data = bytearray(file.read_bytes())
        found = find_seal(open_source(bytes(data)), DEFAULT_LIMITS)
        assert found is not None
        assert data[found.start + 10] == confidential
        data[found.start + 10] ^= 1
        with pytest.raises(SafeModelError):
            verify(bytes(data), key=KEY)
