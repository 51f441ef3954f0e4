"""A zip of model files: every member as what it is, all under one check."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest

from safemodel.errors import (
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import Limits
from safemodel.policy import SALVAGE

LIST = b"\x80\x02]K\x01a."


def bundle(**members: bytes) -> bytes:
    """Return an archive; names end in what follows the last underscore."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return out.getvalue()


def test_every_member_is_what_its_bytes_are(read):
    """Models are read, JSON parsed, text decoded, the rest kept (rules 1 and 2)."""
    data = bundle(
        policy_pth=LIST, data=b'{"gamma": 0.9, "n": [1, null]}', version_txt=b"1.2.3",
        notes_md="naïve".encode(), blob_bin=b"\xff\xfe\x00", empty_txt=b"",
    )  # fmt: skip
    assert read(data).root == {
        "policy.pth": [1],
        "data": {"gamma": 0.9, "n": [1, None]},
        "version.txt": "1.2.3",
        "notes.md": "naïve",
        "blob.bin": b"\xff\xfe\x00",
        "empty.txt": "",
    }


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": NaN}', "[" + "9" * 21 + "]", '{"a": 1', "{]",
     "[" * 65 + "]" * 65],
)  # fmt: skip
def test_json_that_is_none_stays_text(read, text):
    """Rule 2: duplicate keys, words beyond JSON, long numbers, deep nesting."""
    assert read(bundle(model_pkl=LIST, data=text.encode())).root["data"] == text


def test_json_nests_a_quarter_as_deep_as_containers(read):
    """On both sides of the bound."""
    text = "[" * 4 + "]" * 4
    data = bundle(model_pkl=LIST, data=text.encode())
    assert read(data, limits=Limits(max_depth=16)).root["data"] == [[[[]]]]
    assert read(data, limits=Limits(max_depth=15)).root["data"] == text


def test_a_pickle_inside_a_json_text_is_text(read):
    """Nothing in it is decoded further."""
    hidden = json.dumps({":serialized:": "gASVBQAAAAAAAABjb3MKc3lzdGVtCi4="})
    root = read(bundle(model_pkl=LIST, data=hidden.encode())).root
    assert root["data"] == {":serialized:": "gASVBQAAAAAAAABjb3MKc3lzdGVtCi4="}


def test_an_index_of_shards_is_json_here(read):
    """It names files in a folder, and there is none."""
    index = json.dumps({"weight_map": {"a": "x.bin"}})
    root = read(bundle(model_pkl=LIST, index_json=index.encode())).root
    assert root["index.json"] == {"weight_map": {"a": "x.bin"}}


def test_refused_names_of_all_members_are_in_one_error(read):
    """With the member as their record; members without any fault are no help."""
    data = bundle(a_pkl=b"cos\nsystem\n.", b_pkl=LIST, c_txt=b"cos\nnothing",
                  d_pkl=b"\x80\x02cos\npopen\n.")  # fmt: skip
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(data)
    assert caught.value.globals == (
        ("os", "system", "a.pkl/", 0),
        ("os", "popen", "d.pkl/", 2),
    )
    assert read(data, policy=SALVAGE).graph.opaque == ["os.system", "os.popen"]


def test_refused_names_come_before_a_member_that_is_malformed(read):
    """The malformed one is the cause."""
    data = bundle(a_pkl=b"cos\nsystem\n.", b_pkl=b"\x80\x02a.")
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(data)
    assert caught.value.globals == (("os", "system", "a.pkl/", 0),)
    assert type(caught.value.__cause__) is MalformedFileError
    with pytest.raises(MalformedFileError) as alone:
        read(bundle(b_pkl=b"\x80\x02a."))
    assert alone.value.record == "b.pkl/"


def test_archives_nest_as_deep_as_the_limit(read):
    """Each level is a dictionary."""
    data = bundle(model_pkl=LIST)
    for _ in range(3):
        data = bundle(inner_zip=data)
    root = read(data).root
    for _ in range(3):
        root = root["inner.zip"]
    assert root == {"model.pkl": [1]}

    with pytest.raises(LimitExceededError) as caught:
        read(bundle(inner_zip=data))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_nesting", 4, 5)


def test_archives_beside_each_other_do_not_nest(read):
    """A level that is left is free again."""
    members = {f"m{number}_zip": bundle(model_pkl=LIST) for number in range(9)}
    assert len(read(bundle(**members)).root) == 9


def test_an_archive_without_any_model_is_none(read):
    """Rule 3: however much else is in it."""
    with pytest.raises(UnsupportedFormatError) as caught:
        read(bundle(a_txt=b"text", b_json=b"{}"))
    assert caught.value.what == "a zip archive with no model file in it"


def test_torchscript_in_one_member_allows_nothing_in_the_next(read):
    """Its classes are its own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02c__torch__.net\nNet\n)\x81.")
        archive.writestr("a/code/net.py", b"")
    script = out.getvalue()
    assert read(script).root.value.name == "__torch__.net.Net"

    other = pickle.dumps([1])[:-1] + b"0c__torch__.os\nsystem\n."
    with pytest.raises(ForbiddenGlobalError) as caught:
        read(bundle(a_pt=script, b_pkl=other))
    assert [name[:3] for name in caught.value.globals] == [
        ("__torch__.os", "system", "b.pkl/"),
    ]
