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
        for module, name, value in _attributes()
        if wanted.get(id(value), _package(module)) != _package(module)
    )


def _is_function(value: object) -> TypeGuard[FunctionType]:
    return issubclass(type(value), FunctionType)


def _function(member: object) -> object:
    return member.__func__ if type(member) is staticmethod else member


def _package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _attributes() -> Iterator[tuple[str, str, object]]:
    """Yield what modules hold, and the classes that they define."""
    seen = set()
    for module, loaded in list(sys.modules.items()):
        if id(loaded) in seen:
            continue  # the main module is there under two names
        seen.add(id(loaded))
        # Not getattr: a module may have a `__getattr__` that imports.
        for name, value in list(getattr(loaded, "__dict__", {}).items()):
            yield module, name, value
            # Not isinstance: it asks the value, and some answer with a warning.
            if issubclass(type(value), type) and value.__module__ == module:
                for inner, member in list(vars(value).items()):
                    yield module, f"{name}.{inner}", _function(member)
