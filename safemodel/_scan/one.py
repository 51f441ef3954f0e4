"""One file of a scan, whatever happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._collector import collector_paused
from safemodel._containers.source import open_source
from safemodel._scan.look import look_at
from safemodel._value import Value
from safemodel.policy import STRICT
from safemodel.reports import FileReport

if TYPE_CHECKING:
    from safemodel._scan.paths import Target
    from safemodel.limits import Limits

_SMALL_FILE = 1 << 20


class Settings(Value):
    """How the files of a scan are looked at.

    Attributes:
        limits: How much a file may ask for.
        checksums: Whether the bytes of storages are read, and their CRC-32 compared.
    """

    limits: Limits
    checksums: bool


def scan_target(target: Target, settings: Settings) -> FileReport:
    """Return the report of a file with the policy `safe_load` has by default."""
    path = target.path
    if target.problem:
        return FileReport(path=path, read_error=target.problem)
    try:
        with open_source(path) as source, collector_paused():
            # One read instead of a dozen.
            whole = source.at_once() if source.size <= _SMALL_FILE else source
            return look_at(
                whole,
                path=path,
                policy=STRICT,
                limits=settings.limits,
                tensors=False,
                checksums=settings.checksums,
            )
    except OSError as error:
        return FileReport(path=path, read_error=error.strerror or str(error))
