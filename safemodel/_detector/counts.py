"""A tensor's words → the counts its tests take, a block at a time.

The arrays of one `Counter` serve all tensors of a file: the largest of them has a
megabyte, and tensors of a hundred elements are many. So what is taken from it, and
set to zero again, is what the tensor has filled, which its least and its greatest word
tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._detector.layouts import layout_of

if TYPE_CHECKING:
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
        words: The words themselves, valid until the next piece.
        lows: (k, 256); values of the lowest bytes, the lowest first.
        octants: (k, 8, 256); the same by octant; of wide floats.
        packed: (8, 256); see `lowest`.
        product: Sum of products of neighbouring lowest bytes.
    """

    start: int
    words: NDArray[Any]
    lows: NDArray[np.int64]
    octants: NDArray[np.uint32]
    packed: NDArray[np.int64]
    product: int


class Piece(NamedTuple):
    """The counts of the blocks of a piece, one after the other.

    Attributes:
        start: Number of its first word in the tensor.
        words: The piece.
        lows: (n, k, 256); see `Block`.
        octants: (n, k, 8, 256).
        packed: (n, 8, 256).
        products: (n,).
        subnormals: (n,); words of each that are subnormal.
    """

    start: int
    words: NDArray[Any]
    lows: NDArray[np.int64]
    octants: NDArray[np.uint32]
    packed: NDArray[np.int64]
    products: NDArray[np.float64]
    subnormals: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Words of each block."""
        sizes = np.full(len(self.products), BLOCK)
        sizes[-1] = self.words.size - BLOCK * (sizes.size - 1)
        return sizes

    def block(self, at: int) -> Block:
        """Return one of the blocks."""
        first = BLOCK * at
        return Block(
            self.start + first, self.words[first : first + BLOCK], self.lows[at],
            self.octants[at], self.packed[at], int(self.products[at]),
        )  # fmt: skip


class Tensor:
    """The counts of a whole tensor, as far as it has been read.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        layout: How its words are read.
        role: What it is for.
        shape: Lengths of its axes.
        size: Its words.
        top: Floats: (rows, 2**kept); counts by exponent and upper mantissa, of both
            signs. Integers: counts of values. Filled by `Counter.finish`.
        exponents: Of the rows of `top`, ascending; others have no words.
        lows: As of `Block`, all blocks together.
        zeros: See `rare`; of samples of those blocks that have many.
        small: See `rare`; complete.
        special: See `rare`; complete.
        sums: See `digest`.
        sample: Some of its words.
        tiny: Subnormal words, every so many of them from all over the tensor.
        largest: (66,) mantissas; the greatest of the subnormal words of each length.
        least: The three least mantissas of subnormal words.
    """

    def __init__(self, weights: Weights) -> None:
        self.name = weights.name
        self.dtype = weights.dtype
        self.layout: Layout = layout_of(weights.dtype, weights.bits.itemsize)
        self.role: Role = weights.role
        self.shape = weights.shape
        self.size = weights.size or weights.bits.size
        self.done = 0
        self.top: NDArray[Any] = np.zeros(0, np.int64)
        self.exponents: NDArray[np.int64] = np.zeros(0, np.int64)
        self.lows = np.zeros((_LOWS[self.layout.itemsize], 256), np.int64)
        self.zeros = np.zeros(66, np.uint64)
        self.small = np.zeros(66, np.uint64)
        self.special = np.zeros(4, np.uint64)
        self.sums = np.zeros(3, np.uint64)
        self.range = (1 << 64, -1)
        """The least word that is not 0, and the greatest, signs left out."""
        self.sample: NDArray[Any] = weights.bits[:0]
        self.tiny: NDArray[Any] = weights.bits[:0]
        self.largest = np.zeros(66, np.uint64)
        self.least: tuple[int, ...] = ()
        self._step, self._skip = 1, 0

    @property
    def subnormals(self) -> int:
        """Words with an exponent of zeros and a mantissa that is not zero."""
        return int(self.small[1:].sum())

    @property
    def exact_zeros(self) -> int:
        """Words that are zero, of either sign."""
        return int(self.small[0])

    def take_subnormals(self, words: NDArray[Any], mantissas: NDArray[Any]) -> None:
        """Keep every so many of some words, and the greatest and least of all."""
        least = np.partition(mantissas, min(3, mantissas.size) - 1)[:3].tolist()
        self.least = tuple(sorted((*self.least, *least))[:3])
        lengths = np.frexp(mantissas.astype(np.float64))[1]
        np.maximum.at(self.largest, lengths, mantissas.astype(np.uint64))
        picked = words[self._skip :: self._step]
        self._skip = (self._skip - words.size) % self._step
        self.tiny = np.concatenate((self.tiny, picked))
        while self.tiny.size > 2 * _SAMPLE:
            # The next to be taken is a step after the last, which may now be left out.
            self._skip += self._step * (self.tiny.size % 2)
            self.tiny, self._step = self.tiny[::2].copy(), 2 * self._step


class Counter:
    """Counts tensors one after another."""

    def __init__(self) -> None:
        from safemodel._kernels import features

        self._kernels = features
        self._found = np.zeros(4, np.uint64)
        self._top = np.zeros(_TOP, np.uint32)
        self._marks = np.zeros(_MARKS, np.uint64)
        self._places = np.zeros(_MARKS, np.uint64)
        self._state = np.zeros(3, np.uint64)

    def start(self, weights: Weights) -> Tensor:
        """Begin a tensor, given its first piece."""
        self._state[:] = 0
        return Tensor(weights)

    def piece(self, tensor: Tensor, words: NDArray[Any]) -> Piece:
        """Count a piece of a tensor."""
        self._sampled(tensor, words)
        width, number = tensor.layout.itemsize, -(-words.size // BLOCK)
        packed = np.zeros((number, 8, 256), np.uint32)
        octants = np.zeros((number, _LOWS[width] * (width > 2), 8, 256), np.uint32)
        lows = np.zeros((number, _LOWS[width], 256), np.uint32)
        products, tiny = np.zeros(number), np.zeros(number, np.int64)
        first = tensor.done
        for at in range(number):
            part = words[BLOCK * at : BLOCK * (at + 1)]
            self._values(tensor.layout, part, octants[at], lows[at])
            kernels = self._kernels
            kernels.lowest(part, packed[at], self._state, self._marks, self._places)
            known = tensor.subnormals
            products[at] = self._digest(tensor, part, int(lows[at, 0, 0]))
            tiny[at] = tensor.subnormals - known
        if first == 0:
            _drop_partial(packed[0], words)
        whole = lows.astype(np.int64)
        tensor.lows += whole.sum(0)
        tensor.done += words.size
        by_bits = packed.astype(np.int64)
        return Piece(first, words, whole, octants, by_bits, products, tiny)

    def marks(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the windows marked since the last call, and where they end."""
        taken = int(self._state[2])
        self._state[2] = 0
        return self._marks[:taken].copy(), self._places[:taken].copy()

    def finish(self, tensor: Tensor) -> None:
        """Fill in what is known once all of a tensor has been read."""
        layout = tensor.layout
        width = 1 << layout.kept
        least, most = (place >> _shift(layout) for place in tensor.range)
        if layout.exponent:
            first, last = least // width, most // width
            exponents = np.arange(first, last + 1)
            if tensor.exact_zeros and first > 0:
                exponents = np.append(0, exponents)
            rows = self._top[: width << layout.exponent].reshape(-1, width)
            tensor.exponents, tensor.top = exponents, rows[exponents]
        elif layout.kind == "integer":
            values = self._top[: 1 << 8 * layout.itemsize]
            tensor.top = values.astype(np.int64)
        self._top[0] = 0
        self._top[min(least, most) : most + 1] = 0

    def _values(
        self,
        layout: Layout,
        words: NDArray[Any],
        octants: NDArray[np.uint32],
        lows: NDArray[np.uint32],
    ) -> None:
        """Count the values of bytes, and of the upper bits of words."""
        kernels, width = self._kernels, layout.itemsize
        if width > 2:
            count = kernels.words_4 if width == 4 else kernels.words_8
            count(words, octants, self._top)
            octants.sum(1, out=lows)
        else:
            rules = np.array([unsigned_bits(layout), 255], words.dtype)
            kernels.words_short(words, rules, lows, self._top)

    def _digest(self, tensor: Tensor, words: NDArray[Any], zeros: int) -> int:
        """Take the sums of a block, and look at its rare words; return its product."""
        layout = tensor.layout
        bits, unsigned = 8 * layout.itemsize, unsigned_bits(layout)
        keep = (1 << bits) - (1 << FREE[layout.itemsize])
        rules = np.array([keep, unsigned, 255, 1], words.dtype)
        self._kernels.digest(words, rules, tensor.sums, self._found)
        product, least, most, none = map(int, self._found)
        low, high = tensor.range
        if none < words.size:
            low = min(low, least + 1)
        tensor.range = low, max(high, most)
        if layout.exponent:
            exponent, mantissa, _ = layout.masks
            odd = none > 0 or least < mantissa or most >= exponent
            self._rare(tensor, words, odd, zeros)
        return product

    def _rare(self, tensor: Tensor, words: NDArray[Any], odd: bool, zeros: int) -> None:
        """Look closer at a block that has rare words, or many that end in zeros."""
        if not odd and zeros <= words.size // 64:
            return
        kernels = self._kernels
        exponent, mantissa, highest = tensor.layout.masks
        rules = np.array([exponent, mantissa, highest, 0, 1], words.dtype)
        unused = (np.zeros(66, np.uint64), np.zeros(4, np.uint64))
        if odd:
            field = words & rules[0]
            some = words[(field == 0) | (field == rules[0])]
            if some.size:
                ends = np.zeros(66, np.uint64)
                kernels.rare(some, rules, ends, tensor.small, tensor.special)
                tiny = some[(some & rules[0] == 0) & (some & rules[1] != 0)]
                if tiny.size:
                    tensor.take_subnormals(tiny, tiny & rules[1])
        if zeros > words.size // 64:
            kernels.rare(words[:_SAMPLE], rules, tensor.zeros, *unused)

    def _sampled(self, tensor: Tensor, words: NDArray[Any]) -> None:
        """Keep a stretch of a piece, until there are enough of them."""
        room = _SAMPLE - tensor.sample.size
        if room > 0:
            part = words[:: max(1, words.size // room)][:room]
            tensor.sample = np.concatenate((tensor.sample, part))


def unsigned_bits(layout: Layout) -> int:
    """Return which bits of a word say how large it is: of floats, all but the sign."""
    bits = 8 * layout.itemsize
    return (
        (1 << bits) - 1
        if layout.kind == "integer" or bits == 8
        else (1 << bits - 1) - 1
    )


def _shift(layout: Layout) -> int:
    """Return how many bits of a word are below those that are counted together."""
    return {8: 45, 4: 13}.get(layout.itemsize, 0)


def _drop_partial(packed: NDArray[np.uint32], words: NDArray[Any]) -> None:
    """Take out the bytes of a tensor's first words: fewer than eight make them."""
    window = 0
    for place, word in enumerate(words[:7]):
        window = window << 1 | int(word) & 1
        packed[place, window] -= 1
