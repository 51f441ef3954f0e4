"""`Opaque`: a record of what a file says, which never becomes the real thing."""

from __future__ import annotations

import collections
import copy
import functools
import io
import pickle
import sys

import pytest
import torch

import safemodel
from safemodel import Opaque, safe_load
from tests.differential.pickles import Global, Made, assemble, instance


def opaque(value, protocol=2):
    """Return a value as it comes back with opaque values in it."""
    return safe_load(assemble(value, protocol), weights_only=False)


def test_it_shows_its_state_as_a_mapping():
    """Keys, values, length, membership; and truth, which emptiness does not change."""
    got = opaque(instance("pkg.Config", lr=0.1, layers=[1, 2]))
    assert dict(got) == {"lr": 0.1, "layers": [1, 2]}
    assert (len(got), list(got), "lr" in got, "x" in got) == (
        2,
        ["lr", "layers"],
        True,
        False,
    )
    assert got.get("x", 7) == 7
    with pytest.raises(KeyError):
        got["x"]
    assert opaque(Made("pkg.Empty"))


def test_it_keeps_name_arguments_and_state():
    """Whichever way the file makes the object."""
    called = opaque(Made("pkg.sub.make", (1, "two"), new=False))
    assert (called.qualified_name, called.args, called.state) == (
        "pkg.sub.make",
        (1, "two"),
        None,
    )
    made = opaque(Made("pkg.Thing", (3,), state="any state"))
    assert (made.args, made.state, dict(made)) == ((3,), "any state", {})
    slots = opaque(Made("pkg.Slots", state=({"a": 1}, {"b": 2})))
    assert dict(slots) == {"a": 1, "b": 2}


def test_items_and_elements_of_container_classes_are_kept():
    """Items come before attributes; elements by themselves."""
    got = opaque(Made("pkg.Dict", pairs={"k": 1}, state={"attribute": 2}))
    assert (got.pairs, dict(got)) == ({"k": 1}, {"k": 1, "attribute": 2})
    assert opaque(Made("pkg.List", elements=[1, 2])).elements == [1, 2]


def test_it_prints_in_one_readable_line():
    """The name and a few attributes; long values are cut, never run."""
    got = opaque(instance("pkg.Config", lr=0.1, name="x" * 500, inner=instance("a.B")))
    text = repr(got)
    assert text.startswith("<Opaque pkg.Config lr=0.1 name='xxx")
    assert "inner=<Opaque a.B>" in text
    assert len(text) < 200
    many = opaque(instance("pkg.Many", **{f"a{index}": index for index in range(99)}))
    assert repr(many).endswith("...>")


def test_two_of_them_are_never_equal_and_can_be_keys():
    """Equality is identity: the file decides nothing about it."""
    one, two = opaque([instance("a.B", x=1), instance("a.B", x=1)])
    assert one == one  # noqa: PLR0124 - which is what is tested
    assert one != two
    assert len({one: 1, two: 2}) == 2


def test_shared_objects_stay_shared_and_cycles_closed():
    """One object of the file is one opaque value."""
    inner = assemble(instance("a.Inner"))[2:-1]
    # The object is memoised and fetched again: a list of it twice.
    data = b"\x80\x02](" + inner + b"q\x05h\x05e."
    one, two = safe_load(data, weights_only=False)
    assert one is two
    # An object whose state holds the object itself.
    cycle = b"\x80\x02ca\nB\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    got = safe_load(cycle, weights_only=False)
    assert got["self"] is got
    assert "self=<Opaque a.B>" in repr(got)


def test_it_never_becomes_the_real_object(canary):
    """Not by loading, copying or pickling it; nothing is imported on the way."""
    assert "nturl2path" not in sys.modules
    data = assemble(
        [
            Made("safemodel.testing.trip", ("ran",), new=False),
            Global("nturl2path.url2pathname"),
            Made("nturl2path.url2pathname", (1.0, 0.5, 0.5), new=False),
        ]
    )
    got = safe_load(data, weights_only=False)
    assert [type(part) for part in got] == [Opaque, Opaque, Opaque]
    assert "nturl2path" not in sys.modules
    again = copy.deepcopy(got)
    assert again[0].qualified_name == "safemodel.testing.trip"
    assert again[0].args == ("ran",)
    assert not canary.trips


def test_attributes_that_python_acts_on_are_only_keys():
    """A state with `__class__`, `state_dict` or `args` changes nothing about it."""
    state = {"__class__": Global("os.system"), "state_dict": 1, "args": 2, "keys": 3}
    got = opaque(Made("pkg.Evil", state=state))
    assert type(got) is Opaque
    assert got.args == ()
    assert callable(got.state_dict)
    assert list(got.keys()) == list(state)
    assert got["__class__"].qualified_name == "os.system"


def test_a_result_that_is_called_is_opaque_too(canary):
    """`getattr(x, "y")(z)` is a record of a call of a call."""
    inner = Made("builtins.getattr", (Global("safemodel.testing.trip"), "x"), new=False)
    got = opaque(Made(inner, ("z",), new=False))
    assert got.qualified_name == "builtins.getattr(...)"
    assert got.args[0].qualified_name == "builtins.getattr"
    assert got.args[1] == "z"


def test_only_a_module_has_a_state_dict():
    """Anything else says what it is."""
    with pytest.raises(ValueError, match=r"pkg\.Config is not a module"):
        opaque(instance("pkg.Config", a=1)).state_dict()


def test_tensors_in_it_are_real():
    """What users want of such files."""
    file = io.BytesIO()
    torch.save({"model": torch.nn.ReLU(), "w": torch.arange(3)}, file)
    got = safe_load(file.getvalue(), weights_only=False)
    assert got["model"].qualified_name == "torch.nn.modules.activation.ReLU"
    assert got["w"].tolist() == [0, 1, 2]


def test_refused_globals_are_listed_all_at_once_with_positions():
    """Each with its record and the byte it stands at, in file order."""
    data = assemble(
        {
            "a": instance("one.A"),
            "b": [instance("two.B"), instance("one.A")],
            "c": Global("three.C"),
        }
    )
    for argument in (None, True):
        with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
            safe_load(data, weights_only=argument)
        error = caught.value
        assert error.globals == tuple(
            (module, name, "", data.index(b"c" + module.encode()))
            for module, name in (("one", "A"), ("two", "B"), ("three", "C"))
        )
        assert (error.module, error.name) == ("one", "A")
        assert "weights_only=False" in str(error)
        assert "with_extra" in str(error)


def test_refused_globals_of_every_pickle_of_a_file_are_in_one_error():
    """Archives within the archive included."""
    inner = io.BytesIO()
    torch.save(torch.nn.ReLU(), inner)
    data = assemble(
        [
            instance("one.A"),
            Made("torch.storage._load_from_bytes", (inner.getvalue(),), new=False),
            instance("two.B"),
        ],
        4,
    )
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safe_load(data)
    assert {name for _, name, _, _ in caught.value.globals} == {"A", "ReLU", "B"}


def test_a_long_list_of_refused_globals_is_cut_in_the_message_only():
    """The attribute has all of them."""
    data = assemble([Global(f"pkg.Name{index}") for index in range(50)])
    with pytest.raises(safemodel.ForbiddenGlobalError, match="and 30 more") as caught:
        safe_load(data)
    assert len(caught.value.globals) == 50


def test_a_defaultdict_of_another_factory_keeps_its_items():
    """The factory is refused by name; the opaque value is the mapping."""
    for factory, name in (
        (functools.partial(collections.defaultdict, int), "functools.partial"),
        (torch.Tensor, "torch.Tensor"),
    ):
        data = pickle.dumps(collections.defaultdict(factory, {1: [2]}))
        with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
            safe_load(data)
        assert f"{caught.value.module}.{caught.value.name}" == name
        got = safe_load(data, weights_only=False)
        assert got.qualified_name == "collections.defaultdict"
        assert (dict(got), got.args[0].qualified_name) == ({1: [2]}, name)


def test_a_class_of_the_callers_is_no_factory():
    """Its reconstructor makes an object of data; there is none for a missing key."""
    policy = safemodel.Policy().with_extra({"torch.Tensor": lambda *_: None})
    data = pickle.dumps(collections.defaultdict(torch.Tensor, {1: [2]}))
    with pytest.raises(safemodel.ForbiddenCallError) as caught:
        safe_load(data, policy=policy)
    assert caught.value.reason == "its factory is a class of the caller's"


DTYPE = Made(
    "numpy.dtype",
    (Global("ml_dtypes.bfloat16"), False, True),
    state=(3, "<", None, None, None, 2, 2, 0),
    new=False,
)
OTHER_ELEMENTS = {
    "array": (
        "numpy.ndarray",
        Made(
            "numpy._core.multiarray._reconstruct",
            (Global("numpy.ndarray"), (0,), b"b"),
            state=(1, (2,), DTYPE, False, b"abcd"),
            new=False,
        ),
    ),
    "array of protocol 5": (
        "numpy.ndarray",
        Made("numpy._core.numeric._frombuffer", (b"abcd", DTYPE, (2,), "C"), new=False),
    ),
    "scalar": (
        "numpy.generic",
        Made("numpy._core.multiarray.scalar", (DTYPE, b"ab"), new=False),
    ),
    "dtype": ("ml_dtypes.bfloat16", DTYPE),
}


@pytest.mark.parametrize("kind", OTHER_ELEMENTS)
def test_arrays_of_other_peoples_dtypes_are_opaque_with_their_bytes(kind):
    """Numbers that numpy itself does not have; the rest of the file opens."""
    name, value = OTHER_ELEMENTS[kind]
    data = assemble({"a": value, "epoch": 3}, 4)
    with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
        safe_load(data)
    assert [found[:2] for found in caught.value.globals] == [("ml_dtypes", "bfloat16")]
    got = safe_load(data, weights_only=False)
    assert (got["a"].qualified_name, got["epoch"]) == (name, 3)
    if kind == "array":
        assert (got["a"].state[1], got["a"].state[4]) == ((2,), b"abcd")
