import pytest

from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._graph.specs import (
    ParameterSpec,
    QuantizedSpec,
    StorageSpec,
    TensorSpec,
)
from safemodel.errors import ForbiddenCallError, ForbiddenGlobalError

UTILS = "torch._utils."
V2 = UTILS + "_rebuild_tensor_v2"
V3 = UTILS + "_rebuild_tensor_v3"
PARAMETER = "torch.nn.parameter.Parameter"
FROM_TYPE = "torch._tensor._rebuild_from_type_v2"


def v2_args(file, grad=False, hooks=None, dtype="float32", itemsize=4):
    return (file.storage(12, dtype, itemsize), 0, (12,), (1,), grad, hooks)


@pytest.mark.parametrize(
    "done",
    [
        {"state": {}},
        {"state": None},
        {"pairs": ["a", 1]},
        {"elements": [1]},
        {"kwargs": {"a": 1}},
    ],
)
@pytest.mark.parametrize("name", ["v2", "v1", "parameter", "meta", "od"])
def test_editing_what_a_call_made_is_refused(file, name, done):
    """BUILD, SETITEMS, APPENDS and keywords on a tensor are the classic attack."""
    calls = {
        "v2": (V2, *v2_args(file)),
        "v1": (UTILS + "_rebuild_tensor", *v2_args(file)[:4]),
        "parameter": (UTILS + "_rebuild_parameter", file.tensor(), False, None),
        "meta": (
            UTILS + "_rebuild_meta_tensor_no_storage",
            file.ref("torch.float32"), (2,), (1,), False,
        ),
        "od": ("torch.Size", (1, 2)),
    }  # fmt: skip
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(*calls[name], **done)

    assert caught.value.name == calls[name][0]


def test_hooks_are_none_or_an_empty_ordered_dict(file):
    """Torch would call what hooks hold, at the first backward pass."""
    empty = file.made("collections.OrderedDict")
    full = file.made("collections.OrderedDict", pairs=[0, file.ref("builtins.object")])
    other = file.made("collections.Counter")

    for hooks in (None, empty):
        assert type(file.check(V2, *v2_args(file, hooks=hooks))) is TensorSpec
    for hooks in (full, other, {}, "hook", file.ref("builtins.object")):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(V2, *v2_args(file, hooks=hooks))
        assert caught.value.reason == "backward hooks are not an empty OrderedDict"


def test_only_floating_and_complex_tensors_require_a_gradient(file):
    """The flag is a bool, and an integer tensor's is False."""
    assert file.check(V2, *v2_args(file, grad=True)).requires_grad is True
    assert (
        file.check(V2, *v2_args(file, False, None, "int64", 8)).requires_grad is False
    )
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(V2, *v2_args(file, True, None, "int64", 8))
    assert caught.value.reason == "a int64 tensor cannot require a gradient"
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(V2, *v2_args(file, 1))
    assert caught.value.reason == "requires_grad is not a bool"


def test_metadata_is_two_bools(file):
    """The conjugate and negative bits are kept; nothing else is metadata."""
    args = v2_args(file, False, None, "complex64", 8)
    spec = file.check(V2, *args, {"conj": True, "neg": False})
    assert (spec.conj, spec.neg) == (True, False)
    assert file.check(V2, *v2_args(file), {"neg": True}).neg is True

    for metadata in ({"conj": 1}, {"other": True}, {"neg": None}, [], "neg"):
        with pytest.raises(ForbiddenCallError):
            file.check(V2, *args, metadata)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(V2, *v2_args(file), {"conj": True})
    assert caught.value.reason == "a float32 tensor has no conjugate"


def test_bytes_are_read_as_the_dtype_the_file_names(file):
    """12 bytes hold 6 elements of 2 bytes, and not 7."""
    storage = file.storage(12, "uint8", 1)
    dtype = file.ref("torch.uint16")

    spec = file.check(V3, storage, 0, (6,), (1,), False, None, dtype)
    assert (spec.dtype, spec.storage.dtype) == ("uint16", "uint8")
    with pytest.raises(Exception, match="needs 7, 6 available"):
        file.check(V3, storage, 1, (6,), (1,), False, None, dtype)


@pytest.mark.parametrize("dtype", ["bool", "qint8", "quint4x2"])
def test_bytes_are_never_read_as_bool_or_quantised(file, dtype):
    """A bool of value 2 is undefined behaviour, and torch never writes one."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(
            V3, file.storage(4, "uint8", 1), 0, (4,), (1,), False, None,
            file.ref(f"torch.{dtype}"),
        )  # fmt: skip

    assert caught.value.reason == f"bytes are read as {dtype}"


def test_a_dtype_is_a_torch_dtype(file):
    """Neither its name nor another torch constant will do."""
    for dtype in ("float32", file.ref("torch.strided"), 4):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(V3, file.storage(4), 0, (4,), (1,), False, None, dtype)
        assert caught.value.reason == "the dtype is not a torch.dtype"


def test_the_oldest_rebuild_function_gives_a_tensor(file):
    """_rebuild_tensor of torch 0.1 to 0.3: four arguments."""
    spec = file.check(UTILS + "_rebuild_tensor", file.storage(12), 0, (3, 4), (4, 1))

    assert (spec.shape, spec.requires_grad) == ((3, 4), False)


def test_parameters_keep_their_tensor_and_drop_their_state(file):
    """Attributes a file hangs on a parameter are gone (users of torch lose none)."""
    data = file.tensor()

    for name, extra in (
        ("_rebuild_parameter", ()),
        ("_rebuild_parameter_with_state", ({"numpy": "shadowed"},)),
    ):
        spec = file.check(UTILS + name, data, True, None, *extra)
        assert type(spec) is ParameterSpec
        assert (spec.data, spec.requires_grad) == (data.value, True)


@pytest.mark.parametrize(
    ("state", "count"),
    [
        (None, 0),
        ({}, 0),
        ({"numpy": "shadowed", "a": 1}, 2),
        (({"a": 1, "b": 2}, {"slot": 3}), 3),
        ((None, {"slot": 3}), 1),
        ((1, 2, 3), 1),
        ("text", 1),
    ],
)
def test_what_a_state_holds_is_counted(file, state, count):
    """However the tensor is rebuilt; calls add up."""
    file.check(
        UTILS + "_rebuild_parameter_with_state", file.tensor(), True, None, state
    )
    assert file.ctx.dropped.get("torch.Tensor", 0) == count

    for kind in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        file.check(FROM_TYPE, file.ref(V2), file.ref(kind), v2_args(file), state)
    assert file.ctx.dropped.get("torch.Tensor", 0) == 3 * count


def test_a_parameter_of_a_parameter_shares_its_data(file):
    """Nothing nests, however often a file wraps."""
    inner = file.made(UTILS + "_rebuild_parameter", file.tensor(), True, None)

    spec = file.check(UTILS + "_rebuild_parameter", inner, False, None)

    assert spec.data is inner.value.data


@pytest.mark.parametrize(
    ("args", "state", "grad"),
    [
        (1, (True, False, None), True),
        (1, (False, False, None), False),
        (0, "five", False),
        (1, None, True),
        (2, None, False),
    ],
)
def test_parameters_of_torch_0_1_to_0_3(file, args, state, grad):
    """Parameter(data) with (requires_grad, volatile, hooks), and the older five."""
    data = file.tensor()
    if state == "five":
        state = (data, None, file.made("collections.OrderedDict"), False, False)
    done = {} if state is None else {"state": state}

    spec = file.check(PARAMETER, *(data, False)[:args], **done)

    assert (spec.data, spec.requires_grad, spec.kind) == (data.value, grad, "Parameter")


def test_other_states_of_a_parameter_are_refused(file):
    """A dictionary would set attributes; hooks would be called."""
    for state in ({"data": 1}, (True, False), (True, False, {"hook": 1})):
        with pytest.raises(ForbiddenCallError):
            file.check(PARAMETER, file.tensor(), state=state)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(PARAMETER)
    assert caught.value.reason == "its argument is not a tensor"


def test_legacy_tensor_classes_are_rebuilt_from_their_state(file):
    """torch.FloatTensor() and a state; a size is not content (2 GiB of 30 bytes)."""
    state = (file.storage(12), 0, (3, 4), (4, 1))

    assert file.check("torch.FloatTensor", state=state).shape == (3, 4)
    assert file.check("torch.cuda.FloatTensor", state=state).shape == (3, 4)
    assert file.check("torch.FloatTensor").shape == (0,)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check("torch.LongTensor", state=state)
    assert caught.value.reason == "its storage holds float32"
    with pytest.raises(ForbiddenCallError) as caught:
        file.check("torch.FloatTensor", 2**29)
    assert caught.value.reason == "it is given 1 arguments"


def test_from_type_rebuilds_tensors_and_parameters_without_state(file):
    """The state, which torch sets attribute by attribute, is never looked at."""
    func = file.ref(V2)
    state = {"__class__": "anything"}

    tensor = file.check(FROM_TYPE, func, file.ref("torch.Tensor"), v2_args(file), state)
    assert type(tensor) is TensorSpec
    wrapped = file.check(
        FROM_TYPE, func, file.ref("torch.nn.Parameter"), v2_args(file, True), state
    )
    assert (type(wrapped), wrapped.requires_grad) == (ParameterSpec, True)


def test_from_type_refuses_functions_and_names_classes(file):
    """Only a rebuild function is used, never itself; a subclass is refused by name."""
    args = v2_args(file)
    for func in (file.ref(FROM_TYPE), file.ref("builtins.list"), "name"):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(FROM_TYPE, func, file.ref("torch.Tensor"), args, {})
        assert caught.value.reason == "its first argument does not rebuild a tensor"
    with pytest.raises(ForbiddenGlobalError) as refused:
        file.check(FROM_TYPE, file.ref(V2), file.ref("my.pkg.Sub"), args, {})
    assert refused.value.globals == (("my.pkg", "Sub", "archive/data.pkl", 117),)


def test_from_type_hands_the_tensor_to_what_stands_in(file):
    """Where refused names become opaque, the tensor inside stays reachable."""
    seen = []

    def stand_in(call, name):
        seen.append((name, call.args, call.state))
        return OpaqueSpec(name, call.args)

    file.ctx.refused = stand_in
    made = file.check(
        FROM_TYPE, file.ref(V2), file.ref("my.pkg.Sub"), v2_args(file), {"a": 1}
    )

    assert type(made) is OpaqueSpec
    ((name, args, state),) = seen
    assert (name, type(args[0]), state) == ("my.pkg.Sub", TensorSpec, {"a": 1})


def test_a_wrapper_subclass_is_refused_by_its_name(file):
    """Its content would come out of its own code."""
    rest = (file.ref("torch.float32"), (1,), (1,), 0, None, None, False)
    name = UTILS + "_rebuild_wrapper_subclass"

    with pytest.raises(ForbiddenGlobalError) as refused:
        file.check(name, file.ref("my.pkg.Sub"), *rest)
    assert refused.value.name == "Sub"
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(name, file.ref("torch.Tensor"), *rest)
    assert caught.value.name == name


def test_a_nested_file_is_read_by_the_format_layer(file):
    """Bytes of any protocol's spelling are handed on; reading twice is counted."""
    inside = StorageSpec("0", "float32", 4, 1, None)
    file.ctx.load_nested = lambda data, _: inside if data == b"abc" else None
    name = "torch.storage._load_from_bytes"

    assert file.check(name, b"abc") is inside
    assert file.check(name, file.made("_codecs.encode", "abc", "latin1")) is inside
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(name, 3)
    assert caught.value.reason == "its argument is not bytes"


def test_without_a_format_layer_nested_files_are_refused(file):
    """The default reads nothing."""
    with pytest.raises(ForbiddenCallError):
        file.check("torch.storage._load_from_bytes", b"abc")


def test_a_quantised_tensor_is_no_parameter_with_a_gradient(file):
    """Torch cannot make one either."""
    quantised = file.made(
        UTILS + "_rebuild_qtensor", file.storage(4, "qint8", 1), 0, (4,), (1,),
        (file.ref("torch.per_tensor_affine"), 0.5, 3), False, None,
    )  # fmt: skip
    assert type(quantised.value) is QuantizedSpec

    file.check(UTILS + "_rebuild_parameter", quantised, False, None)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(UTILS + "_rebuild_parameter", quantised, True, None)
    assert caught.value.reason == "a quantised tensor cannot require a gradient"
