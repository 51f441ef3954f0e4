"""The page of a detection: complete, bounded, and deaf to whatever names say."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from safemodel import detect
from safemodel._detector.results import Detection, TensorDetection
from safemodel._report.detect_html import page_of
from safemodel._report.plot import PAPER, RED, WIDTH
from tests.unit.detector.helpers_detect_page import (
    hostile,
    looked_at,
    mapping,
    suspicious,
)
from tests.unit.disarm.helpers_report import HOSTILE
from tests.unit.disarm.test_html_report import ATTRIBUTES, HARMLESS, visible
from tests.unit.helpers_page import Page
from tests.unit.helpers_png import decoded

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'"
)
TAGS = HARMLESS | {"img", "figure", "figcaption", "b", "i", "h4"}
MEMBERS = ATTRIBUTES | {"src", "alt", "style", "aria-hidden"}
PLACE = re.compile(r"(?:(?:left|top|width|height):\d{1,3}\.\d{3}%;?){1,2}")
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/]+=*)")
MOST = 3 << 20


def images(page):
    """Return all pictures of a page, read by hand."""
    found = [PICTURE.fullmatch(source) for source in page.of("src")]
    assert all(found)
    return [decoded(base64.b64decode(one[1], validate=True)) for one in found]


@pytest.fixture(scope="module")
def clean():
    """Return a mapping without anything in it, and what was found."""
    weights = mapping(["first", "second"])
    return weights, detect(weights)


def test_a_page_runs_nothing_and_asks_for_nothing(clean):
    """Only tags and attributes that do nothing; pictures are within the page."""
    for weights, found in (hostile(), clean):
        text = found.to_html(weights)
        page = Page(text)
        assert set(page.tags) <= TAGS
        assert {name for _, name, _ in page.attributes} <= MEMBERS
        assert text.index(POLICY) < text.index("<title>") < text.index("<style>")
        assert all(re.fullmatch(r"#[a-z0-9-]+", target) for target in page.of("href"))
        assert all(PLACE.fullmatch(style) for style in page.of("style"))
        assert not re.search(r"url\(|@import|expression", text.split("</style>")[0])
        assert len(images(page)) == page.tags.count("img") > 30
        ids = page.of("id")
        assert len(set(ids)) == len(ids)
        assert {target[1:] for target in page.of("href")} <= set(ids)


def test_every_picture_says_what_it_shows(clean):
    """There is a text for each, and it names the tensor."""
    page = Page(clean[1].to_html(clean[0]))
    says = page.of("alt")
    assert len(says) == page.tags.count("img")
    assert all("first" in one or "second" in one for one in says)


def test_hostile_names_are_text():
    """In every place: as they are, and what cannot be seen as an escape."""
    weights, found = hostile()
    text = found.to_html(weights)
    page = Page(text)
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "\u3164" not in text
    assert "\u0335" not in text
    assert page.title == f"Detection report: {visible(found.path)}"
    # Of tensors, candidates, tests, formats, rooms, remedies and pictures.
    for name in HOSTILE:
        assert page.text.count(visible(name)) >= 5, name
    assert text.count("<bdi>") == text.count("</bdi>") > 50


def test_the_verdict_comes_first(clean):
    """In plain words, and nothing is ever called clean."""
    weights, found = clean
    text = Page(found.to_html(weights)).text
    assert text.index("NO EVIDENCE of hidden data") < text.index("Blind spot")
    assert "That is no proof that nothing is hidden" in text
    assert "up to" in text
    assert found.blind_spot.command in text
    said = Page(suspicious(weights).to_html()).text
    assert said.index("SUSPICIOUS: data seems to be hidden") < said.index(
        "Evidence (2)"
    )
    for words in (text, said):
        assert not re.search(r"\b(is|are) clean\b|\bsafe\b(?!model)", words)


def test_evidence_is_a_row_a_place(clean):
    """Tensor, range, statistic, corrected p-value, bits; and a mark at that place."""
    weights, _ = clean
    text = suspicious(weights).to_html(weights)
    page = Page(text)
    row = "first 300 to 600 something (bits) 3 12.5 1e-09"
    assert row in " ".join(" ".join(page.texts).split())
    marks = re.findall(r'<span style="left:([\d.]+)%;width:([\d.]+)%">', text)
    # 900 weights are 450 columns of two.
    assert marks == [("33.333", "33.333")] * 2
    assert text.count('class="marked"') == 2 * 3
    assert page.text.count("evidence from 300 to 600") == 2


def test_without_the_weights_there_are_no_pictures(clean):
    """The page says what it says, and has none."""
    page = Page(clean[1].to_html())
    assert "img" not in page.tags
    assert "Blind spot" in page.text


def test_the_page_of_thousands_of_tensors_is_bounded():
    """All of them suspicious or none: a few MiB, and how many more there are."""
    names = [f"layers.{at}.{'x' * 200}" for at in range(5_000)]
    weights = mapping(names, size=80)
    clean = looked_at(weights)
    for found in (clean, suspicious(weights)):
        text = found.to_html(weights)
        assert len(text) < MOST
        page = Page(text)
        assert "and 4,880 more" in page.text
        assert len(images(page)) < 800
        assert len(found.to_png(weights)) < MOST // 8


def test_the_widest_tensors_are_bounded():
    """Noise of 64 bits cannot be packed: the page of a dozen tensors is a few MiB."""
    random = np.random.default_rng(3)
    weights = {
        f"w{at}": random.integers(0, 1 << 63, 40_000, dtype=np.int64)
        for at in range(15)
    }
    assert len(suspicious(weights).to_html(weights)) < MOST


def test_many_files_are_one_page(clean):
    """A row each, headings of their own, and so many in full."""
    from safemodel._detector.pictures import pictures
    from safemodel._report.detect_html import section

    weights, found = clean
    worse = suspicious(weights)
    drawn = pictures(worse, weights)
    rows = [
        ("bad.pt", "suspicious", "because", "9 bytes"),
        ("broken.pt", "refused", "truncated", ""),
        *[(f"{at}.pt", "no evidence", "", "9 bytes") for at in range(700)],
    ]
    page = Page(page_of(rows, [section(worse, drawn), section(found)], len(rows)))
    assert page.title == "Detection report: 702 files"
    assert "SUSPICIOUS: 1 of 702 files" in page.text
    assert "and 202 more; the JSON report has all" in page.text
    ids = page.of("id")
    assert len(set(ids)) == len(ids)
    assert {target[1:] for target in page.of("href")} <= set(ids)
    plain = Page(page_of(rows[1:], [], 701))
    assert "NO EVIDENCE of hidden data in 701 files" in plain.text


def test_the_picture_has_what_is_there(clean):
    """Red where there is evidence, none where there is none."""
    weights, found = clean
    quiet = decoded(found.to_png(weights))
    assert quiet.pixels.shape[1] == WIDTH
    assert quiet.palette[PAPER].tolist() == [255, 255, 255]
    assert not (quiet.pixels == RED).any()
    assert len(set(quiet.pixels.reshape(-1).tolist())) > 10
    loud = decoded(suspicious(weights).to_png(weights))
    bars = [row for row in loud.pixels if (row == RED).sum() > 300]
    # The last bar, below a map as wide as the picture: from a third to two thirds.
    red = np.flatnonzero(bars[-1] == RED)
    inner = WIDTH - 48
    assert abs(red[0] - 24 - inner / 3) < 3
    assert abs(red[-1] - 24 - 2 * inner / 3) < 3


def test_hostile_names_do_not_reach_the_picture():
    """It is drawn, whatever they are."""
    weights, found = hostile()
    assert decoded(found.to_png(weights)).pixels.shape[1] == WIDTH


def test_pictures_are_no_part_of_the_value(clean):
    """The JSON form is what it was, and comes back equal."""
    weights, found = clean
    before = found.to_json()
    found.to_html(weights)
    assert found.to_json() == before
    assert Detection.from_dict(found.to_dict()) == found


def test_names_of_tensors_are_cut():
    """A name as long as a file costs a line."""
    weights = mapping(["first"])
    found = detect(weights)
    (one,) = found.by_tensor
    long = TensorDetection(**{**vars(one), "name": "n" * 100_000})
    page = Detection(**{**vars(found), "by_tensor": (long,)}).to_html()
    assert len(page) < 40_000
