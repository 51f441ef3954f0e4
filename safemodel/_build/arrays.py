"""Array, scalar and dtype specs → numpy values.

1. Arrays own their memory and can be written to, as unpickled ones do and can.
2. Bool bytes above 1 become 1, and text holds code points only: numpy's own code
   assumes both of every array.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from safemodel._build.record_bytes import fill
from safemodel._graph.specs import UNBUILT
from safemodel.errors import (
    ForbiddenCallError,
    MalformedFileError,
    StorageBoundsError,
    quote,
)

if TYPE_CHECKING:
    from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
    from safemodel.limits import Limits

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_DESCR = re.compile(
    r"[<>|=]?(\?|[biufcSUV][0-9]{1,9}|O[0-9]{0,2}|[mM]8(\[[A-Za-z0-9/]{1,16}\])?)",
    re.ASCII,
)
_MAX_CODE_POINT = 0x10FFFF


def numpy_dtype(spec: NumpyDTypeSpec) -> np.dtype[Any]:
    """Return the dtype of a spec, from checked parts.

    Raises:
        ForbiddenCallError: The parts are not a dtype numpy has.
    """
    if spec.built is not UNBUILT:
        return spec.built  # type: ignore[return-value]  # it built this before
    try:
        dtype = _make_dtype(spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise ForbiddenCallError("numpy.dtype", quote(error)) from error
    if dtype.itemsize != spec.itemsize and not dtype.hasobject:
        raise ForbiddenCallError(
            "numpy.dtype", f"{dtype.itemsize} bytes an element, not {spec.itemsize}"
        )
    spec.built = dtype
    return dtype


def _make_dtype(spec: NumpyDTypeSpec) -> np.dtype[Any]:
    if spec.base is not None:
        return np.dtype((numpy_dtype(spec.base), spec.subshape))
    if spec.fields is not None:
        return np.dtype(
            {
                "names": [name for name, _, _ in spec.fields],
                "formats": [numpy_dtype(field) for _, field, _ in spec.fields],
                "offsets": [offset for _, _, offset in spec.fields],
                "itemsize": spec.itemsize,
            },
            align=spec.aligned,
        )
    if _DESCR.fullmatch(spec.descr) is None:
        raise ValueError(f"not a dtype descriptor: {quote(spec.descr)}")
    return np.dtype(spec.descr)


def build_array(spec: ArraySpec, *, verify: bool, limits: Limits) -> None:
    """Build an array of its own memory.

    Raises:
        ForbiddenCallError: Its dtype is not one numpy has, or holds objects.
        StorageBoundsError: Its bytes do not fit its shape.
        MalformedFileError: Its bytes are not its text.
    """
    dtype = numpy_dtype(spec.dtype)
    if dtype.hasobject or dtype.subdtype is not None:
        raise ForbiddenCallError("numpy.ndarray", f"elements of {quote(dtype)}")
    order: Any = "F" if spec.fortran else "C"
    data = spec.data
    if isinstance(data, (bytes, bytearray, memoryview)):
        check_size(spec, memoryview(data).nbytes, dtype.itemsize)
        array = _from_bytes(data, dtype, spec.shape, order)
    else:
        check_size(spec, data.size, dtype.itemsize)
        array = np.empty(spec.shape, dtype=dtype, order=order)
        if array.nbytes:
            flat = array.reshape(-1, order=order).view(np.uint8)
            fill(flat.data, data, verify=verify, limits=limits)
    _sanitise_all(array, order)
    spec.built = array


def check_size(spec: ArraySpec, available: int, itemsize: int) -> None:
    """Compare the bytes there are with those the shape needs, before allocating.

    Raises:
        StorageBoundsError: They differ.
    """
    needed = math.prod(spec.shape) * itemsize
    if needed != available:
        raise StorageBoundsError("array", needed=needed, available=available)


def _from_bytes(
    data: bytes | bytearray | memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Any,
) -> Array:
    try:
        if not dtype.itemsize:
            # frombuffer and empty both refuse or change a dtype of no bytes.
            return np.ndarray(shape, dtype=dtype, buffer=bytearray(), order=order)
        array = np.empty(shape, dtype=dtype, order=order)
        # As bytes: copying structures would leave what lies between fields unset.
        target = array.reshape(-1, order=order).view(np.uint8)
        target[:] = np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError) as error:
        raise MalformedFileError(f"array: {quote(error)}") from error
    return array


def _sanitise_all(array: Array, order: Any) -> None:
    """Make an array's elements ones that numpy expects, whatever its axes."""
    try:
        # With one axis, so that there is room for those of fields and characters.
        _sanitise(array.reshape(-1, order=order))
    except ValueError as error:
        raise MalformedFileError(f"array: {quote(str(error))}") from error


def _sanitise(array: Array) -> None:
    """Make every byte pattern one that numpy expects (rule 2)."""
    dtype = array.dtype
    if dtype.names is not None:
        for name in dtype.names:
            _sanitise(array[name])
    elif dtype.kind == "b":
        raw = array.view(np.uint8)
        if raw.size and raw.max() > 1:
            np.minimum(raw, 1, out=raw)
    elif dtype.kind == "U" and array.size and dtype.itemsize:
        order = ">" if dtype.byteorder == ">" else "<"
        points = np.ndarray(
            (*array.shape, dtype.itemsize // 4),
            dtype=f"{order}u4",
            buffer=array if array.flags.c_contiguous else array.copy(),
        )
        if int(points.max()) > _MAX_CODE_POINT:
            raise MalformedFileError("text array: not a code point")


def build_scalar(spec: ScalarSpec) -> None:
    """Build a numpy scalar.

    Raises:
        ForbiddenCallError: Its dtype is not one numpy has, or holds objects.
        MalformedFileError: Its bytes do not fit its dtype, or are not its text.
    """
    dtype = numpy_dtype(spec.dtype)
    if dtype.hasobject or dtype.subdtype is not None:
        raise ForbiddenCallError("numpy scalar", f"an element of {quote(dtype)}")
    array = _from_bytes(spec.data, dtype, (1,), "C")
    _sanitise_all(array, "C")
    spec.built = array[0]
