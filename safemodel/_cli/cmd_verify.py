"""``safemodel verify``: are these protected files what they were made as?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from safemodel._cli import key_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from safemodel._cli.outcomes import Progress
    from safemodel._protect.reports import VerifyReport

_EPILOG = """\
exit codes:
  0  every byte of every file is as it was
  1  a file is not what was protected: changed, too old, or never protected at all
  2  none is, but one could not be verified: no such file, another key, a damaged state
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "verify",
        help="is every byte of a protected file as it was?",
        description="Say for each file whether every byte is as it was when somebody"
        " with the key protected it; or, with --public-key, when somebody signed it."
        " Nothing is written but the state.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "paths", metavar="SRC", nargs="+", help="a protected file or folder"
    )
    key_options.add_key(parser, several=True, required=False)
    key_options.add_public_key(parser)
    key_options.add_freshness(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print only what is not verified"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verify; return the exit code."""
    from safemodel._cli.outcomes import CANNOT, FAILURES, complain, progress_shown
    from safemodel._cli.verdicts import JsonVerdicts, TextVerdicts, Verdict

    if options.key is options.key_env is options.public_key is None:
        sys.stderr.write("safemodel verify: give --key, --key-env or --public-key\n")
        return CANNOT
    try:
        verify = _verifier(options)
    except FAILURES as error:
        # A key or a state is what all files need.
        return complain("", error)
    output = JsonVerdicts() if options.json else TextVerdicts(quiet=options.quiet)
    for path in options.paths:
        try:
            with progress_shown("verifying") as progress:
                verdict = Verdict(path, verify(path, progress), None)
        except FAILURES as error:
            verdict = Verdict(path, None, error)
        output.add(verdict)
    return output.close()


def _verifier(options: argparse.Namespace) -> Callable[[str, Progress], VerifyReport]:
    """Return what verifies a file."""
    from safemodel.protection import verify

    has_key = options.key is not None or options.key_env is not None
    key = key_options.key_of(options) if has_key else None
    public_key = key_options.public_key_of(options)

    def verified(path: str, progress: Progress) -> VerifyReport:
        return verify(
            path,
            key=key,
            public_key=public_key,
            min_epoch=options.min_epoch,
            state=options.state,
            progress=progress,
        )

    return verified
