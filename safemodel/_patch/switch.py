"""Replace names, and put them back exactly as they were.

Rules:

1. Names are replaced when the first settings come onto the pile and put back when the
   last ones leave it. All of it happens under one lock.
2. What is put back is checked first: if somebody has put something on top of ours, all
   names stay replaced, and the caller is told. Taking theirs away would break them;
   leaving ours under it, but without settings, would look safe and be so by luck.
3. A module that is not imported yet is taken care of at the end of its import.
4. A process that forks has the lock meanwhile: the child finds all or nothing replaced,
   and no lock that a thread holds which it does not have.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._patch.call_sites import forget, warn_once
from safemodel._patch.late import LateImports
from safemodel._patch.named_modules import out_of_reach, pickle_in
from safemodel._patch.settings import OWN, PILE, Entry
from safemodel._patch.targets import ALL_PICKLE, TARGETS, Target, targets_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel._patch.settings import Settings

_LOCK = RLock()
os.register_at_fork(
    before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
)
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


def push(settings: Settings, *, of_block: bool = False) -> Entry:
    """Put settings on the pile; replace what is not replaced yet."""
    entry = Entry(settings, of_block=of_block)
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
    """Take settings off the pile, by default the last that belong to no block.

    Raises:
        RuntimeError: They are not there; or they are the last, and somebody has
            replaced one of the names meanwhile. Then all stays as it is.
    """
    with _LOCK:
        wanted = [one for one in PILE if one is entry or not (entry or one.of_block)]
        if not wanted:
            raise RuntimeError("safemodel is not patched")
        if len(PILE) == 1:
            _put_back()
        PILE.remove(wanted[-1])


@contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Keep names replaced while the block runs, and let these settings count in it."""
    entry = push(settings, of_block=True)
    OWN.set((*OWN.get(), entry))
    try:
        yield
    finally:
        # Not by its token: a block may end in another context than it began in, as a
        # generator's does.
        OWN.set(tuple(one for one in OWN.get() if one is not entry))
        with _LOCK:
            # If that fails, all stays as it is, and `unpatch` is the way out.
            entry.of_block = False
            remove(entry)


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


def _replace_pickle(target: Target, module: Any) -> None:
    """Replace whatever unpickles in a module; tell what cannot be reached."""
    namespace = vars(module)
    for name, make in pickle_in(target.module, namespace):
        _replace_one(Target(target.module, name, make), module)
    if inside := out_of_reach(target.module, namespace):
        warn_once(
            "these import pickle for themselves, where safemodel.patch(pickle_in=...)"
            f" does not reach: {', '.join(inside[:10])}"
        )
    elif not any(one.target.module == target.module for one in _replaced.values()):
        warn_once(f"there is no pickle in {target.module} (safemodel.patch)")


def _replace_one(target: Target, module: Any) -> None:
    if target.name == ALL_PICKLE:
        _replace_pickle(target, module)
        return
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
    """Replace a name in a module that has just been imported, or once more."""
    with _LOCK:
        for key, one in list(_replaced.items()):
            if (
                one.owner is module
                and vars(module).get(one.name) is not one.replacement
            ):
                del _replaced[key]
        if PILE:
            _replace_one(target, module)


_LATE = LateImports(_imported)
