"""The page of the published detector says what the rows of its detectors say."""

import csv
from pathlib import Path

import pytest
import xray_page

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "training" / "xray_detectors.csv"


def test_the_page_is_written_from_the_rows():
    """Nobody edited it, and no row has changed since."""
    written = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")

    assert xray_page.page(ROWS) == written


def test_a_changed_row_changes_the_page(tmp_path):
    """The check can fail."""
    with ROWS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[0]["clean_right"] = "0.01"
    changed = tmp_path / "rows.csv"
    with changed.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    written = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")

    assert xray_page.page(changed) != written


def test_the_weighted_metric_is_the_published_one():
    """Low X weigh most, and all that is right is 1."""
    right = {f"recall_{x}": "1" for x in range(1, 24)} | {"clean_right": "1"}
    blind = right | dict.fromkeys(("recall_1", "recall_2", "recall_3"), "0")

    assert xray_page.weighted(right) == pytest.approx(1)
    assert xray_page.weighted(blind) == pytest.approx(1 - 66 / 552)
