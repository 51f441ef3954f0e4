"""Pictures: what is put into a PNG comes out of it, read by its specification."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from safemodel._report.letters import letter
from safemodel._report.png import data_uri, png
from tests.unit.detector.helpers_detector import generator
from tests.unit.helpers_png import decoded


@pytest.mark.parametrize("depth", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (7, 1), (1, 130)])
def test_levels_come_back(rand, shape, depth):
    """Every pixel, also of rows whose last byte is half full."""
    levels = generator(rand).integers(0, 1 << depth, shape, dtype=np.uint8)
    picture = decoded(png(levels.tobytes(), shape[1], depth=depth))
    assert picture.depth == depth
    assert np.array_equal(picture.pixels, levels)


def test_colours_come_back():
    """A palette is the colours of a picture."""
    picture = decoded(png(bytes([0, 1, 1, 0]), 2, palette=[(255, 0, 9), (1, 2, 3)]))
    assert picture.palette.tolist() == [[255, 0, 9], [1, 2, 3]]
    assert picture.pixels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("pixels", "width"), [(b"", 1), (b"ab", 0), (b"abc", 2)])
def test_what_is_no_picture_is_an_error(pixels, width):
    """No rows, or one that is not whole."""
    with pytest.raises(ValueError, match="do not make rows"):
        png(pixels, width)


def test_an_address_holds_the_picture():
    """It is the bytes, in the letters that an address may have."""
    picture = png(b"\x00\xff", 2)
    head, _, body = data_uri(picture).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body, validate=True) == picture


def test_a_damaged_picture_is_noticed():
    """The reader of these tests compares checksums."""
    damaged = bytearray(png(b"\x00\xff", 2))
    damaged[20] ^= 1
    with pytest.raises(AssertionError):
        decoded(bytes(damaged))


def test_letters_are_all_different():
    """No two look alike, each has seven rows of five, and what is unknown is a box."""
    every = [chr(code) for code in range(33, 127)]
    drawn = {one: letter(one) for one in [*every, " ", "\u202e"]}
    assert all(len(rows) == 7 for rows in drawn.values())
    assert {len(row) for rows in drawn.values() for row in rows} == {5}
    assert len(set(drawn.values())) == len(drawn)
    assert letter("\u00e9") == letter("\u202e")
