"""The hook that patches the interpreters of an environment when they are asked to.

Python runs the lines of ``*.pth`` files in its package folder that begin with `import`.
Ours does nothing but look at ``SAFEMODEL_PATCH``, and fails closed: `site` itself would
print an error and go on without us.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from safemodel.errors import SafeModelError

NAME = "safemodel_patch.pth"
_LINE = (
    "import os; exec(\"if os.environ.get('SAFEMODEL_PATCH'):\\n"
    " try:\\n"
    "  from safemodel._patch.start import start\\n"
    " except BaseException as error:\\n"
    "  os.write(2, f'safemodel: this interpreter cannot be patched: {error}\\\\n'"
    ".encode())\\n"
    "  os._exit(78)\\n"
    ' start()")\n'
)


class ForeignHookError(SafeModelError):
    """A file of the hook's name is there, and is none of ours."""


def hook_path() -> Path:
    """Return where the hook of this environment lies, or would lie."""
    return Path(sysconfig.get_path("purelib")) / NAME


def install(path: Path | None = None) -> bool:
    """Put the hook in; return whether it was not there before.

    Raises:
        ForeignHookError: Something else has that name.
        OSError: It cannot be written.
    """
    path = hook_path() if path is None else path
    if _is_ours(path):
        return False
    beside = path.with_name(f".{NAME}.{os.getpid()}")
    beside.write_text(_LINE)
    try:
        # Not a rename: it would replace what somebody has put there meanwhile.
        path.hardlink_to(beside)
    except FileExistsError:
        if not _is_ours(path):
            raise ForeignHookError(f"{path} is not a hook of safemodel") from None
    finally:
        beside.unlink()
    return True


def remove(path: Path | None = None) -> bool:
    """Take the hook out; return whether it was there.

    Raises:
        ForeignHookError: Something else has that name.
        OSError: It cannot be removed.
    """
    path = hook_path() if path is None else path
    if not _is_ours(path):
        return False
    path.unlink()
    return True


def _is_ours(path: Path) -> bool:
    """Return whether the hook is there.

    Raises:
        ForeignHookError: Something else is.
    """
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or path.read_bytes() != _LINE.encode():
        raise ForeignHookError(f"{path} is not a hook of safemodel")
    return True
