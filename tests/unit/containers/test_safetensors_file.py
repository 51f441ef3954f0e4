"""The safetensors header: everything tiles, in exact integers."""

from __future__ import annotations

import pytest

from safemodel._containers.safetensors_file import ITEM_BITS, read_safetensors
from safemodel._containers.source import open_source
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    StorageBoundsError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from tests.unit.containers.helpers_containers import safetensors


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def read(header: object, data: bytes = b"", limits: Limits = DEFAULT_LIMITS):
    return read_safetensors(open_source(safetensors(header, data)), limits=limits)


def test_tensors_come_in_the_order_of_their_bytes():
    """Names, dtypes, shapes, spans and metadata are as written."""
    header = {
        "b": tensor("U8", [3], 8, 11),
        "a": tensor("F32", [2, 1], 0, 8),
        "__metadata__": {"format": "pt"},
    }
    entries, metadata = read(header, b"AAAAAAAABBB")
    assert [entry[:5] for entry in entries] == [
        ("a", "F32", (2, 1), 0, 8),
        ("b", "U8", (3,), 8, 11),
    ]
    assert entries[1].record.read(limits=DEFAULT_LIMITS) == b"BBB"
    assert metadata == {"format": "pt"}


def test_a_file_without_tensors_is_a_file():
    """An empty header is well-formed; padding behind it is allowed."""
    assert read(b"{}   ") == ([], {})


@pytest.mark.parametrize("dtype", ITEM_BITS)
def test_every_dtype_needs_its_own_size(dtype):
    """Eight elements are exactly as many bytes as one has bits."""
    size = ITEM_BITS[dtype]
    assert read({"t": tensor(dtype, [8], 0, size)}, bytes(size))[0][0].end == size
    for wrong in (size - 1, size + 1):
        with pytest.raises(StorageBoundsError) as caught:
            read({"t": tensor(dtype, [8], 0, wrong)}, bytes(wrong))
        assert (caught.value.needed, caught.value.available) == (size, wrong)


def test_scalars_and_empty_tensors_have_a_place():
    """No axis is one element, a zero axis is none."""
    header = {"s": tensor("I16", [], 0, 2), "e": tensor("F64", [0, 9], 2, 2)}
    assert [e.name for e in read(header, b"12")[0]] == ["s", "e"]


LENGTHS = "the shape is not a list of lengths"
SPAN = "the offsets are not a span"
FIELDS = "a tensor needs dtype, shape and data_offsets and nothing else"
BRACKETS = "nests more than 3 deep, or its brackets do not match"


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": tensor("U8", [1], 1, 2)}, b"12", "the tensor begins at 1"),
        (
            *({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"123"),
            "the tensor begins at 2, the one before ends at 1",
        ),
        (
            *({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"123"),
            "the tensor begins at 1, the one before ends at 2",
        ),
        ({"a": tensor("U8", [1], 0, 1)}, b"12", "1 bytes follow the last tensor"),
        ({"a": tensor("U8", [-1], 0, 1)}, b"1", LENGTHS),
        ({"a": tensor("U8", [-1, -1], 0, 1)}, b"1", LENGTHS),
        ({"a": tensor("U8", [True], 0, 1)}, b"1", LENGTHS),
        ({"a": tensor("U8", [1.0], 0, 1)}, b"1", LENGTHS),
        ({"a": tensor("U8", {}, 0, 1)}, b"1", LENGTHS),
        ({"a": tensor("U8", [1], 1, 0)}, b"1", SPAN),
        ({"a": tensor("U8", [1], -1, 0)}, b"1", SPAN),
        ({"a": tensor("U8", [1], 0, 1.0)}, b"1", SPAN),
        ({"a": tensor("U9", [1], 0, 1)}, b"1", "no such dtype: U9"),
        ({"a": tensor(["U8"], [1], 0, 1)}, b"1", "no such dtype: a list"),
        ({"a": {**tensor("U8", [1], 0, 1), "more": 1}}, b"1", FIELDS),
        ({"a": {"dtype": "U8", "shape": [1]}}, b"1", FIELDS),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"1", SPAN),
        ({"a": {"dtype": "U8", "shape": 1, "data_offsets": [0, 1]}}, b"1", LENGTHS),
        ({"a": [1]}, b"", FIELDS),
        ({"__metadata__": {"a": 1}}, b"", "does not map text to text"),
        ({"__metadata__": []}, b"", "does not map text to text"),
        (b"[]", b"", "not a JSON object"),
        (b" {}", b"", "not a JSON object"),
        (b"{", b"", BRACKETS),
        (b'{"a":NaN}', b"", "NaN is not JSON"),
        (b'{"a":1,}', b"", "not JSON: Expecting property name"),
        (b'{"\xff":{}}', b"", "can't decode byte 0xff"),
        (b'{"__metadata__":{"a":"\\ud800"}}', b"", "surrogates not"),
        (b'{"a":' + b"1" * 21 + b"}", b"", "a number of more than 20 digits"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, b"", BRACKETS),
        (b'{"a":["]",["]",[1]]]}', b"", BRACKETS),
    ],
)
def test_what_breaks_a_rule_is_malformed(header, data, reason):
    """Holes, overlaps, rests, wrong kinds and broken JSON are refused."""
    with pytest.raises(MalformedFileError) as caught:
        read(header, data)
    assert type(caught.value) is MalformedFileError
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "header",
    [
        (
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        ),
        b'{"a":{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        (
            b'{"__metadata__":{"k":"1","k":"2"},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        ),
        (
            b'{"__metadata__":{},"__metadata__":{},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        ),
    ],
)
def test_a_key_that_is_there_twice_is_refused(header):
    """Other parsers take the first, or the last."""
    with pytest.raises(MalformedFileError):
        read(header, b"1")


def test_colons_and_braces_within_names_count_for_nothing():
    """Only what stands outside of strings is structure."""
    name = 'a:{"]\\'
    entries, _ = read({name: tensor("U8", [1], 0, 1)}, b"1")
    assert entries[0].name == name


def test_lengths_that_lie_are_truncation():
    """The header's length and the tensors' end lie within the file."""
    good = safetensors({"a": tensor("U8", [2], 0, 2)}, b"12")
    for data in (good[:7], good[:20], good[:-1], b"\xff" * 8 + b"{"):
        with pytest.raises(TruncatedFileError):
            read_safetensors(open_source(data), limits=DEFAULT_LIMITS)


def test_limits_are_exact():
    """Header bytes, tensors and axes: as many as allowed, and one more."""
    header = b'{"a":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]}}'
    for name, most in (
        ("max_header_bytes", len(header)),
        ("max_dimensions", 2),
        ("max_tensors", 1),
    ):
        read(header, b"1", Limits(**{name: most}))
        if most > 1:
            with pytest.raises(LimitExceededError) as caught:
                read(header, b"1", Limits(**{name: most - 1}))
            assert (caught.value.limit, caught.value.requested) == (name, most)
    two = {"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [0], 1, 1)}
    with pytest.raises(LimitExceededError) as caught:
        read(two, b"1", Limits(max_tensors=1))
    assert (caught.value.limit, caught.value.requested) == ("max_tensors", 2)


def test_dtypes_without_an_equivalent_are_unsupported():
    """Six-bit floats are recognised for what they are."""
    with pytest.raises(UnsupportedFormatError, match="F6_E2M3"):
        read({"a": tensor("F6_E2M3", [4], 0, 3)}, b"123")
