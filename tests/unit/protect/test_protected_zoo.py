"""Real model files, protected and back: no false alarm, no bit that is another."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
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
from tests.unit.protect.helpers_protect import KEY, OTHER


@pytest.fixture(autouse=True)
def _one_thread():
    """Let torch not take the processors that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_file_of_the_zoo_verifies_and_comes_back(zoo, tmp_path):
    """In one of the modes, rotated, restored; loaded with its key as without ours."""
    counts: Counter[str] = Counter()
    for number, path in enumerate(sorted(zoo.joinpath("files").rglob("*"))):
        if not path.is_file():
            continue
        try:
            plain = safe_load(path, policy=STRICT)
        except SafeModelError:
            counts["refused by safe_load"] += 1
            continue
        files = [tmp_path / name for name in "abc"]
        try:
            made = protect(path, files[0], key=KEY, confidential=number % 2 == 1)
        except UnsupportedFormatError:
            counts["to be disarmed first"] += 1
            continue
        size = path.stat().st_size
        assert made.out_size <= 1.005 * size + (64 << 10), path
        verify(files[0], key=KEY)
        rotate(files[0], files[1], key=KEY, new_key=OTHER)
        restore(files[1], files[2], key=OTHER)
        assert files[2].read_bytes() == path.read_bytes(), path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_same(plain, safe_load(files[0], key=KEY, policy=STRICT))
            if made.format == "torch":
                torch.load(files[0], weights_only=True)
        for file in files:
            file.unlink()
        counts["protected"] += 1
    assert counts["protected"] > 90
    assert counts["to be disarmed first"] < 5
    assert list(tmp_path.iterdir()) == []
