"""Protected files on a terminal: a bar for bytes, and verdicts in colour.

Text of a file reaches `rich` as `Text`, never as markup.
"""

from __future__ import annotations

from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from safemodel._report.words import size_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Task

_PATIENCE_S = 0.5
_PAUSE_S = 0.05
_INDENT = 2


class _Speed(ProgressColumn):
    """Bytes a second, in the units that reports have: rich's own has others."""

    def render(self, task: Task) -> Text:
        """Return the speed, if it is known yet."""
        speed = task.finished_speed or task.speed
        said = "" if speed is None else f"{size_text(int(speed))}/s"
        return Text(said, style="progress.data.speed")


class BytesBar:
    """A bar that is shown once it takes long enough to wait for.

    That may be before the first byte: kernels are compiled then.

    Args:
        doing: What takes so long, as a word.
    """

    def __init__(self, doing: str) -> None:
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(binary_units=True),
            _Speed(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(doing, total=None)
        self._shown = 0.0
        self._timer = Timer(_PATIENCE_S, self._bar.start)
        self._timer.daemon = True
        self._timer.start()

    def update(self, done: int, total: int) -> None:
        """Show how far it is."""
        now = monotonic()
        if now - self._shown >= _PAUSE_S or done >= total:
            self._shown = now
            self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        self._timer.cancel()
        self._timer.join()
        self._bar.stop()


def print_coloured(lines: Iterable[str], colour: str) -> None:
    """Print lines, what stands behind the path of the first in a colour.

    Long ones go on below, indented.
    """
    console = Console(highlight=False)
    for number, line in enumerate(lines):
        path, between, rest = line.partition(": ") if not number else ("", "", line)
        text = Text.assemble(path, between, (rest, "" if number else colour))
        for at, piece in enumerate(text.wrap(console, console.width - _INDENT)):
            console.print(Text.assemble(" " * _INDENT if at else "", piece))
