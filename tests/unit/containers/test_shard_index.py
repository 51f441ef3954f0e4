"""The index of a sharded checkpoint never leads out of its folder."""

from __future__ import annotations

import json

import pytest

from safemodel._containers.shard_index import read_shard_index
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import DEFAULT_LIMITS, Limits


def read(weight_map: object, limits: Limits = DEFAULT_LIMITS):
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    return read_shard_index(text.encode(), limits=limits)


def test_tensors_are_listed_by_shard():
    """Shards in order of mention, tensors in the order of the index."""
    index = read({"a": "m-1.safetensors", "b": "m-2.bin", "c": "m-1.safetensors"})
    assert list(index.items()) == [("m-1.safetensors", ("a", "c")), ("m-2.bin", ("b",))]


@pytest.mark.parametrize(
    "shard",
    [
        "../m", "..", ".", "", ".hidden", "/m", "d/m", "d\\m", "C:m", "m\0", "m\n",
        "~m", "\ud800", "m" * 256, "a:b",
    ],
)  # fmt: skip
def test_a_shard_is_the_bare_name_of_a_file(shard):
    """Separators, drives, parents, hidden and overlong names are refused."""
    assert read({"a": "m" * 255})
    with pytest.raises(MalformedFileError):
        read({"a": shard})


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"",
        b"{",
        b'{"weight_map":[]}',
        b'{"weight_map":{"a":1}}',
        b'{"weight_map":{"a":"m","a":"n"}}',
        b'{"weight_map":{"a":"m"},"weight_map":{"a":"n"}}',
        b'{"weight_map":{"a":"m","b":"M"}}',
        b'{"weight_map":{"a":"m"},"x":' + b"[" * 20 + b"]" * 20 + b"}",
    ],
)
def test_other_json_is_malformed(data):
    """Wrong kinds, duplicates and deep nesting are refused."""
    with pytest.raises(MalformedFileError):
        read_shard_index(data, limits=DEFAULT_LIMITS)


def test_limits_are_exact():
    """Tensors and bytes: as many as allowed, and one more."""
    text = b'{"weight_map":{"a":"m","b":"m"}}'
    for name, most in (("max_tensors", 2), ("max_header_bytes", len(text))):
        assert read_shard_index(text, limits=Limits(**{name: most}))
        with pytest.raises(LimitExceededError) as caught:
            read_shard_index(text, limits=Limits(**{name: most - 1}))
        assert (caught.value.limit, caught.value.requested) == (name, most)
