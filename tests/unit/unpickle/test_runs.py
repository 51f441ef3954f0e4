"""Shortcuts: the same result with and without them, on every file torch writes.

Pickles of a megabyte are read in stretches, smaller ones call by call: both are here.
"""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import pytest
import torch

from safemodel._unpickle import tensor_runs
from safemodel._unpickle.machine import parse, unpickle
from safemodel._unpickle.nodes import Call, TensorCall
from tests.conftest import Rand
from tests.unit.unpickle.helpers_runs import (
    both,
    data_pkl,
    put,
    short_put,
    spelled_out,
    tensors,
)


def test_tensors_read_the_same_with_and_without(rand: Rand) -> None:
    """Shapes, strides, offsets, gradients, tied and shared storages, other objects."""
    value = {"before": list(range(300)), "state": tensors(rand, 200), "after": {1: "x"}}

    quick, _ = both(data_pkl(value))

    short = sum(type(call) is TensorCall for call in quick.calls)
    assert short > 100, "the shortcut was hardly taken: this test would prove nothing"


def test_text_and_numbers_read_the_same_with_and_without(rand: Rand) -> None:
    """Large dictionaries and lists, and everything that ends a run of text."""
    odd: list[object] = ["é", "x" * 70_000, 1.5, -1, 2**40, None, "", -(2**31), "last"]
    value = {
        "counts": {
            f"token {index}": rand.randint(-9, 2**31 - 1) for index in range(2500)
        },
        "small": {f"t{index}": index for index in range(2500)},
        "words": [f"w{index}" for index in range(2500)],
        "mixed": {f"m{index}": rand.choice(odd) for index in range(2500)},
        "list": [rand.choice(odd) for _ in range(2500)],
    }

    quick, _ = both(pickle.dumps(value, 2))

    assert quick.root == value


def test_a_truncated_pickle_is_the_same_error_with_and_without(rand: Rand) -> None:
    """Shortcuts never read past the end, and never hide that something is missing."""
    data = data_pkl(tensors(rand, 60))
    for _ in range(300):
        end = rand.randrange(len(data))
        _, quick = parse(data[:end])
        _, slow = parse(data[:end], shortcuts=False)

        assert type(quick) is type(slow)


def test_mutated_pickles_read_the_same_with_and_without(rand: Rand) -> None:
    """A byte more, less or other inside the sequence the shortcut matches."""
    data = data_pkl(tensors(rand, 60))
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(rand.randint(1, 3)):
            mutant[rand.randrange(len(mutant))] = rand.choice(
                b"\0(t.hjqrKMJ\x85)XQR\xff"
            )
        quick, error = parse(bytes(mutant))
        slow, slow_error = parse(bytes(mutant), shortcuts=False)

        assert type(error) is type(slow_error)
        if error is None:
            assert repr(spelled_out(quick.root)) == repr(spelled_out(slow.root))


def long_memo(tail: bytes) -> bytes:
    """Return a pickle whose first 300 memo slots are taken, then something."""
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00"
    head += b"X\x07\0\0\0storageq\x01ctorch\nFloatStorage\nq\x02X\x03\0\0\0cpuq\x03"
    head += b"ccollections\nOrderedDict\nq\x04"
    head += b"".join(b"Nr" + struct.pack("<I", slot) + b"0" for slot in range(5, 300))
    return head + b"0" * 5 + tail


def tensor_call(slot: int) -> bytes:
    """Return what torch.save writes for a tensor of four floats."""
    return (
        b"h\x00((h\x01h\x02X\x01\0\0\x000" + put(slot) + b"h\x03K\x04t" + put(slot + 1)
        + b"QK\x00K\x04\x85" + put(slot + 2) + b"K\x01\x85" + put(slot + 3)
        + b"\x89h\x04)R" + put(slot + 4) + b"t" + put(slot + 5) + b"R" + put(slot + 6)
    )  # fmt: skip


def test_whoever_fetches_what_was_passed_over_gets_it_all_the_same() -> None:
    """The memo slot of a shape is read: the pickle is read again without shortcuts."""
    plain, _ = both(long_memo(tensor_call(300) + b"."))
    fetched, _ = both(long_memo(tensor_call(300) + b"j" + put(302)[1:] + b"\x86."))

    assert type(plain.root) is TensorCall
    assert isinstance(fetched.root, tuple)
    assert type(fetched.root[0]) is Call
    assert fetched.root[1] == (4,)


def test_a_tensor_that_is_edited_is_read_the_long_way() -> None:
    """BUILD on the result is for the checker of the call to refuse."""
    edited, _ = both(long_memo(tensor_call(300) + b"}b."))

    assert type(edited.root) is Call
    assert edited.root.state == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
        (b"OrderedDict", b"OrderedDicx"),
        (b"storage", b"storagf"),
        (b"X\x01\0\0\x000", b"X\x01\0\0\x0012"),
        (b"K\x04\x85", b"K\x04\x86"),
        (b"K\x04\x85", b"K\x04\x87"),
        (b"K\x04\x85", b"K\x04t"),
        (b"K\x04\x85", b"(K\x04\x85"),
        (b"K\x04\x85" + put(302), b")"),
    ],
)
def test_anything_else_than_what_torch_writes_is_left_to_the_loop(
    old: bytes, new: bytes
) -> None:
    """A near miss is parsed opcode by opcode."""
    data = long_memo(tensor_call(300) + b".").replace(old, new)
    quick, error = parse(data)
    slow, slow_error = parse(data, shortcuts=False)

    assert type(error) is type(slow_error)
    assert not any(type(call) is TensorCall for call in quick.calls)
    if error is None:
        assert repr(spelled_out(quick.root)) == repr(spelled_out(slow.root))


def test_a_memo_slot_that_is_written_again_is_read_again() -> None:
    """What the shortcut remembers of the memo is dropped when a slot changes."""
    again = b"X\x04\0\0\0cuda" + b"q\x030"
    quick, _ = both(long_memo(tensor_call(300) + again + tensor_call(307) + b"\x86."))

    assert isinstance(quick.root, tuple)
    assert [node.form.location for node in quick.root] == ["cpu", "cuda"]


def test_the_memo_slots_must_be_the_next_free_ones() -> None:
    """A put into another slot is a different pickle."""
    data = long_memo(tensor_call(300).replace(put(303), put(302)) + b".")
    quick, _ = both(data)

    assert type(quick.root) is Call


@pytest.mark.parametrize("slots", [0, 248, 249, 255, 256, 257, 1023, 5000])
def test_the_spelled_out_puts_are_those_a_pickler_writes(slots: int) -> None:
    """BINPUT for the first 256 slots, LONG_BINPUT from there on."""
    runs = tensor_runs.TensorRuns(b"", [None] * slots, [])
    puts = b"".join(map(short_put, range(slots, slots + 7)))

    assert runs._are_next(puts)
    assert not runs._are_next(b"".join(map(short_put, range(slots + 1, slots + 8))))
    assert not runs._are_next(puts.replace(short_put(slots + 3), put(slots + 4)))


def test_tensors_among_the_first_256_slots_read_the_same_with_and_without(
    rand: Rand,
) -> None:
    """Small checkpoints are nearly all there are; some end where puts get longer."""
    for count in range(25, 40):
        quick, _ = both(data_pkl(tensors(rand, count)))

        short = sum(type(call) is TensorCall for call in quick.calls)
        assert short > count // 2


def test_a_short_get_of_what_was_passed_over_is_read_again() -> None:
    """The slot of a shape, fetched by BINGET."""
    data = data_pkl([torch.zeros(4), torch.zeros(4)])
    slot = data.rindex(b"K\x04\x85q") + 4
    plain, _ = both(data)
    fetched, _ = both(data[:-2] + b"h" + data[slot : slot + 1] + b"e.")

    assert type(plain.root[1]) is TensorCall
    assert type(fetched.root[1]) is Call
    assert fetched.root[2] == (4,)


def test_offset_and_shape_are_never_taken_for_a_stride() -> None:
    """The same bytes may be both; what one is learnt as says nothing of the other."""
    names = (
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\x07\0\0\0storage",
        b"ctorch\nFloatStorage\n", b"X\x03\0\0\0cpu",
        b"ccollections\nOrderedDict\n",
    )  # fmt: skip
    data = b"\x80\x02](" + b"".join(name + b"\x94" for name in names)
    data += b"N\x94" * 300 + b"h\x00"
    put = iter(b"r" + struct.pack("<I", slot) for slot in range(305, 320))
    twice = b"K\x01K\x02\x86"
    data += b"((h\x01h\x02X\x01\0\0\x000" + next(put) + b"h\x03K\x06t" + next(put)
    data += b"Q" + twice + next(put) + twice + next(put) + b"\x89h\x04)R" + next(put)
    data += b"t" + next(put) + b"R" + next(put) + b"e."

    both(data)


def text_entry(slot: int, raw: bytes, then: bytes) -> bytes:
    """Return BINUNICODE, its put, and what follows."""
    return b"X" + struct.pack("<I", len(raw)) + raw + put(slot) + then


FILL = b"N" * 40
"""Room behind a run: a shortcut never reads past the end."""


@pytest.mark.parametrize(
    "body",
    [
        text_entry(300, b"a", b"K\1") + text_entry(302, b"b", b"K\2"),
        text_entry(300, b"a", b"K\1") + text_entry(301, b"b", b"N"),
        text_entry(300, b"a", b"J\1\0\0\x80") + b"K\1K\2",
        text_entry(300, b"a", b"M\1\x80") + text_entry(301, b"b", b"K\2"),
        text_entry(300, b"a", b"K\1") + b"K\1K\2",
        text_entry(300, b"a", b"") + text_entry(301, b"b", b"K\1"),
        text_entry(300, b"\xed\xa0\x80", b"K\1"),
        text_entry(300, b"a" * 70_000, b"K\1"),
    ],
    ids=[
        "another slot", "another value", "no text behind BININT", "BININT2",
        "no text behind BININT1", "two texts", "a surrogate", "a long text",
    ],
)  # fmt: skip
def test_a_run_of_text_ends_where_the_loop_goes_on(body: bytes) -> None:
    """Each way out, after one entry or before the first."""
    quick, _ = both(long_memo(b"](" + body + FILL + b"e."))

    assert type(quick.root) is list


def test_wide_calls_are_not_looked_for_ahead() -> None:
    """What only starts like one overlaps: 1.4 MB of it became 5 GB of rows."""
    names = (
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\x07\0\0\0storage",
        b"ctorch\nFloatStorage\n", b"X\x03\0\0\0cpu",
        b"ccollections\nOrderedDict\n",
    )  # fmt: skip
    data = bytearray(b"\x80\x02](")
    for slot, name in enumerate((*names, *[b"N"] * 300)):
        data += name + (b"q%c" % slot if slot < 256 else b"r" + struct.pack("<I", slot))
    put = iter(b"r" + struct.pack("<I", slot) for slot in range(305, 320))
    start = b"((h\x01h\x02X\x01\0\0\0"
    axes = b"(" + b"K\x01" * 20_000 + b"t"
    data += b"h\x00" + start + b"0" + next(put) + b"h\x03K\x06t" + next(put) + b"QK\x00"
    data += axes + next(put) + axes + next(put) + b"\x89h\x04)R" + next(put)
    data += b"t" + next(put) + b"R" + next(put)
    filler = start * 100_000
    data += b"X" + struct.pack("<I", len(filler)) + filler + b"e."
    tracemalloc.start()
    try:
        unpickle(bytes(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * len(data)
