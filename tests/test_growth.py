"""Work grows with the file and no faster: calls are counted, nothing is timed.

`make growth` times the same files, larger, and also sees what single calls cost.
"""

from __future__ import annotations

import pickle
import sys

import pytest
import torch

from benchmarks.growth import FAMILIES, load, scan
from safemodel import disarm
from tests.unit.disarm.helpers_disarm import saved

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


def deep(value, times):
    """Return a value within lists within each other."""
    for _ in range(times):
        value = [value]
    return value


# What disarming itself does: names, notes, sets, stretches of storages.
WRITTEN = {
    "tensors": lambda n: saved({str(at): torch.zeros(1) for at in range(n)}),
    "views of one": lambda n: saved(list(torch.zeros(n).unbind())),
    "views that overlap": lambda n: saved(list(torch.zeros(n + 5).unfold(0, 6, 1))),
    "one view again": lambda n: saved([torch.ones(5)[:1]] * n),
    "tensors far inside": lambda n: saved([deep(torch.ones(1), 50) for _ in range(n)]),
    "bytes": lambda n: pickle.dumps([at.to_bytes(3, "big") for at in range(n)]),
    "keys that read alike": lambda n: pickle.dumps(
        {key: 1 for at in range(n) for key in (at, str(at))}
    ),
    "a list again": lambda n: pickle.dumps([deep([1], 50)] * n),
    "a set": lambda n: pickle.dumps({str(at) for at in range(n)}),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("family", WRITTEN)
def test_twice_the_file_is_at_most_twice_the_writing(family, suffix, tmp_path):
    """Calls while a file is disarmed, from n to 2n to 4n."""

    def write(content):
        disarm(content, tmp_path / f"out{suffix}", overwrite=True, digests=False)

    files = [WRITTEN[family](100 * size) for size in (1, 2, 4)]
    write(files[0])
    first, second, third = (calls(write, content) for content in files)

    assert third - second <= 2.2 * max(second - first, 0) + SPARE


def test_work_that_grows_faster_would_be_seen():
    """The count tells a quadratic reader from a linear one."""

    def quadratic(content):
        for _ in content:
            for _ in content:
                len(content)

    first, second, third = (calls(quadratic, bytes(size)) for size in (50, 100, 200))
    assert third - second > 2.2 * (second - first) + SPARE
