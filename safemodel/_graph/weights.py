"""What the result of a call takes in memory, from node to object: estimates.

A call may be repeated with all of its arguments in five bytes, so what each one makes
is counted against the size of the pickles (`Limits.max_object_bytes`). The numbers
are measured, list entries of `inspect` included, and rounded up. Containers are
counted by the walk, and only where they are part of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from safemodel._graph.array_specs import ArraySpec, NumpyDTypeSpec, ScalarSpec
from safemodel._graph.specs import (
    JaggedSpec,
    MetaTensorSpec,
    NestedSpec,
    ParameterSpec,
    QuantizedSpec,
    SparseSpec,
    TensorSpec,
    TorchValueSpec,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from fractions import Fraction

_Shaped: TypeAlias = TensorSpec | MetaTensorSpec | ArraySpec | SparseSpec

_AXIS = 24
_TENSOR = 900


def _of_shape(spec: _Shaped) -> int:
    return _TENSOR + _AXIS * len(spec.shape)


def _of_quantized(spec: QuantizedSpec) -> int:
    return _of_shape(spec.view) + 300


def _of_sparse(spec: SparseSpec) -> int:
    return _of_shape(spec) + 700


def _of_value(spec: TorchValueSpec) -> int:
    return 300 + _AXIS * len(spec.value) if type(spec.value) is tuple else 200


def _of_decimal(number: Decimal) -> int:
    return 200 + len(number.as_tuple().digits) // 2


def _of_fraction(number: Fraction) -> int:
    return 200 + (number.numerator.bit_length() + number.denominator.bit_length()) // 4


def _fixed(weight: int) -> Callable[[Any], int]:
    return lambda _: weight


_WEIGHTS: dict[str, Callable[[Any], int]] = {
    TensorSpec.__name__: _of_shape,
    MetaTensorSpec.__name__: _of_shape,
    ArraySpec.__name__: _of_shape,
    QuantizedSpec.__name__: _of_quantized,
    SparseSpec.__name__: _of_sparse,
    NestedSpec.__name__: _fixed(1600),
    JaggedSpec.__name__: _fixed(5000),
    ParameterSpec.__name__: _fixed(_TENSOR),
    ScalarSpec.__name__: _fixed(300),
    NumpyDTypeSpec.__name__: _fixed(300),
    TorchValueSpec.__name__: _of_value,
    "Decimal": _of_decimal,
    "Fraction": _of_fraction,
}


def weight_of(value: object) -> int:
    """Return the estimated bytes of what a call has made; 0 for what costs little."""
    weigh = _WEIGHTS.get(type(value).__name__)
    return weigh(value) if weigh is not None else 0
