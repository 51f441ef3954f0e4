"""``safemodel detect``: is data hidden in the weights of these files?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safemodel._cli.detect_pages import DetectPages
    from safemodel._detector.many import FileDetection
    from safemodel._scan.paths import Target

_XRAY = "x-ray"

_EPILOG = """\
exit codes:
  0  no file is suspicious; that is no proof that nothing is hidden in them
  1  a file is suspicious
  2  none is, but one could not be looked at, is broken, or nothing can be written
     (what lies beside models, such as a README or an image, does not count)
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "detect",
        help="is data hidden in the weights of these files?",
        description="Say for each file whether its weights hold data that is not"
        " theirs, and how much encrypted data could lie where no test would see it."
        " Nothing is run.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="a file, a folder or a glob pattern"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that share the work (default: 1)",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="a file that is trusted: low bits that differ from its, under others that"
        " do not, are conclusive",
    )
    parser.add_argument(
        "--detector",
        metavar="FILE",
        help="decide by a detector that was adapted and saved, or by the published one:"
        " x-ray",
    )
    parser.add_argument(
        "--extract",
        metavar="DIR",
        help="write what the low bits begin like into files there; nothing is run or"
        " replaced",
    )
    _add_output(parser)
    parser.set_defaults(run=run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Declare what is written and printed, how much, and in which form."""
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with pictures of the weights, too"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write one picture as PNG: bits, tensor by tensor, and the evidence",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print only what is suspicious"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print all of every file"
    )


def _positive(text: str) -> int:
    """Return a positive number; argparse reports anything else."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Look into files; return the exit code."""
    from contextlib import ExitStack

    from safemodel._cli.detect_pages import DetectPages
    from safemodel._cli.interrupts import ends_clean
    from safemodel._cli.outcomes import CANNOT, FAILURES, complain
    from safemodel._detector.many import whole_models
    from safemodel._scan.paths import find_targets
    from safemodel.limits import DEFAULT_LIMITS

    for path, check in ((options.reference, _check_reference),
                        (options.detector, _check_detector)):  # fmt: skip
        try:
            check(path)
        except FAILURES as error:
            complain(path, error)
            return CANNOT
    targets = whole_models(list(find_targets(options.paths)), DEFAULT_LIMITS)
    read = [
        path
        for path in (options.reference, options.detector)
        if path not in (None, _XRAY)
    ]
    with ends_clean(), ExitStack() as stack:
        try:
            pages = stack.enter_context(DetectPages(options, targets, read))
        except (OSError, ValueError) as error:
            return complain("", error)
        return _run(options, targets, pages)


def _run(options: argparse.Namespace, targets: list[Target], pages: DetectPages) -> int:
    """Look into files; return the exit code."""
    from safemodel._cli.detections import output_for
    from safemodel._cli.interrupts import interrupts_count
    from safemodel._cli.outcomes import CANNOT, complain

    output = output_for(options, len(targets))
    progress, finish = _progress(len(targets))
    try:
        with interrupts_count() as check_interrupt:
            for done, found in enumerate(_detections(options, targets), 1):
                check_interrupt()
                progress(done, len(targets))
                output.add(found)
                pages.add(found)
    finally:
        finish()
    code = output.close()
    try:
        pages.write()
    except OSError as error:
        complain("", error)
        return code or CANNOT
    return code


def _check_reference(path: str | None) -> None:
    """Find out now whether a reference can be read."""
    from safemodel._detector.opening import any_opened

    if path is not None:
        with any_opened(path):
            pass


def _check_detector(path: str | None) -> None:
    """Find out now whether a detector can be."""
    from safemodel.detection import Detector

    if path not in (None, _XRAY):
        Detector.load(path)


def _detections(
    options: argparse.Namespace, targets: list[Target]
) -> Iterator[FileDetection]:
    from safemodel._detector.many import How, detect_files

    how = How(
        detector=options.detector or "",
        reference=options.reference or "",
        extract=options.extract or "",
    )
    return detect_files(targets, options.jobs, how)


def _progress(files: int) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """Return what to call after each file and at the end: a bar, on a terminal only.

    Of one file, nobody knows how far it is: a sign of life.
    """
    if not sys.stderr.isatty():
        return lambda _done, _all: None, lambda: None
    if files == 1:
        from safemodel._cli.tables import Waiting

        waiting = Waiting("looking")
        return lambda _done, _all: waiting.close(), waiting.close
    from safemodel._cli.detect_terminal import DetectBar

    bar = DetectBar()
    return bar.update, bar.close
