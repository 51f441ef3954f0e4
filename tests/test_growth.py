"""Work grows with the file and no faster: calls are counted, nothing is timed.

`make growth` times the same files, larger, and also sees what single calls cost.
"""

from __future__ import annotations

import sys

import pytest

from benchmarks.growth import FAMILIES, load, scan

# Small enough to count in a moment; where a limit refuses early, both sides count.
SHARE = 80
# What a load does whatever the file holds, and what varies with tables that grow.
SPARE = 2_000


def calls(action, content):
    """Return how many functions are called, Python's and built-in ones."""
    count = 0

    def seen(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        action(content)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("action", [load, scan])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[1])
def test_twice_the_file_is_at_most_twice_the_work(family, action):
    """From 2n to 4n to 8n: the second step may take twice what the first took."""
    _, _, build, n = family
    files = [build(max(n // SHARE, 10) * size) for size in (2, 4, 8)]
    action(files[0])  # what is imported or compiled once is not counted
    first, second, third = (calls(action, content) for content in files)

    assert third - second <= 2.2 * max(second - first, 0) + SPARE


def test_work_that_grows_faster_would_be_seen():
    """The count tells a quadratic reader from a linear one."""

    def quadratic(content):
        for _ in content:
            for _ in content:
                len(content)

    first, second, third = (calls(quadratic, bytes(size)) for size in (50, 100, 200))
    assert third - second > 2.2 * (second - first) + SPARE
