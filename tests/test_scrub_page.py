"""What docs/scrub.md says of its tables, against the tables the tool wrote into it."""

import re
from pathlib import Path

import pytest

from tests.embedding import KINDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scrub.md"
METHODS = ("random", "zero", "round")


def rows(name):
    """Return the cells of every row of a table of the tool."""
    page = PAGE.read_text(encoding="utf-8")
    start, end = f"<!-- {name}: written by the tool -->", f"<!-- end of {name} -->"
    table = page.split(start)[1].split(end)[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_that_scrubbed_bits_carry_nothing(method, kind):
    """For every way to hide bits: half are wrong, and nothing can be sent."""
    found = [row for row in rows("payloads") if row[:2] == [f"scrub, `{method}`", kind]]
    assert len(found) == 1
    _, _, bits, wrong, capacity, at_most, comes_out = found[0]
    assert int(bits.replace(",", "")) > 100_000
    assert abs(float(wrong) - 0.5) <= 0.005
    assert float(capacity.rstrip("%")) == 0
    assert float(at_most.rstrip("%")) < 1
    assert comes_out.startswith("no")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["convolutional", "perceptron"])
def test_the_page_shows_that_accuracy_stays(network, method):
    """Within 0.02 points, with outputs that did change."""
    found = [
        row
        for row in rows("accuracy")
        if row[:3] == [network, f"`{method}`", "auto, 12"]
    ]
    assert len(found) == 1
    assert abs(float(found[0][5])) <= 0.02
    assert float(found[0][7]) > 0


def test_the_page_shows_what_finds_a_payload_and_a_cost():
    """Without a defence all comes out, and without a mantissa accuracy goes."""
    none = [row for row in rows("payloads") if row[0] == "none"]
    assert [row[3] for row in none] == ["0.0000"] * len(KINDS)
    assert {row[6] for row in none} == {"yes"}
    without = [row for row in rows("accuracy") if row[2] == "23"]
    assert len(without) == 2
    assert all(int(re.sub(",", "", row[6])) > 0 for row in without)
