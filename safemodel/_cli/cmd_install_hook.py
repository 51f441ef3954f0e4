"""``safemodel install-hook``: let interpreters be patched when they are asked to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_CANNOT = 2
_EPILOG = """\
exit codes:
  0  the hook is there (with --remove: is not)
  2  it could not be written or removed

Afterwards SAFEMODEL_PATCH=1 python ... opens model files as safe_load does; without the
variable, nothing changes. Words, parted by commas: 1, opaque, torchscript=tensors,
pickle-in=package.module, audit-wall.
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "install-hook",
        help="let SAFEMODEL_PATCH=1 patch the interpreters of this environment",
        description="Put a line into the current environment that patches its"
        " interpreters as they start, if SAFEMODEL_PATCH is set.",
        epilog=_EPILOG,
    )
    parser.add_argument("--remove", action="store_true", help="take it out again")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Put the hook in, or take it out; return the exit code."""
    from safemodel._patch.hook import ForeignHookError, hook_path, install, remove

    try:
        changed = remove() if options.remove else install()
    except (ForeignHookError, OSError) as error:
        sys.stderr.write(f"safemodel: {error}\n")
        return _CANNOT
    what = "removed" if options.remove else "installed"
    state = "" if changed else ("not there" if options.remove else "already there")
    sys.stdout.write(f"{state or what}: {hook_path()}\n")
    return 0
