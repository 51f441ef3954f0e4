"""Attacks that the published design falls to, done to files of ours.

`test_published_faults` has a test for each fault of that design. Here is what somebody
does with them who has the file, a related model and time; each attack is shown to work
where it should.
"""

from __future__ import annotations

import io
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

import safemodel
from safemodel import (
    VerificationError,
    protect,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._formats import formats
from tests.fuzz.protected_files import repeatable, seed_of
from tests.fuzz.tamper import zip_tensor
from tests.unit.protect.helpers_protect import KEY
from tests.unit.protect.helpers_protection import flipped, opened

PAYLOAD = b"csafemodel.testing\ntrip\nX\x02\x00\x00\x00hi\x85R0"


def written(tmp_path, plain, *, name="p", **how):
    """Return the bytes of a protected file."""
    kind = "pt" if type(plain) is not bytes or plain[:2] == b"PK" else "safetensors"
    path = tmp_path / f"{name}.{kind}"
    protect(plain, path, **{"key": KEY, "overwrite": True, **how})
    return path.read_bytes()


def stored_numbers(data, dtype=torch.float32):
    """Return the tensors of one dtype as a reader without the key sees them, joined."""
    if data[:2] == b"PK":
        found = torch.load(io.BytesIO(data), weights_only=True)
    else:
        found = safetensors.torch.load(data)
    return torch.cat([tensor for tensor in found.values() if tensor.dtype == dtype])


def test_not_a_parser_is_asked_before_the_check(tmp_path, canary, monkeypatch):
    """A payload in a protected file runs in torch; here not a parser is asked."""
    data = written(tmp_path, {"w": torch.ones(30)})
    hostile = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(hostile, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("data.pkl"):
                content = content[:2] + PAYLOAD + content[2:]
            new.writestr(info.filename, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(io.BytesIO(hostile.getvalue()), weights_only=False)
    assert canary.trips, "the payload is none"
    canary.reset()

    def parser(*_, **__):
        raise AssertionError("the file was parsed before it was checked")

    monkeypatch.setattr(formats, "read_file", parser)
    monkeypatch.setattr("json.loads", parser)
    for call in (
        lambda: safe_load(hostile.getvalue(), key=KEY),
        lambda: verify(hostile.getvalue(), key=KEY),
        lambda: restore(hostile.getvalue(), tmp_path / "out", key=KEY),
        lambda: rotate(hostile.getvalue(), tmp_path / "out", key=KEY),
    ):
        with pytest.raises(VerificationError):
            call()
    assert not canary.trips
    with pytest.raises(AssertionError, match="parsed"):
        safe_load(data, key=KEY)  # the check of the check: now it is


def test_names_shapes_dtypes_and_other_data_are_bound_to_the_same_bytes(tmp_path):
    """Each of them changes all tags it is about, though no byte is another."""

    # The same bytes, file id, key and epoch, but another name, shape, dtype ...
    def tags(plain):
        with repeatable(1):
            made = written(tmp_path, plain)
        return made, opened(made).manifest

    weight = torch.arange(64.0).reshape(8, 8)
    one, first = tags({"w": weight})
    assert tags({"w": weight})[1].leaves == first.leaves
    for other in (
        {"v": weight},
        {"w": weight.reshape(4, 16)},
        {"w": weight.view(torch.int32)},
        {"w": weight[:4], "rest": weight[4:]},
    ):
        again, second = tags({name: tensor.clone() for name, tensor in other.items()})
        assert second.file_id == first.file_id
        for mine, theirs in zip(first.leaves, second.leaves, strict=True):
            assert not set(mine[1]) & set(theirs[1])
        assert again != one

    # ... and plain data, which is within the seal: no bit of it can be changed.
    for lr in (0.1, 0.2):
        file = io.BytesIO()
        torch.save({"w": weight, "args": {"lr": lr, "layers": [8, 8]}}, file)
        made, manifest = tags(file.getvalue())
        assert b"layers" not in made
        assert manifest.data != first.data
        start, end = seed_of("one", "pt", made).hole
        for place in range(start, end, 97):
            with pytest.raises(safemodel.SafeModelError):
                verify(flipped(made, place), key=KEY)


def test_checksums_made_to_fit_hide_no_tensor(tmp_path, rand):
    """A changed weight is named, although bytes around it have changed as well."""
    data = written(tmp_path, {"w": torch.arange(3000.0), "v": torch.arange(9)})
    changed = zip_tensor(rand, seed_of("one", "pt", data))
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert archive.testzip() is None  # no reader without the key sees a fault
    torch.load(io.BytesIO(changed), weights_only=True)
    for call in (
        lambda: verify(changed, key=KEY),
        lambda: safe_load(changed, key=KEY),
        lambda: restore(changed, tmp_path / "out.pt", key=KEY),
    ):
        with pytest.raises(VerificationError, match="around them") as caught:
            call()
        assert len(caught.value.tensors) == len(caught.value.ranges) == 1


def places(data, values):
    """Return where each of some numbers, all different, is in a protected file."""
    stored = stored_numbers(data).numpy()
    order = np.argsort(stored)
    return order[np.searchsorted(stored[order], values)]


def test_tensors_of_one_shape_are_not_the_same_order_turned(tmp_path):
    """Where one went says nothing of where the other did."""
    height, size = 64, 64 * 32
    plain = {
        "a": torch.arange(float(size)).reshape(height, -1),
        "b": torch.arange(float(size), 2.0 * size).reshape(height, -1),
    }
    data = written(tmp_path, safetensors.torch.save(plain))
    one, two = (places(data, plain[name].flatten().numpy()) for name in "ab")

    # As images in the pool, as orders of their own, and turned by anything.
    ranks = [np.argsort(np.argsort(found)) for found in (one, two)]
    for first, second in ((one, two), ranks):
        apart = np.bincount((second - first) % (2 * size))
        assert apart.max() < 12  # of 2,048; 2,048 if they were the same
    assert np.bincount((ranks[0] - ranks[0]) % size).max() == size


def best_rows(mixed, public):
    """Return which public row each row is most like, by cosine."""
    one, two = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (mixed, public))
    return (one @ two.T).argmax(axis=1)


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.5])
def test_a_related_checkpoint_puts_no_row_back(tmp_path, strength):
    """The attack puts back all rows of a row shuffle, and none but by chance of ours.

    The attacker has the checkpoint that the model was tuned from, or the model itself,
    and knows the shape of the tensor: nothing of which the file says.
    """
    height, width = 512, 256
    chance = np.random.default_rng(3)
    public = chance.standard_normal((height, width)).astype(np.float32)
    tuned = public + np.float32(strength) * chance.standard_normal(
        (height, width)
    ).astype(np.float32)
    order = chance.permutation(height)
    assert (best_rows(tuned[order], public) == order).mean() > 0.99

    data = written(tmp_path, safetensors.torch.save({"w": torch.from_numpy(tuned)}))
    came = np.empty(height * width, np.int64)
    came[places(data, tuned.reshape(-1))] = np.arange(height * width) // width
    stored = stored_numbers(data).numpy()
    for turned in (0, width // 2):  # rows may begin anywhere
        mixed = np.roll(stored, turned).reshape(height, width)
        rows = np.roll(came, turned).reshape(height, width)
        found = best_rows(mixed, public)
        # Right, if a row has as many elements of the one it is most like as may be.
        hits = (rows == found[:, None]).mean(axis=1)
        assert hits.mean() < 4 / height  # chance is 1 / height
        assert hits.max() < 0.05  # a row of the row shuffle has 1


def test_each_rotation_is_another_order(tmp_path):
    """Each rotation gives another order, other cuts and other names."""
    size = 20_000
    values = np.arange(size, dtype=np.float32)
    data = written(tmp_path, safetensors.torch.save({"w": torch.from_numpy(values)}))
    seen, names = [places(data, values)], [frozenset(safetensors.torch.load(data))]
    path = tmp_path / "p.safetensors"
    for epoch in range(1, 6):
        assert rotate(path, path, key=KEY, overwrite=True).epoch == epoch
        seen.append(places(path.read_bytes(), values))
        names.append(frozenset(safetensors.torch.load(path.read_bytes())))
    for number, one in enumerate(seen):
        for other in seen[:number]:
            assert (one == other).sum() < 12  # one is chance
            assert np.bincount((one - other) % size).max() < 14
        assert not names[number] & frozenset().union(*names[:number])
