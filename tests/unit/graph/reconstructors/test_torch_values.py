import pytest

from safemodel._graph.composite_specs import MappingSpec, SequenceSpec
from safemodel.errors import ForbiddenCallError, LimitExceededError

JIT = "torch.jit._pickle."


@pytest.mark.parametrize("sizes", [(1, 2), [1, 2], ()])
def test_a_size_is_a_tuple_of_integers(file, sizes):
    """From a tuple (torch today) or a list."""
    spec = file.check("torch.Size", sizes)

    assert (spec.kind, spec.value) == ("size", tuple(sizes))


def test_a_size_of_something_else_is_refused(file):
    """Neither one number, nor bools, nor more than 64 bits, nor too many."""
    for sizes in (3, (True,), (1 << 63,), ("1",)):
        with pytest.raises(ForbiddenCallError):
            file.check("torch.Size", sizes)
    with pytest.raises(LimitExceededError) as caught:
        file.check("torch.Size", (1,) * 65)
    assert (caught.value.limit, caught.value.requested) == ("max_dimensions", 65)


@pytest.mark.parametrize(
    ("args", "device"),
    [
        (("cpu",), ("cpu", None)),
        (("cuda", 1), ("cuda", 1)),
        (("cuda:127",), ("cuda", 127)),
        ((b"cpu",), ("cpu", None)),
        (("mps", None), ("mps", None)),
    ],
)
def test_a_device_is_a_type_and_an_index(file, args, device):
    """All spellings torch and Python 2 write."""
    assert file.check("torch.device", *args).value == device


@pytest.mark.parametrize(
    "args",
    [
        ("../../etc",), ("cuda", 128), ("cuda:128",), ("cuda:",), ("cuda:-1",),
        ("cuda:1", 1), ("cuda", True), (1,), ("cuda", -1), ("cuda:\u0661",), (),
        ("cuda:" + "1" * 5000,),
    ],
)  # fmt: skip
def test_what_torch_would_not_take_as_a_device_is_refused(file, args):
    """Foreign types, indices out of range, odd digits."""
    with pytest.raises(ForbiddenCallError):
        file.check("torch.device", *args)


def test_a_layout_is_named(file):
    """With torch's prefix; anything but a layout's name is refused."""
    spec = file.check("torch.serialization._get_layout", "torch.sparse_csr")

    assert (spec.kind, spec.value) == ("layout", "sparse_csr")
    for name in ("torch.load", "os.system", "", 3):
        with pytest.raises(ForbiddenCallError):
            file.check("torch.serialization._get_layout", name)


def test_a_version_is_text(file):
    """Row 16 of the names that break checkpoints, in both spellings of pickle."""
    name = "torch.torch_version.TorchVersion"

    assert file.check(name, "2.1.0+cu121", opcode=0x81) == "2.1.0+cu121"
    old = file.check(
        "copy_reg._reconstructor", file.ref(name), file.ref("__builtin__.str"), "1.13"
    )
    assert old == "1.13"
    for version in ("", "1 2", "x" * 101, 2, "\u0661"):
        with pytest.raises(ForbiddenCallError):
            file.check(name, version)
    with pytest.raises(ForbiddenCallError):
        file.check(name, "2.0", state={"__class__": 1})


def test_a_named_tuple_of_an_operator_is_a_tuple(file):
    """What torch.max(x, 0) returns; attributes beside the items are refused."""
    items = (file.tensor(), file.tensor())

    spec = file.check("torch.return_types.max", items, {})

    assert type(spec) is SequenceSpec
    assert (spec.kind, spec.elements) == ("tuple", items)
    for args in ((items, {"a": 1}), ([1],), (3, {})):
        with pytest.raises(ForbiddenCallError):
            file.check("torch.return_types.max", *args)


def test_lists_of_torchscript_lose_their_type(file):
    """build_intlist and its kin, restore_type_tag, build_tensor_from_id."""
    spec = file.check(JIT + "build_intlist", [1, 2])
    assert (spec.kind, spec.elements) == ("list", [1, 2])
    tagged = file.check(JIT + "restore_type_tag", {"a": 1}, "Dict[str, int]")
    assert type(tagged) is MappingSpec
    assert tagged.pairs == ["a", 1]
    assert file.check(JIT + "restore_type_tag", (1,), "Tuple[int]").kind == "tuple"
    assert file.check(JIT + "restore_type_tag", [1], "List[int]").kind == "list"
    assert file.check(JIT + "restore_type_tag", 3, "int") == 3
    assert file.check(JIT + "build_tensor_from_id", 7) == 7
    for name, args in (
        ("build_intlist", ((1,),)),
        ("restore_type_tag", ([1], 3)),
        ("build_tensor_from_id", ("7",)),
    ):
        with pytest.raises(ForbiddenCallError):
            file.check(JIT + name, *args)
