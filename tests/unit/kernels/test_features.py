"""The kernels of features against their slow twins."""

import numpy as np
import pytest

from safemodel._kernels import features as kernels
from tests.reference import naive, naive_features


def words_of(rand, width, number=3000):
    """Return random words, with some that are special and some that are equal."""
    some = [rand.getrandbits(8 * width) for _ in range(number)]
    form = naive.FORMATS[
        {2: "float16", 4: "float32", 8: "float64"}.get(width, "float16")
    ]
    if width > 1:
        for exponent in (0, 2**form.exponent_bits - 1):
            for mantissa in (0, 1, 2, 2 ** (form.mantissa_bits - 1), 5 << 2):
                some += [form.word(sign, exponent, mantissa) for sign in (0, 1)]
        some.append(form.word(0, 2**form.exponent_bits - 1, 2**form.mantissa_bits - 1))
    return some + [some[0]] * 70


def tables():
    """Return the arrays that every pass takes."""
    return (
        np.zeros((8, 256), np.uint32),
        np.zeros(3, np.uint64),
        np.zeros(64, np.uint64),
        np.zeros(64, np.uint64),
    )


def as_dict(array):
    """Return the counts that are not 0, by place."""
    places = (tuple(map(int, at)) for at in np.argwhere(array))
    return {at if len(at) > 1 else at[0]: int(array[at]) for at in places}


@pytest.mark.parametrize("width", [4, 8])
def test_wide_words_are_counted_as_the_twin_counts_them(width, rand):
    """In one piece and in several, every table is the same."""
    given = words_of(rand, width)
    words = np.array(given, f"u{width}")
    octants = np.zeros(({4: 2, 8: 6}[width], 8, 256), np.uint32)
    packed, state, marks, places = tables()
    top = np.zeros(1 << 18, np.uint32)
    count = kernels.words_4 if width == 4 else kernels.words_8
    for part in np.split(words, [1, 17, 1000]):
        count(part, octants, top)
        kernels.lowest(part, packed, state, marks, places)

    expected = naive_features.count_words(given, width)
    assert as_dict(octants) == expected["octants"]
    assert as_dict(packed) == expected["packed"]
    assert as_dict(top) == expected["top"]
    found = list(zip(marks.tolist(), places.tolist(), strict=True))[: int(state[2])]
    assert found == naive_features.marks(given)
    assert int(state[1]) == len(given)


@pytest.mark.parametrize(("width", "keep"), [(1, 0xFF), (2, 0xFFFF), (2, 0x7FFF)])
def test_short_words_are_counted_by_their_values(width, keep, rand):
    """Each value has its count, without a sign where that is masked."""
    given = words_of(rand, width)
    words = np.array(given, f"u{width}")
    packed, state, marks, places = tables()
    lows, top = np.zeros((1, 256), np.uint32), np.zeros(1 << 8 * width, np.uint32)
    kernels.words_short(words, np.array([keep, 255], words.dtype), lows, top)
    kernels.lowest(words, packed, state, marks, places)

    values = [word & keep for word in given]
    assert top.tolist() == np.bincount(values, minlength=top.size).tolist()
    low_bytes = [word % 256 for word in given]
    assert lows[0].tolist() == np.bincount(low_bytes, minlength=256).tolist()
    assert as_dict(packed) == naive_features.count_words(given, 4)["packed"]
    found = list(zip(marks.tolist(), places.tolist(), strict=True))[: int(state[2])]
    assert found == naive_features.marks(given)


def test_full_tables_take_no_more_marks(rand):
    """What does not fit is not written, and nothing else changes."""
    words = np.array([rand.getrandbits(32) for _ in range(20_000)], np.uint32)
    packed, state, _, _ = tables()
    marks, places = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    kernels.lowest(words, packed, state, marks, places)
    assert int(state[2]) == 3
    assert marks.tolist() == [m for m, _ in naive_features.marks(words.tolist())][:3]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_digest_is_as_the_twin_says(width, rand):
    """For every width of words, taken in two pieces; zeros are not the least word."""
    given = [0, *words_of(rand, width, 300), 0]
    words = np.array(given, f"u{width}")
    keep, unsigned = (1 << 8 * width) - (1 << 4 * width), (1 << 8 * width - 1) - 1
    rules = np.array([keep, unsigned, 255, 1], words.dtype)
    sums, found = np.zeros(3, np.uint64), np.zeros(4, np.uint64)
    for part in np.split(words, [100]):
        kernels.digest(part, rules, sums, found)
        sizes = naive_features.sizes(part.tolist(), unsigned)
        assert tuple(found.tolist()) == (
            naive_features.neighbours(part.tolist()),
            *sizes,
        )
    assert tuple(sums[:2].tolist()) == naive_features.digest(given, keep)
    assert int(sums[2]) == len(given)


def test_of_zeros_there_is_no_least_word():
    """The place of the least one says so."""
    found = np.zeros(4, np.uint64)
    rules = np.array([0xFFFF0000, 0x7FFFFFFF, 255, 1], np.uint32)
    words = np.array([0, 0x80000000], np.uint32)
    kernels.digest(words, rules, np.zeros(3, np.uint64), found)
    assert found.tolist() == [0, 0x7FFFFFFF, 0, 2]


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("multiply", [1, 0x9E3779B97F4A7C15])
def test_first_ones_are_those_that_were_not_there_before(width, multiply, rand):
    """Also where many words have one place in the table, and where it is the last."""
    given = words_of(rand, width, 500)
    given += rand.choices(given, k=500)
    given += [2 ** (8 * width) - 1 - at % 20 for at in range(100)]
    words = np.array(given, f"u{width}")
    first, taken = np.empty(words.size, np.bool_), np.zeros(1 << 17, np.uint8)
    table = np.empty(1 << 17, words.dtype)
    kernels.first_ones(words, np.uint64(multiply), table, taken, first)
    assert first.tolist() == naive_features.first_ones(given)


@pytest.mark.parametrize(("width", "whole"), [(1, 1), (2, 1), (4, 2), (8, 6)])
@pytest.mark.parametrize("start", [0, 3, 65_536])
def test_streams_are_as_the_twin_reads_them(width, whole, start, rand):
    """Bytes by phase and octant, none of which has an unusable word."""
    given = words_of(rand, width, 700)
    words = np.array(given, f"u{width}")
    usable = [rand.random() < 0.95 for _ in given]
    shift, mask = (8 * width - 5, 7) if width > 1 else (0, 0)
    shapes = ((8, 256), (4, 8, 256), (2, 8, 256), (whole, 8, 256))
    made = [np.zeros(shape, np.uint32) for shape in shapes]
    rules = np.array([shift, mask], words.dtype)
    kernels.streams(words, np.array(usable), rules, np.uint64(start), *made)

    octants = [word >> shift & mask for word in given]
    expected = naive_features.streams(given, usable, octants, start, whole)
    assert [as_dict(each) for each in made] == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_rare_words_are_told_apart(dtype, rand):
    """Zeros at the end, subnormals by length, and four kinds of infinities and NaN."""
    form = naive.FORMATS[dtype]
    width = (1 + form.exponent_bits + form.mantissa_bits) // 8
    half = 2 ** (form.mantissa_bits - 1)
    given = [
        form.word(0, exponent, mantissa)
        for exponent in (0, 1, 2**form.exponent_bits - 1)
        for mantissa in (0, 1, 6, half, 2 * half - 1, half + 1)
    ]
    given += [rand.getrandbits(8 * width) for _ in range(500)]
    exponent = (2**form.exponent_bits - 1) << form.mantissa_bits
    mantissa = 2**form.mantissa_bits - 1
    rules = [exponent, mantissa, 2 ** (form.mantissa_bits - 1), 0, 1]
    zeros, small = np.zeros(66, np.uint64), np.zeros(66, np.uint64)
    special = np.zeros(4, np.uint64)
    words = np.array(given, f"u{width}")
    kernels.rare(words, np.array(rules, words.dtype), zeros, small, special)

    expected = naive_features.rare(given, form)
    assert (as_dict(zeros), as_dict(small), as_dict(special)) == expected
