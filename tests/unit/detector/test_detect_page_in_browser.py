"""The page of a detection in a real browser: what it draws, and what it asks for."""

from __future__ import annotations

import re

import pytest

from safemodel._report.png import data_uri, png
from tests.unit.detector.helpers_detect_page import hostile, mapping, suspicious
from tests.unit.detector.test_detect_page import MEMBERS, TAGS
from tests.unit.helpers_page import BROWSER, Page, browse, reaching, shades

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed to look at the page with"
)


def test_a_browser_finds_nothing_to_run_and_asks_for_nothing(tmp_path, asked):
    """The page it makes is the page that was written: same text, same elements."""
    address, paths = asked
    names = (*reaching(address), *reaching(address)[:1])
    weights, found = hostile(names[:7])
    written = found.to_html(weights)
    seen = Page(browse(tmp_path, written, "--dump-dom", "--virtual-time-budget=3000"))
    assert paths == []
    assert set(seen.tags) <= TAGS
    assert {name for _, name, _ in seen.attributes} <= MEMBERS
    meant = Page(written)
    assert seen.title == meant.title == f"Detection report: {names[0]}"
    assert seen.text == meant.text
    assert seen.tags == meant.tags


def test_the_policy_alone_stops_what_would_run(tmp_path, asked):
    """Were something not escaped, nothing would be asked for and nothing would run."""
    address, paths = asked
    harm = "".join(reaching(address)[:3])
    written = suspicious(mapping(["w"])).to_html()
    page = written.replace("<main>", f"<main>{harm}")
    seen = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000")
    assert paths == []
    assert "<title>Detection report: no path</title>" in seen
    # The same page without a policy reaches the address: the trap works.
    open_page = page.replace('http-equiv="Content-Security-Policy"', 'name="none"')
    seen = browse(tmp_path, open_page, "--dump-dom", "--virtual-time-budget=3000")
    assert "/img" in paths
    assert "<title>run</title>" in seen


def test_a_browser_draws_the_pictures(tmp_path):
    """They are noise, which packs badly; a gray pixel in the place of each does not."""
    weights = mapping(["w"], size=20_000)
    text = suspicious(weights).to_html(weights)
    gray = data_uri(png(b"\x80", 1))
    flat = re.sub(r'src="data:[^"]*"', f'src="{gray}"', text)
    sizes = []
    for at, page in enumerate((text, flat)):
        seen = tmp_path / f"{at}.png"
        browse(tmp_path, page, f"--screenshot={seen}", "--window-size=1000,2600")
        assert shades(seen.read_bytes()) > 50
        sizes.append(len(seen.read_bytes()))
    assert sizes[0] > 1.5 * sizes[1]
