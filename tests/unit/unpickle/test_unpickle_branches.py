"""Rare opcodes, and what ends a run of text: each way out of a shortcut."""

from __future__ import annotations

import struct

import pytest

from safemodel._unpickle.machine import parse, unpickle
from safemodel._unpickle.nodes import Call, SetNode, TensorCall
from safemodel.errors import LimitExceededError, MalformedFileError, TruncatedFileError
from safemodel.limits import Limits

PROTO = b"\x80\x05"


def counted(opcode: int, width: int, content: bytes) -> bytes:
    """Return an opcode with a length and what it counts."""
    return bytes((opcode,)) + len(content).to_bytes(width, "little") + content


@pytest.mark.parametrize(
    ("opcode", "width", "value"),
    [
        (0x8D, 8, "naïve"), (0x8E, 8, b"\x00\xff"), (0x96, 8, bytearray(b"ab")),
        (0x42, 4, b"\x00\xff"), (0x43, 1, b"\x00\xff"), (0x54, 4, "ab"),
        (0x55, 1, "ab"),
    ],
)  # fmt: skip
def test_every_counted_opcode_gives_its_content(opcode, width, value):
    """As its own kind; one byte too few is truncated, and nothing is allocated."""
    content = value.encode() if type(value) is str else bytes(value)
    data = PROTO + counted(opcode, width, content) + b"."
    made = unpickle(data).root
    assert (type(made), made) == (type(value), value)

    huge = PROTO + bytes((opcode,)) + b"\x7f" * width
    with pytest.raises(TruncatedFileError) as caught:
        unpickle(huge)
    assert caught.value.needed == int.from_bytes(b"\x7f" * width, "little")
    assert (caught.value.available, caught.value.position) == (0, 2)


@pytest.mark.parametrize("opcode", [0x54, 0x8B])
def test_a_signed_length_is_not_negative(opcode):
    """BINSTRING and LONG4 have one."""
    with pytest.raises(MalformedFileError) as caught:
        unpickle(PROTO + bytes((opcode,)) + b"\xff\xff\xff\xff.")
    assert caught.value.reason == "a length of -1"


def test_items_and_elements_add_up():
    """In the order of the pickle, however they are given."""
    made = unpickle(PROTO + b"cm\nn\n)R(K\x01K\x02eK\x03a(K\x04e.").root
    assert type(made) is Call
    assert made.elements == [1, 2, 3, 4]
    made = unpickle(PROTO + b"cm\nn\n)RK\x01K\x02s(K\x03K\x04u.").root
    assert made.pairs == [1, 2, 3, 4]
    made = unpickle(PROTO + b"\x8f(K\x01\x90(K\x02K\x03\x90.").root
    assert type(made) is SetNode
    assert made.elements == [1, 2, 3]
    made = unpickle(PROTO + b"cm\nn\n)R(K\x01\x90(K\x02\x90.").root
    assert made.elements == [1, 2]


def test_pop_takes_a_value_or_a_mark():
    """A mark where no value is above it, and nothing where neither is."""
    assert unpickle(PROTO + b"K\x01(0.").root == 1
    assert unpickle(PROTO + b"K\x01(K\x0200.").root == 1
    with pytest.raises(MalformedFileError) as caught:
        unpickle(PROTO + b"0.")
    assert (caught.value.reason, caught.value.position) == (
        "the stack or the marks run out", 2,
    )  # fmt: skip


def test_a_decimal_number_has_up_to_400_characters():
    """Both sides of the bound; no pickler writes more than a score."""
    line = b"1." + b"5" * 398
    assert unpickle(b"F" + line + b"\n.").root == float(line)
    with pytest.raises(MalformedFileError, match="not a decimal number"):
        unpickle(b"F" + line + b"5\n.")


def test_a_decimal_integer_has_five_digits_for_two_bytes():
    """Both sides of the bound; the length is looked at before the digits are."""
    limits = Limits(max_integer_bytes=8)
    assert unpickle(b"I" + b"7" * 20 + b"\n.", limits=limits).root == int("7" * 20)
    for line in (b"7" * 21, b"x" * 21):
        with pytest.raises(LimitExceededError) as caught:
            unpickle(b"I" + line + b"\n.", limits=limits)
        assert (caught.value.limit, caught.value.requested) == ("max_integer_bytes", 8)


@pytest.mark.parametrize("line", [b"", b"'", b"abca", b"'a", b"a'", b"'a\"", b"aa"])
def test_a_string_is_between_two_quotes_of_one_kind(line):
    """As the pickler of Python 2 wrote it; nothing at all may be between them."""
    assert unpickle(b"S''\n.").root == ""
    assert unpickle(b'S"\'"\n.').root == "'"
    with pytest.raises(MalformedFileError, match="STRING is not quoted"):
        unpickle(b"S" + line + b"\n.")


def test_pop_mark_takes_what_is_above_the_mark():
    """However much that is; without a mark there is nothing to take."""
    assert unpickle(PROTO + b"K\x01(1.").root == 1
    assert unpickle(PROTO + b"K\x01(K\x02K\x031.").root == 1
    with pytest.raises(MalformedFileError) as caught:
        unpickle(PROTO + b"K\x011.")
    assert (caught.value.reason, caught.value.position) == (
        "the stack or the marks run out", 4,
    )  # fmt: skip


@pytest.mark.parametrize("value", [b"C\x01a", b"\x96\x01" + bytes(7) + b"a"])
def test_a_buffer_may_be_made_read_only(value):
    """Which bytes in the pickle are to us anyway; nothing else may be."""
    assert bytes(unpickle(PROTO + value + b"\x98.").root) == b"a"
    with pytest.raises(MalformedFileError) as caught:
        unpickle(PROTO + b"]\x98.")
    assert caught.value.reason == "READONLY_BUFFER on a list"


def test_a_memo_slot_is_at_most_the_bytes_read_so_far():
    """On both sides; gaps are filled, and a negative slot is malformed.

    What precedes the pickle, as the one before it in a stream does, is not its own.
    """
    data = PROTO + b"Np%02d\n."
    for start in (0, 7):
        assert unpickle(b"N" * start + data % 3, start).root is None
        with pytest.raises(LimitExceededError) as caught:
            unpickle(b"N" * start + data % 4, start)
        error = caught.value
        assert (error.limit, error.allowed, error.requested) == ("memo index", 3, 4)
    with pytest.raises(MalformedFileError) as negative:
        unpickle(data % -1)
    assert negative.value.reason == "memo slot -1"


def text(content: bytes) -> bytes:
    """Return BINUNICODE."""
    return b"X" + struct.pack("<I", len(content)) + content


class Writer:
    """Writes text as picklers do: each goes into the next memo slot."""

    def __init__(self) -> None:
        self.slot = 300

    def put(self, content: bytes) -> bytes:
        """Return BINUNICODE and LONG_BINPUT."""
        self.slot += 1
        return text(content) + b"r" + struct.pack("<I", self.slot - 1)


def whole(body: bytes) -> bytes:
    """Return a pickle whose first 300 memo slots are taken."""
    head = b"".join(b"Nr" + struct.pack("<I", slot) + b"0" for slot in range(300))
    return b"\x80\x02" + head + body + b"."


def both(body: bytes, limits: Limits | None = None) -> object:
    """Return what a pickle gives, with and without shortcuts."""
    bounds = limits or Limits()
    quick, error = parse(whole(body), limits=bounds)
    slow, slow_error = parse(whole(body), limits=bounds, shortcuts=False)
    assert str(error) == str(slow_error)
    if error is not None:
        raise error
    assert quick.root == slow.root
    assert type(quick.root) is type(slow.root)
    return quick.root


NUMBER = b"J\x01\x02\x00\x00"
ODD_TEXTS = {
    "longer than a key": b"x" * 65_537,
    "a lone surrogate": b"\xed\xa0\x80",
    "empty": b"",
    "a key of the longest": b"x" * 65_536,
    "beyond ASCII": "naïve \U0001f600".encode(),
}


@pytest.mark.parametrize("odd", ODD_TEXTS.values(), ids=ODD_TEXTS)
@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("number", [b"", NUMBER, b"K\x07", b"M\x01\x02"])
def test_odd_text_reads_the_same_wherever_it_stands(odd, place, number):
    """First in a run, second, last; before each kind of number, or none."""
    writer = Writer()
    texts = [b"a", b"b", b"c", b"d"]
    texts.insert(place, odd)
    items = b"".join(writer.put(content) + number for content in texts)
    listed = both(b"](" + items + b"e")
    expected = [content.decode("utf-8", "surrogatepass") for content in texts]
    assert [item for item in listed if type(item) is str] == expected


def test_long_texts_are_read_in_one_run():
    """However many keys' worth of bytes they add up to."""
    writer = Writer()
    pairs = [(b"%05d" % number * 6000, NUMBER) for number in range(20)]
    items = b"".join(writer.put(key) + value for key, value in pairs)
    assert both(b"}(" + items + b"u") == {key.decode(): 513 for key, _ in pairs}


@pytest.mark.parametrize(
    "ending",
    [b"q\x05", b"\x94", b"r" + struct.pack("<I", 299), b"r" + struct.pack("<I", 400),
     b"K\x01", b"", b"0N"],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 1, 3])
def test_text_that_goes_elsewhere_ends_the_run(ending, before):
    """Into a slot with a short number, the next one, an old one, a far one, or none."""
    writer = Writer()
    items = b"".join(writer.put(b"t%d" % number) + NUMBER for number in range(before))
    items += text(b"odd") + ending
    listed = both(b"](" + items + b"e")
    assert listed[: 2 * before : 2] == [f"t{number}" for number in range(before)]


@pytest.mark.parametrize("after", [b"N", b"]", b"\x88", b"h\x00", b"e0N"])
@pytest.mark.parametrize("number", [NUMBER, b"K\x07", b"M\x01\x02", b""])
def test_anything_but_text_behind_a_number_ends_the_run(after, number):
    """The loop goes on from there."""
    writer = Writer()
    items = b"".join(writer.put(b"t%d" % place) + number for place in range(3))
    both(b"](" + items + after + (b"" if after[:1] == b"e" else b"e"))


def test_the_length_of_a_key_is_checked_in_a_run_as_elsewhere():
    """On both sides of the limit, as key and as value."""
    limits = Limits(max_key_bytes=4)
    for content, fits in ((b"1234", True), (b"12345", False)):
        writer = Writer()
        items = writer.put(b"a") + NUMBER + writer.put(content) + NUMBER
        if fits:
            assert both(b"}(" + items + b"u", limits) == {"a": 513, "1234": 513}
        else:
            assert both(b"](" + items + b"e", limits) == ["a", 513, "12345", 513]
            with pytest.raises(LimitExceededError) as caught:
                both(b"}(" + items + b"u", limits)
            assert caught.value.limit == "max_key_bytes"


@pytest.mark.parametrize("shape", [b")", b"K\x04\x85"])
@pytest.mark.parametrize("kept", [True, False])
def test_an_empty_shape_is_never_in_the_memo_and_any_other_always_is(shape, kept):
    """As picklers do it; a pickle that does otherwise is left to the loop."""
    slots = iter(range(300, 310))

    def put() -> bytes:
        return b"r" + struct.pack("<I", next(slots))

    head = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00X\x07\0\0\0storageq\x01"
    head += b"ctorch\nFloatStorage\nq\x02X\x03\0\0\0cpuq\x03"
    head += b"ccollections\nOrderedDict\nq\x0400000"
    stride = b")" if shape == b")" else b"K\x01\x85"
    call = (
        b"h\x00((h\x01h\x02X\x01\0\0\x000" + put() + b"h\x03K\x04t" + put() + b"QK\x00"
    )
    call += shape + (put() if kept else b"") + stride + (put() if kept else b"")
    call += b"\x89h\x04)R" + put() + b"t" + put() + b"R" + put()
    made = unpickle(whole(head + call)).root

    taken = kept is (shape != b")")
    assert type(made) is (TensorCall if taken else Call)
    shapes = made.form.shape if taken else made.args[2]
    assert shapes == (() if shape == b")" else (4,))
