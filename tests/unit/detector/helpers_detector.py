"""Weights made up from seeds, payloads from programs of this machine, embedding."""

import sys
from pathlib import Path

import numpy as np

from safemodel._detector.statistics import examine
from safemodel._detector.weights import PIECE, Weights

WORDS = {"float64": "u8", "float32": "u4", "float16": "u2", "bfloat16": "u2"}


def generator(rand):
    """Return numpy's randomness from the test's seed."""
    return np.random.default_rng(rand.getrandbits(64))


def trained(random, size, scale=0.03):
    """Return float32 weights as training leaves them: a smooth density, full bits.

    A tensor of one scale for each 20,000 weights, so that tails are heavier than of one
    normal distribution.
    """
    scales = scale * np.exp(random.normal(0, 0.3, -(-size // 20_000)))
    values = random.standard_normal(size) * np.repeat(scales, 20_000)[:size]
    return values.astype(np.float32)


def bfloat16(values):
    """Return words of bfloat16: the nearest, ties to even."""
    words = values.view(np.uint32).astype(np.uint64)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def program(length, skip=0):
    """Return bytes of the Python interpreter or a library it has loaded."""
    import numpy._core._multiarray_umath as library

    data = Path(library.__file__).read_bytes()
    if len(data) < skip + length:
        data += Path(sys.executable).resolve().read_bytes()
    return data[skip : skip + length]


def embed(words, payload, bits, start=0):
    """Return words with a payload in their low bits, most significant bit first."""
    message = np.unpackbits(np.frombuffer(payload, np.uint8))
    message = message[: message.size // bits * bits].reshape(-1, bits)
    number = min(len(message), words.size - start)
    values = message[:number].astype(np.uint64) @ (1 << np.arange(bits - 1, -1, -1))
    changed = words.copy()
    part = slice(start, start + number)
    keep = words.dtype.type((1 << 8 * words.itemsize) - (1 << bits))
    changed[part] = changed[part] & keep | values.astype(words.dtype)
    return changed


def scrambled(random, words, bits):
    """Return words whose low bits are random, as an encrypted payload leaves them."""
    noise = random.integers(0, 1 << bits, words.size, dtype=np.uint64)
    keep = words.dtype.type((1 << 8 * words.itemsize) - (1 << bits))
    return words & keep | noise.astype(words.dtype)


def items(tensors):
    """Yield named words as weights; a value is words, or (words, dtype, role)."""
    for name, given in tensors.items():
        words, dtype, role = (
            given if type(given) is tuple else (given, "float32", "weight")
        )
        for start in range(0, words.size, PIECE):
            part = words[start : start + PIECE]
            yield Weights(name, dtype, part, role, (words.size,), start, words.size)


def evidence(tensors, threshold=1e-3):
    """Return the evidence found in named words."""
    return examine(items(tensors)).evidence(threshold)


def names_of(tensors):
    """Return the names of the tests that gave evidence."""
    return {one.test for one in evidence(tensors)}
