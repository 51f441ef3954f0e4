"""Spread spectrum: the published program by its codes, any other by its noise."""

from math import erf

import numpy as np
import pytest

from safemodel._detector import spread_fit, spread_published, spread_samples
from safemodel._detector.spread_samples import Sampler
from safemodel._detector.spread_score import THRESHOLD, noise_of, outcome, score
from safemodel._detector.statistics import examine
from safemodel._detector.weights import Weights, weights_of_mapping
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detector import generator, items


def network(random):
    """Return weights of layers as they are initialised, some trained a little."""
    made = {}
    for layer, (rows, columns) in enumerate([(200, 300), (300, 200), (150, 300)]):
        values = random.uniform(-1, 1, (rows, columns)) / columns**0.5
        values += random.standard_normal((rows, columns)) * 0.004
        made[f"{layer}.weight"] = values.astype(np.float32)
        made[f"{layer}.bias"] = values[:, 0].astype(np.float32)
    made["head.weight"] = np.full((10, 150), 0.01, np.float32)
    return made


def taken(reader, weights):
    """Return a reader that has taken weights."""
    for item in weights:
        reader.take(item)
    return reader


def heard(weights):
    """Return the score of the published codes in a mapping."""
    reader = taken(spread_published.Published(), weights_of_mapping(weights))
    return reader.outcome()


def test_the_published_program_is_found_by_its_codes(draws):
    """Far below the noise that can be seen, and only with its own seed."""
    weights = network(generator(draws))
    payload = draws.randbytes(100)
    assert heard(weights).statistic < 6
    for gamma, least in ((9e-4, 20), (2e-4, 8)):
        method = stego.SpreadSpectrum(gamma=gamma)
        hidden, _ = stego.embed(weights, payload, method)
        found = heard(hidden)
        assert found.statistic > least
        assert found.log_p < -30
    other, _ = stego.embed(weights, payload, stego.SpreadSpectrum(seed=43))
    assert heard(other).statistic < 6


def test_codes_are_read_whatever_the_pieces(rand):
    """A tensor may come in pieces, and other tensors may lie between."""
    weights = network(generator(rand))
    hidden, _ = stego.embed(weights, b"a payload", stego.SpreadSpectrum())
    cut = []
    for item in weights_of_mapping(hidden):
        at = rand.randrange(1, item.size)
        for start, words in ((0, item.bits[:at]), (at, item.bits[at:])):
            cut.append(item._replace(start=start, bits=words))
    found = taken(spread_published.Published(), cut).outcome()
    assert found == heard(hidden)


@pytest.mark.parametrize("number", [24_576, 40_000, 65_536, 65_537, 1_000_003])
def test_indices_are_those_of_the_program(number):
    """For any number of weights they are a part of one list."""
    power = (number - 1).bit_length()
    indices = spread_published._indices(power)
    drawn = np.random.RandomState(42).randint(0, number, 24_576, np.int32)
    assert np.array_equal(indices[indices < number][:24_576], drawn)


def test_codes_say_nothing_where_nothing_is_finite():
    """Weights that are NaN, or zeros, or too few, give no evidence."""
    for value in (np.nan, 0.0):
        weights = {f"{i}.weight": np.full((200, 200), value, np.float32) for i in "ab"}
        assert heard(weights).log_p == 0.0
    assert heard({"weight": np.ones((10, 10), np.float32)}).log_p == 0.0
    assert heard({}).log_p == 0.0


def test_a_sample_holds_each_weight_of_a_small_tensor_once(rand):
    """In blocks of rows and columns, whatever the pieces it comes in."""
    random = generator(rand)
    values = random.standard_normal((64, 5, 5, 5)).astype(np.float32)
    words = values.reshape(-1).view(np.uint32)
    whole = Weights("w", "float32", words, "weight", values.shape, 0, words.size)
    sampler = taken(Sampler(), [whole])
    assert sum(part.size for part in sampler.parts) == values.size
    assert sum(part.counts.sum() for part in sampler.parts) == values.size
    at = rand.randrange(1, words.size)
    pieces = [
        whole._replace(bits=words[:at]),
        whole._replace(bits=words[at:], start=at),
    ]
    again = taken(Sampler(), pieces)
    for one, other in zip(sampler.parts, again.parts, strict=True):
        assert np.array_equal(one.counts, other.counts)
        assert one.core == other.core


def test_blocks_are_of_one_scale(rand):
    """Columns of two scales are told apart, and so are rows."""
    random = generator(rand)
    scale = np.where(random.permutation(128) < 64, 0.01, 1.0)
    for factor in (scale, scale[:, None]):
        found = spread_samples.blocks(random.standard_normal((128, 128)) * factor)
        deviations = sorted(float(block.std()) for block in found)
        low = [one for one in deviations if one < 0.012]
        assert len(found) >= 9
        assert sum(one > 0.8 for one in deviations) + len(low) >= len(found) - 4


def test_samples_are_bounded(rand):
    """However many tensors there are, and however large one is."""
    random = generator(rand)
    words = random.standard_normal(100_000).astype(np.float32).view(np.uint32)
    sampler = Sampler()
    for number in range(100):
        sampler.take(Weights(f"{number}", "float32", words, "weight", (250, 400)))
    sizes = np.bincount(
        [p.tensor for p in sampler.parts], [p.size for p in sampler.parts]
    )
    assert sizes.sum() <= 1 << 19
    assert sizes[0] <= 1 << 16
    assert sizes.min() >= 1 << 11


@pytest.mark.parametrize("shape", [(5000,), (1, 5000), (5000, 1), (2500, 2), (0, 3)])
def test_any_shape_is_taken_or_passed_over(shape, rand):
    """Rows of one weight, one row, none."""
    words = generator(rand).standard_normal(int(np.prod(shape))).astype(np.float32)
    item = Weights("w", "float32", words.view(np.uint32), "weight", shape)
    sampler = taken(Sampler(), [item])
    assert sum(part.size for part in sampler.parts) in (0, words.size)


def test_zeros_and_infinities_are_passed_over():
    """A tensor that is mostly zeros has no scale, and one with NaN no size."""
    for value in (0.0, np.inf, np.nan):
        words = np.full(5000, value, np.float32).view(np.uint32)
        item = Weights("w", "float32", words, "weight", (50, 100))
        assert taken(Sampler(), [item]).parts == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-310, 1e-30, 1e25, 1e308])
def test_weights_of_any_size_are_read(scale, rand):
    """Without a warning, and with a score that is a number."""
    values = generator(rand).uniform(-1, 1, (300, 300)) * scale
    weights = {f"{i}.weight": values for i in range(3)}
    found = noise_of(taken(Sampler(), weights_of_mapping(weights)))
    assert score(found) < 0
    assert abs(heard(weights).statistic) < 6


def test_the_table_is_of_probabilities():
    """Each row adds up to one, and agrees with noise that is drawn."""
    table = np.exp(spread_fit._table().astype(float))
    assert np.allclose(table.sum(-1), 1, atol=1e-4)
    random = np.random.default_rng(7)
    values = random.standard_normal(1 << 20) / 2  # a normal of half the noise's scale
    values += np.sqrt(random.poisson(0.4, values.size)) * random.standard_normal(
        values.size
    )
    edges = 2.0 ** (np.arange(97) / 8 - 8)
    counts = np.histogram(np.abs(values), np.concatenate(([0], edges, [1e9])))[0]
    row = (table.shape[0] - 1) * 6 // 11  # scales go from 2**-7 to 2**4
    expected = table[row, list(spread_fit.SHARES).index(0.4), 5]
    assert np.abs(counts / values.size - expected).max() < 2e-3


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_noise_is_recovered_from_tensors_of_any_scale(share, draws):
    """Its deviation and how many weights have it, at the published strength."""
    random = generator(draws)
    weights = {}
    for number, scale in enumerate((0.004, 0.012, 0.03, 0.05)):
        values = random.uniform(-1.7, 1.7, (200, 200)) * scale
        times = random.poisson(share, values.shape)
        values += np.sqrt(times) * random.standard_normal(values.shape) * 0.0576
        weights[f"{number}.weight"] = values.astype(np.float32)
    found = noise_of(taken(Sampler(), weights_of_mapping(weights)))
    assert 0.05 < found.scale < 0.065
    assert 0.6 * share < found.share < 1.5 * share
    assert found.agreement > 0.8
    assert score(found) > 2


def test_networks_are_told_from_their_noisy_copies(draws):
    """With a seed that nobody knows, one tensor left out, and nothing else known."""
    weights = network(generator(draws))
    method = stego.SpreadSpectrum(seed=draws.randrange(1 << 20), sampled=True)
    room = stego.capacity(weights, method) // 8
    hidden, _ = stego.embed(weights, bytes(room // 2), method)
    clean, noisy = (examine(weights_of_mapping(one)) for one in (weights, hidden))
    assert score(clean.noise) < 0 < score(noisy.noise) - 2
    assert outcome(noisy.noise).log_p < outcome(clean.noise).log_p
    assert "added-noise" not in {one.test for one in clean.evidence()}


def test_too_little_says_nothing(draws):
    """Fewer weights than a chunk has, or none."""
    words = generator(draws).standard_normal(20_000).astype(np.float32)
    few = taken(Sampler(), items({"a.weight": words.view(np.uint32)}))
    assert noise_of(few) is None
    assert noise_of(Sampler()) is None
    assert outcome(None).log_p == 0.0
    assert score(None) < -5


def test_peaks_are_those_of_parabolas(rand):
    """Three values on a parabola give its top; else it is the largest value."""
    random = generator(rand)
    tops, heights = random.uniform(1, 5, (2, 40))
    steps = np.arange(7.0)[:, None]
    values = (heights - 0.3 * (steps - tops) ** 2).T[:, :, None]
    np.testing.assert_allclose(spread_fit._peaks(values)[:, 0], heights, atol=1e-9)
    rising = np.broadcast_to(steps.T[:, :, None], (1, 7, 2))
    flat = np.ones((1, 3, 2))
    for given in (rising, -rising, flat):
        assert (spread_fit._peaks(given) == given.max(1)).all()


def test_exactly_normal_weights_gain_nothing_by_noise():
    """Of whatever width: it need not be one of the steps that are tried."""
    edges = 2.0 ** (
        np.arange((spread_samples.HIGHEST - spread_samples.LOWEST) * 8 + 1) / 8
        + spread_samples.LOWEST
    )
    for width in np.geomspace(0.06, 0.2, 12):
        below = np.array([erf(edge / width / 2**0.5) for edge in edges])
        counts = (65_536 * np.diff(below)).astype(np.float32)
        part = spread_samples.Part(0, 65_536, float(width), counts)
        gains = spread_fit.gains([part], spread_fit.PUBLISHED)
        assert gains.max() < 5e-4


def test_normal_layers_are_hardly_ever_called_noisy(draws):
    """One in four with a deviation of 0.1 was, as a finer scale looks like noise."""
    random = generator(draws)
    scores = [
        score(noise_of(taken(Sampler(), weights_of_mapping(
            {"a": random.normal(0, 0.1, (300, 300)).astype(np.float32)}
        ))))
        for _ in range(12)
    ]  # fmt: skip
    assert sum(one > THRESHOLD for one in scores) <= 1
