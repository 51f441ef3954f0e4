"""Overwrite the low mantissa bits of weights, whatever they hold.

An encrypted payload in the low bits of float32 weights cannot be told from weights:
those bits look random to begin with. It need not be told: what overwrites the bits
removes it. docs/scrub.md says what that does and does not remove.

Importing this module imports neither numpy nor numba.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Scrub", "scrub_array"]


class _Layout:
    """How the words of a floating-point format are read; see `_kernels.bits`.

    Attributes:
        itemsize: Bytes of a word.
        exponent_bits: Of its bits, those of the exponent.
        mantissa_bits: And those of the mantissa.
        mask: With `special`, the words of NaN and infinities; 0: an exponent of ones.
        special: What such a word is under the mask.
    """

    __slots__ = ("exponent_bits", "itemsize", "mantissa_bits", "mask", "special")

    def __init__(
        self,
        itemsize: int,
        exponent_bits: int,
        mantissa_bits: int,
        mask: int = 0,
        special: int = 0,
    ) -> None:
        self.itemsize = itemsize
        self.exponent_bits = exponent_bits
        self.mantissa_bits = mantissa_bits
        self.mask = mask
        self.special = special


_LAYOUTS = {
    "float64": _Layout(8, 11, 52),
    "float32": _Layout(4, 8, 23),
    "float16": _Layout(2, 5, 10),
    "bfloat16": _Layout(2, 8, 7),
    "float8_e5m2": _Layout(1, 5, 2),
    "float8_e4m3fn": _Layout(1, 4, 3, 0x7F, 0x7F),
    "float8_e5m2fnuz": _Layout(1, 5, 2, 0xFF, 0x80),
    "float8_e4m3fnuz": _Layout(1, 4, 3, 0xFF, 0x80),
}
"""float8_e8m0fnu has no mantissa, and float4_e2m1fn_x2 one bit of it: left alone."""

# A complex number is two floats, and each of them is scrubbed.
_PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}

_CHUNK = 1 << 16
"""Words scrubbed at a time: noise for them fits the cache, and is all there ever is."""

_MIN_THREAD_BYTES = 4 << 20
"""What a thread must have to do: starting one takes as long as a tenth of this."""


class Scrub(Value):
    """Which bits of floating-point tensors are overwritten, and with what.

    Attributes:
        bits: Low mantissa bits, from 1 to 52; where a dtype has fewer, all it has.
            "auto" is the most that keep the relative change of every normal number
            under `max_relative_change`: of float32 12 bits, of float64 41, and none
            of formats whose last bit alone weighs more.
        method: "random" writes the output of a cryptographic generator, "zero" zeros,
            and "round" rounds to the nearest number whose low bits are zero, ties to
            even. "random" is the default: the others show that a file was scrubbed,
            and rounding lets one hidden bit a weight decide a bit that stays.
        max_relative_change: The bound of "auto"; not used with a number of bits.

    Raises:
        TypeError: An argument has another type.
        ValueError: `bits` is not from 1 to 52, there is no such method, or the bound
            is not between 0 and 1.

    >>> Scrub().bits_for("float32"), Scrub().bits_for("float16")
    (12, 0)
    >>> Scrub(bits=12).bits_for("bfloat16")
    7
    """

    bits: int | Literal["auto"] = "auto"
    method: Literal["random", "zero", "round"] = "random"
    max_relative_change: float = 2**-11

    def __post_init__(self) -> None:
        if self.bits != "auto":
            if type(self.bits) is not int:
                raise TypeError(f"bits must be an integer or 'auto': {self.bits!r}")
            if not 1 <= self.bits <= 52:
                raise ValueError(f"bits must be from 1 to 52: {self.bits}")
        if self.method not in ("random", "zero", "round"):
            raise ValueError(
                f"method must be 'random', 'zero' or 'round': {self.method!r}"
            )
        bound: object = self.max_relative_change
        if type(bound) not in (int, float):
            raise TypeError(f"max_relative_change must be a number: {bound!r}")
        if not 0 < self.max_relative_change < 1:
            raise ValueError(f"max_relative_change must be between 0 and 1: {bound}")

    def bits_for(self, dtype: str) -> int:
        """Return how many low mantissa bits of a dtype are overwritten; 0: none.

        Args:
            dtype: Torch's name without its prefix, as in "bfloat16".

        Raises:
            ValueError: There is no such dtype.
        """
        layout = _LAYOUTS.get(_PARTS.get(dtype, dtype))
        if layout is None:
            from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE

            if dtype in DTYPE_ITEMSIZE:
                return 0
            raise ValueError(f"no dtype of torch: {dtype!r}")
        if self.bits != "auto":
            return min(self.bits, layout.mantissa_bits)
        # Of a normal number, the change of `bits` bits is at most 2**bits - 1 units of
        # the last place, each at most 2**-mantissa_bits of the number.
        bits, unit = layout.mantissa_bits, 2.0**-layout.mantissa_bits
        while bits and (2**bits - 1) * unit >= self.max_relative_change:
            bits -= 1
        return bits


def scrub_array(
    array: NDArray[Any], dtype: str, scrub: Scrub, *, threads: int | None = None
) -> int:
    """Overwrite low mantissa bits in place.

    Pieces of one tensor may be given one after another: what happens to a number does
    not depend on its neighbours. The sign and the exponent of a number never change,
    and neither do NaN, infinities and exact zeros. A subnormal number has no bits
    before its mantissa, so the bound of "auto" cannot hold for it: its low bits
    become zeros, or are rounded.

    Args:
        array: The numbers, or their bytes or words of any size, in the byte order of
            this machine; C-contiguous and writable.
        dtype: Torch's name of what the numbers are, without its prefix.
        scrub: What to overwrite, and with what.
        threads: How many may work; None: one for each processor this process may use.

    Returns:
        How many bits of each number are overwritten; 0 for a dtype that has none.

    Raises:
        TypeError: Not an array, or not a `Scrub`.
        ValueError: There is no such dtype; the array is not contiguous, not writable,
            in another byte order, or no whole number of such numbers.
    """
    import numpy as np

    if not isinstance(array, np.ndarray) or not isinstance(scrub, Scrub):
        raise TypeError("scrub_array takes a numpy array, a dtype's name and a Scrub")
    bits = scrub.bits_for(dtype)
    if not bits:
        return 0
    layout = _LAYOUTS[_PARTS.get(dtype, dtype)]
    words = _words(array, layout.itemsize, dtype)
    work = _worker(scrub.method, bits, layout)
    if words.flags.aligned:
        _in_threads(work, words, threads)
    else:
        # Compiled code reads whole words; what starts in the middle of one is moved.
        moved = words.copy()
        _in_threads(work, moved, threads)
        words[:] = moved
    return bits


def _words(array: NDArray[Any], itemsize: int, dtype: str) -> NDArray[Any]:
    """Return the words of an array, which share its memory."""
    import numpy as np

    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError("the array must be C-contiguous and writable")
    if not array.dtype.isnative or array.dtype.hasobject:
        raise ValueError(
            f"not numbers in the byte order of this machine: {array.dtype}"
        )
    if array.nbytes % itemsize:
        raise ValueError(f"{array.nbytes} bytes are no whole number of {dtype}")
    # A subclass, such as a memory map, is seen as what it is over.
    flat = np.asarray(array).reshape(-1)
    return flat.view(np.uint8).view(np.dtype(f"u{itemsize}"))


def _worker(method: str, bits: int, layout: _Layout) -> Callable[[NDArray[Any]], None]:
    """Return what scrubs an array of words."""
    import numpy as np

    from safemodel._kernels import bits as kernels

    width = layout.mantissa_bits
    exponent = ((1 << layout.exponent_bits) - 1) << width
    mask, special = layout.mask or exponent, layout.special or exponent
    rules = np.array(
        [(1 << bits) - 1, exponent, (1 << width) - 1, mask, special, 1],
        np.dtype(f"u{layout.itemsize}"),
    )
    if method == "zero":
        return lambda words: kernels.clear(words, rules)
    if method == "round":
        return lambda words: kernels.round_even(words, rules)

    def replace(words: NDArray[Any]) -> None:
        # No more noise than is needed: it is what takes the time.
        narrow = next(size for size in (1, 2, 4, 8) if size * 8 >= bits)
        for noise, start in _noise(words.size, narrow):
            kernels.replace(words[start : start + noise.size], noise, rules)

    return replace


def _noise(count: int, itemsize: int) -> Any:
    """Yield arrays of words from a stream cipher, and the index each starts at."""
    import numpy as np
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    # The keystream of a key that nobody has, and that is used for this call only. Its
    # block counter has 32 bits, 256 GiB: callers' pieces are smaller, and past that
    # the library refuses or moves on to the next nonce.
    cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None)
    stream = cipher.encryptor()
    noise = np.empty(min(_CHUNK, count), np.dtype(f"u{itemsize}"))
    zeros = bytes(noise.nbytes)
    for start in range(0, count, _CHUNK):
        now = noise[: count - start]
        stream.update_into(memoryview(zeros)[: now.nbytes], now.view(np.uint8).data)
        yield now, start


def _in_threads(
    work: Callable[[NDArray[Any]], None], words: NDArray[Any], threads: int | None
) -> None:
    """Give each thread one span of the words."""
    if threads is None:
        threads = len(os.sched_getaffinity(0))
    threads = min(threads, words.nbytes // _MIN_THREAD_BYTES)
    if threads <= 1:
        work(words)
        return
    from concurrent.futures import ThreadPoolExecutor

    step = -(-words.size // threads)
    spans = [words[start : start + step] for start in range(0, words.size, step)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, spans))
