"""The model files that a run of tests opened, each with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.monkeypatch import OpenedFile

_MOST = 10_000
_LONGEST = 200
_SHOWN = 3


class _Seen(NamedTuple):
    """What is told apart in the summary: one line each."""

    path: str
    sha256: str
    outcome: str
    error: str
    opaque: tuple[str, ...]


class OpenedFiles:
    """Counts openings; a file that is opened again and again is one line."""

    def __init__(self) -> None:
        self._times: dict[_Seen, int] = {}
        self._more = 0

    def add(self, opened: OpenedFile) -> None:
        """Take note of one opening."""
        what = opened.path, opened.sha256, opened.outcome, opened.error, opened.opaque
        self._count(_Seen(*what), 1)

    def to_list(self) -> list[Any]:
        """Return plain data, for another process."""
        return [[*seen, times] for seen, times in self._times.items()]

    def add_list(self, plain: list[Any]) -> None:
        """Take what another process noted."""
        for path, sha256, outcome, error, opaque, times in plain:
            self._count(_Seen(path, sha256, outcome, error, tuple(opaque)), times)

    def lines(self) -> Iterator[str]:
        """Yield the summary: refused files, then those with inert values, by path."""
        from safemodel._report.words import shown

        order = sorted(self._times.items(), key=_order)
        for seen, times in order:
            name = shown(seen.path) if seen.path else "(no path)"
            error = f"  {shown(seen.error[:_LONGEST])}" if seen.error else ""
            inert = f"  inert: {_names(seen.opaque)}" if seen.opaque else ""
            often = f" x{times}" if times > 1 else ""
            found = f"  sha256 {seen.sha256[:12]}{often}{error}{inert}"
            yield f"{seen.outcome:<11} {name}{found}"
        if self._more:
            yield f"and {self._more:,} more"
        refused = sum(seen.outcome != "loaded" for seen in self._times)
        noun = "file" if len(self._times) == 1 else "files"
        count = sum(bool(seen.opaque) for seen in self._times)
        some = f", {count:,} with inert values" if count else ""
        yield f"{len(self._times):,} {noun}, {refused:,} not loaded{some}"

    def _count(self, seen: _Seen, times: int) -> None:
        if seen in self._times or len(self._times) < _MOST:
            self._times[seen] = self._times.get(seen, 0) + times
        else:
            self._more += times


def _order(pair: tuple[_Seen, int]) -> tuple[bool, bool, str, str]:
    seen = pair[0]
    return seen.outcome == "loaded", not seen.opaque, seen.path, seen.sha256


def _names(opaque: tuple[str, ...]) -> str:
    from safemodel._report.words import shown

    more = f" and {len(opaque) - _SHOWN} more" if len(opaque) > _SHOWN else ""
    return ", ".join(shown(name) for name in opaque[:_SHOWN]) + more
