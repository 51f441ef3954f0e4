"""Several processes say what one says, and survive the end of one of them."""

from __future__ import annotations

import io
import json

import pytest

from safemodel import scan_files
from safemodel._scan.paths import Target
from safemodel._scan.workers import _scan_batch, _Shared, _Worker, serve
from safemodel.limits import DEFAULT_LIMITS, Limits
from safemodel.reports import FileReport, Status
from tests.unit.scan.helpers_scan import EMPTY, EVIL


@pytest.fixture
def folder(tmp_path):
    """Return a folder of twenty files, every third of them hostile."""
    for at in range(20):
        (tmp_path / f"{at:02}.pt").write_bytes(EVIL if at % 3 == 0 else EMPTY)
    return tmp_path


def test_several_processes_say_the_same_in_the_same_order(folder):
    """Whatever finishes first, and with what is missing in between."""
    paths = [folder / "00.pt", folder / "missing", folder]
    alone = list(scan_files(paths))
    seen = []
    together = list(
        scan_files(paths, jobs=3, progress=lambda done, of: seen.append((done, of)))
    )
    assert together == alone
    assert len(alone) == 21
    assert seen == [(done, 21) for done in range(1, 22)]


def test_limits_reach_the_workers(folder):
    """A tiny limit refuses there, too."""
    limits = Limits(max_pickle_bytes=3)
    reports = list(scan_files([folder], jobs=2, limits=limits))
    assert {report.error for report in reports} == {"LimitExceededError"}


def test_leaving_early_ends_the_workers(folder):
    """Whoever stops listening leaves nothing behind."""
    reports = scan_files([folder], jobs=2)
    assert next(reports).path.endswith("00.pt")
    reports.close()


def test_jobs_must_be_positive(folder):
    """Before anything is opened."""
    with pytest.raises(ValueError):
        scan_files([folder], jobs=0)


def test_a_worker_answers_line_by_line(folder):
    """Limits first, then paths; one report a line."""
    requests = [vars(DEFAULT_LIMITS), [str(folder / "00.pt")], [str(folder / "01.pt")]]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), answers)
    lines = answers.getvalue().splitlines()
    statuses = [FileReport.from_dict(json.loads(line)).status for line in lines]
    assert statuses == [Status.REFUSED, Status.CLEAN]


def test_a_process_that_ends_costs_one_report(folder):
    """The file it was busy with is unreadable, the next one is not."""
    targets = [Target(str(folder / f"{at:02}.pt")) for at in range(3)]
    shared = _Shared(targets)
    worker = _Worker(DEFAULT_LIMITS)
    worker._process.kill()
    worker._process.wait()

    alive = _scan_batch(shared, worker, [0, 1, 2], DEFAULT_LIMITS)

    try:
        statuses = [shared.wait_for(at).status for at in range(3)]
    finally:
        alive.close()
    assert statuses == [Status.UNREADABLE, Status.CLEAN, Status.CLEAN]
