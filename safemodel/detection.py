"""Data hidden in weights: `detect`, and what it cannot know.

A file in which nothing is found is not a clean file. Encrypted data in the lowest bits
of float32 weights looks like what training leaves there, so no test tells them apart;
`Detection.blind_spot` says how much could lie where, and what takes the room away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from safemodel._detector.detector import Detector
from safemodel._detector.results import (
    BlindSpot,
    Change,
    Detection,
    Remedy,
    Room,
    TensorDetection,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from safemodel._detector.evidence import Candidate, Evidence
    from safemodel._types import FileLike
    from safemodel.limits import Limits

__all__ = [
    "BlindSpot",
    "Candidate",
    "Change",
    "Detection",
    "Detector",
    "Evidence",
    "Remedy",
    "Room",
    "TensorDetection",
    "Verdict",
    "detect",
    "extract",
]


def __getattr__(name: str) -> Any:
    """Import what only a detection needs when it is asked for: starting costs time."""
    if name in ("Candidate", "Evidence"):
        from safemodel._detector import evidence

        return evidence.Evidence if name == "Evidence" else evidence.Candidate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def detect(
    f: FileLike | torch.nn.Module | Mapping[str, Any],
    *,
    detector: Detector | Literal["x-ray"] | None = None,
    reference: FileLike | torch.nn.Module | Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Detection:
    """Look for data that is hidden in weights. Nothing a file names is run.

    Args:
        f: A file of any format that `safe_load` reads: a path, bytes, or a binary file
            object; the path of a folder with an index of shards; a module; or a mapping
            of tensors or arrays.
        detector: Decides; None for `Detector.bundled()`. "x-ray" is the published
            detector, to be compared with: it sees float32 weights only, holds all of
            them in memory, and was never calibrated.
        reference: A file that is trusted, of which ``f`` is said to be a copy or to
            have been trained: the same kinds of things. Low bits that differ under
            others that do not are conclusive.
        limits: How much the file may ask for.

    Returns:
        What was found, and what could not have been: read its ``blind_spot``.

    Raises:
        SafeModelError: The file is malformed, protected, or of no format we read. A
            file that asks to run something is no reason not to look into it.
        OSError: It cannot be read.
        TypeError: An argument is of the wrong type.
        ValueError: A folder that has no index of shards, or several; there is no such
            detector; or "x-ray", and there are no float32 weights.
    """
    from safemodel._detector.detecting import detect_in

    if isinstance(detector, str) and detector != "x-ray":
        raise ValueError(f"detector is a Detector, 'x-ray' or None: {detector!r}")
    if not isinstance(detector, Detector | str | None):
        raise TypeError(f"detector is a Detector or None: {type(detector).__name__}")
    return detect_in(f, detector=detector, reference=reference, limits=limits)


def extract(
    f: FileLike | torch.nn.Module | Mapping[str, Any],
    candidate: Candidate,
    *,
    length: int = 0,
    limits: Limits | None = None,
) -> bytes:
    """Return the bytes that a candidate stands for. They are not run or unpacked.

    Args:
        f: What was given to `detect`.
        candidate: One of `Detection.candidates`.
        length: Bytes to read; 0 for as many as the head of what is hidden says, or all
            there are.
        limits: How much the file may ask for.

    Returns:
        What is hidden, read on through the tensors of the same dtype that follow.

    Raises:
        SafeModelError: As `detect`.
        OSError: It cannot be read.
        ValueError: There is no such place in the file, or ``length`` is negative.
    """
    from safemodel._detector.detecting import extracted

    return extracted(f, candidate, length=length, limits=limits)
