"""Spread spectrum: each bit of a payload as a code that is added to many weights.

The order of everything, of the random draws above all, is that of the published
program, so that either reads what the other wrote:

1. The message is the payload and the SHA-256 of its bits: the hash of the text of zeros
   and ones, as the 64 characters of its hexadecimal digest.
2. The code makes blocks of n bits of k of the message, n being 12,192, or 384 where
   the message has at most 4,000 bits, and k with the published seed 9,146 or 290.
   Zeros fill up the last block, and follow as one more where nothing is missing.
3. A bit is sent as +1 for 0 and -1 for 1, after a preamble of random signs.
4. Chunks of bits take `chunk_bits * chunk_factor` weights each, drawn with replacement
   before anything else. The first chunk has one bit more.
5. Each bit draws a sign for each weight of its chunk. Of a weight that was drawn twice
   for one chunk, the last sign counts.

One thing differs: the program adds bit after bit to weights of float32, and here the
signs of a chunk are added up as integers and multiplied once, so that less is lost to
rounding.
"""

from __future__ import annotations

from hashlib import sha256
from math import log10
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safemodel._value import Value
from safemodel.evaluation.stego._ldpc import code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from safemodel.evaluation.stego._methods import SpreadSpectrum
    from safemodel.evaluation.stego._words import Cover

_HASH_BITS = 512
_LONG, _SHORT = 12_192, 384
_MOST_SHORT = 4000
_BATCH = 1 << 17
"""Signs drawn at a time: they stay in the cache. No matrix products with them: those
start threads for so little, and wait for each other where other programs run."""


class Signal(Value):
    """What a reader of a spread-spectrum payload sees.

    Attributes:
        gain: Mean of the known bits as they are read: about as many weights as a chunk
            has, times gamma, where the payload is there, and about 0 elsewhere.
        snr: Their signal-to-noise ratio in decibels, as the published reader takes it.
        payload: The payload, as the code corrects it; without a code, each bit as its
            sign is read.
        hash_matches: It is the payload whose hash follows it.
    """

    gain: float
    snr: float
    payload: bytes
    hash_matches: bool


class Layout(NamedTuple):
    """How many bits there are of what.

    Attributes:
        message: Bits of the payload and its hash.
        block: Bits of a block that are the message's.
        length: Bits of a block; 0: no code.
        sent: Bits that are sent, with the preamble.
        chunks: Groups of weights.
        weights: Weights of a group.
    """

    message: int
    block: int
    length: int
    sent: int
    chunks: int
    weights: int


def layout(size: int, method: SpreadSpectrum) -> Layout:
    """Return how a payload of that many bytes is sent."""
    message = 8 * size + _HASH_BITS
    block, length, coded = message, 0, message
    if method.coded:
        length = _LONG if message > _MOST_SHORT else _SHORT
        block = code(length, method.seed).block
        coded = (message // block + 1) * length
    sent = method.preamble_bits + coded
    chunks = -(-sent // method.chunk_bits)
    weights = method.chunk_bits * method.chunk_factor
    return Layout(message, block, length, sent, chunks, weights)


def capacity(cover: Cover, method: SpreadSpectrum) -> int:
    """Return the bits of the largest payload that fits, 0 where none does."""
    _check_floats(cover)
    least, most = 0, cover.words.size // 8 + 1
    while most - least > 1:
        size = (least + most) // 2
        plan = layout(size, method)
        fits = plan.chunks * plan.weights <= cover.words.size
        least, most = (size, most) if fits else (least, size)
    return 8 * least


def signs(data: bytes, method: SpreadSpectrum) -> NDArray[Any]:
    """Return what is sent for a payload: +1 and -1."""
    plan = layout(len(data), method)
    bits = np.unpackbits(np.frombuffer(data + _hash(data), np.uint8))
    if plan.length:
        blocks = np.zeros((plan.message // plan.block + 1) * plan.block, np.uint8)
        blocks[: bits.size] = bits
        table = blocks.reshape(-1, plan.block)
        bits = code(plan.length, method.seed).encode(table).ravel()
    sent = 1 - 2 * bits.astype(np.int8)
    return np.concatenate([_preamble(method), sent])


def _hash(data: bytes) -> bytes:
    """Return the characters of the digest of the bits of a payload, as text."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8)) + np.uint8(ord("0"))
    return sha256(bits.tobytes()).hexdigest().encode()


def _preamble(method: SpreadSpectrum) -> NDArray[Any]:
    """Return the known signs in front."""
    drawn = np.random.RandomState(method.seed * 15)
    return np.sign(drawn.uniform(-1, 1, method.preamble_bits)).astype(np.int8)


def groups(cover: Cover, plan: Layout, method: SpreadSpectrum) -> NDArray[Any]:
    """Return the indices of the weights of each chunk.

    Raises:
        ValueError: There are fewer weights than the payload takes.
    """
    _check_floats(cover)
    count = plan.chunks * plan.weights
    if count > cover.words.size:
        raise ValueError(f"the payload takes {count} weights of {cover.words.size}")
    drawn = np.random.RandomState(method.seed)
    where = drawn.randint(0, cover.words.size, count, np.int32)
    return where.reshape(plan.chunks, plan.weights)


def _check_floats(cover: Cover) -> None:
    """Check that something small can be added to the weights."""
    if not cover.format.infinity:
        raise ValueError(f"spread spectrum is for floats, not {cover.dtype}")


def _spans(plan: Layout, method: SpreadSpectrum) -> Iterator[tuple[int, int]]:
    """Yield the first bit of each chunk, and the one after its last."""
    for chunk in range(plan.chunks):
        start = method.chunk_bits * chunk + bool(chunk)
        end = min(method.chunk_bits * (chunk + 1) + 1, plan.sent)
        yield min(start, end), end


def _codes(plan: Layout, spans: list[tuple[int, int]], seed: int) -> Iterator[Any]:
    """Yield the chunk, the first bit and the codes of some bits: 0 for -1, 1 for +1."""
    drawn = np.random.RandomState(seed)
    step = max(1, _BATCH // plan.weights)
    for chunk, (start, end) in enumerate(spans):
        for bit in range(start, end, step):
            shape = (min(step, end - bit), plan.weights)
            # One 32-bit output a sign, its lowest bit: as a choice between two draws.
            yield chunk, bit, drawn.randint(0, 1 << 32, shape, np.uint32) & np.uint32(1)


def write(cover: Cover, data: bytes, method: SpreadSpectrum) -> tuple[Any, int]:
    """Add a payload to the words of a cover.

    Returns:
        The rising indices of the weights that were changed, and how many bits were
        sent.

    Raises:
        ValueError: It does not fit, or the weights are integers.
    """
    plan = layout(len(data), method)
    where = groups(cover, plan, method)
    values = numbers(cover)
    spans = list(_spans(plan, method))
    if method.sampled:
        drawn = np.random.default_rng([method.seed, 2])
        for group, (start, end) in zip(where, spans, strict=True):
            ups = drawn.binomial(end - start, 0.5, plan.weights)
            values[group] += method.gamma * (2 * ups - (end - start))
    else:
        minus = (signs(data, method) < 0).astype(np.uint32)
        sums = np.zeros((plan.chunks, plan.weights))
        for chunk, bit, codes in _codes(plan, spans, method.seed):
            # A sign is turned by a bit that is sent as -1.
            turned = codes ^ minus[bit : bit + len(codes), None]
            ups = np.add.reduce(turned, axis=0, dtype=np.uint32)
            sums[chunk] += 2.0 * ups - len(codes)
        for group, total in zip(where, sums, strict=True):
            values[group] += method.gamma * total
    touched = np.zeros(cover.words.size, bool)
    touched[where] = True
    changed = np.flatnonzero(touched)
    cover.words[changed] = words(values[changed], cover.dtype)
    return changed, plan.sent


def received(cover: Cover, size: int, method: SpreadSpectrum) -> NDArray[Any]:
    """Return what is read of each bit that was sent: its sign, times the gain."""
    if method.sampled:
        raise ValueError("sampled weights hold no payload")
    plan = layout(size, method)
    where = groups(cover, plan, method)
    values = numbers(cover)
    read = np.empty(plan.sent)
    spans = list(_spans(plan, method))
    last, group, total = -1, values[:0], 0.0
    for chunk, bit, codes in _codes(plan, spans, method.seed):
        if chunk != last:
            last, group = chunk, values[where[chunk]]
            total = float(group.sum())
        ups = np.einsum("ij,j->i", codes.astype(np.float64), group)
        read[bit : bit + len(codes)] = 2 * ups - total
    return read


def understand(read: NDArray[Any], size: int, method: SpreadSpectrum) -> Signal:
    """Return what a reader makes of what `received` read."""
    plan = layout(size, method)
    known = read[: method.preamble_bits] * _preamble(method)
    gain = float(known.mean())
    noise = float(known.std())
    bits = (read[method.preamble_bits :] * np.sign(gain) < 0).astype(np.uint8)
    if plan.length and gain:
        table = read[method.preamble_bits :].reshape(-1, plan.length) / gain
        variance = max((noise / gain) ** 2, 1e-6)
        bits = code(plan.length, method.seed).decode(table, variance).ravel()
    message = np.packbits(bits[: plan.message]).tobytes()
    data, digest = message[:size], message[size:]
    # The published reader divides by the gain first, which is the same.
    snr = 20 * log10(abs(gain) / noise) if gain and noise else float("-inf")
    return Signal(gain=gain, snr=snr, payload=data, hash_matches=digest == _hash(data))


def numbers(cover: Cover) -> NDArray[Any]:
    """Return the weights of a cover as numbers of float64."""
    if cover.dtype == "bfloat16":
        wide = cover.words.astype(np.uint32) << np.uint32(16)
        given: NDArray[Any] = wide.view(np.float32)
    else:
        given = cover.words.view(np.dtype(cover.dtype))
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return given.astype(np.float64)


def words(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the words of the nearest numbers of a floating dtype."""
    narrow = np.dtype("float32" if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        made = values.astype(narrow)
    wide = made.view(np.dtype(f"u{narrow.itemsize}"))
    if dtype != "bfloat16":
        return wide
    # To nearest, ties to even; NaN stays NaN, and would not if a carry ran through it.
    odd = wide >> np.uint32(16) & np.uint32(1)
    rounded = wide + np.uint32(0x7FFF) + odd
    rounded = np.where(np.isnan(values), wide | np.uint32(0x10000), rounded)
    return (rounded >> np.uint32(16)).astype(np.uint16)
