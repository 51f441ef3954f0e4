"""What ``safemodel detect`` prints on a terminal: a table, colours, a bar.

Text of a file reaches `rich` as `Text`, never as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safemodel._cli.detections import (
    NO_EVIDENCE,
    NO_MODEL,
    SUSPICIOUS,
    Tally,
    whole_lines,
    word_of,
)
from safemodel._cli.tables import ProgressBar, print_lines
from safemodel._report.detect_text import candidate_text, evidence_text
from safemodel._report.words import shown, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._detector.many import FileDetection

_COLOURS = {SUSPICIOUS: "bold red", NO_EVIDENCE: "", NO_MODEL: "dim"}
_MANY = 40
_NOTE = """\
  No evidence is no proof: the last column is how much encrypted data could lie
  there unseen. `safemodel detect -v FILE` says where, and what removes it."""


class TerminalDetections:
    """Prints one file as a whole, or many as a table, at the end.

    Args:
        whole: Print all of every file.
        quiet: Print only what is suspicious.
    """

    def __init__(self, *, whole: bool, quiet: bool) -> None:
        self._whole, self._quiet = whole, quiet
        self._tally = Tally()
        self._found: list[FileDetection] = []

    def add(self, found: FileDetection) -> None:
        """Take what became of a file."""
        word = self._tally.add(found)
        if self._quiet and word != SUSPICIOUS:
            return
        self._found.append(found)

    def close(self) -> int:
        """Print the table, the counts and what they do not say; return the code."""
        console = Console(highlight=False)
        kept, left_out = self._worth_showing()
        if self._whole:
            for one in kept:
                print_lines(whole_lines(one))
        elif kept:
            console.print(_table(kept))
        if left_out:
            note = f"  {left_out:,} files without evidence: -v or --json lists them"
            console.print(Text(note, style="dim"))
        if sum(self._tally.counts.values()) != 1 and not self._quiet:
            console.print(Text(f"  {self._tally.sentence()}", style="bold"))
            if not self._whole and self._found:
                console.print(Text(_NOTE, style="dim"))
        return self._tally.exit_code

    def _worth_showing(self) -> tuple[list[FileDetection], int]:
        """Return the files of the table, and how many others there are."""
        if self._whole or len(self._found) <= _MANY:
            return self._found, 0
        plain = (NO_EVIDENCE, NO_MODEL)
        kept = [one for one in self._found if word_of(one) not in plain]
        return kept, len(self._found) - len(kept)


class DetectBar(ProgressBar):
    """A bar for files that are looked at."""

    doing = "looking"


def _table(found: list[FileDetection]) -> Table:
    """Return a row a file."""
    table = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False)
    table.add_column("file", overflow="fold", ratio=3)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what speaks against it", overflow="fold", ratio=5)
    table.add_column("blind spot", justify="right", no_wrap=True)
    for one in found:
        word = word_of(one)
        against = Text("\n").join(list(_against(one)))
        style = _COLOURS.get(word, "yellow")
        blind = (
            "" if one.detection is None else size_text(one.detection.blind_spot.bytes)
        )
        table.add_row(Text(shown(one.path)), Text(word, style=style), against, blind)
    return table


def _against(one: FileDetection) -> Iterator[Text]:
    """Yield what speaks against a file, the strongest first; or why nobody knows."""
    if one.detection is None:
        yield Text(shown(one.message), style="dim")
        return
    if one.detection.evidence:
        yield Text(evidence_text(one.detection.evidence[0]))
        more = len(one.detection.evidence) - 1
        if more:
            yield Text(f"{more:,} more: -v", style="dim")
    for candidate in one.detection.candidates[:1]:
        yield Text(candidate_text(candidate), style="yellow")
    for written in one.extracted[:1]:
        yield Text(f"extracted {shown(written.path)}", style="dim")
