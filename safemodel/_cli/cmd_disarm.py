"""``safemodel disarm``: a new file that holds only what was understood."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from safemodel.reports import DisarmReport

_MOST_BITS = 52

_EPILOG = """\
exit codes:
  0  the new file or folder is there
  1  the input is refused or malformed; of a folder, a model in it is: the rest is there
  2  it could not be read, is of a format that is not read, or the output or a report
     could not be written
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "disarm",
        help="write a new file that holds only what was understood",
        description="Write the tensors and plain data of a file into a new one. Nothing"
        " is run, and nothing else is handed on. Objects of unknown classes become"
        " plain data; the output is read back before it gets its name.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="SRC", help="the file or folder to read")
    names = "the file to write: .pt, .safetensors, .npz or .zip; or the folder"
    parser.add_argument("out", metavar="DST", help=names)
    parser.add_argument(
        "--format",
        choices=("pt", "pt-1.13", "safetensors", "npz", "zip"),
        help="what to write, whatever the name of DST or of a model in SRC",
    )
    parser.add_argument(
        "--scrub-bits",
        type=_bits,
        metavar="N",
        help="overwrite N low mantissa bits of every weight; auto: as many as is safe",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse what safe_load refuses"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace DST if it is there; never a folder",
    )
    _add_reports(parser)
    parser.set_defaults(run=run)


def _add_reports(parser: argparse.ArgumentParser) -> None:
    """Declare what is written and printed beside the new file."""
    parser.add_argument(
        "--report", metavar="FILE", help="write the report as JSON, too"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write the report as a page of HTML, too"
    )
    parser.add_argument(
        "--no-digests",
        action="store_true",
        help="leave out SHA-256 and BLAKE3 of both files, which take half the time",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _bits(text: str) -> int | Literal["auto"]:
    """Return a number of bits, or "auto"; argparse reports anything else."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 0 < int(text) <= _MOST_BITS:
        raise argparse.ArgumentTypeError(f"not a number of bits, or auto: {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Disarm; return the exit code."""
    from safemodel._cli.interrupts import ends_clean
    from safemodel._cli.outcomes import system_said
    from safemodel._cli.report_files import ReportFiles
    from safemodel._cli.summary import REFUSED, UNREADABLE
    from safemodel._report.words import shown
    from safemodel.errors import (
        DisarmError,
        KeyRequiredError,
        SafeModelError,
        UnsupportedFormatError,
    )

    try:
        with ends_clean(), ReportFiles(options) as files:
            report = _disarmed(options)
            files.write(report)
    except (DisarmError, OSError, ValueError) as error:
        said = system_said(error) if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"safemodel: {shown(said)}\n")
        return UNREADABLE
    except SafeModelError as error:
        # Of a folder, a note says which of its files it is.
        place = "/".join([options.source, *getattr(error, "__notes__", ())])
        is_other = isinstance(error, UnsupportedFormatError | KeyRequiredError)
        what = str(error) if is_other else f"refused: {error}"
        sys.stderr.write(f"safemodel: {shown(place)}: {shown(what)}\n")
        return UNREADABLE if is_other else REFUSED
    _show(report, as_json=options.json)
    is_whole = all(one.kind != "refused" for one in report.left_behind)
    return 0 if is_whole else REFUSED


def _disarmed(options: argparse.Namespace) -> DisarmReport:
    """Disarm, with a sign of life on a terminal; return the report."""
    from contextlib import nullcontext

    from safemodel._disarm import disarm
    from safemodel.policy import SALVAGE, STRICT
    from safemodel.scrub import Scrub

    waiting: AbstractContextManager[None] = nullcontext()
    if sys.stderr.isatty():
        from safemodel._cli.tables import waiting_shown

        waiting = waiting_shown("disarming")
    with waiting:
        return disarm(
            options.source,
            options.out,
            format=options.format,
            policy=STRICT if options.strict else SALVAGE,
            scrub=Scrub(bits=options.scrub_bits) if options.scrub_bits else None,
            overwrite=options.overwrite,
            digests=not options.no_digests,
        )


def _show(report: DisarmReport, *, as_json: bool) -> None:
    """Print a report; in colour on a terminal."""
    if as_json:
        sys.stdout.write(report.to_json(indent=1) + "\n")
    elif sys.stdout.isatty():
        from safemodel._cli.tables import print_disarmed

        print_disarmed(report)
    else:
        sys.stdout.write(f"{report}\n")
