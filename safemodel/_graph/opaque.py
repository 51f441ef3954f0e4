"""`Opaque`: what stands for an object whose class is not on the allowlist.

It holds what the file said about the object and can never become it: it knows the
class by name only, and nothing here looks that name up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from safemodel.errors import quote

_STATE_PARTS = 2
_SHOWN = 4
_SHORT = 40
_MISSING = object()


class Opaque(Mapping[str, object]):
    """An inert record of an object the file describes but we do not build.

    As a mapping it shows the object's state: the items of a dictionary subclass
    first, then its attributes. Two opaque values are equal only if they are the
    same one.

    Attributes:
        qualified_name: ``module.name`` of the class or function, as text.
        args: Positional arguments the file would have passed.
        state: What the file would have restored (an attribute dictionary, usually),
            or None.

    >>> thing = Opaque("pkg.Config", state={"lr": 0.1})
    >>> thing["lr"], list(thing)
    (0.1, ['lr'])
    >>> thing
    <Opaque pkg.Config lr=0.1>
    """

    # Empty parts are None: a file may ask for a million of these in four megabytes.
    __slots__ = ("_elements", "_kwargs", "_pairs", "args", "qualified_name", "state")

    def __init__(
        self,
        qualified_name: str,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        state: object = None,
        pairs: Mapping[Any, object] | None = None,
        elements: Sequence[object] | None = None,
    ) -> None:
        self.qualified_name = qualified_name
        self.fill(args, kwargs, state, pairs, elements)

    def fill(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None,
        state: object,
        pairs: Mapping[Any, object] | None,
        elements: Sequence[object] | None,
    ) -> None:
        """Set everything but the name; `_build` makes the object before its parts."""
        self.args = args
        self.state = state
        # Not copied: calls may share one dictionary of them, as they do `state`.
        same = kwargs if isinstance(kwargs, dict) else dict(kwargs or {})
        self._kwargs = same or None
        self._pairs = dict(pairs) if pairs else None
        self._elements = list(elements) if elements else None

    @property
    def kwargs(self) -> dict[str, object]:
        """Keyword arguments the file would have passed, nearly always none."""
        return self._kwargs or {}

    @property
    def pairs(self) -> dict[Any, object]:
        """Items of a dictionary subclass; none otherwise."""
        return self._pairs or {}

    @property
    def elements(self) -> list[object]:
        """Items of a list or set subclass; none otherwise."""
        return self._elements or []

    def attributes(self) -> dict[str, Any]:
        """Return the attributes in `state`: its dictionary, then its slots."""
        merged: dict[str, Any] = {}
        for part in self._parts():
            merged.update(part)
        return merged

    def _attribute(self, name: Any, default: object = None) -> Any:
        """Return one attribute in `state`, which needs no dictionary of all."""
        for part in reversed(self._parts()):
            if name in part:
                return part[name]
        return default

    def _parts(self) -> list[dict[str, Any]]:
        """Return what `state` has of attributes: a dictionary, or that and slots."""
        state = self.state
        pair = state if type(state) is tuple and len(state) == _STATE_PARTS else [state]
        return [part for part in pair if isinstance(part, dict)]

    def __getitem__(self, key: Any) -> object:
        if key in self.pairs:
            return self.pairs[key]
        found = self._attribute(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.pairs, *self.attributes()]))

    def __len__(self) -> int:
        return len({*self.pairs, *self.attributes()})

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        shown = [short(arg) for arg in self.args[:_SHOWN]]
        # A few, not all: many of these may share one large state.
        keys: dict[Any, None] = {}
        for part in (self.pairs, *self._parts()):
            keys.update(dict.fromkeys(islice(part, _SHOWN + 1)))
        some = list(keys)
        shown += [f"{_label(key)}={short(self[key])}" for key in some[:_SHOWN]]
        if len(some) > _SHOWN or len(self.args) > _SHOWN:
            shown.append("...")
        return " ".join([f"<Opaque {quote(self.qualified_name)}", *shown]) + ">"

    def state_dict(self) -> dict[str, object]:
        """Return the flat state dict, where this was a `torch.nn.Module`.

        Order and names are those of ``Module.state_dict``: parameters, persistent
        buffers, then the children.

        Raises:
            ValueError: It was not a module (no ``_parameters`` and ``_modules``).
        """
        from safemodel._graph.modules import module_state_dict

        return module_state_dict(self)


def _label(key: object) -> str:
    """Return a key in a few characters; writing out what it holds could not end."""
    return repr(key[:_SHORT])[1:-1] if type(key) is str else short(key)


def short(value: object) -> str:
    """Return a value in a few characters; containers by their size only."""
    if value is None or type(value) in (bool, int, float, str):
        text = repr(value[: _SHORT + 1] if type(value) is str else value)
        return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."
    if isinstance(value, Opaque):
        return f"<Opaque {quote(value.qualified_name)}>"
    return type(value).__name__
