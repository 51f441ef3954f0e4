"""``safemodel detect --html --plot``: what is written, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safemodel._cli import main
from safemodel.detection import Detector
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import weights_like
from tests.unit.detector.helpers_detector import program
from tests.unit.helpers_page import Page
from tests.unit.helpers_png import decoded


def listed():
    """Return what lies in the current folder."""
    return sorted(one.name for one in Path.cwd().iterdir())


def contents():
    """Return every file below the current folder, with what is in it."""
    places = Path.cwd().rglob("*")
    return {one: one.read_bytes() if one.is_file() else b"" for one in places}


@pytest.fixture
def folder(tmp_path, monkeypatch, rand):
    """Return a folder with a model, one with a program in it, and other things."""
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    models.mkdir()
    weights = weights_like(rand, {"first": 20_000, "second": 30_000})
    torch.save(weights, models / "good.pt")
    stego.hide(weights, models / "bad.pt", program(6_000), stego.Lsb(bits=4))
    (models / "README.md").write_text("words")
    (models / "broken.pt").write_bytes(b"PK\x03\x04broken")
    return models


def test_a_page_and_a_picture_of_one_file(folder, capsys):
    """Both are written, what is printed stays what it is, and so does the code."""
    assert main(["detect", "models/bad.pt"]) == 1
    plain = capsys.readouterr().out
    assert main(["detect", "models/bad.pt", "--html", "a.html", "--plot", "a.png"]) == 1
    assert capsys.readouterr().out == plain
    page = Page(Path("a.html").read_text())
    assert page.title == "Detection report: models/bad.pt"
    assert "SUSPICIOUS: data seems to be hidden" in page.text
    assert page.tags.count("img") > 30
    assert decoded(Path("a.png").read_bytes()).pixels.any()
    assert listed() == ["a.html", "a.png", "models"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_page_of_a_folder_has_every_file(folder, capsys, jobs):
    """The suspicious one first, those that could not be looked at next."""
    args = ["detect", "models", "--json", "-j", jobs, "--html", "a.html"]
    assert main(args) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == 4
    text = " ".join(" ".join(Page(Path("a.html").read_text()).texts).split())
    assert "SUSPICIOUS: 1 of 4 files" in text
    order = [
        text.index(f"models/{name} {word}")
        for name, word in (
            ("bad.pt", "suspicious"), ("broken.pt", "refused"),
            ("good.pt", "no evidence"), ("README.md", "no model"),
        )
    ]  # fmt: skip
    assert order == sorted(order)
    assert text.count("Where to look") == 2 * 2


def test_a_file_that_is_refused_has_a_page_and_no_picture(folder, capsys):
    """A row that says why; a picture that was there stays."""
    Path("a.png").write_bytes(b"mine")
    assert main(["detect", "models/broken.pt", "--html", "a.html", "--plot", "a.png"])
    assert "refused" in Page(Path("a.html").read_text()).text
    assert Path("a.png").read_bytes() == b"mine"
    assert listed() == ["a.html", "a.png", "models"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "--plot", "a.png"], "--plot draws one model, not 4"),
        (["models/bad.pt", "--html", "models/bad.pt"], "would change"),
        (["models/bad.pt", "--plot", "models/bad.pt"], "would change"),
        (["models", "--html", "models/good.pt"], "would change"),
        (["models/bad.pt", "--html", "a", "--plot", "a"], "would change"),
        (["models/bad.pt", "--html", "link"], "replaces files only"),
        (["models/bad.pt", "--html", "hard"], "would change"),
        (["models/bad.pt", "--html", "gone/a.html"], "No such file"),
        (
            ["models/bad.pt", "--reference", "models/good.pt", "--html",
             "models/good.pt"],
            "would change",
        ),
        (["models/bad.pt", "--detector", "d", "--html", "d"], "would change d"),
    ],
)  # fmt: skip
def test_what_would_go_wrong_is_found_before_anything_is_looked_at(
    folder, capsys, arguments, said
):
    """Code 2, a line that says why, nothing printed, nothing changed."""
    Detector.bundled().save("d")
    Path("link").symlink_to("elsewhere")
    Path("hard").hardlink_to("models/bad.pt")
    before = contents()
    assert main(["detect", *arguments]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err
    assert contents() == before


def test_weights_that_are_gone_cost_the_pictures(folder, capsys, monkeypatch):
    """The page is written, and says why it has none."""
    from safemodel._detector import many

    detect_target = many.detect_target

    def gone_afterwards(target, how):
        found = detect_target(target, how)
        torch.save({"other": torch.zeros(3)}, target.path)
        return found

    monkeypatch.setattr(many, "detect_target", gone_afterwards)
    assert main(["detect", "models/bad.pt", "--html", "a.html"]) == 1
    page = Page(Path("a.html").read_text())
    assert "img" not in page.tags
    assert "There are no pictures: not the weights of this detection" in page.text


def test_escapes_of_a_name_are_marked_in_the_list(folder):
    """Whether or not the file could be looked at."""
    (folder / "good.pt").rename(folder / "go\u202eod.pt")
    (folder / "broken.pt").rename(folder / "bro\u202eken.pt")
    assert main(["detect", "models", "--html", "a.html"]) == 1
    text = Path("a.html").read_text()
    for head, tail in (("go", "od"), ("bro", "ken")):
        marked = f'models/{head}<span class="escape">\\u202e</span>{tail}.pt'
        assert marked in text.partition('id="files"')[2].partition("</table>")[0]


def test_the_suspicious_are_shown_in_full_however_late_they_come(folder, monkeypatch):
    """So many files in full: a suspicious one takes the place of another."""
    from safemodel._cli import detect_pages

    monkeypatch.setattr(detect_pages, "_IN_FULL", 1)
    args = ["detect", "models/good.pt", "models/bad.pt", "--html", "a.html"]
    assert main(args) == 1
    page = Page(Path("a.html").read_text())
    assert page.text.count("Where to look") == 2
    assert "SUSPICIOUS: data seems to be hidden" in page.text
    assert "NO EVIDENCE of hidden data" not in page.text
