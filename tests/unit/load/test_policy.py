"""The caller's own reconstructors: values passed to a call, for that call only."""

from __future__ import annotations

import pytest
import torch

import safemodel
from safemodel import SALVAGE, STRICT, Opaque, Policy, safe_load
from tests.differential.pickles import Global, Made, assemble, instance


class Config:
    """What the caller makes of a file's `my.pkg.Config`."""

    def __init__(self, lr):
        self.lr = lr


def checked(args, state):
    """Accept a state with a rate in it, and nothing else."""
    if args or not isinstance(state, dict) or set(state) != {"lr"}:
        raise ValueError("not a Config of ours")
    return Config(float(state["lr"]))


MINE = STRICT.with_extra({"my.pkg.Config": checked})


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_callers_class_comes_back_as_the_caller_makes_it(protocol):
    """By its exact name, wherever it sits."""
    data = assemble([{"config": instance("my.pkg.Config", lr=0.5)}], protocol)
    ((got),) = safe_load(data, policy=MINE)
    assert type(got["config"]) is Config
    assert got["config"].lr == 0.5


def test_it_is_called_with_arguments_and_state_already_built():
    """Tensors, containers and opaque values, finished."""
    seen = []

    def make(args, state):
        seen.append((args, state))
        return "made"

    value = Made(
        "my.pkg.Thing",
        ({"x": [1]}, Made("collections.OrderedDict", pairs={"k": 1}, new=False)),
        state={"other": instance("a.B", x=1)},
    )
    policy = SALVAGE.with_extra({"my.pkg.Thing": make})
    assert safe_load(assemble(value), policy=policy) == "made"
    ((args, state),) = seen
    assert args[0] == {"x": [1]}
    assert dict(args[1]) == {"k": 1}
    assert type(state["other"]) is Opaque


def test_an_object_shared_in_the_file_is_made_once():
    """And stays shared."""
    calls = []

    def make(args, state):
        calls.append(args)
        return object()

    data = b"\x80\x02](cmy.pkg\nThing\n)\x81q\x01h\x01e."
    one, two = safe_load(data, policy=STRICT.with_extra({"my.pkg.Thing": make}))
    assert one is two
    assert len(calls) == 1


def test_what_it_raises_reaches_the_caller_unchanged():
    """Its own check is the caller's business."""
    with pytest.raises(ValueError, match="not a Config of ours"):
        safe_load(assemble(instance("my.pkg.Config", lr=1, more=2)), policy=MINE)


def test_a_policy_is_a_value_and_grants_nothing_elsewhere():
    """Other names, other calls and the policy it was made from stay as they were."""
    data = assemble(instance("my.pkg.Config", lr=0.5))
    assert type(safe_load(data, policy=MINE)) is Config
    with pytest.raises(safemodel.ForbiddenGlobalError):
        safe_load(data)
    assert not STRICT.extra
    near = assemble(
        [instance("my.pkg.Config2"), instance("my.Config"), Global("my.pkg.sub.Config")]
    )
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safe_load(near, policy=MINE)
    assert len(caught.value.globals) == 3


def test_grants_add_up_and_later_ones_win():
    """`with_extra` returns a policy with both; dictionaries given are copied."""
    given = {"my.pkg.Config": checked}
    one = STRICT.with_extra(given)
    two = one.with_extra({"my.pkg.Other": lambda *_: 1, "my.pkg.Config": lambda *_: 2})
    given.clear()
    data = assemble([instance("my.pkg.Config", lr=1.0), Made("my.pkg.Other")])
    assert safe_load(data, policy=two) == [2, 1]
    assert set(one.extra) == {"my.pkg.Config"}


def test_weights_only_false_makes_the_rest_opaque():
    """The policy's own names are still the caller's."""
    data = assemble([instance("my.pkg.Config", lr=0.5), instance("a.B")])
    got = safe_load(data, policy=MINE, weights_only=False)
    assert [type(part) for part in got] == [Config, Opaque]


def test_items_set_on_a_callers_object_are_refused():
    """A reconstructor takes arguments and a state."""
    for value in (
        Made("my.pkg.Config", pairs={"a": 1}),
        Made("my.pkg.Config", elements=[1]),
    ):
        with pytest.raises(safemodel.ForbiddenCallError) as caught:
            safe_load(assemble(value), policy=MINE)
        assert caught.value.name == "my.pkg.Config"


def test_a_tensor_subclass_may_be_the_callers(tmp_path):
    """Its tensor is the argument."""

    class Tagged(torch.Tensor):
        pass

    Tagged.__module__, Tagged.__qualname__ = "my.pkg", "Tagged"
    kind = "torch._tensor._rebuild_from_type_v2"
    hooks = Made("collections.OrderedDict", new=False)
    inner = Global("torch._utils._rebuild_parameter")
    value = Made(
        kind, (inner, Global("my.pkg.Tagged"), (7, True, hooks), {}), new=False
    )
    with pytest.raises(safemodel.ForbiddenCallError):
        # What it is built around must be a tensor, whoever asks.
        safe_load(
            assemble(value),
            policy=STRICT.with_extra({"my.pkg.Tagged": lambda *_: 1}),
        )


def test_misuse_is_the_callers_error():
    """`TypeError` and `ValueError`, at the line that is wrong."""
    with pytest.raises(ValueError, match="not a dotted name"):
        STRICT.with_extra({"Config": checked})
    with pytest.raises(TypeError, match="not callable"):
        STRICT.with_extra({"my.Config": 3})
    with pytest.raises(ValueError, match="others"):
        Policy(others="run")


def test_a_name_on_the_allowlist_can_be_taken_over():
    """The caller's reconstructor comes first."""
    data = assemble(instance("argparse.Namespace", a=1))
    policy = STRICT.with_extra({"argparse.Namespace": lambda _, state: dict(state)})
    assert safe_load(data, policy=policy) == {"a": 1}
