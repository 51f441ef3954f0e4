"""The kernels of low mantissa bits against their slow twins."""

import numpy as np
import pytest

from safemodel._kernels import bits as kernels
from tests.reference import naive

EVERY = [
    (dtype, bits)
    for dtype, form in naive.FORMATS.items()
    for bits in sorted({1, 2, 3, form.mantissa_bits // 2, form.mantissa_bits})
    if 1 <= bits <= form.mantissa_bits
]


def width(form):
    """Return the bits of a word."""
    return 1 + form.exponent_bits + form.mantissa_bits


def rules_of(form, bits):
    """Return the masks of a format, from its own fields."""
    exponent = form.word(0, 2**form.exponent_bits - 1, 0)
    mantissa = 2**form.mantissa_bits - 1
    mask, special = {
        "ieee": (exponent, exponent),
        "ones": (exponent | mantissa,) * 2,
        "minus zero": (2 ** width(form) - 1, form.word(1, 0, 0)),
    }[form.nans]
    rules = [2**bits - 1, exponent, mantissa, mask, special, 1]
    return np.array(rules, f"u{width(form) // 8}")


def words_of(form, rand):
    """Return every word of 8 bits, or edges of the fields and random words."""
    if width(form) == 8:
        return list(range(256))
    exponents = [0, 1, 2**form.exponent_bits // 2, 2**form.exponent_bits - 2]
    exponents.append(2**form.exponent_bits - 1)
    largest = 2**form.mantissa_bits - 1
    mantissas = [0, 1, 2, 3, largest // 2, largest // 2 + 1, largest - 1, largest]
    mantissas += [2**k for k in range(form.mantissa_bits)]
    edges = [
        form.word(sign, exponent, mantissa)
        for sign in (0, 1)
        for exponent in exponents
        for mantissa in mantissas
    ]
    return edges + [rand.getrandbits(width(form)) for _ in range(300)]


@pytest.mark.parametrize(("dtype", "bits"), EVERY)
def test_replace_does_what_its_twin_does(dtype, bits, rand):
    """For every kind of word, with noise wider and narrower than a word."""
    form = naive.FORMATS[dtype]
    before = words_of(form, rand)
    noise = [rand.getrandbits(64) for _ in before]
    noise[:3] = [0, 2**64 - 1, 2**63]
    words = np.array(before, f"u{width(form) // 8}")
    kernels.replace(
        words, np.array(noise, "u8").astype(words.dtype), rules_of(form, bits)
    )
    assert words.tolist() == [
        naive.replace(word, value, bits, form)
        for word, value in zip(before, noise, strict=True)
    ]


@pytest.mark.parametrize("name", ["clear", "round_even"])
@pytest.mark.parametrize(("dtype", "bits"), EVERY)
def test_clear_and_round_do_what_their_twins_do(name, dtype, bits, rand):
    """For every kind of word."""
    form = naive.FORMATS[dtype]
    before = words_of(form, rand)
    words = np.array(before, f"u{width(form) // 8}")
    getattr(kernels, name)(words, rules_of(form, bits))
    twin = getattr(naive, name)
    assert words.tolist() == [twin(word, bits, form) for word in before]


@pytest.mark.parametrize(("dtype", "bits"), EVERY)
def test_no_twin_changes_sign_exponent_or_what_is_no_number(dtype, bits, rand):
    """Rules 1 to 3, of the definitions; and only low bits of a number differ."""
    form = naive.FORMATS[dtype]
    for word in words_of(form, rand):
        results = [
            naive.replace(word, rand.getrandbits(64), bits, form),
            naive.clear(word, bits, form),
            naive.round_even(word, bits, form),
        ]
        for new in results:
            assert form.fields(new)[:2] == form.fields(word)[:2]
            assert form.special(new) == form.special(word)
            assert new == word or not form.special(word)
        assert [new >> bits for new in results[:2]] == [word >> bits] * 2


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 4), ("float8_e5m2", 1)])
def test_the_twin_of_rounding_rounds_to_nearest(dtype, bits, rand):
    """No candidate within the exponent is nearer, and of two as near the even one."""
    form = naive.FORMATS[dtype]
    for word in words_of(form, rand):
        if form.special(word):
            continue
        sign, exponent, _ = form.fields(word)
        candidates = [
            form.word(sign, exponent, step << bits)
            for step in range(2 ** (form.mantissa_bits - bits))
        ]
        away = {new: abs(form.value(new) - form.value(word)) for new in candidates}
        nearest = [new for new in candidates if away[new] == min(away.values())]
        expected = [new for new in nearest if (new >> bits) % 2 == 0] or nearest
        assert naive.round_even(word, bits, form) == expected[0]


def test_rounding_has_no_bias():
    """Over every mantissa of float16, what goes up and what goes down cancel."""
    form = naive.FORMATS["float16"]
    before = np.arange(1 << 10, dtype=np.uint16) | np.uint16(15 << 10)
    after = before.copy()
    kernels.round_even(after, rules_of(form, 4))
    change = after.astype(np.int64) - before
    # Ties alternate, so steps cancel in pairs. The last step cannot round up (rule 1).
    assert change[:-32].sum() == 0
    assert (change[-16:] == -np.arange(16)).all()


def test_noise_may_be_narrower_than_words():
    """Twelve bits of noise for a word of 32 come from one of 16."""
    form = naive.FORMATS["float32"]
    words = np.full(4, np.float32(1.5).view(np.uint32))
    noise = np.array([0, 1, 0xFFF, 0xFFFF], np.uint16)
    kernels.replace(words, noise, rules_of(form, 12))
    assert (words & np.uint32(0xFFF)).tolist() == [0, 1, 0xFFF, 0xFFF]
