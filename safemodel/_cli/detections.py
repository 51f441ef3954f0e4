"""What ``safemodel detect`` prints, and which exit code that is."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from safemodel._cli.summary import is_other
from safemodel._report.detect_text import (
    candidate_text,
    detection_lines,
    evidence_texts,
    short_text,
)
from safemodel._report.words import shown, size_text
from safemodel.reports import SCHEMA_VERSION, FileReport

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Protocol

    from safemodel._detector.many import FileDetection

    class Output(Protocol):
        """Where findings go: one object a form of output."""

        def add(self, found: FileDetection) -> None:
            """Take what became of one file."""
            ...

        def close(self) -> int:
            """Write whatever comes after the last one; return the exit code."""
            ...


SUSPICIOUS, NO_EVIDENCE, NO_MODEL = "suspicious", "no evidence", "no model"
UNSUPPORTED, REFUSED, UNREADABLE = "unsupported", "refused", "unreadable"
WORDS = (SUSPICIOUS, NO_EVIDENCE, REFUSED, UNSUPPORTED, UNREADABLE, NO_MODEL)
_CODES = {SUSPICIOUS: 1, NO_EVIDENCE: 0, NO_MODEL: 0}
_CANNOT = 2
_MOST = 3


def word_of(found: FileDetection) -> str:
    """Return what became of a file, in a word or two."""
    if found.detection is not None:
        return found.detection.verdict.value
    if found.error == "OSError":
        return UNREADABLE
    if found.error in ("UnsupportedFormatError", "KeyRequiredError", "ValueError"):
        looked = FileReport(
            path=found.path, format=found.message, refused=True, error=found.error
        )
        return NO_MODEL if is_other(looked) else UNSUPPORTED
    return REFUSED


class Tally:
    """Counts files by what became of them."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(WORDS, 0)

    def add(self, found: FileDetection) -> str:
        """Count a file; return what became of it."""
        word = word_of(found)
        self.counts[word] += 1
        return word

    @property
    def exit_code(self) -> int:
        """The exit code: what is suspicious counts more than what is not known."""
        if self.counts[SUSPICIOUS]:
            return 1
        there = [word for word, count in self.counts.items() if count]
        return max((_CODES.get(word, _CANNOT) for word in there), default=0)

    def sentence(self) -> str:
        """Return the counts as a line."""
        total = sum(self.counts.values())
        parts = [f"{count:,} {word}" for word, count in self.counts.items() if count]
        files = "1 file" if total == 1 else f"{total:,} files"
        return f"{files}: {', '.join(parts)}" if parts else "no files"


def output_for(options: argparse.Namespace, files: int) -> Output:
    """Return what writes the form of output that is asked for."""
    if options.json:
        return JsonDetections()
    is_whole = options.verbose or files == 1
    if sys.stdout.isatty():
        from safemodel._cli.detect_terminal import TerminalDetections

        return TerminalDetections(whole=is_whole, quiet=options.quiet)
    return TextDetections(whole=is_whole, quiet=options.quiet)


class TextDetections:
    """Writes what became of files as it comes.

    Args:
        whole: Write all of every file.
        quiet: Write only what is suspicious.
    """

    def __init__(self, *, whole: bool, quiet: bool) -> None:
        self._whole, self._quiet = whole, quiet
        self._tally = Tally()

    def add(self, found: FileDetection) -> None:
        """Write what became of a file."""
        word = self._tally.add(found)
        if self._quiet and word != SUSPICIOUS:
            return
        lines = whole_lines(found) if self._whole else short_lines(found)
        sys.stdout.writelines(f"{line}\n" for _, line in lines)

    def close(self) -> int:
        """Write the counts, if there are several files; return the exit code."""
        if sum(self._tally.counts.values()) != 1 and not self._quiet:
            sys.stdout.write(f"{self._tally.sentence()}\n")
        return self._tally.exit_code


class JsonDetections:
    """Writes ``{"schema", "files": [...], "summary": {...}}``; see docs/detect.md."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._between = ""
        sys.stdout.write(f'{{"schema": {SCHEMA_VERSION}, "files": [\n')

    def add(self, found: FileDetection) -> None:
        """Write what became of a file."""
        members: dict[str, Any] = found.to_dict()
        verdict = {"path": found.path, "verdict": self._tally.add(found)}
        sys.stdout.write(self._between + json.dumps({**verdict, **members}))
        self._between = ",\n"

    def close(self) -> int:
        """Write the counts; return the exit code."""
        code = self._tally.exit_code
        summary = json.dumps({**self._tally.counts, "exit_code": code})
        sys.stdout.write(f'\n], "summary": {summary}}}\n')
        return code


def whole_lines(found: FileDetection) -> Iterator[tuple[str, str]]:
    """Yield all lines of a file, and before each what it is."""
    if found.detection is None:
        yield from short_lines(found)
        return
    lines = list(detection_lines(found.detection))
    yield from lines[:-1]
    for one in found.extracted:
        size = size_text(one.size)
        yield "label", f"extracted    {shown(one.path)}: {size}"
        yield "quiet", f"  sha256     {one.sha256}"
    yield lines[-1]


def short_lines(found: FileDetection) -> Iterator[tuple[str, str]]:
    """Yield a few lines of a file: the verdict, and what it rests on."""
    word, detection = word_of(found), found.detection
    if detection is None:
        yield word, f"{shown(found.path)}: {word} ({shown(found.message)})"
        return
    yield word, f"{shown(found.path)}: {word} ({short_text(detection)})"
    for text, _ in evidence_texts(detection.evidence)[:_MOST]:
        yield "danger", f"  {text}"
    for candidate in detection.candidates[:_MOST]:
        yield "warning", f"  {candidate_text(candidate)}"
    for written in found.extracted:
        yield "quiet", f"  extracted {shown(written.path)}: {size_text(written.size)}"
