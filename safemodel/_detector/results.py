"""What `detect` found out about a file: values, their JSON and their text.

Nothing here reads a file, and importing this imports neither numpy nor torch.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from safemodel._detector.evidence import Candidate, Evidence
    from safemodel._types import FileLike
    from safemodel.limits import Limits

SCHEMA_VERSION = 1
"""Version of the JSON form; a field that changes its meaning raises it."""


class Verdict(Enum):
    """What is to be said of a file. No test can say that a file holds nothing."""

    SUSPICIOUS = "suspicious"
    NO_EVIDENCE = "no evidence"


class TensorDetection(Value):
    """One tensor of a file, and what speaks against it.

    Attributes:
        name: Where it is in the file; "" has no tensor.
        dtype: Torch's name of its dtype, without prefix.
        role: "weight", "buffer", "optimiser", or "slack": bytes no tensor reaches.
        size: How many numbers it has.
        score: From 0 to 1; the higher, the more speaks against it.
        p_value: Chance that a clean file gives as much against any of its tensors, at
            most; 1 if nothing was found.
        bits: Low bits of each number that seem to be replaced; 0 if unknown or none.
        suspicious: Whether there is evidence against it.
    """

    name: str
    dtype: str
    role: str
    size: int
    score: float
    p_value: float
    bits: int
    suspicious: bool


class Change(Value):
    """What became of one tensor, compared with a file that is trusted.

    Attributes:
        name: Where it is in the file; of one that is missing, in the reference.
        reference: The name of what it was compared with; "" for nothing.
        state: "equal"; "replaced": low bits changed, and none above them; "rounded" to
            fewer bits; "values" changed, as training changes them; "added"; "missing";
            or "incomparable": of another kind of dtype.
        size: How many numbers it has.
        changed: How many of them are not as they were.
        bits: How many low bits were replaced.
        share: Of those that changed, the part that changed in these bits only.
        start: The first number that did; of other states, that changed at all.
        end: One past the last.
    """

    name: str
    reference: str
    state: str
    size: int
    changed: int = 0
    bits: int = 0
    share: float = 0.0
    start: int = 0
    end: int = 0


class Room(Value):
    """Numbers of one dtype in which encrypted data could lie and not be seen.

    Attributes:
        dtype: Torch's name of their dtype, without prefix.
        kind: "weights", which are tested for bits that are too even; "untested", which
            are too few, or of a kind that has no such test; "slack", bytes that no
            tensor reaches.
        numbers: How many there are.
        bits: Lowest bits of every one of them that could be replaced.
        partly: In a part of them so many of the lowest bits could be; at least `bits`.
        share: The largest part, from 0 to 1, of which that is true.
        bytes: Bytes that could lie there at most, all these ways considered.
        scrubbed: Low bits of each that `Scrub` can overwrite.
    """

    dtype: str
    kind: str
    numbers: int
    bits: int
    partly: int
    share: float
    bytes: int
    scrubbed: int


class Remedy(Value):
    """A call of `disarm` that takes away room.

    Attributes:
        bits: Low bits that it overwrites; 0 for none.
        call: In Python.
        command: On the command line.
        left: Bytes of the blind spot's that are left afterwards, at most.
        change: How much of itself a number may change at most, dtype by dtype.
    """

    bits: int
    call: str
    command: str
    left: int
    change: dict[str, float]


class BlindSpot(Value):
    """Where encrypted data could lie in this file without being seen by any test.

    Attributes:
        bits: dtype → lowest bits of every number, its tested weights, that could be
            replaced; of dtypes without tested weights, of the others.
        bytes: Bytes that could lie in the whole file at most.
        rooms: Where.
        remedies: What takes the room away; the last one takes all that `disarm` can,
            those before it less, at less harm.
        left: Bytes that no remedy takes away: of integers, above all.
    """

    bits: dict[str, int]
    bytes: int
    rooms: tuple[Room, ...]
    remedies: tuple[Remedy, ...]
    left: int

    @property
    def call(self) -> str:
        """The call of Python that takes away all the room that `disarm` can."""
        return self.remedies[-1].call if self.remedies else ""

    @property
    def command(self) -> str:
        """The same on the command line."""
        return self.remedies[-1].command if self.remedies else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        lists = ("rooms", "remedies")
        return {**vars(self), **{name: _dicts(vars(self)[name]) for name in lists}}

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> BlindSpot:
        """Return the value whose JSON form this is."""
        plain = {name: members[name] for name in cls.__annotations__}
        plain["rooms"] = tuple(Room(**one) for one in members["rooms"])
        plain["remedies"] = tuple(Remedy(**one) for one in members["remedies"])
        return cls(**plain)


class Detection(Value):
    """What `detect` found in the weights of a file, and what it could not have found.

    It has no truth value: that nothing was found is no proof that nothing is there.

    Attributes:
        path: The file or folder as it was named; "" for bytes, modules and mappings.
        format: What it is, in words.
        size: Its bytes; of a module or a mapping, those of its tensors.
        verdict: Whether there is evidence of data hidden in it.
        score: From 0 to 1; comparable between files of one detector only.
        threshold: Score from which on the verdict is `Verdict.SUSPICIOUS`.
        false_positive_rate: Chance that a clean file comes out suspicious that the
            threshold was set for, whatever the number of tensors; None if the detector
            was never calibrated.
        evidence: Which tests found something, the strongest first.
        by_tensor: Each tensor, in the order of the file.
        bits: Estimated low bits of each weight that were replaced; 0 if unknown or
            none.
        candidates: What the low bits begin like, the most certain first; see `extract`.
        blind_spot: Where encrypted data could lie and no test would have seen it.
        reference: The file it was compared with; "" if there was none, or it has no
            name.
        changes: What became of each tensor, if there was one.
        detector_id: Which detector it was.
        version: Version of this package.
        seconds: How long it took.
    """

    path: str
    format: str
    size: int
    verdict: Verdict
    score: float
    threshold: float
    false_positive_rate: float | None
    evidence: tuple[Evidence, ...]
    by_tensor: tuple[TensorDetection, ...]
    bits: int
    candidates: tuple[Candidate, ...]
    blind_spot: BlindSpot
    reference: str = ""
    changes: tuple[Change, ...] = ()
    detector_id: str
    version: str
    seconds: float

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a detection is neither true nor false: compare its verdict with"
            " Verdict.SUSPICIOUS, and read its blind_spot"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        lists = ("evidence", "by_tensor", "candidates", "changes")
        return {
            "schema": SCHEMA_VERSION,
            **vars(self),
            "verdict": self.verdict.value,
            **{name: _dicts(vars(self)[name]) for name in lists},
            "blind_spot": self.blind_spot.to_dict(),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the detection as JSON; docs/detect.md describes every member."""
        import json

        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Detection:
        """Return the detection whose JSON form this is.

        Raises:
            ValueError: It is of another version of the schema.
        """
        from safemodel._detector.evidence import Candidate, Evidence

        if members.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"not a detection of schema {SCHEMA_VERSION}")
        plain = {name: members[name] for name in cls.__annotations__}
        plain["verdict"] = Verdict(members["verdict"])
        plain["evidence"] = tuple(Evidence(**one) for one in members["evidence"])
        plain["by_tensor"] = tuple(
            TensorDetection(**one) for one in members["by_tensor"]
        )
        plain["candidates"] = tuple(Candidate(**one) for one in members["candidates"])
        plain["changes"] = tuple(Change(**one) for one in members["changes"])
        plain["blind_spot"] = BlindSpot.from_dict(members["blind_spot"])
        return cls(**plain)

    def to_html(
        self,
        f: FileLike | torch.nn.Module | Mapping[str, Any] | None = None,
        *,
        limits: Limits | None = None,
    ) -> str:
        """Return the detection as one page of HTML that runs nothing.

        Args:
            f: What was given to `detect`, to draw pictures of: it is read once more,
                but only tensors that are drawn. Without it, the page has no pictures.
            limits: How much the file may ask for.

        Raises:
            SafeModelError: As `detect`.
            OSError: It cannot be read.
            ValueError: These are not the weights of this detection.
        """
        from safemodel._report.detect_html import page

        if f is None:
            return page(self)
        from safemodel._detector.pictures import pictures

        return page(self, pictures(self, f, limits))

    def to_png(
        self,
        f: FileLike | torch.nn.Module | Mapping[str, Any],
        *,
        limits: Limits | None = None,
    ) -> bytes:
        """Return one picture of all of it: bits, tensor by tensor, and the evidence.

        Args:
            f: What was given to `detect`; it is read once more, as by `to_html`.
            limits: How much the file may ask for.

        Raises:
            SafeModelError: As `detect`.
            OSError: It cannot be read.
            ValueError: These are not the weights of this detection.
        """
        from safemodel._detector.pictures import pictures
        from safemodel._report.plot import plot

        return plot(self, pictures(self, f, limits))

    def __str__(self) -> str:
        """Return the detection for people: what was found, and what cannot be."""
        from safemodel._report.detect_text import detection_lines

        return "\n".join(line for _, line in detection_lines(self))


def _dicts(values: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(vars(one)) for one in values]
