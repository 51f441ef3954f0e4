"""docs/tamper-matrix.md: what the tool gives."""

from pathlib import Path

import pytest
import torch

from tools import tamper_matrix

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tamper-matrix.md"


def test_the_page_is_what_the_tool_gives():
    """Every change made again: the same errors, and the right tensors are named."""
    text = PAGE.read_text(encoding="utf-8")
    if f"torch {torch.__version__.split('+')[0]})" not in text:
        pytest.skip("written with another version of torch")
    assert tamper_matrix.page().splitlines() == text.splitlines()


def test_the_tool_names_a_wrong_name(monkeypatch):
    """And a change that is accepted: the page cannot say that all is well."""
    outcome = tamper_matrix.Outcome("VerificationError", "", names=False)
    with pytest.raises(AssertionError, match="wrong"):
        tamper_matrix.cell([outcome])
    monkeypatch.setattr(tamper_matrix, "verify", lambda *_, **__: None)
    with tamper_matrix.repeatable(1):
        seed = tamper_matrix.family("pt", confidential=False, big=False)
    with pytest.raises(AssertionError, match="accepted"):
        tamper_matrix.outcome(seed, seed.content)
