"""The page of a report in a real browser: what it makes of it, and what it asks for."""

from __future__ import annotations

import pytest

from safemodel.reports import DisarmReport, KeptTensor
from tests.unit.disarm.helpers_report import HOSTILE, folder, hostile
from tests.unit.disarm.test_html_report import ATTRIBUTES, HARMLESS
from tests.unit.helpers_page import BROWSER, Page, browse, reaching, shades

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed to look at the page with"
)


def test_a_browser_finds_nothing_to_run_and_asks_for_nothing(tmp_path, asked):
    """The page it makes is the page that was written: same text, same elements."""
    address, paths = asked
    names = reaching(address)
    kept = tuple(KeptTensor(name=name, dtype=name, shape=()) for name in names)
    report = DisarmReport(**{**vars(hostile()), "tensors": kept, "path": names[0]})
    written = report.to_html()
    seen = Page(browse(tmp_path, written, "--dump-dom", "--virtual-time-budget=3000"))
    assert paths == []
    assert set(seen.tags) <= HARMLESS
    assert {name for _, name, _ in seen.attributes} <= ATTRIBUTES
    meant = Page(written)
    assert seen.title == meant.title == f"Disarm report: {names[0]}"
    assert seen.text == meant.text
    assert seen.tags == meant.tags
    assert all(name in seen.text for name in (*names, HOSTILE[0]))


def test_the_browser_would_have_asked(tmp_path, asked):
    """The trap works: the same names unescaped, without a policy, reach it and run."""
    address, paths = asked
    page = f"<title>x</title>{''.join(reaching(address)[:3])}"
    seen = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000")
    assert "/img" in paths
    assert Page(seen.split("<body>")[0]).title == "run"


def test_the_policy_alone_stops_what_would_run(tmp_path, asked):
    """Were something not escaped, nothing would be asked for and nothing would run."""
    address, paths = asked
    harm = "".join(reaching(address)[:3])
    page = folder().to_html().replace("<main>", f"<main>{harm}")
    seen = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000")
    assert paths == []
    assert "<title>Disarm report: hub</title>" in seen


def test_a_browser_draws_the_page(tmp_path):
    """A screenshot has something on it."""
    picture = tmp_path / "page.png"
    browse(tmp_path, folder().to_html(), f"--screenshot={picture}")
    assert shades(picture.read_bytes()) > 50


def test_an_empty_picture_is_seen_to_be_one(tmp_path):
    """The check of the screenshot can fail."""
    picture = tmp_path / "page.png"
    browse(tmp_path, "<!doctype html><title>x</title>", f"--screenshot={picture}")
    assert shades(picture.read_bytes()) < 5
