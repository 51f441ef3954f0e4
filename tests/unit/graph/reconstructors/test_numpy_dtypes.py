import pytest

from safemodel.errors import ForbiddenCallError, LimitExceededError

FIELDS = (3, "|", None, ("a", "b"))


@pytest.mark.parametrize(
    ("code", "order", "descr", "itemsize"),
    [
        ("f4", "<", "<f4", 4), ("f8", ">", ">f8", 8), ("b1", "|", "|b1", 1),
        ("i1", "<", "|i1", 1), ("c16", "=", "<c16", 16), ("u2", "<", "<u2", 2),
    ],
)  # fmt: skip
def test_a_plain_dtype_is_kind_size_and_order(file, code, order, descr, itemsize):
    """Row 6; single bytes have no order."""
    spec = file.dtype(code, order).value

    assert (spec.descr, spec.itemsize, spec.has_objects) == (descr, itemsize, False)


@pytest.mark.parametrize(
    ("code", "size", "descr"), [("U5", 20, "<U5"), ("S3", 3, "|S3"), ("V8", 8, "|V8")]
)
def test_a_flexible_dtype_has_the_size_its_state_gives(file, code, size, descr):
    """Text counts four bytes a character."""
    spec = file.dtype(code, "<", size).value

    assert (spec.descr, spec.itemsize) == (descr, size)


def test_flags_of_old_versions_and_missing_states(file):
    """Numpy once wrote 0 and 1; a dtype without BUILD is little-endian."""
    assert file.check("numpy.dtype", "f4", 0, 1).descr == "<f4"
    assert file.check("numpy.dtype", "O8", 0, 1).has_objects is True
    for args in (("f4", 2, 1), ("f4", "no", True), ("U5", False, True), ()):
        with pytest.raises(ForbiddenCallError):
            file.check("numpy.dtype", *args)


@pytest.mark.parametrize(
    "code", ["f3", "x4", "os.system", "", "V99999999999", "(2,)f4", "f4,f4", 4, None]
)
def test_a_code_that_numpy_does_not_write_is_refused(file, code):
    """The grammar is a table and three flexible kinds."""
    with pytest.raises(ForbiddenCallError):
        file.dtype(code)


@pytest.mark.parametrize(
    "state",
    [
        (5, "<", None, None, None, -1, -1, 0),
        (3, "<", None, None, None, 8, -1, 0),
        (3, "x", None, None, None, -1, -1, 0),
        (3, "<", None, None, None, -1, -1),
        (3, "<", None, ("a",), {}, -1, -1, 0),
        (4, "<", None, None, None, -1, -1, 0, "h5"),
        (3, "<", None, None, None, -1, 1 << 31, 0),
        None,
        {},
    ],
)
def test_a_state_that_disagrees_is_refused(file, state):
    """Other versions, sizes, orders, fields of a number, metadata."""
    with pytest.raises(ForbiddenCallError):
        file.check("numpy.dtype", "f4", False, True, state=state)


@pytest.mark.parametrize("metadata", [{}, {"vlen": "str"}])
def test_metadata_is_dropped(file, metadata):
    """Version 4; h5py marks texts with it."""
    state = (4, "<", None, None, None, -1, -1, 0, metadata)

    assert file.check("numpy.dtype", "f4", False, True, state=state).descr == "<f4"


@pytest.mark.parametrize(
    ("unit", "descr"),
    [
        (("s", 25, 1, 1), "<M8[25s]"),
        ((b"D", 1, 1, 1), "<M8[D]"),
        (("generic", 1, 1, 1), "<M8"),
        (("\u03bcs", 1, 1, 1), "<M8[us]"),
    ],
)
def test_dates_have_a_unit(file, unit, descr):
    """The unit sits in the metadata, and nothing beside it."""
    state = (4, "<", None, None, None, -1, -1, 0, (None, unit))

    assert file.check("numpy.dtype", "M8", False, True, state=state).descr == descr


def test_a_unit_written_by_protocol_2(file):
    """Bytes are the result of a call there."""
    unit = file.made("_codecs.encode", "ns", "latin1")
    state = (4, "<", None, None, None, -1, -1, 0, ({}, (unit, 1, 1, 1)))

    assert file.check("numpy.dtype", "m8", False, True, state=state).descr == "<m8[ns]"


@pytest.mark.parametrize(
    "metadata",
    [({"a": 1}, ("s", 1, 1, 1), 2), (None, ("eval", 1, 1, 1)), (None, ("s", 0, 1, 1)),
     (None, ("s", 1, 2, 1)), (None, "s"), "s"],
)  # fmt: skip
def test_a_date_of_another_unit_is_refused(file, metadata):
    """Only numpy's own units, counted from one."""
    state = (4, "<", None, None, None, -1, -1, 0, metadata)

    with pytest.raises(ForbiddenCallError):
        file.check("numpy.dtype", "M8", False, True, state=state)


def structure(file, fields, size=8, names=("a", "b")):
    state = (3, "|", None, names, fields, size, 1, 16)
    return file.check("numpy.dtype", f"V{size}", False, True, state=state)


def test_fields_lie_inside_their_dtype(file):
    """The last byte may be used, the one after it may not."""
    part = file.dtype()

    spec = structure(file, {"a": (part, 0), "b": (part, 4, "title")})
    assert spec.fields == (("a", part.value, 0), ("b", part.value, 4))
    for fields in (
        {"a": (part, 0), "b": (part, 5)},
        {"a": (part, -1), "b": (part, 0)},
        {"a": (part, 0)},
        {"a": ("f4", 0), "b": (part, 4)},
        {"a": [part, 0], "b": (part, 4)},
        None,
    ):
        with pytest.raises(ForbiddenCallError):
            structure(file, fields)
    with pytest.raises(ForbiddenCallError) as caught:
        structure(file, {"a": (part, 0)}, 8, ("a", "a"))
    assert caught.value.reason == "two fields of one name"


def test_a_field_of_objects_makes_a_dtype_of_objects(file):
    """Which no array of bytes may have."""
    part = file.dtype("O", "|")

    assert structure(file, {"a": (part, 0)}, 8, ("a",)).has_objects is True


def test_a_sub_array_fills_its_dtype(file):
    """2 x 3 floats are 24 bytes."""
    base = file.dtype()

    def check(size, shape):
        state = (3, "|", (base, shape), None, None, size, 4, 0)
        return file.check("numpy.dtype", f"V{size}", False, True, state=state)

    assert check(24, (2, 3)).subshape == (2, 3)
    assert check(8, 2).subshape == (2,)
    for size, shape in ((23, (2, 3)), (24, (-2, -3)), (24, (6, True)), (4, (1,) * 65)):
        with pytest.raises(ForbiddenCallError):
            check(size, shape)


def test_depth_of_dtypes_is_bounded(new_file):
    """Building nests as deep as the file says, so the file may not say much."""
    file = new_file(max_dimensions=3)
    part = file.dtype()
    for _ in range(2):
        part = file.made(
            "numpy.dtype", "V4", False, True,
            state=(3, "|", None, ("a",), {"a": (part, 0)}, 4, 1, 0),
        )  # fmt: skip
    with pytest.raises(LimitExceededError) as caught:
        structure(file, {"a": (part, 0)}, 4, ("a",))

    assert (caught.value.limit, caught.value.requested) == ("max_dimensions", 4)


def test_shared_fields_may_not_double_at_each_level(file):
    """Written out in full they are at most as many as the file has bytes."""

    def doubled(part):
        fields = {"a": (part, 0), "b": (part, 0)}
        state = (3, "|", None, ("a", "b"), fields, 4, 1, 0)
        return file.made("numpy.dtype", "V4", False, True, state=state)

    part = file.dtype()
    for _ in range(8):
        part = doubled(part)
    with pytest.raises(ForbiddenCallError) as caught:
        doubled(part)

    assert "written out" in caught.value.reason


@pytest.mark.parametrize(
    ("name", "descr"),
    [
        ("numpy.float32", "<f4"),
        ("numpy.bool_", "|b1"),
        ("numpy.dtypes.Int64DType", "<i8"),
    ],
)
def test_a_scalar_class_alone_is_its_dtype(file, name, descr):
    """As a value in a configuration, say."""
    assert file.ref(name).value.descr == descr
