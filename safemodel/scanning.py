"""`scan_files` and `inspect_file`: what `safe_load` would say, and what else is there.

Neither builds a tensor, and neither needs torch or numpy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from safemodel._scan.one import Settings
    from safemodel._scan.paths import Target
    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits
    from safemodel.policy import Policy
    from safemodel.reports import FileReport


def inspect_file(
    f: FileLike,
    *,
    policy: Policy = SALVAGE,
    limits: Limits = DEFAULT_LIMITS,
    verify_checksums: bool = False,
) -> FileReport:
    """Return what a file holds: its tensors, its globals, what it would have run.

    Args:
        f: A path, bytes, or a binary file object.
        policy: Which globals are refused. By default none is, so that the tensors of
            a file that `safe_load` refuses are listed too.
        limits: How much the file may ask for.
        verify_checksums: Read the bytes of tensors too, and compare their CRC-32 as
            `safe_load` does: as slow as reading the file.

    Raises:
        OSError: It cannot be opened or read.
        TypeError: ``f`` is of the wrong type.
    """
    from safemodel._containers.source import open_source
    from safemodel._scan.look import look_at

    path = os.fsdecode(f) if isinstance(f, (str, os.PathLike)) else ""
    with open_source(f) as source:
        report = look_at(
            source,
            path=path,
            policy=policy,
            limits=limits,
            tensors=True,
            checksums=verify_checksums,
        )
        source.finish(0)
    return report


def scan_files(
    paths: Iterable[StrPath],
    *,
    jobs: int = 1,
    limits: Limits | None = None,
    verify_checksums: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FileReport]:
    """Yield, for each file, whether `safe_load` refuses it and what it would have run.

    Args:
        paths: Files, folders (walked to the bottom) and glob patterns.
        jobs: Processes that share the work.
        limits: How much a file may ask for; None for those of `safe_load`.
        verify_checksums: Read the bytes of tensors too, as `inspect_file`.
        progress: Called after each file with the number done and the number of all.

    Returns:
        Reports, in the order of the files. What cannot be read has a report, too.

    Raises:
        ValueError: ``jobs`` is not positive.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be positive: {jobs}")
    from safemodel._scan.one import Settings
    from safemodel._scan.paths import find_targets

    targets = list(find_targets(paths))
    settings = Settings(
        limits=DEFAULT_LIMITS if limits is None else limits, checksums=verify_checksums
    )
    return _scan_all(targets, jobs, settings, progress)


def _scan_all(
    targets: list[Target],
    jobs: int,
    settings: Settings,
    progress: Callable[[int, int], None] | None,
) -> Iterator[FileReport]:
    """Yield the report of every target."""
    if jobs > 1 and len(targets) > 1:
        from safemodel._scan.workers import scan_in_processes

        reports = scan_in_processes(targets, jobs, settings)
    else:
        from safemodel._scan.one import scan_target

        reports = (scan_target(target, settings) for target in targets)
    for done, report in enumerate(reports, 1):
        yield report
        if progress is not None:
            progress(done, len(targets))
