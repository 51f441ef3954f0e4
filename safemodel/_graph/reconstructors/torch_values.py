"""Small torch values: dtypes, layouts, sizes, devices, versions, named tuples.

The dtype tables are here as well: everything that has elements needs them.
"""

from __future__ import annotations

import re
from functools import partial

from safemodel._graph.composite_specs import MappingSpec, SequenceSpec
from safemodel._graph.reconstructors.common import (
    INT64_END,
    CheckContext,
    Entry,
    Table,
    ValueEntry,
    arguments,
    integer,
    only_arguments,
    text,
    unedited,
)
from safemodel._graph.specs import TorchValueSpec
from safemodel._unpickle.nodes import UNCHECKED, Call
from safemodel.errors import LimitExceededError, quote

DTYPE_ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
    "bits16": 2, "bits8": 1, "bits4x2": 1, "bits2x4": 1, "bits1x8": 1,
    "qint32": 4, "qint8": 1, "quint8": 1, "quint4x2": 1, "quint2x4": 1,
    **{f"{sign}int{width}": 1 for sign in ("u", "") for width in range(1, 8)},
}  # fmt: skip
"""Every dtype torch 2.13 has, by its name without prefix, with bytes an element."""

DIFFERENTIABLE = frozenset(
    name for name in DTYPE_ITEMSIZE if name.startswith(("float", "bfloat", "complex"))
)
"""Dtypes that can require a gradient."""

QUANTIZED = frozenset({"qint8", "quint8", "qint32", "quint4x2", "quint2x4"})

PACKED = {"quint4x2": 2, "quint2x4": 4}
"""Elements in one element of the storage, where that is not one."""

STORAGE_DTYPES = {
    name: (dtype, DTYPE_ITEMSIZE[dtype])
    for name, dtype in (
        ("DoubleStorage", "float64"), ("FloatStorage", "float32"),
        ("HalfStorage", "float16"), ("BFloat16Storage", "bfloat16"),
        ("LongStorage", "int64"), ("IntStorage", "int32"), ("ShortStorage", "int16"),
        ("CharStorage", "int8"), ("ByteStorage", "uint8"), ("BoolStorage", "bool"),
        ("ComplexDoubleStorage", "complex128"), ("ComplexFloatStorage", "complex64"),
        ("QInt8Storage", "qint8"), ("QUInt8Storage", "quint8"),
        ("QInt32Storage", "qint32"), ("QUInt4x2Storage", "quint4x2"),
        ("QUInt2x4Storage", "quint2x4"), ("UntypedStorage", "uint8"),
    )
}  # fmt: skip
"""Storage classes, by name without module: (dtype, bytes an element)."""

TENSOR_DTYPES = {
    name.replace("Storage", "Tensor"): dtype
    for name, (dtype, _) in STORAGE_DTYPES.items()
    if dtype not in QUANTIZED and name != "UntypedStorage"
}
"""Legacy tensor classes, by name without module."""

LAYOUTS = (
    "strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc",
    "_mkldnn", "jagged",
)  # fmt: skip
MEMORY_FORMATS = (
    "contiguous_format", "preserve_format", "channels_last", "channels_last_3d",
)  # fmt: skip
QSCHEMES = (
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
    "per_channel_symmetric", "per_channel_affine_float_qparams",
)  # fmt: skip

_DEVICES = frozenset(
    {
        "cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve",
        "fpga", "maia", "ort", "xla", "lazy", "vulkan", "mps", "meta", "hpu", "mtia",
        "privateuseone",
    }
)  # fmt: skip
_MAX_DEVICE_INDEX = 127

_RETURN_TYPES = (
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fused_moving_avg_obs_fq_helper", "_linalg_det", "_linalg_eigh",
    "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd", "_lu_with_info",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_unpack_dual", "aminmax",
    "cummax", "cummin", "eig", "frexp", "geqrf", "histogram", "histogramdd",
    "kthvalue", "linalg_cholesky_ex", "linalg_eig", "linalg_eigh", "linalg_inv_ex",
    "linalg_ldl_factor", "linalg_ldl_factor_ex", "linalg_lstsq", "linalg_lu",
    "linalg_lu_factor", "linalg_lu_factor_ex", "linalg_qr", "linalg_slogdet",
    "linalg_solve_ex", "linalg_svd", "lstsq", "lu_unpack", "max", "median", "min",
    "mode", "nanmedian", "qr", "slogdet", "solve", "sort", "svd", "symeig", "topk",
    "triangular_solve",
)  # fmt: skip
"""Named tuples of torch's operators, also of versions that are gone."""

_VERSION = re.compile(r"[0-9A-Za-z.+_\-!]{1,100}", re.ASCII)


def torch_value(kind: str, name: str) -> TorchValueSpec:
    """Return a new spec for a torch constant."""
    return TorchValueSpec(kind, name)


def sizes(value: object, call: Call, ctx: CheckContext, what: str) -> tuple[int, ...]:
    """Return a tuple of ints in a shape's place: a tuple, a list or a `torch.Size`."""
    value = ctx.value_of(value, call)
    if type(value) is TorchValueSpec and value.kind == "size":
        value = value.value
    if type(value) is not tuple and type(value) is not list:
        ctx.refuse(call, f"{what} is not a tuple")
    if len(value) > ctx.limits.max_dimensions:
        raise LimitExceededError(
            "max_dimensions",
            allowed=ctx.limits.max_dimensions,
            requested=len(value),
        )
    return tuple([integer(n, call, ctx, what, -INT64_END, INT64_END) for n in value])


def check_size(call: Call, ctx: CheckContext) -> object:
    """torch.Size(sizes)."""
    (value,) = only_arguments(call, ctx, 1)
    spec = TorchValueSpec("size", sizes(value, call, ctx, "a size"))
    ctx.specs.append(spec)
    return spec


def check_device(call: Call, ctx: CheckContext) -> object:
    """torch.device(type), torch.device("type:index") or torch.device(type, index)."""
    kind, *rest = only_arguments(call, ctx, 1, 2)
    name, colon, number = text(kind, call, ctx, "the device").partition(":")
    index = None
    if colon:
        if rest or not number.isascii() or not number.isdigit() or len(number) > 3:
            ctx.refuse(call, f"not a device: {quote(kind)}")
        index = int(number)
    elif rest and rest[0] is not None:
        index = integer(rest[0], call, ctx, "the index", 0, _MAX_DEVICE_INDEX + 1)
    if name not in _DEVICES or (index or 0) > _MAX_DEVICE_INDEX:
        ctx.refuse(call, f"not a device: {quote(kind)}")
    spec = TorchValueSpec("device", (name, index))
    ctx.specs.append(spec)
    return spec


def check_layout(call: Call, ctx: CheckContext) -> object:
    """torch.serialization._get_layout("torch.name")."""
    (value,) = only_arguments(call, ctx, 1)
    name = text(value, call, ctx, "the layout").removeprefix("torch.")
    if name not in LAYOUTS:
        ctx.refuse(call, f"not a layout: {quote(value)}")
    spec = TorchValueSpec("layout", name)
    ctx.specs.append(spec)
    return spec


def check_version(call: Call, ctx: CheckContext) -> object:
    """torch.torch_version.TorchVersion(text), a subclass of str."""
    unedited(call, ctx)
    (value,) = arguments(call, ctx, 1)
    if call.state is not UNCHECKED and call.state not in (None, {}):
        ctx.refuse(call, "its result is given a state")
    version = text(value, call, ctx, "the version")
    if not _VERSION.fullmatch(version):
        ctx.refuse(call, f"not a version: {quote(version)}")
    return version


def check_return_type(call: Call, ctx: CheckContext) -> object:
    """torch.return_types.name(items, {}): a named tuple."""
    items, *rest = only_arguments(call, ctx, 1, 2)
    if type(items) is not tuple or rest not in ([], [{}]):
        ctx.refuse(call, "its arguments are not a tuple and an empty dictionary")
    ctx.copy(items, 8 * len(items))
    return SequenceSpec("tuple", items)


def check_typed_list(call: Call, ctx: CheckContext) -> object:
    """torch.jit._pickle.build_*(list): a list with a TorchScript type."""
    (items,) = only_arguments(call, ctx, 1)
    if type(items) is not list:
        ctx.refuse(call, "its argument is not a list")
    ctx.copy(items, 8 * len(items))
    return SequenceSpec("list", items)


def check_typed_value(call: Call, ctx: CheckContext) -> object:
    """torch.jit._pickle.restore_type_tag(value, type): the value."""
    value, tag = only_arguments(call, ctx, 2)
    text(tag, call, ctx, "the type")
    if type(value) is list or type(value) is tuple:
        ctx.copy(value, 8 * len(value))
        return SequenceSpec("list" if type(value) is list else "tuple", value)
    if type(value) is dict:
        ctx.copy(value, 16 * len(value))
        return MappingSpec("dict", [part for pair in value.items() for part in pair])
    return ctx.value_of(value, call)


def check_tensor_id(call: Call, ctx: CheckContext) -> object:
    """torch.jit._pickle.build_tensor_from_id(id): the id."""
    (value,) = only_arguments(call, ctx, 1)
    return integer(value, call, ctx, "the id", 0, INT64_END)


_JIT = "torch.jit._pickle"
_TYPED_LIST = Entry(check_typed_list, "list", "one list")

CALLS: Table = {
    ("torch", "Size"): Entry(
        check_size, "torch.Size", "64-bit integers, at most max_dimensions"
    ),
    ("torch", "device"): Entry(
        check_device, "torch.device", "a type torch knows, an index up to 127"
    ),
    ("torch.serialization", "_get_layout"): Entry(
        check_layout, "torch.layout", "the name of a layout"
    ),
    ("torch.torch_version", "TorchVersion"): Entry(
        check_version, "str", "the characters of a version, at most 100"
    ),
    (_JIT, "build_intlist"): _TYPED_LIST,
    (_JIT, "build_doublelist"): _TYPED_LIST,
    (_JIT, "build_boollist"): _TYPED_LIST,
    (_JIT, "build_tensorlist"): _TYPED_LIST,
    (_JIT, "build_tensor_from_id"): Entry(check_tensor_id, "int", "one integer"),
    (_JIT, "restore_type_tag"): Entry(
        check_typed_value, "its first argument", "a value and a text"
    ),
    **{
        ("torch.return_types", name + suffix): Entry(
            check_return_type, "tuple", "a tuple and an empty dictionary"
        )
        for name in _RETURN_TYPES
        for suffix in ("", "_out")
    },
}

VALUES: dict[tuple[str, str], ValueEntry] = {
    ("torch", name): ValueEntry(partial(torch_value, kind, name), f"torch.{kind}")
    for kind, names in (
        ("dtype", tuple(DTYPE_ITEMSIZE)),
        ("layout", LAYOUTS),
        ("memory_format", MEMORY_FORMATS),
        ("qscheme", QSCHEMES),
    )
    for name in names
}
