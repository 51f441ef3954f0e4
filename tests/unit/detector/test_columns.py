"""Inputs that never change leave columns as they were drawn, and are no evidence."""

import numpy as np
import pytest

from safemodel._detector.columns import packed_model, period_of
from safemodel._detector.counts import Counter
from safemodel._detector.statistics import examine
from safemodel._detector.streams import excesses
from safemodel._detector.structure import Known
from safemodel._detector.traits import CONCLUSIVE
from safemodel._detector.weights import Weights
from tests.unit.detector.helpers_detector import embed, generator, program, trained

F4 = np.float32
SHAPES = [(400, 3), (400, 8), (400, 15), (300, 16), (400, 24), (256, 33), (400, 60),
          (512, 128), (256, 784), (128, 8, 3, 3), (64, 16, 5, 5),
          (6, 64, 24)]  # fmt: skip


def drawn(random, shape):
    """Weights as they were drawn: a grid, less its bound, so many end in zeros."""
    bound = F4(np.prod(shape[1:]) ** -0.5)
    grid = random.integers(0, 1 << 24, shape).astype(F4) * F4(2**-24)
    return grid * (2 * bound) - bound


def layer(random, shape, share=0.5, dead_rows=0.0, order=True):
    """Columns as they were drawn among trained ones; also some rows."""
    axis = 2 if len(shape) == 3 else 1
    dead = random.random(shape[axis]) < share
    dead[0] = True
    dead = np.sort(dead) if order else dead
    dead = dead.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    rows = random.random(shape[0]).reshape((-1,) + (1,) * (len(shape) - 1)) < dead_rows
    live = trained(random, int(np.prod(shape))).reshape(shape)
    return np.where(dead | rows, drawn(random, shape), live).astype(F4)


DRAWS = 5


def found(tensors):
    """Return what is evidence by itself; tensors with their shapes."""
    items = (
        Weights(name, "float32", each.reshape(-1).view(np.uint32), "weight",
                each.shape, 0, each.size)
        for name, each in tensors.items()
    )  # fmt: skip
    return examine(items).ledger.evidence(1e-3, CONCLUSIVE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dead_rows", "order"), [(0, True), (0, False), (0.3, True)])
def test_columns_as_drawn_are_no_evidence(shape, dead_rows, order, draws):
    """Alone, and in a file with other layers and a copy; but for one by chance."""
    random = generator(draws)
    alarms = 0
    for _ in range(DRAWS):
        weight = layer(random, shape, random.choice([0.2, 0.5, 0.8]), dead_rows, order)
        others = {
            "1.weight": trained(random, 4096),
            "target.0.weight": weight.copy(),
            "other.0.weight": layer(random, shape, 0.5, dead_rows, order),
        }
        files = ({"0.weight": weight}, {"0.weight": weight} | others)
        alarms += any(found(file) != () for file in files)
    assert alarms <= 1


@pytest.mark.parametrize("shape", [(300, 128), (400, 120), (64, 16, 5, 5)])
@pytest.mark.parametrize("bits", [1, 2])
def test_a_program_in_such_a_layer_is_found(shape, bits, draws):
    """And in one whose columns are all alike, in which its bytes have their own."""
    random = generator(draws)
    for share in (0.5, 1.0):
        weight = layer(random, shape, share)
        words = weight.reshape(-1).view(np.uint32)
        words = embed(words, program(words.size * bits // 8, 4096), bits)
        assert found({"0.weight": words.view(F4).reshape(shape)})


def test_columns_of_a_message_are_not_those_of_drawn_weights(draws):
    """Rows of a multiple of eight: columns of one bit of a message are uneven, too."""
    random = generator(draws)
    shape = (400, 64)
    clean = trained(random, 25_600).view(np.uint32)
    hidden = embed(clean, program(3200, 4096), 1)
    dead = layer(random, shape).reshape(-1).view(np.uint32)
    assert [period_of(each, 0, shape) for each in (clean, hidden, dead)] == [0, 0, 64]
    assert period_of(dead, 0, (25_600,)) == period_of(dead, 0, (1, 25_600)) == 0
    assert period_of(dead[:600], 0, shape) == 0


@pytest.mark.parametrize("start", [0, 3, 65_536])
@pytest.mark.parametrize("period", [3, 15, 16])
def test_the_model_is_the_sum_over_all_bytes(start, period, rand):
    """One byte after the other, from shares that are known; unusable words are out."""
    random = generator(rand)
    words = random.integers(0, 2, 40 * period).astype(np.uint32)
    usable = random.random(words.size) < 0.95
    columns = (np.arange(words.size) + start) % period
    some = [words[usable & (columns == column)] for column in range(period)]
    shares = [(one.sum() + 0.5) / (one.size + 1) for one in some]
    expected = np.zeros((8, 256))
    for at in range(words.size - 7):
        if usable[at : at + 8].all():
            chance = np.ones(1)
            for place in range(8):
                one = shares[columns[at + place]]
                chance = np.outer(chance, [1 - one, one]).reshape(-1)
            expected[(start + at) % 8] += chance
    assert np.allclose(packed_model(words, start, usable, period), expected)


def test_counts_are_compared_with_a_model(draws):
    """Those that follow it are no more apart than chance has it, and others are."""
    random = generator(draws)
    model = random.gamma(2, 50, (8, 256))
    counts = random.poisson(model)
    assert max(one.z for one in excesses(counts, 1, model)) < 6
    assert min(one.z for one in excesses(counts, 1)) > 50
    assert min(one.z for one in excesses(counts, 1, model[::-1])) > 50


def test_weights_that_are_there_again_are_known(rand):
    """Of either sign, with few words changed; not other weights or a message."""
    random = generator(rand)
    values = trained(random, 5000)
    words = values.view(np.uint32)
    few = np.where(random.random(5000) < 0.02, trained(random, 5000), values)
    message = embed(words, program(625, 4096), 1)
    known, counter = Known(), Counter()

    def again(given):
        item = Weights("a", "float32", given.view(np.uint32), "weight", (5000,))
        tensor = counter.start(item)
        piece = counter.piece(tensor, item.bits)
        counter.finish(tensor)
        return known.again(piece, tensor)

    assert [again(one) for one in (values, message, trained(random, 5000))] == [
        False, False, False,
    ]  # fmt: skip
    assert [again(one) for one in (values, -values, few)] == [True, True, True]
