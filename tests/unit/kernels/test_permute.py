"""The kernels of the permutation against their slow twins."""

import numpy as np
import pytest

from safemodel._kernels import _lines, permute
from safemodel._protect import rounds
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
from tests.reference import naive_permutation as naive

ITEMSIZES = [1, 2, 4, 8, 16]
MASTER, FILE = bytes(range(32)), bytes(range(32, 64))


def type_of(itemsize):
    """Return the type kernels see for elements of a size."""
    return f"u{itemsize}" if itemsize < 16 else "c16"


def numbered(count, itemsize):
    """Return an array of different elements where they fit, and its integers."""
    values = [(n * 0x9E3779B97F4A7C15 + n) % 2 ** (8 * itemsize) for n in range(count)]
    raw = b"".join(value.to_bytes(itemsize, "little") for value in values)
    made = aligned(count, type_of(itemsize))
    made.view("u1")[:] = np.frombuffer(raw, "u1")
    return made, values


def integers(array):
    """Return elements as integers, whatever numpy takes them for."""
    raw, size = array.tobytes(), array.itemsize
    return [
        int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)
    ]


EDGES = [0, 1, 2, 2**31, 2**32 - 2, 2**32 - 1]


@pytest.mark.parametrize("first", [0, 1, 2, 6, 99, 3 * 2**30, 2**32 - 8])
def test_bounded_does_what_its_twin_does(first, rand):
    """Which words are refused too: those at the edges of what may be."""
    count = 7
    words = [[w] * count for w in EDGES]
    # The first words that are accepted, and those before them, of every bound.
    for k in range(count):
        bound = first + k + 1
        row = [rand.getrandbits(32) for _ in range(count)]
        row[k] = -(-(2**32 % bound) // bound)
        words.append(row)
    words += [[rand.getrandbits(32) for _ in range(count)] for _ in range(50)]
    draws = np.zeros((len(words), count), np.int64)
    refused = np.zeros(draws.size, np.int64)
    found = permute.bounded(np.array(words, "u4"), first, draws, refused)
    assert draws.tolist() == [
        [word * (first + k + 1) // 2**32 for k, word in enumerate(row)] for row in words
    ]
    assert refused[:found].tolist() == [
        n * count + k
        for n, row in enumerate(words)
        for k, word in enumerate(row)
        if not naive.accepted(word, first + k + 1, 4)
    ]
    assert found > 0 or first < 2


def test_bounded_gives_each_integer_as_many_words():
    """Counted over all words of eight bits, by the twin; the kernel is its twin's."""
    for bound in range(1, 200):
        hits = [0] * bound
        for word in range(256):
            if naive.accepted(word, bound, 1):
                hits[word * bound // 256] += 1
        assert set(hits) == {256 // bound}


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_shuffle_and_back(itemsize, rand):
    """Rows are shuffled each on its own, from any start, and put back."""
    pool, values = numbered(60, itemsize)
    draws = [[rand.randint(0, 5 + k) for k in range(15)] for _ in range(3)]
    expected = [values[row * 20 : row * 20 + 20] for row in range(3)]
    for row, partners in zip(expected, draws, strict=True):
        for k, other in enumerate(partners, 5):
            row[k], row[other] = row[other], row[k]
    permute.shuffle(pool.reshape(3, 20), np.array(draws), 5, False)
    assert integers(pool) == [value for row in expected for value in row]
    permute.shuffle(pool.reshape(3, 20), np.array(draws), 5, True)
    assert integers(pool) == values


class Rounds:
    """A pool of a few tiles and everything the rounds take, from `rand`."""

    def __init__(self, itemsize, rand, tiles=3):
        self.pool = naive.Pool(0, itemsize)
        lanes, rows = self.pool.lanes, self.pool.rows
        self.pool.tiles = tiles
        self.array, self.values = numbered(tiles * rows * lanes, itemsize)
        self.pieces = list(range(tiles * lanes))
        rand.shuffle(self.pieces)
        self.columns = [[rand.randrange(tiles)] for _ in range(rows)]
        self.step = (lanes.bit_length() - 1) * lanes // 2
        self.word = f"u{max(lanes // 8, 1)}"
        self.rand = rand
        self.lists = np.zeros((4, max(lanes, 16)), np.int64)
        self.lists[0] = range(self.lists.shape[1])
        self.lists[1] = self.lists[0] * lanes

    def bits(self, near):
        """Return the words of each tile."""
        lanes = self.pool.lanes
        count = near * 16 * self.step + lanes * 32
        size = max(lanes, 8)
        tiles = range(self.pool.tiles)
        return [[self.rand.getrandbits(size) for _ in range(count)] for _ in tiles]

    def span(self, first, last):
        """Return the span of some tiles."""
        return first, last, self.pool.tiles, self.pool.lanes, self.step

    def run(self, kernel, source, target, bits):
        """Run a kernel of the first round, in two parts."""
        tile = aligned(self.pool.rows * self.pool.lanes, source.dtype)
        deal = np.array(self.pieces, "u4"), np.array(self.columns, "u4"), tile
        for first, last in ((2, 3), (0, 2)):
            words = np.array(bits[first:last], self.word).reshape(-1)
            kernel(source, target, deal, self.span(first, last), self.lists, words)


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_first_round_and_back(itemsize, rand):
    """Spread does what its twin does, and gather takes it back."""
    rounds = Rounds(itemsize, rand)
    bits = rounds.bits(1)
    target = aligned(rounds.array.size, rounds.array.dtype)
    rounds.run(permute.spread, rounds.array, target, bits)
    pool = rounds.pool
    expected = pool.spread(rounds.values, rounds.pieces, rounds.columns, bits)
    assert integers(target) == expected
    back = aligned(target.size, target.dtype)
    rounds.run(permute.gather, target, back, bits)
    assert integers(back) == rounds.values


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_second_round_and_back(itemsize, rand):
    """Stir does what its twin does, and unstir takes it back."""
    rounds = Rounds(itemsize, rand)
    bits = rounds.bits(2)
    for kernel in (permute.stir, permute.unstir):
        for first, last in ((0, 1), (1, 3)):
            words = np.array(bits[first:last], rounds.word).reshape(-1)
            kernel(rounds.array, rounds.span(first, last), rounds.lists, words)
        if kernel is permute.stir:
            assert integers(rounds.array) == rounds.pool.stir(rounds.values, bits)
    assert integers(rounds.array) == rounds.values


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_a_switch_that_is_off_moves_nothing(lanes, rand):
    """And one that is on exchanges one lane of two lines: bit by bit."""
    itemsize = 64 // lanes
    rounds = Rounds(itemsize, rand, tiles=1)
    count = 2 * 16 * rounds.step + lanes * 32
    for word, bit in ((0, 0), (3, 1), (count - 1, lanes - 1)):
        bits = np.zeros(count, rounds.word)
        permute.stir(rounds.array, rounds.span(0, 1), rounds.lists, bits)
        rest = integers(rounds.array)
        permute.unstir(rounds.array, rounds.span(0, 1), rounds.lists, bits)
        bits[word] = 1 << bit
        permute.stir(rounds.array, rounds.span(0, 1), rounds.lists, bits)
        now = integers(rounds.array)
        assert sum(a != b for a, b in zip(rest, now, strict=True)) == 2
        permute.unstir(rounds.array, rounds.span(0, 1), rounds.lists, bits)
        assert integers(rounds.array) == rounds.values


@pytest.mark.parametrize(
    ("count", "itemsize"),
    [(n, size) for size in ITEMSIZES for n in (0, 1, 2, 3, 100)]
    + [(2**16 - 1, 4), (2**16, 4), (2**16 + 1, 4), (70_001, 8), (66_000, 16)]
    + [(2**18 + 77, 2)],
)
def test_a_pool_is_permuted_as_the_twin_says(count, itemsize):
    """From the master key to the last element; and restored."""
    source, values = numbered(count, itemsize)
    target = aligned(count, source.dtype)
    key = PoolKey(ProtectionKey(MASTER), FILE, epoch=3, pool="weights")
    permute_pool(source, target, key)
    assert integers(target) == naive.permuted(
        values, itemsize, master=MASTER, file_id=FILE, epoch=3, pool="weights"
    )
    back = aligned(count, source.dtype)
    restore_pool(target, back, key)
    assert integers(back) == values == integers(source)


@pytest.mark.parametrize(
    ("count", "itemsize", "slab", "segment"),
    [
        (2**19 + 77, 4, 2**15, 1),
        (2**19 + 4096 * 9, 4, 2**12, 2**20 * 3),
        (2**18 + 1, 8, 2**15, 2**20),
        (2**17 + 1024 * 5, 16, 2**14, 2**18 * 3),
        (2**18 + 2**14 * 3 + 11, 2, 2**15, 1),
        (2**19, 1, 2**15, 1),
    ],
)
def test_segments_are_those_of_the_twin(count, itemsize, slab, segment, monkeypatch):
    """Where a pool has many: borders within slabs, a last slab and block cut short."""
    monkeypatch.setattr(rounds, "_SLAB", slab)
    monkeypatch.setattr(rounds, "_SEGMENT", segment)
    source, values = numbered(count, itemsize)
    target = aligned(count, source.dtype)
    key = PoolKey(ProtectionKey(MASTER), FILE, epoch=3, pool="weights")
    permute_pool(source, target, key)
    assert integers(target) == naive.permuted(
        values,
        itemsize,
        master=MASTER,
        file_id=FILE,
        epoch=3,
        pool="weights",
        slab=slab,
        segment=segment,
    )
    back = aligned(count, source.dtype)
    restore_pool(target, back, key)
    assert integers(back) == values


def test_networks_say_where_their_words_are():
    """What runs backwards finds its words where the forward run had them."""
    assert _lines._order(("switch",), 4) == [("switch", 1, 0), ("switch", 2, 2)]
    forward = _lines._order(("switch", "turn", "switch"), 4)
    assert _lines._order(("back", "turn", "back"), 4) == forward[::-1]
