"""What the tests of one file found, and p-values that hold for the whole file.

Rules:

1. Tests come in families, and each family has the same share of the chance to be
   wrong, however many tests there are in it. Within a family every test counts.
2. So a corrected p-value is the uncorrected one, times the tests of its family, times
   the families: Bonferroni's inequality, which needs no independence. At a threshold
   t, a clean file gives evidence with chance t at most, however many tensors it has.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from safemodel._detector.distributions import probability
from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Collection

FAMILIES = (
    "structured-block", "structured-tensor", "structured-file",
    "smooth-tensor", "smooth-file", "pairs-tensor", "pairs-file",
    "structure", "subnormals", "repeats", "spread", "carving",
)  # fmt: skip
Order: TypeAlias = Literal["high-first", "low-first"]
_KEPT = log(1e-2)
_MOST = 100_000


class Evidence(Value):
    """One test that a clean file would hardly have come out of like this.

    Attributes:
        test: Name of the test.
        what: What was found, in a sentence.
        tensor: Name of the tensor; "" for the whole file.
        start: First element it is about.
        end: One past the last; 0 for all of them.
        statistic: What the test computes.
        effect: How far that is from what clean weights give, whatever their number;
            each test says in which unit.
        bits: Low bits of each weight that seem to be replaced; 0 if unknown.
        p_value: Chance that a clean file gives this anywhere, at most; corrected for
            all tests of the file.
    """

    test: str
    what: str
    tensor: str
    start: int
    end: int
    statistic: float
    effect: float
    bits: int
    p_value: float


class Candidate(Value):
    """What seems to be hidden, and where to read it.

    Attributes:
        kind: Format it begins like.
        tensor: Tensor in which it begins.
        start: Weight in which it begins.
        skip: Bits of that weight's that come before it.
        bits: Low bits of each weight that are read.
        order: Which of them comes first.
        length: Bytes of the whole, if its head says so; else 0.
        entropy: Of its first bytes, in bits a byte.
        compressed: Length of its first bytes once compressed, divided by their length.
    """

    kind: str
    tensor: str
    start: int
    skip: int
    bits: int
    order: Order
    length: int
    entropy: float
    compressed: float


class Outcome(NamedTuple):
    """What one test gave.

    Attributes:
        family: One of `FAMILIES`.
        test: Name of the test.
        what: As of `Evidence`.
        log_p: Natural logarithm of the p-value, uncorrected.
        statistic: As of `Evidence`.
        effect: As of `Evidence`.
        bits: As of `Evidence`.
        tensor: As of `Evidence`.
        start: As of `Evidence`.
        end: As of `Evidence`.
    """

    family: str
    test: str
    what: str
    log_p: float
    statistic: float = 0.0
    effect: float = 0.0
    bits: int = 0
    tensor: str = ""
    start: int = 0
    end: int = 0


class Ledger:
    """Counts the tests of one file, and keeps those that gave something.

    Attributes:
        counts: Family → how many of its tests were made.
        kept: Outcomes of small p-values, in the order of the file.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(FAMILIES, 0)
        self.kept: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of a test."""
        self.counts[outcome.family] += 1
        if outcome.log_p < _KEPT and len(self.kept) < _MOST:
            self.kept.append(outcome)

    def passed(self, family: str, tests: int = 1) -> None:
        """Count tests of a family that gave nothing worth an outcome."""
        self.counts[family] += tests

    def log_p(self, outcome: Outcome) -> float:
        """Return the logarithm of a p-value that holds for the whole file (rule 2)."""
        tests = max(self.counts[outcome.family], 1)
        return min(0.0, outcome.log_p + log(tests) + log(len(FAMILIES)))

    def evidence(
        self, threshold: float = 1e-3, families: Collection[str] = FAMILIES
    ) -> tuple[Evidence, ...]:
        """Return what some families have below a threshold, the strongest first."""
        found = [(self.log_p(one), one) for one in self.kept if one.family in families]
        found.sort(key=lambda pair: pair[0])
        return tuple(
            self.evidence_of(one) for log_p, one in found if log_p <= log(threshold)
        )

    def evidence_of(self, one: Outcome) -> Evidence:
        """Return an outcome as evidence, its p-value corrected."""
        return Evidence(
            test=one.test, what=one.what, tensor=one.tensor, start=one.start,
            end=one.end, statistic=one.statistic, effect=one.effect,
            bits=one.bits, p_value=probability(self.log_p(one)),
        )  # fmt: skip
