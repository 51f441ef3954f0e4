"""A permuted pool: every bit is there, comes back, and nothing else is touched."""

import numpy as np
import pytest

from safemodel._protect import permutation
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
from safemodel._protect.rounds import Shape

TYPES = ["u1", "u2", "u4", "u8", "c16"]
KEY = PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=0, pool="p")


def noise(size, dtype, seed=0):
    """Return an aligned pool of random bytes."""
    pool = aligned(size, dtype)
    made = np.random.default_rng(seed).integers(0, 256, pool.nbytes, np.uint8)
    pool.view(np.uint8)[:] = made
    return pool


def elements(pool):
    """Return the elements as bytes, sorted."""
    raw, size = pool.tobytes(), pool.itemsize
    return sorted(raw[at : at + size] for at in range(0, len(raw), size))


def there_and_back(pool, key=KEY):
    """Permute a pool and restore it; return it permuted."""
    before = pool.tobytes()
    target, back = aligned(pool.size, pool.dtype), aligned(pool.size, pool.dtype)
    permute_pool(pool, target, key)
    assert pool.tobytes() == before
    permuted = target.copy()
    restore_pool(target, back, key)
    assert back.tobytes() == before
    return permuted


@pytest.mark.parametrize("dtype", TYPES)
def test_small_pools_of_every_size(dtype):
    """From 0 to 300 elements: the same elements, and back again."""
    for size in range(301):
        pool = noise(size, dtype, size)
        permuted = there_and_back(pool)
        assert elements(permuted) == elements(pool)
        assert size < 20 or permuted.tobytes() != pool.tobytes()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extra", [-1, 0, 1, 12_345])
def test_pools_about_the_first_with_rounds(dtype, extra):
    """Where a pool is small no more, with a rest and without."""
    unit = Shape(0, np.dtype(dtype).itemsize).unit
    size = max(1 << 16, 16 * unit) + extra
    shape = Shape(size, np.dtype(dtype).itemsize)
    assert (shape.tiles > 0) == (extra >= 0)
    pool = noise(size, dtype)
    assert elements(there_and_back(pool)) == elements(pool)


@pytest.mark.parametrize(
    ("size", "dtype"), [(4_194_304, "u4"), (5_000_011, "u2"), (1_234_567, "u8")]
)
def test_large_pools_are_bijections(size, dtype):
    """Of numbered elements, or of counted ones where there are too many numbers."""
    pool = aligned(size, dtype)
    pool[:] = np.arange(size, dtype=np.uint64).astype(dtype)
    permuted = there_and_back(pool)
    assert np.array_equal(np.sort(permuted), np.sort(pool))


@pytest.mark.parametrize("size", [50, 70_001])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_nan_keeps_its_payload(size, dtype):
    """Quiet and signalling, of both signs: every bit survives."""
    pool = aligned(size, dtype)
    part = {"c8": "u4", "c16": "u8"}.get(dtype, dtype.replace("f", "u"))
    width = np.dtype(part).itemsize * 8
    exponent = {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}[width]
    words = pool.view(part)
    words[:] = np.arange(words.size) % 999 + 1 | exponent
    words[::2] |= np.array(1 << width - 1, np.uint64).astype(part)
    assert np.isnan(pool).all()
    assert elements(there_and_back(pool)) == elements(pool)


def test_elements_that_numpy_gives_other_names():
    """Bytes are what counts: booleans, dates and fixed text are permuted too."""
    for dtype in ("bool", "i4", "M8[s]", "S8", "V16"):
        pool = np.zeros(500, dtype)
        pool.view("u1")[:] = np.arange(pool.nbytes) % 2
        assert elements(there_and_back(pool)) == elements(pool)


@pytest.mark.parametrize("size", [300, 70_001, 300_001])
def test_nothing_beside_the_target_is_written(size):
    """The bytes before and after it stay."""
    room = aligned(size + 64, "u4")
    room[:] = 7
    target = room[32 : 32 + size]
    source = noise(size, "u4")
    permute_pool(source, target, KEY)
    assert (room[:32] == 7).all()
    assert (room[32 + size :] == 7).all()
    back_room = aligned(size + 64, "u4")
    back_room[:] = 7
    restore_pool(target, back_room[32 : 32 + size], KEY)
    assert (room[:32] == 7).all()
    assert (room[32 + size :] == 7).all()
    assert (back_room[:32] == 7).all()
    assert (back_room[32 + size :] == 7).all()
    assert np.array_equal(back_room[32 : 32 + size], source)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, None])
def test_threads_change_nothing(threads, monkeypatch):
    """The same order from one thread and from many, there and back."""
    monkeypatch.setattr(permutation, "_MIN_THREAD_BYTES", 1)
    size = 5000 * Shape(0, 8).unit + 17
    pool = noise(size, "u8")
    once, again = aligned(size, "u8"), aligned(size, "u8")
    permute_pool(pool, once, KEY, threads=1)
    permute_pool(pool, again, KEY, threads=threads)
    assert np.array_equal(once, again)
    back = aligned(size, "u8")
    restore_pool(again, back, KEY, threads=threads)
    assert np.array_equal(back, pool)


def test_a_source_may_begin_anywhere_and_be_read_only():
    """As a memory map of a file does; only the target has to be aligned."""
    room = noise(70_010, "u4")
    source = room[3:-6]
    source.flags.writeable = False
    whole = aligned(source.size, "u4")
    whole[:] = source
    one, two = aligned(source.size, "u4"), aligned(source.size, "u4")
    permute_pool(source, one, KEY)
    permute_pool(whole, two, KEY)
    assert np.array_equal(one, two)


@pytest.mark.parametrize("size", [1000, 70_000])
def test_a_wrong_key_restores_nothing(size):
    """Another epoch, another file, another pool, another master: noise."""
    pool = aligned(size, "u4")
    pool[:] = np.arange(size)
    wrong = [
        PoolKey(ProtectionKey(b"K" * 32), b"f" * 32, epoch=0, pool="p"),
        PoolKey(ProtectionKey(b"k" * 32), b"F" * 32, epoch=0, pool="p"),
        PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=1, pool="p"),
        PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=0, pool="q"),
    ]
    for key in wrong:
        permuted, back = aligned(size, "u4"), aligned(size, "u4")
        permute_pool(pool, permuted, KEY)
        restore_pool(permuted, back, key)
        assert (back == pool).sum() <= 8


GOOD = np.zeros(100, "u4")


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (GOOD.reshape(10, 10), GOOD.copy(), "one axis"),
        (np.zeros(200, "u4")[::2], GOOD.copy(), "one axis"),
        (np.zeros(100, "O"), np.zeros(100, "O"), "objects"),
        (GOOD, np.zeros(99, "u4"), "same size"),
        (GOOD, np.zeros(100, "i4"), "same size and type"),
        (np.zeros(100, "V3"), np.zeros(100, "V3"), "3 bytes"),
        (np.zeros(100, "V32"), np.zeros(100, "V32"), "32 bytes"),
        (GOOD, GOOD, "no part"),
        (np.zeros(401, "u1")[1:].view("u4"), GOOD.copy(), "multiples of their size"),
        (np.zeros(70_000, "u4"), aligned(70_001, "u4")[1:], "multiple of 64"),
    ],
)
def test_what_kernels_cannot_take_is_refused(source, target, words):
    """Before a byte is written."""
    with pytest.raises(ValueError, match=words):
        permute_pool(source, target, KEY)


def test_read_only_arrays_are_not_written():
    """Neither a target, nor a source that a restore would use up."""
    fixed = np.zeros(100, "u4")
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        permute_pool(GOOD, fixed, KEY)
    with pytest.raises(ValueError, match="writable"):
        restore_pool(fixed, GOOD.copy(), KEY)


def test_a_key_does_not_show():
    """Not in its repr; errors of sub-keys are tested beside them."""
    key = PoolKey(
        ProtectionKey(b"secret master key of 32 bytes..!"), b"f" * 32, epoch=0, pool="p"
    )
    assert "secret" not in repr(key)
    assert "secret" not in str(key)
