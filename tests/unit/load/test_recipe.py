"""`Recipe`: items, references back to the holder, and names that nothing calls."""

from __future__ import annotations

import pytest

import safemodel
from safemodel import SALVAGE, STRICT, Opaque, safe_load
from safemodel.policy import Recipe
from tests.differential.pickles import Global, Made, assemble, instance
from tests.unit.graph.test_check import called, named, settled, text


class Own:
    """What the caller has in the place of a file's class."""


def all_three(args, state, items):
    """Return what a recipe with items gets."""
    return args, state, items


ITEMS = STRICT.with_extra({"my.C": Recipe(make=all_three, takes_items=True)})


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("given", "items"),
    [
        ({"pairs": {"a": [1], "b": (2,)}}, {"a": [1], "b": (2,)}),
        ({"elements": [1, [2]]}, [1, [2]]),
        ({}, None),
    ],
)
def test_items_are_a_third_argument(given, items, protocol):
    """As a dictionary or a list of their own, beside arguments and state."""
    data = assemble([Made("my.C", (7,), state={"x": 1}, **given)], protocol)
    assert safe_load(data, policy=ITEMS) == [((7,), {"x": 1}, items)]


def test_items_are_built_before_they_are_given():
    """Containers and other objects of the caller's in them are what they will be."""
    seen = []

    def make(args, state, items):
        seen.append((dict(items["settings"]), items["inner"]))
        return "made"

    recipe = Recipe(make=make, takes_items=True)
    policy = STRICT.with_extra({"my.C": recipe, "my.D": lambda *_: Own})
    settings = Made("collections.OrderedDict", pairs={"k": 1}, new=False)
    value = Made("my.C", (), pairs={"settings": settings, "inner": instance("my.D")})
    assert safe_load(assemble(value), policy=policy) == "made"
    assert seen == [({"k": 1}, Own)]


def test_keys_of_items_are_checked_as_any():
    """A list cannot be one."""
    body = called("my.C") + b"]K\x01s"
    with pytest.raises(safemodel.MalformedFileError):
        settled(body, ITEMS)


def test_an_object_among_its_own_items_is_refused():
    """While its recipe runs, it is not there yet."""
    body = called("my.C") + b"q\x00" + text("me") + b"h\x00s"
    with pytest.raises(safemodel.ForbiddenCallError, match="part of its own"):
        safe_load(b"\x80\x02" + body + b".", policy=ITEMS)


def test_items_of_both_kinds_are_refused():
    """There is one argument for them."""
    body = called("my.C") + text("k") + b"K\x01s" + b"K\x02a"
    with pytest.raises(safemodel.ForbiddenCallError) as caught:
        settled(body, ITEMS)
    assert (caught.value.name, caught.value.record) == ("my.C", "data.pkl")


def test_a_name_without_a_recipe_for_calls_is_not_called():
    """It may be named: see `stands_for`."""
    policy = STRICT.with_extra({"my.C": Recipe(stands_for="the class")})
    with pytest.raises(safemodel.ForbiddenCallError, match="not called"):
        settled(called("my.C"), policy)


def test_keyword_arguments_are_refused():
    """NEWOBJ_EX gives them; no recipe takes any."""
    body = b"cmy\nC\n)}" + text("k") + b"K\x01s\x92"
    with pytest.raises(safemodel.ForbiddenCallError, match="keyword"):
        safe_load(b"\x80\x04" + body + b".", policy=ITEMS)


def test_what_a_state_is_to_be_without_is_never_built():
    """So an object can be made whose parts refer back to it."""
    seen = []

    def part(args, state):
        seen.append(state)
        return state["value"]

    extra = {
        "my.Part": Recipe(make=part, ignores=("parent", "absent")),
        "my.Whole": lambda *given: given[1]["part"],
    }
    body = (
        named("my.Whole") + b")\x81q\x00}" + text("part")
        + named("my.Part") + b")\x81}(" + text("value") + b"K\x05"
        + text("parent") + b"h\x00ubsb"
    )  # fmt: skip
    data = b"\x80\x02" + body + b"."
    policy = STRICT.with_extra(extra)
    assert safe_load(data, policy=policy) == 5
    assert seen == [{"value": 5}]
    plain = STRICT.with_extra({**extra, "my.Part": part})
    with pytest.raises(safemodel.ForbiddenCallError, match="part of its own"):
        safe_load(data, policy=plain)


@pytest.mark.parametrize("state", [None, 7, {"x": 1}, ({"gone": 1}, {"y": 2})])
def test_a_state_without_them_is_what_it_was(state):
    """Nor is anything but a dictionary looked into."""
    policy = STRICT.with_extra(
        {"my.C": Recipe(make=lambda *given: [given[1]], ignores=("gone",))}
    )
    value = Made("my.C", ()) if state is None else Made("my.C", (), state=state)
    assert safe_load(assemble(value), policy=policy) == [state]


def test_copies_of_one_state_are_counted():
    """Two bytes name a state again, and each call would copy it."""
    policy = STRICT.with_extra(
        {"my.C": Recipe(make=lambda *_: None, ignores=("gone",))}
    )
    state = b"}(" + text("gone") + b"N"
    state += b"".join(text(f"key{n}") + b"N" for n in range(1000)) + b"uq\x01"
    body = b"]q\x02" + state + b"0" + named("my.C") + b"q\x000"
    limits = safemodel.Limits(min_amplified_bytes=1 << 20)
    few = b"h\x02(" + b"h\x00)\x81h\x01b" * 50 + b"e."
    many = b"h\x02(" + b"h\x00)\x81h\x01b" * 5000 + b"e."
    head = b"\x80\x02" + body + b"0"
    safe_load(head + few, policy=policy, limits=limits)
    with pytest.raises(safemodel.LimitExceededError) as caught:
        safe_load(head + many, policy=policy, limits=limits)
    assert caught.value.limit == "max_amplification"


@pytest.mark.parametrize("policy", [STRICT, SALVAGE], ids=["strict", "salvage"])
def test_a_name_that_nothing_calls_stands_for_what_the_caller_says(policy):
    """For a class, mostly; without a word of the caller's it is an `Opaque`."""
    data = assemble([Global("my.C"), {"again": Global("my.C")}, Global("my.D")])
    extra = {"my.C": Recipe(stands_for=Own), "my.D": Recipe()}
    one, two, other = safe_load(data, policy=policy.with_extra(extra))
    assert one is two["again"] is Own
    assert type(other) is Opaque
    assert other.qualified_name == "my.D"


@pytest.mark.parametrize(
    "body",
    [
        called("my.C"),
        named("my.C") + b")\x81",
        named("copyreg._reconstructor")
        + b"("
        + named("my.C")
        + named("builtins.object")
        + b"NtR",
    ],
)
@pytest.mark.parametrize("policy", [STRICT, SALVAGE], ids=["strict", "salvage"])
def test_a_name_that_may_not_be_called_is_not(body, policy):
    """Whatever it stands for, and whoever makes the call."""
    policy = policy.with_extra({"my.C": Recipe(stands_for=Own)})
    with pytest.raises(safemodel.ForbiddenCallError, match="named, but not called"):
        settled(body, policy)


@pytest.mark.parametrize("items", [True, False])
def test_the_value_of_a_builtin_type_is_an_argument(items):
    """Protocols 0 and 1 write it so for classes that derive from one."""
    rebuilt = Made(
        "copyreg._reconstructor",
        (Global("my.C"), Global("builtins.dict"), {"a": 1}),
        new=False,
    )
    recipe = Recipe(make=lambda *given: given, takes_items=items)
    expected = (({"a": 1},), None, None) if items else (({"a": 1},), None)
    policy = STRICT.with_extra({"my.C": recipe})
    assert safe_load(assemble(rebuilt), policy=policy) == expected


def test_a_reconstructor_is_asked_nothing_about_names():
    """It makes objects; a name of its own stays one."""
    policy = STRICT.with_extra({"my.C": all_three})
    assert type(safe_load(assemble(Global("my.C")), policy=policy)) is Opaque


def test_a_recipe_is_checked_where_it_is_made():
    """Not when the first file comes."""
    with pytest.raises(TypeError, match="not callable"):
        Recipe(make="os.system")
    with pytest.raises(TypeError, match="tuple"):
        Recipe(ignores="parent")
    assert Recipe() == Recipe(make=None, takes_items=False, ignores=(), stands_for=None)
