"""Weights as one gray image: the four bytes of each float32, one quadrant a byte.

This is what the published few-shot detector looks at ("grayscale-fourpart"). The first
byte of every weight is the upper left quadrant, the last one the lower right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


_AT_ONCE = 1 << 20
"""Weights that are drawn together, at least a row."""


def fourpart(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the image of a row of float32 weights.

    Args:
        words: (n,) bit patterns of the weights, n >= 1.

    Returns:
        (2d, 2d), d the smallest whole number whose square is at least n. Behind the
        last weight each quadrant is filled up with zeros.

    Raises:
        ValueError: There is no weight.

    >>> fourpart(np.array([0.123], np.float32).view(np.uint32)).tolist()
    [[61, 251], [231, 109]]
    """
    if not words.size:
        raise ValueError("no weights: there is no image of nothing")
    side = math.isqrt(words.size - 1) + 1
    padded = np.zeros(side * side, ">u4")
    padded[: words.size] = words
    planes = padded.view(np.uint8).reshape(side, side, 4)
    image = np.empty((2 * side, 2 * side), np.uint8)
    image[:side, :side] = planes[:, :, 0]
    image[:side, side:] = planes[:, :, 1]
    image[side:, :side] = planes[:, :, 2]
    image[side:, side:] = planes[:, :, 3]
    return image


class Scaled:
    """The image of weights that come in pieces, scaled as by `resize`.

    It is the same to the pixel: scaling goes across before it goes down, so a row needs
    no other, and what is kept of it is as wide as the result.

    Args:
        number: Weights in all.
        side: Height and width of the result.

    Raises:
        ValueError: There is no weight.
    """

    def __init__(self, number: int, side: int) -> None:
        if number < 1:
            raise ValueError("no weights: there is no image of nothing")
        self._number, self._side = number, side
        self._row = math.isqrt(number - 1) + 1
        self._halves = np.zeros((2, self._row, side), np.uint8)
        self._rest = np.zeros(0, np.uint32)
        self._seen = self._rows = 0

    def take(self, words: NDArray[np.uint32]) -> None:
        """Take the next weights.

        Raises:
            ValueError: They are more than was said.
        """
        self._seen += words.size
        if self._seen > self._number:
            raise ValueError(f"more than {self._number:,} weights")
        every = np.concatenate((self._rest, words))
        whole = every.size // self._row
        step = max(1, _AT_ONCE // self._row)
        for first in range(0, whole, step):
            last = min(first + step, whole)
            self._draw(every[first * self._row : last * self._row])
        self._rest = every[whole * self._row :].copy()

    def image(self) -> NDArray[np.uint8]:
        """Return the image of all weights that were taken."""
        if self._rest.size:
            padded = np.zeros(self._row, np.uint32)
            padded[: self._rest.size] = self._rest
            self._draw(padded)
            self._rest = self._rest[:0]
        return _scaled(
            self._halves.reshape(2 * self._row, self._side), self._side, self._side
        )

    def _draw(self, words: NDArray[np.uint32]) -> None:
        """Draw whole rows of weights: a row of the upper half, and one of the lower."""
        planes = words.astype(">u4").view(np.uint8).reshape(-1, self._row, 4)
        for half, pair in zip(self._halves, (planes[..., :2], planes[..., 2:]),
                              strict=True):  # fmt: skip
            rows = pair.transpose(0, 2, 1).reshape(len(pair), 2 * self._row)
            half[self._rows : self._rows + len(rows)] = _scaled(
                rows, len(rows), self._side
            )
        self._rows += len(planes)


def resize(
    image: NDArray[np.uint8], side: int, how: Literal["bicubic", "area"] = "bicubic"
) -> NDArray[np.uint8]:
    """Return a gray image scaled to a square.

    Args:
        image: (height, width).
        side: Height and width of the result.
        how: "bicubic" as Pillow does it: on reduction the curve is as wide as what one
            pixel stands for, and both passes round to whole gray levels; of 255 levels
            a few pixels in a hundred differ from Pillow's by one or two. "area", its
            box: the mean of what one pixel stands for.

    Returns:
        (side, side).
    """
    if how == "area":
        across = _means(np.ascontiguousarray(image.T), side)
        return _means(np.ascontiguousarray(across.T), side)
    return _scaled(image, side, side)


def _scaled(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Return an image of so many rows and columns, as Pillow's bicubic makes it."""
    import torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None, None]
    scaled = functional.interpolate(
        pixels, (rows, columns), mode="bicubic", antialias=True
    )
    return np.ascontiguousarray(scaled[0, 0].numpy())


def _means(image: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """Return an image of so many rows: means of rows, or rows again and again."""
    scale = len(image) / rows
    if scale < 1:
        return image[((np.arange(rows) + 0.5) * scale).astype(np.int64)]
    starts = np.floor(np.arange(rows) * scale + 0.5).astype(np.int64)
    sums = np.add.reduceat(image, starts, axis=0, dtype=np.uint32)
    counts = np.diff(starts, append=len(image))[:, None]
    means: NDArray[np.uint8] = np.floor(sums / counts + 0.5).astype(np.uint8)
    return means
