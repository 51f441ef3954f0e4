"""Randomness of tests: new in each run, or the same until draws are asked for."""

import re
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
    import pytest

    @pytest.mark.parametrize("right", [True, False])
    def test_of_chance(draws, right):
        print("drawn", draws.random())
        assert right

    def test_of_whatever(rand):
        print("whatever", rand.random())
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """Return a project with two tests of chance and one of all seeds."""
    monkeypatch.delenv("SAFEMODEL_SEED", raising=False)
    pytester.makeconftest(CONFTEST.read_text("utf-8"))
    pytester.makepyfile(TESTS)
    return pytester


def printed(result, word):
    """Return the numbers that tests printed behind a word."""
    return set(re.findall(rf"{word} (\d\S*)", result.stdout.str()))


def test_draws_are_the_same_in_each_run_and_not_in_each_test(project):
    """What fails does not depend on the run; what is new in each does."""
    first, second = project.runpytest("-s"), project.runpytest("-s")
    assert len(printed(first, "drawn")) == 2
    assert printed(first, "drawn") == printed(second, "drawn")
    assert printed(first, "whatever") != printed(second, "whatever")


def test_new_draws_are_counted(project):
    """Each test of chance so often, no other test, and how many failed of which."""
    result = project.runpytest("-s", "--draws", "3")
    result.assert_outcomes(passed=3, failed=3)
    assert len(printed(result, "drawn")) == 3
    assert not printed(result, "whatever")
    result.stdout.fnmatch_lines(["*failed, of 3 draws each*", "3 *of_chance*False*",
                                 "3 in all"])  # fmt: skip


def test_a_seed_is_repeated(project, monkeypatch):
    """The one that a failure names, whatever the test."""
    monkeypatch.setenv("SAFEMODEL_SEED", "7")
    result = project.runpytest("-s")
    assert len(printed(result, "drawn")) == 1
    assert printed(result, "drawn") == printed(result, "whatever")
    result.stdout.fnmatch_lines(["rerun with SAFEMODEL_SEED=7"])
