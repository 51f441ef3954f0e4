"""Tags: what they bind, that they are as described, and that they find what changed."""

from __future__ import annotations

import pickle
import struct
import threading
from itertools import pairwise

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safemodel._protect.layout import (
    ENCRYPTED,
    PLAIN,
    STORED,
    Extent,
    Pool,
    Spans,
    leaf_ends,
)
from safemodel._protect.leaves import Difference, PoolTagger, change_error
from safemodel._protect.tags import FAN, Tagger
from safemodel.errors import TruncatedFileError
from tests.unit.protect.helpers_protect import (
    FILE_ID,
    KEY,
    MIB,
    OTHER,
    SECRET,
    chunks,
    pool_of,
    small_pools,
)

TAGGER = Tagger.keyed(KEY, FILE_ID, 3)
BIG = pool_of(
    "bfloat16",
    2,
    [("a", (MIB,)), ("b", (3, MIB // 8)), ("c", ()), ("d", (0,)), ("e", (MIB // 2,))],
    [("t", (MIB + 3 * MIB // 8 + 1 + MIB // 2,))],
)
"""Four chunks; the plain tensors a, b, c and e have bytes in them."""


TURNED = Pool(**{**vars(BIG), "stored": BIG.plain, "plain": BIG.stored})


def leaf_by_hand(key, order, number, pool, start, data, extents):
    """Return a leaf, written from the description and not from the code."""
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    text = b"safemodel leaf 1" + bytes([order]) + FILE_ID + u64(3) + u32(number)
    text += u64(pool.length) + u32(len(pool.dtype)) + pool.dtype.encode()
    text += u32(pool.itemsize) + u64(start) + u64(len(data)) + u32(len(extents))
    for name, shape, first, length in extents:
        text += u32(len(name.encode())) + name.encode() + u32(len(shape))
        text += b"".join(map(u64, shape)) + u64(first) + u64(length)
    return blake3(text + data, key=key).digest()


def tag_key(epoch=3):
    """Return the key of tags, from the description."""
    bound = b"safemodel tags\0" + struct.pack("<Q", epoch)
    return HKDF(SHA256(), 32, FILE_ID, bound).derive(SECRET)


def test_a_leaf_is_as_described():
    """Every field, in its place."""
    tagger = PoolTagger(TAGGER, 1, TURNED)
    parts = chunks(BIG)

    a = ("a", (MIB,), 0, 2 * MIB)
    assert tagger.leaf(1, parts[1]) == leaf_by_hand(
        tag_key(), 0, 1, BIG, MIB, parts[1], [a]
    )
    b = ("b", (3, MIB // 8), 2 * MIB, 6 * MIB // 8)
    e = ("e", (MIB // 2,), 2 * MIB + 6 * MIB // 8 + 2, MIB)
    c = ("c", (), 2 * MIB + 6 * MIB // 8, 2)
    assert tagger.leaf(2, parts[2]) == leaf_by_hand(
        tag_key(), 0, 1, BIG, 2 * MIB, parts[2], [b, c, e]
    )
    assert len(parts[3]) == 6 * MIB // 8 + 2
    assert tagger.leaf(3, parts[3]) == leaf_by_hand(
        tag_key(), 0, 1, BIG, 3 * MIB, parts[3], [e]
    )


def test_a_leaf_in_plain_order_is_as_described():
    """It ends where its tensor does."""
    tagger = PoolTagger(TAGGER, 1, BIG, PLAIN)
    parts = chunks(BIG, order=PLAIN)

    assert [len(part) for part in parts] == [MIB, MIB, 6 * MIB // 8, 2, MIB]
    a = ("a", (MIB,), 0, 2 * MIB)
    assert tagger.leaf(1, parts[1]) == leaf_by_hand(
        tag_key(), 1, 1, BIG, MIB, parts[1], [a]
    )
    at = 2 * MIB + 6 * MIB // 8
    assert tagger.leaf(3, parts[3]) == leaf_by_hand(
        tag_key(), 1, 1, BIG, at, parts[3], [("c", (), at, 2)]
    )
    e = ("e", (MIB // 2,), at + 2, MIB)
    assert tagger.leaf(4, parts[4]) == leaf_by_hand(
        tag_key(), 1, 1, BIG, at + 2, parts[4], [e]
    )


def flat_pool(*lengths):
    """Return a pool of bytes with tensors of these lengths in plain order."""
    names = [(f"t{index}", (length,)) for index, length in enumerate(lengths)]
    return pool_of("uint8", 1, names, [("x", (sum(lengths),))])


@pytest.mark.parametrize(
    ("lengths", "ends"),
    [
        ((), []),
        ((0, 0), []),
        ((3, 0, 4), [3, 7]),
        ((MIB,), [MIB]),
        ((MIB + 1, 2), [MIB, MIB + 1, MIB + 3]),
        ((5, 3 * MIB, 0, 9), [5, MIB + 5, 2 * MIB + 5, 3 * MIB + 5, 3 * MIB + 14]),
    ],
)
def test_chunks_in_plain_order_end_where_tensors_do(lengths, ends):
    """Those in stored order do not; empty tensors have none."""
    pool = flat_pool(*lengths)

    assert leaf_ends(pool, PLAIN) == ends
    whole = [*range(MIB, sum(lengths), MIB), *[sum(lengths)][: sum(lengths)]]
    assert leaf_ends(pool, STORED) == whole


@pytest.mark.parametrize("small", [1, 100, 700, 5_000, 40_000])
def test_many_small_tensors_share_chunks(small):
    """No more than 128 and a tenth of a percent, and tensors still end with one."""
    few = flat_pool(*[small] * 128)
    assert leaf_ends(few, PLAIN) == [small * (k + 1) for k in range(128)]

    pool = flat_pool(*[small] * 3000, 2 * MIB + 1, *[small] * 3000)
    ends = leaf_ends(pool, PLAIN)

    assert len(ends) <= 128 + pool.length // 32_000
    assert len(ends) == 6003 or small < 32_000
    borders = {extent.start for extent in pool.plain} | {pool.length}
    inner = {3000 * small + MIB, 3000 * small + 2 * MIB}
    assert set(ends) <= borders | inner | {end + MIB for end in inner}
    assert max(b - a for a, b in pairwise([0, *ends])) <= MIB


def test_a_root_is_as_described():
    """Nodes, layouts and all, for two small pools without leaves in plain order."""
    pools = small_pools()
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack

    def tag(text):
        return blake3(text, key=tag_key()).digest()

    leaves, text = [], b"safemodel root 1" + FILE_ID + u64(3) + u32(2) + b"\2"
    for number, pool in enumerate(pools):
        extents = [extent for extent in pool.stored if extent.length]
        leaf = leaf_by_hand(
            tag_key(), 0, number, pool, 0, chunks(pool)[0], [tuple(e) for e in extents]
        )
        leaves.append(((leaf,), None))
        node = b"safemodel node 1\0" + u32(number) + u32(1) + u64(0) + u32(1) + leaf
        layouts = []
        for order, laid in ((0, pool.stored), (1, pool.plain)):
            layout = b"safemodel map  1" + bytes([order]) + u32(number)
            layout += u64(pool.length) + u32(len(pool.dtype)) + pool.dtype.encode()
            layout += u32(pool.itemsize) + u32(len(laid))
            for extent in laid:
                layout += u32(len(extent.name)) + extent.name.encode()
                layout += u32(len(extent.shape)) + b"".join(map(u64, extent.shape))
                layout += u64(extent.start) + u64(extent.length)
            layouts.append(tag(layout))
        text += u64(1) + tag(node) + layouts[0] + u64(0) + bytes(32) + layouts[1]
    frame = tag(b"safemodel frame1" + b"zip" + b"headers")

    assert TAGGER.frame([b"zip", b"headers"]) == frame
    assert TAGGER.root(pools, leaves, frame) == tag(text + frame)


def test_many_leaves_are_put_together_256_at_a_time():
    """257 make two nodes and one above them; an empty pool has a node, too."""
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack

    def node(level, at, children):
        text = b"safemodel node 1\1" + u32(5) + u32(level) + u64(at)
        text += u32(len(children)) + b"".join(children)
        return blake3(text, key=tag_key()).digest()

    leaves = [bytes([index % 256, index // 256]) * 16 for index in range(FAN + 1)]

    assert FAN == 256
    assert TAGGER._top(1, 5, []) == node(1, 0, [])
    assert TAGGER._top(1, 5, leaves[:-1]) == node(1, 0, leaves[:-1])
    two = [node(1, 0, leaves[:-1]), node(1, 1, leaves[-1:])]
    assert TAGGER._top(1, 5, leaves) == node(2, 0, two)


def leaf_of(**changes):
    """Return the leaf of a chunk whose circumstances differ in one."""
    given = {
        "key": KEY,
        "file_id": FILE_ID,
        "epoch": 3,
        "number": 0,
        "order": STORED,
        "dtype": "float16",
        "itemsize": 2,
        "names": ["a", "b"],
        "shapes": [(MIB // 4, 2), (MIB // 2,)],
        "index": 0,
        "data": bytes(MIB),
    } | changes
    tensors = list(zip(given["names"], given["shapes"], strict=True))
    pool = pool_of(given["dtype"], given["itemsize"], tensors, tensors)
    tagger = Tagger.keyed(given["key"], given["file_id"], given["epoch"])
    return PoolTagger(tagger, given["number"], pool, given["order"]).leaf(
        given["index"], given["data"]
    )


BOUND = {
    "nothing": {},
    "key": {"key": OTHER},
    "file": {"file_id": bytes(32)},
    "epoch": {"epoch": 4},
    "pool": {"number": 1},
    "order": {"order": PLAIN, "shapes": [(MIB // 4, 2, 2), (0,)]},
    "order_alone": {"order": STORED, "shapes": [(MIB // 4, 2, 2), (0,)]},
    "encrypted": {"order": ENCRYPTED, "shapes": [(MIB // 4, 2, 2), (0,)]},
    "dtype": {"dtype": "bfloat16"},
    "itemsize": {"itemsize": 1, "shapes": [(MIB // 2, 2), (MIB,)]},
    "name": {"names": ["c", "b"]},
    "name_boundary": {"names": ["ab", ""]},
    "shape": {"shapes": [(2, MIB // 4), (MIB // 2,)]},
    "shape_of_one": {"shapes": [(MIB // 4, 2, 1), (MIB // 2,)]},
    "order_of_tensors": {"names": ["b", "a"]},
    "pool_length": {"shapes": [(MIB // 4, 2), (MIB,)]},
    "position": {"index": 1},
    "bytes": {"data": bytes(MIB - 1) + b"\1"},
    "first_byte": {"data": b"\1" + bytes(MIB - 1)},
}


def test_every_circumstance_is_bound():
    """One of them changed, and the leaf is another; none are equal."""
    leaves = {kind: leaf_of(**changes) for kind, changes in BOUND.items()}

    assert len(set(leaves.values())) == len(BOUND)
    assert leaves["nothing"] == leaf_of()


def test_length_is_bound():
    """A shorter last chunk is not one of zeros, nor part of a longer one."""
    short = pool_of("uint8", 1, [("a", (9,))], [("a", (9,))])
    long = pool_of("uint8", 1, [("a", (10,))], [("a", (10,))])

    tags = {
        PoolTagger(TAGGER, 0, pool).leaf(0, bytes(pool.length))
        for pool in (short, long)
    }

    assert len(tags) == 2
    for data in (bytes(8), bytes(10), b""):
        with pytest.raises(ValueError, match="chunk 0 has 9 bytes"):
            PoolTagger(TAGGER, 0, short).leaf(0, data)
    for index in (-1, 1):
        with pytest.raises(ValueError, match=f"1 chunks, and chunk {index}"):
            PoolTagger(TAGGER, 0, short).leaf(index, bytes(9))


def test_a_root_binds_what_no_chunk_can():
    """Names of empty tensors, pools of nothing, leaves not taken, the frame."""
    one, two = small_pools()
    leaves = [((b"1" * 32,), (b"2" * 32,)), ((b"3" * 32,), None)]
    frame = TAGGER.frame([b"frame"])

    def without_empty(pool):
        kept = tuple(extent for extent in pool.plain if extent.length)
        return Pool(**{**vars(pool), "plain": kept})

    nothing = pool_of("int8", 1, [], [])
    roots = [
        TAGGER.root((one, two), leaves, frame),
        TAGGER.root((two, one), leaves, frame),
        TAGGER.root((one, two), leaves[::-1], frame),
        TAGGER.root((without_empty(one), two), leaves, frame),
        TAGGER.root((one, two, nothing), [*leaves, ((), None)], frame),
        TAGGER.root((one, two, nothing), [*leaves, ((), ())], frame),
        TAGGER.root((one, two), [leaves[0], (leaves[1][0], (b"4" * 32,))], frame),
        TAGGER.root((one, two), leaves, TAGGER.frame([b"framf"])),
        TAGGER.root((one, two), leaves, frame, orders=(STORED,)),
        TAGGER.root((one, two), leaves, frame, orders=(STORED, ENCRYPTED)),
        TAGGER.root((one,), leaves[:1], frame),
        Tagger.keyed(KEY, FILE_ID, 4).root((one, two), leaves, frame),
        Tagger.public(FILE_ID, 3).root((one, two), leaves, frame),
    ]

    assert len(set(roots)) == len(roots)
    assert TAGGER.frame([b"fr", b"ame"]) == frame


def test_public_tags_need_no_key():
    """Everyone gets the same; they depend on file and epoch."""
    key = blake3(
        FILE_ID + struct.pack("<Q", 3),
        derive_key_context="safemodel 2026-11 public tags 1",
    ).digest()

    assert Tagger.public(FILE_ID, 3).tag(b"x") == blake3(b"x", key=key).digest()
    others = [Tagger.public(bytes(32), 3), Tagger.public(FILE_ID, 4)]
    assert len({tagger.tag(b"x") for tagger in others}) == 2


def test_a_tagger_shows_no_key_and_is_not_pickled():
    """It holds one that is derived."""
    assert repr(TAGGER) == "<Tagger of epoch 3>"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(TAGGER)
    with pytest.raises(TypeError):
        vars(TAGGER)


def ring_of(parts, buffers):
    """Yield chunks in a few buffers that are used again and again."""
    ring = [bytearray(MIB) for _ in range(buffers)]
    for index, part in enumerate(parts):
        buffer = ring[index % buffers]
        # What lay there before is gone, as it would be when reading a file.
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]


def random_chunks(pool, rand):
    """Return a pool of random bytes, in chunks."""
    data = rand.randbytes(pool.length)
    return [data[at : at + MIB] for at in range(0, pool.length, MIB)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_give_what_one_loop_gives(rand, threads):
    """Chunks from an iterator, in a ring of buffers, or read by the threads."""
    length = 9 * MIB + 76
    pool = pool_of("uint8", 1, [("a", (length,))], [("a", (length,))])
    tagger = PoolTagger(TAGGER, 0, pool)
    parts = random_chunks(pool, rand)
    expected = [tagger.leaf(index, part) for index, part in enumerate(parts)]
    whole = b"".join(parts)

    def read_into(offset, view):
        view[:] = whole[offset : offset + len(view)]

    assert len(expected) == tagger.chunks == 10
    assert tagger.leaves(parts, threads=threads) == expected
    ring = ring_of(parts, threads + 1)
    assert tagger.leaves(ring, threads=threads) == expected
    assert tagger.leaves_of(read_into, threads=threads) == expected
    assert tagger.leaves_in(memoryview(whole), threads=threads) == expected
    odd = np.frombuffer(whole, dtype="u1").reshape(7, -1)
    assert tagger.leaves_in(memoryview(odd), threads=threads) == expected
    for wrong in (whole[:-1], whole + b"x"):
        with pytest.raises(ValueError, match="the pool has 9,437,260 bytes"):
            tagger.leaves_in(memoryview(wrong))


def test_a_pool_of_nothing_has_no_leaves():
    """No chunks, no threads, no reading."""
    tagger = PoolTagger(TAGGER, 0, pool_of("uint8", 1, [("a", (0,))], []))

    assert tagger.chunks == 0
    assert tagger.leaves([]) == []
    assert tagger.leaves_of(lambda *_: pytest.fail("read")) == []
    assert tagger.leaves_in(memoryview(b"")) == []
    assert tagger.leaves_in(memoryview(np.empty((0, 3)))) == []
    assert tagger.differences(0, [], []) == ()


@pytest.mark.parametrize("change", ["fewer", "more", "shorter", "longer"])
def test_chunks_that_are_not_the_pools_are_an_error(change):
    """Too few, too many, too short, too long."""
    parts = chunks(BIG)
    if change == "fewer":
        parts = parts[:-1]
    elif change == "more":
        parts = [*parts, b"x"]
    else:
        parts[1] = parts[1][:-1] if change == "shorter" else parts[1] + b"x"

    with pytest.raises(ValueError, match="chunk"):
        PoolTagger(TAGGER, 0, BIG).leaves(parts)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_failed_read_ends_all_threads(threads):
    """The error is the reader's, and nobody goes on to the end."""
    length = 200 * MIB
    pool = pool_of("uint8", 1, [("a", (length,))], [("a", (length,))])
    read = []

    def read_into(offset, view):
        read.append(offset)
        if offset == 2 * MIB:
            raise TruncatedFileError("pool", needed=length, available=offset)

    before = threading.active_count()
    with pytest.raises(TruncatedFileError):
        PoolTagger(TAGGER, 0, pool).leaves_of(read_into, threads=threads)

    assert threading.active_count() == before
    assert len(read) < 100


def test_a_change_is_found_by_chunk_and_named_by_tensor():
    """One bit in one place: its MiB, and the tensors that have bytes there."""
    tagger = PoolTagger(TAGGER, 4, TURNED)
    parts = chunks(BIG)
    expected = tagger.leaves(parts)

    def after_flipping(*places):
        changed = [bytearray(part) for part in parts]
        for place in places:
            changed[place // MIB][place % MIB] ^= 1
        return tagger.differences(4, expected, tagger.leaves(changed))

    assert after_flipping() == ()
    assert after_flipping(0) == (Difference(4, 0, MIB, ("a",)),)
    assert after_flipping(MIB - 1) == (Difference(4, 0, MIB, ("a",)),)
    assert after_flipping(2 * MIB) == (
        Difference(4, 2 * MIB, 3 * MIB, ("b", "c", "e")),
    )
    assert after_flipping(BIG.length - 1) == (
        Difference(4, 3 * MIB, BIG.length, ("e",)),
    )
    assert after_flipping(0, 2 * MIB, 3 * MIB) == (
        Difference(4, 0, MIB, ("a",)),
        Difference(4, 2 * MIB, BIG.length, ("b", "c", "e")),
    )


def test_what_changed_becomes_one_error():
    """Of all pools; a tensor in two places is named once."""
    places = [(0, 0, 9, ("a", "b")), (0, 20, 30, ("b", "c")), (1, 5, 6, ("d",))]

    error = change_error(Difference(*place) for place in places)

    assert error.tensors == ("a", "b", "c", "d")
    assert error.ranges == ((0, 0, 9), (0, 20, 30), (1, 5, 6))
    assert str(error).startswith("bytes of tensors have changed: a, b, c, d; pool 0")


def test_every_pair_of_chunks_swapped_is_found(rand):
    """Position is bound: the same bytes elsewhere are not the same."""
    tagger = PoolTagger(TAGGER, 0, BIG)
    parts = random_chunks(BIG, rand)
    expected = tagger.leaves(parts)

    for one, other in pairwise(range(3)):
        swapped = list(parts)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        found = tagger.differences(0, expected, tagger.leaves(swapped))
        assert [(d.start, d.end) for d in found] == [(one * MIB, (other + 1) * MIB)]


def test_all_leaves_are_compared_in_constant_time(monkeypatch):
    """Every one by the function made for it, changed or not."""
    tagger = PoolTagger(TAGGER, 0, BIG)
    expected = tagger.leaves(chunks(BIG))
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    tagger.differences(0, expected, [bytes(32), *expected[1:]])

    assert len(compared) == 4
    for wrong in (expected[:-1], [*expected, bytes(32)]):
        with pytest.raises(ValueError, match="4 chunks"):
            tagger.differences(0, expected, wrong)
        with pytest.raises(ValueError, match="4 chunks"):
            tagger.differences(0, wrong, expected)


def test_spans_find_what_a_slow_search_finds(rand):
    """Against every tensor one by one, empty ones among them."""
    for _ in range(50):
        at, extents = 0, []
        for index in range(rand.randrange(1, 12)):
            length = rand.choice([0, 0, 1, 2, 5])
            extents.append(Extent(str(index), (length,), at, length))
            at += length
        spans = Spans(tuple(extents))
        for start in range(at):
            for end in range(start + 1, at + 1):
                slow = [
                    e
                    for e in extents
                    if e.length and e.start < end and start < e.start + e.length
                ]
                assert spans.extents[spans.within(start, end)] == slow


def laid(*extents):
    """Return a pool of int16 with these tensors in both orders."""
    made = tuple(Extent(*extent) for extent in extents)
    length = sum(extent.length for extent in made)
    return {"dtype": "int16", "itemsize": 2, "length": length, "stored": made} | {
        "plain": made
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (laid(("a", (1,), 0, 2), ("b", (1,), 4, 2)), "gap or overlap"),
        (laid(("a", (1,), 0, 2), ("b", (1,), 0, 2)), "gap or overlap"),
        (laid(("a", (1,), 2, 2)), "gap or overlap"),
        (laid(("a", (-1,), 0, -2)), "gap or overlap"),
        (laid(("a", (-1, -1), 0, 2)), "axis"),
        (laid(("a", (1 << 63, 0), 0, 0)), "axis"),
        (laid(("a", (2,), 0, 2)), "do not match"),
        (laid(("a", (1,), 0, 2)) | {"length": 4}, "as long as"),
        (laid(("a", (1,), 0, 2)) | {"plain": ()}, "as long as"),
        (laid() | {"dtype": ""}, "dtype"),
        (laid() | {"dtype": "x" * 65}, "dtype"),
        (laid() | {"dtype": "int\u00b2"}, "dtype"),
        (laid() | {"itemsize": 0}, "elements"),
        (laid() | {"itemsize": 3}, "elements"),
        (laid() | {"itemsize": 32}, "elements"),
    ],
)
def test_a_pool_has_no_gaps_and_no_overlaps(given, problem):
    """Every byte belongs to one tensor, in both orders."""
    with pytest.raises(ValueError, match=problem):
        Pool(**given)


def test_a_pool_at_its_bounds_is_one():
    """The other side."""
    assert Pool(**(laid() | {"dtype": "x" * 64, "itemsize": 16})).length == 0
    big = laid(("a", ((1 << 63) - 1, 0), 0, 0), ("b", (), 0, 2))
    assert Pool(**big).length == 2


def test_the_tags_do_not_change():
    """Tags of files that are out there."""
    both = [
        tuple(PoolTagger(TAGGER, 0, BIG, order).leaves(chunks(BIG, order=order)))
        for order in (STORED, PLAIN)
    ]
    root = TAGGER.root((BIG,), [tuple(both)], TAGGER.frame([b"frame"]))

    assert (
        blake3(b"".join(both[0] + both[1])).hexdigest()
        == "ee5e9b710c3aa5bef891529ab37d462beb6eb302bfb865a2461ddbbd45c9d1f0"
    )
    assert (
        root.hex() == "d930402592a11abd024a4f8e61e61c173a765ac9e1df1d5ff3236373cf4d5e59"
    )
