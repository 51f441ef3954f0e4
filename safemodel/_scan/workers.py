"""A scan in several processes.

Each worker is a fresh interpreter that runs `serve`: paths go in as lines of JSON,
reports come out as lines of JSON. No fork (the caller may have threads and
gigabytes), no import of the caller's main module, and a file that takes a worker down
costs the report of that file alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Condition, Thread
from typing import IO, TYPE_CHECKING

from safemodel._scan.one import scan_target
from safemodel._scan.paths import Target
from safemodel.limits import Limits
from safemodel.reports import FileReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# -I: neither the current folder nor the environment decides what is imported.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from safemodel._scan.workers import serve; serve(sys.stdin, sys.stdout)"
)
_ROOT = str(Path(__file__).resolve().parents[2])
_BATCH = 16
_DIED = "the process that looked at it ended: it may need more memory than there is"


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more: the work of a worker.

    The first line holds the limits, every other one a list of paths.
    """
    limits = Limits(**json.loads(requests.readline()))
    for line in requests:
        for path in json.loads(line):
            answers.write(scan_target(Target(path), limits).to_json() + "\n")
        answers.flush()


def scan_in_processes(
    targets: Sequence[Target], jobs: int, limits: Limits
) -> Iterator[FileReport]:
    """Yield the report of every target, in order."""
    shared = _Shared(targets)
    threads = [
        Thread(target=_feed, args=(shared, limits), daemon=True)
        for _ in range(min(jobs, len(targets)))
    ]
    for thread in threads:
        thread.start()
    try:
        for index in range(len(targets)):
            yield shared.wait_for(index)
    finally:
        shared.stop()
        for thread in threads:
            thread.join()


class _Shared:
    """What is still to do and what is done, for threads that each feed a worker."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self._next = 0
        self._done: dict[int, FileReport] = {}
        self._changed = Condition()
        self._failure: BaseException | None = None

    def take(self) -> range:
        """Return the indices of some targets nobody has taken; none at the end."""
        with self._changed:
            first = self._next
            self._next = min(first + _BATCH, len(self.targets))
            return range(first, self._next)

    def put(self, index: int, report: FileReport) -> None:
        """Hand in a report."""
        with self._changed:
            self._done[index] = report
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """Hand in the reason why there will be no report."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def wait_for(self, index: int) -> FileReport:
        """Return a report once it is there."""
        with self._changed:
            while index not in self._done:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()
            return self._done.pop(index)

    def stop(self) -> None:
        """Leave nothing to take."""
        with self._changed:
            self._next = len(self.targets)


class _Worker:
    """One process that scans."""

    def __init__(self, limits: Limits) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this module
            [sys.executable, "-I", "-c", _PROGRAM, _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
        )
        self._ask(vars(limits))

    def _ask(self, request: object) -> None:
        stdin = self._process.stdin
        if stdin is not None:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
            except BrokenPipeError:
                # It has died; reading its answer says so.
                return

    def scan(self, paths: list[str]) -> Iterator[FileReport | None]:
        """Yield a report for each path; None, and no more, where the process dies."""
        self._ask(paths)
        stdout = self._process.stdout
        for _ in paths:
            line = stdout.readline() if stdout is not None else ""
            if not line.endswith("\n"):
                yield None
                return
            yield FileReport.from_dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _feed(shared: _Shared, limits: Limits) -> None:
    """Take targets, hand in reports: the work of a thread."""
    try:
        worker = _Worker(limits)
        try:
            while indices := shared.take():
                worker = _scan_batch(shared, worker, list(indices), limits)
        finally:
            worker.close()
    # Whatever it is, the thread that waits has to raise it.
    except BaseException as failure:  # noqa: BLE001
        shared.fail(failure)


def _scan_batch(
    shared: _Shared, worker: _Worker, indices: list[int], limits: Limits
) -> _Worker:
    """Scan some targets; return the worker that is alive afterwards."""
    waiting = []
    for index in indices:
        target = shared.targets[index]
        if target.problem:
            shared.put(index, scan_target(target, limits))
        else:
            waiting.append(index)
    size = len(waiting)
    while waiting:
        asked = waiting[:size]
        for report in worker.scan([shared.targets[index].path for index in asked]):
            if report is not None:
                shared.put(waiting.pop(0), report)
                continue
            worker.close()
            worker = _Worker(limits)
            if size == 1:
                index = waiting.pop(0)
                path = shared.targets[index].path
                shared.put(index, FileReport(path=path, read_error=_DIED))
            # Some of these it had done, but not told: one by one from here on.
            size = 1
    return worker
