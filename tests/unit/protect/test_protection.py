"""Files protected, verified, restored and rotated through the public names."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import warnings
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import safemodel
from safemodel import (
    KeyRequiredError,
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
from safemodel._containers.source import open_source
from safemodel._protect import protecting
from safemodel._protect.frames import SAFETENSORS, TORCH, find_seal, seal_field
from safemodel._protect.layout import PLAIN
from safemodel._protect.scratch import Scratch
from safemodel.limits import DEFAULT_LIMITS
from safemodel.protection import KeyRing
from tests.unit.protect.helpers_protect import (
    KEY,
    OTHER,
    PUBLIC,
    SECRET,
    SIGNER,
    holds_secret,
    text_of,
)
from tests.unit.protect.helpers_protection import (
    BIG,
    flipped,
    hole,
    opened,
    safetensors_file,
    safetensors_header,
    stored_spans,
    tensors,
    torch_file,
)

KINDS = {"safetensors": safetensors_file, "pt": torch_file}


def protected(tmp_path: Path, kind: str, **how: object) -> tuple[bytes, bytes]:
    """Return a file of a kind, and the same protected."""
    plain = KINDS[kind]()
    out = tmp_path / f"made.{kind}"
    protect(plain, out, **{"key": KEY, "overwrite": True, **how})
    return plain, out.read_bytes()


def refused(data: bytes, **how: object) -> SafeModelError:
    """Return the error of a changed file, which is the same for every verb."""
    with pytest.raises(SafeModelError) as caught:
        verify(data, **{"key": KEY, **how})
    with pytest.raises(SafeModelError) as again:
        safe_load(data, key=KEY)
    assert type(again.value) is type(caught.value)
    assert not holds_secret(text_of(caught.value))
    assert not holds_secret(text_of(again.value))
    return caught.value


def changed_tensors(error: SafeModelError) -> tuple[str, ...]:
    """Return the names an error gives; it is of changed tensors."""
    assert type(error) is VerificationError
    assert error.reason == "bytes of tensors have changed"
    return error.tensors


@pytest.mark.parametrize("confidential", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_back_byte_for_byte(tmp_path, kind, confidential):
    """Protected, verified, rotated, restored: the file that it was."""
    plain = KINDS[kind]()
    for name, data in (("a", plain), ("b", b"")):
        (tmp_path / f"{name}.{kind}").write_bytes(data)
    paths = [tmp_path / f"{name}.{kind}" for name in "abcd"]

    made = protect(
        paths[0], paths[1], key=KEY, confidential=confidential, overwrite=True
    )
    seen = verify(paths[1], key=KEY)
    turned = rotate(paths[1], paths[2], key=KEY, new_key=OTHER)
    back = restore(paths[2], paths[3], key=OTHER)

    assert paths[3].read_bytes() == plain
    assert made.out_size == paths[1].stat().st_size
    assert made.out_size <= len(plain) * 1.005 + (64 << 10)
    assert (made.key_id, turned.key_id, back.key_id) == (KEY.id, OTHER.id, OTHER.id)
    assert made.file_id == seen.file_id == turned.file_id == back.file_id
    assert (made.epoch, seen.epoch, turned.epoch, back.epoch) == (0, 0, 1, 1)
    assert {r.confidential for r in (made, seen, turned, back)} == {confidential}
    assert made.tensors == turned.tensors == back.tensors >= 9
    for report in (made, seen, turned, back):
        assert json.loads(report.to_json())["schema"] == 1
        assert KEY.id in str(report) or OTHER.id in str(report)
        assert not holds_secret(str(report) + report.to_json() + repr(report))
        assert "layer.weight" not in str(report) + report.to_json()


@pytest.mark.parametrize("confidential", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_readers_open_it_and_learn_nothing(tmp_path, kind, confidential):
    """Flat tensors under random names; nothing of the file around the numbers."""
    plain, data = protected(tmp_path, kind, confidential=confidential)
    path = tmp_path / f"made.{kind}"
    if kind == "safetensors":
        found = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            assert sorted(file.keys()) == sorted(found)
    else:
        found = torch.load(path, weights_only=True)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None

    assert all(tensor.dim() == 1 for tensor in found.values())
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in found)
    for word in (b"layer", b"bias", b"somebody", b"secret", b"steps"):
        assert (word in plain) or word in (b"somebody", b"secret")
        assert word not in data
    values = torch.cat([t for t in found.values() if t.dtype == torch.float32])
    before = torch.cat([t.flatten() for t in opened_floats(plain, kind)])
    bits = [t.view(torch.int32).sort().values for t in (values, before)]
    assert torch.equal(*bits) is not confidential
    assert not torch.equal(values, before)


def opened_floats(plain: bytes, kind: str) -> list[torch.Tensor]:
    """Return the float32 storages of a plain file."""
    del plain
    found = [t for t in tensors().values() if t.dtype == torch.float32]
    if kind == "pt":
        found.append(torch.arange(24.0))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_with_its_key_as_before(tmp_path, kind):
    """The same tensors and plain data; tied ones stay tied."""
    _, data = protected(tmp_path, kind)
    loaded = safe_load(data, key=KEY)
    model = loaded if kind == "safetensors" else loaded["model"]

    for name, tensor in tensors().items():
        bits = torch.uint8
        assert model[name].dtype == tensor.dtype
        assert model[name].shape == tensor.shape
        assert torch.equal(
            model[name].reshape(-1).view(bits), tensor.reshape(-1).view(bits)
        )
    if kind == "pt":
        assert loaded["lr"] == 0.1
        assert model["tied"].data_ptr() == model["layer.weight"].data_ptr()
        assert torch.equal(model["strided"], torch.arange(24.0).reshape(4, 6).t()[1:])
    ring = KeyRing([OTHER, KEY])
    assert safe_load(io.BytesIO(data), key=ring).keys() == loaded.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_key_it_is_refused(tmp_path, kind):
    """No noise is returned, however the file is opened; the error names the key."""
    _, data = protected(tmp_path, kind)
    path = tmp_path / f"made.{kind}"

    for load in (
        lambda: safe_load(data),
        lambda: safe_load(path, mmap=True),
        lambda: safe_load(data, weights_only=False),
        lambda: verify(data),
        lambda: restore(data, tmp_path / "out", key=OTHER),
        lambda: verify(data, key=OTHER),
        lambda: safe_load(data, key=KeyRing()),
    ):
        with pytest.raises(KeyRequiredError) as caught:
            load()
        assert caught.value.key_id == KEY.id
    with pytest.raises(KeyRequiredError):
        safemodel.disarm(data, tmp_path / "out.pt")
    report = safemodel.inspect_file(path)
    assert (report.error, report.status.value) == ("KeyRequiredError", "unsupported")
    assert not (tmp_path / "out").exists()


def test_within_other_files_it_is_refused_too(tmp_path):
    """In an archive of models, and where another tool has moved the seal."""
    _, data = protected(tmp_path, "safetensors")
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("a.safetensors", data)
        archive.writestr("b.safetensors", safetensors_file())
    header = safetensors_header(data)
    header["__metadata__"] = dict(reversed(header["__metadata__"].items()))
    text = json.dumps(header).encode()
    (length,) = struct.unpack("<Q", data[:8])
    moved = struct.pack("<Q", len(text)) + text + data[8 + length :]

    for one in (bundle.getvalue(), moved):
        with pytest.raises(KeyRequiredError):
            safe_load(one)
    with pytest.raises(VerificationError, match="no seal"):
        verify(moved, key=KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_protected_is_refused_with_a_key(tmp_path, kind):
    """Never a silent load: somebody may have put a plain file in its place."""
    plain = KINDS[kind]()
    for call in (
        lambda: safe_load(plain, key=KEY),
        lambda: verify(plain, key=KEY),
        lambda: verify(plain, public_key=PUBLIC),
        lambda: verify(plain),
        lambda: restore(plain, tmp_path / "out", key=KEY),
        lambda: rotate(plain, tmp_path / "out", key=KEY),
        lambda: verify(b"", key=KEY),
    ):
        with pytest.raises(VerificationError, match="no seal"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("confidential", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_names_its_tensor(tmp_path, kind, confidential):
    """Every stored tensor once; the plain tensor that is named is the one that differs.

    What the change is in is found by restoring without any check.
    """
    _, data = protected(tmp_path, kind, confidential=confidential)
    of = opened(data)
    names = {extent.name for pool in of.manifest.pools for extent in pool.plain}
    seen = set()
    for start, end in stored_spans(data):
        changed = flipped(data, (start + end) // 2, 4)
        found = changed_tensors(refused(changed))
        assert len(found) == 1
        seen.update(found)
    assert seen <= names
    assert seen & {"layer.weight", "model.layer.weight"}


def test_the_named_tensor_is_the_changed_one(tmp_path, rand):
    """Told from a file in which each tensor has one value of its own."""
    plain = {f"t{number}": torch.full((50,), float(number)) for number in range(20)}
    file = tmp_path / "p.safetensors"
    protect(safetensors.torch.save(plain), file, key=KEY)
    data = file.read_bytes()
    spans = stored_spans(data)

    for _ in range(20):
        start, end = rand.choice(spans)
        place = start + 4 * rand.randrange((end - start) // 4)
        (value,) = struct.unpack("<f", data[place : place + 4])
        error = refused(flipped(data, place + rand.randrange(4)))
        assert changed_tensors(error) == (f"t{int(value)}",)
        ((pool, first, last),) = error.ranges
        number = int(value)
        order = sorted(plain)  # of the file
        assert pool == 0
        assert (first, last) == (
            200 * order.index(f"t{number}"),
            200 * order.index(f"t{number}") + 200,
        )


@pytest.mark.parametrize("confidential", [False, True])
def test_large_pools_name_the_changed_tensor(tmp_path, confidential):
    """More than one chunk, and the rounds of the permutation."""
    more = {"big": torch.randn(BIG), "other": torch.randn(1000)}
    plain = safetensors_file(more)
    file, back = tmp_path / "p.safetensors", tmp_path / "r.safetensors"
    protect(plain, file, key=KEY, confidential=confidential)
    restore(file, back, key=KEY)
    assert back.read_bytes() == plain
    data = file.read_bytes()
    start, end = max(stored_spans(data), key=lambda span: span[1] - span[0])

    assert max(len(both[PLAIN]) for both in opened(data).manifest.leaves) >= 4
    for place in (start, (start + end) // 2, end - 1):
        assert len(changed_tensors(refused(flipped(data, place)))) == 1
    two = flipped(flipped(data, start), end - 1)
    assert 1 <= len(changed_tensors(refused(two))) <= 2


def test_a_full_disk_does_not_hide_a_change(tmp_path, monkeypatch):
    """There is no room to put the pool in order: the alarm comes without a name."""
    _, data = protected(tmp_path, "safetensors")
    changed = flipped(data, stored_spans(data)[0][0])

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safemodel._protect.scratch.Scratch.file", full)
    with pytest.raises(VerificationError) as caught:
        verify(changed, key=KEY)
    assert caught.value.tensors == ()
    assert len(caught.value.ranges) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_the_file_is_checked(tmp_path, kind, rand):
    """One bit of the frame or of the seal; the fields of its header are all among."""
    _, data = protected(tmp_path, kind)
    start, end = hole(data)
    inner = {place for a, b in stored_spans(data) for place in range(a + 1, b)}
    seal = set(range(start, end))
    frame = [p for p in range(len(data)) if p not in inner and p not in seal]
    places = [*rand.sample(frame, 200), *range(start, start + 300, 3)]
    places += [*rand.sample(range(start + 300, end), 30), 0, end - 1, end]

    for place in places:
        with pytest.raises(SafeModelError):
            verify(flipped(data, place, 1 << rand.randrange(8)), key=KEY)
    verify(data, key=KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_or_shorter_file_is_noticed(tmp_path, kind):
    """Bytes behind the end, before the start, gone from the end, all of them."""
    _, data = protected(tmp_path, kind)

    for changed in (data + b"\0", data + data, data[:-1], data[: len(data) // 2]):
        assert type(refused(changed)) is VerificationError
    for changed in (data[:100], data[:40], data[:8], b"\0" + data):
        assert type(refused(changed)) is VerificationError


def test_a_second_record_is_noticed(tmp_path):
    """Added to the archive as other tools would: readers see it, and so do we."""
    protected(tmp_path, "pt")
    path = tmp_path / "made.pt"
    for name in ("archive/data/0", "archive/data.pkl", "evil.py"):
        copy = tmp_path / "copy.pt"
        copy.write_bytes(path.read_bytes())
        with warnings.catch_warnings(), zipfile.ZipFile(copy, "a") as archive:
            warnings.simplefilter("ignore")  # of the name that is there twice
            archive.writestr(name, b"other bytes")
        assert type(refused(copy.read_bytes())) is VerificationError


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key_is_told_from_tampering_by_its_id_alone(tmp_path, kind):
    """Another key is asked for; a forged id is not believed."""
    _, data = protected(tmp_path, kind)
    with pytest.raises(KeyRequiredError) as caught:
        verify(data, key=OTHER)
    assert (caught.value.key_id, caught.value.given) == (KEY.id, (OTHER.id,))

    start, end = hole(data)
    seal = bytearray(find_seal(open_source(data), DEFAULT_LIMITS).data)
    seal[12:28] = bytes.fromhex(OTHER.id)
    made = TORCH if kind == "pt" else SAFETENSORS
    forged = b"".join((data[:start], *seal_field(made, bytes(seal)), data[end:]))
    with pytest.raises(VerificationError):
        verify(forged, key=OTHER)
    with pytest.raises(KeyRequiredError):
        verify(forged, key=KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_seals_and_tensors_of_other_files_do_not_fit(tmp_path, kind, monkeypatch):
    """Of the same key and the same content: protected twice, mixed."""
    monkeypatch.setattr(protecting, "_MOST_PIECES", 1)  # for equal sizes
    (_, one), (_, other) = (protected(tmp_path, kind) for _ in range(2))
    start, end = hole(one)
    assert (len(other), hole(other)) == (len(one), (start, end))

    seal = one[:start] + other[start:end] + one[end:]
    assert type(refused(seal)) is VerificationError
    tail = one[:end] + other[end:]
    assert type(refused(tail)) is VerificationError


def test_two_files_never_share_an_order(tmp_path):
    """Nor do two epochs, nor two pools: each is another permutation."""
    numbers = {
        "a": torch.arange(5000, dtype=torch.int32),
        "b": torch.arange(5000).to(torch.int32).view(torch.float32),
        "c": torch.arange(10000, dtype=torch.int16)[:5000],
    }
    orders = []
    for epoch in (0, 0, 1):
        file = tmp_path / f"{len(orders)}.safetensors"
        data = safetensors.torch.save({n: t.contiguous() for n, t in numbers.items()})
        protect(data, file, key=KEY, epoch=epoch)
        turned = tmp_path / f"turned{len(orders)}.safetensors"
        rotate(file, turned, key=KEY)
        for one in (file, turned):
            raw = one.read_bytes()
            spans = stored_spans(raw)
            stored = b"".join(raw[a:b] for a, b in spans)
            orders += [
                tuple(torch.frombuffer(bytearray(part), dtype=kind).tolist())
                for part, kind in (
                    (stored[:20000], torch.int32),
                    (stored[20000:40000], torch.int32),
                    (stored[40000:], torch.int16),
                )
            ]
    assert len(set(orders)) == len(orders) == 18
    assert all(sorted(order) == list(range(5000)) for order in orders)


def test_an_old_version_is_refused(tmp_path):
    """By the lowest epoch to accept, and by what was seen before."""
    plain, _ = protected(tmp_path, "safetensors")
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    state = tmp_path / "epochs"
    protect(plain, old, key=KEY, epoch=4)
    rotate(old, new, key=KEY)

    assert verify(old, key=KEY, min_epoch=4).epoch == 4
    for call in (
        lambda: verify(old, key=KEY, min_epoch=5),
        lambda: safe_load(old, key=KEY, min_epoch=5),
        lambda: restore(old, tmp_path / "out.safetensors", key=KEY, min_epoch=5),
        lambda: rotate(old, tmp_path / "out.safetensors", key=KEY, min_epoch=5),
    ):
        with pytest.raises(VerificationError, match="lowest to accept"):
            call()
    assert verify(old, key=KEY, state=state).epoch == 4
    assert verify(new, key=KEY, state=state).epoch == 5
    for call in (
        lambda: verify(old, key=KEY, state=state),
        lambda: safe_load(old, key=KEY, state=state),
        lambda: restore(old, tmp_path / "out.safetensors", key=KEY, state=state),
        lambda: rotate(old, tmp_path / "out.safetensors", key=KEY, state=state),
    ):
        with pytest.raises(VerificationError, match="seen before"):
            call()
    assert not (tmp_path / "out.safetensors").exists()
    assert safe_load(new, key=KEY, state=state)


def test_what_does_not_hold_is_not_remembered(tmp_path):
    """Or a forged high epoch would lock out the true file."""
    _, data = protected(tmp_path, "safetensors", epoch=9)
    start, _ = stored_spans(data)[0]
    state = tmp_path / "epochs"
    for load in (verify, safe_load):
        with pytest.raises(VerificationError):
            load(flipped(data, start), key=KEY, state=state)
    assert not state.exists()
    safe_load(data, key=KEY, state=state)
    assert state.exists()


def test_rotating_remembers_the_new_epoch(tmp_path):
    """The old file is a replay from then on."""
    protected(tmp_path, "pt")
    file, state = tmp_path / "made.pt", tmp_path / "epochs"
    old = file.read_bytes()
    rotate(file, file, key=KEY, overwrite=True, state=state)

    assert verify(file, key=KEY, state=state).epoch == 1
    with pytest.raises(VerificationError, match="seen before"):
        verify(old, key=KEY, state=state)


def test_an_expired_file_is_refused(tmp_path, monkeypatch):
    """From the second on that it names, by every verb."""
    when = datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)
    _, data = protected(tmp_path, "pt", expires=when)
    assert verify(data, key=KEY).expires == 2_000_000_000
    monkeypatch.setattr(time, "time", lambda: 1_999_999_999.9)
    safe_load(data, key=KEY)
    rotate(data, tmp_path / "longer.pt", key=KEY, expires=when + timedelta(days=1))
    rotate(data, tmp_path / "kept.pt", key=KEY)
    rotate(data, tmp_path / "never.pt", key=KEY, expires=None)

    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)

    for load in (verify, safe_load):
        with pytest.raises(VerificationError, match="expired"):
            load(data, key=KEY)
        with pytest.raises(VerificationError, match="expired"):
            load(tmp_path / "kept.pt", key=KEY)
        load(tmp_path / "longer.pt", key=KEY)
        load(tmp_path / "never.pt", key=KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_is_checked_without_the_key(tmp_path, kind):
    """It covers every byte; another signer, or none, is refused."""
    _, data = protected(tmp_path, kind, signer=SIGNER)
    start, end = hole(data)
    stored = stored_spans(data)

    report = verify(data, public_key=PUBLIC)
    assert (report.checked_by, report.signer) == ("signature", PUBLIC.hex())
    assert verify(data, key=KEY, public_key=PUBLIC).checked_by == "key and signature"
    places = [0, 9, 60, start, start + 400, end - 9, end, end + 50, len(data) - 1]
    places += [place for a, b in stored for place in (a, b - 1)]
    for place in places:
        with pytest.raises(SafeModelError):
            verify(flipped(data, place), public_key=PUBLIC)
    for changed in (data + b"\0", data[:-1]):
        with pytest.raises(VerificationError):
            verify(changed, public_key=PUBLIC)
    with pytest.raises(VerificationError, match="another key"):
        verify(data, public_key=bytes(32))
    _, unsigned = protected(tmp_path, kind)
    for how in ({}, {"key": KEY}):
        with pytest.raises(VerificationError, match="not signed"):
            verify(unsigned, public_key=PUBLIC, **how)
    with pytest.raises(VerificationError, match="lowest"):
        verify(data, public_key=PUBLIC, min_epoch=1)


def test_a_signature_ends_with_its_epoch(tmp_path):
    """What is rotated is signed by whoever rotates it, or by nobody."""
    _, data = protected(tmp_path, "pt", signer=SIGNER)
    with pytest.raises(KeyRequiredError, match="it is signed by"):
        rotate(data, tmp_path / "unsigned.pt", key=KEY)
    assert not (tmp_path / "unsigned.pt").exists()
    rotate(data, tmp_path / "unsigned.pt", key=KEY, unsigned=True)
    rotate(data, tmp_path / "signed.pt", key=KEY, signer=SIGNER, public_key=PUBLIC)

    assert verify(tmp_path / "unsigned.pt", key=KEY).signer == ""
    assert verify(tmp_path / "signed.pt", public_key=PUBLIC).epoch == 1


def test_modules_and_mappings_are_protected(tmp_path):
    """A state dict, tied weights and buffers included."""
    model = torch.nn.Sequential(torch.nn.Linear(7, 7), torch.nn.BatchNorm1d(7))
    model.add_module("again", model[0])
    for number, given in enumerate((model, model.state_dict())):
        file = tmp_path / f"{number}.pt"
        protect(given, file, key=KEY)
        loaded = safe_load(file, key=KEY)
        assert loaded.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded[name], tensor)
        assert loaded["again.weight"].data_ptr() == loaded["0.weight"].data_ptr()
    mapping = {"a": torch.ones(3, 2).t(), "b": torch.tensor(1)}
    protect(mapping, tmp_path / "x.safetensors", key=KEY)
    assert torch.equal(
        safe_load(tmp_path / "x.safetensors", key=KEY)["a"], mapping["a"]
    )
    with pytest.raises(TypeError, match="mapping of tensors"):
        protect({"a": 1}, tmp_path / "y.pt", key=KEY)
    for given, why in (
        (model, "some share their memory"),
        ({"secret.name": torch.ones(3).to_sparse()}, "not all are dense"),
        ({"secret.name": torch.ones(3, dtype=torch.complex128)}, "a dtype it has"),
    ):
        with pytest.raises(ValueError, match=rf"{why}.*write \.pt$") as caught:
            protect(given, tmp_path / "y.safetensors", key=KEY)
        assert "weight" not in str(caught.value)
        assert "secret.name" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert not list(tmp_path.glob("y*"))


def test_no_tensors_at_all(tmp_path):
    """Nothing but a seal, which stock readers open."""
    for kind, plain in (
        ("safetensors", safetensors.torch.save({}, {"a": "b"})),
        ("safetensors", safetensors.torch.save({"e": torch.zeros(0, 2)})),
        ("pt", torch_bytes({"lr": 0.1})),
        ("pt", torch_bytes({"e": torch.zeros(3, 0)})),
    ):
        file, back = tmp_path / f"p.{kind}", tmp_path / f"r.{kind}"
        protect(plain, file, key=KEY, overwrite=True)
        restore(file, back, key=KEY, overwrite=True)
        assert back.read_bytes() == plain
        safe_load(file, key=KEY)
        if kind == "pt":
            torch.load(file, weights_only=True)
        else:
            safetensors.torch.load_file(file)


def torch_bytes(value: object) -> bytes:
    """Return what torch saves."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class _Evil:
    def __reduce__(self):
        return print, ("evil",)


def test_only_what_would_load_is_protected(tmp_path):
    """Code in the plain file is refused before anything is written."""
    bad = torch_bytes({"a": torch.ones(3), "b": _Evil()})
    with pytest.raises(UnsafeFileError):
        protect(bad, tmp_path / "p.pt", key=KEY)
    with pytest.raises(UnsupportedFormatError, match="disarm"):
        protect(pickle.dumps({"a": 1}), tmp_path / "p.pt", key=KEY)
    _, data = protected(tmp_path, "pt")
    with pytest.raises(UnsupportedFormatError, match="rotate"):
        protect(data, tmp_path / "p.pt", key=OTHER)
    with pytest.raises(MalformedFileError):
        protect(safetensors_file()[:-1], tmp_path / "p.safetensors", key=KEY)
    assert not (tmp_path / "p.pt").exists()


def test_the_older_format_becomes_an_archive(tmp_path):
    """And is restored to the bytes it had."""
    file = io.BytesIO()
    torch.save(tensors(), file, _use_new_zipfile_serialization=False)
    protect(file.getvalue(), tmp_path / "p.pt", key=KEY)

    assert (tmp_path / "p.pt").read_bytes()[:2] == b"PK"
    torch.load(tmp_path / "p.pt", weights_only=True)
    restore(tmp_path / "p.pt", tmp_path / "r.pt", key=KEY)
    assert (tmp_path / "r.pt").read_bytes() == file.getvalue()


def test_nothing_is_replaced_without_leave(tmp_path):
    """An existing file stays; a failed call leaves no file behind."""
    plain, data = protected(tmp_path, "pt")
    there = tmp_path / "there.pt"
    there.write_bytes(b"mine")
    bad = flipped(data, stored_spans(data)[0][0])

    for call in (
        lambda: protect(plain, there, key=KEY),
        lambda: restore(data, there, key=KEY),
        lambda: rotate(data, there, key=KEY),
    ):
        with pytest.raises(FileExistsError):
            call()
    for call in (
        lambda: restore(bad, there, key=KEY, overwrite=True),
        lambda: rotate(bad, there, key=KEY, overwrite=True),
        lambda: restore(data, there, key=OTHER, overwrite=True),
    ):
        with pytest.raises(SafeModelError):
            call()
    assert there.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.pt", "there.pt"]


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("confidential", [False, True])
def test_progress_goes_up_to_the_end(tmp_path, monkeypatch, budget, confidential):
    """Bytes done never go down, and reach all there are, with temporary files too."""
    if budget is not None:
        monkeypatch.setitem(Scratch.__init__.__kwdefaults__, "budget", budget)
    mode = {"confidential": confidential}
    plain = safetensors_file({"big": torch.randn(BIG)})
    file = tmp_path / "p.safetensors"
    calls = [
        lambda note: protect(
            plain, file, key=KEY, signer=SIGNER, progress=note, **mode
        ),
        lambda note: verify(file, key=KEY, progress=note),
        lambda note: verify(file, public_key=PUBLIC, progress=note),
        lambda note: restore(file, tmp_path / "r.safetensors", key=KEY, progress=note),
        lambda note: rotate(
            file, tmp_path / "q.safetensors", key=KEY, signer=SIGNER, progress=note
        ),
        lambda note: rotate(
            file,
            tmp_path / "o.safetensors",
            key=KEY,
            signer=SIGNER,
            confidential=not confidential,
            progress=note,
        ),
    ]
    for call in calls:
        notes: list[tuple[int, int]] = []
        call(lambda done, total, notes=notes: notes.append((done, total)))
        assert len(notes) > 2
        assert [done for done, _ in notes] == sorted(done for done, _ in notes)
        assert notes[-1][0] == notes[-1][1]
        assert len({total for _, total in notes}) == 1
        # Not there before the last of them: what comes last is counted, too.
        assert [done for done, total in notes].count(notes[-1][1]) == 1


def test_what_cannot_be_is_a_callers_mistake(tmp_path):
    """And no error shows what was given as a key."""
    plain, out = safetensors_file(), tmp_path / "p.safetensors"
    for how, error in (
        ({"key": SECRET}, TypeError),
        ({"key": None}, TypeError),
        ({"key": KEY, "epoch": -1}, ValueError),
        ({"key": KEY, "epoch": 1 << 63}, ValueError),
        ({"key": KEY, "epoch": "1"}, TypeError),
        ({"key": KEY, "signer": SIGNER.public_key()}, TypeError),
        ({"key": KEY, "signer": SECRET}, TypeError),
        ({"key": KEY, "expires": 0}, ValueError),
        ({"key": KEY, "expires": 1.5}, TypeError),
        ({"key": KEY, "expires": datetime(2033, 1, 1)}, ValueError),  # noqa: DTZ001 - that is what it is about
    ):
        with pytest.raises(error) as caught:
            protect(plain, out, **how)
        assert not holds_secret(str(caught.value))
    protect(plain, out, key=KEY)
    for call, error in (
        (lambda: verify(out, key=SECRET), TypeError),
        (lambda: verify(out, public_key=b"short"), ValueError),
        (lambda: verify(out, public_key=PUBLIC.hex()), TypeError),
        (lambda: verify(out, key=KEY, public_key=SIGNER.public_key()), TypeError),
        (lambda: restore(out, tmp_path / "r", key=None), TypeError),
        (lambda: rotate(out, tmp_path / "r", key=KEY, new_key=SECRET), TypeError),
        (lambda: rotate(out, tmp_path / "r", key=KEY, signer=SECRET), TypeError),
        (lambda: verify(out, key=_Wrong()), TypeError),
        (lambda: restore(out, tmp_path / "r", key=_Wrong()), TypeError),
        (lambda: rotate(out, tmp_path / "r", key=_Wrong()), TypeError),
        (lambda: safe_load(out, key=_Wrong()), TypeError),
        (lambda: rotate(out, tmp_path / "r.pt", key=KEY), ValueError),
        (lambda: restore(out, tmp_path / "r.pt", key=KEY), ValueError),
        (lambda: safe_load(out, key=KEY, mmap=True), ValueError),
        (lambda: safe_load(out, min_epoch=1), ValueError),
        (lambda: safe_load(out, state=tmp_path / "s"), ValueError),
    ):
        with pytest.raises(error) as caught:
            call()
        assert not holds_secret(str(caught.value))


class _Wrong:
    """Where no keys come from."""

    def get(self, key_id: str, /) -> bytes:
        return SECRET


def test_limits_bound_a_seal(tmp_path):
    """Before it is read into memory."""
    for kind in KINDS:
        _, data = protected(tmp_path, kind)
        for limit in (1000, 2000):
            with pytest.raises(SafeModelError):
                verify(data, key=KEY, limits=Limits(max_header_bytes=limit))
