"""Archives of models, as Stable-Baselines3 writes: every member rebuilt by itself."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from safemodel import SafeModelError, UnsupportedFormatError, disarm, safe_load
from safemodel._cli import main
from safemodel._rewrite import output
from safemodel._rewrite.readback import FUNCTIONS, OPCODES
from safemodel.errors import DisarmError
from tests.conftest import ROOT, ZOO
from tests.unit.disarm.helpers_disarm import differences, saved

CALL = b"csafemodel.testing\ntrip\n(tR."
CLOUDPICKLE = base64.b64encode(CALL).decode()
WEIGHTS = {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
FIELD = {":type:": "<class 'abc.ABCMeta'>", ":serialized:": CLOUDPICKLE}
DATA = json.dumps({"gamma": 0.99, "policy_class": FIELD, "n": [1, None]}).encode()


def bundle(members: dict[str, bytes], comment: bytes = b"") -> bytes:
    """Return an archive of members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = comment
    return out.getvalue()


def left_of(report) -> list:
    """Return what is left behind of members, without headers and the like."""
    return [left for left in report.left_behind if left.kind in ("field", "member")]


def disarmed(tmp_path, members: dict[str, bytes]):
    """Return the members of what is written of an archive, and the report."""
    out = tmp_path / "out.zip"
    report = disarm(bundle(members), out, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.zip"]
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}, report


def opened(data: bytes) -> object:
    """Return what stock torch loads with weights only; its pickle is one of ours."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickled = archive.read("archive/data.pkl")
    for opcode, argument, _ in pickletools.genops(pickled):
        assert opcode.name in OPCODES
        if opcode.name == "GLOBAL":
            assert argument in FUNCTIONS or argument.startswith("torch ")
    return torch.load(io.BytesIO(data), weights_only=True)


def test_an_archive_of_models_comes_out_as_one(tmp_path):
    """Models rebuilt, JSON without its pickles, text as it was, in the same order."""
    members, report = disarmed(
        tmp_path,
        {
            "data": DATA,
            "policy.pth": saved(WEIGHTS),
            "_stable_baselines3_version": b"1.10",
            "system_info.txt": "OS: Linux – naïve\r\n\tTorch: 1.13\n".encode(),
        },
    )

    assert list(members) == [
        "data", "policy.pth", "_stable_baselines3_version", "system_info.txt",
    ]  # fmt: skip
    assert differences(WEIGHTS, opened(members["policy.pth"])) == []
    assert json.loads(members["data"]) == {
        "gamma": 0.99, "policy_class": {":type:": FIELD[":type:"]}, "n": [1, None],
    }  # fmt: skip
    assert members["_stable_baselines3_version"] == b"1.10"
    assert members["system_info.txt"].decode() == "OS: Linux – naïve\r\n\tTorch: 1.13\n"
    (left,) = left_of(report)
    assert (left.kind, left.name) == ("field", "data[policy_class].:serialized:")
    assert left.size == len(CLOUDPICKLE)
    assert "safemodel.testing.trip" in [found.name for found in report.removed]
    assert [kept.name for kept in report.tensors] == ["policy.pth.w", "policy.pth.b"]
    assert (report.out_format, report.format) == (
        "zip",
        "zip archive of several members",
    )


def test_what_lies_around_the_members_is_gone(tmp_path):
    """Comments, extra fields, times, and unused records of a member."""
    inner = io.BytesIO(saved(WEIGHTS))
    with zipfile.ZipFile(inner, "a") as archive:
        archive.writestr("archive/unused", b"a planted record")
    data = io.BytesIO(
        bundle({"policy.pth": inner.getvalue(), "data": DATA}, b"a planted comment")
    )
    with zipfile.ZipFile(data, "a") as archive:
        info = zipfile.ZipInfo("note.txt", (2001, 2, 3, 4, 5, 6))
        info.comment, info.extra = b"a planted remark", b"\x99\x99\x0f\0a planted extra"
        archive.writestr(info, b"hello")

    disarm(data.getvalue(), tmp_path / "out.zip")

    assert b"a planted" in data.getvalue()
    assert b"a planted" not in (tmp_path / "out.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("note.txt") == b"hello"


def as_stable_baselines_reads(text: bytes) -> list[object]:
    """Return what its loader would unpickle of the member ``data``."""
    members = json.loads(text.decode())
    return [
        item[":serialized:"]
        for item in members.values()
        if isinstance(item, dict) and ":serialized:" in item
    ]


HIDDEN = CLOUDPICKLE.encode()
FIELD_TEXTS = {
    "plain": b'{"a": {":serialized:": "' + HIDDEN + b'"}}',
    "escaped": b'{"a": {"\\u003a\\u0073erialized:": "' + HIDDEN + b'"}}',
    "at the root": b'{":serialized:": "' + HIDDEN + b'"}',
    "in lists": b'{"a": [[{"b": {":serialized:": "' + HIDDEN + b'"}}]]}',
    "a list": b'{"a": {":serialized:": ["' + HIDDEN + b'"]}}',
    "NaN": b'{"x": NaN, "a": {":serialized:": "' + HIDDEN + b'"}}',
    "out of range": b'{"x": 1e999, "a": {":serialized:": "' + HIDDEN + b'"}}',
    "twice": b'{"a": 1, "a": {":serialized:": "' + HIDDEN + b'"}}',
    "long number": b'{"x": %s, "a": {":serialized:": "%s"}}' % (b"9" * 30, HIDDEN),
    "deep": b'{"x": %s, "a": {":serialized:": "%s"}}' % (b"[" * 70 + b"]" * 70, HIDDEN),
    "space before": b' \r\n\t{"a": {":serialized:": "' + HIDDEN + b'"}}',
    "mark before": b'\xef\xbb\xbf{"a": {":serialized:": "' + HIDDEN + b'"}}',
    "UTF-16": '{"a": {":serialized:": "x"}}'.encode("utf-16") + HIDDEN,
    "cut": b'{"a": {":serialized:": "' + HIDDEN + b'"',
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".zip", ".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize("text", FIELD_TEXTS.values(), ids=FIELD_TEXTS)
def test_a_serialized_field_never_comes_through(tmp_path, text, suffix):
    """However it is spelled, and whatever the output is; each is listed."""
    data = bundle({"data": text, "policy.pth": saved(WEIGHTS)})
    out = tmp_path / f"out{suffix}"

    report = disarm(data, out)

    assert HIDDEN in data
    assert HIDDEN not in out.read_bytes()
    ((kind, name),) = [(left.kind, left.name) for left in left_of(report)]
    assert (kind, name.partition("[")[0].partition(".")[0]) in (
        ("field", "data"), ("member", "data"),
    )  # fmt: skip
    if suffix == ".zip":
        with zipfile.ZipFile(out) as archive:
            if "data" in archive.namelist():
                assert as_stable_baselines_reads(archive.read("data")) == []


def test_very_many_fields_are_counted_and_cut(tmp_path):
    """A thousand are listed; all are gone."""
    text = json.dumps([{":serialized:": "planted"}] * 2000).encode()
    members, report = disarmed(tmp_path, {"data": text, "policy.pth": saved(WEIGHTS)})
    assert b"planted" not in members["data"]
    assert len(left_of(report)) == 1000
    assert left_of(report)[-1].why.endswith("this field and all after it")


OTHER = {
    "blob.bin": (b"\xff\xfe\0\1", "bytes of no model"),
    "run.py": (b"print()", "a name that is not one of a text"),
    "args.yml": (b"!!python/object/apply:os.system [true]", "a name that is not"),
    "start.txt": (b"#!/bin/sh\n", "a program"),
    "Makefile": (b"all:\n\ttrue\n", "a name that is not one of a text"),
    ".profile": (b"true\n", "a name that is not one of a text"),
    ".ssh/keys.txt": (b"ssh-ed25519 key", "a name that is not one of a text"),
    ".vscode/tasks.json": (b'{"tasks": []}', "hidden"),
    "a/.eslintrc.json": (b"{}", "hidden"),
    "x.pth": (b"import os\n", "a name that is not one of a text"),
    "shown.txt": ("a\u202eb".encode(), "characters that do not show"),
    "bell.txt": (b"a\x07", "characters that do not show"),
    "pickle.txt": (b"(0" + CALL, "a pickle to other readers"),
    "late.txt": (b"I1\n0S'a'\n0" + CALL, "a pickle to other readers"),
    # SHORT_BINSTRING takes the first byte of a letter, the second is STACK_GLOBAL.
    "letter.txt": (b"S'os'\nS'system'\nU\t12345678\xc4\x930", "a pickle"),
    "long.txt": (b"x" * ((4 << 20) + 1), "more than 4,194,304"),
}


@pytest.mark.parametrize("suffix", [".zip", ".pt"])
@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_model_json_or_text_is_left_behind(tmp_path, name, suffix):
    """And listed, with its size and the reason."""
    content, why = OTHER[name]
    data = bundle({name: content, "policy.pth": saved(WEIGHTS)})

    report = disarm(data, tmp_path / f"out{suffix}")

    (left,) = left_of(report)
    assert (left.kind, left.name, left.size) == ("member", name, len(content))
    assert why in left.why
    assert list(safe_load(tmp_path / f"out{suffix}")) == ["policy.pth"]


@pytest.mark.parametrize(
    "text",
    ["", "2.0.0", "1.8\n", "The model\n", "Model card", "- OS: Linux\n", "I am\n", "U",
     "(no pickle)", "naïve ✓", "x" * (4 << 20)],
)  # fmt: skip
def test_plain_text_comes_through(tmp_path, text):
    """The other side of each rule."""
    given = {"note.txt": text.encode(), "policy.pth": saved(WEIGHTS)}
    members, report = disarmed(tmp_path, given)
    assert members["note.txt"] == text.encode()
    assert left_of(report) == []


@pytest.mark.parametrize("name", ["README", "a/LICENSE", "version", "x.MD", "a.b.csv"])
def test_texts_have_one_of_a_few_names(tmp_path, name):
    """Those that nobody runs."""
    given = {name: b"plain\n", "policy.pth": saved(WEIGHTS)}
    assert list(disarmed(tmp_path, given)[0]) == list(given)


@pytest.mark.parametrize(
    "name",
    ["modèle.pth", "modelé", "-rf", "~x", "con", "x/NUL.pth",
     "com1.txt", "a.", "a ", " a", "a./b", "b" * 201,
     "a:b", "a?b", "policy.pth/b", "Policy.pth/b", "a'b"],
)  # fmt: skip
def test_a_name_that_is_no_plain_path_everywhere_is_refused(tmp_path, name):
    """For an archive; other formats have no files of these names."""
    data = bundle({"policy.pth": saved(WEIGHTS), name: saved(WEIGHTS)})
    with pytest.raises(SafeModelError):
        disarm(data, tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_plain_paths_are_kept(tmp_path):
    """Folders, spaces within, and as long as there is leave."""
    names = ["a/b.pth", "a/c d.pth", "console", ".hidden", "b" * 200, "x(1)+y=z,@-_"]
    given = {name: saved(WEIGHTS) for name in names}
    assert list(disarmed(tmp_path, given)[0]) == names


@pytest.mark.parametrize(
    "members",
    [{"x/data.pkl": saved(WEIGHTS), "x/blob.bin": b"\xff", "note.py": b"1"},
     {"a.npy": b"", "blob.bin": b"\xff"}],
)  # fmt: skip
def test_what_is_kept_must_still_be_an_archive_of_models(tmp_path, members):
    """Members that are left behind do not make it one of torch or of numpy."""
    array = io.BytesIO()
    np.save(array, np.arange(3))
    given = {name: data or array.getvalue() for name, data in members.items()}
    with pytest.raises(UnsupportedFormatError, match="would be taken for"):
        disarm(bundle(given), tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []


def test_other_files_do_not_become_archives(tmp_path, capsys):
    """The caller chose a format that there is none for; nothing is written."""
    with pytest.raises(ValueError, match="only an archive of several models"):
        disarm(saved(WEIGHTS), tmp_path / "out.zip")
    with pytest.raises(ValueError, match="only an archive of several models"):
        disarm(saved(WEIGHTS), tmp_path / "out", format="zip")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "in.pt").write_bytes(saved(WEIGHTS))
    assert main(["disarm", str(tmp_path / "in.pt"), str(tmp_path / "o.zip")]) == 2
    assert "only an archive" in capsys.readouterr().err


def of_numpy(write, *arrays, **named) -> bytes:
    """Return what a function of numpy writes."""
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


def test_members_of_every_format_stay_what_they_were(tmp_path):
    """Torch files of all ages become one kind; arrays and safetensors stay theirs."""
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    given = {
        "new.pth": saved(WEIGHTS),
        "old.pth": saved(WEIGHTS, _use_new_zipfile_serialization=False),
        "bare.pkl": pickle.dumps([1, "two"]),
        "tensors.safetensors": save(WEIGHTS),
        "arrays.npz": of_numpy(np.savez, x=array, y=np.float32(3)),
        "one.npy": of_numpy(np.save, array),
        "none.npy": of_numpy(np.save, np.zeros((0, 3))),
        "scalar.npy": of_numpy(np.save, np.float64(2.5)),
        "objects.npy": of_numpy(np.save, np.array(["a", 1], object), allow_pickle=True),
        "inner.zip": bundle({"data": DATA, "deep.pth": saved(WEIGHTS)}),
    }
    members, report = disarmed(tmp_path, given)

    assert list(members) == list(given)
    for name in ("new.pth", "old.pth"):
        assert differences(WEIGHTS, opened(members[name])) == []
    assert opened(members["bare.pkl"]) == [1, "two"]
    tensors = load(members["tensors.safetensors"])
    assert differences(WEIGHTS, {name: tensors[name] for name in WEIGHTS}) == []
    with np.load(io.BytesIO(members["arrays.npz"])) as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {
            "x": array.tolist(), "y": 3.0,
        }  # fmt: skip
    for name in ("one.npy", "none.npy", "scalar.npy"):
        before, after = (np.load(io.BytesIO(m[name])) for m in (given, members))
        assert (before.shape, before.tolist()) == (after.shape, after.tolist())
    with np.load(io.BytesIO(members["objects.npy"])) as notes:
        assert json.loads(bytes(notes["safemodel.json"]))["data"] == {"0": "a", "1": 1}
    with zipfile.ZipFile(io.BytesIO(members["inner.zip"])) as inner:
        assert differences(WEIGHTS, opened(inner.read("deep.pth"))) == []
        assert as_stable_baselines_reads(inner.read("data")) == []
    names = [left.name for left in left_of(report)]
    assert names == ["inner.zip/data[policy_class].:serialized:"]


@pytest.mark.parametrize("suffix", [".zip", ".pt"])
def test_an_error_in_a_member_leaves_nothing_behind(tmp_path, suffix):
    """A flipped byte of a weight, within an archive that fits it."""
    inner = bytearray(saved({"w": torch.arange(1000)}))
    inner[inner.index((777).to_bytes(8, "little"))] ^= 1
    with pytest.raises(SafeModelError):
        disarm(bundle({"p.pth": bytes(inner), "data": DATA}), tmp_path / f"o{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_of_the_archive_is_found(tmp_path):
    """The checksum of a member is compared, although it is read where it lies."""
    data = bytearray(bundle({"t.safetensors": save({"w": torch.ones(9)}), "d": b"x"}))
    data[data.index(torch.ones(9).numpy().tobytes())] ^= 1
    with pytest.raises(SafeModelError, match="CRC"):
        disarm(bytes(data), tmp_path / "out.zip")


@pytest.mark.parametrize("file", [0, 1])
def test_an_archive_that_reads_back_otherwise_never_gets_its_name(
    tmp_path, monkeypatch, file
):
    """A disk that changes a byte is noticed: of a member, and of the whole."""
    finish, files = output.Output.finish, []

    def corrupt(out):
        out.flush()
        if len(files) == file:
            os.pwrite(out._descriptor, b"?", 200_000)
        files.append(out)
        return finish(out)

    monkeypatch.setattr(output.Output, "finish", corrupt)
    with pytest.raises(DisarmError, match=r"bytes of .* are others"):
        disarm(bundle({"p.pth": saved({"w": torch.ones(100_000)}), "d": b"x"}),
               tmp_path / "out.zip")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_member_may_be_larger_than_what_is_held_in_memory(tmp_path):
    """Reading, writing and checking 120 MB takes no more than a few pieces."""
    program = (
        "import sys; from safemodel import disarm\n"
        "disarm(sys.argv[1], sys.argv[2])\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print([line.split()[1] for line in lines if line.startswith('VmHWM')][0])\n"
    )
    peaks = []
    for elements in (1000, 30_000_000):
        path = tmp_path / f"{elements}.zip"
        weights = {"w": torch.zeros(elements)}
        path.write_bytes(bundle({"p.pth": saved(weights), "data": DATA}))
        done = subprocess.run(
            [sys.executable, "-c", program, path, tmp_path / f"out-{elements}.zip"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        peaks.append(int(done.stdout) >> 10)
    assert peaks[1] - peaks[0] < 64


# What a pickle within a pickle holds, beside the numbers of its tensors.
PLANTED = "a planted name of a class"


class Inner:
    """Saves its tensor as torch did before it knew storages in pickles."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.data,)


def planted(value: object) -> bytes:
    """Return a legacy torch file with a comment of a pickle that nothing reads."""
    data = saved(value, _use_new_zipfile_serialization=False)
    comment = pickle.dumps(PLANTED, 2)[2:-1] + b"0"
    at = data.rindex(b"\x80\x02}")
    return data[: at + 2] + comment + data[at + 2 :]


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_files_within_pickles_come_out_rebuilt(tmp_path, suffix):
    """Their tensors are tensors of the file, and their pickles are gone."""
    weights = {"w": torch.tensor([3.25, -0.0]), "n": torch.arange(4)}
    data = pickle.dumps({"model": Inner(planted(weights)), "epoch": 3}, 2)
    out = tmp_path / f"out{suffix}"

    report = disarm(data, out)

    assert PLANTED.encode() in data
    written = out.read_bytes()
    assert PLANTED.encode() not in written
    assert b"\x80\x02" not in written.replace(b"\x80\x02", b"", suffix == ".pt")
    assert [kept.name for kept in report.tensors] == ["model.w", "model.n"]
    if suffix == ".npz":
        with np.load(out) as arrays:
            tensors = {n: torch.from_numpy(arrays[f"model.{n}"]) for n in weights}
    else:
        loaded = safe_load(out)
        tensors = (
            loaded["model"]
            if suffix == ".pt"
            else {name: loaded[f"model.{name}"] for name in weights}
        )
    assert differences(weights, dict(tensors)) == []


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_object_arrays_come_out_as_their_values(tmp_path, suffix):
    """The pickle behind an array's header, and the state of an array in a pickle."""
    values = np.array([1, "two", np.arange(3), None], object)
    comment = pickle.dumps(PLANTED, 4)[11:-2] + b"0"
    whole = of_numpy(np.save, values, allow_pickle=True)
    header = whole.index(b"\n") + 1
    whole = whole[:header] + b"\x80\x04" + comment + whole[header + 2 :]
    assert PLANTED.encode() in whole
    for data in (whole, pickle.dumps({"a": values}, 4)):
        out = tmp_path / f"out{suffix}"
        disarm(data, out, overwrite=True)

        written = out.read_bytes()
        assert PLANTED.encode() not in written
        assert b"numpy.core" not in written
        assert b"_reconstruct" not in written
        if suffix == ".pt":
            loaded = torch.load(out, weights_only=True)
            items = loaded["a"] if isinstance(loaded, dict) else loaded
            assert items[:2] == [1, "two"]
            assert torch.equal(items[2], torch.arange(3))
        else:
            report = disarm(data, out, overwrite=True)
            assert [kept.shape for kept in report.tensors] == [(3,)]
            assert b"two" in written


def zoo_rows() -> list[str]:
    """Return the archives of the zoo; empty where there is no zoo."""
    manifest = ZOO / "manifest.csv"
    if not manifest.is_file():
        return []
    with manifest.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return [row["file"] for row in rows if row["container"] == "zip-of-pth(sb3)"]


def same_members(before: zipfile.ZipFile, after: zipfile.ZipFile) -> int:
    """Compare every member; return how many of them are models."""
    assert after.namelist() == before.namelist()
    models = 0
    for name in before.namelist():
        if name.endswith(".pth"):
            file = io.BytesIO(before.read(name))
            stock = torch.load(file, map_location="cpu", weights_only=True)
            assert differences(stock, opened(after.read(name))) == []
            models += 1
        elif name != "data":
            assert after.read(name) == before.read(name)
    return models


@pytest.mark.parametrize("file", zoo_rows())
def test_a_real_archive_comes_out_whole_but_for_its_pickles(tmp_path, zoo, file):
    """Every tensor bit for bit, every hyperparameter that is JSON."""
    report = disarm(zoo / file, tmp_path / "out.zip")

    with (
        zipfile.ZipFile(zoo / file) as before,
        zipfile.ZipFile(tmp_path / "out.zip") as after,
    ):
        assert same_members(before, after) >= 2
        expected, made = (json.loads(a.read("data")) for a in (before, after))
    fields = 0
    for value in expected.values():
        if isinstance(value, dict):
            fields += value.pop(":serialized:", None) is not None
    assert made == expected
    assert [left.kind for left in left_of(report)] == ["field"] * fields
    assert b":serialized:" not in (tmp_path / "out.zip").read_bytes()


def test_a_hostile_twin_of_a_real_archive_runs_nothing(tmp_path, zoo, canary):
    """The output, opened as Stable-Baselines3 does and without any restriction."""
    hostile = io.BytesIO()
    with (
        zipfile.ZipFile(zoo / zoo_rows()[0]) as before,
        zipfile.ZipFile(hostile, "w") as twin,
    ):
        for name in before.namelist():
            data = before.read(name)
            if name == "data":
                fields = json.loads(data)
                fields["policy_class"][":serialized:"] = CLOUDPICKLE
                data = json.dumps(fields).encode()
            elif name.endswith(".pth"):
                data = with_a_call(data)
            twin.writestr(name, data)

    disarm(hostile.getvalue(), tmp_path / "out.zip")

    with (
        zipfile.ZipFile(zoo / zoo_rows()[0]) as before,
        zipfile.ZipFile(tmp_path / "out.zip") as after,
    ):
        assert same_members(before, after) >= 2
        for text in as_stable_baselines_reads(after.read("data")):
            pickle.loads(base64.b64decode(text))
        for name in after.namelist():
            if name.endswith(".pth"):
                torch.load(io.BytesIO(after.read(name)), weights_only=False)
    assert canary.trips == []


def with_a_call(data: bytes) -> bytes:
    """Return a torch file whose pickle first calls the canary."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                content = content[:2] + CALL[:-1] + b"0" + content[2:]
            new.writestr(name, content)
    return out.getvalue()


def test_what_makes_loaders_run_code_is_taken_out_of_json_members(tmp_path):
    """As out of the side files of a folder; the rest of the text stays."""
    config = {
        "auto_map": {"AutoModel": "x.Y"},
        "sub": {"_target_": "os.system"},
        "n": 1,
    }
    files = {"p.pth": saved({"w": torch.ones(2)}), "config.json": json.dumps(config)}
    report = disarm(bundle(files), tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        kept = json.loads(archive.read("config.json"))
    assert kept["n"] == 1
    assert "auto_map" not in kept
    assert "os.system" not in json.dumps(kept)
    removed = {
        one.name: one.record for one in report.removed if one.code == "code-field"
    }
    assert removed["auto_map"].startswith("config.json")
    assert report.to_dict()["removed"][0]["code"] == "code-field"
