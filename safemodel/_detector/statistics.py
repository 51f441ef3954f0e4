"""All tests over the weights of a file, one tensor after the other.

Rules:

1. Memory is that of one piece, and of a short result for each tensor.
2. Each test of the file is counted, whether it found something or not (`evidence`).
3. Slack is read for files that lie in it, and no more: of what kind its numbers are is
   not known.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._detector import (
    carving,
    integers,
    runs,
    smooth,
    spread,
    structure,
    structured,
)
from safemodel._detector.counts import Counter
from safemodel._detector.distributions import normal_log_tail
from safemodel._detector.evidence import Ledger, Outcome
from safemodel._detector.layouts import PACKED
from safemodel._detector.repeats import of_piece
from safemodel._detector.smooth import Uniformity
from safemodel._detector.streams import entropy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._detector.counts import Block, Tensor
    from safemodel._detector.evidence import Candidate, Evidence
    from safemodel._detector.structured import Sums
    from safemodel._detector.weights import Weights

TOLERANCE = {"float": 0.3, "short": 0.3, "integer": 0.5}
"""Part of the expected slope that clean weights may lack (ADR 0023)."""
TOLERANCE_PACKED = 0.75
_APART = 3.0
"""Standard deviations between clean and replaced, below which nothing is decided."""
_CARVED_BLOCKS = 4
_LEAST = 256
_LEAST_SMOOTH = 1000
_MOST_CANDIDATES = 1000


class TensorResult(NamedTuple):
    """What one tensor is like, in figures that do not depend on its size.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        role: What it is for.
        size: Its words.
        constant: Lowest bits that are zeros everywhere.
        low_effect: Of its lowest byte; see `Excess.effect`.
        low_entropy: Of its lowest byte, in bits.
        bias: Share of odd words, less one half.
        suspects: Share of its blocks that were looked at closely.
        uniformity: By replaced bits; see `smooth`.
        subnormals: Share of subnormal words.
        tail: See `spread`; None if it has none.
    """

    name: str
    dtype: str
    role: str
    size: int
    constant: int
    low_effect: float
    low_entropy: float
    bias: float
    suspects: float
    uniformity: dict[int, Uniformity]
    subnormals: float
    tail: spread.Tail | None


class Statistics(NamedTuple):
    """What the tests of a file gave.

    Attributes:
        ledger: All outcomes, and how many tests there were.
        tensors: A result for each tensor that is large enough.
        uniformity: (dtype, replaced bits) → all weights together.
        candidates: What the low bits begin like, the most certain first.
    """

    ledger: Ledger
    tensors: tuple[TensorResult, ...]
    uniformity: dict[tuple[str, int], Uniformity]
    candidates: tuple[Candidate, ...]

    def evidence(self, threshold: float = 1e-3) -> tuple[Evidence, ...]:
        """Return what is evidence at a threshold, the strongest first."""
        return self.ledger.evidence(threshold)


def examine(items: Iterable[Weights]) -> Statistics:
    """Make all tests over weights, which come tensor by tensor, piece by piece."""
    examiner = _Examiner()
    for item in items:
        examiner.take(item)
    return examiner.finish()


class _Examiner:
    """The tests of one file; see `examine`."""

    def __init__(self) -> None:
        self._counter = Counter()
        self._ledger = Ledger()
        self._copies = structure.Copies()
        self._tensor: Tensor | None = None
        self._sums: Sums | None = None
        self._blocks = self._suspects = self._carved = self._repetitive = 0
        self._results: list[TensorResult] = []
        self._whole: dict[str, Sums] = {}
        self._uniform: dict[tuple[str, int], Uniformity] = {}
        self._found: list[tuple[float, Candidate]] = []

    def take(self, item: Weights) -> None:
        """Look at a piece of a tensor."""
        if item.start == 0:
            self._end_tensor()
            self._tensor = self._counter.start(item)
            self._sums = structured.empty_sums(self._tensor.layout)
            self._blocks = self._suspects = self._repetitive = 0
        tensor = self._tensor
        if tensor is None:
            raise ValueError("the first piece of a tensor is missing")
        if item.start == 0 and tensor.layout.kind != "bytes":
            self._carve(carving.at_start(item.bits, tensor.layout, tensor.name))
        for block in self._counter.blocks(tensor, item.bits):
            if item.role != "slack":
                self._block(block, tensor)
        marks, places = self._counter.marks()
        if item.role != "slack" and tensor.layout.kind != "bytes":
            repeated = of_piece(item.bits, item.start, marks, places, tensor.name)
            self._ledger.add(repeated)

    def finish(self) -> Statistics:
        """Make the tests over all tensors together."""
        self._end_tensor()
        for dtype, sums in self._whole.items():
            layout = smooth.layout_of_dtype(dtype)
            where = {
                "what": f"{dtype}: low bits of the whole file are not evenly spread"
            }
            self._add_all(structured.outcomes(sums, layout, "structured-file", where))
        for (dtype, bits), found in self._uniform.items():
            self._ledger.add(_too_uniform(found, dtype, bits, "", whole=True))
        tails = [one.tail for one in self._results if one.tail is not None]
        self._ledger.add(spread.common_noise(tails))
        self._found.sort(key=lambda pair: pair[0])
        return Statistics(
            self._ledger, tuple(self._results), self._uniform,
            tuple(candidate for _, candidate in self._found[:_MOST_CANDIDATES]),
        )  # fmt: skip

    def _block(self, block: Block, tensor: Tensor) -> None:
        self._blocks += 1
        gap = structure.of_block(block, tensor)
        if gap is not None:
            self._ledger.add(gap)
        for zeros in (runs.of_block(block, tensor), runs.of_exponents(block, tensor)):
            if zeros is None:
                self._ledger.passed("structured-block")
            else:
                self._ledger.add(zeros)
        if structured.is_repetitive(block, tensor.layout):
            self._ledger.passed("structured-block")
            self._repetitive += block.words.size
            return
        sums = structured.unsuspected(block)
        if structured.is_suspect(block, tensor.layout):
            self._suspects += 1
            cleaned = structured.cleaned(block, tensor.layout)
            if cleaned is None:
                self._ledger.passed("structured-block")
                self._repetitive += block.words.size
                return
            sums = cleaned
            self._closely(block, tensor, sums)
            if tensor.layout.kind == "float" and 2 * sums.close[0] < block.words.size:
                # Words that come again in other blocks would count as often there.
                self._repetitive += block.words.size
                return
        else:
            self._ledger.passed("structured-block", structured.TESTS)
        if self._sums is not None:
            self._sums = structured.added(self._sums, sums)

    def _closely(self, block: Block, tensor: Tensor, sums: Sums) -> None:
        end = block.start + block.words.size
        where: dict[str, Any] = {
            "tensor": tensor.name, "start": block.start, "end": end,
        }  # fmt: skip
        made = structured.outcomes(sums, tensor.layout, "structured-block", where)
        usable = int(sums.lows[0].sum())
        made.append(
            structured.neighbours(block, tensor.layout, usable)._replace(**where)
        )
        self._add_all(made)
        least = min(self._ledger.log_p(one) for one in made)
        if least < -7 and self._carved < _CARVED_BLOCKS:
            self._carved += 1
            self._carve(
                carving.anywhere(block.words, tensor.layout, tensor.name, block.start)
            )

    def _end_tensor(self) -> None:
        tensor, sums = self._tensor, self._sums
        self._tensor = self._sums = None
        if tensor is None or sums is None or tensor.done == 0:
            return
        self._counter.finish(tensor)
        if tensor.role == "slack":
            return
        for outcome in (*structure.of_tensor(tensor), *self._copies.add(tensor)):
            self._ledger.add(outcome)
        uniform = self._smooth(tensor)
        where = {"tensor": tensor.name}
        if tensor.layout.kind != "bytes":
            if self._blocks > 1:
                family = "structured-tensor"
                self._add_all(structured.outcomes(sums, tensor.layout, family, where))
            if tensor.role == "weight":
                known = self._whole.get(tensor.dtype)
                self._whole[tensor.dtype] = (
                    sums if known is None else structured.added(known, sums)
                )
        if tensor.size >= _LEAST:
            self._results.append(self._result(tensor, uniform))

    def _result(self, tensor: Tensor, uniform: dict[int, Uniformity]) -> TensorResult:
        excess = structured.tensor_excess(tensor)
        known = tensor.layout.exponent > 0
        return TensorResult(
            tensor.name, tensor.dtype, tensor.role, tensor.size,
            smooth.constant_bits(tensor) if known else 0,
            excess.effect, entropy(tensor.lows[0]), structured.bias(tensor.lows[0])[0],
            self._suspects / max(self._blocks, 1), uniform,
            tensor.subnormals / tensor.size, spread.tail_of(tensor),
        )  # fmt: skip

    def _smooth(self, tensor: Tensor) -> dict[int, Uniformity]:
        """Make the tests for uniformity; return what they found."""
        found: dict[int, Uniformity] = {}
        if tensor.role != "weight" or tensor.size < _LEAST_SMOOTH:
            return found
        if 2 * self._repetitive > tensor.size:
            return found  # so few different words say nothing about a density
        if tensor.layout.kind == "integer":
            values = integers.by_value(tensor.top, tensor.dtype)
            packed = tensor.dtype in PACKED
            for bits in (1,) if packed else (1, 2, 3):
                found[bits] = (
                    integers.mirrored(values)
                    if packed
                    else integers.pairs(values, bits)
                )
        elif tensor.layout.exponent:
            density = smooth.Density(tensor)
            found = {bits: density.uniformity(bits) for bits in density.replaceable}
        for bits, one in found.items():
            if tensor.dtype not in PACKED:
                # Of 4 bits, a tensor that is lopsided looks like one of even cells.
                self._ledger.add(_too_uniform(one, tensor.dtype, bits, tensor.name))
            key = (tensor.dtype, bits)
            self._uniform[key] = self._uniform.get(key, Uniformity()).plus(one)
        return found

    def _carve(self, made: Iterable[tuple[Outcome, Candidate | None]]) -> None:
        for outcome, candidate in made:
            self._ledger.add(outcome)
            if candidate is not None:
                self._found.append((outcome.log_p, candidate))

    def _add_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._ledger.add(outcome)


def _too_uniform(
    found: Uniformity, dtype: str, bits: int, tensor: str, *, whole: bool = False
) -> Outcome:
    """Return the outcome of a test of `smooth` or `integers`."""
    kind: Any = smooth.layout_of_dtype(dtype).kind
    tolerance = TOLERANCE_PACKED if dtype in PACKED else TOLERANCE[kind]
    decided = found.apart * (1 - tolerance) >= _APART
    z = found.z(tolerance) if decided else -inf
    family = "pairs" if kind == "integer" else "smooth"
    return Outcome(
        family=f"{family}-{'file' if whole else 'tensor'}", test="too-uniform",
        what=f"{bits} low bits of {dtype} weights are more uniform than their density",
        log_p=min(0.0, normal_log_tail(z)) if z > 0 else 0.0,
        statistic=z if decided else 0.0, effect=1 - found.share, bits=bits,
        tensor=tensor,
    )  # fmt: skip
