"""`Opaque`: a mapping over what the file said, at no more cost than what is asked."""

from __future__ import annotations

import time

import pytest

from safemodel._graph.opaque import Opaque


def test_items_come_before_attributes_and_slots_after_both():
    """A dictionary subclass first; of attributes, the slots' win as in Python."""
    thing = Opaque("m.C", state=({"a": 1, "b": 2}, {"b": 3, "c": 4}), pairs={"a": 0})
    assert dict(thing) == {"a": 0, "b": 3, "c": 4}
    assert thing.attributes() == {"a": 1, "b": 3, "c": 4}
    assert (len(thing), list(thing), "c" in thing) == (3, ["a", "b", "c"], True)


@pytest.mark.parametrize("state", [None, 7, [1], ({"a": 1},), (None, None), (1, 2, 3)])
def test_a_state_that_is_no_attributes_has_none(state):
    """Only a dictionary is, or a pair of dictionary and slots."""
    thing = Opaque("m.C", state=state)
    assert (dict(thing), len(thing)) == ({}, 0)
    with pytest.raises(KeyError) as caught:
        thing["a"]
    assert caught.value.args == ("a",)


def test_either_part_of_a_pair_may_be_missing():
    """As classes without one of them write it."""
    assert dict(Opaque("m.C", state=(None, {"a": 1}))) == {"a": 1}
    assert dict(Opaque("m.C", state=({"a": 1}, None))) == {"a": 1}


def test_an_attribute_may_be_none():
    """Which is not the same as missing."""
    thing = Opaque("m.C", state={"a": None})
    assert thing["a"] is None
    assert thing.get("a", 1) is None
    assert thing.get("b", 1) == 1


def test_arguments_and_parts_are_kept():
    """Empty ones are empty."""
    thing = Opaque("m.C", (1,), {"k": 2}, None, {"a": 3}, [4])
    assert (thing.args, thing.kwargs) == ((1,), {"k": 2})
    assert (thing.pairs, thing.elements) == ({"a": 3}, [4])
    bare = Opaque("m.C")
    assert (bare.args, bare.kwargs, bare.pairs, bare.elements) == ((), {}, {}, [])


def test_keyword_arguments_that_calls_share_are_shared():
    """A memo could name a long dictionary in each of a million calls."""
    shared = {"k": 2}
    one, two = Opaque("m.C", (), shared), Opaque("m.C", (), shared)
    assert one.kwargs is two.kwargs


def test_reading_all_attributes_is_linear():
    """Each of a hundred thousand costs one look, not a copy of all."""
    thing = Opaque("m.C", state={f"a{number}": number for number in range(100_000)})
    started = time.process_time()
    assert sum(thing.values()) == sum(range(100_000))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        (Opaque("m.C"), "<Opaque m.C>"),
        (Opaque("m.C", (1, "x")), "<Opaque m.C 1 'x'>"),
        (Opaque("m.C", (1, 2, 3, 4)), "<Opaque m.C 1 2 3 4>"),
        (Opaque("m.C", (1, 2, 3, 4, 5)), "<Opaque m.C 1 2 3 4 ...>"),
        (Opaque("m.C", state=dict.fromkeys("abcd")),
         "<Opaque m.C a=None b=None c=None d=None>"),
        (Opaque("m.C", state=dict.fromkeys("abcde", True)),
         "<Opaque m.C a=True b=True c=True d=True ...>"),
        (Opaque("m.C", ([1], {}, 1.5, Opaque("n.D", (7,)))),
         "<Opaque m.C list dict 1.5 <Opaque n.D>>"),
        (Opaque("m.C", ("x" * 38,)), f"<Opaque m.C '{'x' * 38}'>"),
        (Opaque("m.C", ("x" * 39,)), f"<Opaque m.C '{'x' * 36}...>"),
        (Opaque("m.C", pairs={"k" * 41: 1, (1, 2): 2, 3: 3}),
         f"<Opaque m.C {'k' * 40}=1 tuple=2 3=3>"),
    ],
)  # fmt: skip
def test_it_prints_in_one_short_line(thing, shown):
    """Four arguments and four attributes, each cut, containers by kind."""
    assert repr(thing) == shown


def test_printing_ends_however_values_are_shared():
    """Forty levels of four keys each, written out in full, are 2**80."""
    keys = [Opaque("m.Key", (number,)) for number in range(4)]
    for _ in range(40):
        keys = [Opaque("m.Key", pairs=dict.fromkeys(keys, 1)) for _ in range(4)]
    started = time.process_time()
    assert repr(keys[0]).count("<Opaque m.Key>=1") == 4
    assert time.process_time() - started < 1


def test_each_is_equal_to_itself_alone():
    """So two of them are two keys; and each of them is true, however empty."""
    one, two = Opaque("m.C"), Opaque("m.C")
    assert one == one  # noqa: PLR0124 - this is the rule
    assert one != two
    assert len({one, two}) == 2
    assert bool(one)


def test_only_a_module_has_a_state_dict():
    """It asks `modules`."""
    with pytest.raises(ValueError, match=r"^m\.C is not a module$"):
        Opaque("m.C").state_dict()


def test_what_a_file_chooses_is_escaped_and_cut_where_it_is_printed():
    """Names, keys and text: nothing of them reaches a terminal as it is."""
    evil = "\x1b[2J\u202e" + "x" * 200
    inner = Opaque(evil)
    thing = Opaque(evil, args=(evil, inner), state={evil: evil, "in": inner})
    assert repr(thing).isprintable()
    assert repr(thing).isascii()
    assert len(repr(thing)) < 500
    with pytest.raises(ValueError, match="is not a module") as caught:
        thing.state_dict()
    assert str(caught.value).isprintable()


def test_printing_looks_at_no_more_than_it_shows():
    """Many may share one large state."""

    class Counted(dict):
        """Counts the keys it has given."""

        given = 0

        def __iter__(self):
            """Give the keys one by one."""
            for key in super().__iter__():
                Counted.given += 1
                yield key

    thing = Opaque("m.C", state=Counted.fromkeys(range(1000)))
    assert repr(thing) == "<Opaque m.C 0=None 1=None 2=None 3=None ...>"
    assert Counted.given < 10
