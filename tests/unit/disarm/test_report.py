"""The report of a disarmed file: what it says to people, and to programs."""

from __future__ import annotations

import json

from safemodel.reports import (
    DisarmReport,
    FileDigests,
    Finding,
    KeptTensor,
    Severity,
)

DIGESTS = FileDigests(size=1234, sha256="ab", blake3="cd")
CALL = Finding(
    severity=Severity.DANGER, code="forbidden-global", message="would call os.system",
    name="os.system", arguments="('true')", opcode="REDUCE", record="a/data.pkl",
    position=7,
)  # fmt: skip
NOTE = Finding(severity=Severity.INFO, code="note", message="a note", record="a/b")


def report(findings: tuple[Finding, ...], changed: dict[str, int]) -> DisarmReport:
    """Return a report of two tensors."""
    kept = KeptTensor(name="w", dtype="float32", shape=(2, 3))
    return DisarmReport(
        path="in.pt", out="out.pt", source=DIGESTS, result=DIGESTS,
        format="torch zip archive", out_format="pt", removed=findings,
        tensors=(kept, kept), changed=changed, version="1", policy="any", seconds=0.5,
    )  # fmt: skip


def test_a_report_names_what_was_left_behind_and_where():
    """Record, byte and opcode behind a call; a note may have no byte."""
    assert str(report((CALL, NOTE), {"set": 2, "pkg.Config": 1})).splitlines() == [
        "danger  would call os.system('true')  [a/data.pkl@7 REDUCE]",
        "info    a note  [a/b]",
        "3 values became plain data: set, pkg.Config",
        "2 tensors kept, 1,234 bytes written",
    ]


def test_a_long_report_is_cut():
    """Twenty findings, and how many more; nothing about data that stayed data."""
    lines = str(report((CALL,) * 23, {})).splitlines()
    assert lines[19:] == [
        "danger  would call os.system('true')  [a/data.pkl@7 REDUCE]",
        "and 3 more findings",
        "2 tensors kept, 1,234 bytes written",
    ]


def test_a_report_is_json():
    """With the version of its schema."""
    members = json.loads(report((CALL,), {"set": 2}).to_json())
    assert members["schema"] == 1
    assert members["source"] == {"size": 1234, "sha256": "ab", "blake3": "cd"}
    assert members["tensors"][1] == {
        "name": "w", "dtype": "float32", "shape": [2, 3], "scrubbed_bits": 0,
    }  # fmt: skip
    assert members["removed"][0]["severity"] == "danger"
    assert (members["changed"], members["seconds"]) == ({"set": 2}, 0.5)
