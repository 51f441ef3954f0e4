"""Bits that are too even: what contradicts itself, and what is enough by itself."""

from math import log

import numpy as np
import pytest
import torch

from safemodel import Verdict, detect
from safemodel._detector import evenness, spread_score, traits
from safemodel._detector.evidence import Ledger
from safemodel._detector.judging import PValues
from safemodel._detector.prototype_file import bundled
from safemodel._detector.prototypes import LARGEST, Prototypes
from safemodel._detector.room import would_find
from safemodel._detector.smooth import Uniformity
from safemodel._detector.statistics import Statistics, TensorResult, examine
from safemodel._detector.weights import weights_of_mapping
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import encrypted, weights_like


def known(*pairs):
    """Return what is known of 1, 2, ... bits, of shares and expected slopes."""
    return {bits: Uniformity(share * expected, expected)
            for bits, (share, expected) in enumerate(pairs, 1)}  # fmt: skip


def statistics_of(by_bits, dtype="bfloat16"):
    """Return statistics of a file of one tensor."""
    ledger = Ledger()
    ledger.counts.update(dict.fromkeys(evenness.FAMILIES, 10))
    whole = {(dtype, bits): one for bits, one in by_bits.items()}
    return Statistics(ledger, (), whole, ())


def deaf():
    """Return the bundled judge with thresholds of the prototypes out of reach."""
    arrays = bundled().arrays
    return Prototypes(
        arrays._replace(thresholds=np.full_like(arrays.thresholds, LARGEST))
    )


def test_no_more_is_missing_than_at_fewer_bits():
    """Whoever replaces three bits replaces two: a slope that is there contradicts."""
    contradicted = known((1.4, 25), (-0.2, 230))
    assert evenness.missing(contradicted, 2) == pytest.approx(-0.4 + 3 / 5)
    assert evenness.missing(contradicted, 1) == pytest.approx(-0.4)
    borne_out = known((0.1, 25), (-0.1, 230))
    assert evenness.missing(borne_out, 2) == pytest.approx(1.1)
    unknown = known((1.0, 0), (0.0, 230))
    assert evenness.missing(unknown, 2) == pytest.approx(1.0)


def test_no_more_is_missing_than_all():
    """A network trained in bfloat16 lacked 2.2 times its slope: it was fitted badly."""
    by_bits = known((0.2, 10), (0.1, 25), (-1.2, 36))
    assert evenness.missing(by_bits, 2) == pytest.approx(0.9)
    assert evenness.missing(by_bits, 3) == 0.0
    assert traits.replaced(by_bits, 0.1)[1] < 3
    assert not deaf().judge(statistics_of(by_bits)).suspicious


@pytest.mark.parametrize(
    ("by_bits", "dtype"),
    [
        # As clean networks of the training side have them (ADR 0028).
        ({1: (0.66, 5.4), 2: (1.43, 24.8), 3: (-0.3, 234.4)}, "bfloat16"),
        ({2: (0.96, 52.5), 3: (0.91, 219.9), 4: (0.4, 968.3)}, "bfloat16"),
        ({16: (0.57, 23.0), 18: (0.58, 370.1), 20: (0.56, 5361.7)}, "float32"),
        ({1: (0.49, 347.0)}, "int8"),
    ],
)
def test_what_clean_networks_lack_is_not_enough(by_bits, dtype):
    """Each of them was below one in a billion, or close, by the bare p-value."""
    found = {bits: Uniformity(share * expected, expected)
             for bits, (share, expected) in by_bits.items()}  # fmt: skip
    told = statistics_of(found, dtype)
    assert evenness.enough(told) == []
    assert not deaf().judge(told).suspicious


def test_what_is_far_too_even_is_enough(draws):
    """The judge need not find the file like others; it names the p-value and rate."""
    told = statistics_of(known((0.1, 25), (0.0, 230), (0.0, 900)))
    judge = deaf()
    found = judge.judge(told)
    assert found.suspicious
    assert {one.test for one in found.evidence} == {"too-uniform"}
    assert all(one.p_value <= evenness.RATE for one in found.evidence)
    assert found.false_positive_rate < 0.02
    close = statistics_of(known((0.1, 25), (0.0, 150)))
    (one,) = (
        evenness.outcome(known((0.1, 25), (0.0, 150)), 2, "bfloat16", "", whole=True),
    )
    assert close.ledger.log_p(one) < log(evenness.RATE)  # by the tolerance of others
    assert evenness.enough(close) == []
    assert not judge.judge(close).suspicious


@pytest.mark.parametrize(
    ("dtype", "bits"), [("bfloat16", 5), ("float16", 8), ("float32", 8)]
)
def test_four_cells_are_too_few_to_be_enough(dtype, bits):
    """A float16 copy of a transformer lacked two thirds of its slope at 8 bits."""
    gone = {at: Uniformity(0.0, 900.0) for at in (bits - 1, bits)}
    assert len(evenness.enough(statistics_of(gone, dtype))) == 1
    assert not evenness.enough(statistics_of({bits: gone[bits]}, dtype))


def test_a_part_of_a_tensor_is_found_by_its_p_value_alone(draws):
    """Nine tenths of the weights; the tensor is named."""
    weights = weights_like(draws, {"a": 50_000, "w": 600_000}, torch.bfloat16)
    data = encrypted(540_000 * 4 // 8)
    hidden, _ = stego.embed({"w": weights["w"]}, data, stego.Lsb(bits=4, start=60_000))
    found = deaf().judge(examine(weights_of_mapping({**weights, **hidden})))
    assert found.suspicious
    assert "w" in {one.tensor for one in found.evidence}
    assert found.tensors["w"] > 0.5
    assert not deaf().judge(examine(weights_of_mapping(weights))).suspicious


def test_the_blind_spot_asks_the_judge():
    """What only the prototypes find is no room, whatever single tests need."""
    expected = {15: 5.5, 16: 23.0, 18: 370.0, 20: 5361.0}
    clean = {bits: Uniformity(one, one) for bits, one in expected.items()}
    tensor = TensorResult("a", "float32", "weight", 2_000_000, 0, 0.0, 8.0, 0.0, 0.0,
                          clean, 0.0, None)  # fmt: skip
    told = statistics_of(clean, "float32")._replace(tensors=(tensor,))
    assert would_find(told, "float32", bundled()) == [18, 20]
    assert would_find(told, "float32", deaf()) == [20]
    assert would_find(told, "float32", PValues()) == []
    assert would_find(told, "bfloat16", bundled()) == []


def test_noise_of_the_published_kind_is_found_by_detect(draws):
    """Any seed, by the score; the published one, by its codes as well."""
    random = np.random.default_rng(draws.getrandbits(64))
    weights = {}
    for layer, (rows, columns) in enumerate([(400, 600), (300, 400), (300, 600)]):
        values = random.uniform(-1, 1, (rows, columns)) / columns**0.5
        weights[f"{layer}.weight"] = values.astype(np.float32)
    weights["head.weight"] = np.full((10, 150), 0.01, np.float32)
    weights = {name: torch.from_numpy(values) for name, values in weights.items()}
    clean = detect(weights)
    assert clean.verdict is Verdict.NO_EVIDENCE
    method = stego.SpreadSpectrum(seed=7, sampled=True)
    hidden, _ = stego.embed(weights, encrypted(2_000), method)
    found = detect(hidden)
    assert found.verdict is Verdict.SUSPICIOUS
    first = {one.test: one for one in found.evidence}["added-noise"]
    assert first.p_value == spread_score.RATE
    assert first.statistic >= spread_score.THRESHOLD
    assert "published-code" not in {one.test for one in found.evidence}
    hidden, _ = stego.embed(weights, encrypted(70), stego.SpreadSpectrum())
    assert detect(hidden).evidence[0].test == "published-code"


def test_the_rate_of_added_noise_is_that_of_its_tail():
    """The share of the false positives that ADR 0030 measured, at the threshold."""
    tail = spread_score._TAIL_PART * np.exp(
        -(spread_score.THRESHOLD - spread_score._TAIL_FROM) / spread_score._TAIL_MEAN
    )
    assert tail <= spread_score.RATE <= 1.2 * tail  # rounded up
    arrays = bundled().arrays
    total = arrays.rates[0] + arrays.rates[1] + spread_score.RATE
    assert bundled().false_positive_rate == pytest.approx(total)
