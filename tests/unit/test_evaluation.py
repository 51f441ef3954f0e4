"""What is left of hidden bits: after nothing, after little, and after a scrub."""

import os
from math import log2

import numpy as np
import pytest
import torch

from safemodel.evaluation import payload_recovery
from safemodel.scrub import Scrub, scrub_array
from tests import embedding

METHODS = ("random", "zero", "round")


def weights(count=1 << 16, dtype=np.float32):
    """Return weights as training leaves them, as words."""
    numbers = np.random.default_rng().standard_normal(count) * 0.05
    return numbers.astype(dtype).view(f"u{np.dtype(dtype).itemsize}")


def flipped(words, rate, bit, rand):
    """Return words of which one bit is flipped that often."""
    flips = np.random.default_rng(rand.getrandbits(64)).random(words.size) < rate
    return words ^ (flips.astype(words.dtype) << words.dtype.type(bit))


@pytest.mark.parametrize("kind", embedding.KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_scrubbed_bits_carry_nothing(kind, method):
    """Half of the bits are wrong, however they were hidden, and no code helps."""
    words = weights(1 << 17)
    payload, positions, copies = embedding.KINDS[kind](words, 12)
    before = words.copy()
    assert scrub_array(words, "float32", Scrub(method=method)) == 12
    left = payload_recovery(
        before,
        words,
        payload,
        bits=12,
        positions=positions,
        copies=copies,
        confidence=1 - 1e-9,
    )
    assert left.bits > 300_000
    assert abs(left.bit_error_rate - 0.5) < 0.005
    assert left.capacity_low == 0
    assert left.capacity < 0.001
    assert left.capacity_high < 0.005
    assert not left.recovered
    assert abs(left.decoded_error_rate - 0.5) < 0.02


@pytest.mark.parametrize("kind", embedding.KINDS)
def test_what_is_not_scrubbed_comes_out_whole(kind):
    """The measurement finds a payload where there is one."""
    words = weights(1 << 12)
    payload, positions, copies = embedding.KINDS[kind](words, 8)
    left = payload_recovery(
        words, words.copy(), payload, bits=8, positions=positions, copies=copies
    )
    assert (left.bit_errors, left.bit_error_rate, left.decoded_error_rate) == (0, 0, 0)
    assert left.recovered
    assert left.capacity == left.capacity_high == 1
    assert 0.5 < left.capacity_low < 1


def test_packets_survive_moving_but_no_scrub():
    """Rows in another order still hold every packet; scrubbed ones hold none."""
    words = weights(1 << 12)
    embedding.self_indexed(words, 12)
    whole = embedding.read_packets(words, 12)
    assert sorted(whole) == list(range(64))
    moved = np.random.default_rng().permutation(words.reshape(-1, 64)).reshape(-1)
    assert embedding.read_packets(moved, 12) == whole
    scrub_array(moved, "float32", Scrub())
    assert embedding.read_packets(moved, 12) == {}


def test_bits_above_the_scrubbed_ones_are_still_a_channel():
    """Sixteen bits were hidden and twelve overwritten: a quarter is left, and shown."""
    words = weights()
    payload, _, _ = embedding.contiguous(words, 16)
    before = words.copy()
    scrub_array(words, "float32", Scrub())
    left = payload_recovery(before, words, payload, bits=16)
    assert left.error_rates[12:] == (0, 0, 0, 0)
    assert all(abs(rate - 0.5) < 0.02 for rate in left.error_rates[:12])
    assert abs(left.capacity - 0.25) < 0.001
    assert 0.22 < left.capacity_low < 0.25 < left.capacity_high < 0.26


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_few_wrong_bits_leave_what_theory_says(rate, draws):
    """A defence that flips some bits leaves a channel, and repetition gets through."""
    words = weights()
    payload, _, copies = embedding.coded(words, 1, 61)
    after = flipped(words, rate, 0, draws)
    left = payload_recovery(words, after, payload, bits=1, copies=copies)
    assert abs(left.bit_error_rate - rate) < 0.02
    measured = left.bit_error_rate
    expected = 1 + measured * log2(measured) + (1 - measured) * log2(1 - measured)
    assert left.capacity == pytest.approx(expected)
    assert left.capacity_low < left.capacity < left.capacity_high
    assert left.capacity_low > 0
    assert left.recovered == (left.decoded_error_rate == 0)
    assert left.decoded_error_rate < 0.01


def test_copies_that_disagree_evenly_count_as_wrong():
    """A tie is no answer."""
    words = weights(16)
    payload = os.urandom(1)
    embedding.write(words, payload, 1, copies=2)
    after = words.copy()
    after[0] ^= 1
    left = payload_recovery(words, after, payload, bits=1, copies=2)
    assert (left.bits, left.bit_errors) == (16, 1)
    assert left.decoded_error_rate == 1 / 8
    assert not left.recovered


def test_a_bit_always_wrong_is_a_whole_channel():
    """Whoever knows it turns it back, so the capacity is that of no error."""
    words = weights(1 << 12)
    payload, _, _ = embedding.contiguous(words, 1)
    left = payload_recovery(words, words ^ np.uint32(1), payload, bits=1)
    assert left.bit_error_rate == left.capacity == 1


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64]
)
def test_tensors_are_read_as_arrays_are(dtype):
    """Dtypes that numpy does not have, and tensors of several axes."""
    words = weights(1 << 12, f"f{dtype.itemsize}")
    payload, _, _ = embedding.contiguous(words, 3)
    before = torch.from_numpy(words).view(dtype).reshape(64, 64).requires_grad_()
    after = words.copy()
    name = str(dtype).removeprefix("torch.")
    assert scrub_array(after, name, Scrub(bits=3)) == 3
    scrubbed = torch.from_numpy(after).view(dtype)
    left = payload_recovery(before, scrubbed, payload, bits=3)
    assert left == payload_recovery(words, after, payload, bits=3)
    assert abs(left.bit_error_rate - 0.5) < 0.05


def test_a_complex_weight_counts_as_two():
    """As an array and as a tensor."""
    words = weights(256)
    payload, _, _ = embedding.contiguous(words, 4)
    numbers = words.view(np.complex64)
    for given in (numbers, torch.from_numpy(numbers)):
        assert payload_recovery(given, given, payload, bits=4).recovered


def arguments(**changed):
    """Return arguments of a call that is right, but for the changed ones."""
    words = weights(64)
    payload, _, _ = embedding.contiguous(words, 8)
    return {"before": words, "after": words, "payload": payload, "bits": 8, **changed}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"payload": b""}, ValueError),
        ({"payload": bytes(64)}, ValueError),
        ({"payload": bytes(65)}, ValueError),
        ({"copies": 0}, ValueError),
        ({"copies": 2}, ValueError),
        ({"bits": 0}, ValueError),
        ({"bits": 33}, ValueError),
        ({"confidence": 1}, ValueError),
        ({"confidence": 0}, ValueError),
        ({"positions": np.arange(63)}, ValueError),
        ({"positions": np.arange(64) + 1}, ValueError),
        ({"positions": np.arange(64) - 1}, ValueError),
        ({"positions": np.arange(64).reshape(8, 8)}, ValueError),
        ({"positions": np.arange(64)[::-1]}, ValueError),
        ({"after": weights(65)}, TypeError),
        ({"after": weights(64, np.float16)}, TypeError),
        ({"after": list(range(64))}, TypeError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_comparison_that_shows_nothing_is_an_error(changed, error):
    """Above all one with weights that never held the payload."""
    assert payload_recovery(**arguments()).recovered
    with pytest.raises(error):
        payload_recovery(**arguments(**changed))
