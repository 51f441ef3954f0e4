"""``safemodel protect``: a file that is useless without its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._cli import key_options

if TYPE_CHECKING:
    import argparse

    from safemodel._cli.outcomes import Progress
    from safemodel._protect.reports import ProtectReport

_EPILOG = """\
exit codes:
  0  the protected file or folder is there
  1  SRC is refused, as by safe_load, or malformed
  2  it could not be done: no such file or key, DST is there, a format that is not read
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "protect",
        help="put a file in an order that only a key undoes, and seal it",
        description="Write a file of the same format whose tensors are in an order that"
        " depends on a key, whose names, shapes and other data are sealed, and of which"
        " every change is noticed. Order is hidden, values are not: --confidential"
        " encrypts them.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="SRC", help="the file or folder to protect")
    parser.add_argument("out", metavar="DST", help="the file or folder to write")
    key_options.add_key(parser)
    parser.add_argument(
        "--confidential",
        action="store_true",
        help="encrypt all bytes of tensors, in place of permuting them",
    )
    parser.add_argument(
        "--epoch",
        type=key_options.epoch,
        default=0,
        metavar="N",
        help="which version of its content this is, for --min-epoch (default: 0)",
    )
    parser.add_argument(
        "--expires",
        type=key_options.moment,
        metavar="WHEN",
        help="when it is too old to be believed: 12h, 90d, 2w, 2027-01-31 (UTC)",
    )
    key_options.add_signing(parser)
    key_options.add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Protect; return the exit code."""
    from safemodel._cli.outcomes import written

    def work(progress: Progress) -> ProtectReport:
        from safemodel.protection import protect

        return protect(
            options.source,
            options.out,
            key=key_options.one_key_of(options),
            confidential=options.confidential,
            epoch=options.epoch,
            expires=options.expires,
            signer=key_options.signer_of(options),
            overwrite=options.overwrite,
            progress=progress,
        )

    return written(options, "protecting", work)
