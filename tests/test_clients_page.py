"""docs/clients.md: the versions that are pinned, a verdict in each row, real recipes.

The clients themselves run in `make test-clients`, in an environment of their own.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.clients import COLUMNS, END, START, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
CASES = ROOT / "clients"
ISSUE = """transformers lightning accelerate stable-baselines3 torch_geometric
sentence-transformers peft skorch e3nn joblib scikit-learn pandas""".split()
ROW = {
    "client": "c",
    "version": "1.0",
    "what": "a case",
    "settings": "",
    "loaded": "the same",
    "twin": "refused",
    "without": "**runs it**",
    "note": "",
    "failed": "",
}


def plain(name: str) -> str:
    """Return the name of a distribution in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Return what is pinned: name and release."""
    lines = (ROOT / "tools" / "clients.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if not line.startswith("#")]
    return {plain(name): release for name, release in found}


def rows(page: str) -> list[list[str]]:
    """Return the cells of every row of the measured tables."""
    measured = page.partition(START)[2].partition(END)[0]
    lines = [line for line in measured.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != COLUMNS[0]]


def lacking(page: str) -> list[str]:
    """Return rows without a verdict, or with a case that did not hold."""
    return [
        row[0]
        for row in rows(page)
        if len(row) != len(COLUMNS)
        or not re.match(r"the same \(\d+ files?\)$|refused: ", row[2])
        or not re.match(r"refused|not run; ", row[3])
        or not re.match(r"\*\*runs it\*\*$|refuses itself", row[4])
    ]


def test_every_client_is_there_in_the_release_that_is_pinned():
    """Those that the page is about, and torch."""
    named = dict(re.findall(r"^### ([\w-]+) (\d[\w.]+)$", PAGE, flags=re.MULTILINE))
    assert {plain(name) for name in ISSUE} <= set(map(plain, named))
    for name, release in named.items():
        assert pins()[plain(name)] == release, name
    assert f"with torch {pins()['torch']} and" in PAGE


def test_every_row_has_its_verdicts():
    """And there are as many as there are cases, none left out."""
    assert lacking(PAGE) == []
    cases = sum(
        path.read_text(encoding="utf-8").count("@pytest.mark.case(")
        for path in CASES.glob("test_*.py")
    )
    assert len(rows(PAGE)) == cases > 30
    assert f"{cases} of {cases} cases" in PAGE


@pytest.mark.parametrize(
    "wrong",
    [{"loaded": ""}, {"twin": ""}, {"without": ""}, {"failed": "AssertionError"}],
)
def test_a_row_without_one_is_caught(wrong):
    """The check can fail, for each column and for a case that did."""
    row = {**ROW, "loaded": "the same (1 file)"}
    assert lacking(f"{START}\n{table([row], 1)}\n{END}") == []
    assert lacking(f"{START}\n{table([{**row, **wrong}], 1)}\n{END}") == ["a case"]


def test_the_recipes_that_are_shown_are_those_of_the_cases():
    """Word for word."""
    sources = "".join(path.read_text("utf-8") for path in CASES.glob("test_*.py"))
    shown = re.findall(r"^```py\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(shown) == 4
    for block in shown:
        ast.parse(block)
        assert block in sources


def test_no_case_is_left_without_its_twin():
    """Each test compares what it loads, or says why not, and opens a twin."""
    for path in CASES.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helpers = {one.name: ast.unparse(one) for one in tree.body
                   if isinstance(one, ast.FunctionDef)}  # fmt: skip
        for name, text in helpers.items():
            if name.startswith("test_"):
                whole = text + (helpers["round_trip"] if "round_trip(" in text else "")
                assert "case.refuses(" in whole, (path.name, name)
                assert "case.loads(" in whole or "case.loaded = " in whole, name
