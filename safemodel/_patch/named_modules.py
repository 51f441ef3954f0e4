"""Modules that unpickle by themselves: what of `pickle` is in them, under any name.

Found by what it is, not by what it is called: ``import pickle as pkl`` and
``from dill import load as read`` count, and classes that derive from an `Unpickler`.
What a function imports for itself cannot be reached, and is told.
"""

from __future__ import annotations

import dis
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from safemodel._patch.inert_pickle import (
    OF_PICKLE,
    inert_function,
    inert_pickle,
    inert_unpickler,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_READS = ("load", "loads", "Unpickler")


def pickle_in(
    module: str, namespace: dict[str, Any]
) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield the names to replace in a module, each with what makes the replacement."""
    call = f"{module}:pickle"
    for name, value in list(namespace.items()):
        kind = type(value)
        if kind is ModuleType:
            if value.__name__ in OF_PICKLE:
                yield name, inert_pickle(call)
        elif issubclass(kind, type) and _is_unpickler(value):
            yield name, inert_unpickler(call)
        elif _is_of_pickle(value):
            reads = value.__name__.removeprefix("_")
            if reads in _READS:
                yield name, inert_function(call, reads)


def out_of_reach(module: str, namespace: dict[str, Any]) -> list[str]:
    """Return the functions of a module that import `pickle` for themselves."""
    found = []
    for name, value in list(namespace.items()):
        members = [(name, value)]
        if issubclass(type(value), type) and value.__module__ == module:
            members += [(f"{name}.{key}", one) for key, one in vars(value).items()]
        for dotted, member in members:
            function = getattr(member, "__func__", getattr(member, "fget", member))
            own = type(function) is FunctionType and function.__module__ == module
            if own and _imports_pickle(function.__code__):
                found.append(f"{module}.{dotted}")
    return sorted(found)


def _is_of_pickle(value: Any) -> bool:
    # Not getattr of whatever is there: some values answer with a warning.
    kinds = (FunctionType, type(len), type)
    return isinstance(value, kinds) and value.__module__ in OF_PICKLE


def _is_unpickler(value: type) -> bool:
    """Return whether a class derives from one of pickle's, and is none itself."""
    return value.__module__ not in OF_PICKLE and any(
        one.__module__ in OF_PICKLE and one.__name__.removeprefix("_") == "Unpickler"
        for one in value.__mro__[1:]
    )


def _imports_pickle(code: CodeType) -> bool:
    return any(
        one.opname == "IMPORT_NAME" and one.argval in OF_PICKLE
        for part in _parts(code)
        if not OF_PICKLE.isdisjoint(part.co_names)
        for one in dis.get_instructions(part)
    )


def _parts(code: CodeType) -> Iterable[CodeType]:
    """Yield the code of a function, and of those within it."""
    todo = [code]
    while todo:
        part = todo.pop()
        yield part
        todo += [one for one in part.co_consts if type(one) is CodeType]
