"""An audit hook that stops imports and process starts while a file is being loaded.

A wall behind a wall: nothing in a load imports what a file names, or starts a process.
Should that ever be wrong, or should a loader that is not ours run inside a load, the
interpreter's own audit events end it.

Rules:

1. The hook acts on the thread that loads, and only while it does; a hook can never be
   taken out again.
2. What our own loaders import on demand is imported before the wall stands, or belongs
   to the few packages that they use.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from threading import Lock, local
from typing import TYPE_CHECKING

from safemodel.errors import ForbiddenCallError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STARTS = frozenset(
    {
        "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
        "os.startfile", "os.startfile/2", "pty.spawn", "subprocess.Popen",
        "ctypes.dlopen", "pickle.find_class",
    }
)  # fmt: skip
_PACKAGES = frozenset(
    {"safemodel", "torch", "numpy", "safetensors", "zlib_ng", "encodings"}
)
"""What loads import on demand, of these packages only."""


class _Loading(local):
    """Of each thread: how many loads are on its stack."""

    depth = 0


_LOADING = _Loading()
_LOCK = Lock()
os.register_at_fork(
    before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
)
_state = {"wanted": False, "built": False}


def build_wall() -> None:
    """Add the hook to this process, at the first load: most never load anything."""
    _state["wanted"] = True


@contextmanager
def behind_wall() -> Iterator[None]:
    """Let the hook act while the block runs, if it is wanted."""
    if not _state["wanted"]:
        yield
        return
    if not _state["built"]:
        with _LOCK:
            if not _state["built"]:
                _import_loaders()
                sys.addaudithook(_watch)
                _state["built"] = True
    _LOADING.depth += 1
    try:
        yield
    finally:
        _LOADING.depth -= 1


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not _LOADING.depth:
        return
    if event == "import":
        name = str(arguments[0])
        if name.split(".", maxsplit=1)[0] in _PACKAGES:
            return
        raise ForbiddenCallError(name, "a load was about to import this (audit wall)")
    if event in _STARTS:
        raise ForbiddenCallError(event, "a load was about to do this (audit wall)")


def _import_loaders() -> None:
    """Import what a load imports on demand."""
    from importlib import import_module
    from pkgutil import walk_packages

    for package in ("_containers", "_unpickle", "_graph", "_formats", "_build"):
        name = f"safemodel.{package}"
        module = import_module(name)
        for found in walk_packages(module.__path__, f"{name}."):
            import_module(found.name)
