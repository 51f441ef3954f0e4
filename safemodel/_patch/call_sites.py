"""Who called: the nearest caller outside this package, and one warning for each."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, NamedTuple

from safemodel.errors import SafeModelWarning

if TYPE_CHECKING:
    from types import FrameType

_PACKAGE = __name__.split(".", maxsplit=1)[0] + "."
_OF_TORCH = ("torch.storage", "torch.hub")
"""Modules that ask for `weights_only=False` on behalf of others: a pickled tensor has
its storage as a file within the pickle, and opens it so."""
_BETWEEN = ("contextlib", "importlib._bootstrap", "importlib._bootstrap_external")
"""Modules of `with` and `import` themselves."""
_SEEN: set[tuple[str, int, str]] = set()
_MOST_SEEN = 10_000


class CallSite(NamedTuple):
    """A line of code.

    Attributes:
        file: Its file, as the interpreter names it.
        line: Its number.
        module: Name of its module.
    """

    file: str
    line: int
    module: str


def _caller() -> FrameType | None:
    """Return the nearest frame that is not of this package, nor between it and code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        ours = isinstance(module, str) and (module + ".").startswith(_PACKAGE)
        if not ours and module not in _BETWEEN:
            return frame
        frame = frame.f_back
    return None


def call_site() -> CallSite:
    """Return where the code is that called into this package."""
    frame = _caller()
    if frame is None:
        return CallSite("", 0, "")
    module = str(frame.f_globals.get("__name__", ""))
    return CallSite(frame.f_code.co_filename, frame.f_lineno, module)


def warn_once(message: str) -> None:
    """Warn whoever called, once for a message and a line of code."""
    frame = _caller()
    where = call_site()
    key = (where.file, where.line, message)
    if frame is None or where.module in _OF_TORCH or key in _SEEN:
        return
    if len(_SEEN) < _MOST_SEEN:
        _SEEN.add(key)
    warnings.warn_explicit(
        message, SafeModelWarning, where.file, where.line, module=where.module
    )


def forget() -> None:
    """Let every line of code be warned again."""
    _SEEN.clear()
