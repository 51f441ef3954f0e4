"""Stretches of zeros, as programs have them, and weights that end in zeros."""

import numpy as np

from tests.unit.detector.helpers_detector import (
    embed,
    evidence,
    generator,
    names_of,
    trained,
)

SIZE = 100_000


def zeros_test(tensors):
    """Return the evidence of the test."""
    return [one for one in evidence(tensors) if one.test == "zeros"]


def test_a_stretch_of_zeros_is_found_where_it_is(draws):
    """The beginning of a program, most of which is zeros, in a part of a tensor."""
    random = generator(draws)
    words = trained(random, SIZE).view(np.uint32)
    payload = np.where(random.random(4000) < 0.9, 0, random.integers(0, 256, 4000))
    start = 20_000 + int(random.integers(0, 20_000))
    found = zeros_test(
        {"a": embed(words, payload.astype(np.uint8).tobytes(), 4, start)}
    )
    assert found[0].bits == 4
    assert abs(found[0].start - start) < 1024
    assert abs(found[0].end - start - 8000) < 1024
    assert zeros_test({"a": words}) == []


def test_zeros_all_over_are_found_whatever_the_size_of_weights(draws):
    """One or two bits of every weight: no window stands out; exponents are alike."""
    random = generator(draws)
    words = trained(random, SIZE).view(np.uint32)
    payload = np.where(random.random(SIZE) < 0.9, 0, random.integers(0, 256, SIZE))
    for bits in (1, 2):
        hidden = embed(words, payload.astype(np.uint8).tobytes(), bits)
        assert zeros_test({"a": hidden})[0].bits == bits


def test_grids_are_not_taken_for_zeros(draws):
    """Numbers as they are drawn, on grids of 23 and 24 bits, in all rows or in some."""
    random = generator(draws)
    for grid in (23, 24):
        for bound in (1 / 16, 1 / 28, 0.1):
            drawn = random.integers(0, 1 << grid, SIZE).astype(np.float32)
            drawn = drawn * np.float32(2.0**-grid * 2 * bound) - np.float32(bound)
            live = trained(random, SIZE, bound)
            rows = np.repeat(random.random(SIZE // 100) < 0.4, 100)
            assert zeros_test({"a": drawn.view(np.uint32)}) == []
            assert zeros_test({"a": np.where(rows, drawn, live).view(np.uint32)}) == []


def test_rounded_and_levelled_weights_are_not_taken_for_zeros(draws):
    """Constant zeros, in all of a tensor or in half of its rows; few values."""
    random = generator(draws)
    values = trained(random, SIZE)
    rounded = values.astype(np.float16).astype(np.float32)
    half = np.where(np.arange(SIZE) < SIZE // 2, rounded, values)
    seven = (values.view(np.uint32) >> 7 << 7).view(np.float32)
    levels = np.round(values * 64).astype(np.float32) / 64
    for clean in (rounded, half, seven, levels):
        assert "zeros" not in names_of({"a": clean.view(np.uint32)})
