"""One file of a folder, whatever happens to it; and the answer as JSON.

A worker process runs `do_task`; what it has to say goes back as a line of JSON.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._disarm.one_file import Settings
from safemodel._rewrite.output import SYNC
from safemodel._scan.render import one_line
from safemodel.errors import (
    DisarmError,
    SafeModelError,
    UnsafeFileError,
    UnsupportedFormatError,
)
from safemodel.reports import DisarmReport

if TYPE_CHECKING:
    from safemodel._disarm.folder_plan import Task

DIED = "the process that worked on it ended: it may need more memory than there is"
_OF_THE_FILE = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG,
        errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ENOTDIR,
    }
)  # fmt: skip
"""Errors that say something about one file; all others (a full disk) end the call."""


class Answer(NamedTuple):
    """What became of one file.

    Attributes:
        report: The report, if a new file was written.
        why: Why there is none.
        refused: Whether a model was refused, so that the folder lacks weights.
        tensors: Of a shard: name → bytes of each tensor that was written.
    """

    report: DisarmReport | None
    why: str = ""
    refused: bool = False
    tensors: dict[str, int] | None = None


def may_be_model(task: Task) -> bool:
    """Tell whether weights are missing where a file could not be looked at."""
    return task.kind in ("model", "other")


def syncs_itself(task: Task) -> bool:
    """Tell whether a new file is put on the disk while it is written: large ones.

    To wait for the disk after each small file takes longer than all else.
    """
    return task.size >= SYNC


def do_task(task: Task, folder: Path, settings: Settings) -> Answer:
    """Disarm one file into a folder; return what became of it.

    Raises:
        DisarmError: What was written does not read back as it should.
        OSError: Writing failed.
    """
    target = folder / task.out
    settings = Settings(**{**vars(settings), "durable": syncs_itself(task)})
    is_model = task.kind == "model"
    try:
        report, tensors = _disarmed(task, target, settings)
    except DisarmError:
        raise
    except UnsupportedFormatError as error:
        # An archive may hold anything, and most of them hold no model.
        is_model = is_model and not task.name.lower().endswith(".zip")
        return Answer(None, one_line(error.what), is_model)
    except SafeModelError as error:
        is_refused = is_model or (
            task.kind == "other" and isinstance(error, UnsafeFileError)
        )
        return Answer(None, one_line(f"{type(error).__name__}: {error}"), is_refused)
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise
        return Answer(None, f"it cannot be read: {error.strerror}", may_be_model(task))
    except MemoryError:
        return Answer(None, DIED, may_be_model(task))
    return Answer(named(report, task), tensors=tensors)


def named(report: DisarmReport, task: Task) -> DisarmReport:
    """Return a report with the names that a file has within its folder."""
    return DisarmReport(**{**vars(report), "path": task.name, "out": task.out})


def _disarmed(
    task: Task, target: Path, settings: Settings
) -> tuple[DisarmReport, dict[str, int] | None]:
    """Return the report of one file, and the tensors of a shard."""
    from safemodel._containers.sniff import Format, sniff
    from safemodel._containers.source import open_source
    from safemodel._disarm import side_files
    from safemodel._disarm.one_file import disarm_file
    from safemodel._disarm.shards import tensors_of

    if task.kind in ("json", "text"):
        rewrite = {"json": side_files.rewrite_json, "text": side_files.rewrite_text}
        with open_source(task.path) as source:
            name = Path(task.name).name
            return rewrite[task.kind](source, target, name, settings), None
    with open_source(task.path) as source:
        if sniff(source) in (Format.SHARD_INDEX, Format.JSON):
            raise UnsupportedFormatError("a JSON text, but its name is not of one")
    try:
        report = disarm_file(task.path, target, task.form, settings)
    except ValueError as error:
        # No writer takes it: an archive, say, of something else than models.
        raise UnsupportedFormatError(str(error)) from error
    return report, tensors_of(target, settings.limits) if task.is_shard else None


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the JSON form of an answer."""
    report = None if answer.report is None else answer.report.to_dict()
    return {**answer._asdict(), "report": report}


def from_json(members: dict[str, Any]) -> Answer:
    """Return the answer whose JSON form this is."""
    report = members["report"]
    made = None if report is None else DisarmReport.from_dict(report)
    return Answer(**{**members, "report": made})
