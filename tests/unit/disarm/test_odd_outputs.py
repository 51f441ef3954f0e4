"""Names, numbers and targets that a format, a reader or a system could stumble over."""

from __future__ import annotations

import json
import os
import stat
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open

from safemodel import UnsupportedFormatError, disarm, safe_load
from safemodel._rewrite.names import Names
from tests.unit.disarm.helpers_disarm import saved


def strict(text: str) -> dict:
    """Parse JSON as a reader that takes JSON only."""

    def refuse(word):
        raise ValueError(word)

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def opened(path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors and the notes of a flat file, by other people's readers."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            tensors = {name: torch.from_numpy(archive[name]) for name in archive.files}
        notes = tensors.pop("safemodel.json", None)
        return tensors, {} if notes is None else strict(bytes(notes).decode())
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        return tensors, strict(file.metadata().get("safemodel", "{}"))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_parameter_is_a_tensor_under_its_name(tmp_path, suffix):
    """In a state dict, in a module, alone, tied and sparse."""
    tied = torch.nn.Parameter(torch.ones(2))
    value = {"w": tied, "v": tied, "frozen": torch.nn.Parameter(torch.zeros(1), False)}
    report = disarm(saved(value), tmp_path / f"out{suffix}")
    assert [kept.name for kept in report.tensors] == ["w", "frozen"]
    tensors, notes = opened(tmp_path / f"out{suffix}")
    assert set(tensors) == {"w", "frozen"}
    assert notes == {"same": {"v": "w"}}

    report = disarm(saved(torch.nn.Linear(2, 2)), tmp_path / f"module{suffix}")
    assert [kept.name for kept in report.tensors] == [
        "state._parameters.weight", "state._parameters.bias",
    ]  # fmt: skip


ODD = [
    "__metadata__", "__metadata__~2", "safemodel", "safemodel.json", "x", "x.npy",
    "X", "con", "nul.txt", "../up", "/root", "c:drive", "back\\slash", "", "~", "a.",
    "\ud800", "\\ud800", "é", "ö", "\0", "a\nb", '"', "\u202e", "LPT1", "x.npy.npy",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_every_tensor_is_found_whatever_its_name(tmp_path, suffix):
    """Under its name, or under the one that the notes give."""
    value = {name: torch.tensor([float(at)]) for at, name in enumerate(ODD)}
    report = disarm(saved(value), tmp_path / f"out{suffix}")

    tensors, notes = opened(tmp_path / f"out{suffix}")
    names = notes["names"]
    assert len(tensors) == len(ODD) == len(report.tensors)
    for at, kept in enumerate(report.tensors):
        escaped = kept.name.encode("utf-8", "backslashreplace").decode()
        # Two notes may be of names that are alike once they are escaped.
        there = names.get(escaped, escaped)
        if kept.name == "\\ud800":
            there = names["\\ud800~2"]
        assert tensors[there].item() == at, (kept.name, there)


def test_members_of_an_archive_of_arrays_are_files_anywhere(tmp_path):
    """No folder, no device, no two that differ by case, each found by its own name."""
    value = {name: torch.tensor([float(at)]) for at, name in enumerate(ODD)}
    disarm(saved(value), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        names = list(archive.files)
        assert len({archive[name].tobytes() for name in names[:-1]}) == len(ODD)
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert name.isascii()
        assert not set(name) & set("/\\:\0\n")
        assert name.partition(".")[0].lower() not in {"con", "nul", "lpt1"}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_notes_are_json_to_every_reader(tmp_path, suffix):
    """Numbers that are not finite, half a character, and what is like them."""
    value = {
        "w": torch.ones(1), "n": float("nan"), "i": float("inf"), "m": -float("inf"),
        "z": -0.0, "half": "a\ud800", "long": 1 << 1000, "text": "é\0\n",
    }  # fmt: skip
    disarm(saved(value), tmp_path / f"out{suffix}")

    data = opened(tmp_path / f"out{suffix}")[1]["data"]

    assert [data["n"], data["i"], data["m"]] == ["nan", "inf", "-inf"]
    assert str(data["z"]) == "-0.0"
    assert [data["half"], data["text"]] == ["a\\ud800", "é\0\n"]
    assert data["long"] == 1 << 1000


def test_a_header_that_no_reader_takes_is_not_written(tmp_path):
    """On both sides of what the library of the format allows."""
    out = tmp_path / "out.safetensors"
    disarm(saved({"w": torch.ones(1), "t": "a" * 99_999_000}), out)
    assert opened(out)[1]["data"]["t"] == "a" * 99_999_000
    out.unlink()
    with pytest.raises(UnsupportedFormatError, match="100,000,000"):
        disarm(saved({"w": torch.ones(1), "t": "a" * 100_000_000}), out)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_all_alike_cost_no_more_than_others():
    """Fifty thousand of them: counting from the start for each took minutes."""
    names = Names("-", ["X-3"], str.lower)
    started = time.perf_counter()
    given = [names.new("x" if at % 2 else "X") for at in range(50_000)]
    assert len({name.lower() for name in given}) == 50_000
    assert given[:3] == ["X", "x-2", "X-3"]
    assert time.perf_counter() - started < 10


def test_more_tensors_than_a_small_directory_counts(tmp_path):
    """65,536 and one: the directory of the archive says so in its wide record."""
    parts = torch.arange(65_600).split(1)
    disarm(
        saved({f"t{at}": part for at, part in enumerate(parts)}), tmp_path / "out.npz"
    )
    with np.load(tmp_path / "out.npz") as archive:
        assert len(archive.files) == 65_600
        assert archive["t65599"].tolist() == [65_599]
        assert archive["t1"].tolist() == [1]
    assert len(safe_load(tmp_path / "out.npz")) == 65_600


def test_a_device_is_never_replaced(tmp_path):
    """Nor a pipe, nor a link to one; not even with leave to overwrite."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to("pipe.pt")
    (tmp_path / "null.pt").symlink_to("/dev/null")
    data = saved({"w": torch.ones(1)})
    for name in ("pipe.pt", "link.pt", "null.pt"):
        with pytest.raises(FileExistsError, match="Not a regular file"):
            disarm(data, tmp_path / name, overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe.pt").stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    """Where it points is not ours to write to; a dangling one is a taken name."""
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "link.pt").symlink_to("target")
    (tmp_path / "gone.pt").symlink_to("nowhere")
    data = saved({"w": torch.ones(1)})
    for name in ("link.pt", "gone.pt"):
        with pytest.raises(FileExistsError):
            disarm(data, tmp_path / name)
        disarm(data, tmp_path / name, overwrite=True)
        assert not (tmp_path / name).is_symlink()
        assert torch.equal(safe_load(tmp_path / name)["w"], torch.ones(1))
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_as_target_or_none_to_write_to_is_a_clear_error(tmp_path):
    """The error names what the caller named, not the temporary file."""
    data = saved({"w": torch.ones(1)})
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        disarm(data, tmp_path / "folder.pt", overwrite=True)
    assert caught.value.filename == str(tmp_path / "folder.pt")
    with pytest.raises(FileNotFoundError) as caught:
        disarm(data, tmp_path / "none" / "out.pt")
    assert caught.value.filename == str(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        disarm(data, tmp_path / "file" / "out.pt")


@pytest.mark.parametrize("name", ["a" * 252 + ".pt", "é" * 126 + ".pt", "-.pt"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    """The temporary file beside it has a name of its own."""
    disarm(saved({"w": torch.ones(1)}), tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("wrong", ["onnx", "", "PT", 1])
def test_a_format_that_there_is_none_for_is_the_caller_s_mistake(tmp_path, wrong):
    """It is not taken for the last one in the list."""
    with pytest.raises(ValueError, match="no format"):
        disarm(saved({"w": torch.ones(1)}), tmp_path / "out.pt", format=wrong)
    assert list(tmp_path.iterdir()) == []
