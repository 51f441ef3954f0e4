"""JSON texts: every rule of `json_text`, and that none of them costs more than once."""

from __future__ import annotations

import time

import pytest

from safemodel._containers.json_text import parse_json
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import DEFAULT_LIMITS, Limits


def parse(text: bytes, max_depth: int = 4, limits: Limits = DEFAULT_LIMITS) -> object:
    """Parse with small bounds."""
    return parse_json(text, max_depth=max_depth, limits=limits)


def refusal(text: bytes, max_depth: int = 4) -> str:
    """Return why a text is malformed."""
    with pytest.raises(MalformedFileError) as caught:
        parse(text, max_depth)
    assert caught.value.record == ""
    return caught.value.reason


def test_brackets_nest_as_deep_as_the_caller_says():
    """Rule 1 on both sides of the bound, for both kinds of bracket."""
    assert parse(b'[{"a":[[1]]}]') == [{"a": [[1]]}]
    assert "more than 4 deep" in refusal(b'[{"a":[[[1]]]}]')


@pytest.mark.parametrize("text", [b"[", b"]", b"[[]", b'"a" ]'])
def test_brackets_without_a_partner_are_malformed(text):
    """What does not match never reaches the parser."""
    assert "do not match" in refusal(text)


@pytest.mark.parametrize("text", [rb'"\"[[[[[["', rb'"a\\"', b'"[[[[[["'])
def test_brackets_and_digits_in_strings_do_not_count(text):
    """An escaped quote does not end a string."""
    assert type(parse(text)) is str


def test_numbers_have_twenty_digits():
    """Rule 2 on both sides, and not within strings."""
    assert parse(b"[" + b"9" * 20 + b"]") == [int("9" * 20)]
    assert parse(b'"' + b"9" * 21 + b'"') == "9" * 21
    assert "more than 20 digits" in refusal(b"[" + b"9" * 21 + b"]")


def test_the_length_of_a_text_is_bounded():
    """`max_header_bytes`, on both sides."""
    assert parse(b'"ab"', limits=Limits(max_header_bytes=4)) == "ab"
    with pytest.raises(LimitExceededError) as caught:
        parse(b'"abc"', limits=Limits(max_header_bytes=4))
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_header_bytes", 4, 5)


@pytest.mark.parametrize(
    "text",
    [b'{"a":1,"a":2}', b"NaN", b"[-Infinity]", rb'"\ud800"', b'"\xff"', b"", b"{1}"],
    ids=repr,
)
def test_what_is_not_json_is_malformed(text):
    """Rule 3, and what the parser itself refuses."""
    assert refusal(text).startswith("not JSON: ")


def test_an_escape_that_is_a_character_passes():
    """Only lone surrogates are refused."""
    assert parse(rb'"\ud83d\ude00"') == "\U0001f600"


@pytest.mark.parametrize("unit", [rb"\"", rb'\\"', rb"\x", rb'"\"'])
def test_a_string_without_end_costs_one_pass(unit):
    """A quarter of a million escaped quotes: searching from each takes an hour."""
    started = time.process_time()
    with pytest.raises(MalformedFileError):
        parse(b'"' + unit * 250_000)
    assert time.process_time() - started < 5
