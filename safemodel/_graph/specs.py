"""What a checked file contains: specs, one kind per kind of result.

Checkers in `_graph` make them, `_build` turns them into objects and stores the
result in `built`. A spec holds only checked facts: whoever holds one may build it
without looking at the file again, except for the bytes of its storage.

Numbers are plain Python ints, names plain strings: no torch, no numpy here.
Dtypes are torch's names without prefix ("float32", "quint8", "float8_e4m3fn").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from safemodel._containers.source import Record

UNBUILT = object()
"""The `built` of a spec that `_build` has not reached yet."""


class Spec:
    """Base: something `_build` makes an object of."""

    __slots__ = ("built",)
    built: object


class StorageSpec(Spec):
    """The flat bytes of one record, or of a slice of another storage.

    Attributes:
        key: Name of the storage in its file.
        dtype: Element type the file gives; "uint8" for an untyped storage.
        itemsize: Bytes an element.
        numel: Elements.
        record: Where the bytes are; None for a storage of no bytes.
        typed: A typed storage is what the file holds (True) or an untyped one.
        big_endian: Elements are stored most significant byte first.
        swapped: Bytes of each number whose order that is about, where a tensor over
            untyped bytes has said so; else 0: as `dtype` says.
        location: The device tag the file gives ("cpu", "cuda:0"); only ever passed
            to the caller's own `map_location`.
        views: Number of tensors that use it, for `inspect`.
    """

    __slots__ = (
        "big_endian",
        "dtype",
        "itemsize",
        "key",
        "location",
        "numel",
        "record",
        "swapped",
        "typed",
        "views",
    )

    def __init__(
        self,
        key: str,
        dtype: str,
        itemsize: int,
        numel: int,
        record: Record | None,
        location: str = "cpu",
        typed: bool = True,
        big_endian: bool = False,
    ) -> None:
        self.built = UNBUILT
        self.key = key
        self.dtype = dtype
        self.itemsize = itemsize
        self.numel = numel
        self.record = record
        self.location = location
        self.typed = typed
        self.big_endian = big_endian
        self.swapped = 0
        self.views = 0


class StorageViewSpec(Spec):
    """A slice of a root storage (torch before 0.4 wrote such): base, offset, numel."""

    __slots__ = ("base", "numel", "offset")

    def __init__(self, base: StorageSpec, offset: int, numel: int) -> None:
        self.built = UNBUILT
        self.base = base
        self.offset = offset
        self.numel = numel


class TensorSpec(Spec):
    """A strided view over a storage; every index proved to lie inside it.

    Attributes:
        storage: Its bytes.
        dtype: Element type (equal to the storage's unless the file reinterprets it).
        offset: First element, in elements of `dtype`.
        shape: Length of each axis.
        stride: Step of each axis, in elements, each >= 0.
        requires_grad: As the file says, for floating and complex dtypes.
        parameter: Build a `torch.nn.Parameter`.
        conj: The conjugate bit.
        neg: The negative bit.
    """

    __slots__ = (
        "conj",
        "dtype",
        "neg",
        "offset",
        "parameter",
        "requires_grad",
        "shape",
        "storage",
        "stride",
    )

    def __init__(
        self,
        storage: StorageSpec,
        dtype: str,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
    ) -> None:
        self.built = UNBUILT
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad
        self.parameter = False
        self.conj = False
        self.neg = False


class ParameterSpec(Spec):
    """`torch.nn.Parameter` (or `Buffer`) around any tensor spec, sharing its memory."""

    __slots__ = ("data", "kind", "requires_grad")

    def __init__(
        self,
        data: Spec,
        requires_grad: bool,
        kind: Literal["Parameter", "Buffer"] = "Parameter",
    ) -> None:
        self.built = UNBUILT
        self.data = data
        self.requires_grad = requires_grad
        self.kind = kind


class MetaTensorSpec(Spec):
    """A tensor on the meta device: shape and dtype without memory."""

    __slots__ = ("dtype", "requires_grad", "shape", "stride")

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
    ) -> None:
        self.built = UNBUILT
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad


class SparseSpec(Spec):
    """A sparse tensor. Index *values* are proved in `_build`, before torch sees them.

    Attributes:
        layout: "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc".
        parts: COO: (indices, values). Others: (compressed, plain, values).
        shape: Size of the dense tensor.
        coalesced: COO only: the file's flag, or None where it gives none.
    """

    __slots__ = ("coalesced", "layout", "parts", "requires_grad", "shape")

    def __init__(
        self,
        layout: str,
        parts: tuple[Spec, ...],
        shape: tuple[int, ...],
        coalesced: bool | None = None,
    ) -> None:
        self.built = UNBUILT
        self.layout = layout
        self.parts = parts
        self.shape = shape
        self.coalesced = coalesced
        self.requires_grad = False


class QuantizedSpec(Spec):
    """A quantised tensor: a view over integers, and how to read them.

    Attributes:
        view: Offset, shape and stride over the storage of quantised integers.
        scheme: "per_tensor_affine" or "per_channel_affine(_float_qparams)".
        scale: Per tensor: a float. Per channel: a tensor spec.
        zero_point: Per tensor: an int. Per channel: a tensor spec.
        axis: Per channel only.
    """

    __slots__ = ("axis", "scale", "scheme", "view", "zero_point")

    def __init__(
        self,
        view: TensorSpec,
        scheme: str,
        scale: float | Spec,
        zero_point: int | Spec,
        axis: int | None = None,
    ) -> None:
        self.built = UNBUILT
        self.view = view
        self.scheme = scheme
        self.scale = scale
        self.zero_point = zero_point
        self.axis = axis


class NestedSpec(Spec):
    """A strided nested tensor. Sizes, strides, offsets are proved in `_build`."""

    __slots__ = ("buffer", "offsets", "sizes", "strides")

    def __init__(self, buffer: Spec, sizes: Spec, strides: Spec, offsets: Spec) -> None:
        self.built = UNBUILT
        self.buffer = buffer
        self.sizes = sizes
        self.strides = strides
        self.offsets = offsets


class JaggedSpec(Spec):
    """A nested tensor of the jagged layout. Its offsets are proved in `_build`.

    Attributes:
        values: All parts, joined along one axis.
        offsets: Where each part begins along it, and the last one ends.
        lengths: How long each part is; None where each ends where the next begins.
        axis: That axis, counted with the batch in front of it.
        requires_grad: As the file says.
    """

    __slots__ = ("axis", "lengths", "offsets", "requires_grad", "values")

    def __init__(
        self,
        values: Spec,
        offsets: Spec,
        lengths: Spec | None,
        axis: int,
        requires_grad: bool,
    ) -> None:
        self.built = UNBUILT
        self.values = values
        self.offsets = offsets
        self.lengths = lengths
        self.axis = axis
        self.requires_grad = requires_grad


class TorchValueSpec(Spec):
    """A small torch value that is not a tensor.

    Attributes:
        kind: "dtype", "device", "layout", "size", "qscheme", "memory_format".
        value: dtype, layout, qscheme, memory_format: the name without "torch.".
            device: (type, index or None). size: a tuple of ints.
    """

    __slots__ = ("kind", "value")

    def __init__(self, kind: str, value: object) -> None:
        self.built = UNBUILT
        self.kind = kind
        self.value = value
