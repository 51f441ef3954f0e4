"""docs/disarm-results.md speaks of the files there are; a few are asked again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import safemodel
from safemodel.testing import CANARY
from tests.conftest import ZOO
from tests.stock import NAMES
from tests.unit.disarm.helpers_disarm import saved
from tests.vectors.test_vectors import VECTORS
from tools import (
    compatibility,
    disarm_child,
    disarm_hostile,
    disarm_results,
    disarm_scanners,
    disarm_twins,
)
from tools.disarm_page import SHOWN, percent
from tools.disarm_survival import (
    SUFFIXES,
    Comparison,
    DifferenceError,
    Expected,
    compare_flat,
    examine,
    shared_pairs,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "disarm-results.md").read_text(encoding="utf-8")
TWINS = disarm_twins.names()
# One of each container, small, and of both kinds of reference.
SAMPLE = (
    "DLR-RM+rl-trained-agents/trpo/Acrobot-v1_1/Acrobot-v1.zip",
    "ShiqiYu+libfacedetection.train/weights/yunet_s.pth",
    "ZhengdongWang+loonminator_rl/model_best.pth.tar",
    "akamaster+pytorch_resnet_cifar10/pretrained_models/resnet20-12fca82f.th",
    "araffin+rl-baselines-zoo/trained_agents/a2c/Acrobot-v1.pkl",
    "txie-93+cgcnn/pre-trained/semi-metal-classification.pth.tar",
)


def rows(title):
    """Return the cells of the rows of the table under a heading."""
    part = PAGE.split(title)[1].split("\n#")[0]
    lines = re.findall(r"^\| (.*) \|$", part, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def number(cell):
    return int(cell.replace(",", ""))


def test_every_benign_file_survives_in_every_format():
    """As many as are read, with tensors to compare, and the page names no failure."""
    whole = rows("## Benign files")[-1]
    files = number(whole[1])
    assert whole[0] == "**all**"
    assert [number(cell) for cell in whole[3:6]] == [files] * 3
    assert number(whole[6]) > 10_000
    assert "No file fails." in PAGE.split("## Benign files")[1].split("\n## ")[0]
    assert f"{files} of {files} files survive in all three formats (100 %)" in PAGE


def test_the_page_counts_the_zoo(zoo):
    """What is read and what is refused is all there is."""
    manifest = compatibility.manifest()
    read = [r for r in manifest if r["container"] not in compatibility.NO_MODEL]
    assert number(rows("## Benign files")[-1][1]) == len(read)
    assert f"{len(manifest) - len(read)} files are HDF5 or ONNX" in PAGE


def test_every_hostile_file_is_disarmed():
    """All vectors and all twins; each attempt refused or proven; most of them armed."""
    table = {row[0]: row[1:] for row in rows("## Hostile files")}
    assert list(table) == [*SHOWN.values(), "**all**"]
    total = len(VECTORS) + len(TWINS)
    files, vectors, *attempts, disarmed = map(number, table["**all**"])
    assert (files, vectors, disarmed) == (total, len(VECTORS), total)
    for policy in (attempts[:2], attempts[2:]):
        assert sum(policy) == 3 * total
        assert min(policy) > 0
    assert number(table[SHOWN["calls"]][0]) > 200
    assert f"{total} of {total} files are disarmed (100 %)" in PAGE
    assert re.search(r"\*\*After\*\*: 0 of [0-9,]+ outputs", PAGE)
    assert f"but the {len(NAMES)} names of our fixed list" in PAGE


def named_files():
    """Return kind → the names the page lists for it."""
    part = PAGE.split("## The files by name")[1]
    return {
        kind: re.findall(
            r"`([\w-]+)`", re.search(rf"\*\*{shown}\*\*.*", part, re.IGNORECASE)[0]
        )
        for kind, shown in SHOWN.items()
    }


def test_every_vector_is_named_once():
    """And every trick with a container; other twins are counted."""
    named = [name for names in named_files().values() for name in names]
    wanted = {vector.name for vector in VECTORS} | disarm_twins.CONTAINERS.keys()
    assert sorted(named) == sorted(wanted)
    for words in (disarm_twins.EVERY, disarm_twins.PAYLOADS, disarm_twins.PLACES):
        assert ", ".join(f"`{word}`" for word in words) in PAGE


def test_every_scanner_gave_a_verdict_of_every_file():
    """The verdicts of a row add up to its files."""
    benign = number(rows("## Benign files")[-1][1])
    table = rows(f"### Benign: {benign} files")
    assert [row[0] for row in table] == list(disarm_scanners.TOOLS)
    for row in table:
        assert sum(map(number, row[1:])) == benign
    hostile = rows("### Hostile\n")
    assert len(hostile) == (len(SHOWN) + 1) * len(disarm_scanners.TOOLS)
    for title, _, *counts in hostile:
        assert f"({sum(map(number, counts))})" in title
    for name, version in disarm_scanners.versions().items():
        assert f"{name} {version}" in PAGE


LIVE = ("v14_inst", "i06_import_side_effects", "v46_object_in_its_arguments", "c18_nul")


def test_the_kinds_on_the_page_are_what_stock_readers_do(tmp_path, stock):
    """One vector of each kind, asked again."""
    named = named_files()
    found = {}
    for vector in VECTORS:
        if vector.name in LIVE:
            path = disarm_hostile.write_vector(vector, tmp_path)
            found[vector.name] = disarm_hostile.kind_of(stock.open(path))
    for name, kind in found.items():
        assert name in named[kind]
    assert set(found.values()) == set(SHOWN)


def test_a_twin_of_each_payload_is_armed_and_disarmed(tmp_path, zoo, stock):
    """Stock readers call the canary; of what is written they call nothing."""
    plan = disarm_twins.plan()
    once = {payload: name for name, (_, payload, _) in plan.items()}
    assert once.keys() == disarm_twins.PAYLOADS.keys()
    with disarm_hostile.Disarming() as disarm:
        for name in [*once.values(), "two-pickles-first", "array"]:
            path, out = disarm_hostile.write_twin(name, tmp_path), tmp_path / "out"
            out.mkdir()
            made = disarm(path, out)
            found = disarm_hostile.measure(name, path, out, stock, made)
            assert (found.kind, found.wrong) == ("calls", []), name
            assert len(found.attempts) == 6


def test_what_goes_wrong_is_said(tmp_path, monkeypatch, stock):
    """An error of others, an output with a name of its own, a stray file."""

    def disarm(path, out, *, policy):
        if policy is safemodel.STRICT:
            raise RuntimeError("not ours")
        out.write_bytes(saved(CANARY))
        if out.suffix == ".npz":
            out.with_name("more").write_bytes(b"")

    monkeypatch.setattr(safemodel, "disarm", disarm)
    path, out = tmp_path / "in.pkl", tmp_path / "out"
    path.write_bytes(b"\x80\x02N.")
    out.mkdir()
    made = disarm_child.attempts(path, out)
    found = disarm_hostile.measure("x", path, out, stock, made)
    salvage, others, npz, *strict, stray = found.wrong
    assert "name: safemodel.testing Canary" in salvage
    assert "name: safemodel.testing Canary" in others
    assert "another file beside the output" in npz
    assert len(strict) == 3
    assert all("RuntimeError: not ours" in line for line in strict)
    assert "left behind: more" in stray


def test_a_crash_is_an_answer(tmp_path):
    """Of the process that disarms, which goes on."""
    path = tmp_path / "in.pkl"
    path.write_bytes(b"\x80\x02N.")
    with disarm_hostile.Disarming() as disarm:
        (crash,) = disarm(path, tmp_path / "no such folder")
        assert crash.wrong == "the process ended with 1"
        assert [made.error for made in disarm(path, tmp_path)] == [""] * 6


@pytest.mark.parametrize("file", SAMPLE)
def test_a_real_file_survives(file, zoo, tmp_path):
    """Every tensor bit for bit, in three formats, by stock readers."""
    containers = {r["file"]: r["container"] for r in compatibility.manifest()}
    path = ZOO / "files" / file
    found = examine(path, file, containers[f"files/{file}"], tmp_path)
    assert (found.wrong, found.refused) == ({}, "")
    assert found.tensors > 0


def test_a_changed_bit_does_not_survive(tmp_path):
    """Of a tensor, a name, a scalar, an order, or of what is shared."""
    import torch

    whole = torch.arange(8.0)
    value = {"a": whole[:6], "b": whole[2:], "n": [1, 2.0], "s": {3}}
    changes = {
        "other bits": {"a": torch.arange(6.0).nextafter(torch.ones(6))},
        "other dtype": {"a": whole[:6].double()},
        "other requires_grad": {"b": whole[2:].clone().requires_grad_()},
        "parameter or not": {"b": torch.nn.Parameter(whole[2:], requires_grad=False)},
        "2.5 for 2.0": {"n": [1, 2.5]},
        "items for 2": {"n": [1]},
        "for <class 'float'>": {"n": [1, 2]},
        "other keys": {"more": 1},
        "lie apart": {"a": whole[:6].clone()},
    }
    plain = value | {"s": [3]}
    for what, change in {"": {}, **changes}.items():
        try:
            comparison = Comparison(Expected())
            comparison.run(value, plain | change)
            assert shared_pairs(comparison.pairs) == 1
            found = ""
        except DifferenceError as difference:
            found = str(difference)
        assert (what in found) if what else not found, (what, found)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_changed_flat_file_does_not_survive(tmp_path, suffix):
    """Another bit, another name, other data."""
    import torch

    shared = [torch.zeros(1)]
    value = {
        "a": {"b": torch.arange(6.0)}, "c": torch.ones(2).bfloat16(), "n": 3,
        "e": {}, "o": [torch.zeros(1)], "p": shared, "q": shared,
    }  # fmt: skip
    out = tmp_path / f"out{suffix}"
    safemodel.disarm(saved(value), out)
    compare_flat(out, value, Expected())
    for what, other in {
        "b: other bits": value | {"a": {"b": -torch.arange(6.0)}},
        "c: other dtype or shape": value | {"c": torch.ones(2).half()},
        "b: other dtype or shape": value | {"a": {"b": torch.arange(6.0).view(2, 3)}},
        "other names": value | {"d": torch.ones(1)},
        "another container": value | {"q": value["o"]},
        "other data": value | {"n": 4},
    }.items():
        with pytest.raises(DifferenceError, match=what):
            compare_flat(out, other, Expected())


def test_a_rate_is_whole_only_if_it_is():
    """No rounding up."""
    assert percent(513, 513) == "100 %"
    assert percent(9999, 10_000) == "99.9 %"


def test_without_the_zoo_there_is_nothing_to_do(tmp_path, monkeypatch, capsys):
    """The script says so, and leaves the page as it is."""
    monkeypatch.setattr(compatibility, "ZOO", tmp_path)
    monkeypatch.setattr(disarm_results, "PAGE", tmp_path / "page.md")
    assert disarm_results.main([]) == 0
    assert "nothing done" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
