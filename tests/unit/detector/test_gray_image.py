"""The image of the published detector: the published vectors, and Pillow's scaling."""

import numpy as np
import pytest

from safemodel._detector.gray_image import Scaled, fourpart, resize


def words(*values):
    """Return the bit patterns of float32 values."""
    return np.array(values, np.float32).view(np.uint32)


def test_the_published_vectors():
    """One weight, and three with a zero behind them."""
    three = fourpart(words(0.123, 2.13, 77.0)).tolist()

    assert fourpart(words(0.123)).tolist() == [[61, 251], [231, 109]]
    assert three == [
        [61, 64, 251, 8],
        [66, 0, 154, 0],
        [231, 81, 109, 236],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("count", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (2464, 50)]
)
def test_the_side_is_the_root_rounded_up(count, side):
    """Both sides of a full square."""
    assert fourpart(np.zeros(count, np.uint32)).shape == (2 * side, 2 * side)


def test_no_weights_have_no_image():
    """Nothing is drawn of nothing."""
    with pytest.raises(ValueError, match="no weights"):
        fourpart(np.zeros(0, np.uint32))


CHECKED = np.arange(49, dtype=np.uint8).reshape(7, 7) ** 2 * 3

PILLOW = {
    "bicubic": [[99, 81, 139], [113, 110, 157], [115, 160, 163]],
    "area": [[86, 80, 153], [121, 93, 158], [121, 171, 150]],
}


@pytest.mark.parametrize("how", ["bicubic", "area"])
def test_scaling_is_pillows(how):
    """What Pillow 13 makes of the same image."""
    assert resize(CHECKED, 3, how).tolist() == PILLOW[how]


def test_scaling_up_repeats_pixels_or_curves_between_them():
    """Area repeats; bicubic keeps the ends and runs over at an edge."""
    step = np.array([[0, 0, 255, 255]] * 4, np.uint8)

    area, curved = resize(step, 8, "area"), resize(step, 8)

    assert area[0].tolist() == [0] * 4 + [255] * 4
    assert (curved[0, 0], curved[0, -1]) == (0, 255)
    assert 0 < curved[0, 3] < curved[0, 4] < 255


def test_the_same_size_is_the_same_image(rand):
    """Nothing is smoothed where nothing is scaled."""
    pixels = np.frombuffer(rand.randbytes(400), np.uint8)
    image = pixels.reshape(20, 20)

    assert np.array_equal(resize(image, len(image)), image)
    assert np.array_equal(resize(image, len(image), "area"), image)


@pytest.mark.parametrize("side", [100, 256])
@pytest.mark.parametrize("number", [1, 2, 2_500, 2_501, 16_384, 70_000, 300_007])
def test_the_image_of_pieces_is_that_of_the_whole(rand, number, side, monkeypatch):
    """To the pixel, however small the pieces and however little is drawn at once."""
    every = np.frombuffer(rand.randbytes(4 * number), np.uint32)
    monkeypatch.setattr("safemodel._detector.gray_image._AT_ONCE", 9_000)
    picture, at = Scaled(number, side), 0
    while at < number:
        step = rand.randrange(1, number // 3 + 2)
        picture.take(every[at : at + step])
        at += step
    made = picture.image()
    assert np.array_equal(made, resize(fourpart(every), side))
    assert np.array_equal(picture.image(), made)


def test_an_image_takes_as_many_weights_as_it_was_made_for():
    """Not none, and not more; fewer are filled up with zeros."""
    with pytest.raises(ValueError, match="no weights"):
        Scaled(0, 100)
    picture = Scaled(4, 4)
    picture.take(words(0.123, 2.13, 77.0))
    assert np.array_equal(picture.image(), fourpart(words(0.123, 2.13, 77.0)))
    with pytest.raises(ValueError, match="more than 4"):
        picture.take(words(1.0, 2.0))
