"""``safemodel inspect``: what a file holds, without loading it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_UNREADABLE = 2


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "inspect",
        help="show the tensors, globals and storages of a file",
        description="Show what a file holds: container, tensors with dtype, shape and"
        " bytes, globals, storages nothing uses. Nothing is run or loaded. Globals"
        " outside the allowlist become opaque values, as with weights_only=False.",
    )
    parser.add_argument("file", metavar="FILE", help="the file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspect; return the exit code."""
    from safemodel._cli.inspect_text import inspect_lines
    from safemodel._cli.summary import CLEAN, REFUSED
    from safemodel._report.words import shown
    from safemodel.reports import Status
    from safemodel.scanning import inspect_file

    try:
        report = inspect_file(options.file)
    except OSError as error:
        reason = error.strerror or str(error)
        sys.stderr.write(f"safemodel: {shown(options.file)}: {shown(reason)}\n")
        return _UNREADABLE
    if options.json:
        sys.stdout.write(report.to_json(indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in inspect_lines(report))
    codes = {Status.CLEAN: CLEAN, Status.REFUSED: REFUSED}
    return codes.get(report.status, _UNREADABLE)
