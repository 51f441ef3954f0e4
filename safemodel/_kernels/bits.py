"""Overwrite low mantissa bits of floating-point numbers, as bit patterns, in place.

Rules, for every kernel here:

1. Sign and exponent stay as they are; rounding up stops at the largest mantissa
   instead of carrying into the exponent.
2. NaN, and infinities where the format has them, stay as they are.
3. A number does not become one of those: formats of 8 bits have a single NaN that is
   one low bit away from numbers, and that bit is flipped back.
4. Where the exponent is zero, `replace` writes zeros: exact zeros stay zeros, so that
   pruned weights stay pruned and nothing becomes subnormal.

What a kernel knows of the format is ``rules``, one array of words:

    0  low       the bits to overwrite, 2**bits - 1
    1  exponent  mask of the exponent
    2  mantissa  mask of the mantissa, which contains ``low``
    3  mask      a word w is NaN or an infinity if ``w & mask == special``
    4  special
    5  one       1, in the same type: Numba makes a float of mixed integer types
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._kernels._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def replace(words: NDArray[Any], noise: NDArray[Any], rules: NDArray[Any]) -> None:
    """Put the low bits of ``noise[i]`` in the place of those of ``words[i]``.

    words: (n,) unsigned, C-contiguous.
    noise: at least (n,), unsigned, with at least as many bits as are overwritten.
    rules: (6,) of the type of ``words``; see above.
    """
    low, exponent, mask, special, one = rules[0], rules[1], rules[3], rules[4], rules[5]
    zero = one ^ one
    for i in range(words.shape[0]):
        word = words[i]
        fill = noise[i] & low if word & exponent != zero else zero
        new = (word & ~low) | fill
        new = new ^ one if new & mask == special else new
        words[i] = word if word & mask == special else new


@kernel
def clear(words: NDArray[Any], rules: NDArray[Any]) -> None:
    """Put zeros in the place of the low bits: towards zero.

    words: (n,) unsigned, C-contiguous.
    rules: (6,) of the same type; see above.
    """
    low, mask, special, one = rules[0], rules[3], rules[4], rules[5]
    for i in range(words.shape[0]):
        word = words[i]
        new = word & ~low
        new = new ^ one if new & mask == special else new
        words[i] = word if word & mask == special else new


@kernel
def round_even(words: NDArray[Any], rules: NDArray[Any]) -> None:
    """Round to the nearest number whose low bits are zero; ties to even.

    words: (n,) unsigned, C-contiguous.
    rules: (6,) of the same type; see above.
    """
    low, mask, special, one = rules[0], rules[3], rules[4], rules[5]
    kept = rules[2] & ~low
    half = (low >> one) + one
    step = low + one
    zero = one ^ one
    for i in range(words.shape[0]):
        word = words[i]
        rest = word & low
        new = word & ~low
        up = rest > half or (rest == half and word & step != zero)
        # Rule 1: with every kept bit set, one more step would be the next exponent.
        new = new + step if up and word & kept != kept else new
        new = new ^ one if new & mask == special else new
        words[i] = word if word & mask == special else new
