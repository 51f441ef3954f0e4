"""Real model files, taken apart and read again."""

from __future__ import annotations

import warnings
from collections import Counter

from safemodel import safe_load
from safemodel.errors import UnsupportedFormatError
from safemodel.policy import STRICT
from tests.differential.same import assert_same
from tests.unit.protect.helpers_anatomy import (
    anatomy_of,
    loaded,
    put_together,
    refusal_by_dissect,
    refusal_by_load,
    skeleton_of,
)


def test_every_file_of_the_zoo(zoo):
    """It is refused as `safe_load` refuses it, or comes back byte for byte."""
    counts: Counter[str] = Counter()
    for path in sorted(zoo.joinpath("files").rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        error, ours = refusal_by_load(data), refusal_by_dissect(data)
        if error is not None:
            assert (type(ours), str(ours)) == (type(error), str(error)), path
            counts["refused by safe_load"] += 1
        elif ours is not None:
            assert type(ours) is UnsupportedFormatError, path
            assert "safemodel disarm" in str(ours), path
            counts["to be disarmed first"] += 1
        else:
            check(data)
            counts["taken apart"] += 1
    assert counts["taken apart"] > 90
    assert counts["to be disarmed first"] < 5


def check(data: bytes) -> None:
    """Assert that a file comes back, from a skeleton that is small enough."""
    source = put_together(data)
    assert source.read(0, source.size) == data
    assert len(skeleton_of(data)) < 0.005 * len(data) + 65_536
    assert anatomy_of(data).size == len(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(safe_load(data, policy=STRICT), loaded(source))
