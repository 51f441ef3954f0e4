"""`detect` over many files: what became of each, also where it could not be read."""

from __future__ import annotations

import json
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Literal

from safemodel._detector.detecting import detect_in
from safemodel._detector.extracting import Extracted, write_candidates
from safemodel._detector.results import Detection
from safemodel._scan.workers import answer, in_processes
from safemodel._value import Value
from safemodel.errors import SafeModelError
from safemodel.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safemodel._detector.detector import Detector
    from safemodel._scan.paths import Target

_XRAY: Literal["x-ray"] = "x-ray"


class How(Value):
    """How files are looked at.

    Attributes:
        detector: "" for the bundled one, "x-ray", or a file that `Detector.save` wrote.
        reference: A file that each is compared with; "" for none.
        extract: A folder for candidates; "" for none.
        limits: How much a file may ask for.
    """

    detector: str = ""
    reference: str = ""
    extract: str = ""
    limits: Limits = DEFAULT_LIMITS


class FileDetection(Value):
    """What became of one file.

    Attributes:
        path: The file as it was named.
        detection: What was found; None if it was not looked at.
        error: Name of the exception's class; "" if there is none.
        message: What it says.
        extracted: Candidates that were written.
    """

    path: str
    detection: Detection | None = None
    error: str = ""
    message: str = ""
    extracted: tuple[Extracted, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **vars(self),
            "detection": None if self.detection is None else self.detection.to_dict(),
            "extracted": [dict(vars(one)) for one in self.extracted],
        }

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> FileDetection:
        """Return the value whose JSON form this is."""
        plain = {name: members[name] for name in cls.__annotations__}
        if plain["detection"] is not None:
            plain["detection"] = Detection.from_dict(plain["detection"])
        plain["extracted"] = tuple(Extracted(**one) for one in plain["extracted"])
        return cls(**plain)


class DetectWork:
    """The work of `detect_files`, for several processes.

    Args:
        how: How files are looked at.
    """

    module = "safemodel._detector.many"

    def __init__(self, how: How) -> None:
        self._how = how

    def settings(self) -> dict[str, Any]:
        """Return what `serve` takes."""
        return {**vars(self._how), "limits": vars(self._how.limits)}

    def report(self, target: Target) -> FileDetection:
        """Look into a file."""
        return detect_target(target, self._how)

    def read(self, members: dict[str, Any]) -> FileDetection:
        """Return what a worker has sent."""
        return FileDetection.from_dict(members)

    def failed(self, path: str, why: str) -> FileDetection:
        """Return that a file could not be looked at."""
        return FileDetection(path=path, error="OSError", message=why)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more: the work of a worker."""

    def look(given: dict[str, Any]) -> Callable[[Target], str]:
        how = How(**{**given, "limits": Limits(**given["limits"])})
        return lambda target: json.dumps(detect_target(target, how).to_dict())

    answer(requests, answers, look)


def detect_files(
    targets: Sequence[Target], jobs: int, how: How
) -> Iterator[FileDetection]:
    """Yield what became of each file, in order."""
    if jobs > 1 and len(targets) > 1:
        return in_processes(targets, jobs, DetectWork(how), batch=1)
    return (detect_target(target, how) for target in targets)


def detect_target(target: Target, how: How) -> FileDetection:
    """Look into one file, whatever happens to it."""
    path = target.path
    if target.problem:
        return FileDetection(path=path, error="OSError", message=target.problem)
    try:
        found = detect_in(
            path,
            detector=_detector(how),
            reference=how.reference or None,
            limits=how.limits,
        )
        written: tuple[Extracted, ...] = ()
        if how.extract:
            written = write_candidates(path, found, how.extract, how.limits)
    except OSError as error:
        said = error.strerror or str(error)
        if error.filename not in (None, path):
            said = f"{error.filename}: {said}"
        return FileDetection(path=path, error="OSError", message=said)
    except (SafeModelError, ValueError) as error:
        return FileDetection(path=path, error=type(error).__name__, message=str(error))
    return FileDetection(path=path, detection=found, extracted=written)


def _detector(how: How) -> Detector | Literal["x-ray"] | None:
    """Return what decides: a detector of a file is read once a process."""
    if how.detector in ("", _XRAY):
        return _XRAY if how.detector else None
    return _loaded(how.detector, how.limits)


@cache
def _loaded(path: str, limits: Limits) -> Detector:
    from safemodel._detector.detector import Detector

    return Detector.load(path, limits=limits)


def whole_models(targets: Sequence[Target], limits: Limits) -> list[Target]:
    """Return files without the shards that an index among them stands for."""
    import os

    from safemodel._containers.shard_index import read_shard_index

    shards: set[str] = set()
    for target in targets:
        if not target.path.endswith(".index.json") or target.problem:
            continue
        try:
            with open(target.path, "rb") as file:  # noqa: PTH123 - any path
                data = file.read(limits.max_header_bytes + 1)
            named = read_shard_index(data[: limits.max_header_bytes], limits=limits)
        except (OSError, SafeModelError):
            continue  # what it is, `detect` says
        folder = os.path.dirname(target.path)  # noqa: PTH120 - any path
        shards |= {os.path.join(folder, name) for name in named}  # noqa: PTH118
    return [target for target in targets if target.path not in shards]
