"""Pickles one after the other: those the check parsed, and those it did not.

What is parsed here and not by the check is bounded by a multiple of the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from safemodel._containers.source import open_source
from safemodel._scan import heads
from safemodel._scan.pickles import PickleFindings, global_names, nested_bytes
from safemodel._scan.recording import without_frames
from safemodel._scan.render import record_name
from safemodel._unpickle.machine import parse
from safemodel.errors import ForbiddenGlobalError, SafeModelError, TruncatedFileError
from safemodel.reports import Finding, Severity

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._scan.recording import Parsed, RecordingReading
    from safemodel._unpickle.parsed import Pickle
    from safemodel.limits import Limits
    from safemodel.policy import Policy

FIRST_CHUNK = 1 << 16
_GROWTH = 8
_MAX_TIMES = 8
_MIN_BUDGET = 16 << 20
LOOK_BYTES = 1 << 14
_MAX_FINDINGS = 1000
_WINDOW = 1 << 18
_MAX_FAILED = 64
_LEGACY_PICKLES = 5
UNREAD = "safe_load never reads this record"
AFTER = "it follows the end of what safe_load reads"


class PickleLook(ABC):
    """One look at one file.

    Args:
        reading: The check's, with what it parsed.
        error: What the check raised, if anything.
        policy: The one it used.
        limits: Bounds.
        size: Bytes of the file.
    """

    def __init__(
        self,
        reading: RecordingReading,
        error: SafeModelError | None,
        policy: Policy,
        limits: Limits,
        size: int,
    ) -> None:
        self.findings: list[Finding] = []
        self.names: dict[str, None] = {}
        self._reading = reading
        self._extra = policy.extra
        self._limits = limits
        self._budget = _MAX_TIMES * size + _MIN_BUDGET
        self._spent = False
        self._depth = 0
        self._whole = error is None
        # Where the check gave up, what it left is not inert: nobody looked.
        stopped = error is not None and type(error) is not ForbiddenGlobalError
        self._unread = "" if stopped else UNREAD
        self._refusal = "" if error is None else str(error)
        self._covered: dict[str, dict[int, Parsed]] = {}
        for parsed in reading.parsed:
            self._covered.setdefault(parsed.record, {})[parsed.start] = parsed

    @abstractmethod
    def _nested(self, source: Source, prefix: str, inert: str) -> None:
        """Look into a file within the file."""

    def _spend(self, size: int) -> bool:
        """Count bytes that are looked at again; tell whether there may be so many.

        Records of a broken archive overlap, and each may hold archives that do: what
        looks like a few kilobytes can be walked into a million times.
        """
        self._budget -= size + LOOK_BYTES
        if self._budget >= 0:
            return True
        if not self._spent:
            self._spent = True
            self._note("not-scanned", "too much to look at all of it", "")
        return False

    def _bounded(self) -> None:
        """Keep the most alarming findings, if there are too many."""
        more = len(self.findings) - _MAX_FINDINGS
        if more > 0:
            rank = {Severity.DANGER: 0, Severity.WARNING: 1, Severity.INFO: 2}
            ranked = sorted(self.findings, key=lambda one: rank[one.severity])
            kept = {id(one) for one in ranked[:_MAX_FINDINGS]}
            self.findings = [one for one in self.findings if id(one) in kept]
            self._note("more-findings", f"{more:,} more findings are not listed", "")

    def _note(
        self,
        code: str,
        message: str,
        record: str,
        position: int | None = None,
        severity: Severity = Severity.WARNING,
    ) -> None:
        self.findings.append(
            Finding(
                severity=severity,
                code=code,
                message=message,
                record=record_name(record),
                position=position,
            )
        )

    def _pickle(
        self, pickle: Pickle, data: bytes, record: str, base: int, inert: str
    ) -> None:
        """Add what one pickle names and would call, and look into its bytes."""
        for name in global_names(pickle):
            self.names[name] = None
        look = PickleFindings(
            pickle,
            data,
            record,
            base=base,
            inert=inert,
            extra=self._extra,
            script=self._reading.check.script,
        )
        self.findings += look.run()
        if not look.refused and not look.holds_files:
            return
        for value, call in nested_bytes(pickle):
            if heads.may_hold_pickle(value[: heads.HEAD_BYTES]):
                # The very prefix `Reading` gives to a file in `_load_from_bytes`.
                place = f"{record}@{base + call.position}/"
                self._nested(open_source(value), place, inert)

    def _without_frames(self, data: bytes, start: int, broken: Pickle) -> Pickle:
        """Return more of a broken pickle than its frames let through, if there is."""
        patched = without_frames(data, start)
        if patched is None or not self._spend(len(data)):
            return broken
        pickle, _ = parse(patched, start, limits=self._limits)
        return pickle if len(pickle.globals) >= len(broken.globals) else broken

    def _parse_at(
        self, source: Source, position: int
    ) -> tuple[Pickle, bytes, SafeModelError | None] | None:
        """Parse a pickle the check has not; None where the budget is spent."""
        size = min(FIRST_CHUNK, source.size - position)
        while True:
            if not self._spend(size):
                return None
            data = source.read(position, size)
            pickle, error = parse(data, limits=self._limits)
            whole = size == source.size - position
            if whole or type(error) is not TruncatedFileError:
                if error is not None:
                    pickle = self._without_frames(data, 0, pickle)
                return pickle, data, error
            size = min(size * _GROWTH, source.size - position)

    def _stream(self, source: Source, record: str, inert: str, *, legacy: bool) -> None:
        """Look at pickles one after the other, and at what follows them."""
        covered = self._covered.get(record, {})
        position, count = 0, 0
        while position < source.size and count < (_LEGACY_PICKLES if legacy else 1):
            known = covered.get(position)
            if known is not None:
                if known.error is not None:
                    return
                position = known.pickle.end
            else:
                end = self._loose(source, record, position, inert)
                if end is None:
                    return
                position = end
            count += 1
        if legacy:
            # Storages follow; where they end only a check that ran through knows.
            if not self._whole or record:
                return
            position = self._reading.consumed
        if position < source.size:
            self._trailing(source, record, position)

    def _loose(
        self,
        source: Source,
        record: str,
        position: int,
        inert: str,
        *,
        whole: bool = False,
    ) -> int | None:
        """Look at a pickle the check has not parsed; return where it ends, if it does.

        Args:
            source: Where it is.
            record: What to call that.
            position: Where it starts.
            inert: Why the check does not read it.
            whole: Whether a broken one does not count: raw numbers may look like one.
        """
        parsed = self._parse_at(source, position)
        if parsed is None:
            return None
        pickle, data, error = parsed
        if error is None or (pickle.globals and not whole):
            self._pickle(pickle, data, record, position, inert)
        return None if error is not None else position + pickle.end

    def _after_parsed(self, record: str) -> None:
        """Look at what follows a pickle that the check found in a whole record."""
        for parsed in self._covered.get(record, {}).values():
            end, size = parsed.pickle.end, len(parsed.data)
            if parsed.error is None and end < size:
                self._trailing(open_source(parsed.data), record, end)

    def _trailing(self, source: Source, record: str, position: int) -> None:
        """Look at bytes behind the last pickle: another one, or junk with one in it."""
        left = source.size - position
        self._note(
            "bytes-after-end",
            f"{left:,} bytes follow the end of what safe_load reads",
            record,
            position,
        )
        failed = 0
        while position < source.size:
            if heads.may_be_pickle(source.read(position, 1)):
                end = self._loose(source, record, position, AFTER)
                if end is not None:
                    position = end
                    continue
                failed += 1
                if failed == _MAX_FAILED:
                    self._note("not-scanned", "too much looks like a pickle", record)
                    return
            position = _next_pickle(source, position + 1)


def _next_pickle(source: Source, position: int) -> int:
    """Return where the next PROTO stands; the end of the source if there is none."""
    for start in range(position, source.size, _WINDOW):
        # One byte less than PROTO and what follows it is read twice.
        data = source.view(start, min(_WINDOW + 2, source.size - start))
        found = heads.PROTO.search(data)
        if found is not None:
            return start + found.start()
    return source.size
