"""The page and the picture that ``safemodel detect`` writes.

1. Whatever would go wrong is found out before anything is looked at, as for reports of
   `disarm` (`report_files`), and neither takes the place of what is looked at.
2. One page has all files: a row each, and so many in full, the suspicious ones before
   others. The picture is of one model.
3. Weights that cannot be read a second time cost the pictures, and no page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safemodel._cli.detections import NO_EVIDENCE, NO_MODEL, SUSPICIOUS, word_of
from safemodel._cli.outcomes import FAILURES, reason_of
from safemodel._cli.report_files import HeldFiles, write_whole
from safemodel._report.detect_text import evidence_text
from safemodel._report.words import size_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from safemodel._detector.many import FileDetection
    from safemodel._report.detect_html import Section
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


class DetectPages(HeldFiles):
    """The files that ``--html`` and ``--plot`` ask for, open until they are written.

    Args:
        options: With ``html`` and ``plot``.
        targets: What will be looked at.
        others: Other files that are read.

    Raises:
        ValueError: There is no one model to draw.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        targets: Sequence[Target],
        others: Sequence[str],
    ) -> None:
        self._files = len(targets)
        if options.plot is not None and self._files != 1:
            raise ValueError(
                f"--plot draws one model, not {self._files:,}; --html has a page of all"
            )
        models = [*(one.path for one in targets), *others]
        super().__init__(options.html, options.plot, models)
        self._rows: list[tuple[int, int, tuple[str, ...]]] = []
        self._full: list[_Full] = []
        self._picture = b""

    def add(self, found: FileDetection) -> None:
        """Take what became of a file."""
        if not any(self._held):
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

        page, picture = self._held
        if page is not None:
            rows = [row for _, _, row in sorted(self._rows)]
            sections = [one.section for one in sorted(self._full, key=_place)]
            text = page_of(rows, sections, self._files)
            write_whole(*page, text.encode())
        if picture is not None and self._picture:
            write_whole(*picture, self._picture)

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
        page, picture = self._held
        if page is not None:
            self._full.append(_Full(rank, at, section(detection, drawn, note)))
        if picture is not None:
            self._picture = plot(detection, drawn)


def _place(one: _Full) -> tuple[int, int]:
    return one.rank, one.at


def _row(found: FileDetection, word: str) -> tuple[str, ...]:
    """Return what the list of files says of one."""
    detection = found.detection
    if detection is None:
        return found.path, word, found.message, ""
    because = next(map(evidence_text, detection.evidence), "")
    return found.path, word, because, size_text(detection.blind_spot.bytes)
