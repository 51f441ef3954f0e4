"""``safemodel rotate``: a protected file in another order, under another key."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from safemodel._cli import key_options

if TYPE_CHECKING:
    from safemodel._cli.outcomes import Progress
    from safemodel._protect.reports import RotateReport

_USAGE = 2
_EPILOG = """\
exit codes:
  0  the new file or folder is there
  1  SRC is not what was protected: changed, too old, or never protected at all
  2  it could not be done: no such file, another key, DST is there, a damaged state
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "rotate",
        help="protect a protected file anew: next epoch, another order",
        description="Verify a protected file and write it anew: the next epoch, another"
        " order, another seal and, with --new-key, another key. The plain order never"
        " reaches the disk.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="SRC", help="the protected file or folder")
    parser.add_argument(
        "out", metavar="DST", nargs="?", help="the file or folder to write"
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="replace SRC, a file, in one step, in place of writing DST",
    )
    key_options.add_key(parser, several=True)
    key_options.add_new_key(parser)
    parser.add_argument(
        "--confidential",
        action=argparse.BooleanOptionalAction,
        help="encrypt all bytes of tensors, or no longer (default: as SRC)",
    )
    parser.add_argument(
        "--expires",
        type=key_options.moment_or_never,
        metavar="WHEN",
        help="as in protect, or never (default: as SRC)",
    )
    key_options.add_signing(parser)
    key_options.add_unsigned(parser)
    key_options.add_public_key(parser)
    key_options.add_freshness(parser)
    key_options.add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Rotate; return the exit code."""
    from pathlib import Path

    from safemodel._cli.outcomes import written

    if (options.out is None) != options.in_place:
        return _misused("give DST or --in-place, and not both")
    if options.in_place and Path(options.source).is_dir():
        return _misused("--in-place is for a file; a folder becomes a new one, DST")

    def work(progress: Progress) -> RotateReport:
        from safemodel.protection import rotate

        return rotate(
            options.source,
            options.source if options.in_place else options.out,
            key=key_options.key_of(options),
            new_key=key_options.new_key_of(options),
            confidential=options.confidential,
            expires="keep" if options.expires is None else options.expires or None,
            signer=key_options.signer_of(options),
            unsigned=options.unsigned,
            public_key=key_options.public_key_of(options),
            min_epoch=options.min_epoch,
            state=options.state,
            overwrite=options.overwrite or options.in_place,
            progress=progress,
        )

    return written(options, "rotating", work)


def _misused(said: str) -> int:
    """Say what is wrong with the arguments; return the exit code."""
    sys.stderr.write(f"safemodel rotate: {said}\n")
    return _USAGE
