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
    import torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None, None]
    scaled = functional.interpolate(
        pixels, (side, side), mode="bicubic", antialias=True
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
