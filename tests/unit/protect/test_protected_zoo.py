"""Real model files, protected and back: no false alarm, no bit that is another."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
import safetensors
import torch

from safemodel import (
    SafeModelError,
    UnsupportedFormatError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel.policy import STRICT
from tests.differential.same import assert_same
from tests.unit.protect.helpers_anatomy import refusal_by_dissect
from tests.unit.protect.helpers_protect import KEY, OTHER


@pytest.fixture(autouse=True)
def _one_thread():
    """Let torch not take the processors that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_file_of_the_zoo_verifies_and_comes_back(zoo, tmp_path):
    """In one of the modes, opened elsewhere, rotated, restored; loaded with its key.

    What is refused, by `safe_load` or because it is no raw bytes, leaves nothing.
    """
    counts: Counter[str] = Counter()
    for path in sorted(zoo.joinpath("files").rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        # Every other one as bytes, and every other pair encrypted.
        given = path if counts["protected"] % 2 else data
        if refusal_by_dissect(data) is not None:
            counts[refused(given, tmp_path)] += 1
            continue
        check(path, given, tmp_path, confidential=counts["protected"] // 2 % 2 == 1)
        counts["protected"] += 1
    assert counts["protected"] > 90
    assert counts["refused by safe_load"] > 0
    assert counts["to be disarmed first"] < 5
    assert list(tmp_path.iterdir()) == []


def refused(given: Path | bytes, folder: Path) -> str:
    """Assert that a file is not protected; return why not."""
    with pytest.raises(SafeModelError) as caught:
        protect(given, folder / "p", key=KEY)
    assert list(folder.iterdir()) == []
    found = None
    try:
        safe_load(given, policy=STRICT)
    except SafeModelError as error:
        found = type(error)
    assert type(caught.value) is (found or UnsupportedFormatError)
    return "refused by safe_load" if found else "to be disarmed first"


def check(path: Path, given: Path | bytes, folder: Path, *, confidential: bool) -> None:
    """Assert that a file survives all verbs, stays small and loads as it did."""
    made, turned, back = (folder / name for name in ("made", "turned", "back"))
    data = path.read_bytes()
    report = protect(given, made, key=KEY, confidential=confidential)
    assert report.out_size == made.stat().st_size
    assert report.out_size <= 1.005 * len(data) + (64 << 10), path
    verify(made, key=KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = safe_load(path, policy=STRICT)
        assert_same(plain, safe_load(made, key=KEY, policy=STRICT))
        if report.format == "torch":
            torch.load(made, weights_only=True)
        else:
            with safetensors.safe_open(made, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    file.get_tensor(name)
    restore(made, back, key=KEY)
    assert back.read_bytes() == data, path
    rotate(made, turned, key=KEY, new_key=OTHER)
    restore(turned, back, key=OTHER, overwrite=True)
    assert back.read_bytes() == data, path
    for left in folder.iterdir():
        left.unlink()
