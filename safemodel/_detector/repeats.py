"""A message that is repeated to fill a tensor: its bits come again, its weights do not.

1. The lowest bits of 64 weights in a row are a window. The kernel marks one window in
   1,024 by what it holds, so two copies of a message have the same marks.
2. In clean weights two windows are equal by chance once in 2**64, a little more often
   where most bits are zeros: windows of few ones, or of few zeros, are left out, and
   so are those of few different weights, such as products of a table with itself have.
3. Where rows of a tensor are equal, windows are, too: then the upper halves of the
   weights are equal as well, and nothing is repeated but weights. In tables of sines
   and cosines rows are equal but for signs and powers of two: those do not count.

It needs no message that is not encrypted: a tiled one repeats, whatever it holds.
"""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._detector.counts import unsigned_bits
from safemodel._detector.evidence import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._detector.layouts import Layout

WINDOW = 64
_FEWEST = 4
"""Windows at one distance from their copies that are needed."""
_MOST_PAIRS = 4096
_NATS = 25.0
"""Of one window that is there twice: 64 bits, less those of all pairs of windows."""


def of_piece(
    words: NDArray[Any],
    first: int,
    marks: NDArray[np.uint64],
    places: NDArray[np.uint64],
    name: str,
    layout: Layout,
) -> Outcome:
    """Return what is repeated within a piece of a tensor.

    Args:
        words: The piece.
        first: Number of its first word in the tensor.
        marks: Windows that were marked in it.
        places: Number of the last word of each, in the tensor.
        name: Of the tensor.
        layout: How its words are read.
    """
    pairs = _pairs(marks, places.astype(np.int64) - first)
    unsigned, upper = unsigned_bits(layout), words.dtype.type(_upper_bits(layout))
    if not pairs:
        return Outcome("repeats", "repeats", "", 0.0, tensor=name)
    lags: Tally[int] = Tally()
    starts: dict[int, tuple[int, int]] = {}
    for early, late in pairs:
        one = words[early - WINDOW + 1 : early + 1]
        other = words[late - WINDOW + 1 : late + 1]
        varied = np.unique(one & words.dtype.type(unsigned)).size >= WINDOW // 4
        if varied and ((one ^ other) & upper != 0).mean() > 0.5:
            lag = late - early
            lags[lag] += 1
            low, high = starts.get(lag, (early, late))
            starts[lag] = (min(low, early), max(high, late))
    lag, hits = lags.most_common(1)[0] if lags else (0, 0)
    found = hits >= _FEWEST
    start, end = starts.get(lag, (0, 0))
    return Outcome(
        family="repeats", test="repeats",
        what=f"low bits repeat every {lag:,} weights, and the weights do not",
        log_p=-_NATS * hits if found else 0.0, statistic=float(hits),
        effect=(end - start) / max(words.size, 1), tensor=name,
        start=first + max(0, start - WINDOW + 1), end=first + end + 1,
    )  # fmt: skip


def _upper_bits(layout: Layout) -> int:
    """Return which bits of a word say that weights are others.

    Of wide floats, those of the mantissa in the upper half. Others have too few.
    """
    short, half = layout.kind == "short", 4 * layout.itemsize
    if layout.kind == "float":
        return (1 << layout.mantissa) - (1 << half)
    return unsigned_bits(layout) & -(1 << (layout.mantissa // 2 + 1 if short else half))


def _pairs(
    marks: NDArray[np.uint64], places: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return where equal windows end, each with the next one like it (rule 2)."""
    ordered = np.sort(marks)
    if not (ordered[1:] == ordered[:-1]).any():
        return []
    whole = places >= WINDOW - 1
    ones = np.unpackbits(marks.view(np.uint8).reshape(-1, 8), axis=1).sum(1)
    kept = whole & (ones >= WINDOW // 4) & (ones <= WINDOW * 3 // 4)
    marks, places = marks[kept], places[kept]
    order = np.lexsort((places, marks))
    marks, places = marks[order], places[order]
    same = np.flatnonzero(marks[1:] == marks[:-1])[:_MOST_PAIRS]
    return [(int(places[at]), int(places[at + 1])) for at in same]
