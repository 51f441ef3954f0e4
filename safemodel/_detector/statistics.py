"""All tests over the weights of a file, one tensor after the other.

Rules:

1. Memory is that of one piece, and of a short result for each tensor.
2. Each test of the file is counted, whether it found something or not (`evidence`).
3. Slack is read for files that lie in it, and no more: of what kind its numbers are is
   not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._detector import (
    carving,
    runs,
    smooth,
    spread,
    spread_score,
    structure,
    structured,
)
from safemodel._detector.counts import BLOCK, Counter
from safemodel._detector.densities import LEAST as LEAST_SMOOTH
from safemodel._detector.densities import Densities
from safemodel._detector.evidence import Ledger
from safemodel._detector.repeats import of_piece
from safemodel._detector.smooth import Evenness
from safemodel._detector.spread_published import Published
from safemodel._detector.spread_samples import Sampler
from safemodel._detector.streams import entropy
from safemodel._detector.subnormals import Subnormals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from safemodel._detector.counts import Block, Piece, Tensor
    from safemodel._detector.evidence import Candidate, Evidence, Outcome
    from safemodel._detector.smooth import Uniformity
    from safemodel._detector.spread_fit import Noise
    from safemodel._detector.structured import Close, Sums
    from safemodel._detector.weights import Weights

_CARVED_BLOCKS = 4
_LEAST = 256
_MOST_CANDIDATES = 1000
_NOTHING: Mapping[Any, Uniformity] = {}


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
        octaves: As `uniformity`; see `octaves`.
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
    octaves: Mapping[int, Uniformity] = _NOTHING


class Statistics(NamedTuple):
    """What the tests of a file gave.

    Attributes:
        ledger: All outcomes, and how many tests there were.
        tensors: A result for each tensor that is large enough.
        uniformity: (dtype, replaced bits) → all weights together.
        candidates: What the low bits begin like, the most certain first.
        noise: What was added to all matrices, if anything was; see `spread_fit`. None
            if there is too little to say.
        octaves: As `uniformity`; see `octaves`.
    """

    ledger: Ledger
    tensors: tuple[TensorResult, ...]
    uniformity: dict[tuple[str, int], Uniformity]
    candidates: tuple[Candidate, ...]
    noise: Noise | None = None
    octaves: Mapping[tuple[str, int], Uniformity] = _NOTHING

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
        self._copies, self._known = structure.Copies(), structure.Known()
        self._subnormals = Subnormals()
        self._sampler, self._published = Sampler(), Published()
        self._tensor: Tensor | None = None
        self._sums: Sums | None = None
        self._blocks = self._suspects = self._carved = self._repetitive = 0
        self._again = False
        self._results: list[TensorResult] = []
        self._whole: dict[str, Sums] = {}
        self._densities = Densities(self._ledger)
        self._found: list[tuple[float, Candidate]] = []

    def take(self, item: Weights) -> None:
        """Look at a piece of a tensor."""
        if item.start == 0:
            self._end_tensor()
            self._tensor = self._counter.start(item)
            self._sums = None
            self._blocks = self._suspects = self._repetitive = 0
            self._again = False
        tensor = self._tensor
        if tensor is None:
            raise ValueError("the first piece of a tensor is missing")
        self._sampler.take(item)
        self._published.take(item)
        searched = tensor.layout.kind != "bytes"
        if item.start == 0 and searched:
            likely, others = carving.likely(item.bits, tensor.layout)
            self._ledger.passed("carving", others)
            self._carve(carving.at_start(item.bits, tensor.name, likely))
        piece = self._counter.piece(tensor, item.bits)
        marks, places = self._counter.marks()
        if item.role == "slack":
            return
        self._look(piece, tensor)
        if searched:
            repeated = of_piece(
                item.bits, item.start, marks, places, tensor.name, tensor.layout
            )
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
        self._densities.finish()
        self._add_all(self._subnormals.outcomes())
        tails = [one.tail for one in self._results if one.tail is not None]
        self._ledger.add(spread.common_noise(tails))
        self._ledger.add(self._published.outcome())
        noise = spread_score.noise_of(self._sampler)
        self._ledger.add(spread_score.outcome(noise))
        self._found.sort(key=lambda pair: pair[0])
        return Statistics(
            self._ledger, tuple(self._results), self._densities.uniformity,
            tuple(candidate for _, candidate in self._found[:_MOST_CANDIDATES]), noise,
            self._densities.octaves,
        )  # fmt: skip

    def _look(self, piece: Piece, tensor: Tensor) -> None:
        """Look at the blocks of a piece, closely at those that are odd."""
        if structured.is_left_out(tensor):
            return
        number = len(piece.products)
        self._blocks += number
        self._again = self._again or self._known.again(piece, tensor)
        for at in structure.gaps(piece, tensor.layout):
            gap = structure.of_block(piece.block(at), tensor)
            if gap is not None:
                self._ledger.add(gap)
        plain = ~structured.suspects(piece, tensor)
        zeros = runs.odd(piece, tensor.layout)
        last = piece.words[BLOCK * (number - 1) :]
        repetitive = structured.is_repetitive(last, tensor.layout)
        if repetitive:
            plain[-1] = False
        for at in range(number):
            if zeros[at]:
                self._zeros(piece.block(at), tensor)
            else:
                self._ledger.passed("structured-block", 2)
            if plain[at]:
                self._ledger.passed("structured-block", structured.TESTS)
            elif repetitive and at == number - 1:
                self._ledger.passed("structured-block")
                self._repetitive += last.size
            else:
                self._suspect(piece.block(at), tensor)
        if plain.any():
            self._add_plain(piece, tensor, plain)

    def _add_plain(
        self, piece: Piece, tensor: Tensor, which: NDArray[np.bool_]
    ) -> None:
        """Add counts of blocks that are not odd."""
        if self._again and self._is_alone(tensor):
            piece.packed[:] = 0
        structured.add_unsuspected(self._of_tensor(tensor), piece, which)

    def _zeros(self, block: Block, tensor: Tensor) -> None:
        """Make the tests for zeros in a row."""
        for found in (runs.of_block(block, tensor), runs.of_exponents(block, tensor)):
            if found is None:
                self._ledger.passed("structured-block")
            else:
                self._ledger.add(found)

    def _of_tensor(self, tensor: Tensor) -> Sums:
        """Return the counts to which those of the tensor are added.

        Those of a tensor of one block are of no use by themselves.
        """
        if self._is_alone(tensor):
            known = self._whole.get(tensor.dtype)
            if known is None:
                known = self._whole[tensor.dtype] = structured.empty_sums(tensor.layout)
            return known
        if self._sums is None:
            self._sums = structured.empty_sums(tensor.layout)
        return self._sums

    def _is_alone(self, tensor: Tensor) -> bool:
        """Say whether counts of a tensor go to those of the file at once."""
        alone = tensor.size <= BLOCK and tensor.role == "weight"
        return alone and tensor.layout.kind != "bytes"

    def _suspect(self, block: Block, tensor: Tensor) -> None:
        """Look closely at a block."""
        self._suspects += 1
        close = structured.cleaned(block, tensor)
        if close is None:
            self._ledger.passed("structured-block")
            self._repetitive += block.words.size
            return
        self._closely(block, tensor, close)
        sums = close.sums
        if close.model is not None or (self._again and self._is_alone(tensor)):
            sums.packed[:] = 0  # of a model, what is expected is that of this block
        if tensor.layout.kind == "float" and 2 * sums.close[0] < block.words.size:
            # Words that come again in other blocks would count as often there.
            self._repetitive += block.words.size
        else:
            structured.add(self._of_tensor(tensor), sums)

    def _closely(self, block: Block, tensor: Tensor, close: Close) -> None:
        sums, end = close.sums, block.start + block.words.size
        where: dict[str, Any] = {
            "tensor": tensor.name, "start": block.start, "end": end,
        }  # fmt: skip
        made = structured.outcomes(
            sums, tensor.layout, "structured-block", where, close.model
        )
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
        if tensor is None or tensor.done == 0:
            return
        self._counter.finish(tensor)
        if tensor.role == "slack":
            return
        self._add_all(structure.of_tensor(tensor))
        self._add_all(self._copies.add(tensor))
        self._add_all(self._subnormals.add(tensor))
        even = self._even(tensor)
        if tensor.layout.kind != "bytes":
            if self._blocks > 1:
                self._sums_ended(tensor, sums or structured.empty_sums(tensor.layout))
            elif tensor.role == "weight":
                self._of_tensor(tensor)  # the tests are made even if nothing is left
        if tensor.size >= _LEAST:
            self._results.append(self._result(tensor, even))

    def _sums_ended(self, tensor: Tensor, sums: Sums) -> None:
        """Make the tests over all blocks of a tensor, and add them to those of all."""
        family, where = "structured-tensor", {"tensor": tensor.name}
        self._add_all(structured.outcomes(sums, tensor.layout, family, where))
        if self._again:
            sums.packed[:] = 0
        if tensor.role == "weight":
            known = self._whole.setdefault(tensor.dtype, sums)
            if known is not sums:
                structured.add(known, sums)

    def _result(self, tensor: Tensor, even: Evenness) -> TensorResult:
        counts = tensor.lows[0]
        known = tensor.layout.exponent > 0
        return TensorResult(
            tensor.name, tensor.dtype, tensor.role, tensor.size,
            smooth.constant_bits(tensor) if known else 0,
            structured.tensor_excess(tensor).effect, entropy(counts),
            structured.bias(counts)[0],
            self._suspects / max(self._blocks, 1), even.uniformity,
            tensor.subnormals / tensor.size, spread.tail_of(tensor), even.octaves,
        )  # fmt: skip

    def _even(self, tensor: Tensor) -> Evenness:
        """Make the tests for uniformity; what they found of floats is known later."""
        if tensor.role != "weight" or tensor.size < LEAST_SMOOTH:
            return Evenness({}, {})
        if 2 * self._repetitive > tensor.size:
            return Evenness({}, {})  # so few different words say nothing of a density
        return self._densities.take(tensor)

    def _carve(self, made: Iterable[tuple[Outcome, Candidate | None]]) -> None:
        for outcome, candidate in made:
            self._ledger.add(outcome)
            if candidate is not None:
                self._found.append((outcome.log_p, candidate))

    def _add_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._ledger.add(outcome)
