"""Plain values → tensors under flat names, and whatever else there is as JSON."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._rewrite.leaves import CallLeaf, GlobalLeaf, TensorLeaf

if TYPE_CHECKING:
    from safemodel._rewrite.plain import Plain


class Flat(NamedTuple):
    """A value without its structure.

    Attributes:
        tensors: Name → tensor. Names are paths joined by dots.
        same: Name → the name under which the very same tensor stands.
        data: Path → scalar, for everything that is no tensor.
    """

    tensors: dict[str, TensorLeaf]
    same: dict[str, str]
    data: dict[str, Any]


def flatten(root: object, plain: Plain) -> Flat:
    """Return the tensors and scalars of a value by the path to each.

    What is shared stands once; a container within itself is left out where it comes
    again.
    """
    flat = Flat({}, {}, {})
    names: dict[tuple[object, ...], str] = {}
    kept: list[object] = []
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", root, ())]
    while waiting:
        name, value, inside = waiting.pop()
        value = plain.of(value)
        kept.append(value)
        kind = type(value)
        if kind is TensorLeaf:
            _add(flat, names, name, value)
            if value.scheme is not None:
                waiting.append((f"{name}.scheme", value.scheme, inside))
            continue
        if kind is CallLeaf and value.name == "_rebuild_parameter":
            # In a file without gradients a parameter is its tensor, under its name.
            waiting.append((name, value.args[0], inside))
            continue
        children = _children(name, value, plain)
        if children is None:
            scalar = f"torch.{value.name}" if kind is GlobalLeaf else value
            flat.data[_unique(name, flat.data)] = scalar
        elif id(value) not in inside:
            here = (*inside, id(value))
            waiting += [(path, child, here) for path, child in reversed(children)]
    return flat


def _add(
    flat: Flat, names: dict[tuple[object, ...], str], name: str, leaf: TensorLeaf
) -> None:
    spec = leaf.spec
    # Two tensors over the same elements are one tensor in a file without storages.
    same = (
        id(spec.storage), spec.dtype, spec.offset, spec.shape, spec.stride,
        spec.conj, spec.neg,
    )  # fmt: skip
    known = names.get(same)
    name = _unique(name or "tensor", flat.tensors, flat.same)
    if known is None:
        names[same] = name
        flat.tensors[name] = leaf
    else:
        flat.same[name] = known


def _unique(name: str, *taken: dict[str, Any]) -> str:
    """Return a name that is not taken: two paths may read alike."""
    unique, turn = name, 1
    while any(unique in names for names in taken):
        turn += 1
        unique = f"{name}~{turn}"
    return unique


def _children(name: str, value: Any, plain: Plain) -> list[tuple[str, Any]] | None:
    """Return the members of a container with their paths; None for a scalar."""
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return [(_join(name, plain.key(key)), item) for key, item in value.items()]
    if kind is list or kind is tuple:
        return [(_join(name, at), item) for at, item in enumerate(value)]
    if kind is CallLeaf:
        return [(_join(name, at), item) for at, item in enumerate(value.args)]
    return None


def _join(name: str, key: object) -> str:
    text = key if type(key) is str else str(key)
    return f"{name}.{text}" if name else text
