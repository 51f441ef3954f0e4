"""What ``safemodel verify`` says of each file, as text and as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._cli.outcomes import (
    CANNOT,
    CHANGED,
    DONE,
    changes,
    code_of,
    error_dict,
    reason_of,
)
from safemodel._report.words import shown, size_text, time_text
from safemodel.errors import VerificationError
from safemodel.reports import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._protect.reports import VerifyReport

_WORDS = {DONE: "verified", CHANGED: "refused", CANNOT: "not verified"}
_COLOURS = {DONE: "green", CHANGED: "bold red", CANNOT: "yellow"}


class Verdict(NamedTuple):
    """What became of one file.

    Attributes:
        path: The file as it was named.
        report: What was found to hold; None if something does not.
        error: What does not hold, or why nobody knows.
    """

    path: str
    report: VerifyReport | None
    error: Exception | None

    @property
    def code(self) -> int:
        """The exit code of this file."""
        return DONE if self.error is None else code_of(self.error)

    def lines(self) -> Iterator[str]:
        """Yield the lines for people; the first has the verdict."""
        word = _WORDS[self.code]
        if self.report is not None:
            yield f"{shown(self.path)}: {word} ({_facts(self.report)})"
            return
        yield f"{shown(self.path)}: {word}: {shown(reason_of(self.error))}"
        if isinstance(self.error, VerificationError):
            yield from changes(self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        report = None if self.report is None else self.report.to_dict()
        error = None if self.error is None else error_dict(self.error)
        verdict = _WORDS[self.code]
        return {"path": self.path, "verdict": verdict, "report": report, "error": error}


class TextVerdicts:
    """Prints verdicts as they come; in colour on a terminal.

    Args:
        quiet: Print only what is not verified.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._codes: list[int] = []

    def add(self, verdict: Verdict) -> None:
        """Print a verdict."""
        self._codes.append(verdict.code)
        if self._quiet and verdict.code == DONE:
            return
        if sys.stdout.isatty():
            from safemodel._cli.protect_terminal import print_coloured

            print_coloured(verdict.lines(), _COLOURS[verdict.code])
        else:
            sys.stdout.writelines(f"{line}\n" for line in verdict.lines())

    def close(self) -> int:
        """Print how many files came out how, if there are several; return the code."""
        if len(self._codes) > 1 and not self._quiet:
            counts = ((self._codes.count(code), word) for code, word in _WORDS.items())
            said = ", ".join(f"{count:,} {word}" for count, word in counts if count)
            sys.stdout.write(f"{len(self._codes):,} files: {said}\n")
        return _worst(self._codes)


class JsonVerdicts:
    """Prints ``{"schema", "files": [...], "summary": {...}}``; see docs/protect.md."""

    def __init__(self) -> None:
        self._codes: list[int] = []

    def add(self, verdict: Verdict) -> None:
        """Print a verdict."""
        import json

        head = ",\n" if self._codes else f'{{"schema": {SCHEMA_VERSION}, "files": [\n'
        self._codes.append(verdict.code)
        sys.stdout.write(head + json.dumps(verdict.to_dict()))

    def close(self) -> int:
        """Print how many files came out how; return the code."""
        import json

        code = _worst(self._codes)
        summary = {word: self._codes.count(one) for one, word in _WORDS.items()}
        said = json.dumps({**summary, "exit_code": code})
        sys.stdout.write(f'\n], "summary": {said}}}\n')
        return code


def _worst(codes: list[int]) -> int:
    """Return the exit code of all files: what is refused counts most."""
    return CHANGED if CHANGED in codes else max(codes, default=DONE)


def _facts(report: VerifyReport) -> str:
    """Return what is known of a file that was verified."""
    facts = [f"by {report.checked_by}", f"epoch {report.epoch:,}"]
    if report.expires is not None:
        facts.append(f"expires {time_text(report.expires)}")
    if not report.confidential:
        facts.append("not encrypted")
    return ", ".join([*facts, size_text(report.size)])
