"""The ``safemodel`` command: one module a verb, ``cmd_VERB``.

A verb's module has ``add_parser``, which declares its arguments, and ``run``, which
does the work and returns the exit code. Whatever a verb needs is imported in ``run``,
so that ``safemodel --help`` costs next to nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from safemodel._cli import (
    cmd_detect,
    cmd_disarm,
    cmd_inspect,
    cmd_install_hook,
    cmd_keygen,
    cmd_protect,
    cmd_restore,
    cmd_rotate,
    cmd_run,
    cmd_scan,
    cmd_verify,
)
from safemodel._cli.help_text import HelpText

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERBS = (
    cmd_scan,
    cmd_inspect,
    cmd_detect,
    cmd_disarm,
    cmd_keygen,
    cmd_protect,
    cmd_verify,
    cmd_restore,
    cmd_rotate,
    cmd_run,
    cmd_install_hook,
)
_CANNOT_WRITE = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class _Version(argparse.Action):
    """Prints the version; reads it only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from safemodel._version import VERSION

        sys.stdout.write(f"safemodel {VERSION}\n")
        parser.exit()


class _Verb(argparse.ArgumentParser):
    """Takes a verb's arguments in any order.

    By itself argparse wants DST beside SRC where one of the two may be left out.
    """

    _mixed = False

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=HelpText, allow_abbrev=False, **given)

    def parse_known_args(  # type: ignore[override]  # one of its overloads
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        found, left = super().parse_known_args(args, namespace)
        # The method below asks this one, and cannot be asked about what follows "--".
        if self._mixed or not left or "--" in left or namespace is not None:
            return found, left
        self._mixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixed = False


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="safemodel",
        description="Open any model file without trusting it: nothing in it is run.",
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and exit"
    )
    # With `prog` given, argparse need not format a usage line (and import shutil).
    verbs = parser.add_subparsers(
        metavar="VERB", required=True, prog="safemodel", parser_class=_Verb
    )
    for verb in _VERBS:
        verb.add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        arguments: Without the program's name; None for those of the process.
    """
    options = make_parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what the encoding of the terminal does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left.
        _forget_output()
        return _BROKEN_PIPE
    except OSError as error:
        # Files have reports for what happens to them; this is our own output.
        _forget_output()
        sys.stderr.write(f"safemodel: cannot write: {error.strerror or error}\n")
        return _CANNOT_WRITE
    return code


def _forget_output() -> None:
    """Make sure that what Python still holds is not an error again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
