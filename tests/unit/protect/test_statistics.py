"""How random the order of a permuted pool is; and that each measure can fail.

A statistic takes places: where each element went. It is computed for pools permuted
with fixed keys, and must be near what a random permutation has; and for permutations
that are known to be weak, which it must find. The bounds were set from random ones and
leave room: what is caught is caught by far.
"""

import numpy as np
import pytest

from safemodel._protect import rounds
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool

SIZE = 1 << 20
SIZES = [SIZE, SIZE + 12_345, 2**16, 700_001]


def places(size, *, master=0, file_id=0, epoch=0, pool="p", dtype="u4"):
    """Return where each element of a pool goes."""
    key = PoolKey(
        ProtectionKey(master.to_bytes(32, "little")),
        file_id.to_bytes(32, "little"),
        epoch=epoch,
        pool=pool,
    )
    source, target = aligned(size, dtype), aligned(size, dtype)
    source[:] = np.arange(size).astype(dtype)
    permute_pool(source, target, key)
    return inverse(target.real.astype(np.int64))


def inverse(order):
    """Return the other direction of a permutation."""
    found = np.empty_like(order)
    found[order] = np.arange(order.size)
    return found


def excess(cells, one, two):
    """Return by how many standard deviations a table is too uneven."""
    table = np.bincount(one * cells + two, minlength=cells * cells).astype(float)
    mean, degrees = table.sum() / table.size, (cells - 1) ** 2
    return (((table - mean) ** 2 / mean).sum() - degrees) / np.sqrt(2 * degrees)


def unevenness(found):
    """Return how uneven regions and remainders of places are, given those before."""
    size, before = found.size, np.arange(found.size)
    worst = -np.inf
    for cells in (16, 64, 256):
        region = [before * cells // size, found * cells // size]
        rest = [before % cells, found % cells]
        for one in (region, rest):
            for two in (region, rest):
                worst = max(worst, excess(cells, one[0], two[1]))
    return worst


APART = (1, 2, 16, 255, 256, 4096)


def distances(found, apart):
    """Return how far apart elements are that were so far apart."""
    return np.abs(found[apart:] - found[:-apart])


def neighbours(found):
    """Return how many of those that were 1, 2, 16 ... apart are neighbours."""
    return sum(int((distances(found, d) == 1).sum()) for d in APART)


def favourite(found):
    """Return how many pairs that were so far apart share their distance, at most."""
    return max(int(np.bincount(distances(found, d)).max()) for d in APART)


def longest_run(found):
    """Return the longest run of elements that are still side by side."""
    kept = np.flatnonzero(np.concatenate([[True], distances(found, 1) != 1, [True]]))
    return int(np.diff(kept).max())


def distortion(found):
    """Return how far the share of pairs within a distance is from chance, at most."""
    worst = 0.0
    for d in APART:
        span = np.sort(distances(found, d)) / found.size
        share = np.arange(1, span.size + 1) / span.size
        worst = max(worst, float(np.abs(2 * span - span**2 - share).max()))
    return worst


# A statistic, and the most it may be. Of 30 random permutations of a million the
# largest were 3.1, 21, 14, 2 and 0.002; of 100 of 65,536 they were 3.2, 19, 13, 2 and
# 0.008. The last is larger here by design, 0.005 of a million: no two elements of a
# piece go to one row, which is what chance does to one pair in 256.
BOUNDS = {
    unevenness: 6.0,
    neighbours: 36,
    favourite: 22,
    longest_run: 3,
    distortion: 0.012,
}


def random_order(size):
    """Return places that are random."""
    return np.random.default_rng(1).permutation(size)


def rows_moved(size, width=64):
    """Return places under the published shuffle: rows move, what is in them stays."""
    rows = np.random.default_rng(1).permutation(size // width)
    return (rows[:, None] * width + np.arange(width)).reshape(-1)


def one_table(size, width=4096):
    """Return places if rows move and are shuffled inside, all in the same way."""
    inside = np.random.default_rng(2).permutation(width)
    rows = np.random.default_rng(1).permutation(size // width)
    return (rows[:, None] * width + inside).reshape(-1)


def blocks_only(size, width=4096):
    """Return places if each block is shuffled well and stays where it is."""
    rand = np.random.default_rng(1)
    starts = range(0, size, width)
    return np.concatenate([start + rand.permutation(width) for start in starts])


WEAK = {
    "same": np.arange,
    "turned": lambda size: np.roll(np.arange(size), 777),
    "reversed": lambda size: np.arange(size)[::-1].copy(),
    "stride": lambda size: np.arange(size) * 65_537 % size,
    "rows": rows_moved,
    "one table": one_table,
    "blocks": blocks_only,
}

CAUGHT = {
    unevenness: ["same", "turned", "reversed", "stride", "rows", "one table", "blocks"],
    neighbours: ["same", "turned", "reversed", "rows", "one table", "blocks"],
    favourite: ["same", "turned", "reversed", "stride", "rows", "one table", "blocks"],
    longest_run: ["same", "turned", "reversed", "rows"],
    distortion: ["same", "turned", "reversed", "stride", "rows", "one table", "blocks"],
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("statistic", BOUNDS)
def test_permuted_pools_are_near_chance(statistic, size):
    """With each of three keys."""
    for epoch in range(3):
        assert statistic(places(size, epoch=epoch)) <= BOUNDS[statistic]


@pytest.fixture
def small_segments(monkeypatch):
    """Slabs of 4 pieces, segments of 4 blocks: as 32 and 32 of a large pool."""
    monkeypatch.setattr(rounds, "_SLAB", 4 << 10)
    monkeypatch.setattr(rounds, "_SEGMENT", 4 << 20)


@pytest.mark.parametrize("size", [2 * SIZE, 2 * SIZE + 12_345, 1_700_001])
@pytest.mark.parametrize("statistic", BOUNDS)
def test_many_segments_are_near_chance(statistic, size, small_segments):
    """Of two and of three, with a last block of any size."""
    assert len(rounds.Shape(size, 4).segments) > 2
    for epoch in range(2):
        assert statistic(places(size, epoch=epoch)) <= BOUNDS[statistic]


@pytest.mark.parametrize("dtype", ["u8", "c16"])
@pytest.mark.parametrize("statistic", BOUNDS)
def test_wide_elements_are_near_chance(statistic, dtype):
    """Their lines have fewer lanes, and their tiles fewer rows."""
    bound = BOUNDS[statistic] * (1 if statistic is not distortion else 2)
    assert statistic(places(SIZE + 5, dtype=dtype)) <= bound


@pytest.mark.parametrize("statistic", BOUNDS)
def test_a_random_order_is_near_chance(statistic):
    """The bounds do not ask for more than there is."""
    assert statistic(random_order(SIZE)) <= BOUNDS[statistic]


@pytest.mark.parametrize(
    ("statistic", "weak"), [(s, name) for s, names in CAUGHT.items() for name in names]
)
def test_weak_permutations_are_caught(statistic, weak):
    """Each statistic can fail, and fails for these by far."""
    assert statistic(WEAK[weak](SIZE)) > 1.5 * BOUNDS[statistic]


def together(found, slab, cell):
    """Return how often two elements of a slab go to one cell, beside chance."""
    count = found.size // slab
    cells = -(-found.size // cell)
    pairs = 0.0
    for k in range(count):
        mine = np.bincount(found[k * slab : (k + 1) * slab] // cell, minlength=cells)
        pairs += float((mine * (mine - 1)).sum())
    return pairs / (count * slab * (slab - 1)) * cells


def of_one_slab(size, slab=1 << 14, segment=1 << 16):
    """Return places if slabs move and elements stay in the segment they moved to."""
    rand = np.random.default_rng(1)
    dealt = rand.permutation(size // slab)[:, None] * slab + np.arange(slab)
    dealt = dealt.reshape(-1, segment)
    return inverse(np.concatenate([rand.permutation(part) for part in dealt]))


@pytest.mark.parametrize("cell", [64, 4096, 1 << 16])
@pytest.mark.parametrize("slab", [1 << 10, 1 << 13, 1 << 14])
def test_slabs_do_not_stay_together(slab, cell, small_segments):
    """Elements of a slab, or of several, share lines and chunks no more than chance.

    Chance is 1. It is less for a slab that is all, or a good part, of what can meet
    elsewhere: its pieces go to blocks of their own.
    """
    for epoch in range(3):
        found = places(SIZE * 2, epoch=epoch)
        assert 0.6 < together(found, slab, cell) < 1.02


def test_slabs_do_not_stay_together_in_one_segment():
    """As pools up to 32 MiB are."""
    for epoch in range(3):
        assert 0.9 < together(places(SIZE * 2, epoch=epoch), 1 << 13, 4096) < 1.02


def test_slabs_whose_pieces_share_blocks_are_caught(monkeypatch):
    """If a segment is one block, all of a slab's pieces share its runs of lines."""
    monkeypatch.setattr(rounds, "_SEGMENT", 1)
    assert together(places(SIZE * 2), 1 << 13, 4096) > 1.5
    assert unevenness(places(SIZE + 12_345)) > 1.5 * BOUNDS[unevenness]


def test_slabs_that_stay_together_are_caught():
    """The measure can fail: four slabs of 128 share a region, 32 times chance."""
    assert together(of_one_slab(SIZE * 2), 1 << 14, 4096) > 20
    assert abs(together(random_order(SIZE * 2), 1 << 14, 4096) - 1) < 0.01


def neighbouring_slabs(found, slab=1 << 10):
    """Return how far apart neighbours are that are in two slabs."""
    edge = np.arange(slab, found.size, slab)
    one, two = found[edge - 1], found[edge]
    return np.abs(one - two) / found.size


def test_neighbours_in_two_slabs_are_as_far_apart_as_any(small_segments):
    """Over the border of slabs, at many keys: distances as chance has them."""
    spans = np.concatenate(
        [neighbouring_slabs(places(2 * SIZE, epoch=epoch)) for epoch in range(10)]
    )
    spans = np.sort(spans)
    share = np.arange(1, spans.size + 1) / spans.size
    # Kolmogorov: above 1.95 once in a thousand.
    assert np.abs(2 * spans - spans**2 - share).max() * np.sqrt(spans.size) < 1.95


def test_small_pools_are_uniform():
    """Each of 12 elements is at each place as often, over 20,000 keys."""
    table = np.zeros((12, 12))
    pairs = np.zeros((12, 12))
    for epoch in range(20_000):
        found = places(12, epoch=epoch)
        table[np.arange(12), found] += 1
        pairs[found[0], found[1]] += 1
    cells = 20_000 / 12
    assert abs((((table - cells) ** 2) / cells).sum() - 121) < 5 * np.sqrt(2 * 121)
    cells = 20_000 / 132
    off = pairs[~np.eye(12, dtype=bool)]
    assert abs((((off - cells) ** 2) / cells).sum() - 131) < 5 * np.sqrt(2 * 131)
    assert np.diag(pairs).sum() == 0


@pytest.mark.parametrize(
    ("size", "dtype", "segment"),
    [
        (2**16 + 300, "u4", 32 << 20),
        (2**16, "u8", 32 << 20),
        (2**17, "c16", 32 << 20),
        (2**19 + 77, "u4", 1 << 20),
        (2**18 + 9, "u8", 1 << 20),
    ],
)
def test_a_place_is_uniform_over_keys(size, dtype, segment, monkeypatch):
    """Of elements at the edges, in the middle and in the rest: in 16 regions."""
    monkeypatch.setattr(rounds, "_SEGMENT", segment)
    chosen = np.array([0, 1, size // 2, size - 257, size - 2, size - 1])
    keys = 600 if size < 2**18 else 300
    counts = np.zeros((chosen.size, 16))
    sources = np.zeros((chosen.size, 16))
    for epoch in range(keys):
        found = places(size, epoch=epoch, dtype=dtype)
        counts[np.arange(chosen.size), found[chosen] * 16 // size] += 1
        sources[np.arange(chosen.size), inverse(found)[chosen] * 16 // size] += 1
    for table in (counts, sources):
        mean = keys / 16
        # 15 degrees of freedom: chance is above 50 once in 90,000.
        assert (((table - mean) ** 2 / mean).sum(axis=1)).max() < 50


@pytest.mark.parametrize("segment", [1 << 20, 32 << 20])
@pytest.mark.parametrize("size", [1000, SIZE])
@pytest.mark.parametrize(
    "other", [{"epoch": 1}, {"file_id": 1}, {"pool": "q"}, {"master": 1}]
)
def test_no_two_permutations_are_alike(size, other, segment, monkeypatch):
    """Few images are equal; nor is one the other turned, or its rows moved."""
    monkeypatch.setattr(rounds, "_SEGMENT", segment)
    one, two = places(size), places(size, **other)
    assert (one == two).sum() <= 8
    between = one[inverse(two)]
    assert (between == np.arange(size)).sum() <= 8
    if size == SIZE:
        for statistic, bound in BOUNDS.items():
            assert statistic(between) <= bound


def test_pools_of_two_sizes_are_not_alike():
    """Not even under one key, and however little the sizes differ."""
    one, two = places(SIZE), places(SIZE + 1)
    assert (one == two[:-1]).sum() <= 8
    assert (places(1000) == places(1001)[:-1]).sum() <= 8


def test_alike_permutations_are_caught():
    """The same one, and the same one turned."""
    one = places(SIZE)
    assert (one == one.copy()).sum() == SIZE
    between = one[inverse((one + 777) % SIZE)]
    assert neighbours(between) > BOUNDS[neighbours]


def placed_rows(mixed, public):
    """Return which public row each row is most like, by cosine."""
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (mixed, public)]
    return (unit[0] @ unit[1].T).argmax(axis=1)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_a_related_checkpoint_places_no_rows(strength):
    """The published row shuffle is undone so; this one is not."""
    rand = np.random.default_rng(5)
    public = rand.standard_normal((1024, 128), np.float32)
    tuned = public + np.float32(strength) * rand.standard_normal(
        public.shape, np.float32
    )
    order = rand.permutation(1024)
    assert (placed_rows(tuned[order], public) == order).mean() > 0.95
    source, target = aligned(tuned.size, "f4"), aligned(tuned.size, "f4")
    source[:] = tuned.reshape(-1)
    permute_pool(
        source, target, PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=0, pool="p")
    )
    # An element of each row says which row it came from, if anything does.
    came = inverse(places_of(tuned.size)) // 128
    found = placed_rows(target.reshape(public.shape), public)
    right = (came.reshape(public.shape) == found[:, None]).mean()
    assert right < 0.01


def places_of(size):
    """Return where the elements of the pool above went."""
    source, target = aligned(size, "u4"), aligned(size, "u4")
    source[:] = np.arange(size)
    permute_pool(
        source, target, PoolKey(ProtectionKey(b"k" * 32), b"f" * 32, epoch=0, pool="p")
    )
    return inverse(target.astype(np.int64))
