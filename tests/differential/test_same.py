"""`assert_same` notices everything that it says it compares."""

from __future__ import annotations

import argparse
import collections
import struct
import warnings

import numpy as np
import pytest
import torch

from safemodel import Opaque
from tests.differential.same import DifferenceError, assert_same

NAN = struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\x7f")[0]


def shared_pair():
    base = torch.zeros(4)
    return [base[:2], base[2:]]


def metadata(value):
    made = collections.OrderedDict()
    made._metadata = value
    return made


def flagged(array):
    array.flags.writeable = False
    return array


def cycle():
    value: list[object] = []
    value.append(value)
    return value


def twice(value):
    return [value, value]


def quantized(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants to be rid of them
        return torch.quantize_per_tensor(torch.zeros(1), scale, 0, torch.qint8)


PAIRS = {
    "type of scalar": (1, True),
    "type of text": ("a", np.str_("a")),
    "type of dictionary": ({}, collections.OrderedDict()),
    "order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "key type": ({1: 0}, {True: 0}),
    "length": ([1], [1, 2]),
    "sign of zero": (0.0, -0.0),
    "nan payload": (float("nan"), NAN),
    "complex": (complex(0, 0.0), complex(0, -0.0)),
    "float array nan": (np.array([float("nan")]), np.array([NAN])),
    "tensor nan": (
        torch.tensor([float("nan")], dtype=torch.float64),
        torch.tensor([NAN], dtype=torch.float64),
    ),
    "scalar dtype": (np.float32(1), np.float64(1)),
    "byte order": (np.array([1], "<i4"), np.array([1], ">i4")),
    "array order": (np.zeros((2, 2)), np.zeros((2, 2), order="F")),
    "array writeable": (np.zeros(2), flagged(np.zeros(2))),
    "object array": (np.array([1, None]), np.array([True, None])),
    "tensor dtype": (torch.zeros(1), torch.zeros(1, dtype=torch.float64)),
    "tensor stride": (torch.zeros(2, 2), torch.zeros(2, 2).t()),
    "tensor offset": (torch.zeros(4)[:2], torch.zeros(4)[2:]),
    "tensor storage size": (torch.zeros(4)[:2], torch.zeros(2)),
    "storage beyond the view": (
        torch.tensor([1.0, 2.0])[:1],
        torch.tensor([1.0, 3.0])[:1],
    ),
    "requires_grad": (torch.zeros(1), torch.zeros(1, requires_grad=True)),
    "parameter": (
        torch.zeros(1, requires_grad=True),
        torch.nn.Parameter(torch.zeros(1)),
    ),
    "conjugate": (
        torch.zeros(1, dtype=torch.complex64),
        torch.zeros(1, dtype=torch.complex64).conj(),
    ),
    "shared storage": (shared_pair(), [torch.zeros(4)[:2], torch.zeros(4)[2:]]),
    "unshared storage": ([torch.zeros(4)[:2], torch.zeros(4)[2:]], shared_pair()),
    "shared list": (twice([]), [[], []]),
    "unshared tensor": ([torch.zeros(1), torch.zeros(1)], twice(torch.zeros(1))),
    "metadata": (metadata({"v": 1}), metadata({"v": 2})),
    "metadata missing": (metadata({"v": 1}), collections.OrderedDict()),
    "factory": (collections.defaultdict(int), collections.defaultdict(list)),
    "maxlen": (collections.deque(maxlen=3), collections.deque(maxlen=4)),
    "set": ({1}, {True}),
    "namespace": (argparse.Namespace(a=1), argparse.Namespace(a=2)),
    "layout": (torch.zeros(2, 2), torch.zeros(2, 2).to_sparse()),
    "coalesced": (
        torch.ones(2).to_sparse(),
        torch.sparse_coo_tensor([[0, 1]], [1.0, 1.0], (2,), check_invariants=True),
    ),
    "typed storage": (
        torch.zeros(1).untyped_storage(),
        torch.storage.TypedStorage(
            wrap_storage=torch.zeros(1).untyped_storage(),
            dtype=torch.float32,
            _internal=True,
        ),
    ),
    "scale": (
        quantized(0.5),
        quantized(0.25),
    ),
    "device": (torch.zeros(1), torch.zeros(1, device="meta")),
    "opaque name": (Opaque("a.B"), Opaque("a.C")),
    "opaque state": (Opaque("a.B", state={"a": 1}), Opaque("a.B", state={"a": True})),
    "size": (torch.Size([1]), (1,)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_difference_is_noticed(name):
    """Each pair differs in one respect only."""
    expected, actual = PAIRS[name]
    with pytest.raises(DifferenceError):
        assert_same(expected, actual)


@pytest.mark.parametrize("name", PAIRS)
def test_a_value_is_the_same_as_itself(name):
    """Neither side of a pair differs from itself."""
    for value in PAIRS[name]:
        assert_same(value, value)


def test_depth_and_cycles_are_no_matter():
    """Results deeper than Python's stack, and those that hold themselves."""
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert_same(deep, deep)
    assert_same(cycle(), cycle())
