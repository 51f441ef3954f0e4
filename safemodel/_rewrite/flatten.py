"""Plain values → tensors under flat names, and whatever else there is as JSON.

Rules:

1. A container that comes again, within itself or elsewhere, is walked once: the other
   paths to it are noted. What a file shares a billion times costs no more than once.
2. Names are paths joined by dots. Long ones are cut in the middle, all of them
   together are bounded, and two that read alike are told apart by a number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from safemodel._graph.opaque import Opaque
from safemodel._rewrite.leaves import CallLeaf, GlobalLeaf, TensorLeaf
from safemodel.reports import KeptOpaque

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._rewrite.plain import Plain

_LONGEST_NAME = 512
_MOST_NAMES = 256 << 20
"""Characters of all names together; from then on they are numbers."""
_MOST_OPAQUES = 10_000
_CUT = "..."
_CONTAINERS = frozenset({dict, OrderedDict, list, tuple, CallLeaf})


class Flat:
    """A value without its structure.

    Attributes:
        tensors: Name → tensor.
        same: Path → the path under which the very same tensor or container stands.
        data: Path → scalar, for everything that is no tensor.
        opaques: Objects that became plain data, the first ten thousand of them.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, TensorLeaf] = {}
        self.same: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.opaques: list[KeptOpaque] = []
        self._turns: dict[str, int] = {}
        self._room = _MOST_NAMES
        self._numbered = 0

    def named(self, path: str) -> str:
        """Return the name for a path that no other has got."""
        name = path
        turns = self._turns
        while name in turns:
            turns[path] += 1
            name = f"{path}~{turns[path]}"
        turns[name] = 1
        return name

    def join(self, path: str, key: object) -> str:
        """Return the path of a member of a container."""
        text = key if type(key) is str else str(key)
        joined = f"{path}.{text}" if path else text
        if len(joined) > _LONGEST_NAME:
            half = (_LONGEST_NAME - len(_CUT)) // 2
            joined = joined[:half] + _CUT + joined[-half:]
        self._room -= len(joined)
        if self._room < 0:
            self._numbered += 1
            return f"~{self._numbered}"
        return joined


def flatten(root: object, plain: Plain) -> Flat:
    """Return the tensors and scalars of a value by the path to each."""
    flat = Flat()
    tensors: dict[tuple[object, ...], str] = {}
    containers: dict[int, str] = {}
    kept: list[object] = []
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, value = waiting.pop()
        if type(value) is Opaque and len(flat.opaques) < _MOST_OPAQUES:
            flat.opaques.append(KeptOpaque(path=path, name=value.qualified_name))
        value = plain.of(value)
        if type(value) is CallLeaf and value.name == "_rebuild_parameter":
            # A flat file has no parameters: it is the tensor, under the same name.
            value = plain.of(value.args[0])
        kind = type(value)
        if kind is TensorLeaf:
            _add(flat, tensors, path, value)
            if value.scheme is not None:
                waiting.append((flat.join(path, "scheme"), value.scheme))
            continue
        if kind not in _CONTAINERS or not (kind is CallLeaf or value):
            flat.data[flat.named(path)] = _scalar(value)
        elif id(value) in containers:
            flat.same[flat.named(path)] = containers[id(value)]
        else:
            containers[id(value)] = path
            kept.append(value)  # its id must not be given to another
            waiting += reversed(_children(path, value, plain, flat))
    return flat


def _scalar(value: Any) -> object:
    """Return a scalar or an empty container as it stands in the data."""
    return f"torch.{value.name}" if type(value) is GlobalLeaf else value


def _add(
    flat: Flat, names: dict[tuple[object, ...], str], path: str, leaf: TensorLeaf
) -> None:
    spec = leaf.spec
    # Two tensors over the same elements are one tensor in a file without storages.
    same = (
        id(spec.storage), spec.dtype, spec.offset, spec.shape, spec.stride,
        spec.conj, spec.neg,
    )  # fmt: skip
    known = names.get(same)
    name = flat.named(path or "tensor")
    if known is None:
        names[same] = name
        flat.tensors[name] = leaf
    else:
        flat.same[name] = known


def _children(path: str, value: Any, plain: Plain, flat: Flat) -> list[tuple[str, Any]]:
    """Return the members of a container with their paths."""
    members: Iterable[Any] = value
    if type(value) is CallLeaf:
        members = value.args
    elif isinstance(value, dict):
        keys = plain.keys(value)
        return [
            (flat.join(path, key), item)
            for key, item in zip(keys, value.values(), strict=True)
        ]
    return [(flat.join(path, at), item) for at, item in enumerate(members)]
