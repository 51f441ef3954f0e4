"""A folder in which every file tries to run something, and what stock loaders see."""

from __future__ import annotations

import json

import pytest

from safemodel import SALVAGE, disarm
from safemodel._disarm.code_fields import ALWAYS
from tests.stock import foreign
from tests.unit.disarm.helpers_folder import fill, written
from tests.vectors.test_vectors import LIGHT

NAMES = ("{}.bin", "as_json/{}.json", "as_text/{}.txt", "as_data/{}.dat")
"""A model's name, those of side files, and one that says nothing."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a folder with every light vector under names of each kind, and code."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {}
    for vector in LIGHT:
        data = vector.assemble()
        files |= {name.format(vector.name): data for name in NAMES}
    call = {"_target_": "os.system", "args": ["true"]}
    files["config.json"] = dict.fromkeys(ALWAYS, call) | {"kept": 1}
    files |= {"modeling.py": "import os", "lib.so": b"\x7fELF", "c.yaml": "!!python/x"}
    files |= {"run.sh": "#!/bin/sh", "chat.jinja": "{{ x.__class__ }}"}
    fill(folder, files)
    (folder / "link.bin").symlink_to("/etc/passwd")
    return folder


def test_nothing_of_a_hostile_folder_runs_and_none_of_it_is_handed_on(
    hostile, tmp_path, canary, stock
):
    """In this process, so that the canary hears; then with stock torch, watched."""
    policy = SALVAGE.with_extra({"no.such": lambda args, _: args})
    report = disarm(hostile, tmp_path / "out", policy=policy)
    assert canary.trips == []

    names = written(tmp_path / "out")
    assert names == sorted(part.out for part in report.parts)
    models = [name for name in names if name.endswith((".bin", ".dat"))]
    assert len(models) > 200
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"kept": 1}
    for name in set(names) - set(models):
        data = (tmp_path / "out" / name).read_bytes()
        assert name == "config.json" or data.decode().isprintable() or b"\n" in data
        assert b"trip" not in data
    assert not {name for name in names if name.endswith((".py", ".so", ".sh", ".yaml"))}
    assert "link.bin" not in names

    found = {}
    for name in models:
        path = tmp_path / "out" / name
        if wrong := foreign(path, stock.open(path)):
            found[name] = wrong
    assert found == {}


def test_worker_processes_write_the_same(hostile, tmp_path):
    """Byte for byte, and the report says the same of each."""
    alone = disarm(
        hostile, tmp_path / "a", policy=SALVAGE.with_extra({"no.such": lambda a, _: a})
    )
    shared = disarm(hostile, tmp_path / "b")
    assert written(tmp_path / "a") == written(tmp_path / "b")
    unlike = [
        name
        for name in written(tmp_path / "a")
        if (tmp_path / "a" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()
    ]
    assert unlike == []
    assert alone.left_behind == shared.left_behind
    for one, other in zip(alone.parts, shared.parts, strict=True):
        same = ("path", "out", "removed", "anomalies", "notes", "tensors", "changed")
        assert [getattr(one, name) for name in same] == [
            getattr(other, name) for name in same
        ]
