"""A process that answers lines of JSON, and one that dies meanwhile."""

from __future__ import annotations

import contextlib

from safemodel._scan.worker_process import WorkerProcess


def test_a_worker_answers_line_by_line_until_it_is_closed():
    """The module that it is given runs there, from this package and no other place."""
    worker = WorkerProcess("safemodel._scan.workers")
    with contextlib.closing(worker):
        worker.ask({"tensors": "no settings of a scan"})
        assert worker.answer() is None  # it has ended with an error
        worker.ask(["nobody is there"])  # and that is seen by reading only
        assert worker.answer() is None


def test_a_killed_worker_gives_no_answer():
    """Neither a half line nor an error."""
    worker = WorkerProcess("safemodel._scan.workers")
    with contextlib.closing(worker):
        worker.kill()
        worker.ask({})
        assert worker.answer() is None
