"""A tensor's words → the counts its tests take, a block at a time.

The arrays of one `Counter` serve all tensors of a file: the largest of them has a
megabyte, and tensors of a hundred elements are many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.layouts import layout_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel._detector.layouts import Layout
    from safemodel._detector.roles import Role
    from safemodel._detector.weights import Weights

BLOCK = 1 << 16
_TOP = 1 << 18
_MARKS = 1 << 16
_SAMPLE = 4096
_LOWS = {4: 2, 8: 6, 2: 1, 1: 1}
FREE = {8: 32, 4: 16, 2: 4, 1: 2}
"""Lowest bits in which copies of a tensor may differ, by the bytes of a word."""


class Block(NamedTuple):
    """The counts of one block of a tensor.

    Attributes:
        start: Number of its first word in the tensor.
        words: The words themselves, valid until the next block.
        lows: (k, 256); values of the lowest bytes, the lowest first.
        octants: (8, 256); values of the lowest byte by octant; of wide floats.
        packed: (8, 256); see `words_4`.
        product: Sum of products of neighbouring lowest bytes.
    """

    start: int
    words: NDArray[Any]
    lows: NDArray[np.int64]
    octants: NDArray[np.int64]
    packed: NDArray[np.int64]
    product: int


class Tensor:
    """The counts of a whole tensor, as far as it has been read.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        layout: How its words are read.
        role: What it is for.
        shape: Lengths of its axes.
        size: Its words.
        top: Wide floats: (2**e, 2**kept) by exponent and upper mantissa. Others:
            values of whole words. Filled by `Counter.finish`.
        lows: As of `Block`, all blocks together.
        zeros: See `rare`; of samples of those blocks that have many.
        small: See `rare`; complete.
        special: See `rare`; complete.
        sums: See `digest`.
        sample: Some of its words.
        tiny: Subnormal words, the first of them.
    """

    def __init__(self, weights: Weights) -> None:
        self.name = weights.name
        self.dtype = weights.dtype
        self.layout: Layout = layout_of(weights.dtype, weights.bits.itemsize)
        self.role: Role = weights.role
        self.shape = weights.shape
        self.size = weights.size or weights.bits.size
        self.done = 0
        self.top: NDArray[np.int64] = np.zeros(0, np.int64)
        self.lows = np.zeros((_LOWS[self.layout.itemsize], 256), np.int64)
        self.zeros = np.zeros(66, np.uint64)
        self.small = np.zeros(66, np.uint64)
        self.special = np.zeros(4, np.uint64)
        self.sums = np.zeros(3, np.uint64)
        self.sample: NDArray[Any] = weights.bits[:0]
        self.tiny: NDArray[Any] = weights.bits[:0]

    @property
    def subnormals(self) -> int:
        """Words with an exponent of zeros and a mantissa that is not zero."""
        return int(self.small[1:].sum())

    @property
    def exact_zeros(self) -> int:
        """Words that are zero, of either sign."""
        return int(self.small[0])


class Counter:
    """Counts tensors one after another."""

    def __init__(self) -> None:
        self._top = np.zeros(_TOP, np.uint32)
        self._marks = np.zeros(_MARKS, np.uint64)
        self._places = np.zeros(_MARKS, np.uint64)
        self._state = np.zeros(3, np.uint64)

    def start(self, weights: Weights) -> Tensor:
        """Begin a tensor, given its first piece."""
        self._state[:] = 0
        return Tensor(weights)

    def blocks(self, tensor: Tensor, words: NDArray[Any]) -> Iterator[Block]:
        """Count a piece of a tensor; yield its blocks."""
        self._sampled(tensor, words)
        for at in range(0, words.size, BLOCK):
            part = words[at : at + BLOCK]
            yield self._block(tensor, part)
            tensor.done += part.size

    def marks(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the windows marked since the last call, and where they end."""
        taken = int(self._state[2])
        self._state[2] = 0
        return self._marks[:taken].copy(), self._places[:taken].copy()

    def finish(self, tensor: Tensor) -> None:
        """Fill in what is known once all of a tensor has been read."""
        layout = tensor.layout
        if layout.itemsize > 2:
            tensor.top = self._top.astype(np.int64)
            self._top[:] = 0
            if layout.kind == "float":
                tensor.top = tensor.top.reshape(1 << layout.exponent, -1)

    def _block(self, tensor: Tensor, words: NDArray[Any]) -> Block:
        from safemodel._kernels import features as kernels

        width = tensor.layout.itemsize
        packed, octants = (np.zeros((8, 256), np.uint32) for _ in range(2))
        carried = (self._state, self._marks, self._places)
        if width > 2:
            above = np.zeros((_LOWS[width] - 1, 256), np.uint32)
            count = kernels.words_4 if width == 4 else kernels.words_8
            before = self._ends(tensor)
            count(words, octants, above, packed, self._top, *carried)
            odd = self._ends(tensor) != before
            lows = np.concatenate((octants.sum(0, dtype=np.uint32)[None], above))
        else:
            values = np.zeros(1 << 8 * width, np.uint32)
            kernels.words_short(words, packed, values, *carried)
            if not tensor.top.size:
                tensor.top = np.zeros(values.size, np.int64)
            tensor.top += values
            lows = values.reshape(-1, 256).sum(0, dtype=np.uint32)[None]
            odd = True
        if tensor.done == 0:
            _drop_partial(packed, words)
        product = int(kernels.neighbours(words))
        keep = (1 << 8 * width) - (1 << FREE[width])
        kernels.digest(words, np.array([keep, 1], words.dtype), tensor.sums)
        if tensor.layout.exponent:
            self._rare(tensor, words, odd, int(lows[0, 0]))
        whole = lows.astype(np.int64)
        tensor.lows += whole
        by_octant, by_bits = octants.astype(np.int64), packed.astype(np.int64)
        return Block(tensor.done, words, whole, by_octant, by_bits, product)

    def _ends(self, tensor: Tensor) -> int:
        """Return how many words with an exponent of zeros or ones were counted."""
        if tensor.layout.kind != "float":
            return 0
        row = 1 << tensor.layout.kept
        return int(self._top[:row].sum()) + int(self._top[-row:].sum())

    def _rare(self, tensor: Tensor, words: NDArray[Any], odd: bool, zeros: int) -> None:
        """Look closer at a block that has rare words, or many that end in zeros."""
        from safemodel._kernels import features as kernels

        exponent, mantissa, highest = tensor.layout.masks
        rules = np.array([exponent, mantissa, highest, 0, 1], words.dtype)
        unused = (np.zeros(66, np.uint64), np.zeros(4, np.uint64))
        if odd:
            field = words & rules[0]
            some = words[(field == 0) | (field == rules[0])]
            if some.size:
                ends = np.zeros(66, np.uint64)
                kernels.rare(some, rules, ends, tensor.small, tensor.special)
                self._tiny(tensor, some[some & rules[0] == 0] & rules[1])
        if zeros > words.size // 64:
            kernels.rare(words[:_SAMPLE], rules, tensor.zeros, *unused)

    def _tiny(self, tensor: Tensor, words: NDArray[Any]) -> None:
        """Keep some subnormal words."""
        room = _SAMPLE - tensor.tiny.size
        if room > 0:
            tensor.tiny = np.concatenate((tensor.tiny, words[words != 0][:room]))

    def _sampled(self, tensor: Tensor, words: NDArray[Any]) -> None:
        """Keep a stretch of a piece, until there are enough of them."""
        room = _SAMPLE - tensor.sample.size
        if room > 0:
            part = words[:: max(1, words.size // room)][:room]
            tensor.sample = np.concatenate((tensor.sample, part))


def _drop_partial(packed: NDArray[np.uint32], words: NDArray[Any]) -> None:
    """Take out the bytes of a tensor's first words: fewer than eight make them."""
    window = 0
    for place, word in enumerate(words[:7]):
        window = window << 1 | int(word) & 1
        packed[place, window] -= 1
