"""Containers around leaves: sharing, cycles, and the caller's own objects."""

from __future__ import annotations

import argparse
import collections
import types

import numpy as np
import pytest
import torch

from safemodel._build.objects import build
from safemodel._containers.source import Record, open_source
from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    OpaqueSpec,
    SequenceSpec,
    TensorGraph,
)
from safemodel._graph.specs import (
    QuantizedSpec,
    StorageSpec,
    StorageViewSpec,
    TensorSpec,
    TorchValueSpec,
)
from safemodel._graph.walk import walk
from safemodel._unpickle.keys import KeyGuard
from safemodel._unpickle.nodes import Call
from safemodel.errors import (
    ForbiddenCallError,
    MalformedFileError,
    StorageBoundsError,
    UnsupportedFormatError,
)
from safemodel.limits import DEFAULT_LIMITS


def make_graph(root, *specs):
    """Return the graph of a root value, containers ordered as the check orders them."""
    graph = TensorGraph(root, 1 << 20)
    graph.specs.extend(specs)
    order = walk(root, DEFAULT_LIMITS, KeyGuard(DEFAULT_LIMITS))
    graph.mutables, graph.immutables = order.mutables, order.immutables
    return graph


def node(value):
    """Return a checked node that stands for a value."""
    call = Call(None, (), 0x52, 0)
    call.value = value
    return call


def floats(*values, key="0", **arguments):
    """Return the spec of a float32 storage of these values."""
    data = np.array(values, dtype="<f4").tobytes()
    record = Record(key, open_source(data), 0, len(data))
    return StorageSpec(key, "float32", 4, len(values), record, **arguments)


def vector(*values):
    """Return the spec of a one-dimensional tensor."""
    return TensorSpec(floats(*values), "float32", 0, (len(values),), (1,))


def test_plain_values_come_back_as_the_very_same_objects():
    """What holds no node is not copied."""
    inner = {"b": (1, 2)}
    root = {"a": [inner, "text"], "t": (inner, 3)}

    assert build(make_graph(root)) is root
    assert root["a"][0] is inner
    assert root["t"][0] is inner


def test_nodes_are_replaced_wherever_they_are():
    """In values, in keys, in tuples within tuples; in shared ones only once."""
    spec = vector(1, 2)
    pair = (node(spec), 1)
    root = {
        "value": node(spec),
        "list": [0, node(spec)],
        "nested": ((pair, 2), pair),
        ("key", node(TorchValueSpec("dtype", "float16"))): 5,
        "after": 6,
    }
    graph = make_graph(root, spec)

    built = build(graph)

    tensor = built["value"]
    assert tensor.tolist() == [1, 2]
    assert built["list"] == [0, tensor]
    assert built["nested"][0][0] is built["nested"][1]
    assert built["nested"][1][0] is tensor
    assert built["key", torch.float16] == 5
    assert list(built)[-2:] == [("key", torch.float16), "after"]


def test_every_kind_of_container_is_made():
    """Each composite spec becomes the type it names, with its parts built."""
    spec = vector(1)
    leaf = node(spec)
    ordered = MappingSpec("OrderedDict", ["b", 1, "a", leaf])
    ordered.metadata = {"": {"version": 1}}
    root = [
        node(ordered),
        node(MappingSpec("defaultdict", ["k", leaf], "list")),
        node(MappingSpec("defaultdict", [])),
        node(MappingSpec("Counter", ["a", 2, "a", 3])),
        node(MappingSpec("dict", ["d", leaf])),
        node(SequenceSpec("set", [1, 2])),
        node(SequenceSpec("frozenset", (1, 2))),
        node(SequenceSpec("deque", [1, 2, leaf], 2)),
        node(SequenceSpec("list", [leaf])),
        node(SequenceSpec("tuple", (leaf, 1))),
        node(NamespaceSpec("Namespace", {"x": leaf})),
        node(NamespaceSpec("SimpleNamespace", {"x": 1})),
    ]

    built = build(make_graph(root, spec))

    tensor = built[4]["d"]
    assert type(built[0]) is collections.OrderedDict
    assert list(built[0]) == ["b", "a"]
    assert list(reversed(built[0])) == ["a", "b"]
    assert built[0]._metadata == {"": {"version": 1}}
    assert type(built[1]) is collections.defaultdict
    assert built[1].default_factory is list
    assert built[2].default_factory is None
    assert built[3] == collections.Counter(a=3)
    assert built[5] == {1, 2}
    assert built[6] == frozenset({1, 2})
    assert built[7].maxlen == 2
    assert list(built[7]) == [2, tensor]
    assert built[8] == [tensor]
    assert built[9] == (tensor, 1)
    assert type(built[10]) is argparse.Namespace
    assert built[10].x is tensor
    assert built[11] == types.SimpleNamespace(x=1)


def test_opaque_holds_its_parts_built():
    """Arguments, state, items and elements; shared parts are shared."""
    spec = vector(1)
    state = {"w": node(spec)}
    opaque = OpaqueSpec("a.B", (node(spec), 1), {"k": 2}, state, ["i", 3], [4])

    built = build(make_graph([node(opaque), state], spec))

    thing = built[0]
    assert thing.qualified_name == "a.B"
    assert thing.args[0].tolist() == [1]
    assert thing.kwargs == {"k": 2}
    assert thing.state is built[1]
    assert thing.pairs == {"i": 3}
    assert thing.elements == [4]
    assert thing["w"] is thing.args[0]


def test_cycles_through_containers_are_kept():
    """A list in itself, a mapping spec in its own value."""
    loop = [1]
    loop.append(loop)
    mapping = MappingSpec("OrderedDict", ["me", None])
    mapping.pairs[1] = node(mapping)

    built = build(make_graph([loop, node(mapping)]))

    assert built[0][1] is built[0]
    assert built[1]["me"] is built[1]


def test_reconstructor_sees_finished_data_and_is_called_once():
    """Whatever its arguments reach is built before; its result is shared."""
    spec = vector(1, 2)
    seen = []

    def make(args, state):
        seen.append((args[0]["w"].tolist(), args[1], state["deep"][0]["w"].tolist()))
        return ("made", len(seen))

    weights = {"w": node(spec)}
    inner = ExtraSpec("a.Inner", lambda *_: "inner", (), None)
    extra = ExtraSpec("a.B", make, (weights, node(inner)), {"deep": [weights]})

    built = build(make_graph([node(extra), (node(extra), 1)], spec))

    assert seen == [([1, 2], "inner", [1, 2])]
    assert built == [("made", 1), (("made", 1), 1)]


def test_what_a_reconstructor_raises_passes_through():
    """The caller's own error reaches the caller."""

    def refuse(args, state):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        build(make_graph([node(ExtraSpec("a.B", refuse, (), None))]))


def test_reconstructor_in_its_own_state_is_refused():
    """An object that is needed to make itself cannot be made."""
    state: list[object] = []
    called = []
    extra = ExtraSpec("a.B", lambda *given: called.append(given), (), (1, state))
    state.append((node(extra),))

    with pytest.raises(ForbiddenCallError) as caught:
        build(make_graph([node(extra)]))

    assert (caught.value.name, called) == ("a.B", [])


def test_unhashable_element_is_refused():
    """A set of arrays is a file's fault, not a TypeError."""
    array = ArraySpec(NumpyDTypeSpec("<i4", 4), (1,), False, b"\0" * 4)
    graph = TensorGraph(None, 1)
    graph.specs.append(array)
    graph.root = spec = SequenceSpec("set", [node(array)])
    graph.mutables.append(spec)

    with pytest.raises(ForbiddenCallError) as caught:
        build(graph)

    assert (caught.value.name, caught.value.reason) == (
        "set",
        "an element cannot be hashed",
    )


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_storage_views_share_memory_with_their_base():
    """Old files cut storages out of storages."""
    base = floats(0, 1, 2, 3, 4)
    view = StorageViewSpec(base, 1, 3)

    built = build(make_graph([base, view, base]))

    assert built[1].tolist() == [1, 2, 3]
    assert built[0] is built[2]
    built[1][0] = 9.0
    assert built[0].tolist() == [0, 9, 2, 3, 4]


def test_record_shorter_than_its_storage_is_refused():
    """One byte too few, although the check has compared them before."""
    storage = floats(1, 2)
    storage.numel = 3
    spec = TensorSpec(storage, "float32", 0, (3,), (1,))

    with pytest.raises(StorageBoundsError) as caught:
        build(make_graph(spec, spec))

    assert (caught.value.needed, caught.value.available) == (12, 8)


def test_array_of_other_size_than_its_bytes_is_refused():
    """Before memory for the shape is allocated."""
    array = ArraySpec(NumpyDTypeSpec("<f8", 8), (1 << 40,), False, b"\0" * 8)

    with pytest.raises(StorageBoundsError) as caught:
        build(make_graph(array, array))

    assert (caught.value.needed, caught.value.available) == (1 << 43, 8)


def test_text_that_holds_no_code_point_is_malformed():
    """numpy would raise a ValueError when such a text is printed."""
    good, bad = (0x10FFFF).to_bytes(4, "little"), (0x110000).to_bytes(4, "little")
    text = NumpyDTypeSpec("<U1", 4)

    assert build(make_graph(ok := ScalarSpec(text, good), ok)) == "\U0010ffff"
    with pytest.raises(MalformedFileError):
        build(make_graph(no := ScalarSpec(text, bad), no))
    with pytest.raises(MalformedFileError):
        build(make_graph(no := ArraySpec(text, (1,), False, bad), no))


def test_numpy_bool_above_one_becomes_one():
    """Any byte may stand in a file; numpy's loops know two."""
    flags = ArraySpec(NumpyDTypeSpec("|b1", 1), (3,), False, bytes([0, 1, 7]))

    assert build(make_graph(flags, flags)).tobytes() == bytes([0, 1, 1])


def test_dtype_this_torch_does_not_have_is_unsupported():
    """The error names it."""
    spec = TensorSpec(floats(1.0), "float7", 0, (1,), (1,))

    with pytest.raises(UnsupportedFormatError) as caught:
        build(make_graph(spec, spec))

    assert "float7" in caught.value.what


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("dtype", "bfloat16", torch.bfloat16),
        ("device", ("cuda", 1), torch.device("cuda:1")),
        ("device", ("cpu", None), torch.device("cpu")),
        ("layout", "sparse_csr", torch.sparse_csr),
        ("size", (2, 3), torch.Size([2, 3])),
        ("qscheme", "per_tensor_affine", torch.per_tensor_affine),
        ("memory_format", "channels_last", torch.channels_last),
    ],
)
def test_torch_values_are_the_constants_themselves(kind, value, expected):
    """dtype, device, layout, size, qscheme, memory format."""
    spec = TorchValueSpec(kind, value)

    built = build(make_graph(node(spec), spec))

    assert built == expected
    assert type(built) is type(expected)


@pytest.mark.parametrize("kind", ["layout", "qscheme", "memory_format"])
def test_torch_value_that_does_not_exist_is_refused(kind):
    """Names come from tables, never from a look-up in torch."""
    spec = TorchValueSpec(kind, "load")

    with pytest.raises(ForbiddenCallError):
        build(make_graph(spec, spec))


@pytest.mark.parametrize(("axis", "fits"), [(0, True), (1, False), (2, False)])
def test_channel_axis_must_be_there_and_as_long_as_the_scales(axis, fits):
    """Scales are counted against the length of their axis."""
    data = bytes(range(6))
    storage = StorageSpec("0", "qint8", 1, 6, Record("0", open_source(data), 0, 6))
    view = TensorSpec(storage, "qint8", 0, (2, 3), (3, 1))
    scales = ArraySpec(
        NumpyDTypeSpec("<f8", 8), (2,), False, np.array([0.5, 2.0]).tobytes()
    )
    zeros = ArraySpec(NumpyDTypeSpec("<i8", 8), (2,), False, np.arange(2).tobytes())
    spec = QuantizedSpec(view, "per_channel_affine", scales, zeros, axis)
    graph = make_graph(spec, spec)

    if not fits:
        with pytest.raises(ForbiddenCallError) as caught:
            build(graph)
        assert "axis" in caught.value.reason
        return
    built = build(graph)
    assert built.int_repr().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert built.dequantize().tolist() == [[0.0, 0.5, 1.0], [4.0, 6.0, 8.0]]
