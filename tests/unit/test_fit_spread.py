"""What the score of the test for spread spectrum is fitted with."""

import fit_spread
import numpy as np
import pytest

from safemodel._detector.spread_fit import Noise
from tests.unit.detector.helpers_detector import generator

ROWS = 240


def rows(random):
    """Return rows of groups of four, of which half are attacked and agree better."""
    made = []
    for number in range(ROWS):
        hit = number % 2 == 1
        agreement = 0.8 * hit + 0.1 * random.standard_normal()
        found = Noise(
            0.058, 0.3, 0.01, 0.002, agreement, 0.1, 0.5, 0.01, 0.05, 1.0, 100_000
        )
        made.append(fit_spread.Row("net", f"g{number // 4}", "n", "k", hit, found))
    return made


def test_scores_of_unseen_groups_tell_classes_apart(draws):
    """By the one figure that differs, and in the right direction."""
    made = rows(generator(draws))
    scores = fit_spread.unseen_scores(made)
    hit = np.array([row.attacked for row in made])
    assert scores[hit].min() > scores[~hit].max()
    start, part, mean = fit_spread.tail(made, scores)
    assert start < 0 < mean
    assert part == pytest.approx(1 - fit_spread.TAIL, abs=0.02)


def test_groups_count_alike_however_many_files_they_have(rand):
    """A row of a group of four counts a quarter of one that is alone."""
    made = [row._replace(attacked=False) for row in rows(generator(rand))]
    alone = made[0]._replace(group="alone")
    weight = fit_spread.weights_of_rows([*made, alone])
    assert weight[-1] == pytest.approx(4 * weight[0])
    assert weight.sum() == pytest.approx(ROWS + 1)
