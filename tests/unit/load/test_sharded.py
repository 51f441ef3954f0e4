"""Sharded checkpoints: an index, and shards beside it that stay beside it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import save_file

import safemodel
from safemodel import safe_load
from tests.differential.pickles import assemble, instance
from tests.differential.same import assert_same

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "a.bias": torch.ones(2, dtype=torch.bfloat16),
    "b.weight": torch.arange(3),
}
SPLIT = {"a.weight": 1, "a.bias": 1, "b.weight": 2}


def write(folder, suffix="safetensors", names=None):
    """Write a checkpoint in two shards; return the path of its index."""
    weight_map = {}
    for number in (1, 2):
        part = {name: TENSORS[name] for name in TENSORS if SPLIT[name] == number}
        shard = f"model-0000{number}-of-00002.{suffix}"
        if suffix == "safetensors":
            save_file(part, folder / shard)
        else:
            torch.save(part, folder / shard)
        weight_map.update(dict.fromkeys(part, shard))
    index = folder / f"model.{suffix}.index.json"
    weight_map.update(names or {})
    content = {"metadata": {"total_size": 52}, "weight_map": weight_map}
    index.write_text(json.dumps(content))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("mmap", [False, True])
def test_all_shards_come_back_as_one_dictionary(suffix, mmap, tmp_path):
    """Of either format; mapped too."""
    got = safe_load(write(tmp_path, suffix), mmap=mmap)
    assert set(got) == set(TENSORS)
    assert_same(TENSORS, {name: got[name] for name in TENSORS})


def test_the_index_may_be_named_relative_to_the_working_folder(tmp_path, monkeypatch):
    """A bare file name is a path as well."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert set(safe_load("model.safetensors.index.json")) == set(TENSORS)


EVIL = [
    "../outside.bin",
    "..",
    "/etc/passwd",
    "sub/shard.bin",
    "sub\\shard.bin",
    "C:shard.bin",
    "~root",
    ".hidden",
    "a\0b",
    "a\nb",
    "",
    " ",
    "x" * 300,
    7,
    None,
    ["a"],
]


@pytest.mark.parametrize("name", EVIL, ids=repr)
def test_a_shard_outside_the_folder_is_refused(name, tmp_path):
    """Before anything is opened: the file is there, and is not read."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    torch.save({"x": torch.ones(1)}, tmp_path / "outside.bin")
    torch.save({"x": torch.ones(1)}, folder / "sub" / "shard.bin")
    with pytest.raises(safemodel.MalformedFileError):
        safe_load(write(folder, names={"x": name}))


def test_a_link_out_of_the_folder_is_the_folders_owners_business(tmp_path):
    """Hubs keep shards as links into a store; the name in the index is what counts."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    index = write(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    assert set(safe_load(index)) == set(TENSORS)


def test_a_missing_shard_is_named(tmp_path):
    """`record` is its name."""
    index = write(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(safemodel.MalformedFileError, match="missing") as caught:
        safe_load(index)
    assert caught.value.record == "model-00002-of-00002.safetensors"


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path):
    """Promised and not held, and held twice."""
    index = write(tmp_path, names={"c": "model-00001-of-00002.safetensors"})
    with pytest.raises(safemodel.MalformedFileError, match="lacks c"):
        safe_load(index)
    index = write(tmp_path)
    save_file(TENSORS, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(safemodel.MalformedFileError, match="in two shards"):
        safe_load(index)


def test_a_shard_is_checked_like_any_file(tmp_path):
    """Refused globals in it refuse the checkpoint."""
    index = write(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(assemble({"b.weight": instance("evil.Thing")}))
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safe_load(index)
    assert caught.value.module == "evil"
    got = safe_load(index, weights_only=False)
    assert got["b.weight"].qualified_name == "evil.Thing"


def test_a_shard_may_not_be_an_index(tmp_path):
    """An index that names itself, or another one, ends."""
    index = write(tmp_path)
    content = {"weight_map": {"x": index.name}}
    index.write_text(json.dumps(content))
    with pytest.raises(safemodel.UnsupportedFormatError) as caught:
        safe_load(index)
    assert caught.value.what.startswith("the index of a sharded checkpoint")


def test_an_index_without_a_folder_cannot_be_followed(tmp_path):
    """Bytes and file objects have no neighbours."""
    data = write(tmp_path).read_bytes()
    for given in (data, io.BytesIO(data)):
        with pytest.raises(safemodel.UnsupportedFormatError, match="by its path"):
            safe_load(given)
