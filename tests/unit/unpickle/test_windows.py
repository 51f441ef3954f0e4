"""Stretches of a long pickle, against twins that read them byte by byte."""

from __future__ import annotations

import pickle
import struct

import pytest
import torch

from safemodel._unpickle import text_runs, windows
from safemodel._unpickle.machine import _Machine, parse, unpickle
from safemodel._unpickle.nodes import TensorCall
from safemodel._unpickle.parsed import Pickle
from safemodel.limits import DEFAULT_LIMITS
from tests.conftest import Rand
from tests.unit.unpickle.helpers_runs import both, data_pkl, put, spelled_out, tensors

SLOT = 300
LONG = 1 << 20
NAME = "_rebuild_tensor_v2"


def entry(slot: int, text: str | bytes, number: bytes = b"") -> bytes:
    """Return a text, its put and the integer behind it."""
    raw = text.encode() if isinstance(text, str) else text
    return b"X" + struct.pack("<I", len(raw)) + raw + put(slot) + number


def number(rand: Rand) -> bytes:
    """Return one of the three opcodes of integers, with an operand that misleads."""
    width = rand.choice([1, 2, 4])
    operand = bytes(rand.choice(b"rXKu(\0\xff\x80") for _ in range(width))
    return {1: b"K", 2: b"M", 4: b"J"}[width] + operand


def naive_batch(
    data: bytes, pos: int, end: int, slot: int
) -> tuple[list[str], list[object]]:
    """Read a batch opcode by opcode; it must end where it says."""
    texts: list[str] = []
    items: list[object] = []
    while pos < end:
        assert data[pos : pos + 1] == b"X"
        (length,) = struct.unpack_from("<I", data, pos + 1)
        text = data[pos + 5 : pos + 5 + length].decode()
        pos += 5 + length
        assert data[pos : pos + 5] == put(slot + len(texts))
        texts.append(text)
        items.append(text)
        pos += 5
        code = data[pos : pos + 1]
        if code == b"J":
            items.append(struct.unpack_from("<i", data, pos + 1)[0])
            pos += 5
        elif code == b"M":
            items.append(struct.unpack_from("<H", data, pos + 1)[0])
            pos += 3
        elif code == b"K":
            items.append(data[pos + 1])
            pos += 2
    assert pos == end
    return texts, items


def checked_batches(
    data: bytes, slot: int = SLOT, max_text: int = 99
) -> dict[int, windows.Batch]:
    """Return the batches of a stretch; each is what its twin reads."""
    batches = windows.text_batches(data, 0, len(data), slot, max_text)
    at = 0
    for begin, batch in batches.items():
        assert begin == at
        expected = naive_batch(data, begin, batch.end, batch.slot)
        assert (batch.texts, batch.items) == expected
        assert max(map(len, batch.texts)) <= max_text
        at = batch.end + 2
    return batches


def stretch(rand: Rand, count: int, batch: int, *, numbers: bool = True) -> bytes:
    """Return entries with a SETITEMS and a MARK between batches, and an end."""
    data = b""
    for index in range(count):
        text = "".join(rand.choice("arX(uJé\n\0") for _ in range(rand.randint(0, 9)))
        data += entry(SLOT + index, text, number(rand) if numbers else b"")
        if index % batch == batch - 1:
            data += b"u(" if numbers else b"e("
    return data + b"\0" * 40


@pytest.mark.parametrize("numbers", [True, False])
def test_batches_are_what_a_twin_reads(rand: Rand, numbers: bool) -> None:
    """Texts with the bytes of opcodes in them, integers that look like puts."""
    data = stretch(rand, 60, 10, numbers=numbers)

    batches = checked_batches(data)

    assert [len(batch.texts) for batch in batches.values()] == [10] * 5
    assert [batch.slot for batch in batches.values()] == [300, 310, 320, 330, 340]


def test_entries_of_one_open_batch_are_read_as_far_as_they_are_proved(
    rand: Rand,
) -> None:
    """All but the last: what stands behind it is no text, so it may be anything."""
    (batch,) = checked_batches(stretch(rand, 30, 99)).values()

    assert len(batch.texts) == 29


def test_mutated_stretches_are_read_as_their_twin_reads_them(rand: Rand) -> None:
    """A byte more, less or other, anywhere: whatever is read is what is there."""
    data = stretch(rand, 40, 10)
    shortened = 0
    for _ in range(600):
        mutant = bytearray(data)
        for _ in range(rand.randint(1, 3)):
            at = rand.randrange(len(mutant))
            mutant[at : at + rand.randint(0, 1)] = bytes(
                rand.choice(b"rXKMJu(\0\xff") for _ in range(rand.randint(0, 1))
            )
        shortened += len(checked_batches(bytes(mutant))) < 3
    assert shortened > 100


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"X", 0),
        (entry(SLOT, "a", b"K\1"), 0),
        (entry(SLOT, "a", b"K\1") + entry(SLOT + 1, "b", b"K\1") + bytes(20), 1),
        (entry(SLOT + 1, "a", b"K\1") + entry(SLOT + 2, "b", b"K\1") + bytes(20), 0),
        (entry(SLOT - 1, "a", b"K\1") + entry(SLOT, "b", b"K\1") + bytes(20), 0),
        (entry(SLOT, b"\xff", b"K\1") + entry(SLOT + 1, "b", b"K\1") + bytes(20), 0),
        (entry(SLOT, "a", b"N") + entry(SLOT + 1, "b", b"K\1") + bytes(20), 0),
        (b"U" + entry(SLOT, "a", b"K\1")[1:] + entry(SLOT + 1, "b") + bytes(20), 0),
    ],
)
def test_what_is_no_entry_ends_a_stretch(data: bytes, count: int) -> None:
    """Too short, another slot, no UTF-8, another value, another opcode."""
    batches = checked_batches(data)

    assert sum(len(batch.texts) for batch in batches.values()) == count


@pytest.mark.parametrize(("longest", "count"), [(9, 2), (8, 1)])
def test_a_text_longer_than_allowed_is_left_to_the_loop(longest: int, count: int):
    """The loop notes that there is one, for the guard of keys."""
    data = entry(SLOT, "a", b"K\1") + entry(SLOT + 1, "123456789", b"K\2")
    data += entry(SLOT + 2, "b", b"K\3") + bytes(20)

    (batch,) = checked_batches(data, max_text=longest).values()

    assert len(batch.texts) == count


def test_texts_with_and_without_numbers_are_two_kinds_of_batch() -> None:
    """Where one turns into the other, what is read ends."""
    data = b"".join(entry(SLOT + i, "k", b"K\7") for i in range(3))
    data += b"".join(entry(SLOT + 3 + i, "v") for i in range(3)) + bytes(20)

    (batch,) = checked_batches(data).values()

    assert batch.items == ["k", 7, "k", 7, "k", 7]


def naive_calls(data: bytes, spelling: windows.Spelling) -> list[tuple[int, str, int]]:
    """Find calls like a model by trying every offset."""
    found = []
    for at in range(len(data) - len(spelling.model) + 1):
        row = bytearray(data[at : at + len(spelling.model)])
        key = bytes(row[spelling.key])
        slots = [struct.unpack_from("<I", row, place + 1)[0] for place in spelling.puts]
        row[spelling.key] = spelling.model[spelling.key]
        for place in spelling.puts:
            row[place + 1 : place + 5] = spelling.model[place + 1 : place + 5]
        in_order = slots == list(range(slots[0], slots[0] + len(slots)))
        if bytes(row) == spelling.model and key.isdigit() and in_order:
            found.append((at, key.decode(), slots[0]))
    return found


def spelled_call(slot: int, key: bytes) -> tuple[bytes, windows.Spelling]:
    """Return a call of seven slots with a key of two digits, and its spelling."""
    head = b"((h\x01h\x02X\x02\0\0\0"
    parts = [b"h\x03K\x04t", b"QK\0K\x04\x85", b"K\1\x85", b"\x89h\4)R", b"t", b"R"]
    call, puts = head + key, [len(head) + 2]
    for turn, part in enumerate(parts):
        call += put(slot + turn) + part
        puts.append(len(call))
    call += put(slot + len(parts))
    where = slice(len(head), len(head) + 2)
    return call, windows.Spelling(call, where, tuple(puts))


def test_calls_like_a_model_are_those_a_twin_finds(rand: Rand) -> None:
    """Intact ones, ones with a byte changed, and what stands between."""
    _, spelling = spelled_call(SLOT, b"10")
    data = b""
    for index in range(80):
        call = bytearray(spelled_call(SLOT + 9 * index, b"%02d" % index)[0])
        if rand.random() < 0.5:
            call[rand.randrange(len(call))] = rand.choice(b"0r(h\0:/")
        data += bytes(call) + rand.choice([b"", b"h\x05", b"u(", b"(((h\x01"])

    found = windows.calls_like(data, 0, len(data), spelling)

    assert found == naive_calls(data, spelling)
    assert 20 < len(found) < 80


def test_a_stretch_shorter_than_a_call_holds_none() -> None:
    """And one of just that length may hold one."""
    call, spelling = spelled_call(SLOT, b"10")

    assert windows.calls_like(call, 0, len(call), spelling) == [(0, "10", SLOT)]
    assert windows.calls_like(call, 0, len(call) - 1, spelling) == []


def test_long_dictionaries_and_lists_read_the_same_with_and_without(
    rand: Rand,
) -> None:
    """Over a megabyte of text, of every kind that a batch may be or end with."""
    odd: list[object] = ["é\n", "x" * 9000, 1.5, 2**40, None, "", -(2**31)]
    value = {
        "counts": {f"token {i}": rand.randint(-9, 2**31 - 1) for i in range(20_000)},
        "words": [f"w{i}" for i in range(20_000)],
        "lines": [f"w\n{i}é" for i in range(9_000)],
        "mixed": {f"m{i}": rand.choice(odd) for i in range(2_000)},
        "small": {f"t{i}": i & 255 for i in range(9_000)},
    }
    data = pickle.dumps(value, 2)
    assert len(data) > LONG

    quick, _ = both(data)

    assert quick.root == value


@pytest.mark.parametrize("text", ["plain", "two\nlines", "é", "\ud800"])
def test_every_kind_of_text_is_read_from_stretches(text: str) -> None:
    """Line feeds separate no texts, and a surrogate is left to the loop."""
    words = [f"{text} {index}" for index in range(40_000)]
    value = {"words": words, "numbers": dict.fromkeys(words, -1)}
    data = pickle.dumps(value, 2)
    assert len(data) > LONG

    quick, _ = both(data)

    assert quick.root == value


def test_many_tensors_read_the_same_with_and_without(rand: Rand) -> None:
    """An optimiser's state, over a megabyte of it, and tensors of all layouts."""
    state = {
        i: {"step": torch.tensor(1.0), "avg": torch.zeros(6), "sq": torch.ones(6)}
        for i in range(4_500)
    }
    data = data_pkl({"others": tensors(rand, 300), "state": state})
    assert len(data) > LONG

    quick, slow = both(data)

    assert sum(type(call) is TensorCall for call in quick.calls) > 13_500
    assert positions_of_tensors(quick) == positions_of_tensors(slow)


def positions_of_tensors(pickle: Pickle) -> list[int]:
    """Return where each call of the function that rebuilds tensors is."""
    targets = [
        (call.form.target if type(call) is TensorCall else call.target, call.position)
        for call in pickle.calls
    ]
    return [at for ref, at in targets if getattr(ref, "name", "") == NAME]


def test_long_mutated_pickles_read_the_same_with_and_without(rand: Rand) -> None:
    """The stretches of a long pickle with bytes changed."""
    state = {i: {"avg": torch.zeros(6)} for i in range(9_000)}
    texts = {f"token {i}": rand.randint(-9, 2**31 - 1) for i in range(12_000)}
    data = data_pkl({"state": state, "texts": texts})
    assert len(data) > LONG
    for _ in range(12):
        mutant = bytearray(data)
        for _ in range(rand.randint(1, 30)):
            mutant[rand.randrange(len(mutant))] = rand.choice(b"\0(t.hjqrKMJXu0")
        quick, error = parse(bytes(mutant))
        slow, slow_error = parse(bytes(mutant), shortcuts=False)

        assert type(error) is type(slow_error)
        assert getattr(error, "position", 0) == getattr(slow_error, "position", 0)
        if error is None:
            assert repr(spelled_out(quick.root)) == repr(spelled_out(slow.root))


def test_what_is_found_ahead_is_forgotten_when_a_slot_is_written_again() -> None:
    """Calls found in one stretch are read anew where the memo has changed."""
    data = data_pkl([torch.zeros(6) for _ in range(15_000)])
    assert len(data) > LONG
    middle = data.index(b"((h", LONG // 2)
    location = data.index(b"X\x03\0\0\0cpuq") + 8
    again = b"X\x04\0\0\0cuda" + data[location : location + 2] + b"0"
    start = data.rindex(b"h", 0, middle)
    quick, _ = both(data[:start] + again + data[start:])

    locations = [call.form.location for call in quick.calls if type(call) is TensorCall]
    assert locations[0] == "cpu"
    assert locations[-1] == "cuda"


def test_a_call_found_ahead_is_read_only_where_the_function_is_on_the_stack() -> None:
    """Something else in its place is the loop's business."""
    data = data_pkl([torch.zeros(6) for _ in range(15_000)])
    assert len(data) > LONG
    late = data.index(b"((h", LONG // 2)
    other = data[: late - 2] + b"h\x04" + data[late:]
    quick, error = parse(other)
    slow, slow_error = parse(other, shortcuts=False)

    assert error is slow_error is None
    assert positions_of_tensors(quick) == positions_of_tensors(slow)


def test_a_stretch_that_does_not_pay_starts_the_count_again() -> None:
    """What is looked at is a small multiple of what has been read."""
    head = b"\x80\x02]q\0" + b"".join(
        b"Nr" + struct.pack("<I", slot) + b"0" for slot in range(1, SLOT)
    )
    block = b"".join(entry(SLOT + i, "x" * 60) for i in range(1_100))
    data = head + b"(" + block + b"e(" + b"N" * LONG + b"e."
    runs = text_runs.TextRuns(data, [None] * SLOT, 99)
    stack: list[object] = []

    after = runs.read(len(head) + 1, len(data), stack)
    assert after == len(head) + 1 + len(block)
    assert runs._earned == len(block) > 1 << 16

    assert runs._look(after + 2, len(data)) is None
    assert runs._earned == 0
    assert unpickle(data).root[:2] == ["x" * 60] * 2


def test_looking_for_a_spelling_that_does_not_come_again_stops() -> None:
    """Fifty calls alike, then a megabyte of others: the count starts again."""
    data = data_pkl([[torch.zeros(6) for _ in range(150)], [None] * LONG])
    machine = _Machine(data, 0, DEFAULT_LIMITS, "utf-8", "strict", shortcuts=True)

    machine.run()

    (spelt, *_) = [s for s in machine.tensors._spelt.values() if s and s.looked]
    calls = sum(type(call) is TensorCall for call in machine.pickle.calls)
    assert calls > 100
    assert spelt.earned < calls * spelt.width // 2
