"""`disarm`: read, understand, write what was understood; nothing else.

`one_file` disarms a model file, `folder` a folder of them. What is public is here.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE

if TYPE_CHECKING:
    from pathlib import Path

    from safemodel._rewrite.writers import Form
    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits
    from safemodel.policy import Policy
    from safemodel.reports import DisarmReport
    from safemodel.scrub import Scrub


def disarm(
    f: FileLike,
    out: StrPath,
    *,
    format: Form | None = None,  # noqa: A002 - the word of the command line
    policy: Policy = SALVAGE,
    scrub: Scrub | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    digests: bool = True,
) -> DisarmReport:
    """Write a new file that holds only what was understood of another, or a folder.

    Args:
        f: What to read: a path, bytes, or a binary file object; or the path of a
            folder in the layout of a model hub, of which a new folder is written.
        out: Where to write. A folder must not be there yet, or be empty.
        format: "safetensors", "pt", "npz", or "zip" for an archive of models; "pt-1.13"
            for a "pt" without floats, which torch 1.13 does not read; None to go by the
            suffix of ``out``, or by that of each file of a folder.
        policy: Which globals are allowed. By default all others become plain data;
            `STRICT` refuses the file instead, and a folder with such a file.
        scrub: Low mantissa bits of floating-point tensors to overwrite, in which data
            may hide; None to keep every bit.
        limits: How much the file may ask for.
        overwrite: Whether ``out`` may be there already; a folder is never replaced.
        digests: Whether the report has SHA-256 and BLAKE3 of both files. On two
            processors, taking all four costs more than everything else.

    Returns:
        What was kept, what was left behind, and what the file would have run.

    Raises:
        SafeModelError: The file is refused, malformed or of another format; ``out`` is
            as it was.
        DisarmError: What was written does not read back as it should.
        FileExistsError: ``out`` is there, and ``overwrite`` is false or it is a folder.
        OSError: Reading or writing failed; ``out`` is as it was.
        ValueError: ``format``, or else the suffix of ``out``, names no format, or that
            of an archive of models for what is none; or ``out`` is what is to be read,
            or one of two folders lies within the other.
    """
    from pathlib import Path
    from typing import get_args

    from safemodel._disarm.one_file import Settings, disarm_file
    from safemodel._rewrite.writers import Form

    if format is not None and format not in get_args(Form):
        raise ValueError(f"no format: {format!r}")

    settings = Settings(
        policy=policy,
        scrub=scrub,
        limits=DEFAULT_LIMITS if limits is None else limits,
        overwrite=overwrite,
        digests=digests,
    )
    target = Path(out)
    if isinstance(f, (str, os.PathLike)) and Path(f).is_dir():
        from safemodel._disarm.folder import disarm_folder

        return disarm_folder(Path(f), target, format, settings)
    if target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "a folder; name the file to write in it", str(target)
        )
    if isinstance(f, (str, os.PathLike)) and _is_same(Path(f), target):
        # Even with leave to overwrite: what somebody sent would be gone.
        raise ValueError(f"the new file is the one to read: {target}")
    return disarm_file(f, target, format, settings)


def _is_same(path: Path, target: Path) -> bool:
    """Tell whether two paths lead to one file."""
    try:
        return path.samefile(target)
    except OSError:
        return False  # one of them is not there
