"""`safemodel.recipes`: configurations of libraries as data, without the libraries."""

from __future__ import annotations

import sys

import pytest

import safemodel
from safemodel import STRICT, recipes, safe_load
from safemodel.policy import Recipe
from safemodel.testing import CANARY
from tests.differential.pickles import Global, Made, assemble, instance

ALL = {"LIGHTNING", "OMEGACONF", "TRAINING_ARGUMENTS"}
DICT, LIST = "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"
FABRIC = "lightning.fabric.utilities.data.AttributeDict"


def loaded(value, recipe, protocol=2):
    """Load what a value is written as."""
    return safe_load(assemble(value, protocol), policy=STRICT.with_extra(recipe))


def metadata(name="ContainerMetadata"):
    """Return what omegaconf notes about a node."""
    return instance(
        f"omegaconf.base.{name}",
        ref_type=Global("typing.Any"),
        object_type=Global("builtins.dict"),
        flags={},
    )


def node(value, kind="Any"):
    """Return a value as omegaconf has it."""
    return instance(
        f"omegaconf.nodes.{kind}Node",
        _metadata=metadata("Metadata"),
        _val=value,
    )


def container(name, content):
    """Return a container as omegaconf has it."""
    return instance(name, _metadata=metadata(), _parent=None, _content=content)


def test_there_are_as_many_as_the_page_says():
    """Each is a mapping for `with_extra`, which nobody can add to."""
    assert set(recipes.__all__) == ALL
    for name in ALL:
        found = getattr(recipes, name)
        assert all(isinstance(one, Recipe) for one in found.values())
        with pytest.raises(TypeError):
            found["os.system"] = Recipe()
        STRICT.with_extra(found)


@pytest.mark.parametrize("name", recipes.LIGHTNING)
@pytest.mark.parametrize("protocol", [2, 4])
def test_an_attribute_dict_is_a_dictionary(name, protocol):
    """Nested ones, too, and empty ones."""
    inner = Made(name, pairs={"names": ["a", None]})
    got = loaded([Made(name, pairs={"lr": 0.5, "deep": inner}), Made(name)],
                 recipes.LIGHTNING, protocol)  # fmt: skip
    assert got == [{"lr": 0.5, "deep": {"names": ["a", None]}}, {}]
    assert type(got[0]) is type(got[0]["deep"]) is type(got[1]) is dict
    assert loaded(Global(name), recipes.LIGHTNING) is dict


def test_an_attribute_dict_of_the_first_protocols():
    """They write the items as an argument."""
    rebuilt = Made(
        "copyreg._reconstructor",
        (Global(FABRIC), Global("builtins.dict"), {"lr": 0.5}),
        new=False,
    )
    assert loaded(rebuilt, recipes.LIGHTNING) == {"lr": 0.5}


@pytest.mark.parametrize(
    "value",
    [
        Made(FABRIC, (7,)),
        Made(FABRIC, ({}, {})),
        Made(FABRIC, elements=[1]),
        Made(FABRIC, ({"a": 1},), pairs={"a": 1}),
        Made(FABRIC, state={"x": 1}),
        container(DICT, [1]),
        container(LIST, {}),
        container(DICT, 7),
        Made(DICT, (1,), state={"_content": {}}),
        Made(DICT, state={"other": {}}),
        Made(DICT),
        Made("omegaconf.nodes.AnyNode", state={"_val": [1]}),
        Made("omegaconf.nodes.AnyNode", (1,), state={"_val": 1}),
        Made("omegaconf.nodes.AnyNode", state=7),
        Made("transformers.training_args.TrainingArguments", (1,), state={"a": 1}),
        Made("transformers.training_args.TrainingArguments", state=[1]),
        Made("transformers.trainer_utils.HubStrategy", (7,), new=False),
        Made("transformers.trainer_utils.HubStrategy", ("a", "b"), new=False),
        Made("transformers.trainer_utils.HubStrategy", ("a",), state={"x": 1}),
    ],
)
def test_what_no_library_writes_is_refused(value):
    """With the name of the class, whichever it is."""
    every = {**recipes.LIGHTNING, **recipes.OMEGACONF, **recipes.TRAINING_ARGUMENTS}
    with pytest.raises(safemodel.ForbiddenCallError) as caught:
        loaded(value, every)
    assert caught.value.name == value.target


def test_a_configuration_of_omegaconf_is_plain_data():
    """Dictionaries, lists and values; what is no value stays the text that it is."""
    inner = container(LIST, [node(1, "Integer"), node(True, "Boolean"), node(None)])
    config = container(
        DICT,
        {
            "rate": node(0.5, "Float"),
            "name": node("${rate}"),
            "list": inner,
            "missing": container(DICT, "???"),
            "none": container(LIST, None),
            "either": container("omegaconf.base.UnionNode", node("x", "String")),
        },
    )
    got = loaded({"config": config, "type": Global(DICT)}, recipes.OMEGACONF)
    assert got["type"] is dict
    assert got["config"] == {
        "rate": 0.5,
        "name": "${rate}",
        "list": [1, True, None],
        "missing": "???",
        "none": None,
        "either": "x",
    }
    assert "omegaconf" not in sys.modules


def test_parents_are_left_out():
    """A node of omegaconf's refers back to the container that it is in."""
    head, tail = b"comegaconf.dictconfig\nDictConfig\n)\x81q\x00", b"ub."
    value = b"comegaconf.nodes\nAnyNode\n)\x81}(U\x04_valK\x05U\x07_parenth\x00ub"
    content = b"}(U\x08_content}U\x01a" + value + b"sU\x07_parentN"
    policy = STRICT.with_extra(recipes.OMEGACONF)
    assert safe_load(b"\x80\x02" + head + content + tail, policy=policy) == {"a": 5}


def test_training_arguments_are_a_dictionary():
    """Choices are texts, and the state of the run its attributes."""
    choice = "transformers.trainer_utils.IntervalStrategy"
    made = instance(
        "transformers.training_args.TrainingArguments",
        learning_rate=0.5,
        save_strategy=Made(choice, ("steps",), new=False),
        distributed_state=instance("accelerate.state.PartialState", num_processes=1),
    )
    got = loaded(made, recipes.TRAINING_ARGUMENTS)
    assert got == {
        "learning_rate": 0.5,
        "save_strategy": "steps",
        "distributed_state": {"num_processes": 1},
    }


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_recipe_accepts_no_other_name(name):
    """Least of all one that does something."""
    CANARY.reset()
    values = [Made("safemodel.testing.trip", new=False), container(DICT, {})]
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        loaded(values, getattr(recipes, name))
    assert (caught.value.module, caught.value.name) == ("safemodel.testing", "trip")
    assert CANARY.trips == []
