"""Content that two bytes of a memo can name again: paid for once, then counted.

Each of these made megabytes, or walked them, for every few bytes of a pickle.
"""

from __future__ import annotations

import datetime as dt

import pytest

from safemodel.errors import ForbiddenCallError, LimitExceededError

ALLOWED = 1_000


@pytest.fixture
def small(new_file):
    """Return a file that may ask for 1,000 bytes it does not hold."""
    return new_file(byte_count=0, min_amplified_bytes=ALLOWED)


def refused_after(file, uses: int, ask) -> None:
    """Ask as often as the budget pays for, and once more."""
    for _ in range(uses):
        ask()
    with pytest.raises(LimitExceededError) as caught:
        ask()
    error = caught.value
    assert (error.limit, error.allowed) == ("max_amplification", ALLOWED)
    assert error.requested > ALLOWED


def test_bytes_are_read_as_text_once(file):
    """A time zone keeps its name: all of them keep the same text."""
    name = b"x" * 100_000
    delta = file.made("datetime.timedelta", 0, 60)

    zones = [file.check("datetime.timezone", delta, name) for _ in range(3)]

    assert zones[0] == dt.timezone(dt.timedelta(0, 60))
    assert len({id(zone.tzname(None)) for zone in zones}) == 1
    assert zones[0].tzname(None) == "x" * 100_000


def test_what_was_decoded_or_encoded_is_not_taken_for_something_else(file):
    """Identities are used again once their owner is gone: so none may go."""
    for number in range(200):
        written = f"text {number}"
        content = written.encode()
        assert file.check("_codecs.encode", written, "latin1") == content
        made = file.check(
            "datetime.timezone", file.made("datetime.timedelta", 0), content
        )
        assert made.tzname(None) == written
        del written, content


def test_what_was_copied_is_not_taken_for_something_else(small):
    """A new list where an old one was is copied for the first time."""
    for _ in range(200):
        small.check("builtins.list", [None] * 100)


def test_fields_of_a_dtype_are_counted_from_the_second_dtype_on(small):
    """256 bytes a field: 3 uses of one field, the first of which is free."""
    names, part = ("a",), small.made("numpy.dtype", "u1")
    state = (3, "|", None, names, {"a": (part, 0)}, 1, 1, 0)

    refused_after(small, 4, lambda: small.check("numpy.dtype", "V1", state=state))


def test_attributes_are_counted_from_the_second_namespace_on(small):
    """100 bytes an attribute, as each namespace has a dictionary of its own."""
    state = {"lr": 0.1}

    refused_after(small, 11, lambda: small.check("argparse.Namespace", state=state))


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("torch.jit._pickle.build_intlist", [1] * 25, ()),
        ("torch.jit._pickle.restore_type_tag", [1] * 25, ("List[int]",)),
        ("torch.jit._pickle.restore_type_tag", (1,) * 25, ("Tuple",)),
        ("torch.return_types.sort", (1,) * 25, ({},)),
    ],
)
def test_items_are_counted_from_the_second_sequence_on(small, name, content, more):
    """8 bytes an item: 200 bytes, which are 6 uses, the first of which is free."""
    refused_after(small, 6, lambda: small.check(name, content, *more))


def test_a_nested_file_read_twice_pays_for_its_objects(small):
    """One byte of a pickle may ask for a hundred."""
    small.ctx.load_nested = lambda data, _: len(data)

    refused_after(
        small, 3, lambda: small.check("torch.storage._load_from_bytes", b"12345")
    )


def test_a_dictionary_that_looks_like_a_bit_generator_is_refused(file):
    """It could be long, and a generator copies what it is given."""
    pairs = {"bit_generator": "PCG64", "state": 1, "seed_seq": 2}
    constructor = "numpy.random._pickle.__generator_ctor"
    generator = file.made("builtins.dict", dict(pairs))

    assert file.check(constructor, generator).pairs[:2] == ["bit_generator", "PCG64"]

    longer = file.made("builtins.dict", pairs | {"more": 3})
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(constructor, longer)
    assert caught.value.name == constructor
    assert caught.value.reason == "not a bit generator of numpy"
