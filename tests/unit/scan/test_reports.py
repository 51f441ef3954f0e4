"""Reports are values, and their JSON says the same."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest

from safemodel import Limits, Policy, inspect_file
from safemodel.reports import FileReport, Finding, Severity, Status
from tests.unit.scan.helpers_scan import EVIL


def test_json_and_back_is_the_same_report(tmp_path):
    """Every member survives, findings and tensors included."""
    report = inspect_file(EVIL)
    again = FileReport.from_dict(json.loads(report.to_json()))
    assert again == report
    assert hash(again) == hash(report)
    assert hash(FileReport(path="x", size=1)) == hash(FileReport(size=1, path="x"))
    assert again.findings[0].severity is Severity.DANGER


def test_another_schema_is_refused():
    """A report of a later version is not guessed at."""
    members = {**FileReport(path="x").to_dict(), "schema": 2}
    with pytest.raises(ValueError):
        FileReport.from_dict(members)


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({}, Status.CLEAN),
        ({"refused": True, "error": "MalformedFileError"}, Status.REFUSED),
        ({"refused": True, "error": "UnsupportedFormatError"}, Status.UNSUPPORTED),
        ({"read_error": "no such file"}, Status.UNREADABLE),
    ],
)
def test_the_status_follows_from_the_members(members, status):
    """One verdict for each way a file can end."""
    assert FileReport(path="x", **members).status is status


def test_a_value_never_changes():
    """Neither member can be set or deleted, and unknown ones are refused."""
    report = FileReport(path="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.path = "y"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del report.path
    with pytest.raises(TypeError, match="nonsense"):
        FileReport(path="x", nonsense=1)
    with pytest.raises(TypeError, match="path"):
        FileReport()
    assert report == FileReport(path="x") != FileReport(path="y")
    assert report != "x"
    assert repr(Finding(severity=Severity.INFO, code="c", message="m")).startswith(
        "Finding(severity=<Severity.INFO: 'info'>, code='c', message='m', name=''"
    )


def test_dataclasses_takes_a_value_for_its_own():
    """`fields`, `replace`, `asdict` and `signature` work as on a dataclass."""
    limits = Limits(max_depth=3)
    assert dataclasses.is_dataclass(limits)
    assert dataclasses.replace(limits, max_tensors=5) == Limits(
        max_depth=3, max_tensors=5
    )
    assert dataclasses.asdict(limits) == vars(limits)
    names = [field.name for field in dataclasses.fields(Policy)]
    assert names == ["others", "extra"] == list(inspect.signature(Policy).parameters)
