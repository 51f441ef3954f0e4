"""Keys: what may be hashed, and that collisions are refused before they cost."""

from __future__ import annotations

import pytest

from safemodel._unpickle.keys import KeyGuard, ProbeTable
from safemodel._unpickle.machine import unpickle
from safemodel._unpickle.nodes import GlobalRef
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import Limits
from tests.conftest import Rand

PRIME = 2**61 - 1
"""Integers with equal remainders modulo this have equal hashes."""


def pairs(keys: list[int]) -> bytes:
    """Return a pickle of a dictionary with these keys."""
    body = b"".join(
        b"\x8a\x0b" + key.to_bytes(11, "little", signed=True) + b"N" for key in keys
    )
    return b"\x80\x02}(" + body + b"u."


def test_keys_that_collide_are_refused() -> None:
    """20,000 multiples of 2**61 - 1 took torch five seconds, four times as many 80."""
    with pytest.raises(LimitExceededError) as caught:
        unpickle(pairs([PRIME * index for index in range(20_000)]))

    assert caught.value.limit == "max_key_probes"
    # Refused early: the work done is bounded by the limit, not by the file.
    assert caught.value.requested == 57


def test_keys_that_collide_are_refused_one_by_one_too() -> None:
    """SETITEM after SETITEM fills the same table as one SETITEMS."""
    body = b"".join(
        b"\x8a\x0b" + (PRIME * key).to_bytes(11, "little") + b"Ns"
        for key in range(5000)
    )

    with pytest.raises(LimitExceededError) as caught:
        unpickle(b"\x80\x02}" + body + b".")
    assert (caught.value.limit, caught.value.requested) == ("max_key_probes", 57)


def test_wide_honest_keys_pass(rand: Rand) -> None:
    """Random 64-bit identifiers, floats and tuples are ordinary keys."""
    keys = [rand.getrandbits(63) for _ in range(5000)]

    root = unpickle(pairs(keys)).root

    assert root == dict.fromkeys(keys)
    guard = KeyGuard(Limits())
    guard.check({}, [rand.random() for _ in range(5000)])
    guard.check({}, [(i, j) for i in range(70) for j in range(70)])


def test_the_twin_table_counts_what_python_would_probe(rand: Rand) -> None:
    """Honest hashes need about two probes a key, equal ones as many as keys."""
    honest, equal = ProbeTable(), ProbeTable()
    loose = Limits(max_key_probes=10**6)

    honest.add([rand.getrandbits(61) for _ in range(4000)], loose)
    equal.add([PRIME * index for index in range(400)], loose)

    assert 4000 <= honest.probes < 12_000
    assert equal.probes >= 400 * 401 // 2


def row(bits: int, count: int) -> list[int]:
    """Return keys that fill the slots which a search from slot 5 visits in turn."""
    size, slot = 1 << bits, 5
    slots = []
    for _ in range(count):
        slots.append(slot)
        slot = (5 * slot + 1) % size
    return [size * (1 + 65_536 // size) + slot for slot in slots]


@pytest.mark.parametrize("repeated", [5, 5.0])
@pytest.mark.parametrize("size", [1365, 2700])
def test_a_key_behind_a_row_of_others_is_not_looked_up_again_and_again(
    size: int, repeated: float
) -> None:
    """Each look at it passes them all; 65,000 such looks in 0.4 MB took 5 s."""
    guard, table = KeyGuard(Limits()), dict[object, object]()
    keys = row(size.bit_length(), size - 1)
    guard.check(table, keys)
    table.update(dict.fromkeys(keys))

    with pytest.raises(LimitExceededError) as caught:
        guard.check(table, [repeated] * size)

    assert caught.value.limit == "max_key_probes"


@pytest.mark.parametrize("repeated", [False, "", b""])
def test_a_key_that_hashes_to_zero_counts_like_an_integer(repeated: object) -> None:
    """Empty text has no salt."""
    slot, slots = 0, []
    for _ in range(2000):
        slots.append(slot)
        slot = (5 * slot + 1) % 4096
    keys = [69_632 + slot for slot in slots]
    guard, table = KeyGuard(Limits()), dict[object, object]()
    guard.check(table, keys)
    table.update(dict.fromkeys(keys))

    with pytest.raises(LimitExceededError):
        guard.check(table, [repeated] * 2000)


def test_a_row_of_integers_is_not_counted_one_by_one() -> None:
    """An optimiser numbers its parameters; what follows is counted with them."""
    guard, table = KeyGuard(Limits()), dict[object, object]()
    for start in range(0, 4000, 1000):
        keys = list(range(start, start + 1000))
        guard.check(table, keys)
        table.update(dict.fromkeys(keys))

    guard.check(table, [10**6, "name", None])
    with pytest.raises(LimitExceededError):
        guard.check(table, [PRIME * index for index in range(2000)])


def test_a_tuple_key_is_counted_before_it_is_hashed() -> None:
    """2**60 visits from 300 bytes, and a nest 300,000 deep, never start."""
    shared: object = ("x",)
    for _ in range(60):
        shared = (shared, shared)
    deep: object = ()
    for _ in range(300_000):
        deep = (deep,)
    guard = KeyGuard(Limits())

    for key in (shared, deep):
        with pytest.raises(LimitExceededError) as caught:
            guard.check({}, [key])
        assert caught.value.limit == "max_key_nodes"


def test_the_largest_tuple_key_that_is_allowed_passes() -> None:
    """Both sides of `max_key_nodes`."""
    guard = KeyGuard(Limits(max_key_nodes=5))

    guard.check({}, [(1, (2, "a"))])
    with pytest.raises(LimitExceededError) as caught:
        guard.check({}, [(1, (2, "a", "b"))])
    assert caught.value.requested == 6


def test_long_text_is_no_key() -> None:
    """Equal text is compared byte by byte at each lookup."""
    guard = KeyGuard(Limits(max_key_bytes=10))
    guard.has_long_text = True

    guard.check({}, ["x" * 10, b"y" * 10, ("x" * 10,), 1 << 200, 0.5, None])
    for key in ("x" * 11, b"y" * 11, ("x" * 11,)):
        with pytest.raises(LimitExceededError) as caught:
            guard.check({}, [key])
        assert (caught.value.limit, caught.value.requested) == ("max_key_bytes", 11)


@pytest.mark.parametrize("length", [100, 70_000])
def test_the_machine_tells_the_guard_about_long_text(length: int) -> None:
    """Whatever opcode made it."""
    text = b"X" + length.to_bytes(4, "little") + b"a" * length
    data = b"\x80\x02}" + text + b"Ns."

    if length < 2**16:
        assert unpickle(data).root == {"a" * length: None}
    else:
        with pytest.raises(LimitExceededError, match="max_key_bytes"):
            unpickle(data)


@pytest.mark.parametrize("key", [[], {}, bytearray(b"x"), ([],), {"a": 1}])
def test_what_has_no_hash_is_malformed(key: object) -> None:
    """Python would raise TypeError; a file's fault is ours to name."""
    with pytest.raises(MalformedFileError):
        KeyGuard(Limits()).check({}, [key])


def test_nodes_are_keys_by_identity() -> None:
    """A class or an enum member may be a key; it is never compared."""
    ref = GlobalRef("m", "A", 0)

    KeyGuard(Limits()).check({}, [ref, (ref, 1)])
    assert unpickle(b"}cm\nA\nNs.").root is not None
