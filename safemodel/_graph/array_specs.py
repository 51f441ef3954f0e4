"""Specs of numpy values: dtypes, arrays, scalars. No numpy here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.specs import UNBUILT, Spec

if TYPE_CHECKING:
    from safemodel._containers.source import Record


class NumpyDTypeSpec(Spec):
    """A numpy dtype, as a descriptor in the `.npy` grammar.

    Attributes:
        descr: "<f4" and the like, or a list of (name, descr[, shape]) fields.
        itemsize: Bytes an element; for fields, with padding.
        fields: Structured dtypes: (name, dtype, offset) triples, else None.
        subshape: Shape of a sub-array dtype, else ().
        has_objects: Elements are Python objects (dtype kind "O").
    """

    __slots__ = ("aligned", "base", "descr", "fields", "has_objects", "itemsize",
                 "subshape")  # fmt: skip

    def __init__(self, descr: str, itemsize: int) -> None:
        self.built = UNBUILT
        self.descr = descr
        self.itemsize = itemsize
        self.fields: tuple[tuple[str, NumpyDTypeSpec, int], ...] | None = None
        self.base: NumpyDTypeSpec | None = None
        self.subshape: tuple[int, ...] = ()
        self.aligned = False
        self.has_objects = False


class ArraySpec(Spec):
    """A numpy array of a non-object dtype; its size proved equal to its bytes.

    Attributes:
        dtype: Element type.
        shape: Length of each axis.
        fortran: Column-major order.
        data: Its bytes, or the record that holds them.
        matrix: The file says `numpy.matrix`-like subclass; always built as ndarray.
    """

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(
        self,
        dtype: NumpyDTypeSpec,
        shape: tuple[int, ...],
        fortran: bool,
        data: bytes | bytearray | memoryview | Record,
    ) -> None:
        self.built = UNBUILT
        self.dtype = dtype
        self.shape = shape
        self.fortran = fortran
        self.data = data


class ObjectArraySpec(Spec):
    """A numpy array of Python objects, element by element (composite)."""

    __slots__ = ("elements", "fortran", "shape")

    def __init__(
        self, shape: tuple[int, ...], fortran: bool, elements: list[object]
    ) -> None:
        self.built = UNBUILT
        self.shape = shape
        self.fortran = fortran
        self.elements = elements


class ScalarSpec(Spec):
    """A numpy scalar: dtype and exactly its bytes."""

    __slots__ = ("data", "dtype")

    def __init__(self, dtype: NumpyDTypeSpec, data: bytes) -> None:
        self.built = UNBUILT
        self.dtype = dtype
        self.data = data
