"""A folder in the layout of a model hub, disarmed.

1. What is to be done is decided from names, before any file is opened (`folder_plan`).
2. The new folder is made beside the target, under a name of its own. Worker processes
   write each of its files, every one of them as one file is (`one_file`, `side_files`).
3. Indices of shards come last: they are made from the shards that were written.
4. Whatever is in the new folder and in no report ends the call.
5. Only then is the folder renamed into place, in one step: its bytes are on the disk
   before, those of small files all at once.
6. A folder that is there is never replaced: that takes two steps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from safemodel._disarm.folder_names import SUFFIXES
from safemodel._rewrite.output_folder import (
    checked_target,
    commit_folder,
    whole_folder,
)
from safemodel.errors import DisarmError, MalformedFileError, SafeModelError
from safemodel.reports import DisarmReport, FileDigests, LeftBehind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._disarm.folder_plan import Plan, Task
    from safemodel._disarm.one_file import Settings
    from safemodel._disarm.tasks import Answer
    from safemodel._rewrite.writers import Form


def disarm_folder(
    folder: Path, target: Path, form: Form | None, settings: Settings
) -> DisarmReport:
    """Disarm a folder; see `safemodel.disarm`."""
    from safemodel._disarm.folder_plan import plan_folder

    started = time.perf_counter()
    if form is not None and form not in SUFFIXES:
        raise ValueError(f"no format for the models of a folder: {form!r}")
    real = checked_target(folder, target)
    plan = plan_folder(folder, form, settings.limits)
    for one in plan.left:
        if one.kind == "refused" and settings.policy.others == "refuse":
            raise MalformedFileError(one.why, record=one.name)
    with whole_folder(real) as part:
        answers = _write_all(plan, part, settings)
        _check_is_all(part, answers)
        commit_folder(part, real, _unsynced(plan, part, answers))
    return _report(folder, target, plan, answers, settings, started)


def _write_all(plan: Plan, part: Path, settings: Settings) -> dict[str, Answer]:
    """Write every file of a plan; return what became of each, by its name.

    Raises:
        SafeModelError: The policy refuses, and so does a file.
    """
    from safemodel._disarm.one_file import Settings
    from safemodel._disarm.processes import do_tasks
    from safemodel._disarm.shards import read_index, rewrite_index

    settings = Settings(**{**vars(settings), "overwrite": False, "durable": False})
    indices = [
        read_index(task, settings.limits) for task in plan.tasks if task.kind == "index"
    ]
    shards = {shard for index in indices for shard in index.shards}
    tasks = [
        task._replace(is_shard=task.name in shards)
        for task in plan.tasks
        if task.kind != "index"
    ]
    for folder in {Path(task.out).parent for task in plan.tasks}:
        (part / folder).mkdir(parents=True, exist_ok=True)
    done = do_tasks(tasks, part, settings) if tasks else []
    answers = {task.name: answer for task, answer in zip(tasks, done, strict=True)}
    if settings.policy.others == "refuse":
        _raise_refusal(tasks, answers, part, settings)
    for index in indices:
        made = rewrite_index(index, answers, part, settings)
        if made.refused and settings.policy.others == "refuse":
            raise MalformedFileError(made.why, record=index.task.name)
        answers[index.task.name] = made
    return answers


def _raise_refusal(
    tasks: list[Task], answers: dict[str, Answer], part: Path, settings: Settings
) -> None:
    """Raise the error of the first model that was refused, as for one file."""
    from safemodel._disarm.one_file import disarm_file

    for task in tasks:
        if answers[task.name].refused:
            # The same file with the same settings, in this process: errors of ours
            # hold more than what came back from the other one.
            try:
                disarm_file(task.path, part / task.out, task.form, settings)
            except SafeModelError as error:
                error.add_note(task.name)
                raise
            raise DisarmError(f"{task.name} was refused, and is not any more")


def _check_is_all(part: Path, answers: dict[str, Answer]) -> None:
    """Remove what processes that died have left; check that all else is reported."""
    from safemodel._rewrite.output import SUFFIX

    expected = {
        str(part / answer.report.out)
        for answer in answers.values()
        if answer.report is not None
    }
    for place, folders, files in os.walk(part, topdown=False):
        for name in files:
            path = Path(place, name)
            if str(path) in expected:
                expected.remove(str(path))
            elif name.startswith(".") and name.endswith(SUFFIX):
                path.unlink()
            else:
                raise DisarmError(f"{name} was written, but nothing says so")
        for name in folders:
            if not any(Path(place, name).iterdir()):
                Path(place, name).rmdir()
    if expected:
        raise DisarmError(f"{len(expected):,} files of the new folder are gone")


def _unsynced(plan: Plan, part: Path, answers: dict[str, Answer]) -> Iterator[Path]:
    """Yield each new file that may not be on the disk yet (rule 5)."""
    from safemodel._disarm.tasks import syncs_itself

    for task in plan.tasks:
        if answers[task.name].report is not None and not syncs_itself(task):
            yield part / task.out


def _report(
    folder: Path,
    target: Path,
    plan: Plan,
    answers: dict[str, Answer],
    settings: Settings,
    started: float,
) -> DisarmReport:
    from safemodel._graph.allowlist import policy_version
    from safemodel._version import VERSION

    parts = []
    left = list(plan.left)
    for task in plan.tasks:
        answer = answers[task.name]
        if answer.report is not None:
            parts.append(answer.report)
            continue
        kind = "refused" if answer.refused else "file"
        left.append(
            LeftBehind(kind=kind, name=task.name, size=task.size, why=answer.why)
        )
    return DisarmReport(
        path=str(folder),
        out=str(target),
        source=FileDigests(size=plan.size),
        result=FileDigests(size=sum(part.result.size for part in parts)),
        format="folder",
        out_format="folder",
        # What matters most comes first: some lists are cut.
        left_behind=tuple(
            sorted(left, key=lambda one: (one.kind != "refused", one.name))
        ),
        changed={},
        parts=tuple(parts),
        version=VERSION,
        policy=policy_version(settings.policy),
        seconds=round(time.perf_counter() - started, 3),
    )
