"""Measure what is left of a payload that was hidden in weights.

Whether a file "works" after a defence says little: a payload of which one bit in ten
is wrong comes out whole if its author protected it with an error-correcting code. So
what is measured is the channel: the bits that are wrong, how much can still be sent
through the others, and whether a payload protected by a simple code comes out.

The code is repetition: the payload is written several times, one copy after the other,
and each of its bits is what most copies say (a tie counts as wrong). It is the weakest
code there is; `PayloadRecovery.capacity` bounds what the best one could do.
"""

from __future__ import annotations

from math import log, log2, sqrt
from typing import TYPE_CHECKING, Any

from safemodel._value import Value

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["PayloadRecovery", "payload_recovery"]


class PayloadRecovery(Value):
    """What is left of a payload.

    The channel of each bit of a weight is taken as binary symmetric: of error rate p,
    it carries 1 - H2(p) bits for each bit written, H2 being the binary entropy. That
    fits payloads as they are hidden, encrypted or compressed: of as many ones as zeros.

    Attributes:
        bits: Bits that were written, copies included.
        bit_errors: How many of them read differently.
        bit_error_rate: `bit_errors` divided by `bits`; 0.5 is what guessing gives.
        error_rates: The same for each bit of a weight apart, the lowest bit first.
        capacity: Bits that can be sent for each bit written, averaged over
            `error_rates`, so that a bit that survives is not hidden by others that
            do not. Of bits that carry nothing it is not 0 but about 0.7 divided by
            the number of weights, since no measured rate is 0.5 to the last digit.
        capacity_low: The least the capacity can be at that confidence: 0 says that
            what was measured is what guessing would have given.
        capacity_high: The most it can be.
        confidence: That all true error rates are where the two bounds assume them.
        decoded_error_rate: Part of the payload's own bits that decoding gets wrong.
        recovered: The payload comes out as it went in.
    """

    bits: int
    bit_errors: int
    bit_error_rate: float
    error_rates: tuple[float, ...]
    capacity: float
    capacity_low: float
    capacity_high: float
    confidence: float
    decoded_error_rate: float
    recovered: bool


def payload_recovery(
    before: NDArray[Any] | torch.Tensor,
    after: NDArray[Any] | torch.Tensor,
    payload: bytes,
    *,
    bits: int,
    positions: NDArray[Any] | None = None,
    copies: int = 1,
    confidence: float = 0.99,
) -> PayloadRecovery:
    """Compare what two versions of weights hold where a payload was written.

    Each weight holds the next `bits` bits of the payload in its lowest bits, the most
    significant of them first; a complex weight counts as two.

    Args:
        before: Weights that hold the payload.
        after: The same weights after a defence; same dtype, as many of them.
        payload: What was written: the raw bytes, of one copy.
        bits: Low bits of a weight that were written to.
        positions: Index of each weight that was written to, in order; None: from the
            first one, without a gap.
        copies: How many times the payload was written.
        confidence: Of the bounds on the capacity, between 0 and 1.

    Returns:
        How many bits read differently, and what could still be sent through them.

    Raises:
        TypeError: The weights are no array or tensor, or of two dtypes.
        ValueError: An argument is out of range, or `before` does not hold the payload:
            then nothing could be learned from its absence in `after`.
    """
    import numpy as np

    old, new = _words(before), _words(after)
    if old.dtype != new.dtype or old.size != new.size:
        raise TypeError("before and after are not the same weights")
    if not (payload and copies >= 1 and 0 < confidence < 1):
        raise ValueError("nothing to compare, or no confidence between 0 and 1")
    if not 1 <= bits <= old.dtype.itemsize * 8:
        raise ValueError(f"bits of a word of {old.dtype.itemsize} bytes: {bits}")
    sent = np.tile(np.unpackbits(np.frombuffer(payload, np.uint8)), copies)
    where = _where(positions, -(-sent.size // bits), old.size)
    if not np.array_equal(_read(old[where], bits)[: sent.size], sent):
        raise ValueError("before does not hold this payload at these positions")
    wrong = _read(new[where], bits)[: sent.size] != sent
    by_bit = [
        wrong[bit::bits] for bit in reversed(range(bits)) if wrong[bit::bits].size
    ]
    return channel(wrong, by_bit, copies, confidence)


def channel(
    wrong: NDArray[Any], by_bit: list[NDArray[Any]], copies: int, confidence: float
) -> PayloadRecovery:
    """Return what can be said of bits of which some are wrong.

    Args:
        wrong: Of each bit that was written, whether it reads differently.
        by_bit: The same for each bit of a weight apart, the lowest first.
        copies: How many times the payload is in `wrong`, one after the other.
        confidence: Of the bounds on the capacity, between 0 and 1.
    """
    import numpy as np

    capacity, low, high = _capacity(by_bit, copies, confidence)
    per_bit = wrong.reshape(copies, -1).sum(axis=0)
    decoded = float(np.mean(2 * per_bit >= copies))
    return PayloadRecovery(
        bits=wrong.size,
        bit_errors=int(wrong.sum()),
        bit_error_rate=float(wrong.mean()),
        error_rates=tuple(float(each.mean()) for each in by_bit),
        capacity=capacity,
        capacity_low=low,
        capacity_high=high,
        confidence=confidence,
        decoded_error_rate=decoded,
        recovered=not decoded,
    )


def _words(weights: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """Return weights as a flat array of words."""
    import numpy as np

    if isinstance(weights, np.ndarray):
        itemsize, parts = weights.itemsize, 1 + (weights.dtype.kind == "c")
        flat = np.ascontiguousarray(weights).reshape(-1).view(np.uint8)
    else:
        import torch

        if not isinstance(weights, torch.Tensor):
            raise TypeError(f"no array and no tensor: {type(weights).__name__}")
        itemsize, parts = weights.element_size(), 1 + weights.is_complex()
        # Bytes, because numpy does not know every dtype of torch.
        data = weights.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
        flat = data.contiguous().view(torch.uint8).numpy()
    return flat.view(np.dtype(f"u{itemsize // parts}"))


def _where(
    positions: NDArray[Any] | None, needed: int, available: int
) -> NDArray[Any] | slice:
    """Return the index of the weights that hold the payload."""
    if positions is None:
        if needed > available:
            raise ValueError(f"the payload takes {needed} weights of {available}")
        return slice(needed)
    if positions.ndim != 1 or positions.size < needed:
        raise ValueError(f"the payload takes {needed} positions of {positions.size}")
    chosen: NDArray[Any] = positions[:needed]
    if chosen.min() < 0 or chosen.max() >= available:
        raise ValueError(f"a position is not from 0 to {available - 1}")
    return chosen


def _read(words: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the low bits of words, the most significant of each first."""
    import numpy as np

    shifts = np.arange(bits - 1, -1, -1).astype(words.dtype)
    read: NDArray[Any] = words[:, None] >> shifts & words.dtype.type(1)
    return read.reshape(-1).astype(np.uint8)


def _capacity(
    by_bit: list[NDArray[Any]], copies: int, confidence: float
) -> tuple[float, float, float]:
    """Return the capacity and its bounds.

    Hoeffding's inequality holds for every error rate and every number of bits, and
    the chance to be wrong is shared among the bits of a weight. Copies of one bit may
    all be in the same place, so they count as one observation.
    """
    total = sum(wrong.size for wrong in by_bit)
    capacity = low = high = 0.0
    for wrong in by_bit:
        share = wrong.size / total
        rate = float(wrong.mean())
        chances = log(2 * len(by_bit) / (1 - confidence))
        margin = sqrt(chances * copies / (2 * wrong.size))
        away = abs(rate - 0.5)
        capacity += share * _sent(away)
        low += share * _sent(max(0.0, away - margin))
        high += share * _sent(min(0.5, away + margin))
    return capacity, low, high


def _sent(away: float) -> float:
    """Return 1 - H2 of an error rate that far away from one half."""
    rates = (0.5 - away, 0.5 + away)
    return 1 + sum(rate * log2(rate) for rate in rates if rate > 0)
