"""JSON and text beside a model: what stays, what is taken out, what stays behind."""

from __future__ import annotations

import base64
import io
import json
import pickle
from typing import Any

import pytest

from safemodel import Limits, SafeModelError
from safemodel._containers.source import open_source
from safemodel._disarm import side_files
from safemodel._disarm.code_fields import ALWAYS, DOTTED, MAX_LISTED, without_code
from safemodel._disarm.one_file import Settings
from safemodel._disarm.side_files import rewrite_json, rewrite_text
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE

BIG = "1" * 400


def settings(limits: Limits = DEFAULT_LIMITS) -> Settings:
    """Return what every file of a folder is disarmed with."""
    return Settings(
        policy=SALVAGE, scrub=None, limits=limits, overwrite=False, digests=True
    )


def through(tmp_path, text: str | bytes, name: str = "config.json", **options) -> Any:
    """Return the bytes that a side file becomes, and its report."""
    rewrite = rewrite_json if name.endswith(".json") else rewrite_text
    data = text if isinstance(text, bytes) else text.encode()
    with open_source(data) as source:
        report = rewrite(source, tmp_path / name, name, settings(**options))
    return (tmp_path / name).read_bytes(), report


def refusal(tmp_path, text: str | bytes, name: str, **options) -> str:
    """Return the error of a side file, which leaves nothing."""
    with pytest.raises(SafeModelError) as caught:
        through(tmp_path, text, name, **options)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("name", ALWAYS)
def test_what_makes_a_loader_run_code_is_removed_and_reported(tmp_path, name):
    """At any depth, however its name is spelled, whatever its value is."""
    spelled = "".join(f"\\u{ord(character):04x}" for character in name)
    text = f'{{"a": [1, {{"b": {{"{spelled}": {{"x": "y"}}, "c": 2}}}}], "d": 3}}'
    data, report = through(tmp_path, text)

    assert json.loads(data) == {"a": [1, {"b": {"c": 2}}], "d": 3}
    (found,) = report.removed
    assert (found.code, found.name, found.arguments) == (
        "code-field", name, "={x: y}",
    )  # fmt: skip
    assert found.record == f"/a/1/b/{name}"
    assert ALWAYS[name] in found.message


CODE: list[tuple[str, Any, Any]] = [
    ("config.json", {"_attn_implementation_internal": "evil/kernels"}, {}),
    ("config.json", {"attn_implementation": {"text": "evil/kernels"}}, {}),
    ("config.json", {"activation_function": "os.abort"}, {}),
    ("config.json", {"activation_fn": "torch.nn.Tanh; x.y"}, {}),
    ("config.json", {"tokenizer_class": "evil.Tokenizer"}, {}),
    (
        "modules.json",
        [{"idx": 0, "type": "custom_st.Transformer"}],
        [{"idx": 0}],
    ),
    ("config.json", {"model_file": "model.py"}, {}),
    ("config.json", {"x": ["lib/ops.so.1", "a.dll", "pkg/mod.py::main", "b"]},
     {"x": ["b"]}),
    ("config.json", {"x": "evil/repo--modeling.Model"}, {}),
    ("inference.json", {"imports": ["$import os"], "y": "$os.system('x')"},
     {"imports": []}),
    ("config.json", {"prompt": "a {% for x in y %}{{ x }}{% endfor %}"}, {}),
    ("config.json", {"py/reduce": [1], "py/object": "os.system", "z": 0}, {"z": 0}),
    ("model_index.json", {"_class_name": ["pipeline", "Evil"], "unet": ["u", "U"]}, {}),
    ("config.json", {"_class_name": ["pipeline", "Evil"]}, {}),
    ("modular_model_index.json",
     {"vae": ["diffusers", "V", {"type_hint": ["e", "V"]}]},
     {"vae": ["diffusers", "V", {}]}),
    ("model.json",
     {"layers": [{"class_name": "Lambda", "config": {"function": "4wEA"}}]},
     {"layers": [{}]}),
    ("model.json", {"class_name": "system", "module": "os", "config": {}},
     {"class_name": "system", "config": {}}),
    ("model.json", {"class_name": "x", "module": "kerasx.y"}, {"class_name": "x"}),
    ("model.json", {"class_name": "layers.Lambda", "module": "keras", "config": 1},
     {"module": "keras"}),
    ("model.json", {"class_name": "TorchModuleWrapper", "config": {"module": "UEs="}},
     {}),
    ("model.json", {"class_name": "TFSMLayer", "config": {"filepath": "x"}}, {}),
    ("model.json", {"class_name": "TFOpLambda", "config": {"function": "io.x"}}, {}),
    ("router_config.json", {"types": {"q": "os.system"}, "structure": {}},
     {"structure": {}}),
    ("adapter_config.json", {"megatron_core": "evil", "r": 8}, {"r": 8}),
    ("config.json", {"characters_class": "os.system"}, {}),
    ("plans.json", {"network_class_name": "os.system"}, {}),
    ("plans.json",
     {"arch_kwargs": {"a": "os.x"}, "_kw_requires_import": ["a"]},
     {"arch_kwargs": {"a": "os.x"}}),
    ("plans.json", {"arch_kwargs": {"o": "torch.nn.x"}, "_kw_requires_import": "o"},
     {"arch_kwargs": {"o": "torch.nn.x"}}),
    ("train.json", {"imports": ["$import\tos", "$from\tos import *", "$import os"]},
     {"imports": []}),
    ("tokenizer.json",
     {"auto_map": {}, "model": {"vocab": {"auto_map": 3}, "auto_map": "x"}},
     {"model": {"vocab": {"auto_map": 3}}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "rest"), CODE)
def test_what_names_code_by_its_value_is_removed(tmp_path, name, value, rest):
    """Members and entries; each with a reason."""
    data, report = through(tmp_path, json.dumps(value), name)
    assert json.loads(data) == rest
    assert report.removed
    assert all(found.code == "code-field" for found in report.removed)


KEPT: list[tuple[str, Any]] = [
    ("config.json", {"_attn_implementation": "sdpa", "attn_implementation": None}),
    ("config.json", {"activation_function": "gelu_new"}),
    ("config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}),
    ("config.json", {"tokenizer_class": "BertTokenizer", "model_type": "bert"}),
    ("modules.json", [{"type": "sentence_transformers.models.Pooling"}]),
    ("config.json", {"x": ["{a}", "$5", "a--b", ".py", "file.pyx.txt", "1.5.so far"]}),
    ("config.json", {"base_model_name_or_path": "org/repo", "architectures": ["A"]}),
    ("model_index.json", {"_class_name": "P", "unet": ["diffusers", "U"],
                          "safety": [None, None], "sizes": [1, 2]}),
    ("config.json", {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}),
    ("model.json", {"class_name": "Dense", "module": "keras.layers"}),
    ("router_config.json", {"types": {"q": "sentence_transformers.models.Dense",
                                      "plain": "Dense", "n": 3}}),
    ("config.json", {"types": ["os.system"]}),
    ("adapter_config.json", {"megatron_core": "megatron.core"}),
    ("adapter_config.json", {"megatron_core": None}),
    ("config.json", {"characters_class": "TTS.tts.models.vits.VitsCharacters"}),
    ("plans.json", {
        "network_class_name": "dynamic_network_architectures.architectures.unet.UNet",
        "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv2d", "drop_op": None},
        "_kw_requires_import": ["conv_op", "drop_op", "absent"]}),
    ("tokenizer.json", {"merges": ["{ %", "{{ x }}", "a.py", "$import os"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), KEPT)
def test_what_only_looks_like_it_is_kept(tmp_path, name, value):
    """The other side of each rule."""
    data, report = through(tmp_path, json.dumps(value), name)
    assert json.loads(data) == value
    assert report.removed == ()


def test_every_dotted_name_needs_a_known_beginning():
    """A prefix is one up to its dot."""
    for name, (known, _) in DOTTED.items():
        assert without_code({name: f"{known[0]}x"}, "")[2] == 0
        assert without_code({name: f"{known[0][:-1]}x.y"}, "")[2] == 1


def test_a_base64_pickle_in_json_is_removed_and_what_it_calls_is_said(tmp_path):
    """As Stable-Baselines3 writes them."""

    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    text = base64.b64encode(pickle.dumps(Evil())).decode()
    value = {"policy": {":type:": "x", ":serialized:": text}}
    data, report = through(tmp_path, json.dumps(value), "data.json")

    assert json.loads(data) == {"policy": {":type:": "x"}}
    assert [found.code for found in report.removed] == ["inert-global", "code-field"]
    assert report.removed[0].name == "builtins.print"


def test_numbers_and_texts_are_the_same_afterwards(tmp_path):
    """The largest and the smallest, and texts that are hard to print."""
    value = {
        "int": int(BIG), "neg": -(10**30), "min": 5e-324, "max": 1.7976931348623157e308,
        "zero": -0.0, "third": 1 / 3, "text": '\u202e\x00\x1b\U0001f600\\"', "": {},
        "empty": [[], {}, ""],
    }  # fmt: skip
    data, report = through(tmp_path, json.dumps(value, ensure_ascii=False))
    assert repr(json.loads(data)) == repr(value)
    assert data.isascii()
    assert b"\x1b" not in data
    assert (report.result.size, report.source.size > 0) == (len(data), True)


def test_a_large_json_text_stands_in_one_line(tmp_path):
    """A tokenizer of many megabytes is for machines."""
    value = {"vocab": {f"token{at}": at for at in range(60_000)}}
    data, _ = through(tmp_path, json.dumps(value), "tokenizer.json")
    assert data.count(b"\n") == 0
    assert json.loads(data) == value


def test_the_blanks_of_deep_lists_do_not_make_a_text_longer(tmp_path):
    """A line break at each of these numbers would make 25 MB of 100 kB."""
    depth = Limits().max_depth - 2
    text = "[" * depth + ", ".join("1" * 33_000) + "]" * depth

    data, _ = through(tmp_path, text)

    assert data.decode() == text


def test_lines_are_broken_as_long_as_the_text_stays_short(tmp_path, monkeypatch):
    """The bound is that of the text with its line breaks."""
    broken = json.dumps({"a": [1, 2]}, indent=2)
    monkeypatch.setattr(side_files, "_MAX_INDENTED", len(broken))
    assert through(tmp_path, '{"a":[1,2]}')[0].decode() == broken
    (tmp_path / "config.json").unlink()

    monkeypatch.setattr(side_files, "_MAX_INDENTED", len(broken) - 1)
    assert through(tmp_path, '{"a":[1,2]}')[0] == b'{"a": [1, 2]}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "two equal keys"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "Infinity is not JSON"),
        ('{"a": 1e400}', "too large for any reader"),
        ('{"a": ' + BIG + "1}", "more than 400 digits"),
        ("[" * 300 + "]" * 300, "more than 256 deep"),
        ('{"a": "\\ud800"}', "not JSON"),
        ('{"a": 1} trailing', "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ("3", "not a JSON text, as its name says"),
        ("", "not a JSON text, as its name says"),
        ("\ufeff{}", "not a JSON text, as its name says"),
        ("// a\n{}", "not a JSON text, as its name says"),
        ("<html>{}</html>", "not a JSON text, as its name says"),
        ("[" + ",".join("0" * 3_000_001) + "]", "values of a JSON text"),
    ],
)
def test_what_readers_of_json_disagree_about_stays_behind(tmp_path, text, why):
    """Nothing is guessed, and nothing is written."""
    assert why in refusal(tmp_path, text, "config.json")


def test_a_side_file_has_a_size_it_may_have(tmp_path):
    """One byte more is too much."""
    limits = Limits(max_header_bytes=10)
    assert through(tmp_path, '{"a": 123}', limits=limits)[0]
    (tmp_path / "config.json").unlink()
    for name in ("config.json", "a.txt"):
        why = refusal(tmp_path, '{"a": 1234}', name, limits=limits)
        assert why.startswith("max_header_bytes")


def test_many_removals_are_counted_and_not_all_listed(tmp_path):
    """A file cannot make a report of any length."""
    value = [{"auto_map": at} for at in range(MAX_LISTED + 5)]
    data, report = through(tmp_path, json.dumps(value), "list.json")
    assert json.loads(data) == [{}] * len(value)
    assert len(report.removed) == MAX_LISTED + 1
    assert report.removed[-1].message == "5 more members were removed"


def test_names_and_values_that_are_removed_are_escaped(tmp_path):
    """They come from the file, and a terminal may show them."""
    value = {"a\x1b[2J": {"auto_map": {"\x1b]0;x\x07": ["\u202e", {"deep": 1}, 2]}}}
    _, report = through(tmp_path, json.dumps(value))
    (found,) = report.removed
    for text in (found.record, found.arguments, found.message, str(report)):
        assert text.isascii()
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "New models. Need a name? Nope.\n"),
        ("README.md", "[![x](y)](z) {curly}\nimport torch\nfrom x import y\n"),
        ("vocab.txt", "[PAD]\n\u00e9\u00ad\u200b\U0001f600\n\u2028\n"),
        ("merges.txt", "#version: 0.2\n\u0120 t\n"),
        ("LICENSE", "line\r\nline\ttab\n"),
        ("empty.txt", ""),
        ("labels.csv", "a,b\n1,2\n"),
    ],
)
def test_text_comes_out_as_it_was(tmp_path, name, text):
    """Character for character, line ends and all."""
    data, report = through(tmp_path, text, name)
    assert data == text.encode()
    assert (report.format, report.out_format) == ("plain text", "text")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a\x00b", "control character"),
        (b"a\x1b[2J", "control character"),
        (b"a\x7f", "control character"),
        ("a\x9b2J".encode(), "control character"),
        (b"\xff\xfea", "not UTF-8"),
        (b"ok\n" * 400_000 + b"\xc3", "not UTF-8"),
        (b"#!/bin/sh\nrm x\n", "a script"),
        (b"#!/usr/bin/env python\n", "a Python script"),
        (b"<!DOCTYPE html><script>", "an HTML page"),
        (b"<?xml version='1.0'?>", "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git-LFS pointer"),
        (b"cos\nsystem\n(S'x'\ntR.", "would run as a pickle"),
        (b"cos\nsystem\n(S'x'\ntR and no end", "would run as a pickle"),
        (b"N.", "not a plain text: pickle"),
        (b'{"weight_map": {"a": "b"}}', "index of a sharded checkpoint"),
    ],
)
def test_what_is_more_than_text_stays_behind(tmp_path, text, why):
    """Control characters, scripts, pages, and pickles that are text."""
    assert why in refusal(tmp_path, text, "notes.txt")


def test_a_character_may_lie_across_two_reads(tmp_path):
    """A text is decoded in pieces of a mebibyte."""
    text = "a" * ((1 << 20) - 1) + "\u20ac" + "b" * 10
    data, _ = through(tmp_path, text, "long.txt")
    assert io.BytesIO(data).read().decode() == text
