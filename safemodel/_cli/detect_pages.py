"""The page and the picture that ``safemodel detect`` writes.

1. Whatever would go wrong is found out before anything is looked at, as for reports of
   `disarm` (`report_files`), and neither takes the place of what is looked at.
2. One page has all files: a row each, and so many in full, the suspicious ones before
   others. The picture is of one model.
3. Weights that cannot be read a second time cost the pictures, and no page.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from safemodel._cli.detections import NO_EVIDENCE, NO_MODEL, SUSPICIOUS, word_of
from safemodel._cli.outcomes import FAILURES, reason_of
from safemodel._cli.report_files import check_place, write_whole
from safemodel._report.detect_text import evidence_text
from safemodel._report.words import shown, size_text
from safemodel._rewrite.output import whole_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import TracebackType

    from safemodel._detector.many import FileDetection
    from safemodel._report.detect_html import Section
    from safemodel._rewrite.commit import Commit
    from safemodel._rewrite.output import Output
    from safemodel._scan.paths import Target

_IN_FULL = 12
_ORDER = {SUSPICIOUS: 0, NO_EVIDENCE: 2, NO_MODEL: 3}
_CANNOT = 1
"""Place in the order of a file that could not be looked at."""


class _Full(NamedTuple):
    """A file in full, and where it comes."""

    rank: int
    at: int
    section: Section


class DetectPages:
    """The files that ``--html`` and ``--plot`` ask for, open until they are written.

    Args:
        options: With ``html``, ``plot`` and ``reference``.
        targets: What will be looked at.
    """

    def __init__(self, options: argparse.Namespace, targets: Sequence[Target]) -> None:
        self._html_path: str | None = options.html
        self._plot_path: str | None = options.plot
        self._others = [one.path for one in targets]
        if options.reference is not None:
            self._others.append(options.reference)
        self._files = len(targets)
        self._rows: list[tuple[int, int, tuple[str, ...]]] = []
        self._full: list[_Full] = []
        self._picture = b""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open them (rule 1).

        Raises:
            ValueError: One would take the place of something else, or there is no one
                model to draw.
            OSError: One cannot be written there.
        """
        if self._plot_path is not None and self._files != 1:
            raise ValueError(
                f"--plot draws one model, not {self._files:,}; --html has a page of all"
            )
        for path, other in (
            (self._html_path, None),
            (self._plot_path, self._html_path),
        ):
            if path is not None:
                check_place(path, *self._others, other)
        try:
            self._html = self._opened(self._html_path)
            self._plot = self._opened(self._plot_path)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _opened(self, path: str | None) -> tuple[Output, Commit] | None:
        if path is None:
            return None
        return self._stack.enter_context(
            whole_file(Path(path), overwrite=True, digests=False)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take away what did not get its name."""
        self._stack.__exit__(kind, error, traceback)

    def add(self, found: FileDetection) -> None:
        """Take what became of a file."""
        if self._html is None and self._plot is None:
            return
        word = word_of(found)
        rank, at = _ORDER.get(word, _CANNOT), len(self._rows)
        self._rows.append((rank, at, _row(found, word)))
        if found.detection is None or not self._is_kept(rank):
            return
        self._draw(found, rank, at)

    def write(self) -> None:
        """Write the page, and the picture if there is one.

        Raises:
            OSError: The disk is full, or the like.
        """
        from safemodel._report.detect_html import page_of

        if self._html is not None:
            rows = [row for _, _, row in sorted(self._rows)]
            sections = [one.section for one in sorted(self._full, key=_place)]
            page = page_of(rows, sections, self._files)
            write_whole(*self._html, page.encode())
        if self._plot is not None and self._picture:
            write_whole(*self._plot, self._picture)

    def _is_kept(self, rank: int) -> bool:
        """Make room for a file in full, if it is worth more than another (rule 2)."""
        if len(self._full) < _IN_FULL:
            return True
        last = max(self._full, key=_place)
        if last.rank <= rank:
            return False
        self._full.remove(last)
        return True

    def _draw(self, found: FileDetection, rank: int, at: int) -> None:
        """Draw the weights of a file (rule 3)."""
        from safemodel._detector.pictures import USUAL, Amount, pictures
        from safemodel._report.detect_html import section
        from safemodel._report.plot import plot

        detection = found.detection
        if detection is None:
            return
        amount = USUAL if self._files == 1 else Amount(rows=40, suspicious=3, others=1)
        note = ""
        try:
            drawn = pictures(detection, found.path, amount=amount)
        except FAILURES as error:
            drawn, note = (), f"There are no pictures: {reason_of(error)}"
        if self._html is not None:
            self._full.append(_Full(rank, at, section(detection, drawn, note)))
        if self._plot is not None:
            self._picture = plot(detection, drawn)


def _place(one: _Full) -> tuple[int, int]:
    return one.rank, one.at


def _row(found: FileDetection, word: str) -> tuple[str, ...]:
    """Return what the list of files says of one."""
    detection = found.detection
    if detection is None:
        return shown(found.path), word, shown(found.message), ""
    because = next(map(evidence_text, detection.evidence), "")
    return found.path, word, because, size_text(detection.blind_spot.bytes)
