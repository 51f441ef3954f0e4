"""Many files in several processes: those of a scan, and whatever else has a `Work`.

Each worker is a fresh interpreter that answers requests (`worker_process`): paths go
in, reports come out. A file that takes a worker down costs the report of that file
alone.
"""

from __future__ import annotations

import json
from collections import deque
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from safemodel._scan.one import Settings, scan_target
from safemodel._scan.paths import Target
from safemodel._scan.worker_process import WorkerProcess
from safemodel.limits import Limits
from safemodel.reports import FileReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BATCH = 16
_DIED = "the process that looked at it ended: it may need more memory than there is"


ReportT = TypeVar("ReportT")
ReportT_co = TypeVar("ReportT_co", covariant=True)


class Work(Protocol[ReportT_co]):
    """What is done to files, here or in a worker.

    Attributes:
        module: Has ``serve``, for a worker.
    """

    module: str

    def settings(self) -> dict[str, Any]:
        """Return what a worker is told first."""
        ...

    def report(self, target: Target) -> ReportT_co:
        """Do it in this process."""
        ...

    def read(self, members: dict[str, Any]) -> ReportT_co:
        """Return the report whose JSON form a worker has sent."""
        ...

    def failed(self, path: str, why: str) -> ReportT_co:
        """Return the report of a file that took a worker down."""
        ...


class ScanWork:
    """The work of a scan.

    Args:
        settings: How files are looked at.
    """

    module = "safemodel._scan.workers"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        """Return what `serve` takes."""
        return {**vars(self._settings), "limits": vars(self._settings.limits)}

    def report(self, target: Target) -> FileReport:
        """Scan a file."""
        return scan_target(target, self._settings)

    def read(self, members: dict[str, Any]) -> FileReport:
        """Return a report."""
        return FileReport.from_dict(members)

    def failed(self, path: str, why: str) -> FileReport:
        """Return that a file is unreadable."""
        return FileReport(path=path, read_error=why)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more: the work of a scan's worker."""

    def scan(given: dict[str, Any]) -> Callable[[Target], str]:
        settings = Settings(**{**given, "limits": Limits(**given["limits"])})
        return lambda target: scan_target(target, settings).to_json()

    answer(requests, answers, scan)


def answer(
    requests: IO[str],
    answers: IO[str],
    starting: Callable[[dict[str, Any]], Callable[[Target], str]],
) -> None:
    """Answer requests until there are no more.

    The first line holds the settings, every other one a list of paths.

    Args:
        requests: What to do.
        answers: Where reports go, a line each.
        starting: From settings to what makes the report of a file, as JSON.
    """
    report = starting(json.loads(requests.readline()))
    for line in requests:
        for path in json.loads(line):
            answers.write(report(Target(path)) + "\n")
        answers.flush()


def scan_in_processes(
    targets: Sequence[Target], jobs: int, settings: Settings
) -> Iterator[FileReport]:
    """Yield the report of every target, in order."""
    return in_processes(targets, jobs, ScanWork(settings))


def in_processes(
    targets: Sequence[Target], jobs: int, work: Work[ReportT], batch: int = _BATCH
) -> Iterator[ReportT]:
    """Yield the report of every target, in order.

    Args:
        targets: Files.
        jobs: Processes.
        work: What is done to each.
        batch: Files that a worker takes at a time.
    """
    shared = _Shared(targets, work, batch)
    threads = [
        Thread(target=_feed, args=(shared,), daemon=True)
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


class _Shared(Generic[ReportT]):
    """What is still to do and what is done, for threads that each feed a worker.

    There is no lock of ours: an interrupt that comes between taking one and noting that
    it is taken would leave everybody waiting for ever.
    """

    def __init__(
        self, targets: Sequence[Target], work: Work[ReportT], batch: int
    ) -> None:
        self.targets = targets
        self.work = work
        self.stopped = False
        self._workers: set[_Worker[ReportT]] = set()
        starts = range(0, len(targets), batch)
        self._waiting = deque(range(len(targets))[at : at + batch] for at in starts)
        self._answers: SimpleQueue[tuple[int, ReportT] | BaseException]
        self._answers = SimpleQueue()
        self._early: dict[int, ReportT] = {}

    def take(self) -> range:
        """Return the indices of some targets nobody has taken; none at the end."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return range(0)

    def put(self, index: int, report: ReportT) -> None:
        """Hand in a report."""
        self._answers.put((index, report))

    def fail(self, failure: BaseException) -> None:
        """Hand in the reason why there will be no report."""
        self._answers.put(failure)

    def wait_for(self, index: int) -> ReportT:
        """Return a report once it is there."""
        while index not in self._early:
            answer = self._answers.get()
            if isinstance(answer, BaseException):
                raise answer
            self._early[answer[0]] = answer[1]
        return self._early.pop(index)

    def worker(self) -> _Worker[ReportT]:
        """Return a new worker, which `stop` ends."""
        worker = _Worker(self.work)
        self._workers.add(worker)
        return worker

    def close(self, worker: _Worker[ReportT]) -> None:
        """End a worker."""
        self._workers.discard(worker)
        worker.close()

    def stop(self) -> None:
        """Leave nothing to take, and nobody at work: one file may take long."""
        self.stopped = True
        self._waiting.clear()
        for worker in self._workers.copy():
            worker.kill()


class _Worker(WorkerProcess, Generic[ReportT]):
    """One process at work."""

    def __init__(self, work: Work[ReportT]) -> None:
        super().__init__(work.module)
        self._work = work
        self.ask(work.settings())

    def scan(self, paths: list[str]) -> Iterator[ReportT | None]:
        """Yield a report for each path; None, and no more, where the process dies."""
        self.ask(paths)
        for _ in paths:
            answer = self.answer()
            if answer is None:
                yield None
                return
            yield self._work.read(answer)


def _feed(shared: _Shared[ReportT]) -> None:
    """Take targets, hand in reports: the work of a thread."""
    try:
        worker = shared.worker()
        try:
            while indices := shared.take():
                worker = _do_batch(shared, worker, list(indices))
        finally:
            shared.close(worker)
    # Whatever it is, the thread that waits has to raise it.
    except BaseException as failure:  # noqa: BLE001
        shared.fail(failure)


def _do_batch(
    shared: _Shared[ReportT], worker: _Worker[ReportT], indices: list[int]
) -> _Worker[ReportT]:
    """Do some targets; return the worker that is alive afterwards."""
    waiting = []
    for index in indices:
        target = shared.targets[index]
        if target.problem:
            shared.put(index, shared.work.report(target))
        else:
            waiting.append(index)
    size = len(waiting)
    while waiting and not shared.stopped:
        asked = waiting[:size]
        for report in worker.scan([shared.targets[index].path for index in asked]):
            if report is not None:
                shared.put(waiting.pop(0), report)
                continue
            shared.close(worker)
            worker = shared.worker()
            if size == 1:
                index = waiting.pop(0)
                path = shared.targets[index].path
                shared.put(index, shared.work.failed(path, _DIED))
            # Some of these it had done, but not told: one by one from here on.
            size = 1
    return worker
