"""The kernels of the permutation against their slow twins."""

import platform
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
import pytest

from safemodel._kernels import _lines, _native, keystream, permute
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


def copied(code):
    """Write what makes words in the place of a cipher: it copies them.

    Its parameters are those of `_chacha.keystream`.
    """
    words, _, first, count, target, _, _ = code.args
    with code.loop(0, count * 128) as n:
        code.put(target, n, code.get(words, first * 8 + n))


COPIED = _native.compiled("pnnnppp", copied)


def given(bits, *, itemsize):
    """Return known words, as kernels take them: a row of them for each tile."""
    words = np.array(bits, f"u{max(64 // itemsize // 8, 1) if itemsize > 1 else 4}")
    state = np.zeros(words.nbytes // 8 + 64 * 128, "u8")  # whole batches, and more
    state.view("u1")[: words.nbytes] = words.reshape(-1).view("u1")
    room = permute.room_for_words(itemsize)
    return keystream.Words(_native.entry_of(COPIED), state, 0, room)


class Rounds:
    """A pool of a few tiles and everything the rounds take, from `rand`."""

    def __init__(self, itemsize, rand, tiles=6):
        self.pool = naive.Pool(0, itemsize)
        lanes, rows = self.pool.lanes, self.pool.rows
        self.pool.tiles = tiles
        self.array, self.values = numbered(tiles * rows * lanes, itemsize)
        self.pieces = list(range(tiles * lanes))
        rand.shuffle(self.pieces)
        self.columns = [[rand.randrange(0, tiles, 2)] for _ in range(rows)]
        self.step = (lanes.bit_length() - 1) * lanes // 2
        self.word = f"u{max(lanes // 8, 1)}"
        self.rand = rand

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
        tile = aligned(2 * self.pool.rows * self.pool.lanes, source.dtype)
        deal = np.array(self.pieces, "u4"), np.array(self.columns, "u4"), tile
        for first, last in ((2, 6), (0, 2)):
            words = given(bits, itemsize=source.itemsize)
            kernel(source, target, deal, self.span(first, last), words)


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
        for first, last in ((0, 1), (1, 6)):
            words = given(bits, itemsize=itemsize)
            kernel(rounds.array, rounds.span(first, last), words)
        if kernel is permute.stir:
            assert integers(rounds.array) == rounds.pool.stir(rounds.values, bits)
    assert integers(rounds.array) == rounds.values


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_a_switch_that_is_off_moves_nothing(lanes, rand):
    """And one that is on exchanges one lane of two lines: bit by bit."""
    itemsize = 64 // lanes
    rounds = Rounds(itemsize, rand, tiles=1)
    count = 2 * 16 * rounds.step + lanes * 32

    def move(kernel):
        kernel(rounds.array, rounds.span(0, 1), given(bits, itemsize=itemsize))

    for word, bit in ((0, 0), (3, 1), (count - 1, lanes - 1)):
        bits = np.zeros((1, count), rounds.word)

        move(permute.stir)
        rest = integers(rounds.array)
        move(permute.unstir)
        bits[0, word] = 1 << bit
        move(permute.stir)
        now = integers(rounds.array)
        assert sum(a != b for a, b in zip(rest, now, strict=True)) == 2
        move(permute.unstir)
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
    switch, turn = (lambda h, at: ("switch", h, at)), (lambda h: ("turn", h, 0))
    assert _lines.layers(("switch",), 4) == [switch(1, 0), switch(2, 2)]
    assert _lines.layers(("switch", "turn", "switch"), 4) == [
        *(switch(1, 0), switch(2, 2), turn(1), turn(2), switch(1, 4), switch(2, 6))
    ]
    assert _lines.layers(("back", "turn", "back"), 4) == [
        *(switch(2, 6), switch(1, 4), turn(1), turn(2), switch(2, 2), switch(1, 0))
    ]


STEPS = [("switch",), ("back",), ("turn", "switch"), ("back", "turn")]
STEPS += [("switch", "turn", "switch"), ("back", "turn", "back")]


@pytest.mark.parametrize("together", [2, 3, 4, 5])
@pytest.mark.parametrize("lines", [4, 8, 16, 32])
@pytest.mark.parametrize("steps", STEPS)
def test_stages_have_all_layers_in_an_order_that_is_as_good(steps, lines, together):
    """No more heights than said, and only turns of one transposition change places."""
    layers = _lines.layers(steps, lines)
    stages = _lines.stages(layers, together)
    assert max(len({layer.h for layer in stage}) for stage in stages) <= together
    order = [layer for stage in stages for layer in stage]
    kinds = [layer.kind for layer in order]
    assert kinds == [layer.kind for layer in layers]
    switches = [layer for layer in order if layer.kind == "switch"]
    assert switches == [layer for layer in layers if layer.kind == "switch"]
    assert sorted(order) == sorted(layers)


@pytest.mark.parametrize("size", ITEMSIZES)
@pytest.mark.parametrize("steps", STEPS)
def test_groups_of_a_stage_are_evenly_apart(steps, size):
    """A loop over them can count: their first lines are multiples of the second."""
    lines = 16 if len(steps) == 1 else _lines.lanes_of(size)
    together = _lines._TOGETHER[size]
    for stage in _lines.stages(_lines.layers(steps, lines), together):
        heights = sum({layer.h for layer in stage})
        firsts = [r for r in range(lines) if not r & heights]
        step = firsts[1] if len(firsts) > 1 else 1
        assert firsts == list(range(0, step * len(firsts), step))


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_gather_writes_to_any_address(itemsize, rand):
    """What streams past the caches is for aligned targets, and only for those."""
    rounds = Rounds(itemsize, rand)
    bits = rounds.bits(1)
    mixed = aligned(rounds.array.size, rounds.array.dtype)
    rounds.run(permute.spread, rounds.array, mixed, bits)
    for start in (0, 1, 64 // itemsize):
        room = aligned(mixed.size + 64, mixed.dtype)
        room.view("u1")[:] = 0xA5
        back = room[start : start + mixed.size]
        rounds.run(permute.gather, mixed, back, bits)
        assert integers(back) == rounds.values
        beside = np.delete(room, range(start, start + mixed.size))
        assert (beside.view("u1") == 0xA5).all()


@pytest.mark.parametrize("cpu", ["", "x86-64"])
def test_sixteen_bytes_begin_at_multiples_of_eight(cpu, rand):
    """As numpy lets complex numbers do: no instruction may ask for more."""
    if cpu and platform.machine() != "x86_64":
        pytest.skip("the name of an x86 processor")
    calls = raw_calls(16, rand)
    for name, (args, numbers, changed) in calls.items():
        moved, want = [], None
        for array in args:
            if isinstance(array, int):
                moved.append(array)
                continue
            room = np.zeros(array.nbytes + 64, "u1")
            start = -room.ctypes.data % 64
            # What is streamed to is the exception, which the callers check.
            start += 8 if name == "shuffle" or array is not args[1] else 0
            copy = room[start : start + array.nbytes].view(array.dtype)
            moved.append(copy.reshape(array.shape))
            moved[-1][...] = array
            if array is changed:
                want = moved[-1]
        kinds, writer = permute._WRITERS[name]
        run = _native.compiled(kinds, writer(16), cpu=cpu)
        assert run(*places(moved), *numbers) == 0
        assert permute.made(name, 16)(*places(args), *numbers) == 0
        assert np.array_equal(want.view("u8"), changed.view("u8"))


def places(args):
    """Return arguments with addresses in the place of arrays."""
    return [arg if isinstance(arg, int) else _native.address(arg) for arg in args]


def raw_calls(itemsize, rand):
    """Return calls of all kernels as they are: parameters, and arrays that change."""
    rounds = Rounds(itemsize, rand)
    size, dtype = rounds.array.size, rounds.array.dtype
    pieces, columns = np.array(rounds.pieces, "u4"), np.array(rounds.columns, "u4")
    draws = np.array([[rand.randrange(40) for _ in range(10)] for _ in range(2)])
    calls = {}
    for name in permute._WRITERS:
        near = 2 if "stir" in name else 1
        words = given(rounds.bits(near), itemsize=itemsize)
        source = rounds.array.copy()
        target, tile = aligned(size, dtype), aligned(2 * size, dtype)
        if name == "shuffle":
            calls[name] = ((source, draws), (2, 50, 10, 40, 1), source)
        elif "stir" in name:
            args = source, words.maker, words.state, words.number, words.room
            calls[name] = (args, (1, 3), source)
        else:
            args = (source, target, pieces, columns, tile)
            args += (words.maker, words.state, words.number, words.room)
            calls[name] = (args, (0, 6, 6, 1, len(pieces)), target)
    return calls


LESSER = [("x86-64", 1), ("x86-64", 16), *(("x86-64-v3", n) for n in (2, 4, 8))]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 processors")
@pytest.mark.parametrize(("cpu", "itemsize"), LESSER)
def test_lesser_processors_do_the_same(cpu, itemsize, rand):
    """Machine code without AVX-512, or with nothing but SSE2, moves the same."""
    if cpu == "x86-64-v3" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    for name, (args, numbers, changed) in raw_calls(itemsize, rand).items():
        arrays = [arg for arg in args if not isinstance(arg, int)]
        before = [array.copy() for array in arrays]
        results = []
        kinds, writer = permute._WRITERS[name]
        lesser = _native.compiled(kinds, writer(itemsize), cpu=cpu)
        for run in (lesser, permute.made(name, itemsize)):
            for array, old in zip(arrays, before, strict=True):
                array[...] = old
            assert run(*places(args), *numbers) == 0
            results.append(changed.tobytes())
        assert results[0] == results[1]
        assert results[0] != before[0].tobytes()


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_no_kernel_is_long(itemsize):
    """Time to compile grows with instructions, and faster where they are many."""
    for kinds, writer in permute._WRITERS.values():
        code = _native.Code(kinds)
        writer(itemsize)(code)
        assert 40 < str(code.module).count("\n") < 2000


def test_threads_may_ask_for_one_kernel_at_once(rand):
    """Each gets one that works, whoever compiled it."""
    permute.made.cache_clear()

    def work(_):
        pool, values = numbered(60, 4)
        permute.shuffle(pool.reshape(3, 20), np.zeros((3, 20), "i8"), 0, False)
        permute.shuffle(pool.reshape(3, 20), np.zeros((3, 20), "i8"), 0, True)
        return integers(pool) == values

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [True] * 8


class Fits:
    """Arguments of all rounds that fit together, to be changed one at a time."""

    def __init__(self, rand):
        rounds = Rounds(4, rand)
        self.source, self.target = rounds.array, aligned(rounds.array.size, "u4")
        self.pieces = np.array(rounds.pieces, "u4")
        self.columns = np.array(rounds.columns, "u4")
        self.tile = aligned(2 * 16 * 16 * 16, "u4")
        self.span = rounds.span(0, 6)
        self.words = given(rounds.bits(2), itemsize=4)
        self.room = self.words.room

    @property
    def bits(self):
        """Words in the room there is."""
        return self.words._replace(room=self.room)

    def first_round(self, kernel):
        """Call a kernel of the first round."""
        deal = self.pieces, self.columns, self.tile
        kernel(self.source, self.target, deal, self.span, self.bits)

    def second_round(self, kernel):
        """Call a kernel of the second round."""
        kernel(self.target, self.span, self.bits)


def frozen(array):
    """Return a copy that is read-only."""
    made = aligned(array.size, array.dtype).reshape(array.shape)
    made[...] = array
    made.flags.writeable = False
    return made


MISFITS = [
    ("source", lambda a: a[1:]),
    ("source", lambda a: np.repeat(a, 2)[::2]),
    ("source", lambda a: a.view("u2")),
    ("target", lambda a: a[:-1]),
    ("target", frozen),
    ("pieces", lambda a: a[:-1]),
    ("pieces", lambda a: a.astype("i8")),
    ("pieces", lambda a: a + np.uint32(a.max() == a)),
    ("pieces", lambda a: np.full_like(a, 2**32 - 1)),
    ("columns", lambda a: a[:-1]),
    ("columns", lambda a: a[:, :0]),
    ("columns", lambda a: np.full_like(a, 3)),
    ("tile", lambda a: a[:-1]),
    ("tile", frozen),
    ("columns", lambda a: np.full_like(a, 6)),
    ("room", lambda a: a[: 2 * 2048 - 1]),
    ("room", lambda a: a.view("u4")),
    ("room", frozen),
    ("span", lambda s: (0, 8, *s[2:])),
    ("span", lambda s: (-2, *s[1:])),
    ("span", lambda s: (1, *s[1:])),
    ("span", lambda s: (4, 2, *s[2:])),
    ("span", lambda s: (0, 5, *s[2:])),
    ("span", lambda s: (0, 6, 7, *s[3:])),
    ("span", lambda s: (0, 6, 8, *s[3:])),
    ("span", lambda s: (*s[:3], 8, s[4])),
    ("span", lambda s: (*s[:4], 16)),
]


@pytest.mark.parametrize("kernel", [permute.spread, permute.gather])
@pytest.mark.parametrize(("name", "change"), MISFITS)
def test_first_rounds_refuse_what_does_not_fit(kernel, name, change, rand):
    """Whether that is found before the kernel runs or in it."""
    fits = Fits(rand)
    fits.first_round(kernel)
    setattr(fits, name, change(getattr(fits, name)))
    with pytest.raises(ValueError, match="kernel"):
        fits.first_round(kernel)


def test_spread_refuses_a_target_it_cannot_stream_to(rand):
    """It would end the process."""
    fits = Fits(rand)
    fits.target = aligned(fits.source.size + 1, "u4")[1:]
    with pytest.raises(ValueError, match="kernel"):
        fits.first_round(permute.spread)


@pytest.mark.parametrize("kernel", [permute.stir, permute.unstir])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("target", lambda a: a[:-1]),
        ("target", frozen),
        ("target", lambda a: np.zeros(a.size, "V3")),
        ("room", lambda a: a[: 3072 - 1]),
        ("room", lambda a: a.view("u4")),
        ("room", frozen),
        ("span", lambda s: (0, 7, *s[2:])),
        ("span", lambda s: (-1, *s[1:])),
        ("span", lambda s: (2, 1, *s[2:])),
        ("span", lambda s: (*s[:3], 8, s[4])),
        ("span", lambda s: (*s[:4], 16)),
    ],
)
def test_second_rounds_refuse_what_does_not_fit(kernel, name, change, rand):
    """Before they run."""
    fits = Fits(rand)
    fits.second_round(kernel)
    setattr(fits, name, change(getattr(fits, name)))
    with pytest.raises(ValueError, match="kernel"):
        fits.second_round(kernel)


@pytest.mark.parametrize(
    ("pools", "partners", "first"),
    [
        (np.zeros((2, 10), "V3"), np.zeros((2, 10), "i8"), 0),
        (np.zeros((2, 10), "u4"), np.zeros((2, 10), "u8"), 0),
        (np.zeros((2, 10), "u4"), np.zeros((3, 10), "i8"), 0),
        (np.zeros((2, 10), "u4"), np.zeros((2, 10), "i8"), 1),
        (np.zeros((2, 10), "u4"), np.zeros((2, 10), "i8"), -1),
        (np.zeros((2, 10), "u4"), np.full((2, 10), 10), 0),
        (np.zeros((2, 10), "u4"), np.full((2, 10), -1), 0),
        (np.zeros((2, 20), "u4")[:, ::2], np.zeros((2, 10), "i8"), 0),
        (frozen(np.zeros((2, 10), "u4")), np.zeros((2, 10), "i8"), 0),
    ],
)
def test_shuffle_refuses_what_does_not_fit(pools, partners, first):
    """An exchange with what is no element above all."""
    with pytest.raises(ValueError, match="kernel"):
        permute.shuffle(pools, partners, first, False)


@pytest.mark.parametrize(
    ("words", "first", "drawn", "refused"),
    [
        (np.zeros((2, 5), "u8"), 0, np.zeros((2, 5), "i8"), np.zeros(10, "i8")),
        (np.zeros((2, 5), "u4"), 0, np.zeros((2, 5), "i4"), np.zeros(10, "i8")),
        (np.zeros((2, 5), "u4"), 0, np.zeros((5, 2), "i8"), np.zeros(10, "i8")),
        (np.zeros((2, 5), "u4"), 0, np.zeros((2, 5), "i8"), np.zeros(9, "i8")),
        (np.zeros((2, 5), "u4"), -1, np.zeros((2, 5), "i8"), np.zeros(10, "i8")),
        (np.zeros((2, 5), "u4"), 2**32 - 4, np.zeros((2, 5), "i8"), np.zeros(10, "i8")),
        (np.zeros((2, 5), "u4"), 0, frozen(np.zeros((2, 5), "i8")), np.zeros(10, "i8")),
    ],
)
def test_bounded_refuses_what_does_not_fit(words, first, drawn, refused):
    """And bounds that are no 32-bit numbers."""
    with pytest.raises(ValueError, match="kernel"):
        permute.bounded(words, first, drawn, refused)


def test_addresses_are_those_of_numpy():
    """Of arrays that may be written, of others, of parts of them, and of none."""
    whole = np.zeros((4, 6), "u4")
    for array in (whole, whole[1:], whole.astype("c16"), frozen(whole)):
        assert _native.address(array) == array.ctypes.data
    assert isinstance(_native.address(whole[:0]), int)
    for array in (whole[:, 1:], whole.T, np.zeros(9, "u1")[1:].view("u4")):
        with pytest.raises(ValueError, match="contiguous"):
            _native.address(array)
    with pytest.raises(ValueError, match="writable"):
        _native.address(frozen(whole), write=True)
