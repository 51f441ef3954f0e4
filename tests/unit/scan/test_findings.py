"""What a pickle would have run is named, wherever in the file it is."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile

import pytest

from safemodel import scan_files
from safemodel.limits import Limits
from safemodel.reports import Severity, Status
from tests.unit.containers.helpers_containers import npy, plain_zip, tar, torch_zip
from tests.unit.scan.helpers_scan import (
    CHECKPOINT,
    EMPTY,
    EVIL,
    blob,
    call,
    codes,
    named,
    only,
    pickled,
    scan_bytes,
    text,
)

REDUCE_AT = EVIL.index(b"tR.") + 1


def test_a_call_is_named_with_arguments_opcode_and_position(tmp_path):
    """Everything the question asks for, in one finding."""
    report = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/data.pkl": EVIL}))

    found = only(report, "forbidden-global")
    assert (found.name, found.arguments) == ("os.system", "('echo hi')")
    assert (found.opcode, found.record) == ("REDUCE", "archive/data.pkl")
    assert found.position == REDUCE_AT
    assert found.severity is Severity.DANGER
    assert report.refused
    assert (report.status, report.error) == (Status.REFUSED, "ForbiddenGlobalError")
    assert report.format == "torch zip archive"
    assert report.globals == ("os.system",)


def test_a_clean_file_has_no_findings(tmp_path):
    """An empty checkpoint is clean."""
    report = scan_bytes(tmp_path, torch_zip(CHECKPOINT))
    assert (report.status, report.findings) == (Status.CLEAN, ())
    assert (report.error, report.error_message, report.read_error) == (None, None, None)
    assert report.size == (tmp_path / "model.pt").stat().st_size


def test_a_name_that_nothing_calls_is_named_too(tmp_path):
    """Its position is that of the opcode that names it."""
    found = only(scan_bytes(tmp_path, pickled(named("os.system"))), "forbidden-global")
    assert (found.name, found.arguments) == ("os.system", "")
    assert (found.opcode, found.position) == ("GLOBAL", 2)


def test_a_name_on_the_stack_is_named_with_its_opcode(tmp_path):
    """STACK_GLOBAL, as protocol 4 writes it."""
    data = b"\x80\x04" + text("os") + text("system") + b"\x93."
    found = only(scan_bytes(tmp_path, data), "forbidden-global")
    assert (found.name, found.opcode) == ("os.system", "STACK_GLOBAL")
    assert data[found.position or 0] == 0x93


def test_every_call_of_a_name_is_listed_up_to_five(tmp_path):
    """The rest is a number."""
    data = pickled(*(call("os.system", text(f"echo {at}")) for at in range(7)))
    report = scan_bytes(tmp_path, data)

    shown = [one.arguments for one in report.findings if one.arguments]
    assert shown == [f"('echo {at}')" for at in range(5)]
    assert "would call os.system 2 more times" in [f.message for f in report.findings]


def test_calls_are_shown_with_what_they_are_made_of(tmp_path):
    """A chain of resolvers reads as one expression."""
    system = call("builtins.getattr", call("builtins.__import__", text("os")),
                  text("system"))  # fmt: skip
    data = pickled(system + b"(" + text("id") + b"tR")
    report = scan_bytes(tmp_path, data)

    (last,) = [one for one in report.findings if "result" in one.message]
    assert last.name == "builtins.getattr(builtins.__import__('os'), 'system')"
    assert last.arguments == "('id')"
    assert last.severity is Severity.DANGER


def test_the_state_of_an_object_is_shown(tmp_path):
    """BUILD belongs to the call it changes."""
    data = pickled(named("pkg.Thing") + b")\x81}" + text("a") + b"K\x01sb")
    found = only(scan_bytes(tmp_path, data), "forbidden-global")
    assert (found.opcode, found.arguments) == ("NEWOBJ", "() state={'a': 1}")


def test_copyreg_is_seen_through(tmp_path):
    """`copyreg._reconstructor(Popen, object, None)` is about Popen."""
    inner = named("subprocess.Popen") + named("builtins.object") + b"N"
    report = scan_bytes(tmp_path, pickled(call("copyreg._reconstructor", inner)))
    found = only(report, "forbidden-global")
    assert found.name == "subprocess.Popen"
    assert found.opcode == "REDUCE"


def test_hostile_text_is_escaped_and_cut(tmp_path):
    """No control character and no endless argument gets into a report."""
    data = pickled(call("os.system", text("\x1b[2J\u202e" + "x" * 10_000)))
    found = only(scan_bytes(tmp_path, data), "forbidden-global")
    assert found.arguments.isascii()
    assert found.arguments.isprintable()
    assert found.arguments.startswith(r"('\x1b[2J\u202exxx")
    assert len(found.arguments) <= 200
    assert found.arguments.endswith("(10,005))")


def test_huge_and_shared_arguments_cost_little(tmp_path):
    """A billion laughs is cut, not written out."""
    laughs = b"]q\x00" + b"".join(
        b"](h%ch%ch%ceq%c" % (at, at, at, at + 1) for at in range(60)
    )
    data = b"\x80\x02" + named("pkg.f") + b"(" + laughs + b"tR."
    report = scan_bytes(tmp_path, data)
    assert all(len(one.arguments) <= 200 for one in report.findings)


@pytest.mark.parametrize("loader", ["pickle.loads", "dill.loads", "my.own.loads"])
def test_a_pickle_within_a_call_is_looked_into(tmp_path, loader):
    """Whoever it is given to."""
    report = scan_bytes(tmp_path, pickled(call(loader, blob(EVIL))))
    inner = [one for one in report.findings if one.name == "os.system"]
    outer_at = [one.position for one in report.findings if one.name == loader]
    assert [one.position for one in inner] == [REDUCE_AT]
    assert [one.record for one in inner] == [f"@{outer_at[0]}"]


def test_bytes_of_old_protocols_are_looked_into(tmp_path):
    """Protocol 2 writes bytes as a call of `_codecs.encode`."""
    encoded = call("_codecs.encode", text(EVIL.decode("latin-1")), text("latin1"))
    report = scan_bytes(tmp_path, pickled(call("pickle.loads", encoded)))
    assert "os.system" in [one.name for one in report.findings]


def test_a_file_within_a_storage_call_is_looked_into_once(tmp_path):
    """`_load_from_bytes` is read by the check itself; nothing is listed twice."""
    data = pickled(call("torch.storage._load_from_bytes", blob(EVIL)))
    report = scan_bytes(tmp_path, data)
    assert [one.name for one in report.findings] == ["os.system"]
    assert report.error == "ForbiddenGlobalError"


def test_a_second_pickle_behind_stop_is_found(tmp_path):
    """It is inert here, so it is a step less alarming."""
    report = scan_bytes(tmp_path, EMPTY + EVIL)
    assert report.status is Status.CLEAN
    assert codes(report) == ["bytes-after-end", "inert-global"]
    found = only(report, "inert-global")
    assert found.severity is Severity.WARNING
    assert found.position == len(EMPTY) + REDUCE_AT


@pytest.mark.parametrize("junk", [b"\xff" * 7, b"junk", b"\x00" * 5000])
def test_a_pickle_behind_junk_is_found(tmp_path, junk):
    """The search goes on after what is no pickle."""
    report = scan_bytes(tmp_path, EMPTY + junk + EVIL)
    found = only(report, "inert-global")
    assert found.position == len(EMPTY) + len(junk) + REDUCE_AT


def test_what_follows_stop_in_a_record_is_found(tmp_path):
    """In an archive as in a lone pickle."""
    record = {**CHECKPOINT, "archive/data.pkl": EMPTY + EVIL}
    report = scan_bytes(tmp_path, torch_zip(record))
    assert only(report, "inert-global").record == "archive/data.pkl"
    assert only(report, "bytes-after-end").position == len(EMPTY)


@pytest.mark.parametrize("name", ["readme.txt", "config.p", "x", "deep/er/still"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_pickle_under_any_name_is_found(tmp_path, name, method):
    """Stored or deflated, and inert in a checkpoint."""
    data = plain_zip({**CHECKPOINT, f"archive/{name}": EVIL}, method)
    report = scan_bytes(tmp_path, data)
    found = only(report, "inert-global")
    assert report.status is Status.CLEAN
    assert (found.record, found.name) == (f"archive/{name}", "os.system")


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'id'\ntR.",
        b"(S'id'\nios\nsystem\n.",
        b"(cos\nsystem\nS'id'\no.",
        pickle.dumps([1, "x"], 0)[:-1] + b"0cos\nsystem\n.",
    ],
)
def test_pickles_without_proto_are_found(tmp_path, data):
    """Protocol 0, in a record and as a file."""
    inside = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/notes": data}))
    alone = scan_bytes(tmp_path, data)
    assert only(inside, "inert-global").name == "os.system"
    assert only(alone, "forbidden-global").name == "os.system"


def test_a_zip_in_a_zip_is_looked_into(tmp_path):
    """As many levels as the limits allow, and what lies deeper is mentioned."""
    data = plain_zip({"notes.txt": EVIL, "other": b"x"})
    for _ in range(2):
        data = plain_zip({"inner.bin": data, "note": b"x"})

    report = scan_bytes(tmp_path, data)
    shallow = scan_bytes(tmp_path, data, Limits(max_nesting=1))

    assert only(report, "forbidden-global").record == "inner.bin/inner.bin/notes.txt"
    assert "nested-too-deep" in codes(shallow)
    assert "forbidden-global" not in codes(shallow)


def test_tensor_bytes_that_are_a_pickle_are_mentioned(tmp_path):
    """A whole pickle that names something; half of one is chance."""
    tensor = EVIL + bytes(-len(EVIL) % 4)
    whole = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/data/0": tensor}))
    half = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/data/0": EVIL[:-1]}))
    empty = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/data/0": EMPTY}))

    assert only(whole, "inert-global").severity is Severity.WARNING
    assert codes(half) == codes(empty) == []


def test_serialised_fields_of_json_are_looked_into(tmp_path):
    """As Stable-Baselines3 writes them; the key says which field it was."""
    field = {":type:": "x", ":serialized:": base64.b64encode(EVIL).decode()}
    settings = json.dumps({"policy": field, "lr": 0.1, "nested": [{"a": field}]})
    report = scan_bytes(tmp_path, plain_zip({"data": settings.encode(), "m": EMPTY}))

    assert report.status is Status.CLEAN
    records = {one.record for one in report.findings if one.code == "inert-global"}
    assert records == {"data[policy]", "data[a]"}


def test_a_serialised_field_cannot_hide_behind_escapes(tmp_path):
    """Neither by an escape in its name nor by JSON that is broken."""
    value = base64.b64encode(EVIL).decode()
    escaped = '{"a": {"\\u003aserialized:": "' + value + '"}}'
    broken = '{"a": {":serialized:": "' + value + '"}, }'
    for content in (escaped, broken):
        report = scan_bytes(tmp_path, plain_zip({"data": content.encode(), "v": b"1"}))
        assert "os.system" in [one.name for one in report.findings]


def test_object_arrays_are_looked_into(tmp_path):
    """Their pickle starts behind the header."""
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    array = npy(header, EVIL)
    alone = scan_bytes(tmp_path, array)
    inside = scan_bytes(tmp_path, plain_zip({"a.npy": array}))
    beside = scan_bytes(tmp_path, torch_zip({**CHECKPOINT, "archive/a.npy": array}))

    position = len(array) - len(EVIL) + REDUCE_AT
    assert only(alone, "forbidden-global").position == position
    assert only(inside, "forbidden-global").record == "a.npy"
    found = only(beside, "inert-global")
    assert (found.record, found.position) == ("archive/a.npy", position)


def test_members_of_a_tar_archive_are_looked_into(tmp_path):
    """Of one that is no checkpoint, too."""
    report = scan_bytes(tmp_path, tar({"a.txt": b"hello", "b.txt": EVIL}))
    assert report.refused
    assert only(report, "forbidden-global").record == "b.txt"


def test_code_of_torchscript_is_mentioned(tmp_path):
    """It is never read; its debug pickles are looked into all the same."""
    report = scan_bytes(
        tmp_path,
        torch_zip(
            {
                **CHECKPOINT,
                "archive/constants.pkl": b"\x80\x02).",
                "archive/code/__torch__.py": b"import os",
                "archive/code/__torch__.py.debug_pkl": EVIL,
            }
        ),
    )
    assert report.status is Status.CLEAN
    assert report.format == "TorchScript archive"
    assert only(report, "code").severity is Severity.INFO
    assert only(report, "inert-global").name == "os.system"


def test_a_broken_pickle_is_reported_up_to_the_break(tmp_path):
    """What it would have run, and that it is broken."""
    for tail, code in ((b"\xff", "malformed"), (b"", "truncated")):
        report = scan_bytes(tmp_path, EVIL[:-1] + tail)
        assert report.findings[0].name == "os.system"
        assert codes(report)[-1] == code
        assert report.status is Status.REFUSED


def test_a_frame_that_lies_hides_nothing(tmp_path):
    """Readers that ignore frames would go on; so does the search for names."""
    data = b"\x80\x04\x95" + b"\xff" * 7 + b"\0" + EVIL[2:]
    report = scan_bytes(tmp_path, data)
    assert report.error == "TruncatedFileError"
    assert "os.system" in [one.name for one in report.findings]
    assert {one.position for one in report.findings if one.arguments} == {REDUCE_AT + 9}


def test_an_appended_archive_is_found(tmp_path):
    """A pickle to some readers, a zip archive to others."""
    report = scan_bytes(tmp_path, EMPTY + torch_zip({"archive/data.pkl": EVIL}))
    assert "polyglot" in codes(report)
    assert "os.system" in [one.name for one in report.findings]


def test_an_archive_that_breaks_a_rule_is_looked_into(tmp_path):
    """Refused for its container, and what is in it is still reported."""
    report = scan_bytes(tmp_path, b"" + torch_zip({"archive/data.pkl": EVIL}) + b"x")
    assert report.error == "MalformedFileError"
    assert only(report, "forbidden-global").name == "os.system"
    assert codes(report).count("malformed") == 1


def test_a_call_outside_its_schema_shows_its_arguments(tmp_path):
    """The error of the check, with what it was about."""
    data = pickled(call("_codecs.encode", text("x"), text("punycode")))
    found = only(scan_bytes(tmp_path, data), "forbidden-call")
    assert (found.name, found.opcode) == ("_codecs.encode", "REDUCE")
    assert found.arguments == "('x', 'punycode')"


def test_a_shard_is_looked_into_through_its_index(tmp_path):
    """The name of the shard is the record."""
    (tmp_path / "model-1.bin").write_bytes(torch_zip({"archive/data.pkl": EVIL}))
    index = tmp_path / "model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.bin"}}))
    (report,) = scan_files([index])
    assert only(report, "forbidden-global").record == "model-1.bin/archive/data.pkl"


def test_colours_say_nothing_about_the_verdict(tmp_path):
    """A harmless-looking class is refused as anything else."""
    report = scan_bytes(
        tmp_path, pickled(named("transformers.trainer_utils.HubStrategy"))
    )
    assert report.status is Status.REFUSED
    assert only(report, "forbidden-global").severity is Severity.INFO


def test_tensors_are_not_read(tmp_path):
    """A file far larger than memory costs what its header costs."""
    path = tmp_path / "big.safetensors"
    size = 1 << 40
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + size)
    (report,) = scan_files([path])
    assert (report.status, report.size) == (Status.CLEAN, 8 + len(raw) + size)


def test_records_that_overlap_are_not_looked_at_without_end(tmp_path):
    """Each of four levels claims its one member a hundred times: 10**8 ways in."""
    data = plain_zip({"m": EVIL, "n": EVIL})
    for _ in range(4):
        archive = plain_zip({"m": data})
        entry_at = archive.index(b"PK\1\2")
        entry = archive[entry_at : entry_at + 46]
        copies = b"".join(entry + b"%c" % (33 + at) for at in range(90))
        data = archive[:entry_at] + copies + archive[entry_at:]

    report = scan_bytes(tmp_path, data)

    assert report.status is Status.REFUSED
    assert "os.system" in [one.name for one in report.findings]
    assert codes(report).count("not-scanned") == 1
    assert len(report.findings) <= 1002


def test_a_file_of_many_findings_keeps_the_most_alarming(tmp_path):
    """A thousand of them, and a number for the rest."""
    members = {f"m{at:04}": pickled(named("pkg.mild")) for at in range(1100)}
    report = scan_bytes(tmp_path, plain_zip({**members, "z": EVIL}))
    assert "os.system" in [one.name for one in report.findings]
    assert only(report, "more-findings").message == "101 more findings are not listed"
