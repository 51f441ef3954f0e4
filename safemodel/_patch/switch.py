"""Replace names, and put them back exactly as they were.

Rules:

1. Names are replaced when the first settings come onto the pile and put back when the
   last ones leave it. All of it happens under one lock.
2. What is put back is checked first: if somebody has put something on top of ours, all
   names stay replaced, and the caller is told. Taking theirs away would break them;
   leaving ours under it, but without settings, would look safe and be so by luck.
3. A module that is not imported yet is taken care of at the end of its import.
"""

from __future__ import annotations

import sys
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._patch.call_sites import forget
from safemodel._patch.late import LateImports
from safemodel._patch.settings import PILE, Entry
from safemodel._patch.targets import TARGETS, targets_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._patch.settings import Settings
    from safemodel._patch.targets import Target

_LOCK = RLock()
_MISSING = object()


class _Replaced(NamedTuple):
    """One name that is replaced now."""

    target: Target
    owner: Any
    name: str
    original: Any
    replacement: Any


_replaced: dict[tuple[str, str], _Replaced] = {}
_ours: dict[int, _Replaced] = {}


def push(settings: Settings) -> Entry:
    """Put settings on the pile; replace what is not replaced yet."""
    entry = Entry(settings)
    with _LOCK:
        # First the settings: what is replaced looks for them.
        PILE.append(entry)
        try:
            _replace((*TARGETS, *targets_in(settings.pickle_in)))
        except BaseException:
            PILE.remove(entry)
            if not PILE:
                _put_back()
            raise
    return entry


def remove(entry: Entry | None = None) -> None:
    """Take settings off the pile, by default those put there last.

    Raises:
        RuntimeError: They are not there; or they are the last, and somebody has
            replaced one of the names meanwhile. Then all stays as it is.
    """
    with _LOCK:
        if not PILE or (entry is not None and entry not in PILE):
            raise RuntimeError("safemodel is not patched")
        if len(PILE) == 1:
            _put_back()
        PILE.remove(entry if entry is not None else PILE[-1])


def originals(package: str) -> list[Any]:
    """Return what was replaced of a package."""
    return [
        one.original
        for one in list(_replaced.values())
        if one.target.module.split(".", maxsplit=1)[0] == package
    ]


def _replace(targets: Iterable[Target]) -> None:
    todo = [one for one in targets if (one.module, one.name) not in _replaced]
    for target in todo:
        module = sys.modules.get(target.module)
        # A module that is being imported is taken at the end of that.
        if module is not None and not _is_importing(module):
            _replace_one(target, module)
    _LATE.watch(todo)


def _is_importing(module: Any) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _replace_one(target: Target, module: Any) -> None:
    owner = module
    *path, name = target.name.split(".")
    for part in path:
        owner = vars(owner).get(part)
        if owner is None:
            return
    original = vars(owner).get(name, _MISSING)
    if original is _MISSING or (target.module, target.name) in _replaced:
        return
    known = _ours.get(id(original))
    if known is not None:
        # It was imported from a module in which it had been replaced.
        original, replacement = known.original, known.replacement
    else:
        replacement = target.make(original)
        if replacement is original:
            return
    setattr(owner, name, replacement)
    made = _Replaced(target, owner, name, original, replacement)
    _replaced[target.module, target.name] = made
    _ours[id(replacement)] = made


def _put_back() -> None:
    on_top = [
        f"{one.target.module}.{one.target.name}"
        for one in _replaced.values()
        if vars(one.owner).get(one.name, _MISSING) is not one.replacement
    ]
    if on_top:
        raise RuntimeError(
            "somebody has replaced these after safemodel.patch(), and must undo that"
            f" first: {', '.join(sorted(on_top))}. Everything is still patched"
        )
    _LATE.stop()
    for one in _replaced.values():
        setattr(one.owner, one.name, one.original)
    _replaced.clear()
    _ours.clear()
    forget()


def _imported(target: Target, module: Any) -> None:
    """Replace a name in a module that has just been imported."""
    with _LOCK:
        if PILE:
            _replace_one(target, module)


_LATE = LateImports(_imported)
