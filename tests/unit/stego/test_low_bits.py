"""Round trips of X-LSB and byte substitution, and the same by one bit at a time."""

import numpy as np
import pytest

from safemodel.evaluation.stego import (
    ByteSubstitution,
    Lsb,
    _symbols,
    capacity,
    embed,
    extract,
)
from safemodel.evaluation.stego._places import keyed_order, places
from safemodel.evaluation.stego._words import FORMATS
from tests.reference import naive_stego as naive

COUNT = 197  # no multiple of anything
KEY = b"a key of the tests"


def words_of(rand, dtype, count=COUNT):
    """Return random words: of floats, NaN and infinities among them."""
    size = FORMATS[dtype].itemsize
    return np.frombuffer(rand.randbytes(count * size), np.dtype(f"u{size}"))


def twin_of(method, words, dtype):
    """Return what the naive twin is told."""
    if isinstance(method, ByteSubstitution):
        plan = {"x": 8 * method.count, "tail": "zeros"}
    else:
        low = FORMATS[dtype].low_bits
        shift = low - method.bits if method.from_top else 0
        plan = {"x": method.bits, "shift": shift, "order": method.bit_order}
    where = places(words.size, method.start, method.share, method.key)
    positions = np.arange(words.size)[where].tolist()
    return positions, {**plan, "fill": method.fill}


def every_method(dtype):
    """Return methods that suit a dtype: each X, and each option with some X."""
    form = FORMATS[dtype]
    plain = [Lsb(bits=bits) for bits in range(1, form.low_bits + 1)]
    some = sorted({1, 2, 3, 4, 8, form.low_bits} & set(range(form.low_bits + 1)))
    options = [
        {"fill": True},
        {"start": 17},
        {"share": 0.5, "fill": True},
        {"key": KEY},
        {"key": KEY, "share": 0.25, "start": 3, "fill": True},
        {"bit_order": "little"},
        {"bit_order": "little", "fill": True},
        {"from_top": True, "fill": True},
        {"from_top": True, "key": KEY, "bit_order": "little"},
    ]
    mixed = [Lsb(bits=bits, **option) for bits in some for option in options]
    counts = range(1, min(4, max(form.itemsize, 2)))
    whole = [
        ByteSubstitution(count=count, **option)
        for count in counts
        for option in ({}, *options[:5])
    ]
    return plain + mixed + whole


@pytest.mark.parametrize("dtype", FORMATS)
def test_words_are_those_of_the_twin(rand, dtype):
    """Every method, for a payload that fills some of the room: the same words."""
    words = words_of(rand, dtype)
    for method in every_method(dtype):
        room = capacity(words, method, dtype=dtype) // 8
        data = rand.randbytes(rand.randint(1, room))
        hidden, embedding = embed(words, data, method, dtype=dtype)
        positions, plan = twin_of(method, words, dtype)
        expected = naive.write(words.tolist(), positions, data, **plan)
        assert hidden.tolist() == expected, method
        assert extract(hidden, method, len(data), dtype=dtype) == data, method
        assert naive.read(expected, positions, len(data), **plan) == data, method
        assert embedding.changed == np.count_nonzero(hidden != words)
        bits = 8 * method.count if "count" in vars(method) else method.bits
        used = len(positions) if method.fill else -(-8 * len(data) // bits)
        assert embedding.written == used == embedding.where[0].weights


@pytest.mark.parametrize("dtype", FORMATS)
def test_matching_is_the_nearest(rand, dtype):
    """For every X up to ten: as near as the twin finds, and read like the others."""
    form, words = FORMATS[dtype], words_of(rand, dtype)
    sign, most = form.sign, form.infinity - 1 if form.infinity else 255
    for bits in range(1, min(10, form.low_bits) + 1):
        method = Lsb(bits=bits, matching=True, fill=True, key=KEY)
        data = rand.randbytes(bits * COUNT // 8)
        hidden, _ = embed(words, data, method, dtype=dtype)
        assert extract(hidden, method, len(data), dtype=dtype) == data
        for before, after in zip(words.tolist(), hidden.tolist(), strict=True):
            flip = 0 if form.infinity else sign
            old, new = (word ^ flip for word in (before, after))
            if form.infinity:
                assert (old ^ new) & sign == 0
                old, new = old & ~sign, new & ~sign
            if old > most:
                assert new > most - 1
                continue
            symbol = new % (1 << bits)
            assert 0 <= new <= most
            assert abs(new - old) == naive.nearest_distance(old, bits, symbol, most)


def test_more_than_a_chunk(rand):
    """Pieces fit together: in a row, keyed, and where the payload is repeated."""
    words = np.frombuffer(rand.randbytes(4 * 300_001), np.uint32)
    for bits in (3, 8, 23):
        for options in ({}, {"key": KEY}, {"fill": True}, {"fill": True, "start": 5}):
            method = Lsb(bits=bits, **options)
            size = 1000 if method.fill else 300_001 * bits // 8
            data = rand.randbytes(size)
            hidden, _ = embed(words, data, method, dtype="float32")
            every = extract(
                hidden, method, None if method.fill else size, dtype="float32"
            )
            assert every == (data * (len(every) // size + 1))[: len(every)]
            low = np.uint32((1 << bits) - 1)
            assert np.array_equal(hidden & ~low, words & ~low)


@pytest.mark.parametrize("order", ["big", "little"])
def test_symbols_are_those_of_the_twin(rand, order):
    """For every number of bits, both ways."""
    for bits in range(1, 57):
        data = rand.randbytes(bits * 5)
        symbols = _symbols.cut(np.frombuffer(data, np.uint8), bits, order)
        sent = naive.bits_of(data, order)
        pieces = [sent[start : start + bits] for start in range(0, len(sent), bits)]
        expected = [
            sum(
                bit << place
                for bit, place in zip(
                    piece, naive.places_in(bits, bits, order, "low"), strict=True
                )
            )
            for piece in pieces
        ]
        assert symbols.tolist() == expected
        assert _symbols.join(symbols, bits, order).tobytes() == data


def test_capacity_counts_bits():
    """X for each weight that is used, however many are."""
    words = np.zeros(1000, np.uint32)
    for method, bits in [
        (Lsb(bits=1), 1000),
        (Lsb(bits=23), 23_000),
        (Lsb(bits=4, start=100), 3600),
        (Lsb(bits=4, share=0.05), 200),
        (Lsb(bits=4, start=100, share=0.5, key=KEY), 1800),
        (Lsb(bits=4, start=2000), 0),
        (Lsb(bits=4, skip_exact=True), 0),
        (ByteSubstitution(count=3), 24_000),
    ]:
        assert capacity(words, method, dtype="float32") == bits


def test_a_payload_that_fits_and_one_that_does_not():
    """To the last bit: 24 bits in 8 weights of 3, and no byte more."""
    words = np.zeros(8, np.uint32)
    method = Lsb(bits=3)
    hidden, _ = embed(words, b"abc", method, dtype="float32")
    assert extract(hidden, method, 3, dtype="float32") == b"abc"
    with pytest.raises(ValueError, match="32 bits do not fit into 24"):
        embed(words, b"abcd", method, dtype="float32")
    with pytest.raises(ValueError, match="32 bits do not fit into 24"):
        extract(hidden, method, 4, dtype="float32")


def test_tiling_and_not():
    """Without it, a payload must be long enough, and is cut; with it, either is."""
    words = np.zeros(16, np.uint32)
    tiled, once = Lsb(bits=8, fill=True), Lsb(bits=8, fill=True, tile=False)
    hidden, _ = embed(words, b"abcde", tiled, dtype="float32")
    assert hidden.astype(np.uint8).tobytes() == b"abcdeabcdeabcdea"
    with pytest.raises(ValueError, match="40 bits do not fill 128"):
        embed(words, b"abcde", once, dtype="float32")
    longer = bytes(range(20))
    for method in (tiled, once):
        hidden, embedding = embed(words, longer, method, dtype="float32")
        assert hidden.astype(np.uint8).tobytes() == longer[:16]
        assert (embedding.bits, embedding.capacity) == (128, 128)


def test_keyed_places_are_an_order_of_all_weights():
    """Each number once, the same for the same key, another for another."""
    order = keyed_order(1000, KEY, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() == keyed_order(1000, KEY, 1000).tolist()
    assert order.tolist() != keyed_order(1000, b"another", 1000).tolist()
    for first in (0, 1, 300, 499, 500, 999):
        assert keyed_order(1000, KEY, first).tolist() == order[:first].tolist()
    for few in (0, 1, 2):
        assert sorted(keyed_order(few, KEY, few).tolist()) == list(range(few))


def test_keyed_places_are_everywhere():
    """Of 5 % of the weights, as many in each tenth as chance allows."""
    chosen = keyed_order(200_000, KEY, 10_000)
    tenths = np.bincount(chosen // 20_000, minlength=10)
    assert tenths.sum() == 10_000
    assert abs(tenths - 1000).max() < 5 * 30  # five standard deviations


def test_a_wrong_key_reads_nothing():
    """Half of the bits, as guessing does."""
    words = np.zeros(80_000, np.uint32)
    data = np.random.default_rng(1).bytes(10_000)
    hidden, _ = embed(words, data, Lsb(bits=1, key=KEY), dtype="float32")
    read = extract(hidden, Lsb(bits=1, key=b"another"), 10_000, dtype="float32")
    wrong = np.unpackbits(np.frombuffer(read, np.uint8) ^ np.frombuffer(data, np.uint8))
    assert abs(wrong.mean() - 0.5) < 0.01


def test_a_key_is_not_shown():
    """Nor in the repr of what was written."""
    method = Lsb(bits=4, key=b"confidential")
    _, embedding = embed(np.zeros(9, np.float32), b"a", method)
    for value in (method, embedding, ByteSubstitution(count=1, key=b"confidential")):
        assert "confidential" not in repr(value)
    assert "key=None" in repr(Lsb(bits=4))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Lsb(bits=0), ValueError),
        (lambda: Lsb(bits=53), ValueError),
        (lambda: Lsb(bits=True), TypeError),
        (lambda: Lsb(bits=1, start=-1), ValueError),
        (lambda: Lsb(bits=1, share=0), ValueError),
        (lambda: Lsb(bits=1, share=1.1), ValueError),
        (lambda: Lsb(bits=1, share=float("nan")), ValueError),
        (lambda: Lsb(bits=1, share="1"), TypeError),
        (lambda: Lsb(bits=1, key="text"), TypeError),
        (lambda: Lsb(bits=1, key=b""), ValueError),
        (lambda: Lsb(bits=1, bit_order="middle"), ValueError),
        (lambda: Lsb(bits=1, matching=True, from_top=True), ValueError),
        (lambda: Lsb(bits=1, matching=True, skip_exact=True), ValueError),
        (lambda: ByteSubstitution(count=0), ValueError),
        (lambda: ByteSubstitution(count=4), ValueError),
        (lambda: ByteSubstitution(count=2, prefix=True), ValueError),
    ],
)
def test_a_method_that_makes_no_sense(make, error):
    """It is refused when it is made."""
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        (Lsb(bits=24), "float32"),
        (Lsb(bits=11), "float16"),
        (Lsb(bits=8), "bfloat16"),
        (Lsb(bits=9), "int8"),
        (ByteSubstitution(count=2), "float16"),
        (ByteSubstitution(count=2), "bfloat16"),
        (ByteSubstitution(count=2), "int8"),
        (ByteSubstitution(count=3, prefix=True), "float64"),
    ],
)
def test_a_dtype_that_has_no_room(method, dtype):
    """One bit fewer would do."""
    words = np.zeros(100, np.dtype(f"u{FORMATS[dtype].itemsize}"))
    with pytest.raises(ValueError):
        embed(words, b"payload", method, dtype=dtype)


@pytest.mark.parametrize("method", [Lsb(bits=52), ByteSubstitution(count=3)])
def test_float64_has_room(method):
    """As many bits as the wider mantissa has."""
    weights = np.linspace(0.1, 1, 100)
    hidden, _ = embed(weights, b"payload", method)
    assert extract(hidden, method, 7) == b"payload"
    assert hidden.dtype == np.float64
