"""The check of `safe_load`, run as it is, with a note of every pickle it parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safemodel._containers.records import DEFLATED
from safemodel._formats.formats import read_any
from safemodel._formats.reading import Reading
from safemodel._graph.check import FileCheck
from safemodel._unpickle.machine import parse
from safemodel.errors import SafeModelError, TruncatedFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._containers.source import Source
    from safemodel._formats.members import Members
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._unpickle.parsed import Pickle
    from safemodel.limits import Limits
    from safemodel.policy import Policy


_FRAME = 0x95
_FRAME_BYTES = 9
_MAX_FRAMES = 64
# BINUNICODE of three bytes and POP: as long as FRAME, and nothing is left of it.
_NOTHING = b"X\x03\0\0\0abc0"


def without_frames(data: bytes, start: int) -> bytes | None:
    """Return a broken pickle with its first frames taken out, positions kept.

    Readers disagree about frames that lie; without them, more may be read.
    """
    at = start + 2 if data[start : start + 1] == b"\x80" else start
    patched = bytearray(data)
    for _ in range(_MAX_FRAMES):
        if at >= len(data) or data[at] != _FRAME or at + _FRAME_BYTES > len(data):
            break
        patched[at : at + _FRAME_BYTES] = _NOTHING
        at += _FRAME_BYTES + int.from_bytes(data[at + 1 : at + _FRAME_BYTES], "little")
    return bytes(patched) if patched != data else None


class Parsed(NamedTuple):
    """A pickle, as far as it could be parsed, and what ended it."""

    record: str
    start: int
    data: bytes
    pickle: Pickle
    error: SafeModelError | None


class RecordingReading(Reading):
    """A reading that notes every pickle it parses, the broken ones included."""

    parsed: list[Parsed]

    @property
    def storages(self) -> Mapping[str, object]:
        """The storages the check has found, by the names of their records."""
        return self.check.storages

    def parse(self, data: bytes, start: int, record: str) -> Pickle:
        """Parse a pickle with this call's settings, and note it."""
        pickle, error = parse(
            data,
            start,
            limits=self.limits,
            encoding=self.encoding,
            errors=self.errors,
        )
        noted = self.parsed
        if noted:
            last = noted[-1]
            # A stream is read in growing chunks; only the last attempt counts.
            if (
                last.record == record
                and last.start == start
                and type(last.error) is TruncatedFileError
            ):
                noted.pop()
        noted.append(Parsed(record, start, data, pickle, error))
        if error is not None:
            raise error.locate(record=record)
        return pickle


def check_file(
    source: Source,
    *,
    policy: Policy,
    limits: Limits,
    checksums: bool,
    spool: bool = False,
    members: Members | None = None,
) -> tuple[RecordingReading, TensorGraph | None, SafeModelError | None]:
    """Check a file as `safe_load` does; return what was parsed and how it ended.

    The caller closes the reading.
    """
    reading = RecordingReading(
        check=FileCheck(policy, limits, source.size),
        limits=limits,
        read_any=read_any,
        spool=spool,
    )
    reading.parsed = []
    reading.members = members
    try:
        root, reading.consumed = read_any(reading, source, "")
        graph = reading.check.finish(root)
        for spec in graph.storages.values():
            # What reading its bytes would start with.
            if spec.record is not None and spec.record.method == DEFLATED:
                spec.record.check_inflation(limits)
            if spec.record is not None and checksums:
                spec.record.verify(limits=limits)
    except SafeModelError as error:
        return reading, None, error
    except BaseException:
        reading.close()
        raise
    return reading, graph, None
