"""A checked graph → its leaves, each under the path to it.

Rules:

1. A container that comes again is walked once: the names are bounded by the file.
2. Names are paths joined by dots, of which long ones keep their end. They need not
   differ: keys may read alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.array_specs import ObjectArraySpec
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    OpaqueSpec,
    SequenceSpec,
)
from safemodel._graph.scalars import ATOMS
from safemodel._graph.walk import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_CONTAINERS = frozenset(
    {dict, list, tuple, MappingSpec, SequenceSpec, ObjectArraySpec, NamespaceSpec,
     OpaqueSpec, ExtraSpec}
)  # fmt: skip


def named_leaves(
    root: object, text: Callable[[str, int], str], longest: int
) -> Iterator[tuple[str, Any]]:
    """Yield what is no container, in the order of the file.

    Args:
        root: The root of a checked graph.
        text: Returns a key as it is to stand in a name, cut to so many characters.
        longest: Characters of a name.
    """
    paths = _Paths(text, longest)
    seen: set[int] = set()
    # What is left of each container on the way: never a list of all its members.
    open_: list[Iterator[tuple[str, Any]]] = [iter([("", root)])]
    while open_:
        for name, item in open_[-1]:
            value = settle(item)
            if type(value) not in _CONTAINERS:
                yield name, value
            elif id(value) not in seen:
                seen.add(id(value))
                open_.append(paths.children(name, value))
                break
        else:
            open_.pop()


class _Paths:
    """How the members of containers are named; scalars are left out."""

    def __init__(self, text: Callable[[str, int], str], longest: int) -> None:
        self._text = text
        self._longest = longest

    def children(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the named members of a container."""
        kind = type(value)
        if kind is dict:
            yield from self._members(name, value.items())
        elif kind is list or kind is tuple:
            yield from self._items(name, value)
        elif kind is MappingSpec:
            yield from self._pairs(name, value.pairs)
        elif kind is SequenceSpec or kind is ObjectArraySpec:
            yield from self._items(name, value.elements)
        elif kind is NamespaceSpec:
            yield from self._members(name, value.attributes.items())
        elif kind is OpaqueSpec:
            yield from self._items(f"{name}.args", value.args)
            yield from self._members(name, (value.kwargs or {}).items())
            yield name, value.state
            yield from self._pairs(name, value.pairs or [])
            yield from self._items(name, value.elements or [])
        else:
            yield from ((f"{name}.args", item) for item in value.args)
            yield name, value.state

    def _items(self, name: str, values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Yield the members of a sequence, by their index."""
        for at, item in enumerate(values):
            if type(item) not in ATOMS:
                yield self._cut(f"{name}[{at}]"), item

    def _members(
        self, name: str, items: Iterable[tuple[Any, Any]]
    ) -> Iterator[tuple[str, Any]]:
        """Yield the members of a mapping, by their key."""
        for key, item in items:
            if type(item) not in ATOMS:
                yield self._join(name, key), item

    def _pairs(self, name: str, pairs: list[Any]) -> Iterator[tuple[str, Any]]:
        """Yield the members of alternating keys and values."""
        for at in range(0, len(pairs), 2):
            if type(pairs[at + 1]) not in ATOMS:
                yield self._join(name, settle(pairs[at])), pairs[at + 1]

    def _join(self, name: str, key: object) -> str:
        """Return the name of a member."""
        if type(key) is str:
            member = self._text(key, self._longest)
        elif key is None or type(key) in (int, bool, float):
            member = self._text(str(key), self._longest)
        else:
            member = f"<{type(key).__name__}>"
        return self._cut(f"{name}.{member}" if name else member)

    def _cut(self, name: str) -> str:
        """Rule 2; uncut, deep ones would grow with the file's square."""
        longest = self._longest
        return name if len(name) <= longest else "..." + name[3 - longest :]
