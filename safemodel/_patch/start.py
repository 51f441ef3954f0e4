"""Patch an interpreter from the environment, as it starts.

``SAFEMODEL_PATCH`` holds words, parted by commas: ``1`` (or ``raise``), ``opaque``,
``torchscript=tensors``, ``pickle-in=package.module``, ``audit-wall``. It is read by the
hook that ``safemodel install-hook`` puts into an environment, and by what ``safemodel
run`` puts on the path of the interpreters that a program starts.

Rules:

1. Fail closed: an interpreter that was to be patched and cannot be ends at once.
2. Nothing heavy is imported: most interpreters started so never open a model.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from typing import NoReturn

VARIABLE = "SAFEMODEL_PATCH"
_PICKLE_IN = "pickle-in="
_OFF = ("", "0", "false", "no")
_CANNOT = 78  # EX_CONFIG


class Wanted(NamedTuple):
    """What the environment asks for.

    Attributes:
        on_refuse: As of `safemodel.patch`.
        torchscript: As of `safemodel.patch`.
        audit_wall: Whether imports and process starts are stopped during a load.
        pickle_in: As of `safemodel.patch`.
    """

    on_refuse: Literal["raise", "opaque"] = "raise"
    torchscript: Literal["refuse", "tensors"] = "refuse"
    audit_wall: bool = False
    pickle_in: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the value of the variable that asks for this."""
        words: list[str] = [self.on_refuse]
        if self.torchscript != "refuse":
            words.append(f"torchscript={self.torchscript}")
        words += [f"{_PICKLE_IN}{module}" for module in self.pickle_in]
        if self.audit_wall:
            words.append("audit-wall")
        return ",".join(words)


def wanted(text: str) -> Wanted | None:
    """Return what a value of the variable asks for; None for nothing.

    Raises:
        ValueError: It holds a word that means nothing.
    """
    if text.strip().lower() in _OFF:
        return None
    asked = Wanted()
    for word in text.split(","):
        if module := _module_of(word.strip()):
            asked = asked._replace(pickle_in=(*asked.pickle_in, module))
            continue
        match word.strip().lower():
            case "1" | "true" | "yes" | "raise":
                pass
            case "opaque":
                asked = asked._replace(on_refuse="opaque")
            case "torchscript=tensors":
                asked = asked._replace(torchscript="tensors")
            case "audit-wall":
                asked = asked._replace(audit_wall=True)
            case other:
                raise ValueError(f"{VARIABLE} holds {other!r}, which means nothing")
    return asked


def _module_of(word: str) -> str:
    """Return the module that a word names; "" if it names none."""
    module = word.removeprefix(_PICKLE_IN)
    return module if module != word and is_module_name(module) else ""


def is_module_name(text: str) -> bool:
    """Return whether a module may have this dotted name."""
    return all(part.isidentifier() for part in text.split("."))


def apply(asked: Wanted) -> None:
    """Patch this process for as long as it lives."""
    from safemodel._patch.journal import LOG_VARIABLE
    from safemodel._patch.settings import settings_of
    from safemodel._patch.switch import push
    from safemodel.policy import STRICT

    push(settings_of(STRICT, asked.on_refuse, None, asked.torchscript, asked.pickle_in))
    log = os.environ.get(LOG_VARIABLE)
    if log:
        # The program, or a child, may go to another folder.
        os.environ[LOG_VARIABLE] = os.path.abspath(log)  # noqa: PTH100 - pathlib costs start-up time
    if asked.audit_wall:
        from safemodel._patch.wall import build_wall

        build_wall()


def start() -> None:
    """Patch this process as the environment asks, or end it."""
    try:
        asked = wanted(os.environ.get(VARIABLE, ""))
        if asked is not None:
            from safemodel._patch.settings import PILE

            # The hook and the path may both be there: once is enough.
            if not PILE:
                apply(asked)
    except BaseException as error:  # noqa: BLE001 - it ends the process
        _end(error)


def next_sitecustomize(folder: str) -> None:
    """Run the `sitecustomize` that this interpreter would have run without ours.

    Args:
        folder: Where ours lies. It is taken off the path of this interpreter.
    """
    from importlib import import_module

    own = os.path.realpath(folder)
    sys.path[:] = [one for one in sys.path if os.path.realpath(one or ".") != own]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


def _end(error: BaseException) -> NoReturn:
    sys.stderr.write(f"safemodel: this interpreter cannot be patched: {error}\n")
    sys.stderr.flush()
    os._exit(_CANNOT)
