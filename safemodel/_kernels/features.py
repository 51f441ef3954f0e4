"""One pass over the bit patterns of weights: the counts every test of `detect` needs.

Rules, for every kernel here:

1. Counts are added to what the arrays hold, so a tensor may come in pieces. ``state``
   carries what one piece leaves to the next.
2. A word is counted as it is: NaN, infinities and subnormals too. `rare` tells them
   apart, and is called only where the counts say that there are any.
3. Nothing depends on the value of a weight but the place of a count, and all places
   are masked to the arrays the caller gives.

What ``state`` holds, three words of 64 bits:

    0  window  the lowest bits of the last 64 words, the latest lowest
    1  phase   words of the tensor so far
    2  marks   how many entries of ``marks`` and ``places`` are taken

A *mark* is a window that a hash picks, one of 1,024, by what it holds and not by where
it is: two copies of one stretch of bits have the same marks. Full tables take no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._kernels._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MULTIPLY = np.uint64(0x9E3779B97F4A7C15)
_PICKED = np.uint64(54)  # the upper 10 bits of a product are 0
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_FOUR = np.uint64(4)
_SEVEN = np.uint64(7)
_EIGHT = np.uint64(8)
_TWELVE = np.uint64(12)
_FIFTEEN = np.uint64(15)
_HASHED = np.uint64(47)  # what is left are the bits of a place in a table of 2**17
_BYTE = np.uint64(0xFF)
_COUNT = np.uint32(1)


@kernel
def lowest(
    words: NDArray[Any],
    packed: NDArray[Any],
    state: NDArray[Any],
    marks: NDArray[Any],
    places: NDArray[Any],
) -> None:
    """Count what the lowest bits of words are, one after another.

    words: (n,) unsigned of 1, 2, 4 or 8 bytes, C-contiguous.
    packed: (8, 256) uint32; values of the byte that the lowest bits of 8 words make,
        the first of them highest, by the number of the last word modulo 8.
    state, marks, places: see above; uint64, (3,), (m,) and (m,).
    """
    window, phase, taken = state[0], state[1], state[2]
    for i in range(words.shape[0]):
        window = (window << _ONE) | (np.uint64(words[i]) & _ONE)
        packed[phase & _SEVEN, window & _BYTE] += _COUNT
        if (window * _MULTIPLY) >> _PICKED == _ZERO and taken < marks.shape[0]:
            marks[taken] = window
            places[taken] = phase
            taken += _ONE
        phase += _ONE
    state[0], state[1], state[2] = window, phase, taken


@kernel
def words_4(
    words: NDArray[Any],
    octants: NDArray[Any],
    top: NDArray[Any],
) -> None:
    """Count words of 4 bytes, as float32 has them.

    words: (n,) uint32, C-contiguous.
    octants: (2, 8, 256) uint32; values of the two lowest bytes, the lowest first, by
        the bits from 22 to 24: the highest of the mantissa and the two lowest of the
        exponent.
    top: (2**18,) uint32; values of the bits from 13 to 30: exponent and 10 of mantissa.
    """
    byte, mask, seven = np.uint32(0xFF), np.uint32(0x3FFFF), np.uint32(7)
    for i in range(words.shape[0]):
        word = words[i]
        octant = (word >> np.uint32(22)) & seven
        octants[0, octant, word & byte] += _COUNT
        octants[1, octant, (word >> np.uint32(8)) & byte] += _COUNT
        top[(word >> np.uint32(13)) & mask] += _COUNT


@kernel
def words_8(
    words: NDArray[Any],
    octants: NDArray[Any],
    top: NDArray[Any],
) -> None:
    """Count words of 8 bytes; as `words_4`, but for two arrays.

    octants: (6, 8, 256) uint32; of the six lowest bytes, by the bits from 51 to 53.
    top: (2**18,) uint32; values of the bits from 45 to 62: exponent and 7 of mantissa.
    """
    mask = np.uint64(0x3FFFF)
    for i in range(words.shape[0]):
        word = words[i]
        octant = (word >> np.uint64(51)) & _SEVEN
        octants[0, octant, word & _BYTE] += _COUNT
        octants[1, octant, (word >> np.uint64(8)) & _BYTE] += _COUNT
        octants[2, octant, (word >> np.uint64(16)) & _BYTE] += _COUNT
        octants[3, octant, (word >> np.uint64(24)) & _BYTE] += _COUNT
        octants[4, octant, (word >> np.uint64(32)) & _BYTE] += _COUNT
        octants[5, octant, (word >> np.uint64(40)) & _BYTE] += _COUNT
        top[(word >> np.uint64(45)) & mask] += _COUNT


@kernel
def words_short(
    words: NDArray[Any],
    rules: NDArray[Any],
    lows: NDArray[Any],
    top: NDArray[Any],
) -> None:
    """Count words of one or two bytes, each value by itself; as `words_4` otherwise.

    words: (n,) uint8 or uint16.
    rules: (2,) of the type of ``words``; the bits that make a value, and 255.
    lows: (1, 256) uint32; values of the lowest byte.
    top: (256,) or (2**16,) uint32; values.
    """
    keep, byte = rules[0], rules[1]
    for i in range(words.shape[0]):
        word = words[i]
        lows[0, word & byte] += _COUNT
        top[word & keep] += _COUNT


@kernel
def digest(
    words: NDArray[Any], rules: NDArray[Any], sums: NDArray[Any], found: NDArray[Any]
) -> None:
    """Add what tells two tensors apart, and find what says what a block is like.

    The sums, over words and over their tops, find copies. They resist nobody who wants
    two tensors to look like copies.

    words: (n,) unsigned of 1, 2, 4 or 8 bytes.
    rules: (4,) of the type of ``words``; the bits of a word that are its top, all but
        its sign, 255 and 1.
    sums: (3,) uint64; over whole words, over tops, and how many words there were.
    found: (4,) uint64; written to: the sum of products of the lowest bytes of words
        next to each other; the least word without sign, less one, of those that are
        not 0; the greatest; how many are 0.
    """
    keep, unsigned, byte, one = rules[0], rules[1], rules[2], rules[3]
    whole, tops, at = sums[0], sums[1], sums[2]
    product, zeros = np.uint64(0), np.uint64(0)
    least, most = unsigned, unsigned ^ unsigned
    for i in range(words.shape[0]):
        word = words[i]
        weight = (at + np.uint64(i)) * _MULTIPLY | _ONE
        whole += np.uint64(word) * weight
        tops += np.uint64(word & keep) * weight
        size = word & unsigned
        # 0 less 1 is what no other word is less than.
        least = min(least, (size - one) & unsigned)
        most = max(most, size)
        zeros += np.uint64(size == 0)
    for i in range(1, words.shape[0]):
        product += np.uint64(words[i - 1] & byte) * np.uint64(words[i] & byte)
    sums[0], sums[1], sums[2] = whole, tops, at + np.uint64(words.shape[0])
    found[0], found[1] = product, np.uint64(least)
    found[2], found[3] = np.uint64(most), zeros


@kernel
def rare(
    words: NDArray[Any],
    rules: NDArray[Any],
    zeros: NDArray[Any],
    small: NDArray[Any],
    special: NDArray[Any],
) -> None:
    """Count what few words of a float format are.

    words: (n,) unsigned.
    rules: (5,) of the type of ``words``; masks of exponent and mantissa, the highest
        bit of the mantissa, 0 and 1.
    zeros: (66,) uint64; words by how many of their lowest bits are zeros; the last
        entry is of words whose mantissa is 0.
    small: (66,) uint64; words with an exponent of zeros by the length of the mantissa,
        so that the first entry is of zeros.
    special: (4,) uint64; infinities, NaN of the usual mantissas (only the highest bit,
        or all), other quiet NaN, and NaN whose highest bit is 0.
    """
    exponent, mantissa, highest, zero, one = (
        rules[0], rules[1], rules[2], rules[3], rules[4],
    )  # fmt: skip
    for i in range(words.shape[0]):
        word = words[i]
        rest = word & mantissa
        if rest == zero:
            zeros[65] += _ONE
        else:
            count = 0
            shifted = rest
            while shifted & one == zero:
                shifted = shifted >> one
                count += 1
            zeros[count] += _ONE
        field = word & exponent
        if field == zero:
            length = 0
            while rest != zero:
                rest = rest >> one
                length += 1
            small[length] += _ONE
        elif field == exponent:
            if rest == zero:
                special[0] += _ONE
            elif (rest == highest) | (rest == mantissa):
                special[1] += _ONE
            elif rest & highest != zero:
                special[2] += _ONE
            else:
                special[3] += _ONE


@kernel
def first_ones(
    words: NDArray[Any],
    multiply: Any,
    table: NDArray[Any],
    taken: NDArray[Any],
    first: NDArray[Any],
) -> None:
    """Say which words are the first like that.

    words: (n,) unsigned; n at most half of the length of ``table``.
    multiply: Odd, of 64 bits, and unknown to whoever made the words: with it they
        could be made to take quadratic time.
    table: (2**17,) of the type of ``words``.
    taken: (2**17,) uint8; zeros.
    first: (n,) bool; written to.
    """
    last = np.uint64(table.shape[0] - 1)
    for i in range(words.shape[0]):
        word = words[i]
        at = (np.uint64(word) * multiply) >> _HASHED
        while taken[at] and table[at] != word:
            at = (at + _ONE) & last
        first[i] = not taken[at]
        taken[at] = 1
        table[at] = word


@kernel
def streams(
    words: NDArray[Any],
    usable: NDArray[Any],
    rules: NDArray[Any],
    start: Any,
    bits: NDArray[Any],
    pairs: NDArray[Any],
    nibbles: NDArray[Any],
    whole: NDArray[Any],
) -> None:
    """Count the bytes of the streams that 1, 2, 4 and 8 low bits of words make.

    The first word gives the highest bits of a byte. A byte counts if all its words are
    usable. Phase p: its first word has a number that is p modulo the words of a byte.

    words: (n,) unsigned.
    usable: (n,) bool.
    rules: (2,) of the type of ``words``; how far below the octant there are bits, and
        7, or 0 if there are no octants.
    start: Number of the first word, uint64.
    bits: (8, 256) uint32; by phase.
    pairs: (4, 8, 256) uint32; by phase, and by the octant of the first word.
    nibbles: (2, 8, 256) uint32; the same.
    whole: (k, 8, 256) uint32; by octant; values of the lowest byte, and of those above,
        one byte at a time.
    """
    shift, seven = np.uint64(rules[0]), np.uint64(rules[1])
    one = two = four = octants = _ZERO
    run = 0
    for i in range(words.shape[0]):
        word, number = np.uint64(words[i]), start + np.uint64(i)
        one = (one << _ONE) | (word & _ONE)
        two = (two << _TWO) | (word & _THREE)
        four = (four << _FOUR) | (word & _FIFTEEN)
        octants = (octants << _FOUR) | ((word >> shift) & seven)
        if not usable[i]:
            run = 0
            continue
        run += 1
        for at in range(whole.shape[0]):
            whole[at, octants & _SEVEN, word & _BYTE] += _COUNT
            word = word >> _EIGHT
        if run >= 2:
            nibbles[
                (number + _ONE) & _ONE, (octants >> _FOUR) & _SEVEN, four & _BYTE
            ] += _COUNT
        if run >= 4:
            pairs[
                (number + _ONE) & _THREE, (octants >> _TWELVE) & _SEVEN, two & _BYTE
            ] += _COUNT
        if run >= 8:
            bits[(number + _ONE) & _SEVEN, one & _BYTE] += _COUNT
