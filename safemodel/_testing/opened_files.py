"""The model files that a run of tests opened, each with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.monkeypatch import OpenedFile

_MOST = 10_000
_LONGEST = 200


class _Seen(NamedTuple):
    """What is told apart in the summary: one line each."""

    path: str
    sha256: str
    outcome: str
    error: str


class OpenedFiles:
    """Counts openings; a file that is opened again and again is one line."""

    def __init__(self) -> None:
        self._times: dict[_Seen, int] = {}
        self._more = 0

    def add(self, opened: OpenedFile) -> None:
        """Take note of one opening."""
        self._count(_Seen(opened.path, opened.sha256, opened.outcome, opened.error), 1)

    def to_list(self) -> list[Any]:
        """Return plain data, for another process."""
        return [[*seen, times] for seen, times in self._times.items()]

    def add_list(self, plain: list[Any]) -> None:
        """Take what another process noted."""
        for *seen, times in plain:
            self._count(_Seen(*seen), times)

    def lines(self) -> Iterator[str]:
        """Yield the summary: refused files first, then by path."""
        from safemodel._report.words import shown

        order = sorted(self._times.items(), key=_order)
        for seen, times in order:
            name = shown(seen.path) if seen.path else "(no path)"
            error = f"  {shown(seen.error[:_LONGEST])}" if seen.error else ""
            often = f" x{times}" if times > 1 else ""
            yield f"{seen.outcome:<11} {name}  sha256 {seen.sha256[:12]}{often}{error}"
        if self._more:
            yield f"and {self._more:,} more"
        refused = sum(seen.outcome != "loaded" for seen in self._times)
        noun = "file" if len(self._times) == 1 else "files"
        yield f"{len(self._times):,} {noun}, {refused:,} not loaded"

    def _count(self, seen: _Seen, times: int) -> None:
        if seen in self._times or len(self._times) < _MOST:
            self._times[seen] = self._times.get(seen, 0) + times
        else:
            self._more += times


def _order(pair: tuple[_Seen, int]) -> tuple[bool, str, str]:
    seen = pair[0]
    return seen.outcome == "loaded", seen.path, seen.sha256
