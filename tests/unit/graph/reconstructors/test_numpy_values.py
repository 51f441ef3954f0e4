import pytest

from safemodel._graph.array_specs import ArraySpec, ObjectArraySpec, ScalarSpec
from safemodel._graph.composite_specs import MappingSpec
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    StorageBoundsError,
)

OLD = "numpy.core.multiarray._reconstruct"
NEW = "numpy._core.multiarray._reconstruct"
RANDOM = "numpy.random._pickle."


def array(file, state, kind="numpy.ndarray", name=NEW, start=b"b"):
    return file.check(name, file.ref(kind), (0,), start, state=state)


@pytest.mark.parametrize("name", [OLD, NEW])
@pytest.mark.parametrize(
    "kind", ["numpy.ndarray", "numpy.matrix", "numpy.rec.recarray"]
)
def test_an_array_is_its_dtype_shape_and_bytes(file, name, kind):
    """Rows 7 and 8: both spellings; known subclasses become plain arrays."""
    spec = array(file, (1, (2, 1), file.dtype(), False, bytes(8)), kind, name)

    assert type(spec) is ArraySpec
    assert (spec.shape, spec.fortran, spec.data) == ((2, 1), False, bytes(8))
    assert spec.dtype.descr == "<f4"


def test_python_2_wrote_bytes_as_text(file):
    """One character a byte; text that is not is refused."""
    encoded = file.made("_codecs.encode", "\xff\x00\x80\x3f", "latin1")

    for data in ("\xff\x00\x80\x3f", encoded):
        spec = array(file, (1, (1,), file.dtype(), False, data), start="b")
        assert spec.data == b"\xff\x00\x80\x3f"
    with pytest.raises(ForbiddenCallError):
        array(file, (1, (1,), file.dtype(), False, "\u20ac\u20ac\u20ac\u20ac"))


@pytest.mark.parametrize(("size", "needed"), [(7, 8), (9, 8)])
def test_an_array_is_exactly_as_long_as_its_bytes(file, size, needed):
    """One byte fewer is a lie about the shape, one more hides something."""
    with pytest.raises(StorageBoundsError) as caught:
        array(file, (1, (2,), file.dtype(), False, bytes(size)))

    assert (caught.value.needed, caught.value.available) == (needed, size)


def test_objects_are_list_items_of_an_object_array(file):
    """Element by element; bytes are never objects, objects never fields."""
    dtype = file.dtype("O", "|")

    spec = array(file, (1, (2,), dtype, False, [None, "x"]))
    assert type(spec) is ObjectArraySpec
    assert (spec.shape, spec.elements) == ((2,), [None, "x"])
    for data in ([None], bytes(16), (None, "x")):
        with pytest.raises(ForbiddenCallError):
            array(file, (1, (2,), dtype, False, data))


def test_an_array_of_an_unknown_class_is_refused_by_name(file):
    """numpy.memmap would open a file."""
    with pytest.raises(ForbiddenGlobalError) as caught:
        array(file, (1, (1,), file.dtype(), False, bytes(4)), "numpy.memmap")

    assert (caught.value.module, caught.value.name) == ("numpy", "memmap")


@pytest.mark.parametrize(
    "state",
    [None, (), (1, (1,), "f4", False, b""), (3, (0,), None, False, b""), {"shape": 1}],
)
def test_a_state_that_is_not_an_arrays_is_refused(file, state):
    """Version, shape, dtype, order and data, and nothing else."""
    with pytest.raises(ForbiddenCallError):
        array(file, state)


def test_bytes_that_arrays_share_are_counted(new_file):
    """A memo lets two bytes of pickle name a megabyte, which every array copies."""
    file = new_file(1_000, min_amplified_bytes=1)
    data = bytes(2_000)

    for _ in range(3):
        array(file, (1, (500,), file.dtype(), False, data))
    with pytest.raises(LimitExceededError) as caught:
        array(file, (1, (500,), file.dtype(), False, data))

    assert (caught.value.limit, caught.value.requested) == ("max_amplification", 6_000)


def test_protocol_5_arrays(file):
    """_frombuffer(bytes, dtype, shape, order)."""
    name = "numpy._core.numeric._frombuffer"

    spec = file.check(name, bytearray(8), file.dtype(), (2, 1), "F")
    assert (spec.shape, spec.fortran) == ((2, 1), True)
    for order in ("K", "A", None):
        with pytest.raises(ForbiddenCallError) as caught:
            file.check(name, bytearray(8), file.dtype(), (2,), order)
        assert caught.value.reason == "the order is neither C nor F"


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_scalar_is_exactly_its_bytes(file, name):
    """Row 23; an object scalar would be a pickle in the pickle."""
    spec = file.check(name + ".scalar", file.dtype(), bytes(4))

    assert type(spec) is ScalarSpec
    assert (spec.dtype.descr, spec.data) == ("<f4", bytes(4))
    for size in (3, 5):
        with pytest.raises(StorageBoundsError):
            file.check(name + ".scalar", file.dtype(), bytes(size))
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(name + ".scalar", file.dtype("O", "|"), bytes(8))
    assert caught.value.reason == "bytes are read as objects"


@pytest.mark.parametrize(
    "name",
    [
        RANDOM + "__randomstate_ctor",
        "numpy.random.__RandomState_ctor",
        "numpy.random.mtrand.__RandomState_ctor",
        RANDOM + "__generator_ctor",
    ],
)
def test_a_random_state_is_a_dictionary(file, name):
    """All spellings; nothing is seeded."""
    state = ("MT19937", None, 624, 0, 0.0)

    assert file.check(name, state=state).pairs == [
        "bit_generator", "MT19937", "state", state,
    ]  # fmt: skip
    named = file.check(
        name, "PCG64", file.ref(RANDOM + "__bit_generator_ctor"), state={"a": 1}
    )
    assert named.pairs == ["bit_generator", "PCG64", "state", {"a": 1}]


def test_a_generator_around_a_bit_generator(file):
    """Numpy 1.24 and later: the state belongs to the bit generator."""
    inner = file.made(
        RANDOM + "__bit_generator_ctor",
        file.ref("numpy.random._pcg64.PCG64"),
        state=({"bit_generator": "PCG64"}, None),
    )

    spec = file.check(RANDOM + "__generator_ctor", inner)
    assert type(spec) is MappingSpec
    assert spec.pairs == [
        "bit_generator", "PCG64", "state", {"bit_generator": "PCG64"}, "seed_seq", None,
    ]  # fmt: skip
    own = file.check(RANDOM + "__randomstate_ctor", inner, state={"pos": 1})
    assert own.pairs == ["bit_generator", "PCG64", "state", {"pos": 1}]


def test_what_is_no_bit_generator_is_refused(file):
    """By name, by class, by function."""
    for args in (
        ("os.system",),
        (file.ref("builtins.list"),),
        (file.ref("numpy.random._mt19937.PCG64"),),
        (file.made("collections.OrderedDict"),),
        ("PCG64", file.ref("builtins.list")),
    ):
        with pytest.raises(ForbiddenCallError):
            file.check(RANDOM + "__generator_ctor", *args)


def test_a_seed_sequence_is_a_dictionary(file):
    """Its state is kept as it is."""
    name = "numpy.random.bit_generator.__pyx_unpickle_SeedSequence"
    kind = file.ref("numpy.random.bit_generator.SeedSequence")

    assert file.check(name, kind, 1, None, state=(3,)).pairs == ["seed_sequence", (3,)]
    with pytest.raises(ForbiddenCallError):
        file.check(name, file.ref("numpy.ndarray"), 1, None)
