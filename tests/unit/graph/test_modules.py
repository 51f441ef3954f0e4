"""Weights out of opaque modules: names, order, and an end however parts are shared."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from safemodel._graph.modules import is_module, module_state_dict, state_dict
from safemodel._graph.opaque import Opaque
from safemodel.errors import LimitExceededError


class Numbers:
    """What a tensor looks like from here."""

    dtype = "float32"
    shape = (2,)


WEIGHT, BIAS, MEAN = Numbers(), Numbers(), Numbers()


def module(parameters=None, buffers=None, modules=None, **more: object) -> Opaque:
    """Return an opaque module."""
    parts = {"_parameters": parameters, "_buffers": buffers, "_modules": modules}
    state = {name: part or {} for name, part in parts.items()}
    return Opaque("pkg.Net", state=state | more)


def script(**attributes: object) -> Opaque:
    """Return an opaque module of TorchScript."""
    return Opaque("__torch__.pkg.Net", state=attributes)


def test_names_and_order_are_those_of_a_module():
    """Parameters, buffers, then the children, each under its name."""
    inner = module({"weight": WEIGHT, "bias": None})
    outer = module(
        {"scale": BIAS}, {"mean": MEAN, "hidden": MEAN, "none": None},
        {"a": inner, "empty": None, "b": inner},
        _non_persistent_buffers_set={"hidden"},
    )  # fmt: skip
    assert list(module_state_dict(outer).items()) == [
        ("scale", BIAS), ("mean", MEAN), ("a.weight", WEIGHT), ("b.weight", WEIGHT),
    ]  # fmt: skip


def test_a_set_of_hidden_buffers_that_is_none_hides_nothing():
    """The file may put anything there."""
    hidden = module(buffers={"mean": MEAN}, _non_persistent_buffers_set="mean")
    assert module_state_dict(hidden) == {"mean": MEAN}


def test_names_that_are_no_text_are_passed_over():
    """Module names are; a file may say otherwise."""
    inner = module({"weight": WEIGHT})
    odd = module({1: WEIGHT, "w": BIAS}, {None: MEAN}, {2: inner, ("a",): inner})
    assert module_state_dict(odd) == {"w": BIAS}


def test_modules_of_torchscript_keep_all_as_attributes():
    """Tensors and modules among them; the rest is settings."""
    inner = script(weight=WEIGHT, training=True, name="x")
    outer = script(scale=BIAS, inner=inner, other=Opaque("pkg.Config"))
    assert list(module_state_dict(outer)) == ["scale", "inner.weight"]
    assert is_module(outer)


@pytest.mark.parametrize(
    "value",
    [None, {}, Opaque("m.C"), Opaque("m.C", state={"_parameters": {}, "_buffers": {}}),
     Opaque("m.C", state={"_parameters": [], "_buffers": {}, "_modules": {}})],
    ids=repr,
)  # fmt: skip
def test_what_lacks_a_part_is_no_module(value):
    """All three have to be mappings."""
    assert not is_module(value)


def test_a_module_within_itself_is_said():
    """With the name under which it occurs again."""
    outer = module()
    outer.state["_modules"]["a"] = module(modules={"b": outer})
    with pytest.raises(ValueError, match=r"^module 'a\.b\.' contains itself$"):
        module_state_dict(outer)


def test_names_are_counted_before_they_are_written():
    """200,000 entries and modules together; half of them are that many."""
    few = module({f"w{number}": WEIGHT for number in range(199_999)})
    assert len(module_state_dict(few)) == 199_999
    many = module({f"w{number}": WEIGHT for number in range(200_000)})
    with pytest.raises(LimitExceededError) as caught:
        module_state_dict(many)
    error = caught.value
    assert (error.limit, error.allowed) == ("names of a state dict", 200_000)
    assert error.requested == 200_001


def test_characters_of_names_are_counted_before_they_are_written():
    """One long name in front of many is written into all of them."""
    leaves = module({f"w{number}": WEIGHT for number in range(10_000)})
    tracemalloc.start()
    with pytest.raises(LimitExceededError) as caught:
        module_state_dict(module(modules={"n" * 60_000: leaves}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (caught.value.limit, caught.value.allowed) == (
        "characters of names",
        1 << 26,
    )
    assert peak < 16 << 20


@pytest.mark.parametrize("kind", [module, script])
def test_what_a_shared_child_holds_besides_costs_little(kind):
    """A hundred thousand settings, looked at through each of as many names."""
    settings = {f"s{number}": number for number in range(100_000)}
    child = kind(**settings) if kind is script else module(**settings)
    names = {f"c{number}": child for number in range(100_000)}
    outer = script(**names) if kind is script else module(modules=names)
    started = time.process_time()
    if kind is script:
        with pytest.raises(LimitExceededError):
            module_state_dict(outer)
    else:
        with pytest.raises(LimitExceededError):
            module_state_dict(module(modules={"a": outer, "b": outer, "c": outer}))
    assert time.process_time() - started < 20


def test_the_first_place_with_weights_counts():
    """The value itself, then the usual names in their order, then any module."""
    weights = {"w": WEIGHT}
    net = module({"n": BIAS})
    assert state_dict(weights) == weights
    assert state_dict(weights | {"m._extra_state": b"x"}) is not weights
    assert state_dict({"model": net, "state_dict": weights}) == weights
    assert state_dict({"net": net, "other": 1}) == {"n": BIAS}
    assert state_dict([1, {"x": (net, net)}]) == {"n": BIAS}
    assert state_dict(Opaque("m.Trainer", state={"net": net})) == {"n": BIAS}


@pytest.mark.parametrize(
    "value",
    [None, 5, {}, {1: WEIGHT}, {"w": WEIGHT, "lr": 0.1}, [WEIGHT], {"lr": 0.1},
     {"x._extra_state": b""}, Opaque("m.C")],
    ids=repr,
)  # fmt: skip
def test_what_holds_no_weights_is_said(value):
    """A mapping of tensors with anything else in it is no state dict."""
    with pytest.raises(ValueError, match=r"^no module and no mapping"):
        state_dict(value)


def test_several_modules_are_listed_in_order():
    """As the subscripts that lead to them; long keys are cut."""
    one, two = module(), module()
    with pytest.raises(ValueError, match=r"^several modules") as caught:
        state_dict({"k" * 100: [one, None], ("a", 1): {2: two}})
    places = str(caught.value).removeprefix("several modules; pass one of them: ")
    assert places == f"['{'k' * 36}...][0], [tuple][2]"


def test_a_long_list_of_modules_is_cut():
    """Twenty are listed, the rest is counted."""
    with pytest.raises(ValueError, match=r"^several modules") as caught:
        state_dict([module() for _ in range(23)])
    assert str(caught.value).endswith("[19], and 3 more")


def test_searching_a_long_list_under_a_long_key_is_cheap():
    """A place is written only where someone reads it."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^no module"):
        state_dict({"k" * 60_000: [{"a": number} for number in range(20_000)]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_searching_ends_in_a_cycle():
    """Each container is looked at once."""
    cycle: dict[str, object] = {"a": module({"w": WEIGHT})}
    cycle["self"] = [cycle]
    assert state_dict(cycle) == {"w": WEIGHT}
