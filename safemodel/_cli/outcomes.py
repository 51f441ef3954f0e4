"""How the verbs of protected files end: what is said of an error, which code it is."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safemodel._report.words import shown
from safemodel.errors import (
    KeyFormatError,
    KeyRequiredError,
    SafeModelError,
    StateFormatError,
    UnsupportedFormatError,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Protocol, TypeAlias

    Progress: TypeAlias = Callable[[int, int], None] | None

    class Report(Protocol):
        """What a verb has done."""

        def to_json(self, *, indent: int | None = None) -> str:
            """Return it as JSON."""
            ...


DONE, CHANGED, CANNOT = 0, 1, 2
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
    if isinstance(error, OSError | KeyFormatError | StateFormatError | ValueError):
        said = str(error)  # it names its own file
    else:
        refused = "refused: " if code == CHANGED else ""
        said = f"{place}: {refused}{error}" if place else str(error)
    sys.stderr.write(f"safemodel: {shown(said)}\n")
    return code


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
    """Give what to call with bytes done and bytes in all: a bar, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from safemodel._cli.protect_terminal import BytesBar

    bar = BytesBar(doing)
    try:
        yield bar.update
    finally:
        bar.close()
