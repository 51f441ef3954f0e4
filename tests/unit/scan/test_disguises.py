"""Pickles that only other readers would find, in one place or another."""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile

import pytest

from safemodel import safe_load
from safemodel._cli import main
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    StorageBoundsError,
)
from safemodel.reports import Severity, Status
from tests.unit.containers.helpers_containers import plain_zip, safetensors, torch_zip
from tests.unit.scan.helpers_scan import (
    CHECKPOINT,
    EMPTY,
    EVIL,
    codes,
    only,
    pickled,
    scan_bytes,
    text,
)

TEXT_CALL = b"cos\nsystem\n(S'echo hi'\ntR."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"N0" + TEXT_CALL, "a plain text file"),
        (b"K10" + TEXT_CALL, "a plain text file"),
        (b"I1\n0" + TEXT_CALL, "a plain text file"),
        (b"GIF89a\1\0\0010" + TEXT_CALL, "a GIF image"),
        (b"MZ\0000" + TEXT_CALL, "a Windows program"),
    ],
)
def test_a_pickle_that_looks_like_something_else_is_named(
    tmp_path, capsys, content, what
):
    """`safe_load` does not open it, `pickle.load` does; it is not "no model"."""
    report = scan_bytes(tmp_path, content)

    assert (report.status, report.format) == (Status.UNSUPPORTED, what)
    found = only(report, "inert-global")
    assert (found.name, found.arguments) == ("os.system", "('echo hi')")
    assert found.severity is Severity.WARNING
    assert main(["scan", str(tmp_path)]) == 2
    assert "os.system" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"Notes\ncommon\nwords\n", b"c\nd\n", b"}\n]\n"])
def test_text_that_starts_with_opcodes_by_chance_is_just_text(tmp_path, content):
    """Names alone, which nothing calls, do not count."""
    report = scan_bytes(tmp_path, content)
    assert codes(report) == ["unsupported-format"]
    (tmp_path / "model.pt").rename(tmp_path / "notes.txt")
    assert main(["scan", "-q", str(tmp_path)]) == 0


def long_name(name: bytes) -> bytes:
    """Return a tar header of a long name, itself called something else."""
    block = tarfile.TarInfo("././@LongLink")
    block.type, block.size = tarfile.GNUTYPE_LONGNAME, 9
    header = bytearray(block.tobuf(tarfile.GNU_FORMAT)[:512])
    header[:100] = name.ljust(100, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"sys_info\0".ljust(512, b"\0")


def test_the_name_of_a_tar_member_may_be_a_pickle(tmp_path):
    """Nobody reads the name of a header that gives another one its name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in {
            "sys_info": EMPTY,
            "pickle": EMPTY,
            "storages": b"\x80\x02K\0.",
            "tensors": b"\x80\x02K\0.",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = long_name(TEXT_CALL) + stream.getvalue()

    assert safe_load(content) == {}
    report = scan_bytes(tmp_path, content)
    assert (report.status, report.format) == (Status.CLEAN, "tar archive")
    assert only(report, "inert-global").name == "os.system"


def test_the_length_of_a_safetensors_header_may_be_opcodes(tmp_path):
    """PROTO and BINBYTES: what follows is JSON to one reader, a pickle to another."""
    # C 0x23, 35 bytes, POP; then opcodes within a string of the metadata.
    hidden = b"C\x20" + b"." * 32
    content = safetensors({"__metadata__": {"a": hidden.decode()}})
    assert safe_load(content) == {}
    assert codes(scan_bytes(tmp_path, content)) == []

    start = b"B\x40\0\0\0" + bytes(3) + b"{"
    disguised = start + b" " * (64 - 4) + b"0" + TEXT_CALL
    length = int.from_bytes(start[:8], "little")
    report = scan_bytes(tmp_path, disguised.ljust(length + 8, b" "))
    assert report.format == "safetensors"
    assert only(report, "inert-global").name == "os.system"


def test_a_pickle_may_have_the_name_of_a_source_file(tmp_path):
    """Members count under any name."""
    members = {**CHECKPOINT, "archive/code/a.py": EVIL, "archive/code/b.py": b"import"}
    report = scan_bytes(tmp_path, torch_zip(members))
    assert only(report, "inert-global").record == "archive/code/a.py"
    assert "b.py" in only(report, "code").message


def test_a_serialised_field_is_found_in_what_is_no_json_to_us(tmp_path):
    """However it is spelled, and however much space is in front of it."""
    value = base64.b64encode(EVIL).decode()
    key = '":serialized\\u003a"'
    for content in (
        f'{{"a": NaN, "b": {{{key}: "\\u0067{value[1:]}"}}}}',
        f'{{"a": 1, "a": 2, "b": {{{key}: "{value[:4]}!{value[4:]}"}}}}',
        " " * 100 + json.dumps({"b": {":serialized:": value}}),
        '{"a": ' + "[" * 70 + "]" * 70 + f', "b": {{{key}: "{value}"}}}}',
    ):
        report = scan_bytes(tmp_path, plain_zip({"data": content.encode(), "m": EMPTY}))
        assert only(report, "inert-global").record == "data[b]", content


def test_the_last_of_many_pickles_in_a_stream_is_looked_at(tmp_path):
    """Whoever loads one after the other comes to it."""
    report = scan_bytes(tmp_path, EMPTY * 100 + EVIL)
    assert only(report, "inert-global").name == "os.system"


def test_a_pickle_far_behind_the_first_is_looked_at(tmp_path):
    """Behind a megabyte of junk, or of another pickle."""
    filler = pickled(text("a" * (1 << 20)))
    for between in (filler, b"\xff" * (1 << 20) + b"\x80\x02"[:1]):
        report = scan_bytes(tmp_path, EMPTY + between + EVIL)
        assert only(report, "inert-global").name == "os.system"


def test_decoys_before_a_pickle_are_not_passed_over_in_silence(tmp_path):
    """What is not looked at is said."""
    report = scan_bytes(tmp_path, EMPTY + b"\x80\x02\xff" * 100 + EVIL)
    assert codes(report) == ["bytes-after-end", "not-scanned"]


def test_a_long_list_of_globals_has_findings_of_the_worst(tmp_path):
    """Not of each; the report says how many more there are."""
    names = b"".join(b"ca\nb%d\n" % index for index in range(5000))
    report = scan_bytes(tmp_path, b"\x80\x02](" + names + b"cos\nsystem\ne.")

    assert report.refused
    assert len(report.findings) < 500
    assert "os.system" in [finding.name for finding in report.findings]
    assert "more findings" in report.findings[200].message
    assert len(report.globals) == 5001


def test_a_long_module_in_many_names_is_cut_before_it_is_joined(tmp_path):
    """Its package still counts."""
    module = "os." + "x" * 60_000
    names = b"".join(
        b"h\0\x8c\1" + bytes([97 + index]) + b"\x93" for index in range(26)
    )
    content = b"\x80\x04](" + text(module) + b"q\0" + names + b"e."
    report = scan_bytes(tmp_path, content)
    assert {finding.severity for finding in report.findings} == {Severity.DANGER}
    assert all(len(finding.name) <= 200 for finding in report.findings)


def test_records_of_long_names_are_malformed():
    """Putting their marks in order takes quadratic time."""
    name = "a" + "\u0301" * 2000 + "\u0316" * 2000
    assert safe_load(plain_zip({name: EMPTY, "b": b"1"}))["b"] == 1
    with pytest.raises(MalformedFileError, match="more than 4,096 characters"):
        safe_load(plain_zip({name + "a" * 100: EMPTY}))


def test_a_memo_index_is_bounded_by_what_was_read():
    """Not by what follows: a stream holds many pickles, and each could make a gap."""
    assert safe_load(b"\x80\x02NNN00r\x07\0\0\0." + bytes(100)) is None
    with pytest.raises(LimitExceededError) as caught:
        safe_load(b"\x80\x02NNN00r\x08\0\0\0." + bytes(100))
    assert caught.value.limit == "memo index"
    assert (caught.value.allowed, caught.value.requested) == (7, 8)


def test_keys_of_storages_are_quoted_in_errors():
    """A stream may give a storage any name."""
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("a\x1b[2J\n")
    pid += text("meta") + b"K\0tQ"
    call = b"ctorch._utils\n_rebuild_tensor\n(" + pid + b"K\1K\2\x85K\1\x85tR"
    head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    stream = (
        head + b"\x80\x02" + call + b"." + b"\x80\x02]" + text("a\x1b[2J\n") + b"a."
    )
    with pytest.raises(StorageBoundsError) as caught:
        safe_load(stream + struct.pack("<q", 0))
    assert str(caught.value).isprintable()
