"""Weights that are products of a constant, and what was written to them."""

import numpy as np
import pytest
import torch

from safemodel import Verdict, detect
from safemodel._detector.products import are_products, constants, is_product
from tests.unit.detector.helpers_detector import embed, generator, program

CONSTANTS = [0.02, 0.1, 0.05, 1 / 3, 1 / 12, 0.005, 1.25, 640.0]


def drawn(draws, constant, size=4000):
    """Normal numbers times a constant, as torch draws them."""
    values = generator(draws).normal(0, 1, size).astype(np.float32)
    return (values * np.float32(constant)).view(np.uint32)


def test_constants_are_of_one_octave():
    """A power of two times one is as good."""
    found = constants()
    assert ((found > 1) & (found < 2)).all()
    assert len(set(found.tolist())) == found.size
    assert np.float32(1.024) not in found  # of those, hardly a word is no product
    for constant in CONSTANTS:
        assert np.float32(2 * np.frexp(np.float32(constant))[0]) in found


def test_a_product_is_one_of_all(draws):
    """Every float32 of an octave, one by one, for a constant."""
    random = generator(draws)
    factors = (np.arange(1 << 23, 1 << 24, dtype=np.uint32)).astype(np.float32)
    for constant in random.choice(constants(), 2):
        made = np.concatenate([factors * constant, factors / 2 * constant])
        asked = random.integers(1 << 23, 1 << 24, 5000).astype(np.float32)
        truth = np.isin(asked, made)
        assert 0.05 < 1 - truth.mean() < 0.3
        assert (is_product(asked.view(np.uint32), constant) == truth).all()


@pytest.mark.parametrize("constant", CONSTANTS)
def test_weights_times_a_constant_are_told(constant, draws):
    """Of many sizes; weights times another number are not."""
    for size in (600, 5000, 65_536):
        assert are_products(drawn(draws, constant, size))
        assert not are_products(drawn(draws, 0.0237, size))
        assert not are_products(drawn(draws, 0.25, size))


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_a_message_makes_them_others(bits, share, draws):
    """Also where it takes a small part of the weights."""
    words = drawn(draws, 0.02, 30_000)
    taken = int(share * words.size)
    words[:taken] = embed(words[:taken], program(taken * bits // 8, 4096), bits)
    assert not are_products(words)
    if share == 1:
        found = detect({"a.weight": torch.from_numpy(words.view(np.float32))})
        assert found.verdict is Verdict.SUSPICIOUS


def test_few_or_extreme_words_say_nothing():
    """Nothing is decided by a handful, by zeros, or by what cannot be multiplied."""
    assert not are_products(np.zeros(0, np.uint32))
    assert not are_products(np.full(4096, 0x3F800000, np.uint32))
    for value in (0.0, np.inf, np.nan, 1e-42, 3e38):
        assert not are_products(np.full(4096, value, np.float32).view(np.uint32))


@pytest.mark.parametrize("width", [0.02, 0.1])
def test_layers_of_such_weights_are_no_evidence(width, draws):
    """They were false alarms of the whole detector, one in twenty."""
    torch.manual_seed(draws.getrandbits(32))
    for size in (50, 90, 260):
        layer = torch.nn.Linear(size, size)
        torch.nn.init.trunc_normal_(layer.weight, std=width, a=-2 * width, b=2 * width)
        assert detect(layer).verdict is Verdict.NO_EVIDENCE
