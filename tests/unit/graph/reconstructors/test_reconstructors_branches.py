"""What a file may do to calls that are allowed, one odd argument at a time."""

from __future__ import annotations

import pytest

from safemodel._graph.composite_specs import MappingSpec
from safemodel._graph.specs import StorageViewSpec
from safemodel._unpickle.nodes import PersistentRef
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    StorageBoundsError,
)

NEWOBJ = 0x81


def reason(file, dotted: str, *args: object, **done: object) -> str:
    """Return why a call is refused; the error says which and where."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(dotted, *args, **done)
    error = caught.value
    assert (error.name, error.position) == (dotted, 117)
    assert error.record == "archive/data.pkl"
    return error.reason


@pytest.mark.parametrize(
    ("dotted", "args"),
    [("builtins.dict", ()), ("builtins.list", ()), ("builtins.bytes", ()),
     ("collections.deque", ()), ("collections.defaultdict", ()),
     ("collections.Counter", ())],
)  # fmt: skip
def test_containers_take_neither_keyword_arguments_nor_a_state(file, dotted, args):
    """An empty state is none."""
    found = reason(file, dotted, *args, kwargs={"a": 1})
    assert found == "it is given keyword arguments"
    found = reason(file, dotted, *args, state={"a": 1})
    assert found == "its result is given a state"
    for empty in (None, {}):
        file.check(dotted, *args, state=empty)


@pytest.mark.parametrize(
    ("dotted", "edit"),
    [
        ("builtins.dict", "elements"), ("collections.Counter", "elements"),
        ("collections.defaultdict", "elements"), ("collections.deque", "pairs"),
        ("builtins.list", "pairs"), ("builtins.tuple", "pairs"),
        ("builtins.set", "pairs"), ("builtins.set", "elements"),
        ("builtins.frozenset", "elements"), ("builtins.tuple", "elements"),
        ("builtins.bytes", "pairs"), ("builtins.bytearray", "elements"),
        ("collections.OrderedDict", "elements"),
    ],
)  # fmt: skip
def test_a_container_gets_items_of_its_own_kind_only(file, dotted, edit):
    """A list has no keys, a dictionary no elements, a tuple neither."""
    assert reason(file, dotted, **{edit: ["k", 1]})


def test_an_ordered_dict_takes_no_keyword_arguments(file):
    """They would be keys that no rule has seen."""
    found = reason(file, "collections.OrderedDict", kwargs={"a": 1})
    assert found == "elements or keyword arguments of a dictionary"


def test_an_ordered_dict_of_items_keeps_its_metadata(file):
    """Python 2 gives the items first, and a state dict's versions afterwards."""
    state = {"_metadata": {"": {"version": 1}}, "items": "no method"}
    spec = file.check(
        "collections.OrderedDict", [["a", 1]], pairs=["b", 2], state=state
    )
    assert (spec.pairs, spec.metadata) == (["a", 1, "b", 2], {"": {"version": 1}})


def test_a_dictionary_is_made_of_another_and_counted(new_file):
    """The first copy is free; later ones count eight bytes a part."""
    file = new_file(byte_count=0, min_amplified_bytes=16)
    inner = file.made("collections.OrderedDict", pairs=["a", 1])

    made = file.check("builtins.dict", inner)
    assert type(made) is MappingSpec
    assert (made.kind, made.pairs) == ("dict", ["a", 1])
    assert made.pairs is not inner.value.pairs

    file.check("builtins.dict", inner)
    with pytest.raises(LimitExceededError) as caught:
        file.check("builtins.dict", inner)
    assert (caught.value.allowed, caught.value.requested) == (16, 32)


@pytest.mark.parametrize("value", [b"x", 1, None, ["x"]], ids=repr)
def test_only_text_is_encoded(file, value):
    """In both ways of writing bytes before protocol 3."""
    found = reason(file, "_codecs.encode", value, "latin1")
    assert found == "its argument is not text"
    found = reason(file, "builtins.bytes", value, "latin1")
    assert found == "its argument is not text"


def test_newobj_makes_an_empty_bytearray(file):
    """`bytearray.__new__` ignores what it is given."""
    assert file.check("builtins.bytearray", opcode=NEWOBJ) == bytearray()
    found = reason(file, "builtins.bytearray", b"x", opcode=NEWOBJ)
    assert found == "NEWOBJ with content"


def test_bytes_become_no_record_where_there_is_none(file):
    """The format layer says what a record in memory is."""
    array = file.made(
        "numpy._core.multiarray._reconstruct", file.ref("numpy.ndarray"), (0,), b"b",
        state=(1, (1,), file.dtype("f4"), False, bytes(4)),
    )  # fmt: skip
    args = (array, file.ref("torch.float32"), "cpu", False)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check("torch._utils._rebuild_device_tensor_from_numpy", *args)
    assert caught.value.reason == "4 bytes cannot become a record"


@pytest.mark.parametrize("switch", [2, -1, "1", None, 1.0], ids=repr)
def test_align_and_copy_of_a_dtype_are_flags(file, switch):
    """0 and 1 are, as Python 2 wrote them."""
    file.check("numpy.dtype", "f4", 0, True)
    found = reason(file, "numpy.dtype", "f4", False, switch)
    assert found == "align or copy is not a flag"


def test_a_record_dtype_is_a_structure(file):
    """`numpy.dtype(numpy.record)` takes size and fields from its state."""
    state = (3, "|", None, ("a",), {"a": (file.dtype("f4"), 0)}, 4, 1, 0)
    spec = file.check("numpy.dtype", file.ref("numpy.record"), state=state)
    assert (spec.descr, spec.itemsize, len(spec.fields)) == ("|V4", 4, 1)


def test_text_and_raw_dtypes_may_leave_their_size_to_their_code(file):
    """A state of -1 says so; a size that is no whole character is refused."""
    for code, size in (("S7", 7), ("U2", 8), ("V3", 3)):
        state = (3, "<", None, None, None, -1, -1, 0)
        assert file.check("numpy.dtype", code, state=state).itemsize == size
    for size in (7, 9):
        state = (3, "<", None, None, None, size, 4, 0)
        found = reason(file, "numpy.dtype", "U2", state=state)
        assert found == f"U2 elements of {size} bytes"
    huge = (3, "|", None, None, None, -1, 1, 0)
    assert "elements of" in reason(file, "numpy.dtype", f"S{1 << 31}", state=huge)


def test_a_date_dtype_may_have_no_unit(file):
    """Neither a ninth part nor one of None."""
    plain = (3, "<", None, None, None, -1, -1, 0)
    for state in (plain, (4, *plain[1:], None)):
        assert file.check("numpy.dtype", "M8", state=state).descr == "<M8"


@pytest.mark.parametrize("base", ["<f4", (1,), (1, 2, 3)], ids=repr)
def test_a_sub_array_is_a_dtype_and_a_shape(file, base):
    """A pair."""
    state = (3, "|", base, None, None, 8, 1, 0)
    found = reason(file, "numpy.dtype", "V8", state=state)
    assert found == "its sub-array is not a pair"


RECONSTRUCT = "numpy._core.multiarray._reconstruct"


def array_state(file, **parts: object) -> tuple[object, ...]:
    """Return the state of an array of 2 floats."""
    given = {"version": 1, "shape": (2,), "dtype": file.dtype("f4"),
             "fortran": False, "data": bytes(8)} | parts  # fmt: skip
    return tuple(given.values())


def test_an_array_needs_its_state(file):
    """Four parts before version 1, five since."""
    start = (file.ref("numpy.ndarray"), (0,), b"b")
    state = array_state(file)
    assert file.check(RECONSTRUCT, *start, state=state).shape == (2,)
    assert file.check(RECONSTRUCT, *start, state=state[1:]).shape == (2,)
    for odd in (None, state[2:], (*state, 1), list(state)):
        found = reason(file, RECONSTRUCT, *start, state=odd)
        assert found == "its state is not version, shape, dtype, order and data"


def test_a_shape_of_an_array_may_be_one_number(file):
    """As the oldest numpy wrote it."""
    start = (file.ref("numpy.ndarray"), (0,), b"b")
    state = array_state(file, shape=2)
    assert file.check(RECONSTRUCT, *start, state=state).shape == (2,)


@pytest.mark.parametrize("kind", ["numpy.ndarray", 7, None], ids=repr)
def test_the_class_of_an_array_is_a_name(file, kind):
    """Text that looks like one is none."""
    found = reason(file, RECONSTRUCT, kind, (0,), b"b", state=array_state(file))
    assert found == "its class is not a class"


@pytest.mark.parametrize("start", [((1,), b"b"), ((0,), b"f"), (0, b"b")], ids=repr)
def test_an_array_starts_empty(file, start):
    """`_reconstruct` itself makes nothing."""
    args = (file.ref("numpy.ndarray"), *start)
    found = reason(file, RECONSTRUCT, *args, state=array_state(file))
    assert found == "it does not start from an empty array of bytes"


@pytest.mark.parametrize("order", [2, -1, None, "F"], ids=repr)
def test_the_order_of_an_array_is_a_flag(file, order):
    """Column-major or not."""
    start = (file.ref("numpy.ndarray"), (0,), b"b")
    assert file.check(RECONSTRUCT, *start, state=array_state(file, fortran=1)).fortran
    found = reason(file, RECONSTRUCT, *start, state=array_state(file, fortran=order))
    assert found == "the order is not a flag"


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((-1,), "a size is out of range"),
        ((1 << 62,), "a size is out of range"),
        ((1 << 61, 2), "the number of elements is out of range"),
        ((1 << 61, 0, 2), "the number of elements is out of range"),
    ],
)
def test_sizes_of_an_array_can_be_multiplied(file, shape, problem):
    """Also those beside an axis of no length."""
    start = (file.ref("numpy.ndarray"), (0,), b"b")
    found = reason(file, RECONSTRUCT, *start, state=array_state(file, shape=shape))
    assert found == problem


def test_elements_of_no_bytes_are_counted(new_file):
    """No data bounds them."""
    file = new_file(byte_count=0, min_amplified_bytes=10)
    kind = file.made("numpy.dtype", "V0", state=(3, "|", None, None, None, 0, 1, 0))
    start = (file.ref("numpy.ndarray"), (0,), b"b")

    state = array_state(file, shape=(10,), dtype=kind, data=b"")
    assert file.check(RECONSTRUCT, *start, state=state).shape == (10,)
    with pytest.raises(LimitExceededError) as caught:
        file.check(RECONSTRUCT, *start, state=state)
    assert (caught.value.limit, caught.value.requested) == ("max_amplification", 20)


GENERATOR = "numpy.random._pickle.__generator_ctor"
BITS = "numpy.random._pickle.__bit_generator_ctor"


def test_a_bit_generator_keeps_its_state_with_or_without_seeds(file):
    """numpy 2 writes (state, seed sequence)."""
    plain = file.check(BITS, "PCG64", state={"s": 1})
    assert plain.pairs == ["bit_generator", "PCG64", "state", {"s": 1}]
    both = file.check(BITS, "PCG64", state=({"s": 1}, "seeds"))
    assert both.pairs[2:] == ["state", {"s": 1}, "seed_seq", "seeds"]
    assert file.check(BITS).pairs == ["bit_generator", "MT19937", "state", None]


def test_a_generator_takes_the_state_of_its_bits_or_its_own(file):
    """Neither seeds anything."""
    bits = file.made(BITS, "PCG64", state={"s": 1})
    assert file.check(GENERATOR, bits).pairs == bits.value.pairs
    made = file.check(GENERATOR, bits, state={"s": 2})
    assert made.pairs == ["bit_generator", "PCG64", "state", {"s": 2}]
    assert file.check(GENERATOR).pairs[1] == "MT19937"
    assert file.check(GENERATOR, "PCG64", state=3).pairs[2:] == ["state", 3]


def test_a_generator_is_made_of_bits_by_numpys_own_function(file):
    """Anything else in its place is refused."""
    made = file.check(GENERATOR, "PCG64", file.ref(BITS))
    assert made.pairs[1] == "PCG64"
    found = reason(file, GENERATOR, "PCG64", file.ref("builtins.list"))
    assert found == "not the function that makes bit generators"
    found = reason(file, GENERATOR, file.made("builtins.list", ["bit_generator"]))
    assert found == "not a bit generator of numpy"


def test_a_seed_sequence_may_carry_its_state_in_its_arguments(file):
    """Or be given it afterwards, which wins."""
    name = "numpy.random.bit_generator.__pyx_unpickle_SeedSequence"
    kind = file.ref("numpy.random.bit_generator.SeedSequence")
    assert file.check(name, kind, 7, (1,)).pairs == ["seed_sequence", (1,)]
    made = file.check(name, kind, 7, None, state=(2,))
    assert made.pairs == ["seed_sequence", (2,)]
    assert reason(file, name, "x", 7, None) == "not numpy's SeedSequence"


def test_a_path_is_given_no_state(file):
    """It has no attributes of its own."""
    assert file.check("pathlib.PosixPath", "a", "b") == "a/b"
    found = reason(file, "pathlib.PosixPath", "a", state={})
    assert found == "its result is given a state"


def test_a_sparse_tensor_is_made_of_parameters_too(file):
    """Their data counts; their gradient is that of the values."""
    indices = file.tensor((1, 2), "int64", 8)
    values = file.tensor((2,))
    hooks = file.made("collections.OrderedDict")
    wrapped = file.made("torch._utils._rebuild_parameter", values, True, hooks)
    coo = file.made("torch.serialization._get_layout", "torch.sparse_coo")
    name = "torch._utils._rebuild_sparse_tensor"

    spec = file.made(name, coo, (indices, wrapped, (5,), False))
    assert spec.value.parts[1] is values.value

    parameter = file.check("torch._utils._rebuild_parameter", spec, True, hooks)
    assert (parameter.data, parameter.requires_grad) == (spec.value, True)


def test_the_data_of_a_sparse_tensor_are_three_or_four(file):
    """Whatever the layout."""
    coo = file.made("torch.serialization._get_layout", "torch.sparse_coo")
    name = "torch._utils._rebuild_sparse_tensor"
    for data in ((), (1, 2), (1, 2, 3, 4, 5), [1, 2, 3]):
        assert reason(file, name, coo, data) == "its data is not a tuple of 3 or 4"
    strided = file.made("torch.serialization._get_layout", "torch.strided")
    assert reason(file, name, strided, (1, 2, 3, 4)) == "strided with 4 parts"


@pytest.mark.parametrize(
    ("crow", "col", "values", "shape"),
    [
        ((3,), (2, 1), (2,), (2, 4)),
        ((3,), (2,), (3,), (2, 4)),
        ((3,), (2,), (2, 1), (2, 4)),
        ((3,), (2,), (2,), (4,)),
        ((1, 3), (2, 2), (2, 2), (2, 2, 4)),
        ((2, 3), (2, 2), (2, 2), (1, 2, 4)),
        ((), (2,), (2,), (2, 4)),
    ],
)
def test_the_parts_of_a_compressed_tensor_fit_together(file, crow, col, values, shape):
    """Batches, lengths and axes."""
    csr = file.made("torch.serialization._get_layout", "torch.sparse_csr")
    parts = (file.tensor(crow, "int64", 8), file.tensor(col, "int64", 8),
             file.tensor(values), shape)  # fmt: skip
    found = reason(file, "torch._utils._rebuild_sparse_tensor", csr, parts)
    assert found == "indices, values and size do not fit together"


def test_numbers_for_channels_are_plain_floats_or_integers(file):
    """A half-precision scale is none."""
    view = (file.storage(4, "qint8", 1), 0, (2, 2), (2, 1))
    scheme = file.ref("torch.per_channel_affine")
    good = file.tensor((2,), "float64", 8)
    odd = file.tensor((2,), "float16", 2)
    name = "torch._utils._rebuild_qtensor"
    file.check(name, *view, (scheme, good, good, 0), False, None)
    found = reason(file, name, *view, (scheme, odd, good, 0), False, None)
    assert found == "float16 numbers for channels"


def test_a_nested_tensor_is_a_parameter_of_its_buffers_type(file):
    """Its own has no dtype written down; a quantised one has none to differentiate."""
    hooks = file.made("collections.OrderedDict")
    buffer = file.tensor((4,))
    sizes = file.tensor((2, 1), "int64", 8)
    offsets = file.tensor((2,), "int64", 8)
    nested = file.made(
        "torch._utils._rebuild_nested_tensor", buffer, sizes, sizes, offsets
    )
    made = file.check("torch._utils._rebuild_parameter", nested, True, hooks)
    assert (made.data, made.requires_grad) == (nested.value, True)

    view = (file.storage(4, "qint8", 1), 0, (2, 2), (2, 1))
    settings = (file.ref("torch.per_tensor_affine"), 0.5, 0)
    quantised = file.made("torch._utils._rebuild_qtensor", *view, settings, False, None)
    name = "torch._utils._rebuild_parameter"
    assert not file.check(name, quantised, False, hooks).requires_grad
    found = reason(file, name, quantised, True, hooks)
    assert found == "a quantised tensor cannot require a gradient"


def test_a_subclass_of_a_quantised_tensor_has_no_gradient(file):
    """`_rebuild_from_type_v2` asks each kind for its own."""
    view = (file.storage(4, "qint8", 1), 0, (2, 2), (2, 1))
    settings = (file.ref("torch.per_tensor_affine"), 0.5, 0)
    made = file.check(
        "torch._tensor._rebuild_from_type_v2",
        file.ref("torch._utils._rebuild_qtensor"),
        file.ref("torch.nn.parameter.Parameter"),
        (*view, settings, False, None),
        {},
    )
    assert (made.kind, made.requires_grad) == ("Parameter", False)


@pytest.mark.parametrize("size", [(1 << 59, 4), (1 << 61,)])
def test_a_tensor_without_memory_has_a_number_of_bytes(file, size):
    """That 64 bits can hold."""
    name = "torch._utils._rebuild_meta_tensor_no_storage"
    dtype = file.ref("torch.float64")
    stride = (0,) * len(size)
    assert file.check(name, dtype, (1 << 58,), (0,), False).shape == (1 << 58,)
    found = reason(file, name, dtype, size, stride, False)
    assert found == "the number of bytes is out of range"


def test_an_array_that_becomes_a_tensor_holds_bytes(file):
    """Any other argument is refused, and so is one of objects."""
    name = "torch._utils._rebuild_device_tensor_from_numpy"
    dtype = file.ref("torch.float32")
    for odd in (file.tensor(), 7, None):
        found = reason(file, name, odd, dtype, "cpu", False)
        assert found == "its first argument is not an array"


def test_no_bits_are_given_by_none(file):
    """As torch writes for ordinary tensors with metadata."""
    args = (file.storage(), 0, (3,), (1,), False, None)
    spec = file.check("torch._utils._rebuild_tensor_v2", *args, None)
    assert (spec.conj, spec.neg) == (False, False)


V3 = "torch._utils._rebuild_tensor_v3"


def untyped(file, numel: int = 16) -> PersistentRef:
    """Return big-endian bytes."""
    ref = file.storage(numel, "uint8", 1)
    ref.value.typed, ref.value.big_endian = False, True
    return ref


def test_big_endian_bytes_are_numbers_of_one_width(file):
    """Complex ones of two; what bytes say twice has to agree."""
    ref = untyped(file)
    for dtype, numel in (("uint16", 8), ("float16", 4), ("complex32", 2)):
        layout = (0, (numel,), (1,), False, None, file.ref(f"torch.{dtype}"))
        spec = file.check(V3, ref, *layout, {"neg": True})
        assert (spec.dtype, spec.neg, ref.value.swapped) == (dtype, True, 2)
    layout = (0, (2,), (1,), False, None, file.ref("torch.float64"))
    assert "of two widths" in reason(file, V3, ref, *layout)


def test_big_endian_numbers_are_not_read_as_others(file):
    """Their bytes are turned round as what the storage holds."""
    ref = file.storage()
    ref.value.big_endian = True
    layout = (0, (3,), (1,), False, None, file.ref("torch.uint32"))
    assert "of two widths" in reason(file, V3, ref, *layout)


@pytest.mark.parametrize("dtype", ["bool", "qint8", "quint4x2"])
def test_bytes_are_never_read_as_flags_or_quantised(file, dtype):
    """A bool of value 2 is undefined behaviour (T7)."""
    layout = (0, (3,), (1,), False, None, file.ref(f"torch.{dtype}"))
    assert reason(file, V3, file.storage(), *layout) == f"bytes are read as {dtype}"


def test_a_slice_of_a_storage_is_read_as_what_it_holds(file):
    """Its offset counts in the storage's own elements."""
    ref = file.storage()
    whole, part = PersistentRef(("v",), 0), PersistentRef(("w",), 0)
    whole.value = StorageViewSpec(ref.value, 0, 4)
    part.value = StorageViewSpec(ref.value, 2, 4)
    same = (0, (4,), (1,), False, None, file.ref("torch.float32"))
    other = (0, (4,), (1,), False, None, file.ref("torch.uint32"))

    assert file.check(V3, part, *same).offset == 2
    assert file.check(V3, whole, *other).dtype == "uint32"
    found = reason(file, V3, part, *other)
    assert found == "a slice of a storage is read as another dtype"
    with pytest.raises(StorageBoundsError) as caught:
        file.check(V3, part, 1, *same[1:])
    assert (caught.value.needed, caught.value.available) == (7, 6)


@pytest.mark.parametrize("state", [None, (1, 2, 3), [1, 2, 3, 4]], ids=repr)
def test_the_state_of_an_old_tensor_has_four_parts(file, state):
    """Storage, offset, size and stride."""
    found = reason(file, "torch.FloatTensor", state=state)
    assert found == "its state is not storage, offset, size and stride"


def test_an_old_tensor_class_agrees_with_its_storage(file):
    """torch.Tensor takes any."""
    state = (file.storage(4, "int64", 8), 0, (4,), (1,))
    assert file.check("torch.Tensor", state=state).dtype == "int64"
    assert file.check("torch.LongTensor", state=state).dtype == "int64"
    found = reason(file, "torch.FloatTensor", state=state)
    assert found == "its storage holds int64"


FROM_TYPE = "torch._tensor._rebuild_from_type_v2"


def test_a_subclass_is_rebuilt_by_a_function_of_the_list(file):
    """Never by itself, and never by a call's result."""
    rebuild = file.ref("torch._utils._rebuild_tensor")
    args = (file.storage(), 0, (4,), (1,))
    kind = file.ref("torch.Tensor")
    assert file.check(FROM_TYPE, rebuild, kind, args, {}).shape == (4,)
    for function in (file.ref(FROM_TYPE), "torch._utils._rebuild_tensor", None):
        found = reason(file, FROM_TYPE, function, kind, args, {})
        assert found == "its first argument does not rebuild a tensor"
    found = reason(file, FROM_TYPE, rebuild, kind, list(args), {})
    assert found == "its arguments are not a tuple"
    for odd in ("torch.Tensor", None, file.made("collections.OrderedDict")):
        found = reason(file, FROM_TYPE, rebuild, odd, args, {})
        assert found == "its class is not a class"


def test_a_parameter_rebuilt_as_one_is_the_same_one(file):
    """Only another kind is made anew."""
    hooks = file.made("collections.OrderedDict")
    rebuild = file.ref("torch._utils._rebuild_parameter")
    args = (file.tensor(), True, hooks)
    count = len(file.ctx.specs)
    kind = file.ref("torch.nn.parameter.Parameter")
    assert file.check(FROM_TYPE, rebuild, kind, args, {}).kind == "Parameter"
    assert len(file.ctx.specs) == count + 1
    buffer = file.ref("torch.nn.parameter.Buffer")
    assert file.check(FROM_TYPE, rebuild, buffer, args, {}).kind == "Buffer"


def test_a_wrapper_around_nothing_is_refused_or_opaque(file):
    """Its content is in code that a file cannot bring."""
    name = "torch._utils._rebuild_wrapper_subclass"
    rest = (None,) * 7
    for odd in ("m.C", file.ref("torch.Tensor")):
        assert reason(file, name, odd, *rest).startswith("a wrapper around no data")
    with pytest.raises(ForbiddenGlobalError) as caught:
        file.check(name, file.ref("numpy.record"), *rest)
    assert (caught.value.module, caught.value.name) == ("numpy", "record")


def test_a_value_is_not_used_before_it_is_made(file):
    """Whatever asks for it."""
    pending = file.node("collections.OrderedDict")
    found = reason(file, "builtins.dict", pending)
    assert found == "an argument is used before it is made"
