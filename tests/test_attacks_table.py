"""docs/attacks.md: every technique, every vector, and what the vectors' headers say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.vectors.assemble import read_vector

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
VECTORS = {
    path.stem: read_vector(path)
    for path in sorted((ROOT / "tests" / "vectors").glob("*.vec"))
}
ROWS = {
    found[1]: found[2].split(" | ")
    for found in re.finditer(r"^\| ([A-Z][0-9]+) \| (.*) \|$", PAGE, re.MULTILINE)
}
MEASURED = {
    found[1]: found[2].split(" | ")
    for found in re.finditer(r"^\| \[(\w+)\]\([^)]+\) \| (.*) \|$", PAGE, re.MULTILINE)
}
LAST = {"C": 27, "V": 46, "T": 30, "S": 3, "N": 10, "A": 13, "I": 8}
IDS = [f"{layer}{number + 1}" for layer, last in LAST.items() for number in range(last)]
# A vector of each kind of answer, none of which takes long.
SAMPLE = ("c03_local_name_differs", "t06_two_dtypes_of_one_key", "v03_resolvers")


def shown(vector, *, opaque):
    """Return what a header says about a mode, as the page shows it."""
    name = vector.header["expect"]
    if opaque:
        name = vector.header.get(
            "opaque", "opens" if name == "ForbiddenGlobalError" else name
        )
    return "opens" if name == "opens" else f"`{name}`"


def of_attack(key):
    return [vector for vector in VECTORS.values() if key in vector.attacks]


def test_every_technique_has_one_row():
    """All 137 ids, in order, each once, each with all of its cells filled."""
    assert list(ROWS) == IDS
    assert len(IDS) == 137
    for key, cells in ROWS.items():
        assert len(cells) == 7, key
        assert all(cell.strip("? ") for cell in cells), key


def test_a_row_says_where_its_facts_come_from():
    """What others do is known from somewhere, or was tried."""
    for key, cells in ROWS.items():
        assert re.match(r"(known|tried): ", cells[1]), key


@pytest.mark.parametrize("key", IDS)
def test_a_row_is_what_its_vectors_say(key):
    """It names all of its vectors, and their outcomes in both modes; else why none."""
    *_, strict, opaque, names = ROWS[key]
    mine = of_attack(key)
    if not mine:
        assert names.startswith("no vector: ")
        return
    assert names == " ".join(f"`{vector.name}`" for vector in mine)
    for cell, mode in ((strict, False), (opaque, True)):
        stated = dict.fromkeys(shown(vector, opaque=mode) for vector in mine)
        assert cell == "; ".join(stated)


def test_a_reason_for_no_vector_names_tests_that_are_there():
    """Files named in place of a vector exist."""
    for key in IDS:
        if not of_attack(key):
            for path in re.findall(r"`(tests/[^`]+)`", ROWS[key][-1]):
                assert (ROOT / path).is_file(), key


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_has_its_own_row(name):
    """With its attacks, its outcomes, and what torch and picklescan answered."""
    vector = VECTORS[name]
    attacks, strict, opaque, torch_says, picklescan_says = MEASURED[name]
    assert attacks.split() == vector.attacks
    assert strict == shown(vector, opaque=False)
    assert opaque == shown(vector, opaque=True)
    assert re.match(r"opens|`\w+`|\*\*crash\*\*|no end|dies", torch_says)
    assert re.match(
        r"clean|suspicious|dangerous|error|fails: `\w+`|no end|dies", picklescan_says
    )


def test_no_row_is_about_a_vector_that_is_gone():
    """The second table has no row of its own."""
    assert MEASURED.keys() == VECTORS.keys()


def test_the_measured_columns_are_what_the_tool_measures():
    """A few vectors asked again: the same answers, where the versions are the same."""
    torch_there = version("torch").split("+")[0]
    picklescan_there = version("picklescan")
    if f"torch {torch_there} " not in PAGE or picklescan_there not in PAGE:
        pytest.skip("measured with other versions of torch and picklescan")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "attack_table.py"), *SAMPLE],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in answers] == list(SAMPLE)
    for name, *found in answers:
        assert MEASURED[name][-2:] == found


@pytest.mark.parametrize(
    "name", ["threat-model.md", "attacks.md", "disarm-results.md", "protect.md"]
)
def test_a_page_names_tests_and_vectors_that_are_there(name):
    """What a claim rests on exists."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    vectors = re.findall(r"`([cvtsnai][0-9]{2}_\w+)`", page)
    assert tests or vectors
    for path, test in tests:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {test}(" in text, f"{path}::{test}"
    assert set(vectors) <= VECTORS.keys()


def test_every_guarantee_names_what_shows_it():
    """Each numbered paragraph has a test or a vector, or speaks of every vector."""
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    guarantees = re.split(r"^[0-9]+\. ", page, flags=re.MULTILINE)[1:]
    assert len(guarantees) == 22
    for text in guarantees:
        assert re.search(r"`tests/[^`]+::\w+`|`[cvtsnai][0-9]{2}_\w+`", text), text
