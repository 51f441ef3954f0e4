"""``safemodel restore``: the original of a protected file, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._cli import key_options

if TYPE_CHECKING:
    import argparse

    from safemodel._cli.outcomes import Progress
    from safemodel._protect.reports import RestoreReport

_EPILOG = """\
exit codes:
  0  the original file or folder is there
  1  SRC is not what was protected: changed, too old, or never protected at all
  2  it could not be done: no such file, another key, DST is there, a damaged state
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "restore",
        help="write the original of a protected file",
        description="Verify a protected file, and write the original, byte for byte."
        " Nothing is written unless every byte is as it was.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="SRC", help="the protected file or folder")
    parser.add_argument("out", metavar="DST", help="the file or folder to write")
    key_options.add_key(parser, several=True)
    key_options.add_public_key(parser)
    key_options.add_freshness(parser)
    key_options.add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Restore; return the exit code."""
    from safemodel._cli.outcomes import written

    def work(progress: Progress) -> RestoreReport:
        from safemodel.protection import restore

        return restore(
            options.source,
            options.out,
            key=key_options.key_of(options),
            public_key=key_options.public_key_of(options),
            min_epoch=options.min_epoch,
            state=options.state,
            overwrite=options.overwrite,
            progress=progress,
        )

    return written(options, "restoring", work)
