"""numpy arrays, scalars and random states.

Rules:

1. Class, shape, dtype and bytes are read, never a subclass's own code: an array is
   always a plain `numpy.ndarray`.
2. The product of the shape times the element size is the number of bytes, exactly.
3. Objects are elements of an array of dtype "O" and nothing else; a scalar or a field
   that is an object would be a pickle within the pickle.
4. Bytes that several arrays share are counted each time an array copies them.
5. Random states become dictionaries: nothing is seeded.
"""

from __future__ import annotations

from math import prod

from safemodel._graph.array_specs import (
    ArraySpec,
    NumpyDTypeSpec,
    ObjectArraySpec,
    ScalarSpec,
)
from safemodel._graph.composite_specs import MappingSpec, OpaqueSpec
from safemodel._graph.reconstructors.common import (
    INDEX_END,
    CheckContext,
    Entry,
    Table,
    arguments,
    global_name,
    integer,
    only_arguments,
    raw,
    ref_name,
    text,
    unedited,
)
from safemodel._graph.reconstructors.torch_values import sizes
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef
from safemodel.errors import StorageBoundsError

ARRAY_CLASSES = {
    ("numpy", name) for name in ("ndarray", "matrix", "recarray", "chararray")
}
_RANDOM = "numpy.random._pickle"
_MAX_GENERATOR_PAIRS = 6
_POINTER_BYTES = 8
_FIELD_COST = 32

BIT_GENERATORS = {
    "MT19937": "numpy.random._mt19937",
    "PCG64": "numpy.random._pcg64",
    "PCG64DXSM": "numpy.random._pcg64",
    "Philox": "numpy.random._philox",
    "SFC64": "numpy.random._sfc64",
}
"""Bit generators by name: the module of the class."""


def _shape(
    value: object, itemsize: int, call: Call, ctx: CheckContext
) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array and its number of elements."""
    shape = sizes((value,) if type(value) is int else value, call, ctx, "the shape")
    # What numpy multiplies: it leaves out axes of no length.
    product = max(itemsize, 1)
    for size in shape:
        if not 0 <= size < INDEX_END:
            ctx.refuse(call, "a size is out of range")
        product *= size or 1
    if product >= INDEX_END:
        ctx.refuse(call, "the number of elements is out of range")
    return shape, prod(shape)


def array_dtype(
    value: object, call: Call, ctx: CheckContext
) -> NumpyDTypeSpec | OpaqueSpec:
    """Return the dtype of an array; it is opaque where the class is not numpy's."""
    spec = ctx.value_of(value, call)
    if type(spec) is OpaqueSpec:
        return spec
    if type(spec) is not NumpyDTypeSpec:
        ctx.refuse(call, "its dtype is not a numpy.dtype")
    # Each field of each array is looked at, and many may share one dtype.
    _, fields = ctx.dtype_weight.get(id(spec), (0, 0))
    ctx.charge(_FIELD_COST * fields)
    return spec


def opaque_elements(name: str, call: Call) -> OpaqueSpec:
    """Return what stands for elements of a class that is not numpy's.

    Its dtype is opaque: that class has been refused already, or may be named.
    """
    state = None if call.state is UNCHECKED else call.state
    return OpaqueSpec(name, call.args, state=state)


def plain_array(
    dtype: NumpyDTypeSpec,
    value: object,
    layout: tuple[object, bool],
    call: Call,
    ctx: CheckContext,
) -> ArraySpec:
    """Return an array of bytes (rules 2 and 4)."""
    shape, count = _shape(layout[0], dtype.itemsize, call, ctx)
    if dtype.has_objects:
        ctx.refuse(call, "bytes are read as objects")
    # A view is of the file itself: no opcode makes one.
    if type(value) is memoryview:
        data: bytes | bytearray | memoryview = value
    else:
        data = raw(value, call, ctx, "its data")
    needed = count * dtype.itemsize
    if needed != len(data):
        raise StorageBoundsError(
            "numpy array",
            needed=needed,
            available=len(data),
            record=ctx.record,
            position=call.position,
        )
    # A sub-array dtype of no bytes would give axes without any data to bound them.
    if not dtype.itemsize:
        ctx.add_amplified(count)
    if type(data) is not memoryview:
        ctx.copy(data, len(data))
    spec = ArraySpec(dtype, shape, layout[1], data)
    ctx.specs.append(spec)
    return spec


def _object_array(
    value: object, layout: tuple[object, bool], call: Call, ctx: CheckContext
) -> ObjectArraySpec:
    """Return an array of objects, one list item an element (rule 3)."""
    shape, count = _shape(layout[0], _POINTER_BYTES, call, ctx)
    if type(value) is not list or len(value) != count:
        ctx.refuse(call, "objects are not a list of one item an element")
    ctx.copy(value, 8 * count)
    return ObjectArraySpec(shape, layout[1], value)


def check_reconstruct(call: Call, ctx: CheckContext) -> object:
    """_reconstruct(class, (0,), b"b"), then a state of (version, ... data)."""
    unedited(call, ctx)
    kind, shape, code = arguments(call, ctx, 3)
    if type(kind) is not GlobalRef:
        ctx.refuse(call, "its class is not a class")
    name = global_name(kind)
    if name not in ARRAY_CLASSES:
        return ctx.opaque_or_refuse(call, ref_name(kind))
    start = ctx.value_of(code, call)
    if shape != (0,) or text(start, call, ctx, "the kind") != "b":
        ctx.refuse(call, "it does not start from an empty array of bytes")
    state = call.state
    if type(state) is not tuple or len(state) not in (4, 5):
        ctx.refuse(call, "its state is not version, shape, dtype, order and data")
    if len(state) == 5:
        integer(state[0], call, ctx, "the version", 0, 2)
        state = state[1:]
    size, descr, fortran, data = state
    dtype = array_dtype(descr, call, ctx)
    if isinstance(dtype, OpaqueSpec):
        return opaque_elements("numpy.ndarray", call)
    if type(fortran) not in (bool, int) or fortran not in (0, 1):
        ctx.refuse(call, "the order is not a flag")
    layout = (size, fortran == 1)
    if dtype.descr == "|O" and type(data) is list:
        return _object_array(data, layout, call, ctx)
    return plain_array(dtype, data, layout, call, ctx)


def check_frombuffer(call: Call, ctx: CheckContext) -> object:
    """_frombuffer(bytes, dtype, shape, order), as protocol 5 writes arrays."""
    data, descr, shape, order = only_arguments(call, ctx, 4)
    if order not in ("C", "F"):
        ctx.refuse(call, "the order is neither C nor F")
    dtype = array_dtype(descr, call, ctx)
    if isinstance(dtype, OpaqueSpec):
        return opaque_elements("numpy.ndarray", call)
    return plain_array(dtype, data, (shape, order == "F"), call, ctx)


def check_scalar(call: Call, ctx: CheckContext) -> object:
    """scalar(dtype, bytes); rule 3."""
    descr, *rest = only_arguments(call, ctx, 1, 2)
    dtype = array_dtype(descr, call, ctx)
    if isinstance(dtype, OpaqueSpec):
        return opaque_elements("numpy.generic", call)
    if dtype.has_objects:
        ctx.refuse(call, "bytes are read as objects")
    data = raw(rest[0], call, ctx, "its data") if rest else b""
    if len(data) != dtype.itemsize:
        raise StorageBoundsError(
            "numpy scalar",
            needed=dtype.itemsize,
            available=len(data),
            record=ctx.record,
            position=call.position,
        )
    ctx.copy(data, len(data))
    spec = ScalarSpec(dtype, bytes(data))
    ctx.specs.append(spec)
    return spec


def _generator_name(value: object, call: Call, ctx: CheckContext) -> str:
    """Return the name of a bit generator given by name or class."""
    name = global_name(value)
    kind = name[1] if name else text(value, call, ctx, "the bit generator")
    if kind not in BIT_GENERATORS or (name and name[0] != BIT_GENERATORS[kind]):
        ctx.refuse(call, "not a bit generator of numpy")
    return kind


def check_bit_generator(call: Call, ctx: CheckContext) -> object:
    """__bit_generator_ctor(name or class), then its state; rule 5."""
    unedited(call, ctx)
    args = arguments(call, ctx, 0, 1)
    name = _generator_name(args[0], call, ctx) if args else "MT19937"
    state = None if call.state is UNCHECKED else call.state
    pairs = ["bit_generator", name, "state", state]
    if type(state) is tuple and len(state) == 2 and type(state[0]) is dict:
        pairs[3:] = [state[0], "seed_seq", state[1]]
    return MappingSpec("dict", pairs)


def check_random(call: Call, ctx: CheckContext) -> object:
    """__randomstate_ctor and __generator_ctor([bit generator[, function]]); rule 5."""
    unedited(call, ctx)
    args = arguments(call, ctx, 0, 1, 2)
    if len(args) == 2 and global_name(args[1]) != (_RANDOM, "__bit_generator_ctor"):
        ctx.refuse(call, "not the function that makes bit generators")
    inner = ctx.value_of(args[0], call) if args and type(args[0]) is Call else None
    state = None if call.state is UNCHECKED else call.state
    if inner is None:
        name = _generator_name(args[0], call, ctx) if args else "MT19937"
        return MappingSpec("dict", ["bit_generator", name, "state", state])
    # A dictionary that only looks like one could be long, and is copied here.
    if (
        type(inner) is not MappingSpec
        or inner.pairs[:1] != ["bit_generator"]
        or len(inner.pairs) > _MAX_GENERATOR_PAIRS
    ):
        ctx.refuse(call, "not a bit generator of numpy")
    if state is None:
        return MappingSpec("dict", list(inner.pairs))
    return MappingSpec("dict", [*inner.pairs[:2], "state", state])


def check_seed_sequence(call: Call, ctx: CheckContext) -> object:
    """__pyx_unpickle_SeedSequence(class, checksum, None), then its state; rule 5."""
    unedited(call, ctx)
    kind, _, state = arguments(call, ctx, 3)
    if global_name(kind) != ("numpy.random.bit_generator", "SeedSequence"):
        ctx.refuse(call, "not numpy's SeedSequence")
    if call.state is not UNCHECKED:
        state = call.state
    return MappingSpec("dict", ["seed_sequence", state])


_ARRAY = "shape x element size is the number of bytes"

CALLS: Table = {
    ("numpy._core.multiarray", "_reconstruct"): Entry(
        check_reconstruct, "numpy.ndarray", _ARRAY + "; objects one by one"
    ),
    ("numpy._core.numeric", "_frombuffer"): Entry(
        check_frombuffer, "numpy.ndarray", _ARRAY
    ),
    ("numpy._core.multiarray", "scalar"): Entry(
        check_scalar, "numpy scalar", "exactly its bytes, no objects"
    ),
    (_RANDOM, "__bit_generator_ctor"): Entry(
        check_bit_generator, "dict", "a bit generator of numpy, by name"
    ),
    (_RANDOM, "__generator_ctor"): Entry(
        check_random, "dict", "a bit generator of numpy, by name"
    ),
    (_RANDOM, "__randomstate_ctor"): Entry(
        check_random, "dict", "a bit generator of numpy, by name"
    ),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): Entry(
        check_seed_sequence, "dict", "the class SeedSequence"
    ),
}
