"""A scan in several processes.

Each worker is a fresh interpreter that runs `serve` (`worker_process`): paths go in,
reports come out. A file that takes a worker down costs the report of that file alone.
"""

from __future__ import annotations

import json
from collections import deque
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING

from safemodel._scan.one import Settings, scan_target
from safemodel._scan.paths import Target
from safemodel._scan.worker_process import WorkerProcess
from safemodel.limits import Limits
from safemodel.reports import FileReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BATCH = 16
_DIED = "the process that looked at it ended: it may need more memory than there is"


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more: the work of a worker.

    The first line holds the settings, every other one a list of paths.
    """
    given = json.loads(requests.readline())
    given["limits"] = Limits(**given["limits"])
    settings = Settings(**given)
    for line in requests:
        for path in json.loads(line):
            answers.write(scan_target(Target(path), settings).to_json() + "\n")
        answers.flush()


def scan_in_processes(
    targets: Sequence[Target], jobs: int, settings: Settings
) -> Iterator[FileReport]:
    """Yield the report of every target, in order."""
    shared = _Shared(targets)
    threads = [
        Thread(target=_feed, args=(shared, settings), daemon=True)
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
    """What is still to do and what is done, for threads that each feed a worker.

    There is no lock of ours: an interrupt that comes between taking one and noting that
    it is taken would leave everybody waiting for ever.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.stopped = False
        self._workers: set[_Worker] = set()
        starts = range(0, len(targets), _BATCH)
        self._waiting = deque(range(len(targets))[at : at + _BATCH] for at in starts)
        self._answers: SimpleQueue[tuple[int, FileReport] | BaseException]
        self._answers = SimpleQueue()
        self._early: dict[int, FileReport] = {}

    def take(self) -> range:
        """Return the indices of some targets nobody has taken; none at the end."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return range(0)

    def put(self, index: int, report: FileReport) -> None:
        """Hand in a report."""
        self._answers.put((index, report))

    def fail(self, failure: BaseException) -> None:
        """Hand in the reason why there will be no report."""
        self._answers.put(failure)

    def wait_for(self, index: int) -> FileReport:
        """Return a report once it is there."""
        while index not in self._early:
            answer = self._answers.get()
            if isinstance(answer, BaseException):
                raise answer
            self._early[answer[0]] = answer[1]
        return self._early.pop(index)

    def worker(self, settings: Settings) -> _Worker:
        """Return a new worker, which `stop` ends."""
        worker = _Worker(settings)
        self._workers.add(worker)
        return worker

    def close(self, worker: _Worker) -> None:
        """End a worker."""
        self._workers.discard(worker)
        worker.close()

    def stop(self) -> None:
        """Leave nothing to take, and nobody at work: one file may take long."""
        self.stopped = True
        self._waiting.clear()
        for worker in self._workers.copy():
            worker.kill()


class _Worker(WorkerProcess):
    """One process that scans."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(__name__)
        self.ask({**vars(settings), "limits": vars(settings.limits)})

    def scan(self, paths: list[str]) -> Iterator[FileReport | None]:
        """Yield a report for each path; None, and no more, where the process dies."""
        self.ask(paths)
        for _ in paths:
            answer = self.answer()
            if answer is None:
                yield None
                return
            yield FileReport.from_dict(answer)


def _feed(shared: _Shared, settings: Settings) -> None:
    """Take targets, hand in reports: the work of a thread."""
    try:
        worker = shared.worker(settings)
        try:
            while indices := shared.take():
                worker = _scan_batch(shared, worker, list(indices), settings)
        finally:
            shared.close(worker)
    # Whatever it is, the thread that waits has to raise it.
    except BaseException as failure:  # noqa: BLE001
        shared.fail(failure)


def _scan_batch(
    shared: _Shared, worker: _Worker, indices: list[int], settings: Settings
) -> _Worker:
    """Scan some targets; return the worker that is alive afterwards."""
    waiting = []
    for index in indices:
        target = shared.targets[index]
        if target.problem:
            shared.put(index, scan_target(target, settings))
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
            worker = shared.worker(settings)
            if size == 1:
                index = waiting.pop(0)
                path = shared.targets[index].path
                shared.put(index, FileReport(path=path, read_error=_DIED))
            # Some of these it had done, but not told: one by one from here on.
            size = 1
    return worker
