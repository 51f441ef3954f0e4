"""What is known to be wrong with the published design, and cannot be here.

One test a fault, in the order of the table in docs/protect.md. What a verb raises is
asked of all that take a key: `verify`, `restore`, `rotate` and `safe_load`.
"""

from __future__ import annotations

import base64
import inspect
import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from safemodel import safe_load
from safemodel._containers.source import open_source
from safemodel._protect import folders
from safemodel._protect.frames import find_seal
from safemodel._protect.rounds import Shape
from safemodel._rewrite import output
from safemodel.errors import (
    KeyRequiredError,
    SafeModelError,
    StateFormatError,
    VerificationError,
)
from safemodel.limits import DEFAULT_LIMITS
from safemodel.protection import ProtectionKey, protect, restore, rotate, verify
from tests.unit.protect.helpers_protect import KEY, OTHER

SUFFIXES = {".pt": "torch", ".safetensors": "safetensors"}


def tensors() -> dict[str, torch.Tensor]:
    """Return the state of a small module with buffers."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(8)
    norm(torch.randn(16, 8))
    return torch.nn.Sequential(torch.nn.Linear(4, 8), norm).state_dict()


@pytest.fixture(params=SUFFIXES)
def made(request, tmp_path) -> Path:
    """Return a protected file of each format; the plain one is beside it."""
    plain = tmp_path / f"plain{request.param}"
    if request.param == ".pt":
        torch.save({"model": tensors(), "secret": "a hyper-parameter"}, plain)
    else:
        arrays = {name: one.numpy() for name, one in tensors().items()}
        plain.write_bytes(save(arrays, {"secret": "a hyper-parameter"}))
    out = tmp_path / f"protected{request.param}"
    protect(plain, out, key=KEY)
    return out


def every_verb_refuses(path: Path, key: ProtectionKey = KEY) -> VerificationError:
    """Assert that no verb accepts a file, and none writes; return the error."""
    target = path.with_name(f"out{path.suffix}")
    for use in (
        lambda: restore(path, target, key=key),
        lambda: rotate(path, target, key=key),
        lambda: safe_load(path, key=key),
        lambda: verify(path, key=key),
    ):
        with pytest.raises(VerificationError) as caught:
            use()
        assert not target.exists()
    return caught.value


def zip_again(path: Path, name: str, change) -> None:
    """Write a torch archive anew, with one record changed and its CRC-32 right."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info, change(data) if info.filename == name else data)
    path.write_bytes(out.getvalue())


@pytest.mark.parametrize("made", [".pt"], indirect=True)
def test_no_code_runs_before_the_check(made):
    """Nor after it: a pickle in the file is not looked at before it is verified."""
    marker = made.with_name("marker")
    payload = b"cos\nsystem\n(" + _text(f"touch {marker}") + b"tR0"
    zip_again(made, "archive/data.pkl", lambda data: data[:2] + payload + data[2:])

    every_verb_refuses(made)

    assert not marker.exists()
    torch.load(made, weights_only=False)
    assert marker.exists()  # other loaders do run it


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def test_what_was_changed_cannot_be_signed_anew(made):
    """Who changes a tensor can make all checksums right that need no key."""
    start, length, _ = stored_places(made)[0]
    if made.suffix == ".pt":
        zip_again(made, "archive/data/0", lambda data: bytes(len(data)))
        assert zipfile.ZipFile(made).testzip() is None
    else:  # a format without checksums
        whole = made.read_bytes()
        assert any(whole[start : start + length])
        made.write_bytes(whole[:start] + bytes(length) + whole[start + length :])
        load_file(made)
    every_verb_refuses(made)
    # And who protects another file has another key; its id can be forged, no more.
    other = made.with_name(f"other{made.suffix}")
    protect(made.with_name(f"plain{made.suffix}"), other, key=OTHER)
    for use in (verify, safe_load):
        with pytest.raises(KeyRequiredError):
            use(other, key=KEY)
    ids = bytes.fromhex(OTHER.id), bytes.fromhex(KEY.id)
    forged = _crc_kept if made.suffix == ".pt" else _seal_replaced
    other.write_bytes(forged(other.read_bytes(), *ids))
    every_verb_refuses(other)


def _seal_replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a `.safetensors` file with bytes of its seal replaced."""
    found = find_seal(open_source(data), DEFAULT_LIMITS)
    assert found is not None
    seal = bytes(found.data)
    assert seal.count(old) == 1
    text = base64.b64encode(seal.replace(old, new))
    return data[: found.start] + text + data[found.end :]


def _crc_kept(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return an archive with bytes of its first record replaced; it still opens."""
    assert data.count(old) == 1
    changed = bytearray(data.replace(old, new))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = archive.infolist()[0]
    start = 30 + len(first.filename) + struct.unpack_from("<H", data, 28)[0]
    end = start + first.file_size
    # The four bytes at the end are free: search for those that give the same CRC-32.
    changed[end - 4 : end] = _four_bytes(bytes(changed[start : end - 4]), first.CRC)
    assert zlib.crc32(changed[start:end]) == first.CRC
    return bytes(changed)


def _four_bytes(before: bytes, wanted: int) -> bytes:
    """Return what brings a CRC-32 to a value: it is linear, so solve for 32 bits."""
    base = zlib.crc32(before + bytes(4)) ^ wanted
    rows = [
        [zlib.crc32(before + (1 << bit).to_bytes(4, "little")), 1 << bit]
        for bit in range(32)
    ]
    zero = zlib.crc32(before + bytes(4))
    rows = [[value ^ zero, mask] for value, mask in rows]
    answer = 0
    for bit in range(32):
        pivot = next(k for k in range(bit, 32) if rows[k][0] >> bit & 1)
        rows[bit], rows[pivot] = rows[pivot], rows[bit]
        for k in range(32):
            if k != bit and rows[k][0] >> bit & 1:
                rows[k] = [rows[k][0] ^ rows[bit][0], rows[k][1] ^ rows[bit][1]]
    for bit in range(32):
        if base >> bit & 1:
            answer ^= rows[bit][1]
    return answer.to_bytes(4, "little")


def test_buffers_are_covered(made):
    """Whichever element of the file changes, its tensor is named, buffers too."""
    data = made.read_bytes()
    places = [
        at
        for start, length, size in stored_places(made)
        for at in range(start, start + length, size)
    ]
    named = set()
    for at in places:
        changed = bytearray(data)
        changed[at] ^= 1
        made.write_bytes(changed)
        with pytest.raises(VerificationError) as caught:
            verify(made, key=KEY)
        assert len(caught.value.tensors) == 1
        assert len(caught.value.ranges) == 1
        named.add(caught.value.tensors[0].removeprefix("model."))
    assert named == set(tensors())
    assert {"1.running_mean", "1.num_batches_tracked"} <= named


def stored_places(path: Path) -> list[tuple[int, int, int]]:
    """Return where stored tensors lie in a file, their bytes, and those an element."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        sizes = {"F32": 4, "I64": 8}
        return [
            (8 + length + one["data_offsets"][0],
             one["data_offsets"][1] - one["data_offsets"][0], sizes[one["dtype"]])
            for name, one in header.items() if name != "__metadata__"
        ]  # fmt: skip
    found = torch.load(path, weights_only=True)
    places = []
    with zipfile.ZipFile(path) as archive:
        for number, one in enumerate(found.values()):
            info = archive.getinfo(f"archive/data/{number}")
            at = info.header_offset
            names = struct.unpack_from("<HH", data, at + 26)
            places.append((at + 30 + sum(names), info.file_size, one.itemsize))
    return places


@pytest.mark.parametrize("what", ["name", "shape", "dtype", "place"])
def test_names_shapes_and_dtypes_are_covered(made, what):
    """Of the stored tensors as well: the file says nothing that can be changed.

    The file keeps its size and is as well formed as before: that is not why.
    """
    name = min(stored_names(made)).encode()
    other = name[:-1] + (b"0" if name[-1:] != b"0" else b"1")
    patterns = {
        ".safetensors": {
            "name": (b'"%s"' % name, b'"%s"' % other),
            "shape": (rb'("shape":\[\d*)(\d)\]', _next_digit),
            "dtype": (rb'"dtype":"F32"', b'"dtype":"I32"'),
            "place": (rb'("data_offsets":\[\d+,\d*)(\d)\]', _next_digit),
        },
        ".pt": {
            "name": (name, other),
            "shape": (rb"(K\x00\x8a\x01)(.)(?=\x85K\x01\x85\x89)", _one_less),
            "dtype": (rb"FloatStorage", b"ShortStorage"),
            "place": (rb"(storage.*?Storage\nX\x01\x00\x00\x00)(\d)", _next_digit),
        },
    }
    whole = made.read_bytes()
    part = slice(8, 8 + int.from_bytes(whole[:8], "little"))
    if made.suffix == ".pt":
        with zipfile.ZipFile(made) as archive:
            info = archive.getinfo("archive/data.pkl")
        names = struct.unpack_from("<HH", whole, info.header_offset + 26)
        start = info.header_offset + 30 + sum(names)
        part = slice(start, start + info.file_size)
    old, new = patterns[made.suffix][what]
    changed, count = re.subn(old, new, whole[part], count=1, flags=re.DOTALL)
    assert count == 1
    assert changed != whole[part]
    assert len(changed) == len(whole[part])
    if made.suffix == ".pt":
        checks = (struct.pack("<I", zlib.crc32(one)) for one in (whole[part], changed))
        was, now = checks
        assert whole.count(was) == 2
        whole = whole.replace(was, now)
    made.write_bytes(whole[: part.start] + changed + whole[part.stop :])
    if made.suffix == ".pt":
        assert zipfile.ZipFile(made).testzip() is None
    every_verb_refuses(made)


def _next_digit(found: re.Match[bytes]) -> bytes:
    """Return a number that ends in another digit, and what was around it."""
    rest = found[0][len(found[1]) + 1 :]
    return found[1] + str((int(found[2]) + 1) % 10).encode() + rest


def _one_less(found: re.Match[bytes]) -> bytes:
    """Return a count with another value."""
    return found[1] + bytes([found[2][0] - 1])


def test_all_that_is_not_tensors_is_covered_and_hidden(made):
    """Names and values do not show, and every byte around the tensors is checked."""
    whole = made.read_bytes()
    for text in (b"hyper-parameter", b"running_mean", b"secret", b"plain"):
        assert text not in whole
    inside = {
        at for start, length, _ in stored_places(made)
        for at in range(start, start + length)
    }  # fmt: skip
    outside = [at for at in range(len(whole)) if at not in inside]
    for at in outside[:: max(len(outside) // 200, 1)]:
        made.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(SafeModelError):
            verify(made, key=KEY)
        made.write_bytes(whole[:at] + whole[at + 1 :])
        with pytest.raises(SafeModelError):
            verify(made, key=KEY)
    made.write_bytes(whole + b"\0")
    every_verb_refuses(made)
    made.write_bytes(whole)
    verify(made, key=KEY)


@pytest.mark.parametrize("size", [4096, 40_000])
def test_tensors_of_one_shape_do_not_move_alike(tmp_path, size):
    """Eight of them: the order in which elements of one stand is that of no other.

    In a pool that is shuffled as a whole, and in one that goes through the rounds.
    """
    assert bool(Shape(8 * size, 4).tiles) == (size > 4096)
    values = np.arange(8 * size, dtype=np.float32).reshape(8, size)
    protect({str(k): torch.from_numpy(row) for k, row in enumerate(values)},
            tmp_path / "p.pt", key=KEY)  # fmt: skip
    found = torch.load(tmp_path / "p.pt", weights_only=True).values()
    order = torch.cat(list(found)).to(torch.int64).numpy()
    orders = [order[order // size == k] % size for k in range(8)]
    for k, one in enumerate(orders):
        assert sorted(one) == list(range(size))
        for other in orders[:k]:
            assert (one == other).sum() < 12  # by chance 1, and 12 once in 10**9


def test_no_row_keeps_what_is_in_it(tmp_path):
    """Elements of a row go everywhere: about as many as chance would leave together."""
    rows, columns = 256, 512
    values = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    protect({"w": values}, tmp_path / "p.pt", key=KEY)
    found = torch.load(tmp_path / "p.pt", weights_only=True).values()
    row = torch.cat(list(found)).to(torch.int64).numpy() // columns
    together = (row[1:] == row[:-1]).sum()
    assert together < 2 * row.size / rows
    # And a window as long as a row has elements of nearly as many rows as by chance.
    kinds = np.mean([np.unique(part).size for part in row.reshape(rows, columns)])
    chance = rows * (1 - (1 - 1 / rows) ** columns)
    assert kinds > 0.95 * chance


def test_nothing_is_stored_of_the_order(tmp_path):
    """A map of elements would be twice as large as the model."""
    torch.manual_seed(0)
    model = {f"layer.{k}.weight": torch.randn(100, 100) for k in range(50)}
    torch.save(model, tmp_path / "plain.pt")
    plain = (tmp_path / "plain.pt").stat().st_size
    report = protect(tmp_path / "plain.pt", tmp_path / "p.pt", key=KEY)
    assert report.out_size == (tmp_path / "p.pt").stat().st_size
    assert report.out_size <= 1.005 * plain + (64 << 10)


def test_verification_cannot_be_switched_off(made):
    """There is no option for it, and what fails is an error, not a line in a log."""
    for verb in (verify, restore, rotate, safe_load):
        options = inspect.signature(verb).parameters
        assert not {"verify", "check", "validate", "strict"} & options.keys()
    start, *_ = stored_places(made)[0]
    changed = bytearray(made.read_bytes())
    changed[start] ^= 128
    made.write_bytes(changed)
    every_verb_refuses(made)
    with pytest.raises(KeyRequiredError):
        safe_load(made)


def test_an_older_file_is_refused(made, tmp_path):
    """By who remembers, or knows the number; it is as whole as the newest."""
    new = made.with_name(f"new{made.suffix}")
    state = tmp_path / "seen"
    assert rotate(made, new, key=KEY, state=state).epoch == 1
    verify(made, key=KEY)
    for options in ({"min_epoch": 1}, {"state": state}):
        verify(new, key=KEY, **options)
        with pytest.raises(VerificationError, match="epoch"):
            verify(made, key=KEY, **options)
        with pytest.raises(VerificationError, match="epoch"):
            restore(made, made.with_name(f"out{made.suffix}"), key=KEY, **options)


def test_a_rotation_that_fails_locks_nobody_out(made, tmp_path, monkeypatch):
    """Nothing remembers an epoch of which there is no file: the old one still opens."""
    state, new = tmp_path / "seen", made.with_name(f"new{made.suffix}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output.Commit, "__call__", full)
        with pytest.raises(OSError, match="No space"):
            rotate(made, new, key=KEY, state=state)
    assert not new.exists()
    assert verify(made, key=KEY, state=state).epoch == 0

    state.write_text("damaged")
    with pytest.raises(StateFormatError):
        rotate(made, new, key=KEY, state=state)
    assert not new.exists()


def test_a_folder_that_is_not_rotated_locks_nobody_out(made, tmp_path, monkeypatch):
    """The same of many files."""
    hub, new, state = (tmp_path / name for name in ("hub", "new", "seen"))
    (tmp_path / "plain").mkdir()
    model = tmp_path / "plain" / f"model{made.suffix}"
    model.write_bytes(made.with_name(f"plain{made.suffix}").read_bytes())
    protect(tmp_path / "plain", hub, key=KEY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folders, "commit_folder", full)
        with pytest.raises(OSError, match="No space"):
            rotate(hub, new, key=KEY, state=state)
    assert not new.exists()
    assert verify(hub, key=KEY, state=state).epoch == 0
    assert rotate(hub, new, key=KEY, state=state).epoch == 1
    with pytest.raises(VerificationError, match="seen before"):
        verify(hub, key=KEY, state=state)


def test_every_dtype_and_shape_survives(tmp_path):
    """0-dim, empty, tied, not contiguous; bfloat16, float8, complex, bool."""
    tied = torch.randn(6)
    state = {
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "tied": tied,
        "tied too": tied,
        "part": torch.arange(20).reshape(4, 5)[:, 1:3],
        "nan": torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32),
    }
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.complex64,
                  torch.complex128, torch.bool, torch.int8, torch.uint8, torch.int16,
                  torch.float8_e4m3fn, torch.float8_e5m2):  # fmt: skip
        state[str(dtype)] = torch.randn(5).to(dtype)
    torch.save(state, tmp_path / "plain.pt")
    for confidential in (False, True):
        path = tmp_path / f"{confidential}.pt"
        protect(tmp_path / "plain.pt", path, key=KEY, confidential=confidential)
        torch.load(path, weights_only=True)
        restore(path, tmp_path / "back.pt", key=KEY, overwrite=True)
        assert (tmp_path / "back.pt").read_bytes() == (
            tmp_path / "plain.pt"
        ).read_bytes()


def test_the_target_moves(made):
    """Rotated, other names and another order; the plain file is the same."""
    places = stored_places(made)
    new = made.with_name(f"new{made.suffix}")
    rotate(made, new, key=KEY)

    def pool(path: Path) -> bytes:
        data = path.read_bytes()
        return b"".join(data[a : a + n] for a, n, _ in sorted(stored_places(path)))

    assert places
    assert pool(made) != pool(new)
    assert sorted(pool(made)) == sorted(pool(new))
    assert stored_names(made).isdisjoint(stored_names(new))
    back = made.with_name(f"back{made.suffix}")
    restore(new, back, key=KEY)
    plain = made.with_name(f"plain{made.suffix}")
    assert back.read_bytes() == plain.read_bytes()


def stored_names(path: Path) -> set[str]:
    """Return the names of stored tensors."""
    if path.suffix == ".pt":
        return set(torch.load(path, weights_only=True))
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    return set(json.loads(data[8 : 8 + length])) - {"__metadata__"}


def test_keys_show_in_no_file(made):
    """Nor does what is derived from them: only the id."""
    data = made.read_bytes()
    assert KEY._secret not in data
    if made.suffix == ".pt":
        assert bytes.fromhex(KEY.id) in data
    assert made.stat().st_size == len(data)
