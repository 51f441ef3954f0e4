"""Slopes of a density within its cells, from the counts of cells."""

from itertools import pairwise, product

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
            if row.size == 4:
                slope, error, rejected = line_first(row)
            if end - start < row.size:
                rejected = rejected or abs(slope[start:end]).max() > module._EDGE
            else:
                rejected = rejected or ends(row)
            if rejected and end - start > module._SHORTEST:
                middle = (start + end) // 2
                parts += [(start, middle), (middle, end)]
            elif not rejected:
                both = shrunk(slope[cells][None], error[cells][None], row[cells][None])
                out[cells] = np.clip(both[0], -module.STEEPEST, module.STEEPEST)
    return found


def line_first(row):
    """Take a line for four cells, if they do not reject it."""
    line, curve = polynomial(row, 0, 4, 1), polynomial(row, 0, 4)
    if not line[2]:
        return line
    known = curve[0][1:]
    return (*curve[:2], known.min() < 0 < known.max())


def ends(row):
    """Say whether the density falls like an edge; rule 2."""
    bins = min(row.size, module._BINS)
    size = row.size // bins
    counts = [row[at : at + size].sum() + 0.5 for at in range(0, row.size, size)]
    falls = [np.log(one / two) for one, two in pairwise(counts)]
    error = [1 / one + 1 / two for one, two in pairwise(counts)]
    for at, fall in enumerate(falls):
        enough = counts[at] >= module._FEWEST / 2
        if enough and fall - 2 * error[at] ** 0.5 > max(module._STEEP / bins, 1):
            return True
        if bins == 4 and at > 1:
            noise = (error[at] + 1.5**2 * error[at - 1]) ** 0.5
            if fall - 1.5 * max(falls[at - 1], 0) > 2 * noise:
                return True
    return False


def polynomial(row, start, end, degree=2):
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
    powers = np.array([[place**one for one in range(degree + 1)] for place in places])
    model, target = counts + 0.5, np.log((counts + 0.5) / cells)
    level = np.log(counts.sum() / number)
    for _ in range(module._NEWTON):
        normal = powers.T @ (model[:, None] * powers)
        normal += 1e-9 * np.trace(normal) * np.eye(degree + 1)
        spread = np.linalg.inv(normal)
        factors = spread @ (powers.T @ (model * target))
        fit = np.clip(powers @ factors, level - 6, level + 6)
        model = np.exp(fit) * cells
        target = fit + np.minimum(counts / model - 1, module._STEP)
    slope, error = np.zeros(row.size), np.zeros(row.size)
    for cell in range(start, end):
        place = (cell - start + 0.5) / number - 0.5
        by = np.array([0.0, 1.0, 2 * place])[: degree + 1]
        slope[cell], error[cell] = by @ factors / number, by @ spread @ by / number**2
    chi = ((counts - model) ** 2 / model).sum()
    freedom = counts.size - degree - 1
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


def test_a_normal_density_has_its_slope(draws):
    """At 100 million words; chance rejects a part now and then, so of five draws."""
    place = 1 + (np.arange(64) + 0.5) / 64
    density = np.exp(-(place**2) / 2)
    mean = 1e8 * density / density.sum()
    totals = generator(draws).poisson(mean, (5, 64)).astype(np.float64)
    truth = -place / 64
    found = np.median(slopes(totals), 0)
    np.testing.assert_allclose(found[1:], truth[1:], atol=0.05 * abs(truth).max())
    assert found[0] == 0


def test_an_edge_has_no_slope_beside_it(draws):
    """Even up to a value and nothing from there: the old fit had slopes all along."""
    totals = np.zeros((1, 128))
    totals[0, :37] = generator(draws).poisson(500_000, 37)
    found = slopes(totals)
    assert abs(found[0, :32]).max() < 0.01


def test_one_cell_that_is_not_empty_has_no_slope(draws):
    """An edge may end with a part's first cells: any curve goes through those."""
    totals = np.zeros((1, 128))
    totals[0, :33] = generator(draws).poisson(2_000, 33)
    found = slopes(totals)
    assert not found[0, 32:].any()
    assert abs(found[0, :32]).max() < 0.05


@pytest.mark.parametrize("cells", [4, 8, 64])
@pytest.mark.parametrize("whole", [1, 2, 3])
def test_a_row_that_ends_has_no_slope(cells, whole, draws):
    """Even, and then nothing: wherever in a row of many or few cells the edge is.

    Three cells of which the last has a fifth less are like a line: one row in fifty.
    """
    random = generator(draws)
    for part in (0.0, 0.2, 0.5, 0.8):
        mean = np.zeros((1_000, cells))
        mean[:, :whole], mean[:, whole] = 2_000, 2_000 * part
        found = slopes(random.poisson(mean).astype(np.float64))
        assert (abs(found).max(1) > 0.1).mean() < 0.05


def test_four_cells_are_a_line_unless_they_say_otherwise(draws):
    """What chance bends is not steep; a normal density has its slope all the same."""
    random = generator(draws)
    even = slopes(random.poisson(100.0, (400, 4)).astype(np.float64))
    assert (abs(even).max(1) > 0.25).mean() < 0.03
    place = 1 + (np.arange(4) + 0.5) / 4
    for width in (1.0, 0.8):
        density = np.exp(-((place / width) ** 2) / 2)
        mean = 1e7 * density / density.sum()
        found = np.median(slopes(random.poisson(mean, (5, 4)).astype(np.float64)), 0)
        np.testing.assert_allclose(found[1:], (-place / 4 / width**2)[1:], rtol=0.1)


@pytest.mark.parametrize("inputs", [64, 200, 300, 490])
def test_a_layer_as_it_was_drawn_is_no_evidence(inputs, draws):
    """Layers of 300 inputs were false alarms of the whole detector, one in three."""
    torch.manual_seed(draws.getrandbits(32))
    for _ in range(3):
        found = detect(torch.nn.Linear(inputs, 300))
        assert found.verdict is Verdict.NO_EVIDENCE, found.evidence


def test_a_layer_drawn_evenly_is_not_called_too_uniform(draws):
    """As torch draws linear and recurrent layers; trained for a few steps at most."""
    random = generator(draws)
    edge = 1 / np.sqrt(768)
    values = random.uniform(-edge, edge, 600_000)
    values += random.normal(0, edge / 300, values.size)
    words = values.astype(np.float32).view(np.uint32)
    statistics = examine(items({"cell.weight": (words, "float32", "weight")}))
    for bits in (15, 16, 18):
        found = statistics.uniformity["float32", bits]
        # Not more than chance takes away of what a clean tensor has.
        assert (1 - found.share) * found.apart < 4.5, (bits, found.share, found.apart)
