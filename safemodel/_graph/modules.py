"""Weights out of whole-module pickles, without the module's class.

A pickled `torch.nn.Module` is an `Opaque` whose state holds `_parameters`, `_buffers`
and `_modules`. These functions read them as `Module.state_dict` would. They look at
values that are already built and inert; nothing of the file runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from safemodel._graph.opaque import Opaque
from safemodel.errors import LimitExceededError

Tensors: TypeAlias = dict[str, object]

_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_PREFERRED_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
_MAX_SEARCHED = 1_000_000
_MAX_NAMES = 200_000
_SCRIPT = "__torch__."


def is_module(value: object) -> bool:
    """Say whether a value is an opaque `torch.nn.Module`."""
    if not isinstance(value, Opaque):
        return False
    if value.qualified_name.startswith(_SCRIPT):
        return True
    return all(isinstance(value._attribute(part), Mapping) for part in _MODULE_PARTS)


def _parts(module: Opaque) -> tuple[list[tuple[str, object]], list[tuple[str, Opaque]]]:
    """Return the tensors (or None) and the other parts of a module, by name.

    TorchScript keeps both as plain attributes.
    """
    if module.qualified_name.startswith(_SCRIPT):
        found = list(module.attributes().items())
        tensors = [(name, value) for name, value in found if _is_tensor(value)]
    else:
        hidden = module._attribute("_non_persistent_buffers_set")
        skipped = hidden if isinstance(hidden, (set, frozenset)) else ()
        buffers = module._attribute("_buffers").items()
        tensors = list(module._attribute("_parameters").items())
        tensors += [(name, value) for name, value in buffers if name not in skipped]
        found = list(module._attribute("_modules").items())
    children = [
        (name, value)
        for name, value in found
        if isinstance(value, Opaque) and is_module(value)
    ]
    return tensors, children


def module_state_dict(module: Opaque) -> Tensors:
    """Return the flat state dict of one opaque module.

    Order and names are those of `Module.state_dict`: parameters, buffers that are not
    marked as non-persistent, then each child under its name and a dot.

    Raises:
        LimitExceededError: Shared modules would appear under too many names.
        ValueError: It is not a module, or a module contains itself.
    """
    if not is_module(module):
        raise ValueError(f"{module.qualified_name} is not a module")
    flat: Tensors = {}
    visited = 0
    # (module, prefix, the modules it sits in), last in first out.
    waiting: list[tuple[Opaque, str, frozenset[int]]] = [(module, "", frozenset())]
    while waiting:
        current, prefix, above = waiting.pop()
        if id(current) in above:
            raise ValueError(f"module {prefix!r} contains itself")
        tensors, children = _parts(current)
        flat |= {f"{prefix}{name}": value for name, value in tensors}
        inside = above | {id(current)}
        waiting += [
            (child, f"{prefix}{name}.", inside) for name, child in reversed(children)
        ]
        # Modules that share their children have a name for every path to them.
        visited += 1 + len(tensors)
        if visited > _MAX_NAMES:
            raise LimitExceededError(
                "names of a state dict", allowed=_MAX_NAMES, requested=visited
            )
    return flat


def state_dict(obj: object) -> Tensors:
    """Return the flat state dict that `load_state_dict` wants, wherever it sits.

    Looks, in this order, for: a module (``obj`` itself, or an opaque one from
    ``safe_load(..., weights_only=False)``); a mapping of names to tensors; the same
    under "state_dict", "model_state_dict", "model", "net" or "module"; the only module
    anywhere in the result.

    Args:
        obj: What `safe_load` returned, or a part of it.

    Returns:
        Names to tensors, in the order of `Module.state_dict`.

    Raises:
        ValueError: There is none, or there are several and none has a usual name; the
            message lists where they are, so that you can pass the one you mean.

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
    places = _find_modules(obj)
    if len(places) == 1:
        return module_state_dict(next(iter(places.values())))
    if not places:
        raise ValueError("no module and no mapping of names to tensors in here")
    raise ValueError("several modules; pass one of them: " + ", ".join(places))


def _direct(obj: object) -> Tensors | None:
    """Return the state dict that a value itself is, if it is one."""
    if isinstance(obj, Opaque):
        return module_state_dict(obj) if is_module(obj) else None
    if isinstance(obj, Mapping) and obj:
        named = all(type(key) is str for key in obj)
        if (
            named
            and any(_is_tensor(value) for value in obj.values())
            and all(
                _is_tensor(value) or key.endswith("_extra_state")
                for key, value in obj.items()
            )
        ):
            return dict(obj)
    return None


def _is_tensor(value: object) -> bool:
    """Tell a tensor or array by its shape of interface: this layer has no torch."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _find_modules(obj: object) -> dict[str, Opaque]:
    """Return the outermost modules in a result, by where they are."""
    places: dict[str, Opaque] = {}
    waiting: list[tuple[object, str]] = [(obj, "")]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_SEARCHED:
        value, place = waiting.pop()
        if id(value) in seen:
            continue
        if is_module(value):
            seen.add(id(value))
            assert isinstance(value, Opaque)  # noqa: S101 - is_module has checked it
            places[place or "(the whole result)"] = value
        elif isinstance(value, Mapping):
            seen.add(id(value))
            waiting += [(value[key], f"{place}[{key!r}]") for key in reversed([*value])]
        elif type(value) in (list, tuple):
            seen.add(id(value))
            items: list[tuple[int, object]] = [*enumerate(value)]  # type: ignore[arg-type]
            waiting += [(item, f"{place}[{index}]") for index, item in reversed(items)]
    return places
