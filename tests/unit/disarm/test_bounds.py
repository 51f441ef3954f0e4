"""What a small file makes disarm write, and that it is the same in every process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from safemodel import LimitExceededError, Limits, disarm
from tests.unit.disarm.helpers_disarm import saved

SUFFIXES = [".pt", ".safetensors", ".npz"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_views_without_end_do_not_become_tensors_without_end(tmp_path, suffix):
    """In a flat file each view is a tensor of its own; in a `.pt` they share."""
    storage = torch.zeros(1 << 18)
    views = {str(at): storage[at:] for at in range(100)}
    needed = sum(view.nbytes for view in views.values())

    with pytest.raises(LimitExceededError) as caught:
        disarm(saved(views), tmp_path / f"out{suffix}")
    assert caught.value.limit == "max_amplification"
    assert (caught.value.requested, caught.value.allowed) == (
        needed,
        (1 << 20) + (16 << 20),
    )
    assert not list(tmp_path.iterdir())

    disarm(saved(views), tmp_path / "out.pt")
    assert (tmp_path / "out.pt").stat().st_size < storage.nbytes + (1 << 17)
    few = dict(list(views.items())[:16])
    assert len(disarm(saved(few), tmp_path / f"few{suffix}").tensors) == 16


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_slices_with_a_step_are_bounded_in_every_format(tmp_path, suffix):
    """Each is written out by itself, in a `.pt` too."""
    storage = torch.zeros(1 << 18)
    slices = [storage[at::2] for at in range(100)]
    with pytest.raises(LimitExceededError):
        disarm(saved(slices), tmp_path / f"out{suffix}")
    disarm(saved(slices[:30]), tmp_path / f"few{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "array",
    [
        np.ndarray((10**7,), "S0"),
        np.ndarray((10**3, 10**4), "U0"),
    ],
    ids=["bytes", "text"],
)  # fmt: skip
def test_elements_of_no_bytes_cost_nothing(tmp_path, array, suffix):
    """Ten million empty texts are a dozen bytes of a file."""
    disarm(pickle.dumps(array), tmp_path / f"out{suffix}")
    assert (tmp_path / f"out{suffix}").stat().st_size < 4096


def alone(value: object) -> np.ndarray:
    """Return an array of objects without axes."""
    array = np.empty((), object)
    array[()] = value
    return array


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (alone({1, 2}), [[1, 2]]),
        (alone({"a": None}), [{"a": None}]),
        (alone(1 << 4000), [hex(1 << 4000)]),
        (np.array("x"), ["x"]),
        (alone(alone(None)), [[None]]),
    ],
    ids=["set", "dictionary", "large", "text", "array"],
)  # fmt: skip
def test_an_array_without_axes_is_a_list_of_one(tmp_path, value, expected, suffix):
    """Whatever kind of value it holds is written as that kind is."""
    path = tmp_path / f"out{suffix}"
    disarm(pickle.dumps({"a": value}), path)
    if suffix == ".pt":
        assert torch.load(path, weights_only=True) == {"a": expected}


def test_bytes_of_an_array_keep_their_zeros(tmp_path):
    """Numpy leaves off zeros at the end of each element."""
    array = np.array([b"a\0", b"bc"], "S3")
    disarm(pickle.dumps(array), tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (found["dtype"], found["shape"]) == ("|S3", [2])
    assert bytes(found["bytes"].tolist()) == b"a\0\0bc\0"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_become_no_more_tensors_than_there_may_be(tmp_path, suffix):
    """Three bytes of a pickle cost a kilobyte of memory as a tensor."""
    data = pickle.dumps([bytes([at, 1]) for at in range(9)] + [np.array([1])])
    limits = Limits(max_tensors=10)
    disarm(data, tmp_path / f"all{suffix}", limits=limits)
    with pytest.raises(LimitExceededError) as caught:
        disarm(data, tmp_path / f"out{suffix}", limits=Limits(max_tensors=9))
    assert (caught.value.limit, caught.value.requested) == ("max_tensors", 10)


_CHILD = """
import sys
padding = [object() for _ in range(int(sys.argv[1]))]
from safemodel import disarm
disarm(sys.argv[2], sys.argv[3], digests=False)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_comes_out_the_same_in_every_process(tmp_path, suffix):
    """Sets of texts, of sets, of tensors and of NaN are in one order."""
    ones = torch.ones(9)
    nan = float("nan")
    value = [
        set("abcdefgh"),
        {frozenset("ab"), frozenset("cd"), frozenset("ef"), frozenset()},
        {("a", frozenset("xy")), ("b", frozenset("zw")), (1, None)},
        {nan, 3.0, 1.0, 2.0, -1.0},
        {torch.full((2,), float(at)) for at in range(8)},
        {ones[at : at + 2] for at in range(8)},
        {frozenset("xyz"): 1, nan: 2},
    ]
    (tmp_path / "in.pt").write_bytes(saved(value))
    written = set()
    for seed in ("1", "22", "333"):
        path = tmp_path / f"{seed}{suffix}"
        subprocess.run(
            [sys.executable, "-c", _CHILD, seed, tmp_path / "in.pt", path],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        written.add(path.read_bytes())
    assert len(written) == 1
