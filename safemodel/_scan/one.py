"""One file of a scan, whatever happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._collector import collector_paused
from safemodel._containers.source import open_source
from safemodel._scan.look import look_at
from safemodel.policy import STRICT
from safemodel.reports import FileReport

_SMALL_FILE = 1 << 20

if TYPE_CHECKING:
    from safemodel._scan.paths import Target
    from safemodel.limits import Limits


def scan_target(target: Target, limits: Limits) -> FileReport:
    """Return the report of a file with the policy `safe_load` has by default."""
    path = target.path
    if target.problem:
        return FileReport(path=path, read_error=target.problem)
    try:
        with open_source(path) as source, collector_paused():
            # One read instead of a dozen.
            whole = source.at_once() if source.size <= _SMALL_FILE else source
            return look_at(
                whole, path=path, policy=STRICT, limits=limits, tensors=False
            )
    except OSError as error:
        return FileReport(path=path, read_error=error.strerror or str(error))
