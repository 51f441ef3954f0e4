"""`detect`, step by step: open, test, judge, and say what could not be seen."""

from __future__ import annotations

import os
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from safemodel._detector import carving
from safemodel._detector.blind_spot import blind_spot
from safemodel._detector.census import Census
from safemodel._detector.detector import Detector
from safemodel._detector.estimating import replaced_bits
from safemodel._detector.judging import XRAY_ID, with_reference
from safemodel._detector.opening import any_opened
from safemodel._detector.reference import Comparison
from safemodel._detector.results import Detection, TensorDetection, Verdict
from safemodel._detector.statistics import examine
from safemodel._version import VERSION
from safemodel.errors import quote

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from safemodel._detector.evidence import Candidate, Evidence
    from safemodel._detector.judging import Judgement
    from safemodel._detector.statistics import Statistics
    from safemodel._detector.weights import Held, Weights
    from safemodel.limits import Limits

    XRayName: TypeAlias = Literal["x-ray"]

_SUFFIXES = {
    "safetensors": ".safetensors", "npz archive": ".npz", "npy array": ".npz",
    "zip archive of several members": ".zip",
}  # fmt: skip


def detect_in(
    f: Any, *, detector: Detector | XRayName | None, reference: Any,
    limits: Limits | None,
) -> Detection:  # fmt: skip
    """Return what is found in a file, a folder, a module or a mapping."""
    started = perf_counter()
    census, comparison = Census(), None
    with ExitStack() as stack:
        source = stack.enter_context(any_opened(f, limits))
        items = census.passing(source.weights())
        if reference is not None:
            other = stack.enter_context(any_opened(reference, limits))
            comparison = Comparison(source, other)
            items = comparison.passing(items)
        statistics, judgement, judge = _judged(items, source.tensors, detector)
    judgement = with_reference(judgement, comparison)
    changes = () if comparison is None else comparison.changes
    equal = {one.name for one in changes if one.state == "equal"}
    path = path_of(f)
    bits = replaced_bits(judgement.evidence) if judgement.suspicious else 0
    return Detection(
        path=path,
        format=source.format,
        size=source.size or census.nbytes,
        verdict=Verdict.SUSPICIOUS if judgement.suspicious else Verdict.NO_EVIDENCE,
        score=judgement.score,
        threshold=judgement.threshold,
        false_positive_rate=judgement.false_positive_rate,
        evidence=judgement.evidence,
        by_tensor=_by_tensor(census, judgement),
        bits=bits,
        candidates=tuple(dict.fromkeys(statistics.candidates)),
        blind_spot=blind_spot(
            [one for one in census.tensors if one.name not in equal],
            statistics,
            judge=judge,
            names=_names(path, source.format),
            replaced=bits,
        ),
        reference=path_of(reference),
        changes=changes,
        detector_id=XRAY_ID if judge is None else judge.id,
        version=VERSION,
        seconds=round(perf_counter() - started, 3),
    )


def _judged(
    items: Iterator[Weights],
    tensors: Sequence[Held],
    detector: Detector | XRayName | None,
) -> tuple[Statistics, Judgement, Detector | None]:
    """Return what was found, what a detector says of it, and which: None: the x-ray."""
    if detector == "x-ray":
        from safemodel._detector.xray_judging import looked_at, xrayed

        number = sum(one.size for one in tensors if looked_at(one.dtype, one.role))
        return *xrayed(items, number), None
    chosen = Detector.bundled() if detector is None else detector
    statistics = examine(items)
    return statistics, chosen.judge(statistics), chosen


def extracted(
    f: Any, candidate: Candidate, *, length: int, limits: Limits | None
) -> bytes:
    """Return the bytes that a candidate stands for."""
    return b"".join(pieces_extracted(f, candidate, length=length, limits=limits))


def pieces_extracted(
    f: Any, candidate: Candidate, *, length: int, limits: Limits | None
) -> Generator[bytes]:
    """Yield the same piece by piece."""
    if length < 0:
        raise ValueError(f"a length is not negative: {length}")
    found = False
    with any_opened(f, limits) as source:
        for piece in carving.pieces_of(source.weights(), candidate, length):
            found = True
            yield piece
    if not found:
        raise ValueError(f"no weight {candidate.start:,} of {quote(candidate.tensor)}")


def path_of(f: Any) -> str:
    """Return what a file is called; "" for what has no path."""
    return os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else ""


def _by_tensor(census: Census, judgement: Judgement) -> tuple[TensorDetection, ...]:
    """Return what speaks against each tensor."""
    against: dict[str, list[Evidence]] = {}
    for one in judgement.evidence:
        against.setdefault(one.tensor, []).append(one)
    return tuple(
        TensorDetection(
            name=known.name,
            dtype=known.dtype,
            role=known.role,
            size=known.size,
            score=judgement.tensors.get(known.name, 0.0),
            p_value=min((e.p_value for e in against.get(known.name, ())), default=1.0),
            bits=replaced_bits(against.get(known.name, ())),
            suspicious=judgement.suspicious and known.name in against,
        )
        for known in census.tensors
    )


def _names(path: str, form: str) -> tuple[str, str]:
    """Return what a command can call a file, and a disarmed copy of it."""
    if not path or not path.isprintable():
        return "", ""
    if path.startswith("-"):
        path = os.path.join(os.curdir, path)  # noqa: PTH118 - any path
    head, tail = os.path.split(path.rstrip("/"))
    stem, suffix = tail, ""
    if not os.path.isdir(path):  # noqa: PTH112 - any path
        stem, suffix = tail.partition(".")[0] or tail, _SUFFIXES.get(form, ".pt")
    return path, os.path.join(head, f"{stem}-scrubbed{suffix}")  # noqa: PTH118
