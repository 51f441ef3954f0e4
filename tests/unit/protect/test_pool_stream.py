"""Pools in pieces: the order of pools in memory, and nothing lost on the way."""

import errno
import os
import resource
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from safemodel._protect import bands, pool_stream, rounds, rows, second_round
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool
from safemodel._protect.pool_stream import CHUNK, permuted, restored
from safemodel._protect.scratch import BUDGET, Scratch

KEY = PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=0, pool="p")
OTHER = PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=1, pool="p")
KINDS = ["u1", "u2", "u4", "u8", "c16"]


class Memory:
    """The bytes of a pool, to be read and written in pieces."""

    def __init__(self, data):
        self.bytes = bytearray(data)
        self.written = []

    def read_into(self, at, view):
        """Fill a view."""
        assert 0 <= at <= at + len(view) <= len(self.bytes)
        view[:] = self.bytes[at : at + len(view)]

    def write_at(self, at, view):
        """Take the bytes of a view."""
        assert 0 <= at <= at + len(view) <= len(self.bytes)
        self.bytes[at : at + len(view)] = view
        self.written.append((at, at + len(view)))

    def written_once(self):
        """Return whether every byte was written, and none twice."""
        ends = [0]
        for start, end in sorted(self.written):
            if start != ends[-1]:
                return False
            ends.append(end)
        return ends[-1] == len(self.bytes)


def noise(length, seed=0):
    """Return random bytes."""
    return np.random.default_rng(seed).bytes(length)


def expected(data, itemsize, key=KEY):
    """Return what `permute_pool` makes of them."""
    kind = f"u{itemsize}" if itemsize < 16 else "c16"
    source = aligned(len(data) // itemsize, kind)
    target = aligned(len(data) // itemsize, kind)
    source.view("u1")[:] = np.frombuffer(data, "u1")
    permute_pool(source, target, key)
    return target.tobytes()


def stored(data, itemsize, scratch, key=KEY):
    """Return the chunks of a permuted pool."""
    read = Memory(data).read_into
    chunks = permuted(read, len(data), itemsize, key, scratch=scratch)
    return [bytes(chunk) for chunk in chunks]


def plain(chunks, length, itemsize, scratch, key=KEY):
    """Return the bytes of a restored pool."""
    memory = Memory(bytes(length))
    restored(
        map(memoryview, chunks), length, itemsize, key, memory.write_at, scratch=scratch
    )
    assert memory.written_once()
    return bytes(memory.bytes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segment", [1, 5 << 18, rounds._SEGMENT])
@pytest.mark.parametrize("extra", [0, 12_345])
def test_the_order_is_that_of_pools_in_memory(
    kind, segment, extra, tmp_path, monkeypatch
):
    """At many segments and at one, with a rest and without; and back."""
    monkeypatch.setattr(rounds, "_SEGMENT", segment)
    scratch = Scratch(tmp_path, budget=0)
    itemsize = np.dtype(kind).itemsize
    unit = rounds.Shape(0, itemsize).unit
    count = (2 << 20) // itemsize // unit * unit + 5 * unit + extra
    data = noise(count * itemsize)
    chunks = stored(data, itemsize, scratch)
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK}
    assert b"".join(chunks) == expected(data, itemsize)
    assert plain(chunks, len(data), itemsize, scratch) == data


@pytest.mark.parametrize("kind", ["u1", "u4", "c16"])
@pytest.mark.parametrize(
    "scratch", [{"budget": 1 << 40}, {"budget": 0, "private": True}]
)
def test_any_scratch_will_do(kind, scratch, tmp_path):
    """One in memory, and a private one; it is the same order."""
    itemsize = np.dtype(kind).itemsize
    data = noise(1_500_000 // itemsize * itemsize)
    chunks = stored(data, itemsize, Scratch(tmp_path, **scratch))
    assert b"".join(chunks) == expected(data, itemsize)
    assert plain(chunks, len(data), itemsize, Scratch(tmp_path, **scratch)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_pools_about_the_first_with_rounds(kind, tmp_path):
    """From none to a few elements, and where a pool is small no more."""
    scratch = Scratch(tmp_path, budget=0)
    itemsize = np.dtype(kind).itemsize
    edge = max(1 << 16, 16 * rounds.Shape(0, itemsize).unit)
    for count in (0, 1, 2, 3, 100, edge - 1, edge, edge + 1):
        data = noise(count * itemsize, count)
        chunks = stored(data, itemsize, scratch)
        assert b"".join(chunks) == expected(data, itemsize)
        assert len(chunks) == -(-len(data) // CHUNK)
        assert plain(chunks, len(data), itemsize, scratch) == data
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def made(monkeypatch):
    """All `Bands` that are made."""
    found, init = [], bands.Bands.__init__

    def spy(self, *more):
        init(self, *more)
        found.append(self)

    monkeypatch.setattr(bands.Bands, "__init__", spy)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rooms", [0, 2, 3])
def test_any_number_of_bands(rooms, kind, tmp_path, monkeypatch, made):
    """Three in memory, two, or none at all; batches are many, and one is small."""
    monkeypatch.setattr(rounds, "_SEGMENT", 5 << 20)
    monkeypatch.setattr(rows, "_BATCH", 1 << 20)
    monkeypatch.setattr(rows, "_BAND", 2_200_000)
    monkeypatch.setattr(bands, "_MOST", 1 << 30 if rooms else 0)
    monkeypatch.setattr(bands, "_SMALL", 1 << 30 if rooms == 3 else 0)
    data, itemsize = noise(12_345_008), np.dtype(kind).itemsize
    scratch = Scratch(tmp_path, budget=0)
    chunks = stored(data, itemsize, scratch)
    assert b"".join(chunks) == expected(data, itemsize)
    assert plain(chunks, len(data), itemsize, scratch) == data
    assert [one.rooms for one in made] == [rooms] * 2
    assert all(one.count >= 6 for one in made)


@pytest.mark.parametrize("rooms", [0, 2])
def test_bands_of_one_row(rooms, tmp_path, monkeypatch, made):
    """As they are where pools are large; a row is longer than a work."""
    monkeypatch.setattr(second_round, "CHUNK", 1 << 18)
    monkeypatch.setattr(rows, "_BAND", 1)
    monkeypatch.setattr(bands, "_MOST", 1 << 30 if rooms else 0)
    monkeypatch.setattr(bands, "_SMALL", 0)
    data, scratch = noise((17 << 20) + 16 * 77), Scratch(tmp_path, budget=0)
    chunks = stored(data, 16, scratch)
    assert b"".join(chunks) == expected(data, 16)
    assert plain(chunks, len(data), 16, scratch) == data
    assert [(one.rooms, one.count) for one in made] == [(rooms, 64)] * 2


def test_a_work_is_in_two_bands_at_most(tmp_path):
    """Else it would wait for one that there is no room for."""
    for itemsize in (1, 2, 4, 8, 16):
        for mib in (2, 3, 9, 100, 700, 2000):
            shape = rounds.Shape((mib << 20) // itemsize, itemsize)
            choices = rounds.Rounds(shape, KEY)
            file = Scratch(tmp_path).file(0)
            some = bands.Bands(rows.Rows(choices, 2), file)
            work = max(CHUNK, 64 * shape.unit * itemsize)
            assert some.size >= work or some.count == 1


def test_no_band_takes_the_place_of_one_in_use():
    """However often it is asked for what is needed before a work is said to be over."""
    some = SimpleNamespace(rooms=2, count=6, size=10)
    begun, over = [], Future()
    over.set_result(None)

    class Now:
        def submit(self, act, band):
            act(band)
            return over

    turns = second_round._Turns(some, begun.append, Now(), 10, before=True)
    assert begun == [0, 1]
    turns.need(30, [over, over])  # one work is over: band 2 may take its place
    assert begun == [0, 1, 2]
    turns.need(40, [over])  # the same work: nothing more is free
    assert begun == [0, 1, 2]
    turns.over(20)
    assert begun == [0, 1, 2, 3]


def test_rows_are_read_in_long_pieces(tmp_path, monkeypatch):
    """Each stripe of a row in one call: 16 blocks and not one."""
    data = noise(34 << 20)
    sizes = []
    read = os.preadv

    def spy(descriptor, views, at):
        sizes.append(sum(map(len, views)))
        return read(descriptor, views, at)

    monkeypatch.setattr(os, "preadv", spy)
    assert len(stored(data, 4, Scratch(tmp_path, budget=0))) == 34
    assert sum(sizes) == len(data) // (1 << 14) * (1 << 14)
    assert len(sizes) < len(data) >> 18


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 3, 65])
def test_any_number_of_threads(workers, blocks, tmp_path, monkeypatch):
    """More of them than blocks, and than works of the second round."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(workers)))
    monkeypatch.setattr(pool_stream, "_MOST_THREADS", 9)
    data = noise(blocks * 64 * 4096 + 16 * 77)  # of 16 bytes: the smallest blocks
    scratch = Scratch(tmp_path, budget=0)
    chunks = stored(data, 16, scratch)
    assert b"".join(chunks) == expected(data, 16)
    assert plain(chunks, len(data), 16, scratch) == data


@pytest.mark.parametrize("size", [3, 999, 65_536, CHUNK - 1, CHUNK + 1, 1 << 30])
def test_chunks_of_any_size_are_taken(size, tmp_path):
    """And each may be written over as soon as the next is asked for."""
    data = noise(65_604 * 4 if size == 3 else 5_000_004)
    whole = expected(data, 4)

    def chunks():
        room = bytearray(min(size, len(whole)))
        for at in range(0, len(whole), size):
            part = whole[at : at + size]
            room[: len(part)] = part
            yield memoryview(room)[: len(part)]
            room[:] = bytes(len(room))

    memory = Memory(bytes(len(data)))
    scratch = Scratch(tmp_path, budget=0)
    restored(chunks(), len(data), 4, KEY, memory.write_at, scratch=scratch)
    assert bytes(memory.bytes) == data


def test_a_chunk_may_be_changed_in_place(tmp_path):
    """By whoever asked for it, as encryption does: the next is as it was."""
    data = noise(5_000_004)
    made = []
    read = Memory(data).read_into
    for chunk in permuted(read, len(data), 4, KEY, scratch=Scratch(tmp_path, budget=0)):
        made.append(bytes(chunk))
        chunk[:] = bytes(len(chunk))
    assert b"".join(made) == expected(data, 4)


@pytest.mark.parametrize("itemsize", [2, 4, 16])
@pytest.mark.parametrize("held", [1, 2, 5])
def test_chunks_are_held_as_long_as_said(held, itemsize, tmp_path):
    """While others are made: the last so many are what they were."""
    data = noise(40 * CHUNK + 16 * 77)
    read, scratch = Memory(data).read_into, Scratch(tmp_path, budget=0)
    chunks, made = [], []
    for chunk in permuted(read, len(data), itemsize, KEY, scratch=scratch, held=held):
        chunks.append(chunk)
        made.append(bytes(chunk))
        time.sleep(0.002)  # threads are ahead as far as they may be
        assert [bytes(one) for one in chunks[-held:]] == made[-held:]
    assert b"".join(made) == expected(data, itemsize)


def test_scratch_is_given_up_part_after_part(tmp_path):
    """So that it is gone before the system sends it to the disk."""

    def files():
        opened = list(Path("/proc/self/fd").iterdir())
        links = [os.readlink(link) for link in opened if link.is_symlink()]  # noqa: PTH115 - of what has no name
        return sum(str(tmp_path) in link for link in links)

    data = noise(40 * CHUNK)
    scratch = Scratch(tmp_path, budget=0)
    chunks = permuted(Memory(data).read_into, len(data), 4, KEY, scratch=scratch)
    counts = [files() for _ in chunks]
    # Rows of 160 KiB: 25 are a band, two bands are a part.
    assert sorted(set(counts), reverse=True) == [6, 5, 4, 3, 2, 1]
    assert counts == sorted(counts, reverse=True)
    assert files() == 0


def test_rotating_never_writes_what_it_holds(tmp_path, monkeypatch):
    """Old key to new over a private file; on the disk is nothing of the plain pool."""
    length = 1_200_000
    data = noise(length)
    scratch = Scratch(tmp_path, budget=0, private=True)
    written = []
    write = os.pwrite

    def spy(descriptor, view, at):
        written.append(bytes(view))
        return write(descriptor, view, at)

    chunks = stored(data, 4, scratch)
    monkeypatch.setattr(os, "pwrite", spy)
    with scratch.file(length) as between:
        restored(
            map(memoryview, chunks), length, 4, KEY, between.write_at, scratch=scratch
        )
        turned = permuted(between.read_into, length, 4, OTHER, scratch=scratch)
        assert b"".join(bytes(chunk) for chunk in turned) == expected(data, 4, OTHER)
    on_disk = b"".join(written)
    assert len(on_disk) > 2.9 * length
    # Elements are in another order in each of the three, so look for single ones. A few
    # are there by chance, as in any random bytes.
    kept = np.isin(np.frombuffer(data, "u4"), np.frombuffer(on_disk, "u4")).mean()
    assert kept < 0.01


def test_what_is_not_private_is_found_so(tmp_path, monkeypatch):
    """The measure above can fail: all but the rest is there without encryption."""
    data = noise(1_200_000)
    written = []
    write = os.pwrite

    def spy(descriptor, view, at):
        written.append(bytes(view))
        return write(descriptor, view, at)

    monkeypatch.setattr(os, "pwrite", spy)
    stored(data, 4, Scratch(tmp_path, budget=0))
    on_disk = np.frombuffer(b"".join(written), "u4")
    assert np.isin(np.frombuffer(data, "u4"), on_disk).mean() > 0.98


@pytest.mark.parametrize(
    ("length", "itemsize", "words"),
    [
        (10, 3, "3 bytes"),
        (10, 4, "10 bytes"),
        (-4, 4, "-4 bytes"),
        (64, 32, "32 bytes"),
    ],
)
def test_what_is_no_pool_is_refused(length, itemsize, words, tmp_path):
    """Before anything is read."""
    scratch = Scratch(tmp_path)
    with pytest.raises(ValueError, match=words):
        next(permuted(no_read, length, itemsize, KEY, scratch=scratch))
    with pytest.raises(ValueError, match=words):
        restored(iter([]), length, itemsize, KEY, no_read, scratch=scratch)


def no_read(at, view):
    """Fail if it is called."""
    raise AssertionError(f"{len(view)} bytes at {at}")


@pytest.mark.parametrize("length", [400, 2_000_000])
@pytest.mark.parametrize("change", [-4, -1, 1, 1 << 20])
def test_more_bytes_or_fewer_are_refused(length, change, tmp_path):
    """And nothing is handed on."""
    scratch = Scratch(tmp_path)
    with pytest.raises(ValueError, match=f"{length:,}"):
        restored(
            iter([memoryview(bytes(length + change))]),
            length,
            4,
            KEY,
            no_read,
            scratch=scratch,
        )


class Broken(Exception):  # noqa: N818 - it is what a caller's function raises
    """What a reader raises."""


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", [0, 1, 40, 90])
def test_a_reader_that_fails(error, call, tmp_path):
    """Its error is the caller's; no thread, no file and no descriptor is left."""
    memory, calls = Memory(noise(6_000_000)), []

    def read(at, view):
        calls.append(at)
        if len(calls) > call:
            raise error("no more")
        memory.read_into(at, view)

    before = open_files(), threading.active_count()
    chunks = permuted(read, 6_000_000, 4, KEY, scratch=Scratch(tmp_path, budget=0))
    with pytest.raises(error, match="no more"):
        next(chunks)
    assert (open_files(), threading.active_count()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", [0, 1, 40, 90])
def test_a_writer_that_fails(error, call, tmp_path):
    """The same on the way back."""
    whole = expected(noise(6_000_000), 4)
    calls = []

    def write(at, view):
        del view
        calls.append(at)
        if len(calls) > call:
            raise error("no more")

    before = open_files(), threading.active_count()
    with pytest.raises(error, match="no more"):
        restored(
            iter([memoryview(whole)]),
            len(whole),
            4,
            KEY,
            write,
            scratch=Scratch(tmp_path, budget=0),
        )
    assert (open_files(), threading.active_count()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_chunks_that_fail(error, tmp_path):
    """Half-way, while works are under way."""
    whole = memoryview(expected(noise(9_000_000), 4))

    def chunks():
        for at in range(0, 7 << 20, CHUNK):
            yield whole[at : at + CHUNK]
        raise error("no more")

    before = open_files(), threading.active_count()
    with pytest.raises(error, match="no more"):
        restored(
            chunks(),
            len(whole),
            4,
            KEY,
            no_read,
            scratch=Scratch(tmp_path, budget=0),
        )
    assert (open_files(), threading.active_count()) == before


@pytest.mark.parametrize("taken", [1, 3])
def test_chunks_that_nobody_asks_for(taken, tmp_path):
    """A caller that stops leaves nothing behind."""
    memory = Memory(noise(9_000_000))
    before = open_files(), threading.active_count()
    chunks = permuted(
        memory.read_into, 9_000_000, 4, KEY, scratch=Scratch(tmp_path, budget=0)
    )
    for _ in range(taken):
        next(chunks)
    assert threading.active_count() > before[1]
    chunks.close()
    assert (open_files(), threading.active_count()) == before


def open_files():
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("private", [False, True])
def test_a_full_disk_is_an_error(private, tmp_path, monkeypatch):
    """One that says what there was no room for."""
    write = os.pwrite
    calls = []

    def full(descriptor, view, at):
        calls.append(at)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, view[: len(view) // 2 + 1], at)

    monkeypatch.setattr(os, "pwrite", full)
    before = open_files(), threading.active_count()
    with pytest.raises(OSError, match="temporary file of 5,996,544 bytes") as caught:
        stored(noise(6_000_000), 4, Scratch(tmp_path, budget=0, private=private))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
    assert (open_files(), threading.active_count()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Linux's")
def test_a_real_limit_of_files_is_an_error(tmp_path):
    """As a disk that is full: what the system says is passed on."""
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, old[1]))
        with pytest.raises(OSError, match="too large") as caught:
            stored(noise(6_000_000), 4, Scratch(tmp_path, budget=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG


def test_a_folder_that_is_not_there(tmp_path):
    """Is the system's error too."""
    with pytest.raises(FileNotFoundError):
        stored(noise(6_000_000), 4, Scratch(tmp_path / "none", budget=0))


def test_segments_bound_what_is_held():
    """A segment is 32 MiB at most, and none is much smaller than another."""
    for itemsize in (1, 2, 4, 8, 16):
        for mib in (1, 31, 32, 33, 64, 65, 100, 1000):
            shape = rounds.Shape((mib << 20) // itemsize + 5, itemsize)
            block = 64 * shape.unit * itemsize
            sizes = np.diff(shape.segments) * block
            assert sizes.max() <= BUDGET
            assert sizes.min() >= sizes.max() - block
            assert shape.segments[-1] == shape.blocks
