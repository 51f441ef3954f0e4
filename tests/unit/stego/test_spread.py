"""Spread spectrum: compatible with the published program, and as strong."""

import numpy as np
import pytest
import torch

from safemodel.evaluation.stego import (
    SpreadSpectrum,
    _ldpc,
    _spread,
    capacity,
    embed,
    extract,
    listen,
)
from safemodel.evaluation.stego._words import Cover
from tests.reference import naive_stego as naive

SMALL = SpreadSpectrum(chunk_bits=128, coded=False, preamble_bits=50)


def normal(count, scale=0.05, seed=1):
    """Return weights as a trained layer has them."""
    drawn = np.random.default_rng(seed)
    return drawn.normal(0, scale, count).astype(np.float32)


def test_weights_are_those_of_the_published_loop():
    """Bit after bit, with one draw of a choice for each: to the rounding of float32."""
    weights, data = normal(9000), b"a payload"
    hidden, embedding = embed(weights, data, SMALL)
    sent = _spread.signs(data, SMALL)
    assert len(sent) == embedding.bits == 50 + 8 * 9 + 512
    expected = naive.spread(
        weights, data, sent, gamma=9e-4, seed=42, chunk=128, factor=6
    )
    moved = np.abs(expected - weights)
    assert moved.max() > 0.01
    assert np.abs(hidden - expected).max() < 1e-8
    assert np.array_equal(hidden[moved == 0], weights[moved == 0])
    # A sum of as many signs up as down moves nothing.
    assert embedding.changed == np.count_nonzero(moved > 1e-6) < embedding.written


def test_the_preamble_and_the_message_are_the_published_ones():
    """Signs of seed 630, then the payload and the hash of its bits as text."""
    drawn = np.random.RandomState(630)
    preamble = np.sign(drawn.uniform(-1, 1, 200))
    sent = _spread.signs(b"\xb1", SpreadSpectrum(coded=False))
    assert sent[:200].tolist() == preamble.tolist()
    # 1 is sent as -1: 1011 0001.
    assert sent[200:208].tolist() == [-1, 1, -1, -1, 1, 1, 1, -1]
    message = naive.message_of(b"\xb1")
    assert (1 - 2 * np.array(message)).tolist() == sent[200:].tolist()
    assert len(message) == 8 + 512


@pytest.mark.parametrize("size", [1, 100, 436, 437, 3000])
def test_blocks_have_the_message_where_the_code_has_it(size):
    """In front of each block; behind it what makes all checks hold."""
    data = np.random.default_rng(2).bytes(size)
    sent = (_spread.signs(data, SpreadSpectrum())[200:] < 0).astype(int)
    message = naive.message_of(data)
    length, block = (12_192, 9146) if len(message) > 4000 else (384, 290)
    blocks = naive.blocks_of(message, block)
    assert len(sent) == len(blocks) * length
    for number, expected in enumerate(blocks):
        start = number * length
        assert sent[start : start + block].tolist() == expected
    made = sent.reshape(-1, length)
    assert np.array_equal(made, _ldpc.code(length, 42).encode(np.array(blocks)))


def test_a_full_last_block_is_followed_by_an_empty_one():
    """290 bits a block: a message of 580 takes three."""
    layout = _spread.layout((2 * 290 - 512) // 8, SpreadSpectrum())
    assert (8 * 8 + 512) // 290 == 1
    assert layout.sent - 200 == 2 * 384
    exact = SpreadSpectrum()
    # The payload is whole bytes, so a message is full at 4 * 290 = 1160 bits.
    assert _spread.layout((1160 - 512) // 8, exact).sent - 200 == 5 * 384
    assert _spread.layout((1160 - 512) // 8 - 1, exact).sent - 200 == 4 * 384


def test_the_first_chunk_has_one_bit_more():
    """As the published loop counts: 4,097, then 4,096, and the last one the rest."""
    method = SpreadSpectrum(coded=False)
    plan = _spread.layout(1500, method)
    spans = list(_spread._spans(plan, method))
    assert plan.sent == 200 + 12_000 + 512
    assert [end - start for start, end in spans] == [4097, 4096, 4096, 423]
    assert spans[-1][1] == plan.sent
    one_over = _spread.Layout(8, 8, 0, 4097, 2, 24_576)
    assert list(_spread._spans(one_over, method)) == [(0, 4097), (4097, 4097)]


def test_gain_and_variance_are_the_expected_ones():
    """Lc * gamma = 22.1, and 64 * gamma for each weight of a full chunk."""
    weights = normal(2_000_000)
    data = np.random.default_rng(3).bytes(450)
    method = SpreadSpectrum(coded=False)
    hidden, embedding = embed(weights, data, method)
    signal = listen(hidden, method, len(data))
    # A bit is read with a deviation of about 12, the mean of 200 with 0.85.
    assert abs(signal.gain - 24_576 * 9e-4) < 5 * 0.85
    assert 3 < signal.snr < 9
    wrong = np.unpackbits(
        np.frombuffer(signal.payload, np.uint8) ^ np.frombuffer(data, np.uint8)
    ).mean()
    assert 0 < wrong < 0.06  # what the code that is left out corrects
    # The first of the two chunks, but what both drew, and what was drawn twice.
    first = np.random.RandomState(42).randint(0, weights.size, 2 * 24_576, np.int32)
    once = np.setdiff1d(first[:24_576], first[24_576:])
    added = (hidden - weights)[once]
    assert abs(added.std() / (64 * 9e-4) - 1) < 5 / np.sqrt(2 * once.size)
    assert embedding.written == np.unique(first).size


def test_the_published_strength_is_read_without_error():
    """As published: 9e-4, and the code corrects what is read wrong."""
    weights, data = normal(100_000), b"a payload of 26 characters"
    hidden, embedding = embed(weights, data, SpreadSpectrum())
    assert embedding.bits == 200 + 3 * 384
    signal = listen(hidden, SpreadSpectrum(), len(data))
    assert signal.payload == data
    assert signal.hash_matches
    sent = _spread.signs(data, SpreadSpectrum())
    read = _spread.received(Cover(hidden), len(data), SpreadSpectrum())
    assert 0 < (np.sign(read) != sent).mean() < 0.06


def test_the_code_is_the_published_one():
    """Checks, order of the columns and blocks, against the dense matrices."""
    checks, generator = naive.code(384, 42)
    made = _ldpc.Code(384, 42)
    assert made.block == len(generator) == 290
    messages = np.random.default_rng(5).integers(0, 2, (20, 290))
    blocks = made.encode(messages)
    assert np.array_equal(blocks, messages @ generator % 2)
    assert not (blocks @ checks.T % 2).any()


def test_the_long_code_has_the_published_rate():
    """9,146 bits of 12,192, and every check holds for every block."""
    made = _ldpc.code(12_192, 42)
    assert (made.block, made.length) == (9146, 12_192)
    messages = np.random.default_rng(6).integers(0, 2, (3, 9146))
    blocks = made.encode(messages)
    placed = np.empty_like(blocks)
    placed[:, made._order] = blocks
    assert not (placed[:, made._bits_of].sum(axis=2) % 2).any()
    assert sorted(made._order.tolist()) == list(range(12_192))


def test_the_code_corrects_noise_and_not_any_noise():
    """At 5 dB, where 4 % of the bits are wrong, all; at 0 dB, not."""
    made = _ldpc.code(12_192, 42)
    messages = np.random.default_rng(7).integers(0, 2, (2, 9146))
    blocks = made.encode(messages)
    drawn = np.random.default_rng(8)
    for decibels, left in ((5, 0), (0, 0.1)):
        variance = 10 ** (-decibels / 10)
        read = 1 - 2.0 * blocks + drawn.normal(0, variance**0.5, blocks.shape)
        assert 0.03 < ((read < 0) != blocks).mean() < 0.2
        wrong = (made.decode(read, variance) != messages).mean()
        assert wrong == left if not left else wrong > left


def test_a_clean_network_has_no_gain():
    """What is read of it is noise, a tenth of the gain of a payload at most."""
    signal = listen(normal(200_000), SpreadSpectrum(coded=False), 40)
    assert abs(signal.gain) < 5 * 0.05 * np.sqrt(24_576 / 200)
    assert not signal.hash_matches
    silent = listen(np.zeros(200_000, np.float32), SpreadSpectrum(coded=False), 40)
    assert (silent.gain, silent.snr) == (0, float("-inf"))


def test_a_strong_payload_is_read_without_error():
    """And its hash says so; with a code, too."""
    data = b"nothing to correct in here"
    for coded in (False, True):
        method = SpreadSpectrum(
            gamma=0.02, chunk_bits=128, chunk_factor=48, preamble_bits=99, coded=coded
        )
        hidden, _ = embed(normal(300_000, 0.01), data, method)
        signal = listen(hidden, method, len(data))
        assert signal.payload == extract(hidden, method, len(data)) == data
        assert signal.hash_matches
        assert not listen(hidden, method, len(data) + 1).hash_matches


def test_sampled_weights_have_the_same_distribution():
    """The same weights, the same variance for each chunk; no payload in them."""
    weights = np.zeros(2_000_000, np.float32)
    data = bytes(450)
    exact, sampled = (
        embed(weights, data, SpreadSpectrum(coded=False, sampled=s))
        for s in (False, True)
    )
    assert exact[1].written == sampled[1].written
    first = np.random.RandomState(42).randint(0, weights.size, 2 * 24_576, np.int32)
    bits = [4097, exact[1].bits - 4097]
    for chunk, count in enumerate(bits):
        here = np.setdiff1d(
            first[24_576 * chunk : 24_576 * (chunk + 1)],
            first[24_576 * (1 - chunk) : 24_576 * (2 - chunk)],
        )
        deviations = [made[here].std() for made, _ in (exact, sampled)]
        for deviation in deviations:
            assert abs(deviation / (9e-4 * np.sqrt(count)) - 1) < 0.03
        # Sums of that many signs are all odd or all even.
        steps = np.rint(sampled[0][here] / 9e-4).astype(int)
        assert set(steps % 2) == {count % 2}
    with pytest.raises(ValueError, match="no payload"):
        listen(sampled[0], SpreadSpectrum(coded=False, sampled=True), 450)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_floating_dtype(dtype):
    """Rounded to the nearest number of the dtype; what was not drawn is untouched."""
    kind = getattr(torch, dtype)
    tensor = torch.from_numpy(normal(60_000, 0.01)).to(kind)
    method = SpreadSpectrum(gamma=0.01, chunk_bits=512, chunk_factor=48, coded=False)
    hidden, embedding = embed(tensor, b"short", method)
    assert hidden.dtype == kind
    assert listen(hidden, method, 5).payload == b"short"
    changed = int((hidden != tensor).sum())
    assert embedding.changed == changed <= embedding.written < 60_000


def test_bfloat16_is_rounded_as_torch_rounds():
    """To nearest, ties to even; infinity and NaN stay what they are."""
    words = np.random.default_rng(4).integers(0, 1 << 32, 100_000, np.uint32)
    ties = (np.arange(1000, dtype=np.uint32) << 16) | 0x8000
    special = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0x7F7FFFFF])
    values = np.concatenate([words, ties, special.astype(np.uint32)]).view(np.float32)
    with np.errstate(invalid="ignore"):
        made = _spread.words(values.astype(np.float64), "bfloat16")
    expected = torch.from_numpy(values).to(torch.bfloat16)
    numbers = torch.from_numpy(made.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(numbers.isnan(), expected.isnan())
    there = ~expected.isnan()
    assert torch.equal(numbers[there], expected[there])


def test_capacity_is_the_largest_that_fits():
    """One byte more does not."""
    weights = normal(200_000)
    for method in (SpreadSpectrum(sampled=True), SpreadSpectrum(coded=False)):
        most = capacity(weights, method) // 8
        assert most > 100
        if method.sampled:
            embed(weights, bytes(most), method)
        with pytest.raises(ValueError, match="weights of 200000"):
            embed(weights, bytes(most + 1), method)
    assert capacity(normal(24_575), SpreadSpectrum()) == 0


def test_published_sizes():
    """24 kB, 22 blocks, 66 chunks, 1.62 million draws: as computed from the program."""
    plan = _spread.layout(24_575, SpreadSpectrum())
    assert plan.sent == 200 + 22 * 12_192
    assert (plan.chunks, plan.weights) == (66, 24_576)
    assert plan.chunks * plan.weights == 1_622_016


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gamma": 0}, ValueError),
        ({"gamma": 1}, ValueError),
        ({"gamma": float("nan")}, ValueError),
        ({"gamma": "1"}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": 1 << 32}, ValueError),
        ({"seed": 1.0}, TypeError),
        ({"chunk_bits": 0}, ValueError),
        ({"chunk_factor": 0}, ValueError),
        ({"preamble_bits": 0}, ValueError),
    ],
    ids=str,
)
def test_a_method_that_makes_no_sense(arguments, error):
    """It is refused when it is made."""
    with pytest.raises(error):
        SpreadSpectrum(**arguments)


def test_integers_are_no_cover():
    """Nothing tiny can be added to them."""
    for call in (
        lambda: embed(np.zeros(99_999, np.int8), b"a", SpreadSpectrum()),
        lambda: capacity(np.zeros(99_999, np.int8), SpreadSpectrum()),
        lambda: listen(np.zeros(99_999, np.int8), SpreadSpectrum(), 1),
    ):
        with pytest.raises(ValueError, match="for floats"):
            call()
    with pytest.raises(TypeError):
        extract(normal(99_999), SpreadSpectrum())
