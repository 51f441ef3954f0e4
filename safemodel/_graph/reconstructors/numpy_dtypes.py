"""numpy dtypes: `numpy.dtype(text, False, True)` and the state BUILD gives it.

Rules:

1. Text is a kind and a size of the table below; everything else about a dtype comes
   from its state, and what both say must agree.
2. Fields lie inside their dtype; sizes are below 2**31, as numpy's are.
3. Dtypes within dtypes are counted as if written out in full, and that is at most the
   file's size: shared fields could double at each level.
4. Metadata is dropped: numpy never looks at it. A class of somebody else's that
   stands for a dtype is for the policy, as is an array of such elements.
"""

from __future__ import annotations

import re
from functools import partial

from safemodel._graph.array_specs import NumpyDTypeSpec
from safemodel._graph.reconstructors.common import (
    CheckContext,
    Entry,
    Table,
    ValueEntry,
    arguments,
    global_name,
    integer,
    ref_name,
    text,
    unedited,
)
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef
from safemodel.errors import LimitExceededError, quote

_SIZE_END = 1 << 31
_FIELD_BYTES = 256

FIXED = {
    "b1": 1, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "u8": 8,
    "f2": 2, "f4": 4, "f8": 8, "f16": 16, "c8": 8, "c16": 16, "c32": 32,
    "M8": 8, "m8": 8, "O": 8, "O4": 8, "O8": 8,
}  # fmt: skip
"""Kinds with a fixed size, as numpy writes them: bytes an element."""

FLEXIBLE = re.compile(r"([SUV])([0-9]{1,10})", re.ASCII)
UNITS = frozenset(
    ("generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
)
_ALIGNED = 0x80
_RECORD = ("numpy", "record")

_CLASSES = {
    "bool_": "|b1", "bool": "|b1", "int8": "|i1", "int16": "<i2", "int32": "<i4",
    "int64": "<i8", "intc": "<i4", "intp": "<i8", "int_": "<i8", "longlong": "<i8",
    "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8",
    "uintc": "<u4", "uintp": "<u8", "uint": "<u8", "ulonglong": "<u8",
    "float16": "<f2", "float32": "<f4", "float64": "<f8", "float_": "<f8",
    "complex64": "<c8", "complex128": "<c16", "complex_": "<c16",
    "half": "<f2", "single": "<f4", "double": "<f8",
}  # fmt: skip
"""Scalar classes: as values they become the dtype they stand for."""

_DTYPE_CLASSES = {
    "BoolDType": "|b1", "Int8DType": "|i1", "Int16DType": "<i2", "Int32DType": "<i4",
    "Int64DType": "<i8", "UInt8DType": "|u1", "UInt16DType": "<u2",
    "UInt32DType": "<u4", "UInt64DType": "<u8", "Float16DType": "<f2",
    "Float32DType": "<f4", "Float64DType": "<f8", "Complex64DType": "<c8",
    "Complex128DType": "<c16", "LongLongDType": "<i8", "ULongLongDType": "<u8",
}  # fmt: skip


def simple_dtype(descr: str) -> NumpyDTypeSpec:
    """Return a new spec of a dtype without fields, such as "<f4"."""
    return NumpyDTypeSpec(descr, FIXED[descr[1:]])


def check_dtype(call: Call, ctx: CheckContext) -> object:
    """numpy.dtype(text[, align, copy]) and its state."""
    unedited(call, ctx)
    kind = call.args[0] if call.args else None
    name = global_name(kind)
    if type(kind) is GlobalRef and name != _RECORD and name not in VALUES:
        return ctx.opaque_or_refuse(call, ref_name(kind))
    code = _code(call, ctx)
    state = call.state
    if state is UNCHECKED:
        if code not in FIXED:
            ctx.refuse(call, "a dtype of no size")
        state = (3, "<", None, None, None, -1, -1, 0)
    if type(state) is not tuple or len(state) not in (8, 9) or state[0] not in (3, 4):
        ctx.refuse(call, "its state is not of version 3 or 4")
    spec = _from_state(code, state, call, ctx)
    _weigh(spec, call, ctx)
    ctx.specs.append(spec)
    return spec


def _code(call: Call, ctx: CheckContext) -> str:
    """Return kind and size the call gives (rule 1)."""
    value, *flags = arguments(call, ctx, 1, 2, 3)
    for switch in flags:
        if type(switch) not in (bool, int) or switch not in (0, 1):
            ctx.refuse(call, "align or copy is not a flag")
    if global_name(value) == _RECORD:
        return "V0"
    code = text(value, call, ctx, "the dtype")
    if code not in FIXED and not FLEXIBLE.fullmatch(code):
        ctx.refuse(call, f"not a dtype: {quote(code)}")
    return code


def _from_state(
    code: str, state: tuple[object, ...], call: Call, ctx: CheckContext
) -> NumpyDTypeSpec:
    """Return the dtype that text and state describe together."""
    _, order, base, names, fields, elsize, alignment, flags = state[:8]
    order = text(order, call, ctx, "the byte order")
    if order not in ("<", ">", "=", "|"):
        ctx.refuse(call, f"not a byte order: {quote(order)}")
    size = integer(elsize, call, ctx, "the element size", -1, _SIZE_END)
    integer(alignment, call, ctx, "the alignment", -1, _SIZE_END)
    bits = integer(flags, call, ctx, "the flags", -128, 256) & 0xFF
    unit = _metadata(code, state[8] if len(state) == 9 else None, call, ctx)
    mark = ">" if order == ">" else "<"
    kind = code[0]
    if kind == "O":
        spec = NumpyDTypeSpec("|O", 8)
        spec.has_objects = True
    elif code in FIXED:
        itemsize = FIXED[code]
        spec = NumpyDTypeSpec(("|" if itemsize == 1 else mark) + code + unit, itemsize)
        if size not in (-1, itemsize):
            ctx.refuse(call, f"{code} elements of {size} bytes")
    else:
        width = 4 if kind == "U" else 1
        if size < 0:
            size = int(code[1:]) * width
        if size >= _SIZE_END or size % width:
            ctx.refuse(call, f"{quote(code)} elements of {size} bytes")
        mark = mark if kind == "U" else "|"
        spec = NumpyDTypeSpec(f"{mark}{kind}{size // width}", size)
    if (base is not None or names or fields) and kind != "V":
        ctx.refuse(call, f"fields of a {code}")
    if base is not None:
        _subarray(spec, base, call, ctx)
    elif names is not None or fields is not None:
        _structure(spec, names, fields, call, ctx)
        spec.aligned = bool(bits & _ALIGNED)
    return spec


def _metadata(code: str, value: object, call: Call, ctx: CheckContext) -> str:
    """Return the unit of a date dtype as text; nothing else is read (rule 4)."""
    if value is None:
        return ""
    if code not in ("M8", "m8"):
        if type(value) is not dict:
            ctx.refuse(call, "its metadata is not a dictionary")
        return ""
    if type(value) is not tuple or len(value) != 2:
        ctx.refuse(call, "its metadata is not that of a date")
    parts = value[1]
    if type(parts) is not tuple or len(parts) not in (2, 4):
        ctx.refuse(call, "its unit is not a tuple")
    unit = text(parts[0], call, ctx, "the unit")
    if unit == "\N{GREEK SMALL LETTER MU}s":
        unit = "us"
    count = integer(parts[1], call, ctx, "the unit", 1, _SIZE_END)
    if unit not in UNITS or any(
        type(part) is not int or part not in (0, 1) for part in parts[2:]
    ):
        ctx.refuse(call, f"not a unit: {quote(unit)}")
    if unit == "generic":
        return ""
    return f"[{unit}]" if count == 1 else f"[{count}{unit}]"


def _part(value: object, call: Call, ctx: CheckContext) -> NumpyDTypeSpec:
    """Return a dtype within a dtype."""
    spec = ctx.value_of(value, call)
    if type(spec) is not NumpyDTypeSpec:
        ctx.refuse(call, "a field is not a dtype")
    return spec


def _subarray(
    spec: NumpyDTypeSpec, base: object, call: Call, ctx: CheckContext
) -> None:
    """Fill in base dtype and shape of a sub-array."""
    if type(base) is not tuple or len(base) != 2:
        ctx.refuse(call, "its sub-array is not a pair")
    spec.base = _part(base[0], call, ctx)
    shape = base[1] if type(base[1]) is tuple else (base[1],)
    if len(shape) > ctx.limits.max_dimensions:
        ctx.refuse(call, "a sub-array of too many axes")
    size = spec.base.itemsize
    for length in shape:
        size *= integer(length, call, ctx, "a length", 0, _SIZE_END)
    spec.subshape = shape
    spec.has_objects = spec.base.has_objects
    if size != spec.itemsize:
        ctx.refuse(call, f"a sub-array of {size} bytes in {spec.itemsize}")


def _structure(
    spec: NumpyDTypeSpec, names: object, fields: object, call: Call, ctx: CheckContext
) -> None:
    """Fill in the fields; each lies inside the dtype (rule 2)."""
    if type(names) is not tuple or type(fields) is not dict:
        ctx.refuse(call, "names and fields are not a tuple and a dictionary")
    # A memo lets the same state make any number of dtypes, of all its fields each.
    ctx.copy(names, _FIELD_BYTES * len(names))
    triples = []
    for raw_name in names:
        name = text(raw_name, call, ctx, "a field's name")
        field = fields.get(raw_name)
        if type(field) is not tuple or len(field) not in (2, 3):
            ctx.refuse(call, f"no field {quote(name)}")
        part = _part(field[0], call, ctx)
        offset = integer(field[1], call, ctx, "an offset", 0, _SIZE_END)
        if offset + part.itemsize > spec.itemsize:
            ctx.refuse(call, f"field {quote(name)} reaches past its dtype")
        spec.has_objects = spec.has_objects or part.has_objects
        triples.append((name, part, offset))
    if len({name for name, _, _ in triples}) != len(triples):
        ctx.refuse(call, "two fields of one name")
    spec.fields = tuple(triples)


def _weigh(spec: NumpyDTypeSpec, call: Call, ctx: CheckContext) -> None:
    """Bound depth and written-out size of dtypes within dtypes (rule 3)."""
    parts = [part for _, part, _ in spec.fields or ()]
    if spec.base is not None:
        parts.append(spec.base)
    if not parts:
        return
    weights = [ctx.dtype_weight.get(id(part), (1, 1)) for part in parts]
    depth = 1 + max(deep for deep, _ in weights)
    size = 1 + sum(wide for _, wide in weights)
    limits = ctx.limits
    if depth > limits.max_dimensions:
        raise LimitExceededError(
            "max_dimensions", allowed=limits.max_dimensions, requested=depth
        )
    if size > max(ctx.byte_count, limits.max_dimensions):
        ctx.refuse(call, "its fields, written out, are more than the file's bytes")
    ctx.dtype_weight[id(spec)] = (depth, size)


CALLS: Table = {
    ("numpy", "dtype"): Entry(
        check_dtype,
        "numpy.dtype",
        "a kind and size numpy has, fields inside it; metadata dropped",
    )
}

VALUES: dict[tuple[str, str], ValueEntry] = {
    **{
        ("numpy", name): ValueEntry(partial(simple_dtype, descr), "numpy.dtype")
        for name, descr in _CLASSES.items()
    },
    **{
        ("numpy.dtypes", name): ValueEntry(partial(simple_dtype, descr), "numpy.dtype")
        for name, descr in _DTYPE_CLASSES.items()
    },
}
