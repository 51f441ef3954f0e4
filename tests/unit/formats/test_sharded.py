"""An index and its shards: each promise kept, by one file, in one folder."""

from __future__ import annotations

import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import pytest

from safemodel.errors import (
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import Limits


def plain(value: object) -> bytes:
    """Return a pickle of plain data."""
    return pickle.dumps(value, protocol=2)


def write(folder, weight_map: dict[str, str], **shards: bytes) -> str:
    """Write an index and shards, whose names end in .bin; return the index's path."""
    for name, content in shards.items():
        (folder / f"{name}.bin").write_bytes(content)
    index = folder / "model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(index)


def malformed(read, path: str, record: str) -> str:
    """Return why a checkpoint is malformed; the error names the shard."""
    with pytest.raises(MalformedFileError) as caught:
        read(path)
    assert type(caught.value) is MalformedFileError
    assert caught.value.record == record
    return caught.value.reason


def test_all_shards_make_one_dictionary(read, tmp_path):
    """Whatever a shard is, and with what it holds besides."""
    ordered = pickle.dumps(OrderedDict(b=2, extra=3), protocol=2)
    path = write(tmp_path, {"a": "x.bin", "b": "y.bin"}, x=plain({"a": 1}), y=ordered)
    assert read(path).root == {"a": 1, "b": 2, "extra": 3}


def test_a_missing_shard_is_named(read, tmp_path):
    """A folder of that name is none either."""
    path = write(tmp_path, {"a": "x.bin", "b": "gone.bin"}, x=plain({"a": 1}))
    assert malformed(read, path, "gone.bin") == "the shard is missing"
    (tmp_path / "gone.bin").mkdir()
    assert malformed(read, path, "gone.bin") == "the shard is missing"


def test_a_tensor_that_the_index_promises_is_in_its_shard(read, tmp_path):
    """Not in another one."""
    path = write(
        tmp_path, {"a": "x.bin", "b": "x.bin", "c": "y.bin"},
        x=plain({"a": 1}), y=plain({"b": 2, "c": 3}),
    )  # fmt: skip
    assert malformed(read, path, "x.bin") == "the shard lacks b"


def test_a_tensor_is_in_one_shard_only(read, tmp_path):
    """Whether the index promises it or not: which of the two counts?"""
    twice = plain({"b": 2, "a": 3})
    path = write(tmp_path, {"a": "x.bin", "b": "y.bin"}, x=plain({"a": 1}), y=twice)
    assert malformed(read, path, "y.bin") == "a is in two shards"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1], "the shard is not a mapping of tensors"),
        ("a", "the shard is not a mapping of tensors"),
        ({"a": 1, 2: 3}, "the shard has names that are not text"),
        (OrderedDict({"a": 1, None: 3}), "the shard has names that are not text"),
    ],
)
def test_a_shard_is_a_mapping_of_names(read, tmp_path, content, reason):
    """Of any kind of mapping that a state dict can be."""
    path = write(tmp_path, {"a": "x.bin"}, x=plain(content))
    assert malformed(read, path, "x.bin") == reason


def test_names_refused_in_any_shard_are_in_one_error(read, tmp_path):
    """With the shard that names them; a shard that is malformed comes second."""
    bad = b"\x80\x02}X\x01\x00\x00\x00%scos\n%s\ns."
    path = write(
        tmp_path, {"a": "x.bin", "b": "y.bin"},
        x=bad % (b"a", b"system"), y=bad % (b"b", b"popen"),
    )  # fmt: skip
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(path)
    assert caught.value.globals == (
        ("os", "system", "x.bin/", 9),
        ("os", "popen", "y.bin/", 9),
    )

    (tmp_path / "y.bin").write_bytes(b"\x80\x02a.")
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(path)
    assert caught.value.globals == (("os", "system", "x.bin/", 9),)
    assert type(caught.value.__cause__) is MalformedFileError


def test_an_index_is_no_shard(read, tmp_path):
    """It could name every file beside it again, which name each other."""
    path = write(tmp_path, {"a": "model.bin.index.json"})
    with pytest.raises(UnsupportedFormatError) as caught:
        read(path)
    assert caught.value.what.startswith("the index of a sharded checkpoint")


def test_an_index_that_is_no_file_has_no_folder(read, tmp_path):
    """Its shards would be looked for in the working folder."""
    path = write(tmp_path, {"a": "x.bin"}, x=plain({"a": 1}))
    with pytest.raises(UnsupportedFormatError):
        read(Path(path).read_bytes())


def test_what_shards_may_ask_for_is_compared_with_all_their_bytes(read, tmp_path):
    """The index alone is a few bytes."""
    size = 1000
    name = struct.pack("<I", size) + b"n" * size
    asks = b"\x80\x02}X\x01\x00\x00\x00%scpathlib\nPath\nX" + name + b"\x85Rs."
    path = write(
        tmp_path, {"a": "x.bin", "b": "y.bin"}, x=asks % b"a", y=asks % b"b"
    )  # fmt: skip
    asked, files = 2 * size + 2 * len("pathlibPath"), 0
    for file in tmp_path.iterdir():
        files += file.stat().st_size

    exact = asked / files
    enough = Limits(min_amplified_bytes=1, max_amplification=exact * 1.001)
    assert set(read(path, limits=enough).root) == {"a", "b"}
    few = Limits(min_amplified_bytes=1, max_amplification=exact * 0.99)
    with pytest.raises(LimitExceededError) as caught:
        read(path, limits=few)
    assert caught.value.limit == "max_amplification"
