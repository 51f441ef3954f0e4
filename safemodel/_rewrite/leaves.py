"""Leaves of a graph → what a written file says of them; no torch, no tensor.

`Leaves.make` is called for each leaf that the root reaches, and for no other. Then
`Leaves.settle` decides which bytes of which storages are written, and where in them
each tensor lies.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from math import prod
from typing import TYPE_CHECKING, Any

from safemodel._build.arrays import (
    build_array,
    build_scalar,
    check_size,
    numpy_dtype,
)
from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.specs import (
    UNBUILT,
    JaggedSpec,
    MetaTensorSpec,
    NestedSpec,
    ParameterSpec,
    QuantizedSpec,
    SparseSpec,
    Spec,
    StorageSpec,
    StorageViewSpec,
    TensorSpec,
    TorchValueSpec,
)
from safemodel._rewrite.contents import Content, Gathered, Stretch
from safemodel.errors import ForbiddenCallError, UnsupportedFormatError

if TYPE_CHECKING:
    from safemodel.limits import Limits


NUMBERS = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64",
    "c8": "complex64", "c16": "complex128",
}  # fmt: skip
"""Element types of numpy that tensors have, too: without the byte order."""
STORAGE_CLASSES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage", "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage", "qint8": "QInt8Storage",
    "quint8": "QUInt8Storage", "qint32": "QInt32Storage",
    "quint4x2": "QUInt4x2Storage", "quint2x4": "QUInt2x4Storage",
}  # fmt: skip
"""Element types that have a storage class of their own."""
_OF_1_13 = frozenset(name for name in STORAGE_CLASSES if not name.startswith("q"))
_META_OF_1_13 = _OF_1_13 - {"bfloat16", "uint8", "bool"} | {"complex32"}
"""Element types of tensors, with and without elements, that torch 1.13 reads."""
WIDE_UNSIGNED = frozenset({"uint16", "uint32", "uint64"})


class TensorLeaf:
    """A strided tensor as it will be written.

    Attributes:
        dtype: Element type, by torch's name.
        shape: Length of each axis.
        stride: Step of each axis, in elements.
        offset: First element, in elements of the content.
        content: Its bytes; set by `Leaves.settle`.
        requires_grad: Whether it asks for a gradient.
        parameter: Whether it is a `torch.nn.Parameter`.
        scheme: Quantised tensors: how integers become numbers; else None.
    """

    __slots__ = (
        "content",
        "dtype",
        "offset",
        "parameter",
        "requires_grad",
        "scheme",
        "shape",
        "spec",
        "stride",
    )

    def __init__(self, spec: TensorSpec, content: Content | None = None) -> None:
        self.spec = spec
        self.dtype = spec.dtype
        self.shape = spec.shape
        self.stride = spec.stride
        self.offset = spec.offset
        self.requires_grad = spec.requires_grad
        self.parameter = spec.parameter
        self.scheme: tuple[object, ...] | None = None
        self.content = content


class CallLeaf:
    """A value that a file has to write as a call: one of the few on this page.

    Attributes:
        module: Module of the function.
        name: Its name.
        args: What it is called with.
    """

    __slots__ = ("args", "module", "name")

    def __init__(self, module: str, name: str, *args: object) -> None:
        self.module = module
        self.name = name
        self.args = args


class GlobalLeaf:
    """A constant of torch, by name: a dtype or a scheme."""

    __slots__ = ("module", "name")

    def __init__(self, name: str) -> None:
        self.module = "torch"
        self.name = name


class Leaves:
    """The leaves of one graph.

    Args:
        limits: How much the file may ask for.
        wide_unsigned: As for `Plain`.
        for_1_13: Whether torch 1.13 has to read what is written.

    Attributes:
        tensors: Every strided tensor, parts of others included, in order.
        changed: Kind of value → how many of them became something else here.
    """

    def __init__(
        self, limits: Limits, *, wide_unsigned: bool = True, for_1_13: bool = False
    ) -> None:
        self._limits = limits
        self._for_1_13 = for_1_13
        self._wide_unsigned = wide_unsigned
        self.tensors: list[TensorLeaf] = []
        self.changed: Counter[str] = Counter()

    def make(self, spec: Spec) -> object:
        """Return what stands for a leaf; remembered in the spec itself.

        Raises:
            SafeModelError: It is not what the file describes.
        """
        spec.built = leaf = self._leaf(spec)
        return leaf

    def _leaf(self, spec: Spec) -> object:
        match spec:
            case TensorSpec():
                return self._tensor(spec)
            case ParameterSpec():
                return self._parameter(spec)
            case ArraySpec():
                return self._array(spec)
            case ScalarSpec():
                build_scalar(spec)
                built: Any = spec.built
                if not hasattr(built, "item"):
                    return built
                self.changed[type(built).__name__] += 1
                return built.item()
            case NumpyDTypeSpec():
                return numpy_dtype(spec)
            case TorchValueSpec():
                self.changed[spec.kind] += 1
                return _torch_value(spec)
            case StorageSpec():
                self.changed["storage"] += 1
                whole = (spec.numel,)
                return self._tensor(TensorSpec(spec, spec.dtype, 0, whole, (1,)))
            case StorageViewSpec():
                self.changed["storage"] += 1
                part = TensorSpec(
                    spec.base, spec.base.dtype, spec.offset, (spec.numel,), (1,)
                )
                return self._tensor(part)
            case _:
                return self._special(spec)

    def _array(self, spec: ArraySpec) -> object:
        """Return an array; the tensor it becomes at once, if its bytes are a record."""
        data, dtype = spec.data, spec.dtype
        name = NUMBERS.get(dtype.descr[1:]) if dtype.fields is None else None
        if isinstance(data, (bytes, bytearray, memoryview)) or name is None:
            build_array(spec, verify=True, limits=self._limits)
            return spec.built
        check_size(spec, data.size, dtype.itemsize)
        narrow = name in WIDE_UNSIGNED and not self._wide_unsigned
        name = name.removeprefix("u") if narrow else name
        storage = StorageSpec(
            "", name, dtype.itemsize, prod(spec.shape), data,
            big_endian=dtype.descr[0] == ">",
        )  # fmt: skip
        shape = spec.shape[::-1] if spec.fortran else spec.shape
        stride = contiguous(shape)
        stride = stride[::-1] if spec.fortran else stride
        self.changed["ndarray"] += 1
        leaf = self._tensor(TensorSpec(storage, name, 0, spec.shape, stride))
        return {"dtype": f"<{dtype.descr[1:]}", "values": leaf} if narrow else leaf

    def _special(self, spec: Spec) -> object:
        match spec:
            case SparseSpec():
                return self._sparse(spec)
            case QuantizedSpec():
                return self._quantized(spec)
            case MetaTensorSpec():
                self._check_kind(spec.dtype, _META_OF_1_13)
                dtype = GlobalLeaf(spec.dtype)
                return CallLeaf(
                    "torch._utils", "_rebuild_meta_tensor_no_storage",
                    dtype, spec.shape, spec.stride, spec.requires_grad,
                )  # fmt: skip
            case NestedSpec():
                self.changed["nested tensor"] += 1
                return {
                    "buffer": self._part(spec.buffer),
                    "sizes": self._part(spec.sizes),
                    "strides": self._part(spec.strides),
                    "offsets": self._part(spec.offsets),
                }
            case JaggedSpec():
                self.changed["nested tensor"] += 1
                lengths = spec.lengths
                return {
                    "values": self._part(spec.values),
                    "offsets": self._part(spec.offsets),
                    "lengths": None if lengths is None else self._part(lengths),
                }
        raise ForbiddenCallError(type(spec).__name__, "is part of its own arguments")

    def _part(self, spec: Any) -> Any:
        """Return what stands for a part, which other values may share."""
        return self.make(spec) if spec.built is UNBUILT else spec.built

    def _check_kind(self, kind: str, known: frozenset[str]) -> None:
        """Check that torch 1.13 reads tensors of an element type, or of a layout."""
        if self._for_1_13 and kind not in known:
            raise UnsupportedFormatError(f"torch 1.13 reads no tensors of {kind}")

    def _tensor(self, spec: TensorSpec) -> TensorLeaf:
        self._check_kind(spec.dtype, _OF_1_13)
        leaf = TensorLeaf(spec)
        if leaf.requires_grad and not leaf.parameter:
            # What rebuilds a tensor without a storage class fails if it asks for one:
            # torch cannot read the file of its own that holds such a tensor, either.
            leaf.requires_grad = leaf.dtype in STORAGE_CLASSES
            if not leaf.requires_grad:
                self.changed[f"requires_grad of {leaf.dtype}"] += 1
        self.tensors.append(leaf)
        return leaf

    def _parameter(self, spec: ParameterSpec) -> object:
        data = self._part(spec.data)
        if spec.kind == "Parameter":
            hooks: OrderedDict[object, object] = OrderedDict()
            return CallLeaf(
                "torch._utils", "_rebuild_parameter", data, spec.requires_grad, hooks
            )
        return data

    def _sparse(self, spec: SparseSpec) -> CallLeaf:
        self._check_kind(spec.layout, frozenset({"sparse_coo"}))
        layout = CallLeaf("torch.serialization", "_get_layout", f"torch.{spec.layout}")
        parts = tuple(self._part(part) for part in spec.parts)
        data: tuple[object, ...] = (*parts, spec.shape)
        if spec.layout == "sparse_coo" and spec.coalesced is not None:
            if self._for_1_13:
                self.changed["coalesced"] += spec.coalesced
            else:
                data = (*data, spec.coalesced)
        return CallLeaf("torch._utils", "_rebuild_sparse_tensor", layout, data)

    def _quantized(self, spec: QuantizedSpec) -> TensorLeaf:
        scheme: tuple[object, ...]
        scale, zero = spec.scale, spec.zero_point
        if isinstance(scale, Spec) and isinstance(zero, Spec):
            scheme = (GlobalLeaf(spec.scheme), self._part(scale), self._part(zero),
                      spec.axis)  # fmt: skip
        else:
            scheme = (GlobalLeaf(spec.scheme), scale, zero)
        view = self._tensor(spec.view)
        view.scheme = scheme
        return view

    def settle(self) -> None:
        """Give each tensor its content (see the rules of `contents`)."""
        together: dict[tuple[int, str], list[TensorLeaf]] = {}
        for leaf in self.tensors:
            key = (id(leaf.spec.storage), leaf.dtype)
            together.setdefault(key, []).append(leaf)
        for leaves in together.values():
            dense = [leaf for leaf in leaves if _is_dense(leaf)]
            _share(sorted(dense, key=lambda leaf: leaf.offset))
            _gather([leaf for leaf in leaves if leaf.content is None])


def _is_dense(leaf: TensorLeaf) -> bool:
    """Say whether the elements of a tensor lie one behind the other, in any order."""
    if leaf.spec.conj or leaf.spec.neg:
        return False
    axes = zip(leaf.stride, leaf.shape, strict=True)
    expected = 1
    for step, length in sorted(axis for axis in axes if axis[1] != 1):
        if step != expected and length:
            return 0 in leaf.shape
        expected *= length
    return True


def _itemsize(leaf: TensorLeaf) -> int:
    from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE

    return DTYPE_ITEMSIZE[leaf.dtype]


def _share(dense: list[TensorLeaf]) -> None:
    """Let tensors that overlap lie in one stretch, and others in their own."""
    stretch: list[TensorLeaf] = []
    end = -1
    for leaf in dense:
        last = leaf.offset + prod(leaf.shape)
        if stretch and leaf.offset < end:
            stretch.append(leaf)
            end = max(end, last)
            continue
        _place(stretch, end)
        stretch, end = [leaf], last
    _place(stretch, end)


def _place(leaves: list[TensorLeaf], end: int) -> None:
    if not leaves:
        return
    start = leaves[0].offset
    first = leaves[0]
    content = Stretch(
        first.spec.storage, first.dtype, _itemsize(first), start, end - start
    )
    for leaf in leaves:
        leaf.content = content
        leaf.offset -= start


def _gather(leaves: list[TensorLeaf]) -> None:
    """Write out each tensor that is not dense; equal ones once."""
    made: dict[tuple[object, ...], Gathered] = {}
    for leaf in leaves:
        spec = leaf.spec
        view = (spec.offset, spec.shape, spec.stride)
        key = (*view, spec.conj, spec.neg)
        if key not in made:
            made[key] = Gathered(
                spec.storage, leaf.dtype, _itemsize(leaf), view,
                conj=spec.conj, neg=spec.neg,
            )  # fmt: skip
        leaf.content = made[key]
        leaf.offset = 0
        leaf.stride = contiguous(spec.shape)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a new tensor of a shape.

    >>> contiguous((2, 3, 4))
    (12, 4, 1)
    """
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.insert(0, step)
        step *= max(length, 1)
    return tuple(strides)


def _torch_value(spec: TorchValueSpec) -> object:
    """Return the tuple or text that a small value of torch is written as."""
    value: Any = spec.value
    if spec.kind == "size":
        return tuple(value)
    if spec.kind == "device":
        kind, index = value
        return kind if index is None else f"{kind}:{index}"
    return f"torch.{value}"
