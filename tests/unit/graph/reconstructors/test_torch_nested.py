"""Jagged nested tensors: what their parts have to be, before any byte is read."""

from __future__ import annotations

import pytest

from safemodel._graph.composite_specs import SequenceSpec
from safemodel._graph.specs import JaggedSpec, ParameterSpec
from safemodel.errors import ForbiddenCallError

NJT = "torch.nested._internal.nested_tensor."
REBUILD = "torch._tensor._rebuild_from_type_v2"
RANGE = "torch._dynamo.decorators._DimRange"


def parts(file, **changed):
    """Return what torch writes for three parts of rows of two numbers."""
    given = {
        "values": file.tensor((6, 2)),
        "offsets": file.tensor((4,), "int64", 8),
        "lengths": None,
        "_ragged_idx": 1,
        "_metadata_cache": {},
        "requires_grad": False,
    }
    given.update(changed)
    return {name: value for name, value in given.items() if value != "absent"}


def jagged(file, given, kind="NestedTensor"):
    """Return the spec of a jagged tensor, rebuilt as torch rebuilds it."""
    rebuild, cls = file.ref(NJT + "_rebuild_njt"), file.ref(NJT + kind)
    return file.check(REBUILD, rebuild, cls, (given,), {"_anything": 1})


def test_its_parts_are_kept_and_what_was_computed_from_them_is_not(file):
    """Older versions of torch give fewer of them."""
    spec = jagged(file, parts(file, requires_grad=True, _metadata_cache={"max": 3}))
    assert type(spec) is JaggedSpec
    assert (spec.lengths, spec.axis, spec.requires_grad) == (None, 1, True)
    assert (spec.values.shape, spec.offsets.shape) == ((6, 2), (4,))
    old = {name: value for name, value in parts(file).items() if name[0] in "vo"}
    assert (jagged(file, old).axis, jagged(file, old).requires_grad) == (1, False)
    lengths = file.tensor((3,), "int64", 8)
    assert jagged(file, parts(file, lengths=lengths)).lengths.shape == (3,)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"values": "absent"}, "its argument is not a dictionary of the parts it has"),
        ({"other": 1}, "its argument is not a dictionary of the parts it has"),
        ({"values": [1.0]}, "its values is not a strided tensor"),
        ({"_ragged_idx": 0}, "the axis is out of range"),
        ({"_ragged_idx": 3}, "the axis is out of range"),
        ({"requires_grad": 1}, "requires_grad is not a bool"),
    ],
)
def test_another_argument_is_refused(file, changed, reason):
    """By the name of the function that torch would call."""
    with pytest.raises(ForbiddenCallError) as caught:
        jagged(file, parts(file, **changed))
    assert caught.value.name == NJT + "_rebuild_njt"
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("part", "shape", "dtype"),
    [
        ("offsets", (0,), "int64"),
        ("offsets", (2, 2), "int64"),
        ("offsets", (4,), "float32"),
        ("lengths", (4,), "int64"),
        ("lengths", (3,), "int32"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(file, part, shape, dtype):
    """Each has one axis; there is one offset more than parts."""
    tensor = file.tensor(shape, dtype, {"int64": 8}.get(dtype, 4))
    with pytest.raises(ForbiddenCallError) as caught:
        jagged(file, parts(file, **{part: tensor}))
    assert caught.value.reason == "values, offsets and lengths do not fit together"


def test_a_parameter_of_one_has_the_type_of_its_values(file):
    """It may require a gradient if they may."""
    rebuild, cls = file.ref(NJT + "_rebuild_njt"), file.ref(NJT + "NestedTensor")
    made = file.made(REBUILD, rebuild, cls, (parts(file),), {})
    hooks = file.made("collections.OrderedDict")
    spec = file.check("torch._utils._rebuild_parameter", made, True, hooks)
    assert type(spec) is ParameterSpec
    assert type(spec.data) is JaggedSpec
    integers = parts(file, values=file.tensor((6, 2), "int64", 8))
    made = file.made(REBUILD, rebuild, cls, (integers,), {})
    with pytest.raises(ForbiddenCallError):
        file.check("torch._utils._rebuild_parameter", made, True, hooks)


def test_a_note_on_an_axis_is_its_numbers(file):
    """torch writes it beside jagged tensors, in a state that is dropped."""
    spec = file.check(RANGE, opcode=0x81, state=[0, None, 4])
    assert type(spec) is SequenceSpec
    assert (spec.kind, spec.elements) == ("tuple", (0, None, 4))
    for state in ((0, 1, 2), [0, "a"]):
        with pytest.raises(ForbiddenCallError):
            file.check(RANGE, opcode=0x81, state=state)
