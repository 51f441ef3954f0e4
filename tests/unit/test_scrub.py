"""What `Scrub` accepts, how many bits it takes, and what a scrubbed array is."""

import os
import subprocess
import sys

import numpy as np
import pytest

from safemodel import scrub as module
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel.scrub import Scrub, scrub_array
from tests.reference import naive

METHODS = ("random", "zero", "round")
FLOATS = sorted(naive.FORMATS)
COMPLEX = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
OTHERS = sorted(set(DTYPE_ITEMSIZE) - set(FLOATS) - set(COMPLEX))


def random_words(dtype, count=2000):
    """Return random words of a dtype: every kind of number, NaN among them."""
    return np.frombuffer(os.urandom(count * DTYPE_ITEMSIZE[dtype]), np.uint8).copy()


@pytest.mark.parametrize(
    ("dtype", "bound", "bits"),
    [
        ("float32", 2**-11, 12),
        ("complex64", 2**-11, 12),
        ("float64", 2**-11, 41),
        ("complex128", 2**-11, 41),
        ("float16", 2**-11, 0),
        ("complex32", 2**-11, 0),
        ("bfloat16", 2**-11, 0),
        ("float8_e4m3fn", 2**-11, 0),
        ("float16", 2**-8, 2),
        ("float16", 2**-10, 0),
        ("bfloat16", 2**-6, 1),
        ("float8_e5m2", 2**-1, 1),
        ("float32", 2**-10.99, 12),
        ("float32", 0.999, 22),
        ("float32", 2**-23, 0),
        ("float64", 2**-52, 0),
        ("float64", 2**-51, 1),
    ],
)
def test_auto_takes_the_most_bits_under_the_bound(dtype, bound, bits):
    """By the width of the mantissa."""
    assert Scrub(max_relative_change=bound).bits_for(dtype) == bits


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_number_of_bits_ends_at_the_mantissa(dtype):
    """Where a dtype has fewer, all it has."""
    width = naive.FORMATS[dtype].mantissa_bits
    got = [Scrub(bits=bits).bits_for(dtype) for bits in (1, width, min(width + 1, 52))]
    assert got == [1, width, width]
    assert Scrub(bits=52).bits_for(dtype) == width


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_float_is_left_alone(dtype, method):
    """Integers, booleans, quantised and packed types, and exponents alone."""
    data = random_words(dtype, 8)
    before = data.tobytes()
    assert scrub_array(data, dtype, Scrub(bits=52, method=method)) == 0
    assert data.tobytes() == before


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"bits": 0}, ValueError),
        ({"bits": 53}, ValueError),
        ({"bits": -1}, ValueError),
        ({"bits": "all"}, TypeError),
        ({"bits": True}, TypeError),
        ({"bits": 12.0}, TypeError),
        ({"bits": None}, TypeError),
        ({"method": "noise"}, ValueError),
        ({"method": None}, ValueError),
        ({"max_relative_change": 0}, ValueError),
        ({"max_relative_change": 1}, ValueError),
        ({"max_relative_change": -0.1}, ValueError),
        ({"max_relative_change": float("nan")}, ValueError),
        ({"max_relative_change": "2**-11"}, TypeError),
        ({"max_relative_change": True}, TypeError),
        ({"seed": b""}, TypeError),
    ],
)
def test_a_wrong_argument_is_an_error(members, error):
    """When the value is made, not when a tensor meets it."""
    with pytest.raises(error):
        Scrub(**members)


def test_a_scrub_does_not_change():
    """It is a value: equal to its like, and frozen."""
    assert Scrub() == Scrub(bits="auto", method="random", max_relative_change=2**-11)
    assert Scrub(bits=1) != Scrub(bits=52)
    with pytest.raises(AttributeError):
        Scrub().bits = 3


def test_a_name_of_no_dtype_is_an_error():
    """A misspelt dtype must not pass for one without mantissa."""
    with pytest.raises(ValueError, match="'float23'"):
        scrub_array(np.zeros(4, np.float32), "float23", Scrub())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_array_keeps_signs_exponents_and_what_is_no_number(dtype, method):
    """And, but for rounding, every bit above the scrubbed ones."""
    form = naive.FORMATS[dtype]
    data = random_words(dtype)
    kind = f"u{DTYPE_ITEMSIZE[dtype]}"
    before = data.view(kind).tolist()
    bits = scrub_array(data, dtype, Scrub(bits=2, method=method))
    after = data.view(kind).tolist()
    assert bits == 2
    for old, new in zip(before, after, strict=True):
        assert form.fields(old)[:2] == form.fields(new)[:2]
        assert form.special(old) == form.special(new)
        assert old == new or not form.special(old)
        assert method == "round" or old >> bits == new >> bits
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    assert changed > len(before) // 3


@pytest.mark.parametrize("method", ["zero", "round"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_array_is_scrubbed_as_the_definition_says(dtype, method):
    """The masks made here describe the format."""
    twin = {"zero": naive.clear, "round": naive.round_even}[method]
    form = naive.FORMATS[dtype]
    data = random_words(dtype)
    words = data.view(f"u{DTYPE_ITEMSIZE[dtype]}")
    expected = [twin(word, 2, form) for word in words.tolist()]
    scrub_array(data, dtype, Scrub(bits=2, method=method))
    assert words.tolist() == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_auto_keeps_its_bound(dtype, method):
    """No normal number moves by as much, the largest and the smallest included."""
    limits = np.finfo(dtype)
    numbers = np.random.default_rng().standard_normal(5000).astype(dtype)
    numbers[:6] = [1, -1, limits.max, limits.min, limits.tiny, np.nextafter(2, 1)]
    before = numbers.astype(np.longdouble)
    scrub_array(numbers, dtype, Scrub(method=method))
    change = np.abs(numbers.astype(np.longdouble) - before) / np.abs(before)
    assert 2**-13 < change.max() < 2**-11


def test_zeros_stay_and_nothing_becomes_subnormal():
    """Pruned weights stay pruned; what hides behind a subnormal exponent goes."""
    numbers = np.array([0.0, -0.0, 1e-42, -1e-42, 1.0], np.float32)
    scrub_array(numbers, "float32", Scrub(bits=12))
    assert numbers[:4].view(np.uint32).tolist() == [0, 1 << 31, 0, 1 << 31]
    assert numbers[4] != 0


def test_random_bits_are_new_each_time_and_even():
    """Two calls differ, and every bit is a one half of the time."""
    once, again = (np.ones(1 << 15, np.float32) for _ in range(2))
    for numbers in (once, again):
        assert scrub_array(numbers, "float32", Scrub()) == 12
    same = once.view(np.uint32) ^ again.view(np.uint32)
    for words in (once.view(np.uint32), same):
        for bit in range(12):
            # 6.8 standard deviations: one failure in 10**11 bits.
            ones = (words >> np.uint32(bit) & np.uint32(1)).mean()
            assert abs(float(ones) - 0.5) < 0.01875
    assert not (same >> np.uint32(12)).any()


@pytest.mark.parametrize("method", ["zero", "round"])
def test_pieces_are_scrubbed_as_the_whole(method):
    """A writer may hand over one tensor piece by piece."""
    whole = random_words("float32")
    pieces = whole.copy()
    scrub = Scrub(method=method)
    used = {scrub_array(whole, "float32", scrub)}
    for start in range(0, pieces.size, 256):
        used.add(scrub_array(pieces[start : start + 256], "float32", scrub))
    assert used == {12}
    assert whole.tobytes() == pieces.tobytes()


def test_a_complex_number_is_two_floats():
    """Both parts are rounded as floats are."""
    for dtype, part in COMPLEX.items():
        data = random_words(dtype)
        twin = data.copy()
        scrub = Scrub(bits=7, method="round")
        assert scrub_array(data, dtype, scrub) == scrub_array(twin, part, scrub) == 7
        assert data.tobytes() == twin.tobytes()


def test_every_way_to_hold_the_numbers_will_do():
    """Floats, words, bytes, several axes, one number, none, a memory map."""
    scrub = Scrub(bits=23, method="zero")
    numbers = np.full((2, 3), 1.75, np.float32)
    shapes = [numbers, numbers.view(np.int32), numbers.reshape(-1).view(np.uint8)]
    shapes += [np.array(1.75, np.float32), np.zeros((0, 3), np.float32)]
    for array in (shape.copy() for shape in shapes):
        assert scrub_array(array, "float32", scrub) == 23
        assert (array.reshape(-1).view(np.float32) == 1).all()


def test_a_memory_map_is_scrubbed(tmp_path):
    """It is an array of a class of its own."""
    path = tmp_path / "numbers"
    np.full(8, 1.75, np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r+")
    scrub_array(mapped, "float32", Scrub(bits=23, method="zero"))
    mapped.flush()
    assert np.fromfile(path, np.float32).tolist() == [1.0] * 8


def test_numbers_may_start_in_the_middle_of_a_word():
    """As they do behind a header of odd length; the bytes around them stay."""
    data = np.zeros(1 + 4 * 5 + 2, np.uint8)
    data[1:21] = np.full(5, 1.75, np.float32).view(np.uint8)
    data[[0, 21, 22]] = 7
    scrub_array(data[1:21], "float32", Scrub(bits=23, method="zero"))
    assert data[1:21].tobytes() == np.ones(5, np.float32).tobytes()
    assert data[[0, 21, 22]].tolist() == [7, 7, 7]


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads_do_not_change_what_is_done(threads, monkeypatch):
    """Spans meet without a gap, whatever the number of them."""
    monkeypatch.setattr(module, "_MIN_THREAD_BYTES", 64)
    data = random_words("float32", 1001)
    expected = data.copy()
    scrub = Scrub(bits=12, method="round")
    scrub_array(expected, "float32", scrub, threads=1)
    scrub_array(data, "float32", scrub, threads=threads)
    assert data.tobytes() == expected.tobytes()


def test_threads_and_chunks_have_noise_of_their_own(monkeypatch):
    """No two pieces of an array are overwritten with the same bits."""
    monkeypatch.setattr(module, "_MIN_THREAD_BYTES", 64)
    monkeypatch.setattr(module, "_CHUNK", 50)
    numbers = np.ones(400, np.float32)
    scrub_array(numbers, "float32", Scrub(), threads=4)
    pieces = {numbers[start : start + 50].tobytes() for start in range(0, 400, 50)}
    assert len(pieces) == 8
    assert (numbers != 1).mean() > 0.9


def read_only():
    """Return an array that may not be written to."""
    array = np.ones(4, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("array", "error"),
    [
        ([1.0, 2.0], TypeError),
        (b"1234", TypeError),
        (read_only(), ValueError),
        (np.ones((4, 4), np.float32).T, ValueError),
        (np.ones(8, np.float32)[::2], ValueError),
        (np.ones(4, ">f4"), ValueError),
        (np.ones(3, np.uint8), ValueError),
        (np.ones(3, np.uint16), ValueError),
        (np.array([None, None]), ValueError),
    ],
    ids=str,
)
def test_an_array_that_cannot_be_scrubbed_is_an_error(array, error):
    """In place and with whole numbers, or not at all."""
    with pytest.raises(error):
        scrub_array(array, "float32", Scrub())


def test_a_scrub_by_another_name_is_an_error():
    """A number of bits is not one."""
    with pytest.raises(TypeError):
        scrub_array(np.ones(4, np.float32), "float32", 12)


_FORKED = """
import os, numpy as np
from safemodel.scrub import Scrub, scrub_array
numbers = np.ones(1 << 22, np.float32)
scrub_array(numbers, "float32", Scrub(), threads=2)
child = os.fork()
scrub_array(numbers, "float32", Scrub(), threads=2)
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_may_go_on_scrubbing():
    """Numba's own threads would end it, which is why they are not used."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _FORKED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
