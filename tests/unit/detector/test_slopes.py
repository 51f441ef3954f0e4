"""Slopes of a density within its cells, from the counts of cells."""

from itertools import product

import numpy as np
import pytest
import torch

from safemodel import Verdict, detect
from safemodel._detector import slopes as module
from safemodel._detector.slopes import shrunk, slopes
from safemodel._detector.statistics import examine
from tests.unit.detector.helpers_detector import generator, items


def naive(totals):
    """Rules 1 to 3 of `slopes`, one part of one row after the other."""
    found = np.zeros_like(totals)
    for row, out in zip(totals, found, strict=True):
        parts = [(0, row.size)]
        while parts:
            start, end = parts.pop()
            cells = [at for at in range(start, end) if at]
            if row[cells].sum() < module._FEWEST:
                continue
            slope, error, rejected = polynomial(row, start, end)
            if end - start < row.size:
                rejected = rejected or abs(slope[start:end]).max() > module._EDGE
            if rejected and end - start > module._SHORTEST:
                middle = (start + end) // 2
                parts += [(start, middle), (middle, end)]
            elif not rejected:
                both = shrunk(slope[cells][None], error[cells][None], row[cells][None])
                out[cells] = np.clip(both[0], -module.STEEPEST, module.STEEPEST)
    return found


def polynomial(row, start, end):
    """Fit one part by Newton's method, with numpy's least squares; rule 1."""
    number = end - start
    step = max(1, number // module._BINS)
    bins = [(at, at + step) for at in range(start, end, step)]
    counts, cells, places = [], [], []
    for at, to in bins:
        inside = [cell for cell in range(at, to) if cell]
        if inside:
            counts.append(row[inside].sum())
            cells.append(len(inside))
            places.append(((at + to) / 2 - start) / number - 0.5)
    counts, cells = np.array(counts), np.array(cells, np.float64)
    powers = np.array([[1.0, place, place**2] for place in places])
    model, target = counts + 0.5, np.log((counts + 0.5) / cells)
    level = np.log(counts.sum() / number)
    for _ in range(module._NEWTON):
        normal = powers.T @ (model[:, None] * powers)
        normal += 1e-9 * np.trace(normal) * np.eye(3)
        spread = np.linalg.inv(normal)
        factors = spread @ (powers.T @ (model * target))
        fit = np.clip(powers @ factors, level - 6, level + 6)
        model = np.exp(fit) * cells
        target = fit + np.minimum(counts / model - 1, module._STEP)
    slope, error = np.zeros(row.size), np.zeros(row.size)
    for cell in range(start, end):
        place = (cell - start + 0.5) / number - 0.5
        by = np.array([0.0, 1.0, 2 * place])
        slope[cell], error[cell] = by @ factors / number, by @ spread @ by / number**2
    chi = ((counts - model) ** 2 / model).sum()
    freedom = counts.size - 3
    return slope, error, freedom > 0 and chi > freedom + 2 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("cells", "words"), [*product((4, 8, 32, 128), (40, 3_000, 200_000))]
)
def test_rows_are_fitted_as_one_by_one(cells, words, rand):
    """Smooth rows, rows with an edge, and rows of almost nothing."""
    random = generator(rand)
    place = np.arange(cells) / cells
    rows = [np.exp(-place), np.exp(-3 * place**2), place < 0.4, place < 2, place < 0.01]
    made = random.poisson([words * row / max(row.sum(), 1) for row in rows])
    totals = made.astype(np.float64)
    np.testing.assert_allclose(slopes(totals), naive(totals), rtol=1e-6, atol=1e-9)


def test_a_normal_density_has_its_slope(rand):
    """At 100 million words; chance rejects a part now and then, so of five draws."""
    place = 1 + (np.arange(64) + 0.5) / 64
    density = np.exp(-(place**2) / 2)
    mean = 1e8 * density / density.sum()
    totals = generator(rand).poisson(mean, (5, 64)).astype(np.float64)
    truth = -place / 64
    found = np.median(slopes(totals), 0)
    np.testing.assert_allclose(found[1:], truth[1:], atol=0.05 * abs(truth).max())
    assert found[0] == 0


def test_an_edge_has_no_slope_beside_it(rand):
    """Even up to a value and nothing from there: the old fit had slopes all along."""
    totals = np.zeros((1, 128))
    totals[0, :37] = generator(rand).poisson(500_000, 37)
    found = slopes(totals)
    assert abs(found[0, :32]).max() < 0.01


def test_one_cell_that_is_not_empty_has_no_slope(rand):
    """An edge may end with a part's first cells: any curve goes through those."""
    totals = np.zeros((1, 128))
    totals[0, :33] = generator(rand).poisson(2_000, 33)
    found = slopes(totals)
    assert not found[0, 32:].any()
    assert abs(found[0, :32]).max() < 0.05


@pytest.mark.parametrize("inputs", [64, 200, 300, 490])
def test_a_layer_as_it_was_drawn_is_no_evidence(inputs, rand):
    """Layers of 300 inputs were false alarms of the whole detector, one in three."""
    torch.manual_seed(rand.getrandbits(32))
    for _ in range(3):
        found = detect(torch.nn.Linear(inputs, 300))
        assert found.verdict is Verdict.NO_EVIDENCE, found.evidence


def test_a_layer_drawn_evenly_is_not_called_too_uniform(rand):
    """As torch draws linear and recurrent layers; trained for a few steps at most."""
    random = generator(rand)
    edge = 1 / np.sqrt(768)
    values = random.uniform(-edge, edge, 600_000)
    values += random.normal(0, edge / 300, values.size)
    words = values.astype(np.float32).view(np.uint32)
    statistics = examine(items({"cell.weight": (words, "float32", "weight")}))
    for bits in (15, 16, 18):
        found = statistics.uniformity["float32", bits]
        # Not more than chance takes away of what a clean tensor has.
        assert (1 - found.share) * found.apart < 4.5, (bits, found.share, found.apart)
