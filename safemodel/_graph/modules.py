"""Weights out of whole-module pickles, without the module's class.

A pickled `torch.nn.Module` is an `Opaque` whose state holds `_parameters`, `_buffers`
and `_modules`. These functions read them as `Module.state_dict` would. They look at
values that are already built and inert; nothing of the file runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from safemodel._graph.opaque import Opaque, short
from safemodel.errors import LimitExceededError, quote

Tensors: TypeAlias = dict[str, object]
# Where a value is: the place of what holds it, and its key there. Written out only
# where someone reads it, because long keys can hold a million values.
_Place: TypeAlias = "tuple[_Place, object] | None"

_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_PREFERRED_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
_MAX_SEARCHED = 1_000_000
_MAX_NAMES = 200_000
_MAX_CHARACTERS = 1 << 26
_MAX_LISTED = 20
_SCRIPT = "__torch__."


def is_module(value: object) -> bool:
    """Say whether a value is an opaque `torch.nn.Module`."""
    if not isinstance(value, Opaque):
        return False
    if value.qualified_name.startswith(_SCRIPT):
        return True
    return all(isinstance(_attribute(value, part), Mapping) for part in _MODULE_PARTS)


def _attribute(module: Opaque, name: str) -> Any:
    """Return an attribute of a module; a graph module of torch.fx is given them."""
    found = module._attribute(name)
    if found is None and module.args and type(module.args[0]) is dict:
        return module.args[0].get(name)
    return found


class _Budget:
    """What the names of one state dict may take: shared modules have many each."""

    def __init__(self) -> None:
        self.names = 0
        self.characters = 0

    def take(self, names: int, characters: int) -> None:
        """Count names, and their characters, before they are written out.

        Raises:
            LimitExceededError: There are more than any model has.
        """
        self.names += names
        self.characters += characters
        for what, allowed, requested in (
            ("names of a state dict", _MAX_NAMES, self.names),
            ("characters of names", _MAX_CHARACTERS, self.characters),
        ):
            if requested > allowed:
                raise LimitExceededError(what, allowed=allowed, requested=requested)


def _parts(
    module: Opaque, prefix: str, budget: _Budget
) -> tuple[list[tuple[str, object]], list[tuple[str, Opaque]]]:
    """Return the tensors and the children of a module, by their names behind a prefix.

    TorchScript keeps both as plain attributes.
    """
    script = module.qualified_name.startswith(_SCRIPT)
    if script:
        found = tensors = list(module.attributes().items())
    else:
        hidden = _attribute(module, "_non_persistent_buffers_set")
        skipped = hidden if isinstance(hidden, (set, frozenset)) else ()
        buffers = _attribute(module, "_buffers").items()
        tensors = list(_attribute(module, "_parameters").items())
        tensors += [(name, value) for name, value in buffers if name not in skipped]
        found = list(_attribute(module, "_modules").items())
    names = [name for name, _ in (*tensors, *found) if type(name) is str]
    budget.take(1 + len(names), len(prefix) * len(names) + sum(map(len, names)))
    children = [
        (f"{prefix}{name}.", value)
        for name, value in found
        if type(name) is str and isinstance(value, Opaque) and is_module(value)
    ]
    return [
        (f"{prefix}{name}", value)
        for name, value in tensors
        if type(name) is str and (_is_tensor(value) if script else value is not None)
    ], children


def module_state_dict(module: Opaque) -> Tensors:
    """Return the flat state dict of one opaque module.

    Order and names are those of `Module.state_dict`: parameters, buffers that are not
    marked as non-persistent, then each child under its name and a dot. So are the
    tensors: without the gradient of parameters, over the same memory.

    Raises:
        LimitExceededError: Shared modules would appear under too many names.
        ValueError: It is not a module, or a module contains itself.
    """
    if not is_module(module):
        raise ValueError(f"{quote(module.qualified_name)} is not a module")
    flat: Tensors = {}
    plain: dict[int, object] = {}  # a tied weight stays one tensor
    budget = _Budget()
    # (module, prefix, the modules it sits in), last in first out.
    waiting: list[tuple[Opaque, str, frozenset[int]]] = [(module, "", frozenset())]
    while waiting:
        current, prefix, above = waiting.pop()
        if id(current) in above:
            raise ValueError(f"module '{quote(prefix)}' contains itself")
        tensors, children = _parts(current, prefix, budget)
        for name, value in tensors:
            if id(value) not in plain:
                plain[id(value)] = _detached(value)
            flat[name] = plain[id(value)]
        inside = above | {id(current)}
        waiting += [(child, name, inside) for name, child in reversed(children)]
    return flat


def _detached(value: Any) -> object:
    """Return a tensor without its gradient; anything else as it is."""
    return value.detach() if hasattr(value, "detach") else value


def state_dict(obj: object) -> Tensors:
    """Return the flat state dict that `load_state_dict` wants, wherever it sits.

    Looks, in this order, for: a module (``obj`` itself, or an opaque one from
    ``safe_load(..., weights_only=False)``); a mapping of names to tensors; the same
    under "state_dict", "model_state_dict", "model", "net" or "module"; the only module
    anywhere in the result; the only state dict anywhere, by torch's mark or by names
    with a dot.

    Args:
        obj: What `safe_load` returned, or a part of it.

    Returns:
        Names to tensors, in the order of `Module.state_dict`.

    Raises:
        ValueError: There is none, or there are several and none has a usual name; the
            message lists where they are, so that you can pass the one you mean.
        LimitExceededError: Shared modules would appear under too many names.

    >>> weights = {"fc.weight": 1.0}
    >>> state_dict(Opaque("pkg.Net", state={"_parameters": weights, "_buffers": {},
    ...                                     "_modules": {}}))
    {'fc.weight': 1.0}
    """
    found = _direct(obj)
    if found is not None:
        return found
    if isinstance(obj, Mapping):
        for key in _PREFERRED_KEYS:
            found = _direct(obj[key]) if key in obj else None
            if found is not None:
                return found
    for is_one in (is_module, _is_state_dict):
        places = _find(obj, is_one)
        if len(places) == 1:
            return _direct(places[0][0]) or {}
        if places:
            listed = [_written(place) for _, place in places[:_MAX_LISTED]]
            if len(places) > _MAX_LISTED:
                listed.append(f"and {len(places) - _MAX_LISTED:,} more")
            kind = "modules" if is_one is is_module else "mappings of names to tensors"
            raise ValueError(f"several {kind}; pass one of them: {', '.join(listed)}")
    raise ValueError("no module and no mapping of names to tensors in here")


def _direct(obj: object) -> Tensors | None:
    """Return the state dict that a value itself is, if it is one."""
    if isinstance(obj, Opaque):
        return module_state_dict(obj) if is_module(obj) else None
    if not isinstance(obj, Mapping) or not all(type(key) is str for key in obj):
        return None
    tensors = any(_is_tensor(value) for value in obj.values()) and all(
        _is_tensor(value) or key.endswith("_extra_state") for key, value in obj.items()
    )
    return dict(obj) if tensors or _is_marked(obj) else None


def _is_marked(value: object) -> bool:
    """Say whether torch has marked a value as a state dict.

    Those of quantised modules hold more than tensors.
    """
    return type(value) is OrderedDict and hasattr(value, "_metadata")


def _is_state_dict(value: object) -> bool:
    """Say whether a value is a state dict by its mark, or by names that lead to parts.

    The slots of an optimiser and the states of generators are mappings of names to
    tensors as well.
    """
    return (
        not isinstance(value, Opaque)
        and isinstance(value, Mapping)
        and (_is_marked(value) or any("." in key for key in value if type(key) is str))
        and _direct(value) is not None
    )


def _is_tensor(value: object) -> bool:
    """Tell a tensor or array by its shape of interface: this layer has no torch."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _find(obj: object, is_one: Callable[[object], bool]) -> list[tuple[object, _Place]]:
    """Return the outermost values of a kind in a result, and where they are."""
    found: list[tuple[object, _Place]] = []
    waiting: list[tuple[object, _Place]] = [(obj, None)]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_SEARCHED:
        value, place = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_one(value):
            found.append((value, place))
            continue
        items: list[tuple[object, object]] = []
        if isinstance(value, Mapping):
            items = list(value.items())
        elif type(value) in (list, tuple):
            items = list(enumerate(value))  # type: ignore[arg-type]  # one of these
        waiting += [
            (item, (place, key))
            for key, item in reversed(items)
            if isinstance(item, (list, tuple, Mapping))
        ]
    return found


def _written(place: _Place) -> str:
    """Return a place as the subscripts that lead to it."""
    keys: list[object] = []
    while place is not None:
        place, key = place
        keys.append(key)
    subscripts = "".join(f"[{short(key)}]" for key in reversed(keys))
    return subscripts or "(the whole result)"
