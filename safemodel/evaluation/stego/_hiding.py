"""Hide payloads in weights, and read them: the same calls for every method."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from safemodel._value import Value
from safemodel.evaluation._recovery import PayloadRecovery, channel
from safemodel.evaluation.stego import _low_bits, _spread
from safemodel.evaluation.stego._methods import Method, SpreadSpectrum
from safemodel.evaluation.stego._words import Cover

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from safemodel.evaluation.stego._spread import Signal
    from safemodel.evaluation.stego._words import Tensors

    Tensor = TypeVar("Tensor", bound=NDArray[Any] | torch.Tensor)


class Span(Value):
    """Where a payload lies in one tensor.

    Attributes:
        tensor: The tensor's name; '' where one tensor was given.
        start: Index of the first weight of it that was written to, in its order.
        stop: One past the last one.
        weights: How many were written to: fewer than lie between where they are
            spread.
    """

    tensor: str
    start: int
    stop: int
    weights: int


class Embedding(Value):
    """What was written, and where.

    Attributes:
        method: How it was written.
        dtype: Torch's name of the weights that could be used.
        weights: How many there are, in all tensors.
        capacity: Bits of payload that the method can write to them.
        bits: Bits that were written; of spread spectrum, those that were sent.
        written: Weights that were written to, whether that changed them or not.
        changed: Weights that are now another word.
        where: The tensors among them, in order.
    """

    method: Method
    dtype: str
    weights: int
    capacity: int
    bits: int
    written: int
    changed: int
    where: tuple[Span, ...]


@overload
def embed(
    weights: Mapping[str, Any],
    payload: bytes,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
    in_place: bool = False,
) -> tuple[dict[str, Any], Embedding]: ...


@overload
def embed(
    weights: Tensor,
    payload: bytes,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
    in_place: bool = False,
) -> tuple[Tensor, Embedding]: ...


def embed(
    weights: Any,
    payload: bytes,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
    in_place: bool = False,
) -> tuple[Any, Embedding]:
    """Hide a payload in weights.

    The weights of one dtype are taken as one row, tensor after tensor. A tensor that
    has two names is in it once, and has two names in the result.

    Args:
        weights: A mapping of tensors or numpy arrays, or one of them. Arrays of
            unsigned words stand for the dtype given.
        payload: What to hide; not empty.
        method: How.
        dtype: Torch's name of the tensors to use: float64, float32, float16, bfloat16,
            int8 or uint8. None: that of most weights.
        tensors: Names of the tensors to use, in order. None: all, in the order of the
            mapping; but spread spectrum takes those whose names contain "weight",
            without the last one, as published.
        in_place: Change the tensors that were given.

    Returns:
        A new mapping of new tensors, in which what was not used is the object that was
        given; or one new tensor; or what was given, `in_place`. And what was written.

    Raises:
        TypeError: An argument has another type.
        ValueError: The payload does not fit or does not fill what it must, the method
            does not suit the dtype, or there are no such tensors.
    """
    cover = _cover(weights, method, dtype, tensors)
    if not payload:
        raise ValueError("the payload is empty")
    before = cover.words.copy()
    if isinstance(method, SpreadSpectrum):
        room = _spread.capacity(cover, method)
        where, bits = _spread.write(cover, payload, method)
    else:
        plan = _low_bits.field(cover, method)
        room = plan.capacity
        where, bits = _low_bits.write(cover, plan, payload, method)
    count = where.stop - where.start if isinstance(where, slice) else where.size
    embedding = Embedding(
        method=method,
        dtype=cover.dtype,
        weights=cover.words.size,
        capacity=room,
        bits=bits,
        written=count,
        changed=int(np.count_nonzero(before != cover.words)),
        where=tuple(_where(cover, where)),
    )
    if in_place:
        cover.write_back()
        return weights, embedding
    return cover.tensors(), embedding


def extract(
    weights: Tensors,
    method: Method,
    size: int | None = None,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
) -> bytes:
    """Read a payload back: what `embed` wrote, whether it is there or not.

    Args:
        weights: As for `embed`.
        method: The one it was hidden by.
        size: Bytes of the payload. None: as many as can be written, read as if all
            weights were full; not for spread spectrum, where the size decides what is
            where.
        dtype: As for `embed`.
        tensors: As for `embed`.

    Returns:
        The payload; of spread spectrum, as its code corrects it: see `listen`.

    Raises:
        TypeError: An argument has another type.
        ValueError: There is no room for so many bytes, or the method does not suit the
            weights.
    """
    if isinstance(method, SpreadSpectrum):
        return listen(weights, method, size, dtype=dtype, tensors=tensors).payload
    cover = _cover(weights, method, dtype, tensors)
    plan = _low_bits.field(cover, method)
    bits = plan.capacity // 8 * 8 if size is None else _bits_of(size)
    if bits > plan.capacity:
        raise ValueError(f"{bits} bits do not fit into {plan.capacity}")
    once = size is not None and not method.fill
    return _low_bits.read(cover, plan, bits, once=once).tobytes()


def listen(
    weights: Tensors,
    method: SpreadSpectrum,
    size: int | None,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
) -> Signal:
    """Read a spread-spectrum payload, and how strong it is.

    Args:
        weights: As for `embed`.
        method: The one it was hidden by.
        size: Bytes of the payload.
        dtype: As for `embed`.
        tensors: As for `embed`.

    Returns:
        The payload, whether its hash is that of the payload, and how strong it is.

    Raises:
        TypeError: An argument has another type, or there is no size.
        ValueError: The weights are too few for such a payload, or no floats; or the
            method only sampled.
    """
    if not isinstance(method, SpreadSpectrum):
        raise TypeError("listen is for spread spectrum")
    if size is None:
        raise TypeError("the size of a spread-spectrum payload must be known")
    cover = _cover(weights, method, dtype, tensors)
    count = _bits_of(size) // 8
    return _spread.understand(_spread.received(cover, count, method), count, method)


def capacity(
    weights: Tensors,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
) -> int:
    """Return how many bits of payload a method can hide in weights.

    Args:
        weights: As for `embed`.
        method: How.
        dtype: As for `embed`.
        tensors: As for `embed`.

    Raises:
        TypeError: An argument has another type.
        ValueError: The method does not suit the dtype, or there are no such tensors.
    """
    return _capacity(_cover(weights, method, dtype, tensors), method)


def recovery(
    before: Tensors,
    after: Tensors,
    payload: bytes,
    method: Method,
    *,
    dtype: str | None = None,
    tensors: Collection[str] | None = None,
    confidence: float = 0.99,
) -> PayloadRecovery:
    """Measure what a defence leaves of a payload that `embed` hid.

    As `payload_recovery`, for every method: the places are those in `before`. Of a
    payload that was repeated the whole copies count, and of one that was cut what was
    written. Of spread spectrum the bits are those that are sent, each read by its sign;
    but decoding is what its code makes of them.

    Args:
        before: Weights that hold the payload.
        after: The same weights after a defence.
        payload: What was hidden.
        method: How.
        dtype: As for `embed`.
        tensors: As for `embed`.
        confidence: Of the bounds on the capacity, between 0 and 1.

    Returns:
        As `payload_recovery`.

    Raises:
        TypeError: The two are not the same weights, or an argument has another type.
        ValueError: An argument is out of range, or `before` does not hold the payload;
            of spread spectrum: more than a quarter of its bits read wrong in it.
    """
    old = _cover(before, method, dtype, tensors)
    new = _cover(after, method, dtype, tensors)
    if (old.dtype, list(old.spans())) != (new.dtype, list(new.spans())):
        raise TypeError("before and after are not the same weights")
    if not (payload and 0 < confidence < 1):
        raise ValueError("nothing to compare, or no confidence between 0 and 1")
    if isinstance(method, SpreadSpectrum):
        return _spread_recovery(old, new, payload, method, confidence)
    plan = _low_bits.field(old, method)
    whole = plan.capacity // (8 * len(payload))
    copies = max(1, whole) if method.fill else 1
    sent = np.tile(np.frombuffer(payload, np.uint8), copies)[: plan.capacity // 8]
    once = not method.fill
    read = _low_bits.read(old, plan, 8 * sent.size, once=once)
    if not np.array_equal(read, sent):
        raise ValueError("before does not hold this payload")
    differing = read ^ _low_bits.read(new, plan, 8 * sent.size, once=once)
    wrong = np.unpackbits(differing, bitorder=plan.order).astype(bool)
    return channel(wrong, list(_by_bit(wrong, plan, once=once)), copies, confidence)


def _spread_recovery(
    old: Cover, new: Cover, payload: bytes, method: SpreadSpectrum, confidence: float
) -> PayloadRecovery:
    """Return what is left of the bits that were sent, and of the payload."""
    sent = _spread.signs(payload, method)
    if np.mean(np.sign(_spread.received(old, len(payload), method)) != sent) > 0.25:
        raise ValueError("before does not hold this payload")
    read = _spread.received(new, len(payload), method)
    wrong = np.sign(read) != sent
    found = _spread.understand(read, len(payload), method).payload
    differing = np.frombuffer(found, np.uint8) ^ np.frombuffer(payload, np.uint8)
    decoded = float(np.unpackbits(differing).mean())
    raw = channel(wrong, [wrong], 1, confidence)
    return replace(raw, decoded_error_rate=decoded, recovered=not decoded)


def _by_bit(
    wrong: NDArray[Any], plan: _low_bits.Field, *, once: bool
) -> Iterator[NDArray[Any]]:
    """Yield which bits are wrong for each bit of a weight, the lowest first."""
    whole = wrong.size // plan.bits * plan.bits
    rest = wrong[whole:]
    lowest = 0
    if plan.order == "big":
        rest = rest[::-1]
        lowest = 0 if once and plan.low_tail else plan.bits - rest.size
    for bit in range(plan.bits):
        first = bit if plan.order == "little" else plan.bits - 1 - bit
        column = wrong[first : whole : plan.bits]
        last = rest[bit - lowest : bit - lowest + 1] if bit >= lowest else rest[:0]
        both = np.concatenate([column, last])
        if both.size:
            yield both


def _cover(
    weights: Tensors,
    method: Method,
    dtype: str | None,
    tensors: Collection[str] | None,
) -> Cover:
    """Return the weights that a method uses."""
    if not isinstance(method, Method):
        raise TypeError(f"no way to hide anything: {type(method).__name__}")
    among = None
    if isinstance(method, SpreadSpectrum) and isinstance(weights, Mapping):
        among = [name for name in weights if "weight" in str(name)][:-1]
    return Cover(weights, dtype, tensors, among)


def _capacity(cover: Cover, method: Method) -> int:
    """Return how many bits of payload fit."""
    if isinstance(method, SpreadSpectrum):
        return _spread.capacity(cover, method)
    return _low_bits.field(cover, method).capacity


def _bits_of(size: object) -> int:
    """Return the bits of so many bytes."""
    if type(size) is not int:
        raise TypeError(f"size must be an integer: {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1: {size}")
    return 8 * size


def _where(cover: Cover, where: slice | NDArray[Any]) -> Iterator[Span]:
    """Yield the tensors that were written to."""
    touched = np.zeros(cover.words.size, bool)
    touched[where] = True
    for name, start, stop in cover.spans():
        here = touched[start:stop]
        if count := int(np.count_nonzero(here)):
            low, high = int(here.argmax()), here.size - int(here[::-1].argmax())
            yield Span(tensor=name, start=low, stop=high, weights=count)
