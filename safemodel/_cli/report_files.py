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
from typing import TYPE_CHECKING, Self, TypeAlias

from safemodel._report.words import shown
from safemodel._rewrite.output import whole_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import TracebackType

    from safemodel._rewrite.commit import Commit
    from safemodel._rewrite.output import Output
    from safemodel.reports import DisarmReport

    _Held: TypeAlias = tuple[Output, Commit]


class HeldFiles:
    """Two files that a command line asks for, open until they are written.

    Args:
        first: Path of one, or None for none.
        second: Path of the other; they are not the same.
        models: What is read and written, whose place they do not take.
    """

    def __init__(
        self, first: str | None, second: str | None, models: Sequence[str]
    ) -> None:
        self._paths = first, second
        self._models = models
        self._stack = ExitStack()
        self._held: tuple[_Held | None, _Held | None] = None, None

    def __enter__(self) -> Self:
        """Open them (rules 1 and 3).

        Raises:
            ValueError: One would take the place of something else.
            OSError: One cannot be written there.
        """
        first, second = self._paths
        for path, other in ((first, None), (second, first)):
            if path is not None:
                _check_place(path, *self._models, other)
        try:
            self._held = self._opened(first), self._opened(second)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _opened(self, path: str | None) -> _Held | None:
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


class ReportFiles(HeldFiles):
    """The report files that ``safemodel disarm`` is asked for.

    Args:
        options: With ``source``, ``out``, ``report`` and ``html``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options.report, options.html, (options.source, options.out))

    def write(self, report: DisarmReport) -> None:
        """Write the reports (rule 2).

        Raises:
            OSError: The disk is full, or the like; the new model is there.
        """
        json, html = self._held
        try:
            if json is not None:
                write_whole(*json, f"{report.to_json(indent=1)}\n".encode())
            if html is not None:
                write_whole(*html, report.to_html().encode())
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


def _check_place(path: str, *others: str | None) -> None:
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
