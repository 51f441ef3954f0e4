"""Where ``safemodel disarm`` writes its reports.

1. Whatever would go wrong is found out before anything is disarmed: the files are
   opened under names of their own, beside the ones they will get.
2. They get their names after the new model has its own; an error before that leaves
   nothing behind. A report that is there is replaced.
3. A report takes the place of no model: not of what is read or written, and nothing
   inside those where they are folders. Only a file is replaced, never a link or a
   device.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from safemodel._report.words import shown
from safemodel._rewrite.output import whole_file

if TYPE_CHECKING:
    import argparse
    from types import TracebackType

    from safemodel._rewrite.commit import Commit
    from safemodel._rewrite.output import Output
    from safemodel.reports import DisarmReport


class ReportFiles:
    """The report files a command line asks for, open until they are written.

    Args:
        options: With ``source``, ``out``, ``report`` and ``html``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stack = ExitStack()
        self._json: tuple[Output, Commit] | None = None
        self._html: tuple[Output, Commit] | None = None

    def __enter__(self) -> Self:
        """Open them (rules 1 and 3).

        Raises:
            ValueError: A report would take the place of something else.
            OSError: A report cannot be written there.
        """
        report, page = self._options.report, self._options.html
        for path, others in ((report, ()), (page, (report,))):
            if path is not None:
                check_place(path, self._options.source, self._options.out, *others)
        try:
            self._json, self._html = self._opened(report), self._opened(page)
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

    def write(self, report: DisarmReport) -> None:
        """Write the reports (rule 2).

        Raises:
            OSError: The disk is full, or the like; the new model is there.
        """
        try:
            if self._json is not None:
                write_whole(*self._json, f"{report.to_json(indent=1)}\n".encode())
            if self._html is not None:
                write_whole(*self._html, report.to_html().encode())
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(
                f"{report.out} is written, but not its report: {reason}"
            ) from error


def write_whole(out: Output, commit: Commit, data: bytes) -> None:
    """Write a report, which then gets its name."""
    out.write(data)
    out.finish()
    commit()


def check_place(path: str, *others: str | None) -> None:
    """Refuse a report that would take the place of something else (rule 3)."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISREG(mode):
            raise ValueError(f"{shown(path)}: a report replaces files only")
    for other in others:
        if other is not None and _is_within(path, other):
            raise ValueError(f"{shown(path)}: the report would change {shown(other)}")


def _is_within(path: str, other: str) -> bool:
    """Tell whether one path is another, or lies below it, links followed."""
    inner, outer = os.path.realpath(path), os.path.realpath(other)
    if inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep):
        return True
    try:
        return Path(inner).samefile(outer)
    except OSError:
        return False
