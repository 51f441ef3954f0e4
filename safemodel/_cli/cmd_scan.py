"""``safemodel scan``: would `safe_load` refuse these files, and what would they run?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safemodel.reports import FileReport

_EPILOG = """\
exit codes:
  0  no file is refused
  1  safe_load refuses a file: it asks for something that is not allowed, or is broken
  2  no file is refused, but one could not be read or is of a format that is not read
     (what lies beside models, such as a README or an image, does not count)
"""


class Output(Protocol):
    """Where reports go: one object a form of output."""

    def add(self, report: FileReport) -> None:
        """Take the report of one file."""
        ...

    def close(self) -> None:
        """Write whatever comes after the last one."""
        ...


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "scan",
        help="would safe_load refuse these files, and what would they run?",
        description="Say for each file whether safe_load refuses it, and what it would"
        " have run. Nothing is run, and no tensor is built.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="a file, a folder or a glob pattern"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    parser.add_argument(
        "-j",
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that share the work (default: 1)",
    )
    parser.add_argument(
        "--checksums",
        action="store_true",
        help="read all bytes of tensors, too, and compare their checksums",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print only what is not clean"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print every finding"
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    """Return a positive number; argparse reports anything else."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Scan; return the exit code."""
    from safemodel._cli.interrupts import interrupts_count
    from safemodel._cli.summary import Tally

    tally = Tally()
    output = _output(options)
    progress, finish = _progress()
    try:
        with interrupts_count() as check_interrupt:
            for report in _reports(options, progress):
                check_interrupt()
                tally.add(report)
                output.add(report)
    finally:
        finish()
    output.close()
    return tally.exit_code


def _reports(
    options: argparse.Namespace, progress: Callable[[int, int], None] | None
) -> Iterator[FileReport]:
    from safemodel.scanning import scan_files

    return scan_files(
        options.paths,
        jobs=options.jobs,
        verify_checksums=options.checksums,
        progress=progress,
    )


def _output(options: argparse.Namespace) -> Output:
    """Return what writes the form of output that is asked for."""
    if options.sarif:
        from safemodel._cli.sarif import SarifOutput

        return SarifOutput(sys.stdout)
    if options.json:
        from safemodel._cli.json_output import JsonOutput

        return JsonOutput(sys.stdout)
    if sys.stdout.isatty():
        from safemodel._cli.tables import TableOutput

        return TableOutput(quiet=options.quiet, verbose=options.verbose)
    from safemodel._cli.text import TextOutput

    return TextOutput(sys.stdout, quiet=options.quiet, verbose=options.verbose)


def _progress() -> tuple[Callable[[int, int], None] | None, Callable[[], None]]:
    """Return what to call after each file and at the end: a bar, on a terminal only."""
    if not sys.stderr.isatty():
        return None, lambda: None
    from safemodel._cli.tables import ProgressBar

    bar = ProgressBar()
    return bar.update, bar.close
