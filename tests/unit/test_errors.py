"""Errors: what they say, where they say it, and that file content cannot hurt them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

from safemodel import errors
from safemodel.errors import (
    ChecksumError,
    ForbiddenCallError,
    ForbiddenGlobalError,
    ForbiddenOpcodeError,
    KeyFormatError,
    KeyRequiredError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    StateFormatError,
    StorageBoundsError,
    TruncatedFileError,
    UnsafeFileError,
    UnsupportedFormatError,
    VerificationError,
    quote,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, SafeModelError)
]


PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def test_the_page_has_every_error_below_its_family_with_what_it_carries():
    """In the order of the tree, with the members that its class describes."""
    tree: list[tuple[str, str, list[str]]] = []

    def add(kind: type[SafeModelError], depth: int) -> None:
        described = re.findall(
            r"^    (\w+): ", inspect.getdoc(kind) or "", re.MULTILINE
        )
        tree.append(("– " if depth == 2 else "", kind.__name__, described))
        for one in kind.__subclasses__():
            # Commands have some of their own, which no caller sees.
            if one.__module__ == errors.__name__:
                add(one, depth + 1)

    add(SafeModelError, 0)
    rows = re.findall(r"^\| (– )?`(\w+)` \| .* \|(.*)\|$", PAGE, re.MULTILINE)
    assert [
        (indent, name, re.findall(r"`(\w+)`", carries))
        for indent, name, carries in rows
    ] == tree


@pytest.mark.parametrize("kind", CLASSES)
def test_no_error_is_one_that_callers_answer_by_trying_again_unsafely(
    kind: type[SafeModelError],
) -> None:
    """`except UnpicklingError: torch.load(weights_only=False)` is everywhere."""
    assert not issubclass(kind, (pickle.PickleError, ValueError, OSError, EOFError))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\x1b[31m\u202e", "a\\nb\\x1b[31m\\u202e"),
        (b"\xff\0", "\\xff\\x00"),
        ("\ud800", "\\ud800"),
        (12, "12"),
        (None, "None"),
        (1 << 300, "an integer of 301 bits"),
        ([1], "a list"),
    ],
)
def test_file_content_is_quoted_as_printable_ascii(content: object, shown: str) -> None:
    """No terminal escape and no line break reaches a log."""
    assert quote(content) == shown


@pytest.mark.parametrize("content", ["x" * 10**6, b"\xff" * 10**6, "\u202e" * 50])
def test_a_quotation_is_at_most_80_characters(content: str | bytes) -> None:
    """Whatever the length, after escaping."""
    assert len(quote(content)) <= 80
    assert quote(content).endswith("...")
    assert quote("y" * 80) == "y" * 80


def test_what_cannot_be_written_out_is_named() -> None:
    """A deep or doubly shared container is never walked."""
    deep: object = ()
    for _ in range(100_000):
        deep = (deep, deep)

    assert quote(deep) == "a tuple"


def test_an_error_learns_its_place_on_the_way_out() -> None:
    """The layer that raises knows the position, the one above the record."""
    error = MalformedFileError("odd", position=7)

    assert str(error) == "@7: odd"
    assert error.locate(record="a/data.pkl", position=99) is error
    assert (error.record, error.position) == ("a/data.pkl", 7)
    assert str(error) == "a/data.pkl@7: odd"
    assert error.locate(record="other").record == "a/data.pkl"


def test_refused_globals_are_listed_all_at_once_with_the_way_out() -> None:
    """Not one name per attempt."""
    refused = [(f"m{index}", "C", "a/data.pkl", index) for index in range(25)]

    error = ForbiddenGlobalError(refused)

    assert error.globals == tuple(refused)
    assert (error.module, error.name, error.position) == ("m0", "C", 0)
    text = str(error)
    assert "m19.C (a/data.pkl@19)" in text
    assert "and 5 more" in text
    assert "weights_only=False" in text


def test_errors_carry_their_facts() -> None:
    """A caller reads attributes, not messages."""
    limit = LimitExceededError("max_depth", allowed=256, requested=1000)
    cut = TruncatedFileError("text", needed=9, available=3, position=4)
    bounds = StorageBoundsError("view", needed=10, available=4, record="r")
    crc = ChecksumError("r", expected=1, actual=2)
    call = ForbiddenCallError("m.f", "no", position=3, record="r")

    assert (limit.limit, limit.allowed, limit.requested) == ("max_depth", 256, 1000)
    assert str(limit) == "max_depth: file asks for 1,000, allowed 256"
    assert (cut.needed, cut.available, cut.position) == (9, 3, 4)
    assert (bounds.needed, bounds.available, bounds.record) == (10, 4, "r")
    assert str(crc) == "r: CRC-32 is 00000002, the archive says 00000001"
    assert (call.name, call.reason, str(call)) == ("m.f", "no", "r@3: m.f: no")
    assert UnsupportedFormatError("a PNG image").what == "a PNG image"
    assert issubclass(ForbiddenCallError, UnsafeFileError)


def test_a_changed_file_is_described_by_tensors_and_bytes() -> None:
    """Names are quoted, and a long list is cut; the attributes have all of it."""
    names = [f"layer.{index}\x1b" for index in range(12)]
    ranges = [(0, index * 2000, index * 2000 + 1000) for index in range(11)]

    error = VerificationError("bytes have changed", tensors=names, ranges=ranges)

    assert error.tensors == tuple(names)
    assert error.ranges == tuple(ranges)
    text = str(error)
    assert text.startswith(r"bytes have changed: layer.0\x1b, layer.1\x1b, ")
    assert "layer.9\\x1b, and 2 more; pool 0, bytes 0 to 1,000, pool 0" in text
    assert text.endswith("bytes 18,000 to 19,000, and 1 more")
    assert "layer.10" not in text
    assert str(VerificationError("changed")) == "changed"
    few = VerificationError("changed", ranges=[(1, 2, 3)])
    assert str(few) == "changed; pool 1, bytes 2 to 3"


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenGlobalError([("m", "C", "a/data.pkl", 7), ("m", "D", "", 9)]),
        ForbiddenOpcodeError("EXT1", position=3, record="r"),
        ForbiddenCallError("m.f", "no", position=3, record="r"),
        LimitExceededError("max_depth", allowed=256, requested=1000),
        MalformedFileError("odd", position=7).locate(record="r"),
        TruncatedFileError("text", needed=9, available=3, position=4),
        StorageBoundsError("view", needed=10, available=4, record="r"),
        ChecksumError("r", expected=1, actual=2),
        UnsupportedFormatError("a PNG image"),
        VerificationError("changed", tensors=["a", "b"], ranges=[(0, 1, 2)]),
        KeyRequiredError("no key", key_id="00" * 16, given=["11" * 16]),
        KeyFormatError("not a key").locate(record="k"),
        StateFormatError("damaged"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process_and_back(error: SafeModelError) -> None:
    """What a worker raises is what its caller catches, with all of its facts."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
