"""Several processes say what one says, and survive the end of one of them."""

from __future__ import annotations

import io
import json

import pytest

from safemodel import scan_files
from safemodel._scan import workers
from safemodel._scan.workers import _Worker, serve
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
    """Settings first, then paths; one report a line."""
    settings = {"limits": vars(DEFAULT_LIMITS), "checksums": False}
    requests = [settings, [str(folder / "00.pt")], [str(folder / "01.pt")]]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), answers)
    lines = answers.getvalue().splitlines()
    statuses = [FileReport.from_dict(json.loads(line)).status for line in lines]
    assert statuses == [Status.REFUSED, Status.CLEAN]


class Fragile(_Worker):
    """A process that is killed whenever it is asked about a certain file."""

    def scan(self, paths):
        """Kill it first, if the file is among those."""
        if any(path.endswith("01.pt") for path in paths):
            self._process.kill()
            self._process.wait()
        return super().scan(paths)


def test_a_process_that_ends_costs_one_report(folder, monkeypatch):
    """The file it was busy with is unreadable, those before and after it are not."""
    monkeypatch.setattr(workers, "_Worker", Fragile)
    reports = list(scan_files([folder], jobs=2))
    assert len(reports) == 20
    assert reports[0].status is Status.REFUSED
    assert reports[1].status is Status.UNREADABLE
    assert "ended" in (reports[1].read_error or "")
    unreadable = [one for one in reports if one.status is Status.UNREADABLE]
    assert len(unreadable) == 1
