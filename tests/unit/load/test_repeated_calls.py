"""A call that a memo repeats: five bytes each, so what it makes is counted."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from safemodel import Limits, safe_load
from safemodel.errors import (
    ForbiddenCallError,
    LimitExceededError,
    MalformedFileError,
)

CALLS = 5000
FEW = {"min_object_bytes": 1 << 20}


def named(module: str, name: str) -> bytes:
    """Return the opcode that names a global."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """Return text as an opcode."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tuple_of(*parts: bytes) -> bytes:
    """Return the opcodes of a tuple."""
    return b"(" + b"".join(parts) + b"t"


def ints(*numbers: int) -> bytes:
    """Return the opcodes of a tuple of integers."""
    return tuple_of(*(b"J" + struct.pack("<i", number) for number in numbers))


def repeated(
    target: bytes, args: bytes, state: bytes = b"", count: int = CALLS
) -> bytes:
    """Return a pickle of a list of one call's results, all from the same arguments."""
    head = b"\x80\x02" + target + b"q\x000" + args + b"q\x010"
    unit = b"h\x00h\x01R"
    if state:
        head += state + b"q\x020"
        unit += b"h\x02b"
    return head + b"](" + unit * count + b"e."


def archive(pickle: bytes, **storages: bytes) -> bytes:
    """Return a torch archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("archive/data.pkl", pickle)
        for key, content in storages.items():
            target.writestr(f"archive/data/{key[1:]}", content)
    return stream.getvalue()


def storage(kind: str, key: int, numel: int) -> bytes:
    """Return the opcodes of a storage."""
    count = b"J" + struct.pack("<i", numel)
    pid = tuple_of(
        text("storage"), named("torch", kind), text(str(key)), text("cpu"), count
    )
    return pid + b"Q"


def tensor(
    kind: str, key: int, numel: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    """Return the opcodes of a tensor."""
    hooks = named("collections", "OrderedDict") + b")R"
    args = (storage(kind, key, numel), b"K\x00", ints(*shape), ints(*stride))
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(*args, b"\x89", hooks)
        + b"R"
    )


F8 = named("numpy", "dtype") + tuple_of(text("f8")) + b"R"
EMPTY = (named("numpy", "ndarray"), ints(0), b"C\x01b")
MANY_AXES = ints(*[1] * 64)
PICKLES = {
    "decimal": repeated(named("decimal", "Decimal"), tuple_of(text("1" * 4000))),
    "fraction": repeated(
        named("fractions", "Fraction"), tuple_of(text(f"{3**4000}/{7**2200}"))
    ),
    "size": repeated(named("torch", "Size"), tuple_of(MANY_AXES)),
    "deque": repeated(named("collections", "deque"), b")"),
    "array": repeated(
        named("numpy._core.multiarray", "_reconstruct"),
        tuple_of(*EMPTY),
        tuple_of(b"K\x01", ints(*[0] * 64), F8, b"\x89", b"C\x00"),
    ),
    "meta": repeated(
        named("torch._utils", "_rebuild_meta_tensor_no_storage"),
        tuple_of(named("torch", "float32"), MANY_AXES, MANY_AXES, b"\x89"),
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_what_a_repeated_call_makes_is_counted(name: str) -> None:
    """Each took 160 to 570 bytes of memory a byte of pickle, a hundred are promised."""
    for weights_only in (True, False):
        with pytest.raises(LimitExceededError) as caught:
            safe_load(PICKLES[name], weights_only=weights_only, limits=Limits(**FEW))
        assert caught.value.limit == "max_object_bytes"


def test_tensors_of_a_repeated_call_are_counted_used_or_not() -> None:
    """Dropped from the stack, they are built all the same."""
    args = tuple_of(
        storage("FloatStorage", 0, 4), b"K\x00", ints(4), ints(1), b"\x89", b"N"
    )
    used = repeated(named("torch._utils", "_rebuild_tensor_v2"), args)
    dropped = used.replace(b"h\x00h\x01R", b"h\x00h\x01R0").replace(b"](", b"N")
    for pickle in (used, dropped[:-2] + b"."):
        with pytest.raises(LimitExceededError) as caught:
            safe_load(archive(pickle, s0=bytes(16)), limits=Limits(**FEW))
        assert caught.value.limit == "max_object_bytes"


def test_a_few_repeated_calls_are_nothing_to_refuse() -> None:
    """What the default limits leave room for."""
    for name in ("deque", "size"):
        assert len(safe_load(PICKLES[name])) == CALLS


CHANNELS = 4096
SPARSE = tuple_of(
    named("torch", "sparse_coo"),
    tuple_of(
        tensor("LongStorage", 0, CHANNELS, (1, CHANNELS), (CHANNELS, 1)),
        tensor("FloatStorage", 1, CHANNELS, (CHANNELS,), (1,)),
        ints(CHANNELS),
        b"\x89",
    ),
)
SCALES = tensor("FloatStorage", 1, CHANNELS, (CHANNELS,), (1,))
ZEROS = tensor("IntStorage", 2, CHANNELS, (CHANNELS,), (1,))
QUANTISED = tuple_of(
    storage("QInt8Storage", 3, 1),
    b"K\x00",
    ints(CHANNELS, 0),
    ints(0, 0),
    tuple_of(named("torch", "per_channel_affine"), SCALES, ZEROS, b"K\x00"),
    b"\x89",
    b"N",
)
ROWS = tensor("LongStorage", 0, CHANNELS, (CHANNELS // 2, 2), (2, 1))
NESTED = tuple_of(
    tensor("FloatStorage", 1, CHANNELS, (CHANNELS,), (1,)),
    ROWS,
    ROWS,
    tensor("LongStorage", 0, CHANNELS, (CHANNELS // 2,), (1,)),
)
PARTS = {
    "s0": struct.pack(f"<{CHANNELS}q", *range(CHANNELS)),
    "s1": struct.pack(f"<{CHANNELS}f", *[1.0] * CHANNELS),
    "s2": bytes(4 * CHANNELS),
    "s3": b"\0",
}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("_rebuild_sparse_tensor", SPARSE),
        ("_rebuild_qtensor", QUANTISED),
        ("_rebuild_nested_tensor", NESTED),
    ],
)
def test_numbers_that_are_looked_at_again_and_again_are_counted(
    name: str, args: bytes
) -> None:
    """Proving the same indices for each of many tensors took quadratic time."""
    data = archive(repeated(named("torch._utils", name), args, count=500), **PARTS)

    with pytest.raises(LimitExceededError) as caught:
        safe_load(data, limits=Limits(min_amplified_bytes=1 << 20))

    assert caught.value.limit == "max_amplification"


def test_indices_that_are_expanded_are_refused() -> None:
    """Proving them would spell out what the file does not hold."""
    indices = tensor("LongStorage", 0, CHANNELS, (2, CHANNELS), (0, 1))
    args = tuple_of(
        named("torch", "sparse_coo"),
        tuple_of(indices, SCALES, ints(CHANNELS, CHANNELS), b"\x89"),
    )
    call = named("torch._utils", "_rebuild_sparse_tensor") + args + b"R"

    with pytest.raises(ForbiddenCallError, match="expanded"):
        safe_load(archive(b"\x80\x02" + call + b".", **PARTS))


def test_fields_of_a_dtype_count_for_each_array_of_it() -> None:
    """A million fields in few bytes, looked at once an array."""
    dtype = named("numpy", "dtype")
    fields = dtype + tuple_of(text("b1")) + b"R"
    for _ in range(14):
        pair = b"q\x05" + text("a") + b"h\x05K\x00\x86s"
        both = pair + text("b") + b"h\x05K\x00\x86s"
        state = tuple_of(
            b"K\x03", text("|"), b"N", tuple_of(text("a"), text("b")),
            b"}" + both[2:], b"K\x01", b"K\x01", b"K\x00",
        )  # fmt: skip
        fields += b"q\x050" + dtype + tuple_of(text("V1")) + b"R" + state + b"b"
    pickle = repeated(
        named("numpy._core.multiarray", "_reconstruct"),
        tuple_of(*EMPTY),
        tuple_of(b"K\x01", ints(1), fields, b"\x89", b"C\x01\x02"),
        count=100,
    )
    padded = pickle + bytes(1 << 16)

    with pytest.raises(LimitExceededError) as caught:
        safe_load(padded)

    assert caught.value.limit == "max_object_bytes"


def test_a_signalling_nan_is_no_key() -> None:
    """It is the one number that cannot be hashed."""
    nan = named("decimal", "Decimal") + text("sNaN") + b"\x85R"

    assert str(safe_load(b"\x80\x02" + nan + b".")) == "sNaN"
    for keyed in (
        b"}" + nan + b"Ns",
        named("collections", "OrderedDict") + b")R" + nan + b"Ns",
    ):
        with pytest.raises(MalformedFileError, match="Decimal cannot be a key"):
            safe_load(b"\x80\x02" + keyed + b".")


def test_an_array_of_text_may_have_every_axis_there_is() -> None:
    """Characters are one axis more while they are looked at."""
    size = tuple_of(b"K\x03", text("<"), b"NNN", b"K\x04", b"K\x04", b"K\x00")
    dtype = named("numpy", "dtype") + tuple_of(text("U1")) + b"R" + size + b"b"
    state = tuple_of(b"K\x01", MANY_AXES, dtype, b"\x89", b"C\x04a\0\0\0")
    array = named("numpy._core.multiarray", "_reconstruct") + tuple_of(*EMPTY)

    built = safe_load(b"\x80\x02" + array + b"R" + state + b"b.")

    assert built.shape == (1,) * 64
    assert built.item() == "a"


def test_an_array_of_objects_is_no_larger_than_numpy_can_count() -> None:
    """Axes of no length leave the others to be multiplied."""
    dtype = named("numpy", "dtype") + tuple_of(text("O")) + b"R"
    long = b"\x8a\x08" + (1 << 61).to_bytes(8, "little")
    state = tuple_of(b"K\x01", tuple_of(b"K\x00", long), dtype, b"\x89", b"]")
    array = named("numpy._core.multiarray", "_reconstruct") + tuple_of(*EMPTY)

    with pytest.raises(ForbiddenCallError, match="out of range"):
        safe_load(b"\x80\x02" + array + b"R" + state + b"b.")
