"""The tests for bits that are too even, over the tensors of one file.

Rules:

1. Floats wait until there are many, and are looked at together: that takes less time by
   far. What is returned for a tensor is filled then, at the latest by `finish`.
2. What is found of a tensor is added to what all weights of its dtype say together.
3. Each number of bits is a test, of a tensor and of the file.
4. Of tensors of one axis `octaves` says nothing: several layers may lie flat in one,
   and if those were drawn evenly up to powers of two, their density has steps there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safemodel._detector import evenness, integers, smooth
from safemodel._detector.layouts import PACKED
from safemodel._detector.smooth import Evenness, Uniformity

if TYPE_CHECKING:
    from safemodel._detector.counts import Tensor
    from safemodel._detector.evidence import Ledger
    from safemodel._detector.smooth import Density

LEAST = 1000
"""Words of a tensor below which nothing is said about its density."""
_WAITING = 1 << 18
"""Counts of densities that wait to be looked at together: two megabytes."""
_WAITING_TENSORS = 256


class _Waiting(NamedTuple):
    """A tensor that is looked at later, without its counts, which take more memory.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        flat: Whether it has one axis at most (rule 4).
        density: Of it.
        found: To be filled.
    """

    name: str
    dtype: str
    flat: bool
    density: Density
    found: Evenness


class Densities:
    """Makes the tests.

    Args:
        ledger: Takes the outcomes.

    Attributes:
        uniformity: (dtype, replaced bits) → all weights together.
        octaves: The same of what `octaves` finds.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[_Waiting] = []
        self._waits = 0
        self.uniformity: dict[tuple[str, int], Uniformity] = {}
        self.octaves: dict[tuple[str, int], Uniformity] = {}

    def take(self, tensor: Tensor) -> Evenness:
        """Look at a tensor that was read to the end; return what is found (rule 1)."""
        found = Evenness({}, {})
        if tensor.layout.kind == "integer":
            values = integers.by_value(tensor.top, tensor.dtype)
            packed = tensor.dtype in PACKED
            for bits in (1,) if packed else (1, 2, 3):
                found.uniformity[bits] = (
                    integers.mirrored(values)
                    if packed
                    else integers.pairs(values, bits)
                )
            self._add(tensor.name, tensor.dtype, found)
        elif tensor.layout.exponent:
            density = smooth.density_of(tensor)
            flat = len(tensor.shape) < 2
            self._waiting.append(
                _Waiting(tensor.name, tensor.dtype, flat, density, found)
            )
            self._waits += density.rows.size
            if self._waits >= _WAITING or len(self._waiting) >= _WAITING_TENSORS:
                self._fit()
        return found

    def finish(self) -> None:
        """Look at what waits, and make the tests over all tensors together."""
        self._fit()
        for every, tolerances in (
            (self.uniformity, evenness.TOLERANCE), (self.octaves, evenness.SURE),
        ):  # fmt: skip
            for dtype, by_bits in evenness.by_dtype(every).items():
                for bits in by_bits:
                    made = evenness.outcome(
                        by_bits, bits, dtype, "", tolerances, whole=True
                    )
                    self._ledger.add(made)

    def _fit(self) -> None:
        """Look at the tensors that wait."""
        made = smooth.uniformities([one.density for one in self._waiting])
        for one, each in zip(self._waiting, made, strict=True):
            one.found.uniformity.update(each.uniformity)
            if not one.flat:
                one.found.octaves.update(each.octaves)
            self._add(one.name, one.dtype, one.found)
        self._waiting, self._waits = [], 0

    def _add(self, name: str, dtype: str, found: Evenness) -> None:
        """Take what was found of a tensor (rules 2 and 3)."""
        for by_bits, every, tolerances in (
            (found.uniformity, self.uniformity, evenness.TOLERANCE),
            (found.octaves, self.octaves, evenness.SURE),
        ):
            for bits, one in by_bits.items():
                if dtype not in PACKED:
                    # Of 4 bits, a tensor that is lopsided looks like one of even cells.
                    made = evenness.outcome(by_bits, bits, dtype, name, tolerances)
                    self._ledger.add(made)
                key = (dtype, bits)
                every[key] = every.get(key, Uniformity()).plus(one)
