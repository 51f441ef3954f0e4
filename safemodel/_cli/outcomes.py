"""How verbs end that write files: what is said of an error, which code it is."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safemodel._report.words import shown
from safemodel.errors import (
    KeyFormatError,
    KeyRequiredError,
    SafeModelError,
    StateFormatError,
    UnsupportedFormatError,
    VerificationError,
)
from safemodel.reports import SCHEMA_VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Protocol, TypeAlias

    Progress: TypeAlias = Callable[[int, int], None]

    class Report(Protocol):
        """What a verb has done."""

        def to_json(self, *, indent: int | None = None) -> str:
            """Return it as JSON."""
            ...


DONE, CHANGED, CANNOT = 0, 1, 2
_MOST = 20
FAILURES = (SafeModelError, OSError, ValueError)
"""What a verb explains in a line: all else is a fault of ours."""
_NOT_THE_FILE = (
    KeyFormatError,
    KeyRequiredError,
    StateFormatError,
    UnsupportedFormatError,
)


def code_of(error: Exception) -> int:
    """Return the exit code of an error: is the file not what it should be?"""
    is_file = isinstance(error, SafeModelError) and not isinstance(error, _NOT_THE_FILE)
    return CHANGED if is_file else CANNOT


def complain(path: str, error: Exception) -> int:
    """Print an error about a file; return the exit code."""
    code = code_of(error)
    # Of a folder, a note says which of its files it is.
    place = "/".join([path, *getattr(error, "__notes__", ())])
    if isinstance(error, OSError):
        said = system_said(error)
    elif isinstance(error, KeyFormatError | StateFormatError | ValueError):
        said = str(error)  # it names its own file
    else:
        refused = "refused: " if code == CHANGED else ""
        reason = reason_of(error)
        said = f"{place}: {refused}{reason}" if place else reason
    sys.stderr.write(f"safemodel: {shown(said)}\n")
    if isinstance(error, VerificationError):
        sys.stderr.writelines(f"{line}\n" for line in changes(error))
    return code


def changes(error: VerificationError) -> Iterator[str]:
    """Yield which tensors have changed, and where in their pools."""
    for name in error.tensors[:_MOST]:
        yield f"  changed  {shown(name)}"
    for pool, start, end in error.ranges[:_MOST]:
        yield f"  within   pool {pool}, bytes {start:,} to {end:,}"
    more = max(len(error.tensors) - _MOST, 0), max(len(error.ranges) - _MOST, 0)
    if any(more):
        yield f"  ... {more[0]:,} tensors and {more[1]:,} ranges more; --json has all"


def reason_of(error: Exception | None) -> str:
    """Return what an error says, without what `changes` and `system_said` add."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, VerificationError):
        return f"{error.record}: {error.reason}" if error.record else error.reason
    return str(error)


def error_dict(error: Exception) -> dict[str, Any]:
    """Return the JSON form of an error."""
    changed = error if isinstance(error, VerificationError) else None
    return {
        "kind": type(error).__name__,
        "message": changed.reason if changed else reason_of(error),
        "file": changed.record if changed else "",
        "tensors": list(changed.tensors) if changed else [],
        "ranges": [list(one) for one in changed.ranges] if changed else [],
    }


def system_said(error: OSError) -> str:
    """Return what the system says, after the file it is about."""
    reason = error.strerror or str(error)
    said = f"{error.filename}: {reason}" if error.filename else reason
    return f"{said}; -f replaces it" if reason == "File exists" else said


def written(
    options: argparse.Namespace, doing: str, work: Callable[[Progress], Report]
) -> int:
    """Let a verb write its file, and print its report; return the exit code.

    Args:
        options: With ``source`` and ``json``.
        doing: What takes so long, as a word.
        work: What writes the file.
    """
    from safemodel._cli.interrupts import ends_clean

    try:
        with ends_clean(), progress_shown(doing) as progress:
            report = work(progress)
    except FAILURES as error:
        if options.json:
            import json

            said = {"schema": SCHEMA_VERSION, "error": error_dict(error)}
            sys.stdout.write(json.dumps(said) + "\n")
        return complain(options.source, error)
    if options.json:
        sys.stdout.write(report.to_json(indent=1) + "\n")
    elif sys.stdout.isatty():
        from safemodel._cli.tables import print_lines
        from safemodel._protect.reports import report_lines

        print_lines(report_lines(report))
    else:
        sys.stdout.write(f"{report}\n")
    return DONE


@contextmanager
def progress_shown(doing: str) -> Iterator[Progress]:
    """Give what to call with bytes done and bytes in all.

    It shows a bar, on a terminal only, and lets no interrupt be lost.
    """
    from safemodel._cli.interrupts import interrupts_count

    with interrupts_count() as check_interrupt:
        if not sys.stderr.isatty():
            yield lambda _done, _total: check_interrupt()
            return
        from safemodel._cli.protect_terminal import BytesBar

        bar = BytesBar(doing)

        def show(done: int, total: int) -> None:
            check_interrupt()
            bar.update(done, total)

        try:
            yield show
        finally:
            bar.close()
