"""Formats are told by content, and what is no model is named."""

from __future__ import annotations

import json

import pytest

from safemodel._containers.sniff import (
    Format,
    classify_zip,
    describe_unknown,
    sniff,
)
from safemodel._containers.source import open_source
from tests.unit.containers.helpers_containers import npy, plain_zip, safetensors, tar

MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (plain_zip({"a": b""}), Format.ZIP),
        (plain_zip({}), Format.ZIP),
        (b"\x80\x02}.", Format.PICKLE),
        (b"\x80\x2a}.", Format.PICKLE),
        (b"\x80\x02" + MAGIC, Format.LEGACY),
        (b"\x80\x04\x95\x0d\0\0\0\0\0\0\0" + MAGIC, Format.LEGACY),
        (b"L119547037146038801333356L\n.", Format.LEGACY),
        (b"\x80\x02" + MAGIC[:-2] + b"\x18.", Format.PICKLE),
        (b"\x80\x02cos\nsystem\n" + MAGIC, Format.PICKLE),
        (b"(dp0\nS'a'\np1\nI1\ns.", Format.PICKLE),
        (b"cos\nsystem\n(S'true'\ntR.", Format.PICKLE),
        (b"}q\0.", Format.PICKLE),
        (b"X\x01\0\0\0a.", Format.PICKLE),
        (tar({"a": b"1"}), Format.TAR),
        (npy("{}"), Format.NPY),
        (safetensors({}), Format.SAFETENSORS),
        (safetensors(b"{" + b" " * 0x27E + b"}"), Format.SAFETENSORS),
        (json.dumps({"weight_map": {}}).encode(), Format.SHARD_INDEX),
        (b' {"a": 1}', Format.JSON),
        (b"", Format.UNKNOWN),
        (b"<html>", Format.UNKNOWN),
        (b"import torch\nprint(1)\n", Format.UNKNOWN),
        (b"class A:\n    pass\n", Format.UNKNOWN),
        (b"Some model card\n", Format.UNKNOWN),
        (b"GIF89a" + bytes(20), Format.UNKNOWN),
    ],
)
def test_a_format_is_told_by_its_first_bytes(data, form):
    """Names play no part."""
    assert sniff(open_source(data)) is form


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["a/data.pkl", "a/data/0", "a/version"], Format.TORCH_ZIP),
        (["a/data.pkl", "a/constants.pkl"], Format.TORCHSCRIPT),
        (["a/data.pkl", "a/code/x.py"], Format.TORCHSCRIPT),
        (["a/data.pkl", "b/data.pkl"], Format.ZIP_OF_MODELS),
        (["a/DATA.PKL"], Format.ZIP_OF_MODELS),
        (["data.pkl"], Format.ZIP_OF_MODELS),
        (["a.npy", "b/c.npy"], Format.NPZ),
        (["a.npy", "b.txt"], Format.ZIP_OF_MODELS),
        (["data", "policy.pth", "pytorch_variables.pth"], Format.ZIP_OF_MODELS),
        ([], Format.EMPTY_ZIP),
        (["a/.data/extern_modules", "a/data.pkl"], Format.TORCH_PACKAGE),
        (["a/archive_format", "a/data/weights/0"], Format.TORCH_EXPORT),
        (["MAR-INF/MANIFEST.json", "a.pt"], Format.MODEL_ARCHIVE),
        (["config.json", "model.weights.h5"], Format.KERAS),
        (["[Content_Types].xml", "word/a.xml"], Format.OFFICE),
        (["META-INF/MANIFEST.MF"], Format.JAVA),
        (["a/model.json", "a/tensors/0"], Format.OLD_TORCHSCRIPT),
        (["a/model.json", "b/model.pt"], Format.ZIP_OF_MODELS),
    ],
)
def test_a_zip_archive_is_told_by_its_names(names, form):
    """Exactly one root with exactly ``data.pkl`` is a torch archive (C8, C20, C21)."""
    assert classify_zip(names) is form


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><p>", "HTML"),
        (b"\n <!-- x --><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git-LFS"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"GIF89a", "GIF"),
        (b"RIFF1234WEBPVP8 ", "WebP"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x07\x12\x07pytorch\x1a", "ONNX"),
        (b"\x08\x01\x12\x90\x20\x0a\x05", "SavedModel"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"GGUF\3\0", "GGUF"),
        (b"tjgg", "GGML"),
        (b"\x7fELF\2", "ELF"),
        (b"MZ\x90\0", "Windows"),
        (b"\xcf\xfa\xed\xfe", "macOS"),
        (b"ARROW1\0\0", "Arrow"),
        (b"PAR1", "Parquet"),
        (b"SQLite format 3\0", "SQLite"),
        (b"ZF0x1234", "joblib"),
        (b"\x78\x9c\x63\0", "joblib"),
        (b"#!/bin/sh\nrm", "script"),
        (b"#!/usr/bin/env python3\n", "Python"),
        (b"# c\nimport torch\n", "Python"),
        (b"<?xml version='1.0'?>", "XML"),
        (b"Some notes.\n", "plain text"),
        ("Notes öäü".encode()[:-1], "plain text"),
        (bytes(600), "zero"),
        (b"\xde\xad\xbe\xef\0\1", "not a model file that safemodel knows"),
    ],
)
def test_what_is_no_model_is_named(head, what):
    """A sentence says what the file is (C27)."""
    assert what in describe_unknown(head, len(head))


def test_many_comments_in_front_of_no_page_are_passed_once():
    """Each way to end each of them was tried: 28 of them took minutes."""
    assert describe_unknown(b"<!---->" * 500, 3500) == "a plain text file"
    assert describe_unknown(b"<!-- a -->\n" * 300 + b"<html>", 3306).startswith(
        "an HTML"
    )
