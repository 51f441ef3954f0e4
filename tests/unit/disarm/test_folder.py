"""A folder is rebuilt file by file: what is written, what stays behind, and why."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

import safemodel
from safemodel import (
    SALVAGE,
    STRICT,
    ForbiddenGlobalError,
    LimitExceededError,
    Limits,
    MalformedFileError,
    Scrub,
    disarm,
    safe_load,
)
from safemodel._cli import main
from safemodel._disarm.folder_plan import Task
from safemodel._disarm.one_file import Settings
from safemodel._disarm.tasks import do_task
from safemodel.limits import DEFAULT_LIMITS
from safemodel.reports import DisarmReport
from tests.unit.disarm.helpers_disarm import differences, saved
from tests.unit.disarm.helpers_folder import (
    CONFIG,
    INDEX,
    NAMES,
    SHARDS,
    disarmed,
    fill,
    hub,
    left,
    written,
)

SCHEMA = Path(safemodel.__file__).parent / "_report" / "disarm-report.schema.json"
SETTINGS = Settings(
    policy=SALVAGE, scrub=None, limits=DEFAULT_LIMITS, overwrite=False, digests=True
)
HOSTILE = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."
BROKEN = saved({"w": torch.ones(9)})[:-30]


def test_a_folder_of_a_hub_comes_out_whole(tmp_path):
    """Every tensor keeps its bits, every other file its content; an index loads."""
    report = disarm(hub(tmp_path / "in"), tmp_path / "out")

    assert written(tmp_path / "out") == written(tmp_path / "in")
    assert report.left_behind == ()
    for name, tensors in zip(NAMES, SHARDS, strict=True):
        loaded = torch.load(tmp_path / "out" / name, weights_only=True)
        assert differences(loaded, tensors) == []
    config = (tmp_path / "out" / "config.json").read_bytes()
    assert json.loads(config) == CONFIG
    assert list(json.loads(config)) == list(CONFIG)
    assert config.isascii()
    for name in ("README.md", "LICENSE", "onnx/vocab.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (
            tmp_path / "in" / name
        ).read_bytes()
    whole = safe_load(tmp_path / "out" / INDEX)
    assert differences(whole, {**SHARDS[0], **SHARDS[1]}) == []


def test_the_report_of_a_folder_has_one_for_each_file(tmp_path):
    """With the paths within the folder, digests of its own, in the order of names."""
    report = disarm(hub(tmp_path / "in"), tmp_path / "out")

    assert (report.format, report.out_format) == ("folder", "folder")
    assert [part.path for part in report.parts] == written(tmp_path / "in")
    assert [part.out for part in report.parts] == written(tmp_path / "out")
    forms = {part.path: part.out_format for part in report.parts}
    assert forms["config.json"] == "json"
    assert forms["LICENSE"] == "text"
    assert forms[INDEX] == "json"
    assert forms[NAMES[0]] == "pt"
    for folder, of_all, name in (
        ("in", report.source, "source"),
        ("out", report.result, "result"),
    ):
        sizes = [path.stat().st_size for path in (tmp_path / folder).rglob("*.*")]
        sizes.append((tmp_path / folder / "LICENSE").stat().st_size)
        assert of_all.size == sum(sizes)
        assert (of_all.sha256, of_all.blake3) == ("", "")
        assert sum(getattr(part, name).size for part in report.parts) == sum(sizes)
        assert all(len(getattr(part, name).sha256) == 64 for part in report.parts)
    tensors = [tensor.name for part in report.parts for tensor in part.tensors]
    assert sorted(tensors) == sorted([*SHARDS[0], *SHARDS[1]])
    members = json.loads(report.to_json())
    jsonschema.validate(members, json.loads(SCHEMA.read_text()))
    assert DisarmReport.from_dict(members) == report
    assert "pytorch_model.bin.index.json" in report.to_html()
    said = str(report).splitlines()
    assert "files        7" in said
    assert "; 4 tensors kept bit for bit" in said[-1]


def test_another_format_gets_the_names_that_loaders_look_for(tmp_path):
    """Shards, their index and the tensors in it, and the way back."""
    report = disarm(hub(tmp_path / "in"), tmp_path / "out", format="safetensors")

    new = [f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
    for name, tensors in zip(new, SHARDS, strict=True):
        loaded = load_file(tmp_path / "out" / name)
        assert differences({key: loaded[key] for key in tensors}, tensors) == []
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 48 + 8 + 12 + 8},
        "weight_map": {
            "embed.weight": new[0], "tied": new[0],
            "head.weight": new[1], "count": new[1],
        },
    }  # fmt: skip
    assert list(tmp_path.glob("out/*.bin*")) == []

    disarm(tmp_path / "out", tmp_path / "back", format="pt")
    assert written(tmp_path / "back") == written(tmp_path / "in")
    whole = safe_load(tmp_path / "back" / INDEX)
    tensors = {**SHARDS[0], **SHARDS[1]}
    assert differences({name: whole[name] for name in tensors}, tensors) == []
    assert len(whole) == len(tensors)
    assert report.parts[-1].out == "model.safetensors.index.json"


def test_names_that_share_a_tensor_are_in_the_index_of_a_torch_file(tmp_path):
    """And one of them in that of a safetensors file, which holds it once."""
    tensor = torch.ones(3)
    files = {
        "model.bin": saved({"a": tensor, "b": tensor, "epoch": 3}),
        "model.bin.index.json": {"weight_map": {"a": "model.bin", "b": "model.bin"}},
    }
    disarmed(tmp_path, files)
    index = json.loads((tmp_path / "out/model.bin.index.json").read_text())
    assert index["weight_map"] == {"a": "model.bin", "b": "model.bin"}

    disarm(tmp_path / "in", tmp_path / "st", format="safetensors")
    index = json.loads((tmp_path / "st/model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": "model.safetensors"}
    assert index["metadata"] == {"total_size": 12}


@pytest.mark.parametrize(
    ("files", "why", "kind"),
    [
        ({}, "its shard b.bin was not written", "refused"),
        ({"b.bin": BROKEN}, "its shard b.bin was not written", "refused"),
        ({"b.bin": saved({"x": torch.ones(1)})}, "in two of its shards", "refused"),
    ],
)
def test_an_index_without_its_shards_is_not_written(tmp_path, files, why, kind):
    """One that is missing, refused, or holds what another one holds."""
    index = {"weight_map": {"x": "a.bin", "y": "b.bin"}}
    files = {"a.bin": saved({"x": torch.ones(2)}), "m.index.json": index, **files}

    report = disarmed(tmp_path, files)

    assert why in left(report)["m.index.json"]
    assert {one.kind for one in report.left_behind} == {kind}
    assert "m.index.json" not in written(tmp_path / "out")
    assert "a.bin" in written(tmp_path / "out")

    with pytest.raises(MalformedFileError):
        disarm(tmp_path / "in", tmp_path / "strict", policy=STRICT)
    assert not (tmp_path / "strict").exists()


def test_an_index_that_is_none_is_refused(tmp_path):
    """By name, or by content under another name."""
    files = {"m.index.json": {"weights": 1}, "config.json": {"weight_map": {}}}
    report = disarmed(tmp_path, files)
    assert "no weight_map" in left(report)["m.index.json"]
    assert "its name is not of one" in left(report)["config.json"]
    assert written(tmp_path / "out") == []


def test_a_model_that_is_refused_is_left_behind_and_named(tmp_path):
    """The rest is written; the command ends with 1. `STRICT` refuses the folder."""
    files = {"a.pt": saved({"w": torch.ones(2)}), "b.pt": BROKEN, "c.bin": HOSTILE}
    report = disarmed(tmp_path, files)

    assert written(tmp_path / "out") == ["a.pt", "c.bin"]
    (one,) = report.left_behind
    assert (one.kind, one.name, one.size) == ("refused", "b.pt", len(BROKEN))
    assert one.why.startswith("MalformedFileError: ")
    (found,) = [f for part in report.parts for f in part.removed if f.opcode]
    assert found.name == "os.system"
    assert f"  refused b.pt: {one.why}, " in str(report)
    assert torch.load(tmp_path / "out/c.bin", weights_only=True) == {
        "class": "os.system", "args": ("true",),
    }  # fmt: skip

    with pytest.raises(MalformedFileError):
        disarm(tmp_path / "in", tmp_path / "strict", policy=STRICT)
    (tmp_path / "in" / "b.pt").unlink()
    with pytest.raises(ForbiddenGlobalError) as caught:
        disarm(tmp_path / "in", tmp_path / "strict", policy=STRICT)
    assert caught.value.globals == (("os", "system", "", 2),)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_command_takes_folders(tmp_path, capsys):
    """0 where every model was rebuilt, 1 where one was not, 2 where none could be."""
    source = fill(tmp_path / "in", {"a.pt": saved({"w": torch.ones(2)}), "x.py": "1"})
    assert main(["disarm", str(source), str(tmp_path / "one")]) == 0
    assert "\n  file x.py: source code, 1 byte\n" in capsys.readouterr().out

    (source / "b.pt").write_bytes(BROKEN)
    assert main(["disarm", str(source), str(tmp_path / "two")]) == 1
    assert "\n  refused b.pt: MalformedFileError: " in capsys.readouterr().out
    assert written(tmp_path / "two") == ["a.pt"]

    assert main(["disarm", str(source), str(tmp_path / "two")]) == 2
    assert "cannot be replaced" in capsys.readouterr().err
    assert main(["disarm", str(source), str(source / "below")]) == 2
    assert "within the one to read" in capsys.readouterr().err


def test_scrubbing_reaches_every_model_of_a_folder(tmp_path):
    """And nothing else of it."""
    weights = torch.full((4,), 1.2345678)
    files = {"a.pt": saved({"w": weights}), "b/c.bin": saved({"w": weights})}
    scrub = Scrub(bits=12, method="zero")
    report = disarmed(tmp_path, files, scrub=scrub)

    assert [part.tensors[0].scrubbed_bits for part in report.parts] == [12, 12]
    for name in files:
        loaded = torch.load(tmp_path / "out" / name, weights_only=True)["w"]
        assert (loaded.view(torch.int32) & 0xFFF).tolist() == [0] * 4
        assert not torch.equal(loaded, weights)


def test_limits_reach_every_file_of_a_folder(tmp_path):
    """A file that asks for more is refused by itself."""
    files = {"a.pt": saved([torch.ones(1)])}
    files["b.pt"] = saved([torch.ones(1), torch.ones(1)])
    report = disarmed(tmp_path, files, limits=Limits(max_tensors=1))
    assert written(tmp_path / "out") == ["a.pt"]
    assert left(report)["b.pt"].startswith("LimitExceededError: max_tensors")


def test_classes_of_the_caller_are_made_in_the_same_process(tmp_path):
    """Code of the caller's cannot be sent to another one."""
    calls = []

    def config(args, state):
        calls.append(args)
        return {"mine": args[0]}

    policy = SALVAGE.with_extra({"pkg.Config": config})
    pickled = b"\x80\x02cpkg\nConfig\nK\x07\x85R."
    disarmed(tmp_path, {"a.pt": pickled}, policy=policy)

    assert calls == [(7,)]
    assert torch.load(tmp_path / "out/a.pt", weights_only=True) == {"mine": 7}


def test_content_and_name_have_to_agree(tmp_path):
    """A model under the name of a side file, or the other way round, stays behind."""
    model = saved({"w": torch.ones(2)})
    files = {
        "config.json": HOSTILE, "notes.txt": model, "weights.pt": "{}",
        "model.bin": '{"a": 1}', "table.csv": HOSTILE,
        "tokenizer.model": b"\n\x0b\n", "model.gguf": b"GGUF\3\0\0\0",
        "logo.png": b"\x89PNG\r\n\x1a\n", "evil.py": model,
        "lib.so": b"\x7fELF",
        "pages.dat": "text", "w.h5": b"\x89HDF\r\n\x1a\n",
        "net.onnx": b"\x08\x07\x12\x07pytorch", "chat.jinja": "{{ x }}",
        "c.yaml": "a: 1", "requirements.txt": "evil", "pack.whl": model,
        "package.json": "{}", "Deno.json": "{}", "x/CMakeLists.txt": "evil",
        "empty.json": "",
    }  # fmt: skip
    report = disarmed(tmp_path, files)

    assert written(tmp_path / "out") == []
    assert sorted(left(report)) == sorted(files)
    refused = {one.name for one in report.left_behind if one.kind == "refused"}
    assert refused == {"weights.pt", "model.bin"}
    why = left(report)
    assert why["config.json"] == "not a JSON text, as its name says"
    assert why["logo.png"] == "a PNG image"
    assert why["tokenizer.model"] == "not a model file that safemodel knows"
    for name in ("requirements.txt", "package.json", "Deno.json", "x/CMakeLists.txt"):
        assert why[name] == "packages and commands that other programs run"


def test_a_model_under_an_unknown_name_is_rebuilt(tmp_path):
    """Content decides: old checkpoints end in anything."""
    tensors = {"w": torch.arange(3.0)}
    report = disarmed(
        tmp_path, {"best.pth.tar": saved(tensors), "x.sd": saved(tensors)}
    )
    assert report.left_behind == ()
    for name in ("best.pth.tar", "x.sd"):
        loaded = torch.load(tmp_path / "out" / name, weights_only=True)
        assert differences(loaded, tensors) == []


def test_a_file_is_not_written_to_a_folder(tmp_path):
    """A clear error instead of one about its suffix."""
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError, match="name the file to write in it"):
        disarm(saved({}), tmp_path / "out", overwrite=True)
    fill(tmp_path / "in", {"a.txt": "a"})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="not a folder"):
        disarm(tmp_path / "in", tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_more_files_than_the_limit_are_refused_before_any_is_opened(tmp_path):
    """As many as the limit are not."""
    files = {f"{at}.txt": "x" for at in range(5)}
    assert len(disarmed(tmp_path, files, limits=Limits(max_records=5)).parts) == 5
    with pytest.raises(LimitExceededError) as caught:
        disarm(tmp_path / "in", tmp_path / "b", limits=Limits(max_records=4))
    assert (caught.value.limit, caught.value.requested) == ("max_records", 5)
    assert not Path(tmp_path / "b").exists()


def test_what_cannot_be_looked_at_may_be_a_model(tmp_path, capsys):
    """So the command ends with 1, and a strict policy refuses."""
    source = fill(tmp_path / "in", {"a.pt": saved([1])})
    (source / "weights").symlink_to("/usr")
    assert main(["disarm", str(source), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "  refused weights/: a link that leads out of the folder\n" in said

    with pytest.raises(MalformedFileError, match="leads out") as caught:
        disarm(source, tmp_path / "strict", policy=STRICT)
    assert caught.value.record == "weights/"
    assert not (tmp_path / "strict").exists()


def test_real_files_come_out_as_they_do_one_by_one(zoo, tmp_path):
    """The whole zoo at once: no model that is read is refused."""
    report = disarm(zoo / "files", tmp_path / "out")
    assert [one.name for one in report.left_behind if one.kind == "refused"] == []
    assert len(report.parts) > 100
    for part in report.parts[::20]:
        disarm(zoo / "files" / part.path, tmp_path / "one.pt", overwrite=True)
        if part.out_format == "pt":
            one = (tmp_path / "one.pt").read_bytes()
            assert (tmp_path / "out" / part.out).read_bytes() == one


def test_digests_can_be_left_out_of_every_file(tmp_path):
    """Of models and of what lies beside them."""
    report = disarm(hub(tmp_path / "in"), tmp_path / "out", digests=False)
    assert {part.source.sha256 + part.result.blake3 for part in report.parts} == {""}
    assert all(part.source.size and part.result.size for part in report.parts)


def test_a_file_that_no_writer_takes_is_left_behind(tmp_path):
    """Of an archive nobody knows that it should hold a model."""
    data = saved([1])
    for name, refused in (("a.none", True), ("a.zip", False)):
        path = fill(tmp_path / "in", {name: data}) / name
        task = Task(name, str(path), len(data), "model", "a.none", None)
        answer = do_task(task, tmp_path, SETTINGS)
        assert (answer.report, answer.refused) == (None, refused)
        assert "give a format" in answer.why


def test_a_format_for_all_models_is_one_they_can_have(tmp_path):
    """Anything else is the caller's mistake."""
    with pytest.raises(ValueError, match="no format"):
        disarmed(tmp_path, {"a.pt": saved([1])}, format="zipped")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_models_stays_one(tmp_path):
    """Whatever format the other models get; one of other things is left behind."""
    for name, members in (
        ("agent.zip", {"policy.pth": saved({"w": torch.ones(2)}), "data": b"{}"}),
        ("other.zip", {"a.png": b"\x89PNG\r\n\x1a\n"}),
    ):
        (tmp_path / "in").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)

    report = disarm(tmp_path / "in", tmp_path / "out", format="safetensors")
    assert [(part.out, part.out_format) for part in report.parts] == [
        ("agent.zip", "zip")
    ]
    (other,) = report.left_behind
    assert (other.name, other.kind) == ("other.zip", "file")
    with zipfile.ZipFile(tmp_path / "out" / "agent.zip") as archive:
        loaded = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    assert differences(loaded, {"w": torch.ones(2)}) == []
