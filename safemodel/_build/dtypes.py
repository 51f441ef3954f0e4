"""torch's dtypes by the names specs use: a fixed table, no look-up on a file's word."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from safemodel.errors import UnsupportedFormatError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = (
    "bfloat16",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "bits8",
    "bool",
    "complex128",
    "complex32",
    "complex64",
    "float16",
    "float32",
    "float4_e2m1fn_x2",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "int1",
    "int16",
    "int2",
    "int3",
    "int32",
    "int4",
    "int5",
    "int6",
    "int64",
    "int7",
    "int8",
    "qint32",
    "qint8",
    "quint2x4",
    "quint4x2",
    "quint8",
    "uint1",
    "uint16",
    "uint2",
    "uint3",
    "uint32",
    "uint4",
    "uint5",
    "uint6",
    "uint64",
    "uint7",
    "uint8",
)
# Older torch lacks some of them; the names are ours, never a file's.
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in _NAMES if hasattr(torch, name)
}
QUANTIZED = frozenset({"qint32", "qint8", "quint2x4", "quint4x2", "quint8"})


@contextmanager
def quietly() -> Iterator[None]:
    """Hide torch's notice that quantised tensors will go; reading is no new use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype of that name.

    Raises:
        UnsupportedFormatError: This version of torch does not have it.
    """
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise UnsupportedFormatError(
            f"the file holds {quote(name)} tensors, which torch {torch.__version__}"
            " does not have"
        )
    return dtype
