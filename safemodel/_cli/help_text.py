"""How help is laid out: as argparse does, in the width of the terminal."""

from __future__ import annotations

import argparse
import os
import sys

_DEFAULT_COLUMNS = 80
_MARGIN = 2


class HelpText(argparse.HelpFormatter):
    """Finds out the width itself: for that, argparse imports shutil and much else."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - _MARGIN)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap a paragraph; a text of several lines stays as it is."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _columns() -> int:
    """Return the columns of the terminal; COLUMNS decides where it is set."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _DEFAULT_COLUMNS
    except (OSError, ValueError):
        # Standard output is no terminal, or no file.
        return _DEFAULT_COLUMNS
