"""References to loaders that code took before they were replaced.

`from torch import load` copies the function into a module: replacing `torch.load`
does not reach it. Those of torch fail closed (`guards`); here all are found.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_LOOKED: list[tuple[str, ...]] = []
"""The modules that were there at the last look; at most one entry."""


def early_references(originals: Iterable[object]) -> list[str]:
    """Return where modules and their classes hold one of the originals.

    Args:
        originals: Functions that were replaced. Where the package that they come from
            keeps them itself is none of the code's business, and left out.

    Returns:
        Dotted names, sorted.
    """
    wanted = {
        id(one): _package(one.__module__) for one in originals if _is_function(one)
    }
    return sorted(
        f"{module}.{name}"
        for module, name, function in _functions()
        if wanted.get(id(function), _package(module)) != _package(module)
    )


def is_time_to_look() -> bool:
    """Return whether modules have come or gone since this was last asked.

    Looking takes longer than loading a small file, and blocks may be many.
    """
    there = tuple(sys.modules)
    if [there] == _LOOKED:
        return False
    _LOOKED[:] = [there]
    return True


def _is_function(value: object) -> TypeGuard[FunctionType]:
    return issubclass(type(value), FunctionType)


def _package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _functions() -> Iterator[tuple[str, str, FunctionType]]:
    """Yield the functions that modules hold, and the classes that they define."""
    seen = set()
    for module, loaded in list(sys.modules.items()):
        if id(loaded) in seen:
            continue  # the main module is there under two names
        seen.add(id(loaded))
        # Not getattr: a module may have a `__getattr__` that imports.
        for name, value in list(getattr(loaded, "__dict__", {}).items()):
            kind = type(value)
            if kind is FunctionType:
                yield module, name, value
            # Not isinstance: it asks the value, and some answer with a warning.
            elif issubclass(kind, type) and value.__module__ == module:
                for inner, member in list(vars(value).items()):
                    function = _function(member)
                    if type(function) is FunctionType:
                        yield module, f"{name}.{inner}", function


def _function(member: object) -> object:
    return member.__func__ if type(member) is staticmethod else member
