"""Folders of shards: protected, verified, restored, rotated, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safemodel import (
    KeyRequiredError,
    LimitExceededError,
    Limits,
    MalformedFileError,
    SafeModelError,
    UnsafeFileError,
    UnsupportedFormatError,
    VerificationError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._protect.folder_seal import FolderContents, decode_folder
from safemodel._protect.manifest import Manifest
from safemodel._protect.seal import seal
from safemodel._protect.tags import Tagger
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.protect.helpers_protect import (
    FILE_ID,
    KEY,
    OTHER,
    PUBLIC,
    SIGNER,
    holds_secret,
)
from tests.unit.protect.helpers_protection import flipped, stored_spans

SHARDS = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


def hub(folder: Path) -> Path:
    """Fill a folder in the layout of a model hub."""
    folder.mkdir()
    weights = {}
    for number, shard in enumerate(SHARDS):
        tensors = {f"layer.{number}.weight": torch.randn(40, 30) + number}
        safetensors.torch.save_file(tensors, folder / shard)
        weights |= dict.fromkeys(tensors, shard)
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"hidden": 30}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("words")
    (folder / ".gitattributes").write_text("*.safetensors lfs")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path within."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a protected folder, beside the plain one, "plain"."""
    protect(hub(tmp_path / "plain"), tmp_path / "made", key=KEY, signer=SIGNER)
    return tmp_path / "made"


def refused(folder: Path, **how: object) -> SafeModelError:
    """Return the error of a changed folder, with the key and by the signature."""
    with pytest.raises(SafeModelError) as caught:
        verify(folder, **{"key": KEY, **how})
    with pytest.raises(SafeModelError):
        verify(folder, public_key=PUBLIC)
    with pytest.raises(SafeModelError):
        restore(folder, folder.parent / "out", key=KEY)
    assert not (folder.parent / "out").exists()
    assert not holds_secret(str(caught.value))
    return caught.value


@pytest.mark.parametrize("confidential", [False, True])
def test_a_folder_comes_back_file_for_file(tmp_path, confidential):
    """Hidden files and those in folders, too; only shards and a seal are out there."""
    plain = hub(tmp_path / "plain")
    made, turned, back = (tmp_path / name for name in ("made", "turned", "back"))

    first = protect(plain, made, key=KEY, confidential=confidential)
    seen = verify(made, key=KEY)
    second = rotate(made, turned, key=KEY, new_key=OTHER)
    third = restore(turned, back, key=OTHER)

    assert sorted(files_of(made)) == [*SHARDS, "safemodel.seal"]
    assert files_of(back) == files_of(plain)
    reports = (first, seen, second, third)
    assert {report.format for report in reports} == {"folder"}
    assert [len(report.parts) for report in reports] == [2, 2, 2, 2]
    assert len({report.file_id for report in reports}) == 1
    assert [part.path for part in first.parts] == list(SHARDS)
    assert len({part.file_id for part in first.parts} | {first.file_id}) == 3
    assert (second.old_epoch, second.epoch, third.epoch) == (0, 1, 1)
    assert first.tensors == second.tensors == third.tensors == 2
    assert {report.confidential for report in reports} == {confidential}
    for name, data in files_of(made).items():
        for word in (b"layer", b"hidden", b"weight_map", b"vocab"):
            assert word not in data, name
    for report in reports:
        json.loads(report.to_json())


def test_each_shard_is_a_protected_file(made):
    """Alone it opens and loads like any other; without a key it does not."""
    assert "layer.1.weight" in safe_load(made / SHARDS[1], key=KEY)
    assert verify(made / SHARDS[0], key=KEY).format == "safetensors"
    safetensors.torch.load_file(made / SHARDS[0])
    with pytest.raises(KeyRequiredError) as caught:
        verify(made)
    assert caught.value.key_id == KEY.id
    with pytest.raises(KeyRequiredError):
        verify(made, key=OTHER)


def test_a_folder_loads_by_its_index(made, tmp_path):
    """All shards, as the plain folder does; verified first."""
    loaded = safe_load(made, key=KEY)
    plain = safe_load(tmp_path / "plain" / "model.safetensors.index.json")

    assert loaded.keys() == plain.keys() == {"layer.0.weight", "layer.1.weight"}
    assert all(torch.equal(loaded[name], plain[name]) for name in plain)
    with pytest.raises(VerificationError):
        safe_load(made, key=KEY, min_epoch=1)
    with pytest.raises(KeyRequiredError):
        safe_load(made, key=OTHER)
    with pytest.raises(KeyRequiredError, match=f"key {KEY.id} is needed"):
        safe_load(made)
    with pytest.raises(IsADirectoryError):
        safe_load(tmp_path / "plain")
    (made / "more.py").write_text("")
    with pytest.raises(VerificationError, match="added"):
        safe_load(made, key=KEY)


def test_a_folder_without_an_index_has_one_model(tmp_path):
    """Of several, which one is not said."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in (1, 2):
        torch.save({"n": torch.tensor(number)}, plain / f"{number}.pt")
        protect(plain, tmp_path / f"made{number}", key=KEY)
    assert safe_load(tmp_path / "made1", key=KEY)["n"] == 1
    with pytest.raises(UnsupportedFormatError, match="2 models"):
        safe_load(tmp_path / "made2", key=KEY)


def test_a_change_names_shard_and_tensor(made):
    """One bit of one tensor."""
    shard = made / SHARDS[1]
    data = shard.read_bytes()
    start, _ = stored_spans(data)[0]
    shard.write_bytes(flipped(data, start))

    error = refused(made)
    assert type(error) is VerificationError
    assert (error.record, error.tensors) == (SHARDS[1], ("layer.1.weight",))


def _swap(made):
    paths = [made / shard for shard in SHARDS]
    texts = [path.read_bytes() for path in paths]
    for path, text in zip(paths, reversed(texts), strict=True):
        path.write_bytes(text)


def _other_epoch(made):
    rotate(made, made.parent / "next", key=KEY, signer=SIGNER)
    shutil.copy(made.parent / "next" / SHARDS[0], made / SHARDS[0])


def _other_folder(made):
    protect(made.parent / "plain", made.parent / "twin", key=KEY, signer=SIGNER)
    shutil.copy(made.parent / "twin" / SHARDS[0], made / SHARDS[0])


def _other_seal(made):
    protect(made.parent / "plain", made.parent / "twin", key=KEY, signer=SIGNER)
    shutil.copy(made.parent / "twin" / "safemodel.seal", made)


def _link(made):
    outside = made.parent / "outside"
    (made / SHARDS[0]).rename(outside)
    (made / SHARDS[0]).symlink_to(outside)


def _plain_shard(made):
    shutil.copy(made.parent / "plain" / SHARDS[0], made / SHARDS[0])


CHANGES = {
    "swapped": _swap,
    "dropped": lambda made: (made / SHARDS[0]).unlink(),
    "of_another_epoch": _other_epoch,
    "of_another_folder": _other_folder,
    "seal_of_another_folder": _other_seal,
    "plain_shard": _plain_shard,
    "code_added": lambda made: (made / "modeling.py").write_text("print()"),
    "hidden_added": lambda made: (made / ".hidden").write_text(""),
    "in_a_folder_added": lambda made: _fill(made / "deep" / "er" / "config.json"),
    "shard_added": lambda made: shutil.copy(
        made / SHARDS[0], made / "model.safetensors"
    ),
    "link": _link,
    "link_added": lambda made: (made / "link").symlink_to("/etc"),
    "pipe_added": lambda made: os.mkfifo(made / "pipe"),
    "no_seal": lambda made: (made / "safemodel.seal").unlink(),
    "empty_seal": lambda made: (made / "safemodel.seal").write_bytes(b""),
    "longer_seal": lambda made: _append(made / "safemodel.seal"),
    "bit_of_the_seal": lambda made: _flip(made / "safemodel.seal", -100),
    "bit_of_its_header": lambda made: _flip(made / "safemodel.seal", 62),
    "bit_of_a_frame": lambda made: _flip(made / SHARDS[0], 3),
}


def _fill(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("{}")


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flip(path: Path, place: int) -> None:
    data = path.read_bytes()
    path.write_bytes(flipped(data, place % len(data)))


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_folder_is_noticed(made, change):
    """Files swapped, dropped, added, of another epoch or folder; links; the seal."""
    CHANGES[change](made)
    assert type(refused(made)) is VerificationError


def test_the_seal_of_a_file_is_not_that_of_a_folder(tmp_path):
    """Even if what it seals reads as the contents of a folder."""
    # A manifest without pools, made for a file: its frame is not its data.
    data = FolderContents(shards={}, files={"evil.py": b"1"}).encoded()
    tagger = Tagger.keyed(KEY, FILE_ID, 3)
    (tmp_path / "out").mkdir()
    for frame, match in ((b"gaps", "of a file"), (data, None)):
        manifest = Manifest(
            file_id=FILE_ID,
            epoch=3,
            expires=None,
            confidential=False,
            pools=(),
            leaves=(),
            frame=tagger.frame([frame]),
            data=(data,),
        )
        (tmp_path / "out" / "safemodel.seal").write_bytes(seal(manifest, KEY))
        if match is None:
            assert verify(tmp_path / "out", key=KEY).epoch == 3
            continue
        with pytest.raises(VerificationError, match=match):
            verify(tmp_path / "out", key=KEY)


def test_an_old_folder_is_refused(made, tmp_path):
    """By the lowest epoch to accept, and by what was seen."""
    state = tmp_path / "epochs"
    rotate(made, tmp_path / "next", key=KEY, state=state, signer=SIGNER)

    verify(tmp_path / "next", key=KEY, min_epoch=1, state=state)
    verify(tmp_path / "next", public_key=PUBLIC, min_epoch=1, state=state)
    for how in ({"min_epoch": 1}, {"state": state}):
        for trusted in ({"key": KEY}, {"public_key": PUBLIC}):
            with pytest.raises(VerificationError):
                verify(made, **trusted, **how)
        with pytest.raises(VerificationError):
            restore(made, tmp_path / "out", key=KEY, **how)
    assert not (tmp_path / "out").exists()


def test_what_is_refused_leaves_nothing(tmp_path):
    """A bad shard, a link out, a folder that is there; nothing is half written."""
    plain = hub(tmp_path / "plain")
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine").write_text("")
    with pytest.raises(FileExistsError):
        protect(plain, there, key=KEY, overwrite=True)
    with pytest.raises(ValueError, match="within"):
        protect(plain, plain / "made", key=KEY)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnsupportedFormatError, match="without any file"):
        protect(empty, tmp_path / "made", key=KEY)
    with pytest.raises(LimitExceededError):
        protect(plain, tmp_path / "made", key=KEY, limits=Limits(max_header_bytes=9))
    (plain / "link").symlink_to("/etc/hostname")
    with pytest.raises(UnsupportedFormatError, match="leads out"):
        protect(plain, tmp_path / "made", key=KEY)
    (plain / "link").unlink()
    (plain / "evil.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.")
    with pytest.raises(UnsafeFileError) as caught:
        protect(plain, tmp_path / "made", key=KEY)
    assert "evil.pt" in str(caught.value) + str(caught.value.record)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty",
        "plain",
        "there",
    ]


def test_a_protected_folder_is_not_protected_twice(made, tmp_path):
    """It is rotated."""
    with pytest.raises(UnsupportedFormatError, match="rotate"):
        protect(made, tmp_path / "twice", key=KEY)


def test_links_of_a_hub_cache_are_followed(tmp_path):
    """From a snapshot into the blobs of the same model."""
    blobs = tmp_path / "blobs"
    plain = hub(tmp_path / "filled")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in plain.iterdir():
        if path.is_file():
            path.rename(blobs / path.name)
            (snapshot / path.name).symlink_to(blobs / path.name)

    protect(snapshot, tmp_path / "made", key=KEY)
    restore(tmp_path / "made", tmp_path / "back", key=KEY)

    assert sorted(files_of(tmp_path / "back")) == sorted(
        p.name for p in blobs.iterdir()
    )


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a//b", ".", "a/../b", "a\\b", "C:x", "a\nb", ""]
)
def test_a_holder_of_the_key_cannot_write_elsewhere(name):
    """Paths in a seal lead nowhere but into the folder."""
    for contents in (
        FolderContents(shards={name: bytes(32)}, files={}),
        FolderContents(shards={}, files={name: b"x"}),
    ):
        with pytest.raises(MalformedFileError):
            decode_folder(contents.encoded(), DEFAULT_LIMITS)


def test_contents_of_a_folder_are_bounded():
    """Files, bytes, and the same name twice."""
    good = FolderContents(shards={"a": bytes(32)}, files={"b": bytes(5000)})
    data = good.encoded()
    assert decode_folder(data, DEFAULT_LIMITS) == good
    with pytest.raises(LimitExceededError):
        decode_folder(data, Limits(max_header_bytes=5000))
    two = FolderContents(shards={"a": bytes(32), "b": bytes(32)}, files={}).encoded()
    with pytest.raises(LimitExceededError):
        decode_folder(two, Limits(max_records=1))
    twice = FolderContents(shards={"a": bytes(32)}, files={"a": b""})
    for bad in (data[:-1], data + b"\0", twice.encoded()):
        with pytest.raises(MalformedFileError):
            decode_folder(bad, DEFAULT_LIMITS)
