"""`scan --sarif` writes SARIF 2.1.0."""

from __future__ import annotations

import json

import jsonschema
import pytest

from safemodel._cli import main
from safemodel._cli.sarif import RULES
from tests.unit.cli.sarif_schema import SCHEMA
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import CHECKPOINT, EMPTY, EVIL


def sarif(capsys, *paths: object) -> dict:
    """Return the document for these files, validated."""
    main(["scan", "--sarif", *map(str, paths)])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    return document["runs"][0]


def test_a_finding_is_a_result(tmp_path, capsys):
    """With its rule, level, place in the archive, and what it is about."""
    path = tmp_path / "a model.pt"
    path.write_bytes(torch_zip({**CHECKPOINT, "archive/data.pkl": EVIL}))
    run = sarif(capsys, path)

    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("forbidden-global", "error")
    assert result["message"]["text"] == "would call os.system('echo hi')"
    rules = run["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == "forbidden-global"
    (location,) = result["locations"]
    uri = location["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == f"file://{tmp_path}/a%20model.pt"
    assert location["logicalLocations"] == [
        {"fullyQualifiedName": "archive/data.pkl@27"}
    ]
    assert result["properties"]["opcode"] == "REDUCE"


def test_a_place_in_the_file_itself_is_a_region(tmp_path, capsys, monkeypatch):
    """Relative paths stay relative."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(EVIL)
    (result,) = sarif(capsys, "x.pkl")["results"]
    physical = result["locations"][0]["physicalLocation"]
    assert physical == {
        "artifactLocation": {"uri": "x.pkl"},
        "region": {"byteOffset": 27},
    }


def test_what_cannot_be_read_is_a_notification(tmp_path, capsys):
    """Not a result: nothing is known about the file."""
    run = sarif(capsys, tmp_path / "missing.pt")
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) == 1
    assert run["results"] == []


def test_a_clean_file_has_no_results(tmp_path, capsys):
    """And the run was a success."""
    (tmp_path / "x.pkl").write_bytes(EMPTY)
    run = sarif(capsys, tmp_path)
    assert run["results"] == []
    assert run["invocations"][0]["executionSuccessful"] is True


def test_the_schema_can_refuse(tmp_path, capsys):
    """A level or property that SARIF does not have is caught."""
    (tmp_path / "x.pkl").write_bytes(EVIL)
    document = {"version": "2.1.0", "runs": [sarif(capsys, tmp_path)]}
    document["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_every_rule_is_a_sentence():
    """With an id that fits into a URL."""
    for code, sentence in RULES.items():
        assert code.replace("-", "").isalpha()
        assert sentence.endswith(".")
