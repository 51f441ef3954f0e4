"""Streams of low bits, read as an extractor would read them, and what they begin with.

An extractor takes X low bits of each weight, from some bit on, and puts them together:
the most significant first into the most significant bit of a byte, or the least
significant first into the least. All of X, both orders and all phases are tried at the
start of each tensor, and across blocks in which other tests have found something.
"""

from __future__ import annotations

import zlib
from functools import cache
from math import gcd, log
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from safemodel._detector.evidence import Candidate, Outcome
from safemodel._detector.signatures import may_begin, recognise, within
from safemodel._detector.streams import entropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from safemodel._detector.evidence import Order
    from safemodel._detector.layouts import Layout
    from safemodel._detector.weights import Weights

ORDERS: tuple[Order, ...] = ("high-first", "low-first")
HEAD = 512
"""Bytes of a stream that are looked at from the start of a tensor."""
_SEARCHED = 1 << 15
"""Words of a block that are searched."""
_NARROW = 8
_AT_ONCE = 1 << 18
"""Words whose bits are taken apart at once: a byte for each bit of them."""


def low_bits(words: NDArray[Any], bits: int, order: Order) -> NDArray[np.uint8]:
    """Return the low bits of words one by one, in the order they are read."""
    each = range(bits - 1, -1, -1) if order == "high-first" else range(bits)
    shifts = np.array(list(each), words.dtype)
    one = words.dtype.type(1)
    found: NDArray[np.uint8] = (words[:, None] >> shifts & one).astype(np.uint8)
    return found.reshape(-1)


def packed(found: NDArray[np.uint8], order: Order) -> bytes:
    """Return the bytes that bits make."""
    bitorder: Literal["big", "little"] = "big" if order == "high-first" else "little"
    return np.packbits(found[: found.size // 8 * 8], bitorder=bitorder).tobytes()


def _orders(bits: int) -> tuple[Order, ...]:
    """Return the orders that differ: of 8 bits a byte is a byte."""
    return ORDERS[:1] if bits == 8 else ORDERS


def widths(layout: Layout) -> tuple[int, ...]:
    """Return the numbers of low bits that are tried."""
    most = layout.mantissa or 7
    return tuple(bits for bits in (*range(1, 13), 16, 20, 24, 32) if bits <= most)


@cache
def _heads(layout: Layout) -> tuple[tuple[int, Order, NDArray[np.int64]], ...]:
    """Return all streams that may begin with a word: how, and where their bits are.

    Of each the first 64 bits, by their place among all bits of the first 64 words, the
    lowest first; in such an order that the first is the highest bit of a byte.
    """
    made: list[tuple[int, Order, NDArray[np.int64]]] = []
    at = np.arange(64)
    for bits in widths(layout):
        for order in _orders(bits):
            places = at if order == "high-first" else at ^ 7
            word, bit = np.divmod(places, bits)
            if order == "high-first":
                bit = bits - 1 - bit
            made.append((bits, order, word * 8 * layout.itemsize + bit))
    return tuple(made)


@cache
def _places(layout: Layout) -> NDArray[np.int64]:
    return np.array([places for _, _, places in _heads(layout)])


def likely(words: NDArray[Any], layout: Layout) -> tuple[list[tuple[int, Order]], int]:
    """Return streams that may begin like something known, and how many do not.

    It takes their first eight bytes, all at once.
    """
    head = np.zeros(64, words.dtype)
    head[: words.size] = words[:64]
    bits = np.unpackbits(head.view(np.uint8), bitorder="little")
    every = _heads(layout)
    found = may_begin(np.packbits(bits[_places(layout)], axis=1))
    some = [every[at][:2] for at in np.flatnonzero(found)]
    return some, len(every) - len(some)


def at_start(
    words: NDArray[Any],
    tensor: str,
    which: Iterable[tuple[int, Order]],
    start: int = 0,
) -> Iterator[tuple[Outcome, Candidate | None]]:
    """Yield what streams that begin with a word are like.

    Args:
        words: From there on.
        tensor: Name of theirs.
        which: Bits and orders of the streams; see `likely`.
        start: Number of the first word.
    """
    for bits, order in which:
        head = words[: -(-HEAD * 8 // bits)]
        data = packed(low_bits(head, bits, order), order)
        found = recognise(data)
        if found is None:
            yield _nothing(tensor), None
            continue
        candidate = _candidate(
            data, found.kind, found.length, tensor, (start, 0, bits), order
        )
        yield _outcome(candidate, found.log_p), candidate


def anywhere(
    words: NDArray[Any], layout: Layout, tensor: str, start: int
) -> Iterator[tuple[Outcome, Candidate | None]]:
    """Yield the same of streams that begin with any weight of a block."""
    words = words[:_SEARCHED]
    for bits in (each for each in widths(layout) if each <= _NARROW or each == 16):
        for order in _orders(bits):
            stream = low_bits(words, bits, order)
            # A payload begins with a weight, so with a multiple of so many bits.
            for phase in range(0, 8, gcd(bits, 8)):
                data = packed(stream[phase:], order)
                yield _nothing(tensor), None
                for at, found in within(data):
                    word, skip = divmod(8 * at + phase, bits)
                    candidate = _candidate(
                        data[at:], found.kind, found.length, tensor,
                        (start + word, skip, bits), order,
                    )  # fmt: skip
                    log_p = min(0.0, found.log_p + log(max(len(data), 1)))
                    yield _outcome(candidate, log_p), candidate


def extract(items: Iterable[Weights], candidate: Candidate, length: int = 0) -> bytes:
    """Return what is hidden, read on through the tensors that follow.

    Args:
        items: The weights that carry it, in the order of the file.
        candidate: Where it begins.
        length: Bytes to read; 0 for as many as its head says, or all there are.
    """
    return b"".join(pieces_of(items, candidate, length))


def pieces_of(
    items: Iterable[Weights], candidate: Candidate, length: int = 0
) -> Iterator[bytes]:
    """Yield the same piece by piece, as long as those of the weights at most."""
    wanted = length or candidate.length
    given, over = 0, np.zeros(0, np.uint8)
    for words in _words_after(items, candidate):
        at = 0
        while at < words.size and not (wanted and given >= wanted):
            part = words[at : at + _AT_ONCE]
            found = low_bits(part, candidate.bits, candidate.order)
            if not given and not over.size and at == 0:
                found = found[candidate.skip :]
            found = np.concatenate((over, found))
            over = found[found.size // 8 * 8 :]
            data = packed(found, candidate.order)
            data = data[: wanted - given] if wanted else data
            given, at = given + len(data), at + part.size
            yield data
        if wanted and given >= wanted:
            return


def _words_after(
    items: Iterable[Weights], candidate: Candidate
) -> Iterator[NDArray[Any]]:
    """Yield the words from the first that carries something on."""
    dtype, is_slack = "", False
    for item in items:
        if dtype:
            if item.dtype == dtype and (item.role == "slack") is is_slack:
                yield item.bits
        elif item.name == candidate.tensor:
            at = candidate.start - item.start
            if 0 <= at < item.bits.size:
                dtype, is_slack = item.dtype, item.role == "slack"
                yield item.bits[at:]


def _candidate(
    data: bytes,
    kind: str,
    length: int,
    tensor: str,
    place: tuple[int, int, int],
    order: Order,
) -> Candidate:
    head = data[:HEAD]
    counts = np.bincount(np.frombuffer(head, np.uint8), minlength=256)
    start, skip, bits = place
    return Candidate(
        kind=kind, tensor=tensor, start=start, skip=skip, bits=bits, order=order,
        length=length, entropy=round(entropy(counts), 3),
        compressed=round(len(zlib.compress(head)) / max(len(head), 1), 3),
    )  # fmt: skip


def _outcome(candidate: Candidate, log_p: float) -> Outcome:
    return Outcome(
        family="carving", test="signature",
        what=f"{candidate.bits} low bits of each weight begin like {candidate.kind}",
        log_p=log_p, statistic=-log_p, effect=candidate.entropy, bits=candidate.bits,
        tensor=candidate.tensor, start=candidate.start, end=0,
    )  # fmt: skip


def _nothing(tensor: str) -> Outcome:
    return Outcome("carving", "signature", "", 0.0, tensor=tensor)
