"""The files of a folder, in several processes.

Each worker is a fresh interpreter that runs `serve` (`worker_process`): tasks go in,
answers come out. A file that takes a worker down costs that file alone. When the caller
is killed, its workers end with the file they are at.
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from safemodel._disarm.folder_plan import Task
from safemodel._disarm.one_file import Settings
from safemodel._disarm.tasks import (
    DIED,
    Answer,
    do_task,
    from_json,
    may_be_model,
    to_json,
)
from safemodel._scan.worker_process import WorkerProcess
from safemodel.errors import DisarmError
from safemodel.limits import Limits
from safemodel.policy import Policy
from safemodel.scrub import Scrub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WORTH_A_WORKER = 64 << 20
"""Bytes of files for which another worker pays: it takes a second to start."""
_SMALLEST = 1 << 17
"""What a small file counts as: each takes some time, whatever its size."""


def worker_count(tasks: Sequence[Task]) -> int:
    """Return how many workers to start for some tasks."""
    work = sum(max(task.size, _SMALLEST) for task in tasks)
    return min(len(os.sched_getaffinity(0)), len(tasks), 1 + work // _WORTH_A_WORKER)


def do_tasks(tasks: Sequence[Task], folder: Path, settings: Settings) -> list[Answer]:
    """Disarm files into a folder; return the answers in the order of the tasks.

    Raises:
        DisarmError: What was written does not read back as it should.
        OSError: Writing failed.
    """
    if settings.policy.extra:
        # Code of the caller's: it is here, and nowhere else.
        return [do_task(task, folder, settings) for task in tasks]
    work = _Work(tasks, folder, settings)
    threads = [
        Thread(target=work.feed, daemon=True) for _ in range(worker_count(tasks))
    ]
    try:
        for thread in threads:
            thread.start()
        return work.answers()
    finally:
        work.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more: the work of a worker.

    The first line holds the folder and the settings, every other one a task.
    """
    given = json.loads(requests.readline())
    folder, settings = Path(given["folder"]), _settings(given)
    for line in requests:
        task = Task(*json.loads(line))
        try:
            answer = to_json(do_task(task, folder, settings))
        except DisarmError as error:
            answer = {"disarm_error": str(error)}
        except OSError as error:
            answer = {"os_error": [error.errno, error.strerror, task.out]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _request(folder: Path, settings: Settings) -> dict[str, Any]:
    """Return the first line for a worker."""
    scrub = settings.scrub
    return {
        **vars(settings),
        "folder": str(folder),
        "policy": settings.policy.others,
        "limits": vars(settings.limits),
        "scrub": None if scrub is None else vars(scrub),
    }


def _settings(given: dict[str, Any]) -> Settings:
    """Return the settings of that line."""
    members = {name: given[name] for name in Settings.__annotations__}
    members["policy"] = Policy(others=given["policy"])
    members["limits"] = Limits(**given["limits"])
    if given["scrub"] is not None:
        members["scrub"] = Scrub(**given["scrub"])
    return Settings(**members)


class _Work:
    """What is still to do and what is done, for threads that each feed a worker.

    There is no lock of ours, as in `_scan.workers`: an interrupt must leave nobody
    waiting.
    """

    def __init__(self, tasks: Sequence[Task], folder: Path, settings: Settings) -> None:
        self._tasks = tasks
        self._request = _request(folder, settings)
        self._stopped = False
        self._processes: set[WorkerProcess] = set()
        # The largest first: the last one to finish decides how long it takes.
        order = sorted(range(len(tasks)), key=lambda at: -tasks[at].size)
        self._waiting = deque(order)
        self._done: SimpleQueue[tuple[int, Answer] | BaseException] = SimpleQueue()

    def answers(self) -> list[Answer]:
        """Return the answers once all are there."""
        answers: dict[int, Answer] = {}
        while len(answers) < len(self._tasks):
            done = self._done.get()
            if isinstance(done, BaseException):
                raise done
            answers[done[0]] = done[1]
        return [answers[at] for at in range(len(self._tasks))]

    def feed(self) -> None:
        """Hand tasks to workers, one at a time: the work of a thread."""
        process = None
        try:
            for at in self._take():
                if process is None:
                    process = self._start()
                answer = _ask(process, self._tasks[at])
                if answer is None:
                    self._end(process)
                    process = None
                    answer = Answer(None, DIED, may_be_model(self._tasks[at]))
                self._done.put((at, answer))
        # Whatever it is, the thread that waits has to raise it.
        except BaseException as failure:  # noqa: BLE001 - raised by whoever waits
            self._done.put(failure)
        finally:
            if process is not None:
                self._end(process)

    def _take(self) -> Iterator[int]:
        while not self._stopped:
            try:
                at = self._waiting.popleft()
            except IndexError:
                return
            yield at

    def _start(self) -> WorkerProcess:
        """Return a new worker that has its settings."""
        process = WorkerProcess(__name__)
        self._processes.add(process)
        if self._stopped:
            process.kill()
        process.ask(self._request)
        return process

    def _end(self, process: WorkerProcess) -> None:
        """End a worker, and wait for that."""
        self._processes.discard(process)
        process.close()

    def stop(self) -> None:
        """Leave nothing to take, and nobody at work: one file may take long."""
        self._stopped = True
        self._waiting.clear()
        for process in self._processes.copy():
            process.kill()


def _ask(process: WorkerProcess, task: Task) -> Answer | None:
    """Return the answer to a task; None where the process dies.

    Raises:
        DisarmError, OSError: As `do_task` does.
    """
    process.ask(task)
    given = process.answer()
    if given is None:
        return None
    if "disarm_error" in given:
        raise DisarmError(given["disarm_error"])
    if "os_error" in given:
        raise OSError(*given["os_error"])
    return from_json(given)
