"""Which files of a folder are touched at all: links, names, collisions, repeats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safemodel import LimitExceededError, Limits, disarm
from safemodel._disarm.folder_names import bad_name, naming
from safemodel._disarm.folder_plan import Plan, plan_folder
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.disarm.helpers_folder import fill


def plan(folder: Path, form=None, limits: Limits = DEFAULT_LIMITS) -> Plan:
    """Return the plan of a folder."""
    return plan_folder(folder, form, limits)


def outs(made: Plan) -> dict[str, str]:
    """Return what each file becomes."""
    return {task.name: task.out for task in made.tasks}


def reasons(made: Plan) -> dict[str, str]:
    """Return what is left behind, and why."""
    return {one.name: one.why for one in made.left}


def test_only_links_within_the_folder_are_followed(tmp_path):
    """Not to folders, not out of it, not to nowhere."""
    folder = fill(tmp_path / "in", {"a/real.txt": "x"})
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "good.txt").symlink_to("a/real.txt")
    (folder / "far.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up.txt").symlink_to("../secret.txt")
    (folder / "chain.txt").symlink_to("far.txt")
    (folder / "lost.txt").symlink_to("nowhere.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "far.pt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    (folder / "folder").symlink_to("a")
    (folder / "root").symlink_to(".")

    made = plan(folder)

    assert outs(made) == {"a/real.txt": "a/real.txt", "good.txt": "good.txt"}
    assert {task.path for task in made.tasks} == {str(folder / "a/real.txt")}
    out = "a link that leads out of the folder"
    found = reasons(made)
    assert [found[f"{name}.txt"] for name in ("far", "up", "chain")] == [out] * 3
    assert found["folder"] == found["root"] == "a link to a folder"
    assert found["lost.txt"].startswith("it cannot be read")
    assert "loop.txt" in found
    # Where weights may be missing, the command says so.
    kinds = {one.name: one.kind for one in made.left}
    assert [name for name, kind in kinds.items() if kind == "refused"] == [
        "far.pt", "out/",
    ]  # fmt: skip


def test_a_snapshot_of_a_cache_reaches_its_own_blobs_only(tmp_path):
    """As a hub's client lays them out; the blobs of another model are out of reach."""
    model = tmp_path / "models--a--b"
    fill(model, {"blobs/1234": "x", "blobs/more/5": "x", "snapshots/rev/b.txt": "x"})
    fill(tmp_path / "models--c--d", {"blobs/77": "x"})
    snapshot = model / "snapshots" / "rev"
    (snapshot / "deep").mkdir()
    (snapshot / "config.txt").symlink_to("../../blobs/1234")
    (snapshot / "deep" / "vocab.txt").symlink_to("../../../blobs/1234")
    (snapshot / "nested.txt").symlink_to("../../blobs/more/5")
    (snapshot / "other.txt").symlink_to("../../../models--c--d/blobs/77")

    made = plan(snapshot)
    assert list(outs(made)) == ["b.txt", "config.txt", "deep/vocab.txt"]
    assert sorted(reasons(made)) == ["nested.txt", "other.txt"]

    (model / "blobs").rename(tmp_path / "secrets")
    (model / "blobs").symlink_to(tmp_path / "secrets")
    assert list(outs(plan(snapshot))) == ["b.txt"]

    (model / "blobs").unlink()
    (tmp_path / "secrets").rename(model / "blobs")
    assert "config.txt" in outs(plan(snapshot))
    moved = tmp_path / "models--a--b" / "copies" / "rev"
    moved.parent.mkdir()
    snapshot.rename(moved)
    assert list(outs(plan(moved))) == ["b.txt"]


def test_what_is_hidden_or_no_file_is_left_behind(tmp_path):
    """A hidden folder as one, without a look into it."""
    folder = fill(
        tmp_path / "in", {".git/config": "x", ".cache/x.txt": "x", ".hidden": "x"}
    )
    os.mkfifo(folder / "pipe.txt")
    made = plan(folder)
    assert made.tasks == []
    assert reasons(made) == {
        ".git/": "hidden", ".cache/": "hidden", ".hidden": "hidden",
        "pipe.txt": "a pipe, socket or device",
    }  # fmt: skip
    assert {one.name: one.kind for one in made.left}[".git/"] == "folder"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a\x1b[2J.txt", "printed"), ("a\u202etxt.exe", "printed"),
        ("a\nb.txt", "printed"), ("a\udcff.txt", "printed"),
        ("a\\b.txt", "path"), ("c:x.txt", "path"), (" ", "printed"),
        ("-rf.json", "option"),
        ("NUL", "device"), ("con.txt", "device"), ("LPT1.json", "device"),
        ("x" * 201, "200 bytes"), ("\u00e9" * 101, "200 bytes"),
    ],
)  # fmt: skip
def test_a_name_that_is_none_elsewhere_is_left_behind(tmp_path, name, why):
    """Files and folders alike, and the report can be printed."""
    assert why in bad_name(name)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("x")
    (tmp_path / "in" / "below").mkdir()
    (tmp_path / "in" / "below" / name).mkdir()
    made = plan(tmp_path / "in")
    assert made.tasks == []
    assert [why in one.why for one in made.left] == [True, True]
    assert all(one.name.isascii() and one.name.isprintable() for one in made.left)
    assert [one.kind for one in made.left] == ["file", "refused"]


def test_a_long_path_or_a_link_to_itself_costs_no_more_than_itself(tmp_path):
    """The rest of the folder is written; weights may be missing, so both are said."""
    folder = fill(tmp_path / "in", {"x.txt": "x"})
    (folder / "loop.pt").symlink_to("loop.pt")
    part = "d" * 100
    inner = folder
    for _ in range(10):
        inner /= part
        inner.mkdir()
    (inner / "a.txt").write_text("x")
    (inner / ("b" * 12 + ".pt")).write_text("x")
    report = disarm(folder, tmp_path / "out")
    deep = "/".join([part] * 10)
    assert [one.out for one in report.parts] == [f"{deep}/a.txt", "x.txt"]
    assert {one.why: one.kind for one in report.left_behind} == {
        "its path has more than 1,024 bytes": "refused",
        "a link that leads to itself": "refused",
    }


@pytest.mark.parametrize(
    "name", ["x" * 200, "a b (1).txt", "v0.", "a?", "\u00e9.txt", "console.md"]
)
def test_an_ordinary_name_is_not(name):
    """The other side of each rule."""
    assert bad_name(name) == ""


@pytest.mark.parametrize(
    ("name", "form", "out"),
    [
        ("pytorch_model.bin", None, "pytorch_model.bin"),
        ("pytorch_model.bin", "safetensors", "model.safetensors"),
        ("pytorch_model.fp16.bin", "safetensors", "model.fp16.safetensors"),
        ("pytorch_models.bin", "safetensors", "pytorch_models.safetensors"),
        ("adapter_model.bin", "safetensors", "adapter_model.safetensors"),
        ("diffusion_pytorch_model.bin", "safetensors",
         "diffusion_pytorch_model.safetensors"),
        ("diffusion_pytorch_model.bin.index.json", "safetensors",
         "diffusion_pytorch_model.safetensors.index.json"),
        ("model.safetensors", "pt", "pytorch_model.bin"),
        ("model.pt", "pt", "model.pt"),
        ("a.npy", None, "a.npz"), ("a.npy", "pt", "a.bin"), ("a.npz", "npz", "a.npz"),
        ("A.PT", "safetensors", "A.safetensors"), ("a.pkl", None, "a.pkl"),
        ("x.sd", "safetensors", "x.sd.safetensors"), ("x", None, "x"),
        ("tf_model.h5.index.json", "safetensors", "tf_model.h5.index.json"),
    ],
)  # fmt: skip
def test_a_model_gets_the_name_its_format_goes_by(name, form, out):
    """Where the format changes; other names stay."""
    assert naming(name, form).out == out


def test_two_files_never_become_one(tmp_path):
    """Neither by a new format, nor where case or accents do not count."""
    names = ("model.safetensors", "pytorch_model.bin", "A.txt", "a.txt", "x/a.txt")
    names += (
        "e\u0301.txt",
        "\u00e9.txt",
        "B",
        "b/c.txt",
        "stra\u00dfe.md",
        "strasse.md",
        "a.txt.",
    )
    made = plan(fill(tmp_path / "in", dict.fromkeys(names, "x")), "safetensors")
    assert outs(made) == {
        name: name
        for name in ("A.txt", "b/c.txt", "e\u0301.txt", "model.safetensors",
                     "strasse.md", "x/a.txt")
    } | {"B": "B.safetensors", "a.txt.": "a.txt..safetensors"}  # fmt: skip
    why = "it would become model.safetensors, and model.safetensors is written there"
    assert reasons(made)["pytorch_model.bin"] == why
    assert len(made.left) == 4

    made = plan(tmp_path / "in")
    assert "B" in outs(made)
    assert "a.txt." in reasons(made)
    assert reasons(made)["b/c.txt"].endswith("and a folder is there")


def test_a_file_may_not_be_there_too_often(tmp_path):
    """Links cost the attacker nothing, and each of them is written out."""
    folder = fill(tmp_path / "in", {"w.txt": "x" * 1000})
    limits = Limits(min_amplified_bytes=1000, max_amplification=3.0)
    for at in range(2):
        (folder / f"link{at}.txt").symlink_to("w.txt")
    assert len(plan(folder, limits=limits).tasks) == 3
    os.link(folder / "w.txt", folder / "again.txt")
    with pytest.raises(LimitExceededError) as caught:
        plan(folder, limits=limits)
    assert (caught.value.limit, caught.value.requested) == ("max_amplification", 4.0)
    assert len(plan(folder).tasks) == 4


def test_folders_may_lie_within_each_other_so_often(tmp_path):
    """The rest is left behind, and is one entry of the report."""
    fill(tmp_path / "in", {"a/b/c/x.txt": "x", "a/b/y.txt": "y"})
    made = plan(tmp_path / "in", limits=Limits(max_depth=3))
    assert list(outs(made)) == ["a/b/y.txt"]
    assert reasons(made) == {"a/b/c/": "too many folders within each other"}


def test_a_tree_deeper_than_a_path_can_name_ends(tmp_path):
    """Without recursion, and without an error of the system's."""
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(300):
            os.mkdir("d" * 100, dir_fd=here)
            below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    made = plan(tmp_path)
    assert made.tasks == []
    assert len(made.left) == 1
