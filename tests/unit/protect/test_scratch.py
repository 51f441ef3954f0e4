"""Scratch files: what was written is read, nobody else finds it, nothing stays."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from safemodel._protect.scratch import BUDGET, Scratch

KINDS = {
    "in memory": {"budget": 1 << 40},
    "on disk": {"budget": 0},
    "private": {"budget": 0, "private": True},
}


@pytest.fixture(params=KINDS)
def scratch(request, tmp_path):
    """A scratch folder of each kind."""
    return Scratch(tmp_path, **KINDS[request.param])


def read(file, *parts):
    """Return parts of a file, one after the other."""
    room = memoryview(bytearray(sum(length for _, length in parts)))
    file.read_parts(parts, room)
    return bytes(room)


def cut(length, rand):
    """Return a random division of bytes, in random sequence."""
    edges = sorted({0, length, *(rand.randrange(length) for _ in range(9))})
    parts = [(a, b - a) for a, b in pairwise(edges)]
    rand.shuffle(parts)
    return parts


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100_003, (1 << 18) + 5, 1_000_003])
def test_what_was_written_is_read(length, scratch, rand):
    """In any parts, at any offsets, in any sequence."""
    data = rand.randbytes(length)
    with scratch.file(length) as file:
        for at, size in cut(length, rand):
            file.write_at(at, memoryview(data)[at : at + size])
        parts = cut(length, rand) + cut(length, rand)
        assert read(file, *parts) == b"".join(data[at : at + n] for at, n in parts)
        room = memoryview(bytearray(length))
        file.read_into(0, room)
        assert room == data


def test_what_is_given_is_not_changed(scratch, rand):
    """Encryption has room of its own; the source may be read-only."""
    data = rand.randbytes(1_000_000)
    copy = bytes(bytearray(data))
    with scratch.file(len(data)) as file:
        file.write_at(0, memoryview(data))
    assert data == copy


def test_threads_may_share_one(scratch, rand):
    """Each writes and reads parts of its own."""
    data = rand.randbytes(1 << 20)
    with scratch.file(len(data)) as file, ThreadPoolExecutor(4) as threads:

        def write(k):
            file.write_at(k << 12, memoryview(data)[k << 12 : (k + 1) << 12])

        list(threads.map(write, range(256)))
        found = threads.map(lambda k: read(file, (k << 12, 1 << 12)), range(256))
        assert b"".join(found) == data


@pytest.mark.parametrize(("at", "length"), [(-1, 1), (0, 101), (100, 1), (99, 2)])
def test_bytes_outside_are_refused(at, length, scratch):
    """On both ways."""
    with scratch.file(100) as file:
        with pytest.raises(ValueError, match="a file of 100"):
            file.write_at(at, memoryview(bytes(length)))
        file.write_at(0, memoryview(bytes(100)))
        with pytest.raises(ValueError, match=r"a file of 100|never written"):
            read(file, (at, length))


def test_what_was_never_written_is_not_read(tmp_path):
    """No bytes are made up past the end of what there is."""
    with Scratch(tmp_path, budget=0).file(100) as file:
        file.write_at(0, memoryview(bytes(50)))
        with pytest.raises(ValueError, match="never written"):
            read(file, (40, 20))


def test_short_reads_and_writes_are_gone_on_with(tmp_path, rand, monkeypatch):
    """A system may take less than it is given."""
    data = rand.randbytes(100_000)
    write, pread = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda d, v, at: write(d, v[:7777], at))
    monkeypatch.setattr(os, "preadv", lambda d, v, at: pread(d, [v[0][:7777]], at))
    with Scratch(tmp_path, budget=0).file(len(data)) as file:
        file.write_at(0, memoryview(data))
        assert read(file, (0, 50_000), (50_000, 50_000)) == data


def descriptors():
    """Return the open descriptors of this process; not the one that lists them."""
    found = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    return {descriptor for descriptor in found if is_open(descriptor)}


@pytest.mark.parametrize("private", [False, True])
def test_a_file_has_no_name(private, tmp_path):
    """Nobody finds it in its folder, its owner alone could, and closing ends it."""
    before = descriptors()
    file = Scratch(tmp_path, budget=0, private=private).file(1000)
    (descriptor,) = descriptors() - before
    about = os.fstat(descriptor)
    assert about.st_nlink == 0
    assert stat.S_IMODE(about.st_mode) == 0o600
    assert about.st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []
    file.close()
    assert not is_open(descriptor)


def is_open(descriptor):
    """Return whether a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def on_disk(tmp_path, data, **kind):
    """Return what stands on the disk for bytes of a file."""
    before = descriptors()
    with Scratch(tmp_path, budget=0, **kind).file(len(data)) as file:
        for at in range(0, len(data), 100_000):
            file.write_at(at, memoryview(data)[at : at + 100_000])
        (descriptor,) = descriptors() - before
        return os.pread(descriptor, len(data) + 1, 0)


def test_a_private_file_is_ciphertext(tmp_path, rand):
    """Of random bytes and of zeros: no 16 bytes of them are there, at any offset."""
    data = rand.randbytes(300_000) + bytes(300_000)
    found = on_disk(tmp_path, data, private=True)
    assert len(found) == len(data)
    pieces = {data[at : at + 16] for at in range(len(data) - 15)}
    assert not any(found[at : at + 16] in pieces for at in range(len(found) - 15))
    # Of zeros it is the keystream: no block of it comes twice.
    blocks = {found[at : at + 16] for at in range(300_000, 600_000, 16)}
    assert len(blocks) == 300_000 // 16
    counts = np.bincount(np.frombuffer(found, "u1"), minlength=256)
    mean = len(found) / 256
    # 255 degrees of freedom: chance is above 400 once in 10**8.
    assert ((counts - mean) ** 2 / mean).sum() < 400


def test_what_is_not_private_is_as_it_was(tmp_path, rand):
    """The test above can fail."""
    data = rand.randbytes(300_000)
    assert on_disk(tmp_path, data) == data


def test_two_private_files_have_two_keys(tmp_path):
    """Nothing is learnt from one about another."""
    one, two = (on_disk(tmp_path, bytes(10_000), private=True) for _ in range(2))
    same = np.frombuffer(one, "u1") == np.frombuffer(two, "u1")
    assert same.mean() < 0.02


def test_the_cipher_is_aes_in_counter_mode(tmp_path, monkeypatch):
    """As the library has it, under the key that was drawn."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from safemodel._protect import scratch as module

    key = bytes(range(32))
    monkeypatch.setattr(module.secrets, "token_bytes", lambda count: key[:count])
    data = np.random.default_rng(0).bytes(300_007)
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    assert on_disk(tmp_path, data, private=True) == cipher.update(data)


def test_what_is_small_stays_in_memory(tmp_path):
    """Up to the budget, which is 32 MiB if nobody says otherwise."""
    before = descriptors()
    for scratch in (Scratch(tmp_path), Scratch(tmp_path, private=True)):
        with scratch.file(BUDGET):
            assert descriptors() == before
        with scratch.file(BUDGET + 1):
            assert len(descriptors() - before) == 1


def test_a_key_does_not_show(tmp_path, monkeypatch):
    """Not in the repr of a file, and not in that of an error's frames."""
    from safemodel._protect import scratch as module

    secret = bytes(range(200, 232))
    monkeypatch.setattr(module.secrets, "token_bytes", lambda count: secret[:count])
    from tests.unit.protect.helpers_protect import holds_secret, text_of

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Scratch(tmp_path, budget=0, private=True).file(100) as file:
        assert not holds_secret(repr(file))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left") as caught:
            file.write_at(0, memoryview(bytes(100)))
    assert not holds_secret(text_of(caught.value))


@pytest.mark.parametrize("private", [False, True])
def test_what_belongs_together_has_a_file_of_its_own(private, tmp_path, rand):
    """It is given up by itself; the rest is as it was."""
    data = rand.randbytes(600_000)
    edges, before = [200_000, 450_000], descriptors()
    scratch = Scratch(tmp_path, budget=0, private=private)
    with scratch.file(len(data), edges) as file:
        for at, end in pairwise([0, *edges, len(data)]):
            file.write_at(at, memoryview(data)[at:end])
        assert len(descriptors() - before) == 3
        assert read(file, (300_000, 9), (7, 70), (449_999, 1)) == (
            data[300_000:300_009] + data[7:77] + data[449_999:450_000]
        )
        file.drop(199_999)
        assert read(file, (0, 100)) == data[:100]
        file.drop(449_999)
        assert len(descriptors() - before) == 2
        with pytest.raises(OSError, match="Bad file descriptor"):
            read(file, (0, 100))
        assert read(file, (200_000, 250_000)) == data[200_000:450_000]
        file.drop(len(data))
        assert len(descriptors() - before) == 1
        assert read(file, (450_000, 150_000)) == data[450_000:]
    assert descriptors() == before
