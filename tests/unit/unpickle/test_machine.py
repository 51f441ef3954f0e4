"""The pickle machine: everything a pickler writes, and every rule of its docstring."""

from __future__ import annotations

import collections
import pickle
import pickletools
import struct

import pytest

from safemodel._graph.walk import walk
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.keys import KeyGuard
from safemodel._unpickle.machine import parse, unpickle
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
)
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenOpcodeError,
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
)
from safemodel.limits import Limits
from tests.conftest import Rand

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def random_value(rand: Rand, depth: int = 0) -> object:
    """Return plain data of every kind the machine makes real values of."""
    scalars = [
        None,
        True,
        False,
        rand.randint(-300, 300),
        rand.randint(-(2**70), 2**70),
        rand.choice([0.0, -0.0, 1.5, float("inf"), -1e300]),
        rand.sample_bytes(largest=300).decode("latin-1"),
        "naïve \ud800 \n text",
        rand.sample_bytes(largest=300),
        bytearray(rand.sample_bytes(largest=20)),
    ]
    if depth > 3:
        return rand.choice(scalars[:-1])
    items = [random_value(rand, depth + 1) for _ in range(rand.randint(0, 5))]
    keys = [rand.choice(scalars[:-1]) for _ in items]
    kinds = [items, tuple(items), dict(zip(keys, items, strict=True)), *scalars]
    return rand.choice(kinds)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_as_it_was_written(rand: Rand, protocol: int) -> None:
    """Any protocol, framed or not, gives the value that was pickled."""
    for _ in range(60):
        value = random_value(rand)
        data = pickle.dumps(value, protocol)
        # Protocols 0 to 2 write bytes as calls; those are for the layer above.
        if any(o.name in ("GLOBAL", "STACK_GLOBAL") for o, _, _ in genops(data)):
            continue

        parsed = unpickle(data)

        assert parsed.root == value
        assert repr(parsed.root) == repr(value)
        assert parsed.end == len(data)


def genops(data: bytes) -> list[tuple[pickletools.OpcodeInfo, object, int | None]]:
    """Return the opcodes as the standard library's own lexer sees them."""
    return list(pickletools.genops(data))


def test_every_opcode_of_pickletools_is_known() -> None:
    """The table has the names and bytes of the standard library, no more, no less."""
    theirs = {ord(o.code): o.name for o in pickletools.opcodes}

    assert theirs == op.OPCODE_NAMES


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sharing_and_cycles_survive(protocol: int) -> None:
    """One object stays one object, and a list may hold itself."""
    shared: list[object] = [1]
    cycle: list[object] = [shared, shared, {"again": shared}]
    cycle.append(cycle)

    root = unpickle(pickle.dumps(cycle, protocol)).root

    assert isinstance(root, list)
    assert root[0] is root[1] is root[2]["again"]
    assert root[3] is root


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_class_and_its_state_become_nodes(protocol: int) -> None:
    """Nothing is built: the name, the arguments and the items are on record."""
    value = collections.OrderedDict([("a", 1), ("b", 2)])

    parsed = unpickle(pickle.dumps(value, protocol))

    call = parsed.root
    assert isinstance(call, Call)
    assert isinstance(call.target, GlobalRef)
    assert (call.target.module, call.target.name) == ("collections", "OrderedDict")
    assert call.state is UNCHECKED
    assert (call.args, call.pairs) == ((), ["a", 1, "b", 2])
    assert parsed.calls == [call]
    assert parsed.globals == [call.target]


def test_sets_stay_nodes_until_their_elements_are_checked() -> None:
    """Hashing is for later, when someone has looked at what would be hashed."""
    first = unpickle(pickle.dumps({1, 2}, 4)).root
    second = unpickle(pickle.dumps(frozenset({3}), 4)).root

    assert isinstance(first, SetNode)
    assert sorted(first.elements or ()) == [1, 2]
    assert isinstance(second, FrozenSetNode)
    assert second.elements == (3,)


def test_globals_are_listed_once_in_order_with_their_first_position() -> None:
    """A name used twice is one record."""
    parsed = unpickle(b"(cb\nB\nca\nA\ncb\nB\nt.")

    assert [(g.module, g.name, g.position) for g in parsed.globals] == [
        ("b", "B", 1),
        ("a", "A", 6),
    ]
    assert parsed.root == (parsed.globals[0], parsed.globals[1], parsed.globals[0])


@pytest.mark.parametrize(
    ("data", "pid"), [(b"P12\n.", "12"), (b"(X\x01\0\0\0aK\x01tQ.", ("a", 1))]
)
def test_persistent_ids_are_recorded(data: bytes, pid: object) -> None:
    """As text (PERSID) and as a value (BINPERSID)."""
    parsed = unpickle(data)

    assert isinstance(parsed.root, PersistentRef)
    assert parsed.root.pid == pid
    assert parsed.persistent == [parsed.root]


@pytest.mark.parametrize(
    ("data", "opcode", "args"),
    [
        (b"(K\x01K\x02im\nC\n.", op.INST, (1, 2)),
        (b"(cm\nC\nK\x01K\x02o.", op.OBJ, (1, 2)),
        (b"cm\nC\n(K\x01K\x02tR.", op.REDUCE, (1, 2)),
        (b"cm\nC\nK\x01K\x02\x86\x81.", op.NEWOBJ, (1, 2)),
        (b"cm\nC\nK\x01K\x02\x86}\x92.", op.NEWOBJ_EX, (1, 2)),
    ],
)
def test_every_way_to_call_is_a_call_node(
    data: bytes, opcode: int, args: tuple[int, ...]
) -> None:
    """Its opcode and position are kept for reports."""
    call = unpickle(data).root

    assert isinstance(call, Call)
    assert (call.opcode, call.args) == (opcode, args)
    assert data[call.position] == opcode
    assert isinstance(call.target, GlobalRef)
    assert call.target.name == "C"


def test_a_state_is_recorded_once_and_only_on_a_call() -> None:
    """BUILD on a global would edit a function; twice is something no pickler writes."""
    call = unpickle(b"cm\nC\n)R}b.").root
    assert isinstance(call, Call)
    assert call.state == {}

    with pytest.raises(ForbiddenCallError) as caught:
        unpickle(b"cm\nf\n}b.")
    assert (caught.value.name, caught.value.position) == ("m.f", 6)
    with pytest.raises(MalformedFileError) as twice:
        unpickle(b"cm\nC\n)R}b}b.")
    assert twice.value.position == 10


@pytest.mark.parametrize(
    "data",
    [b"K\x01K\x02a.", b"](K\x01K\x02u.", b")K\x01a.", b"K\x01(K\x02\x90.", b"}}b."],
)
def test_only_lists_dicts_sets_and_calls_are_changed(data: bytes) -> None:
    """CVE-2026-24747 was an item set on something that is no dictionary."""
    with pytest.raises(MalformedFileError) as caught:
        unpickle(data)

    assert type(caught.value) is MalformedFileError
    assert caught.value.position == len(data) - 2


@pytest.mark.parametrize("code", [op.EXT1, op.EXT2, op.EXT4, op.NEXT_BUFFER])
def test_opcodes_that_reach_outside_the_file_are_refused(code: int) -> None:
    """The extension registry and out-of-band buffers are not in the file."""
    with pytest.raises(ForbiddenOpcodeError) as caught:
        unpickle(bytes([code]) + b"\0\0\0\0.")

    assert caught.value.opcode == op.OPCODE_NAMES[code]
    assert caught.value.position == 0


def test_every_truncation_is_an_error_of_ours(rand: Rand) -> None:
    """Cut anywhere, a pickle raises and gives nothing."""
    for protocol in PROTOCOLS:
        data = pickle.dumps([random_value(rand), collections.Counter("aab")], protocol)
        for end in range(len(data)):
            with pytest.raises(MalformedFileError):
                unpickle(data[:end])


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b"R.", 0),
        (b"K\x01R.", 2),
        (b"t.", 0),
        (b"K\x01K\x02.", 4),
        (b"(K\x01.", 3),
        (b".", 0),
        (b"h\x05K\x01.", 0),
        (b"g5\nK\x01.", 0),
        (b"g-1\nK\x01.", 0),
        (b"\xff.", 0),
        (b"K\x01\x80\x02.", 2),
        (b"K\x01K\x02\x93.", 4),
        (b"(K\x01d.", 3),
        (b"I1_0\n.", 0),
        (b"I 1\n.", 0),
        (b"L0x1L\n.", 0),
        (b"F1.0.0\n.", 0),
        (b"S'a\n.", 0),
        (b"V\\u12\n.", 0),
        (b"X\x01\0\0\0\xff.", 0),
        (b"\x8b\xff\xff\xff\xffK\x01.", 0),
        (b"]Q.", 1),
        (b"K\x01\x98.", 2),
        (b"cm\nC\nK\x01R.", 7),
        (b"cm\nC\n)]\x92.", 7),
    ],
)
def test_what_no_pickler_writes_is_malformed_at_its_opcode(
    data: bytes, position: int
) -> None:
    """Underflow, missing memo slots, odd numbers, text that is not text."""
    with pytest.raises(MalformedFileError) as caught:
        unpickle(data)

    assert not isinstance(caught.value, TruncatedFileError)
    assert caught.value.position == position


@pytest.mark.parametrize(
    ("data", "needed", "available"),
    [
        (b"\x8d" + struct.pack("<Q", 1 << 62) + b"ab.", 1 << 62, 3),
        (b"\x8e" + struct.pack("<Q", 1 << 62) + b"ab.", 1 << 62, 3),
        (b"\x96" + struct.pack("<Q", 1 << 62) + b"ab.", 1 << 62, 3),
        (b"B" + struct.pack("<I", 1 << 31) + b"ab.", 1 << 31, 3),
        (b"C\x09ab.", 9, 3),
        (b"\x95" + struct.pack("<Q", 1 << 62) + b"K\x01.", 1 << 62, 3),
    ],
)
def test_a_length_is_compared_with_what_is_left_before_anything_is_made(
    data: bytes, needed: int, available: int
) -> None:
    """Four exabytes of text announced in ten bytes cost nothing."""
    with pytest.raises(TruncatedFileError) as caught:
        unpickle(data)

    assert (caught.value.needed, caught.value.available) == (needed, available)


def test_text_longer_than_the_file_is_truncated_not_shorter() -> None:
    """BINUNICODE is read in the hot loop; its length is checked there too."""
    for data in (b"X\xff\0\0\0ab.", b"\x8c\xffab.", b"X\xff\xff\xff\xffa."):
        with pytest.raises(TruncatedFileError):
            unpickle(data)


def test_a_frame_ends_between_two_opcodes() -> None:
    """Two unpicklers read different bytes otherwise (CPython issue 154848)."""
    whole = b"\x80\x04\x95" + struct.pack("<Q", 3) + b"K\x01."
    assert unpickle(whole).root == 1

    inside = b"\x80\x04\x95" + struct.pack("<Q", 1) + b"K\x01."
    with pytest.raises(MalformedFileError, match="frame ends inside") as caught:
        unpickle(inside)
    assert caught.value.position == 11
    nested = (
        b"\x80\x04\x95"
        + struct.pack("<Q", 12)
        + b"\x95"
        + struct.pack("<Q", 3)
        + b"K\x01."
    )
    with pytest.raises(MalformedFileError, match="within a frame"):
        unpickle(nested)


def test_protocols_beyond_five_are_named() -> None:
    """Not malformed: another tool may read it."""
    with pytest.raises(UnsupportedFormatError, match="protocol 6"):
        unpickle(b"\x80\x06K\x01.")


def test_a_memo_index_is_bounded_by_the_bytes_read_so_far() -> None:
    """Skipped slots are allowed; two billion of them from ten bytes are not."""
    data = b"K\x01q\x02h\x02\x86."
    assert unpickle(data).root == (1, 1)

    with pytest.raises(LimitExceededError) as caught:
        unpickle(b"K\x01r\xff\xff\xff\x7f.")
    assert caught.value.requested == 0x7FFFFFFF
    with pytest.raises(LimitExceededError):
        unpickle(b"K\x01p99999999\n.")


def test_a_slot_that_was_skipped_holds_nothing_anyone_accepts() -> None:
    """Its filler is of a kind the graph layer does not know."""
    root = unpickle(b"K\x01q\x02h\x01\x86.").root

    assert isinstance(root, tuple)
    with pytest.raises(MalformedFileError, match="no known kind"):
        walk(root, Limits(), KeyGuard(Limits()))


def test_a_text_that_ends_inside_a_character_is_cut_short() -> None:
    """That it is not UTF-8 is no fault of what is there."""
    with pytest.raises(TruncatedFileError) as caught:
        unpickle(b"X\x0a\0\0\0\xc3")
    assert (caught.value.needed, caught.value.available) == (10, 1)


def test_integers_are_bounded() -> None:
    """The longest that is allowed passes; one byte more does not."""
    limits = Limits(max_integer_bytes=8)
    eight = b"\x8a\x08" + b"\x01" * 8 + b"."
    nine = b"\x8a\x09" + b"\x01" * 9 + b"."

    assert unpickle(eight, limits=limits).root == int.from_bytes(b"\x01" * 8, "little")
    with pytest.raises(LimitExceededError) as caught:
        unpickle(nine, limits=limits)
    assert (caught.value.limit, caught.value.requested) == ("max_integer_bytes", 9)
    with pytest.raises(LimitExceededError):
        unpickle(b"I" + b"9" * 21 + b"\n.", limits=limits)


def test_a_pickle_is_bounded() -> None:
    """`max_pickle_bytes` counts from the start of the pickle."""
    data = pickle.dumps("x" * 100)
    limits = Limits(max_pickle_bytes=len(data))

    assert unpickle(data, limits=limits).root == "x" * 100
    assert unpickle(b"junk" + data, 4, limits=limits).root == "x" * 100
    with pytest.raises(LimitExceededError) as caught:
        unpickle(data + b"x", limits=limits)
    assert caught.value.limit == "max_pickle_bytes"


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", b"\xe9"), ("latin-1", "é"), ("bytes", b"\xe9")]
)
def test_strings_of_python_2_are_decoded_as_the_caller_says(
    encoding: str, expected: object
) -> None:
    """What is not text in that encoding stays bytes, and nothing is lost."""
    for data in (b"U\x01\xe9.", b"T\x01\0\0\0\xe9.", b"S'\\xe9'\n."):
        assert unpickle(data, encoding=encoding).root == expected


def test_escapes_of_quoted_strings_follow_python_2() -> None:
    """Hex, octal, the letters, a backslash, quotes; an unknown escape stays."""
    data = rb"S'\x41\102\n\\\'\q'" + b"\n."

    assert unpickle(data).root == "AB\n\\'\\q"


def test_several_pickles_lie_in_one_stream() -> None:
    """`end` is where the next one starts."""
    data = pickle.dumps(1) + pickle.dumps([2])
    first = unpickle(data)

    assert first.root == 1
    assert unpickle(data, first.end).root == [2]
    assert unpickle(data, first.end).end == len(data)


def test_what_a_broken_pickle_named_before_it_broke_is_not_lost() -> None:
    """nullifAI: the payload comes first, the damage after."""
    parsed, error = parse(b"cos\nsystem\n(X\x02\0\0\0idtRR\xff")

    assert isinstance(error, MalformedFileError)
    assert [(g.module, g.name) for g in parsed.globals] == [("os", "system")]
    assert parsed.calls[0].args == ("id",)


def test_errors_name_the_record() -> None:
    """The message says where, as record@position."""
    with pytest.raises(MalformedFileError) as caught:
        unpickle(b"R.", record="archive/data.pkl")

    assert caught.value.record == "archive/data.pkl"
    assert str(caught.value).startswith("archive/data.pkl@0: ")
