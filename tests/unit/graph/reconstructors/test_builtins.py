import pytest

from safemodel._graph.composite_specs import MappingSpec, SequenceSpec
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
)

ORDERED = "collections.OrderedDict"


def test_an_ordered_dict_keeps_items_and_metadata_only(file):
    """A state that shadows `items` or `__class__` is dropped (as _metadata is not)."""
    metadata = file.made(ORDERED)
    spec = file.check(
        ORDERED,
        pairs=["a", 1],
        state={"_metadata": metadata, "items": "shadow", "__class__": "x"},
    )

    assert type(spec) is MappingSpec
    assert (spec.kind, spec.pairs, spec.metadata) == ("OrderedDict", ["a", 1], metadata)
    assert file.check(ORDERED, state=None).metadata is None
    with pytest.raises(ForbiddenCallError):
        file.check(ORDERED, state=[("items", 1)])


@pytest.mark.parametrize("items", [[["a", 1]], [("a", 1)], (("a", 1),)])
def test_python_2_gave_an_ordered_dict_its_items(file, items):
    """As a list of lists; SETITEMS after that adds to them."""
    assert file.check(ORDERED, items, pairs=["b", 2]).pairs == ["a", 1, "b", 2]


def test_an_ordered_dict_of_other_things_is_refused(file):
    """Not of text, not of triples, not by NEWOBJ, not with elements."""
    for args, done, reason in (
        (("ab",), {}, "its argument is not a list or tuple"),
        ((["ab"],), {}, "its argument is not a list of pairs"),
        (([5],), {}, "its argument is not a list of pairs"),
        (([("a", 1, 2)],), {}, "its argument is not a list of pairs"),
        (([], []), {}, "it is given 2 arguments"),
        (([],), {"opcode": 0x81}, "NEWOBJ with content"),
        ((), {"elements": [1]}, "elements or keyword arguments of a dictionary"),
        ((), {"kwargs": {"a": 1}}, "elements or keyword arguments of a dictionary"),
    ):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(ORDERED, *args, **done)
        assert caught.value.reason == reason


def test_two_ordered_dicts_are_two(file):
    """Each is a value of its own, because each can be changed."""
    assert file.check(ORDERED) is not file.check(ORDERED)


@pytest.mark.parametrize("factory", ["int", "float", "str", "list", "dict", "set"])
def test_a_defaultdict_has_a_builtin_factory(file, factory):
    """Row 20; Python 2 said __builtin__."""
    for module in ("builtins", "__builtin__"):
        spec = file.check(
            "collections.defaultdict", file.ref(f"{module}.{factory}"), pairs=["a", 1]
        )
        assert (spec.kind, spec.factory, spec.pairs) == (
            "defaultdict",
            factory,
            ["a", 1],
        )
    assert file.check("collections.defaultdict", None).factory is None


def test_a_defaultdict_of_another_factory_is_refused_by_name(file):
    """It would be called at the first missing key."""
    with pytest.raises(ForbiddenGlobalError) as caught:
        file.check("collections.defaultdict", file.ref("os.getcwd"))
    assert (caught.value.module, caught.value.name) == ("os", "getcwd")
    with pytest.raises(ForbiddenGlobalError):
        file.check("collections.defaultdict", file.ref("builtins.bytearray"))
    with pytest.raises(ForbiddenCallError):
        file.check("collections.defaultdict", "int")


def test_counter_and_dict_take_their_items(file):
    """As a dictionary; copies of a shared one are counted."""
    assert file.check("collections.Counter", {"a": 2}).pairs == ["a", 2]
    assert file.check("builtins.dict", [("a", 2)], pairs=["b", 1]).pairs == [
        "a", 2, "b", 1,
    ]  # fmt: skip
    for name in ("collections.Counter", "builtins.dict"):
        for args, done in (
            ((3,), {}),
            ((), {"state": {"a": 1}}),
            ((), {"elements": [1]}),
        ):
            with pytest.raises(ForbiddenCallError):
                file.check(name, *args, **done)


def test_content_shared_through_the_memo_is_counted(new_file):
    """The second copy of a dictionary costs what it takes."""
    file = new_file(100, min_amplified_bytes=1)
    shared = dict.fromkeys(range(20), 0)

    file.check("collections.Counter", shared)
    file.check("collections.Counter", shared)
    with pytest.raises(LimitExceededError) as caught:
        file.check("collections.Counter", shared)

    assert (caught.value.allowed, caught.value.requested) == (400, 640)


def test_a_deque_keeps_its_items_and_length(file):
    """Items as an argument, by APPENDS, or both."""
    spec = file.check("collections.deque", (), 3, elements=[1, 2])

    assert type(spec) is SequenceSpec
    assert (spec.kind, spec.elements, spec.maxlen) == ("deque", [1, 2], 3)
    assert file.check("collections.deque", [1]).maxlen is None
    for args in (([], -1), ([], True), ("abc",)):
        with pytest.raises(ForbiddenCallError):
            file.check("collections.deque", *args)


@pytest.mark.parametrize("kind", ["list", "tuple", "set", "frozenset"])
def test_containers_of_protocol_2(file, kind):
    """Their elements as a list; text and numbers are not elements."""
    spec = file.check(f"__builtin__.{kind}", [1, 2])

    assert (spec.kind, list(spec.elements)) == (kind, [1, 2])
    assert list(file.check(f"builtins.{kind}").elements) == []
    for content in ("ab", 3, {"a": 1}, None):
        with pytest.raises(ForbiddenCallError):
            file.check(f"builtins.{kind}", content)
    with pytest.raises(ForbiddenCallError):
        file.check(f"builtins.{kind}", pairs=[0, 1])


def test_elements_are_added_to_lists_only(file):
    """A set that a call made takes none."""
    assert file.check("builtins.list", [1], elements=[2]).elements == [1, 2]
    with pytest.raises(ForbiddenCallError):
        file.check("builtins.set", [1], elements=[2])


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_come_from_literals(file, kind):
    """All spellings of protocols 0 to 5; a number makes nothing (2 GiB of 30 bytes)."""
    name = kind.__name__
    encoded = file.made("_codecs.encode", "\xe4b", "latin1")

    for args in ((b"\xe4b",), ("\xe4b", "latin-1"), (encoded,), (bytearray(b"\xe4b"),)):
        value = file.check(f"__builtin__.{name}", *args)
        assert (type(value), value) == (kind, b"\xe4b")
    assert file.check(f"builtins.{name}") == b""
    for args in (
        (2**31,),
        ([1, 2],),
        ("ab",),
        ("ab", "idna"),
        (b"ab", "ascii"),
        (True,),
    ):
        with pytest.raises(ForbiddenCallError):
            file.check(f"builtins.{name}", *args)


def test_bytearrays_of_shared_content_are_counted(new_file):
    """Each is a copy of its own."""
    file = new_file(100, min_amplified_bytes=1)
    content = bytes(200)
    for _ in range(3):
        file.check("builtins.bytearray", content)

    with pytest.raises(LimitExceededError) as caught:
        file.check("builtins.bytearray", content)

    assert caught.value.requested == 600


@pytest.mark.parametrize("codec", ["latin1", "latin-1", "utf-8", "UTF_8", "ascii"])
def test_codecs_of_linear_cost_are_allowed(file, codec):
    """And encoding the same text again gives the same bytes object."""
    text = "abc" * 10
    once = file.check("_codecs.encode", text, codec)

    assert once == text.encode()
    assert file.check("_codecs.encode", text, codec) is once


@pytest.mark.parametrize("codec", ["punycode", "idna", "rot13", "zlib", "", 3])
def test_other_codecs_are_refused(file, codec):
    """Quadratic ones, and whatever a codec registry may hold."""
    with pytest.raises(ForbiddenCallError):
        file.check("_codecs.encode", "abc", codec)


def test_text_outside_its_codec_is_refused(file):
    """With an error of ours."""
    for text, codec in (("\u20ac", "latin1"), ("\xe4", "ascii"), ("\ud800", "utf-8")):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check("_codecs.encode", text, codec)
        assert caught.value.name == "_codecs.encode"


def test_scalars(file):
    """complex, slice (row 30), range and what Python 2 called them."""
    assert file.check("builtins.complex", 1.0, -2.0) == complex(1, -2)
    assert file.check("builtins.slice", None, 3, 2) == slice(None, 3, 2)
    assert file.check("__builtin__.xrange", 0, 10**12, 3) == range(0, 10**12, 3)
    assert file.check("__builtin__.long", 5) == 5
    assert file.check("__builtin__.unicode", "a") == "a"
    assert file.check("builtins.float", 0.5) == 0.5
    assert file.check("builtins.bool", True) is True
    for name in ("int", "float", "str", "bool"):
        assert not file.check(f"builtins.{name}")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("complex", ("1",)), ("complex", (True, 1)), ("complex", (10**400,)),
        ("slice", ([],)), ("slice", ()), ("range", (0, 1, 0)), ("range", (1 << 63,)),
        ("range", (1.0,)), ("int", ("9" * 10,)), ("int", (True,)), ("float", ("1",)),
        ("str", (b"a",)), ("bool", (1,)),
    ],
)  # fmt: skip
def test_scalars_of_other_content_are_refused(file, name, args):
    """Nothing is converted, so nothing can be expensive to convert."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(f"builtins.{name}", *args)

    assert caught.value.name == f"builtins.{name}"
