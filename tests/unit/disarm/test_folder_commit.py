"""A new folder appears whole or not at all, and never in the way of another one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
import torch

from safemodel import SALVAGE, STRICT, DisarmError, MalformedFileError, Scrub, disarm
from safemodel._disarm import folder as folder_module
from safemodel._disarm import tasks as tasks_module
from safemodel._disarm.folder_plan import Task, plan_folder
from safemodel._disarm.one_file import Settings
from safemodel._disarm.processes import _request, _Work, do_tasks, serve, worker_count
from safemodel._disarm.tasks import DIED, Answer, do_task, from_json, to_json
from safemodel.limits import DEFAULT_LIMITS
from tests.unit.disarm.helpers_disarm import saved
from tests.unit.disarm.helpers_folder import disarmed, fill, hub, left, written

ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).with_name("folder_child.py")
SETTINGS = Settings(
    policy=SALVAGE,
    scrub=Scrub(bits=3),
    limits=DEFAULT_LIMITS,
    overwrite=False,
    digests=True,
)


def child(*arguments: object) -> subprocess.Popen[str]:
    """Start a process that disarms a folder."""
    return subprocess.Popen(
        [sys.executable, CHILD, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_one_folder_is_never_within_the_other(tmp_path):
    """Whichever way they are named; nothing is written."""
    source = fill(tmp_path / "a" / "in", {"x.txt": "x"})
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "up").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for target in (
        source, source / "out", source / ".." / "in", tmp_path / "link" / "out",
        tmp_path / "up" / "a" / "in" / "out", source / "x" / ".." / "out",
    ):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError)):
            disarm(source, target)
    with pytest.raises(ValueError, match="is the one to read"):
        disarm(tmp_path / "link", source, overwrite=True)
    with pytest.raises(ValueError, match="within the new one"):
        disarm(source, tmp_path / "a", overwrite=True)
    with pytest.raises(FileExistsError):
        disarm(source, tmp_path / "link")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_there_is_not_replaced(tmp_path):
    """It takes two steps, between which there would be none. An empty one may be."""
    source = fill(tmp_path / "in", {"x.txt": "x"})
    fill(tmp_path / "out", {"mine.txt": "mine"})
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="cannot be replaced"):
            disarm(source, tmp_path / "out", overwrite=overwrite)
    assert written(tmp_path / "out") == ["mine.txt"]

    (tmp_path / "out" / "mine.txt").unlink()
    disarm(source, tmp_path / "out")
    assert written(tmp_path / "out") == ["x.txt"]
    assert names(tmp_path) == ["in", "out"]

    with pytest.raises(FileNotFoundError):
        disarm(source, tmp_path / "no" / "such")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127], ids=["ASCII", "beyond"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    """The folder that is filled meanwhile has a shorter one."""
    source = fill(tmp_path / "in", {"x.txt": "x"})
    disarm(source, tmp_path / name)
    assert names(tmp_path) == ["in", name]
    assert written(tmp_path / name) == ["x.txt"]


def test_a_folder_that_fills_meanwhile_stays(tmp_path):
    """The system refuses to rename over it."""
    with folder_module.whole_folder(tmp_path / "out") as part:
        fill(part, {"ours.txt": "ours"})
        fill(tmp_path / "out", {"theirs.txt": "theirs"})
        with pytest.raises(OSError, match="not empty"):
            folder_module.commit_folder(part, tmp_path / "out")
    assert written(tmp_path) == ["out/theirs.txt"]


def test_every_file_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path, monkeypatch
):
    """Small ones at the end, all at once, after them the folders they are in."""
    source = hub(tmp_path / "in")
    fill(source, {"sub/notes.txt": "notes"})
    real, done = os.fsync, []

    def fsync(descriptor):
        real(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append((os.path.relpath(path, tmp_path), (tmp_path / "out").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    disarm(source, tmp_path / "out")
    synced = {name for name, _ in done if name != "."}
    (part,) = {name.split("/")[0] for name in synced}
    files = [f"{part}/{name}" for name in written(tmp_path / "out")]
    folders = {str(Path(name).parent) for name in files}
    assert f"{part}/sub" in folders
    assert synced == folders.union(files)
    assert [name for name, there in done if there] == ["."]


def test_a_small_file_that_cannot_be_put_on_the_disk_leaves_nothing(
    tmp_path, monkeypatch
):
    """The error has the name of the file."""
    source = fill(tmp_path / "in", {f"{at}.txt": "x" for at in range(40)})
    real = os.fsync

    def fsync(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "27.txt":
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: .*/27\.txt"):
        disarm(source, tmp_path / "out")
    assert names(tmp_path) == ["in"]


def test_large_files_are_put_on_the_disk_while_they_are_written(tmp_path, monkeypatch):
    """The end of the folder does not wait for all of them."""
    monkeypatch.setattr(tasks_module, "SYNC", 1000)
    source = fill(tmp_path / "in", {"a.pt": saved(torch.zeros(1000)), "b.txt": "x"})
    kept = []

    def commit(_, __, unsynced):
        kept.extend(path.name for path in unsynced)

    monkeypatch.setattr(folder_module, "commit_folder", commit)
    disarm(source, tmp_path / "out")
    assert kept == ["b.txt"]


def test_what_no_report_names_never_gets_its_place(tmp_path):
    """What a worker that died has left is removed; anything else is an error."""
    fill(tmp_path, {".a.0123.safemodel-part": "half", "empty/.b.safemodel-part": ""})
    folder_module._check_is_all(tmp_path, {"x": Answer(None, "why")})
    assert list(tmp_path.iterdir()) == []

    fill(tmp_path, {"b/a.txt": "whose?"})
    with pytest.raises(DisarmError, match="nothing says so"):
        folder_module._check_is_all(tmp_path, {})
    report = disarm(saved([1]), tmp_path / "a.pt")
    gone = type(report)(**{**vars(report), "out": "gone.pt"})
    (tmp_path / "b" / "a.txt").unlink()
    (tmp_path / "a.pt").unlink()
    with pytest.raises(DisarmError, match="1 files of the new folder are gone"):
        folder_module._check_is_all(tmp_path, {"x": Answer(gone)})


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands for it: the same error, as certain."""
    source = hub(tmp_path / "in")
    (source / "big.pt").write_bytes(saved({"w": torch.zeros(100_000)}))
    process = child(source, tmp_path / "out", 50_000)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("OSError: [Errno 27] File too large")
    assert names(tmp_path) == ["in"]


def test_an_interrupt_leaves_nothing(tmp_path):
    """No folder, no temporary one, and no process that goes on."""
    source = fill(
        tmp_path / "in", {f"{at}.pt": saved(torch.zeros(3_000_000)) for at in range(12)}
    )
    process = child(source, tmp_path / "out")
    assert process.stdout.readline() == "started\n"
    while not list(tmp_path.glob(".out.*/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert names(tmp_path) == ["in"]


def test_a_kill_at_any_moment_leaves_no_folder_or_a_whole_one(tmp_path, rand):
    """The temporary one stays, under a name that begins with a dot."""
    source = fill(
        tmp_path / "in", {f"{at}.pt": saved(torch.zeros(500_000)) for at in range(6)}
    )
    whole = written(source)
    for _ in range(5):
        process = child(source, tmp_path / "out")
        assert process.stdout.readline() == "started\n"
        try:
            process.wait(timeout=rand.uniform(0.0, 4.0))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=60)
        if (tmp_path / "out").exists():
            assert written(tmp_path / "out") == whole
            for name in whole:
                torch.load(tmp_path / "out" / name, weights_only=True)
            (tmp_path / "out").rename(tmp_path / f".out.{rand.random()}.safemodel-part")
        assert all(
            name.startswith(".out.") and name.endswith(".safemodel-part")
            for name in names(tmp_path)
            if name != "in"
        )


def test_a_worker_that_dies_costs_its_file_alone(tmp_path):
    """The next one is done by a new worker."""
    source = fill(tmp_path / "in", {"a.pt": saved([1]), "b.pt": saved([2])})
    (tmp_path / "part").mkdir()
    work = _Work(
        plan_folder(source, None, DEFAULT_LIMITS).tasks, tmp_path / "part", SETTINGS
    )
    thread = Thread(target=work.feed)
    thread.start()
    while not work._processes:
        time.sleep(0.001)
    for process in work._processes.copy():
        process.kill()
    first, second = work.answers()
    thread.join()
    assert first == Answer(None, DIED, refused=True)
    assert second.report is not None
    assert written(tmp_path / "part") == ["b.pt"]


def test_an_error_of_the_disk_in_a_worker_is_raised_here(tmp_path):
    """With its number and the name of the file within the folder."""
    source = fill(tmp_path / "in", {"x.txt": "x", "y.txt": "y"})
    tasks = plan_folder(source, None, DEFAULT_LIMITS).tasks
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "y.txt").write_text("there")
    with pytest.raises(FileExistsError) as caught:
        do_tasks(tasks, tmp_path / "part", SETTINGS)
    assert (caught.value.errno, caught.value.filename) == (17, "y.txt")


def test_a_file_that_goes_away_meanwhile_is_left_behind(tmp_path):
    """What may be a model is refused then: the folder may lack weights."""
    for kind, refused in (("text", False), ("model", True), ("other", True)):
        task = Task("a.x", str(tmp_path / "gone"), 0, kind, "a.x", "pt")
        answer = do_task(task, tmp_path, SETTINGS)
        why = "it cannot be read: No such file or directory"
        assert answer == Answer(None, why, refused)


def test_an_answer_survives_its_way_between_processes(tmp_path):
    """Reports within reports included."""
    hostile = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."
    report = disarmed(
        tmp_path, {"a.pt": saved({"w": torch.ones(2, 3)}), "b.pt": hostile, "c.py": ""}
    )
    answer = Answer(report, "", refused=False, tensors={"w": 24})
    assert from_json(json.loads(json.dumps(to_json(answer)))) == answer
    assert from_json(json.loads(json.dumps(to_json(Answer(None, "x"))))).why == "x"


def test_a_worker_answers_line_by_line(tmp_path):
    """What it is asked in one process it says in the other."""
    source = fill(tmp_path / "in", {"a.pt": saved({"w": torch.ones(2)})})
    (task,) = plan_folder(source, None, DEFAULT_LIMITS).tasks
    (tmp_path / "part").mkdir()
    lines = [json.dumps(_request(tmp_path / "part", SETTINGS)), json.dumps(task)]
    said = io.StringIO()
    serve(io.StringIO("\n".join(lines) + "\n"), said)
    answer = from_json(json.loads(said.getvalue()))
    assert answer.report.tensors[0].scrubbed_bits == 3

    lines.append(json.dumps(task))
    serve(io.StringIO("\n".join(lines[::2]) + "\n"), said)
    assert json.loads(said.getvalue().splitlines()[-1])["os_error"][0] == 17


def test_workers_are_started_where_they_pay():
    """One for little, more for much, never more than there are files."""
    small = Task("a", "a", 1, "text", "a", None)
    large = small._replace(size=10 << 30)
    assert worker_count([small]) == worker_count([small] * 10) == 1
    assert worker_count([large]) == 1
    assert worker_count([large] * 2) == min(2, len(os.sched_getaffinity(0)))
    assert worker_count([small] * 10_000) == min(20, len(os.sched_getaffinity(0)))


def test_a_policy_that_refuses_leaves_nothing(tmp_path):
    """Not even the files that are fine."""
    files = {"a.pt": saved([1]), "b.pt": b"PK\x03\x04broken"}
    with pytest.raises(MalformedFileError):
        disarmed(tmp_path, files, policy=STRICT)
    assert names(tmp_path) == ["in"]
    assert list(left(disarm(tmp_path / "in", tmp_path / "out"))) == ["b.pt"]
