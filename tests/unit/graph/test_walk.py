"""The walk over a checked graph: every bound from both sides, every kind of key."""

from __future__ import annotations

import datetime
import struct
import time

import pytest

from safemodel._graph.array_specs import (
    ArraySpec,
    NumpyDTypeSpec,
    ObjectArraySpec,
    ScalarSpec,
)
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    OpaqueSpec,
    SequenceSpec,
)
from safemodel._graph.specs import StorageSpec, TensorSpec, TorchValueSpec
from safemodel._graph.walk import Order, settle, walk
from safemodel._unpickle.keys import KeyGuard
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
)
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import Limits


def ordered(root: object, **limits: float) -> Order:
    """Walk under the default limits, but for those given."""
    bounds = Limits(**limits)
    guard = KeyGuard(bounds)
    guard.has_long_text = True
    return walk(root, bounds, guard)


def limit(root: object, **limits: float) -> tuple[str, float, float]:
    """Return which limit a graph exceeds, what is allowed and what it asks for."""
    with pytest.raises(LimitExceededError) as caught:
        ordered(root, **limits)
    error = caught.value
    return error.limit, error.allowed, error.requested


def malformed(root: object) -> str:
    """Return why a graph is malformed."""
    with pytest.raises(MalformedFileError) as caught:
        ordered(root)
    assert type(caught.value) is MalformedFileError
    return caught.value.reason


def standing_for(value: object) -> Call:
    """Return a checked call."""
    call = Call(GlobalRef("m", "f", 0), (), 0x52, 0)
    call.value = value
    return call


def nest(depth: int, kind: str = "list", inner: object = None) -> object:
    """Return containers within containers."""
    value: object = [None] * 9 if inner is None else inner
    for _ in range(depth - 1):
        value = {
            "list": lambda v: [v],
            "tuple": lambda v: (v,),
            "dict": lambda v: {"k": v},
            "call": lambda v: standing_for(SequenceSpec("list", [v])),
            "opaque": lambda v: OpaqueSpec("m.C", state=v),
            "namespace": lambda v: NamespaceSpec("Namespace", {"a": v}),
            "mapping": lambda v: MappingSpec("OrderedDict", ["k", v]),
            "extra": lambda v: ExtraSpec("m.C", print, (), v),
            "array": lambda v: ObjectArraySpec((1,), False, [v]),
            "deque": lambda v: SequenceSpec("deque", [v]),
        }[kind](value)
    return value


KINDS = (
    "list", "tuple", "dict", "call", "opaque", "namespace", "mapping", "extra",
    "array", "deque",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_containers_nest_as_deep_as_the_limit(kind):
    """On both sides, for all that can hold something."""
    ordered(nest(9, kind), max_depth=9)
    assert limit(nest(10, kind), max_depth=9) == ("max_depth", 9, 10)


def test_small_containers_count_as_a_level():
    """They are not noted down, but are as deep as others."""
    ordered(nest(9, inner=["a"]), max_depth=9)
    assert limit(nest(10, inner=["a"]), max_depth=9) == ("max_depth", 9, 10)


def test_depth_counts_through_containers_that_are_shared():
    """A height is known once, and added wherever it is used (not only walked down)."""
    shared = nest(6)
    ordered([shared, nest(3, inner=[shared])], max_depth=10)
    deeper = [shared, nest(4, inner=[shared])]
    assert limit(deeper, max_depth=10) == ("max_depth", 10, 11)


def test_a_million_levels_are_refused_without_recursion():
    """A number is compared; nothing here calls itself."""
    assert limit(nest(1_000_000)) == ("max_depth", 256, 257)


def laughs(levels: int) -> list[object]:
    """Return lists that hold the one before twice."""
    value: list[object] = [None] * 9
    for _ in range(levels):
        value = [value, value]
    return value


def test_what_is_shared_counts_each_time_it_is_used():
    """Written out: 10 at the bottom, then twice as many and 3 at each level."""
    size = 10
    for _ in range(5):
        size = 2 * size + 3
    ordered(laughs(5), max_expanded_nodes=size)
    name, allowed, requested = limit(laughs(5), max_expanded_nodes=size - 1)
    assert (name, allowed) == ("max_expanded_nodes", size - 1)
    assert requested == size


def test_a_billion_laughs_are_refused_at_once():
    """Two hundred lists stand for 2**200 nodes."""
    started = time.process_time()
    assert limit(laughs(200))[:2] == ("max_expanded_nodes", 1 << 30)
    assert time.process_time() - started < 1


def test_shared_small_containers_count_as_well():
    """Although nobody notes them down."""
    small = ["a", "b"]
    ordered([small] * 10, max_expanded_nodes=41)
    assert limit([small] * 10, max_expanded_nodes=40)[0] == "max_expanded_nodes"


def test_the_memory_of_containers_is_bounded_by_their_pickle():
    """One byte of it may ask for one set."""
    enough = 64 * 1024
    ordered([SetNode() for _ in range(10)], min_object_bytes=enough)
    name, allowed, requested = limit(
        [SetNode() for _ in range(1000)], min_object_bytes=enough
    )
    assert (name, allowed) == ("max_object_bytes", Limits().max_object_bytes)
    assert requested > enough


def test_cycles_through_what_can_change_are_fine():
    """A list in itself, a dictionary in itself, an opaque value in its state."""
    listed: list[object] = []
    listed.append(listed)
    mapped: dict[str, object] = {}
    mapped["self"] = (mapped,)
    opaque = OpaqueSpec("m.C")
    opaque.state = {"self": opaque}

    order = ordered([listed, mapped, opaque])

    assert [id(value) for value in order.mutables if value is listed] == [id(listed)]
    assert order.immutables == [mapped["self"]]


def test_what_cannot_change_is_built_after_what_it_holds():
    """In whatever order a cycle was entered."""
    middle: list[object] = []
    inner = ("inner", middle, [None])
    outer = ("outer", inner, [None])
    middle += [outer, inner]
    for root in (middle, outer, inner, [outer, middle], {"a": inner, "b": outer}):
        immutables = ordered(root).immutables
        places = [id(value) for value in immutables]
        assert len(set(places)) == len(places)
        assert places.index(id(inner)) < places.index(id(outer))


def frozen(kind: str) -> object:
    """Return something that cannot change and holds itself."""
    if kind == "extra":
        spec = ExtraSpec("m.C", print, (), None)
        spec.state = spec
        return spec
    if kind == "frozenset":
        elements: list[object] = [1]
        spec = SequenceSpec("frozenset", elements)
        elements.append(standing_for(spec))
        return spec
    elements = [None]
    made = SequenceSpec("tuple", elements)
    elements.append(made)
    return made


@pytest.mark.parametrize("kind", ["extra", "frozenset", "tuple"])
def test_what_cannot_change_does_not_hold_itself(kind):
    """Nobody could build it first."""
    assert malformed([frozen(kind)]) == "an immutable value holds itself"


def test_a_cycle_of_two_frozen_values_is_found():
    """The way through the second one is as long as it likes."""
    first = ExtraSpec("m.A", print, (), None)
    second = ExtraSpec("m.B", print, (), first)
    first.state = second
    assert malformed([[first], second]) == "an immutable value holds itself"


def test_keys_of_a_cycle_are_not_counted_twice():
    """The second look at them is with a fresh guard."""
    pairs: list[object] = []
    for number in range(3000):
        pairs += [number << 20, None]
    cycle: list[object] = []
    holder = (MappingSpec("OrderedDict", pairs), cycle)
    cycle.append(holder)
    assert ordered(cycle).immutables == [holder]


COLOUR = TorchValueSpec("dtype", "float32")
TENSOR = TensorSpec(StorageSpec("0", "float32", 4, 0, None), "float32", 0, (0,), (1,))
NUMBER = ScalarSpec(NumpyDTypeSpec("<i8", 8), bytes(8))
SHAPE = TorchValueSpec("size", (2, 3))
FROZEN = SequenceSpec("frozenset", [1, 2])
FIXED = SequenceSpec("tuple", [1, 2])
GOOD_KEYS = [
    None, True, 1, 1.5, "k", b"k", (1, ("a", None)), COLOUR, TENSOR, NUMBER, SHAPE,
    FROZEN, FIXED, OpaqueSpec("m.Colour"), 1 + 2j, datetime.date(2024, 2, 29),
    range(3), datetime.timedelta(1),
]  # fmt: skip
BAD_KEYS = [
    ([1], "a list cannot be a key"),
    ({}, "a dict cannot be a key"),
    (bytearray(b"x"), "a bytearray cannot be a key"),
    (slice(1), "a slice cannot be a key"),
    (MappingSpec("dict", []), "a MappingSpec cannot be a key"),
    (NamespaceSpec("Namespace", {}), "a NamespaceSpec cannot be a key"),
    (ObjectArraySpec((), False, [1]), "a ObjectArraySpec cannot be a key"),
    (ArraySpec(NumpyDTypeSpec("<i8", 8), (0,), False, b""),
     "a ArraySpec cannot be a key"),
    (ExtraSpec("m.C", print, (), None), "a ExtraSpec cannot be a key"),
    (SequenceSpec("list", [1]), "a list cannot be a key"),
    (SequenceSpec("set", [1]), "a set cannot be a key"),
    (SequenceSpec("deque", [1]), "a deque cannot be a key"),
]  # fmt: skip


def holders(key: object) -> list[object]:
    """Return everything that has such a key: a node where it is no scalar."""
    key = key if type(key) in (str, int, type(None)) else standing_for(key)
    return [
        {key: 1},
        MappingSpec("OrderedDict", [key, 1]),
        OpaqueSpec("m.Dict", pairs=[key, 1]),
        OpaqueSpec("m.Dict", kwargs={key: 1}),
        SequenceSpec("set", [key]),
        SequenceSpec("frozenset", [key]),
        FrozenSetNode((key,)),
    ]


@pytest.mark.parametrize("key", GOOD_KEYS, ids=lambda key: type(key).__name__)
def test_what_can_be_hashed_may_be_a_key(key):
    """In whatever has keys or elements."""
    for holder in holders(key):
        ordered([holder])


@pytest.mark.parametrize(("key", "reason"), BAD_KEYS, ids=lambda case: str(case)[:20])
def test_what_cannot_be_hashed_is_no_key(key, reason):
    """With a reason of ours, long before anything hashes it."""
    for holder in holders(key):
        assert malformed([holder]) == reason


def test_an_opaque_value_with_a_set_and_a_list_of_keys_is_walked():
    """Pairs, keyword arguments, state and elements are all its children."""
    parts = [[None] * 9 for _ in range(4)]
    pair, state, element, argument = parts
    value = OpaqueSpec(
        "m.C", (argument,), {"k": pair}, state, ["k", pair], [element, element]
    )
    seen = {id(item) for item in ordered([value]).mutables}
    assert {id(part) for part in parts} <= seen


def test_the_metadata_of_a_state_dict_is_walked():
    """It is a child like any other."""
    spec = MappingSpec("OrderedDict", [])
    spec.metadata = held = [None] * 9
    assert [value for value in ordered(spec).mutables if value is held]


@pytest.mark.parametrize("length", [64, 65])
def test_long_text_is_no_key(length):
    """`max_key_bytes`, in what the machine could not check."""
    for key in ("k" * length, b"k" * length):
        root = MappingSpec("OrderedDict", [key, 1])
        if length == 64:
            ordered(root, max_key_bytes=64)
        else:
            found = limit(root, max_key_bytes=64)
            assert found == ("max_key_bytes", 64, 65)


def test_tuples_with_many_parts_are_no_keys():
    """`max_key_nodes`, parts of parts included, on both sides."""
    for owner in (dict, lambda pairs: SequenceSpec("set", [key for key, _ in pairs])):
        ordered(owner([((1, (2, 3)), None)]), max_key_nodes=5)
        found = limit(owner([((1, (2, 3, 4)), None)]), max_key_nodes=5)
        assert found == ("max_key_nodes", 5, 6)


def numpy_keys(code: str, layout: str, values: list[tuple[float, ...]]) -> object:
    """Return a dictionary whose keys are numpy scalars."""
    order = "<" if code[0] == "<" else ">"
    dtype = NumpyDTypeSpec(code, struct.calcsize(layout))
    keys = [ScalarSpec(dtype, struct.pack(order + layout, *value)) for value in values]
    pairs = [part for key in keys for part in (standing_for(key), None)]
    return MappingSpec("OrderedDict", pairs)


@pytest.mark.parametrize("code", ["<c16", ">c16"])
def test_numbers_of_numpy_may_not_be_made_to_collide(code):
    """A complex number's hash is a sum that a file can make the same for all."""
    values = [(float(-1_000_003 * number), float(number)) for number in range(1, 3000)]
    assert len({hash(complex(*value)) for value in values}) == 1
    assert limit(numpy_keys(code, "2d", values))[:2] == ("max_key_probes", 16)
    ordered(numpy_keys(code, "2d", [(value[1], 0.0) for value in values]))


@pytest.mark.parametrize(
    ("code", "layout"), [("<f2", "e"), ("<f4", "f"), ("<f8", "d"), ("<i8", "q")]
)
def test_numbers_of_numpy_that_do_not_collide_are_keys(code, layout):
    """As many as a dictionary may have."""
    values = [(number,) for number in range(2000)]
    ordered(numpy_keys(code, layout, values))


@pytest.mark.parametrize("code", ["<U2", "|S2"])
def test_empty_texts_of_numpy_are_one_key(code):
    """Hashes of text are salted, but for that of the empty one; it is only one key."""
    dtype = NumpyDTypeSpec(code, 8)
    keys = [ScalarSpec(dtype, bytes(8)) for _ in range(2000)]
    pairs = [part for key in keys for part in (standing_for(key), None)]

    assert len(ordered(MappingSpec("OrderedDict", pairs)).mutables) == 1


def test_sizes_of_containers_are_shared_only_as_long_as_they_are_few():
    """Lists of 500 lengths, each met twice: what is counted is the same."""
    lists = [[[index]] + [None] * index for index in range(500)]
    nodes = 3 + 2 * (501 + sum(3 + len(one) for one in lists))

    ordered([lists, lists], max_expanded_nodes=nodes)
    found = limit([lists, lists], max_expanded_nodes=nodes - 1)
    assert found == ("max_expanded_nodes", nodes - 1, nodes)


@pytest.mark.parametrize(
    "key",
    [
        lambda number: standing_for(SequenceSpec("frozenset", [number])),
        lambda number: (number, GlobalRef("m", "n", 0)),
        lambda _: standing_for(ScalarSpec(NumpyDTypeSpec("<f16", 16), bytes(16))),
    ],
    ids=["frozenset", "tuple", "longdouble"],
)
def test_keys_whose_hashes_nobody_knows_yet_are_few(key):
    """Their squares add up over the file: 8,192 in one dictionary, or in several."""

    def made(count: int) -> object:
        keys = [key(number) for number in range(count)]
        for part in keys:
            if type(part) is tuple:
                part[1].value = COLOUR
        return SequenceSpec("set", keys)

    allowed = 1 << 26
    ordered(made(8192))
    assert limit(made(8193)) == ("max_key_probes", allowed, 8193**2)
    assert limit([made(8000), made(2000)]) == (
        "max_key_probes", allowed, 8000**2 + 2000**2,
    )  # fmt: skip


def test_tuples_that_the_machine_could_hash_are_counted_by_it():
    """So there may be many of them."""
    ordered({(number, ("a", number)): None for number in range(10_000)})


def test_a_set_is_made_once():
    """Its node and its spec are one thing, with or without elements."""
    empty, full, fixed = SetNode(), SetNode(), FrozenSetNode((1,))
    full.elements = [1]
    assert settle(empty) is settle(empty)
    assert (settle(empty).kind, list(settle(empty).elements)) == ("set", [])
    assert (settle(full).kind, settle(full).elements) == ("set", [1])
    assert (settle(fixed).kind, settle(fixed).elements) == ("frozenset", (1,))


def test_a_node_stands_for_what_was_checked():
    """Through a few nodes; never through itself."""
    assert settle(standing_for(standing_for(7))) == 7
    unchecked = Call(GlobalRef("m", "f", 0), (), 0x52, 0)
    assert unchecked.value is UNCHECKED
    assert malformed([unchecked]) == "a value is used before it is made"
    unchecked.value = unchecked
    assert malformed([unchecked]) == "a value stands for itself"
    ref = PersistentRef("x", 0)
    assert malformed([ref]) == "a value is used before it is made"


@pytest.mark.parametrize(
    "value", [object(), {1}, frozenset(), print, KeyGuard], ids=repr
)
def test_a_value_of_no_known_kind_is_malformed(value):
    """Rule 4: only what is understood is built."""
    for root in (value, [value], ("a", value), {"k": value}, [[value]]):
        assert malformed(root) == "a value of no known kind"


@pytest.mark.parametrize("root", [None, 7, "text", b"", 1.5, TENSOR, bytearray(b"x")])
def test_a_root_without_contents_needs_no_order(root):
    """It is its own result."""
    order = ordered(root)
    assert (order.mutables, order.immutables) == ([], [])
