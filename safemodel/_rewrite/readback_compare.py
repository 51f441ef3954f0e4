"""A value that was to be written, and what its pickle reads as: the same, or an error.

1. What is expected comes from the value and its leaves, through `Plain`; the writer of
   the pickle takes no part.
2. Types, order, numbers bit for bit, names: all of it has to agree.
3. Values that are one are read as one, and values that are two as two.
4. Each tensor lies in the storage that holds its content: as long, with the CRC-32 that
   the content had when it was read, and under a key that no other content has.
5. Nothing recurses: pairs wait in a list. Each container is looked into once.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from types import NoneType
from typing import TYPE_CHECKING, Any

from safemodel._graph.reconstructors.torch_values import STORAGE_DTYPES
from safemodel._rewrite.leaves import CallLeaf, GlobalLeaf, TensorLeaf
from safemodel._rewrite.readback_pickle import (
    ReadCall,
    ReadGlobal,
    ReadMapping,
    ReadStorage,
    differs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from safemodel._rewrite.contents import Content
    from safemodel._rewrite.plain import Plain

_UNTYPED = "UntypedStorage"
_CLASSES = {
    dtype: f"torch {name}"
    for name, (dtype, _) in STORAGE_DTYPES.items()
    if name != _UNTYPED
}
"""Element type → the storage class that stands for it, as readers know them."""
_SCALARS = frozenset({NoneType, bool, int, str})
_INT = frozenset({int})
_BITS = Struct("<d").pack


class Comparison:
    """Compares one value with what was read (the rules above).

    Args:
        plain: What made the value plain.
        contents: Content, by its id → the CRC-32 it had when it was read.
        storages: Key → how many bytes lie there in the file, and their CRC-32.
    """

    def __init__(
        self,
        plain: Plain,
        contents: Mapping[int, int],
        storages: Mapping[str, tuple[int, int]],
    ) -> None:
        self._plain = plain
        self._contents = contents
        self._storages = storages
        self._waiting: list[tuple[Any, Any]] = []
        self._read_as: dict[int, object] = {}
        self._taken: set[int] = set()
        self._kept: list[object] = []  # an id must not be used again meanwhile
        self._keys: dict[int, str] = {}
        self._used: set[str] = set()
        self._kinds: Mapping[type, Callable[[Any, Any], None]] = {
            dict: self._mapping, OrderedDict: self._mapping, list: self._sequence,
            tuple: self._sequence, CallLeaf: self._call, TensorLeaf: self._tensor,
        }  # fmt: skip

    def compare(self, root: object, read: object) -> None:
        """Compare a value with what was read of it.

        Raises:
            DisarmError: Something is not the same.
        """
        of, waiting = self._plain.of, self._waiting
        waiting.append((root, read))
        while waiting:
            value, there = waiting.pop()
            value = of(value)
            kind = type(value)
            if kind in _SCALARS:
                if type(there) is not kind or there != value:
                    differs(f"a {kind.__name__} is another")
            elif kind is float:
                _check_float(value, there)
            elif kind is GlobalLeaf:
                self._name(there, f"{value.module} {value.name}")
            elif kind is tuple and not value:
                self._sequence(value, there)
            elif self._is_new(value, there):
                self._kinds[kind](value, there)
        self._end()

    def _end(self) -> None:
        """Check that nothing was written that no tensor has."""
        if self._keys.keys() != self._contents.keys():
            differs("not every content is a tensor's")
        if self._used != self._storages.keys():
            differs("it has storages of no tensor")

    def _is_new(self, value: object, there: object) -> bool:
        """Say whether a value is seen for the first time (rule 3)."""
        known = self._read_as.get(id(value))
        if known is None:
            if id(there) in self._taken:
                differs("what were two values is one")
            self._taken.add(id(there))
            self._read_as[id(value)] = there
            self._kept.append(value)
            return True
        if known is not there:
            differs("what was one value is two")
        return False

    def _fresh(self, there: object) -> None:
        """Check that what was read stands for nothing else."""
        if id(there) in self._taken:
            differs("what were two values is one")
        self._taken.add(id(there))

    def _mapping(self, value: dict[Any, Any], there: object) -> None:
        ordered = type(value) is OrderedDict
        if type(there) is not ReadMapping or there.ordered is not ordered:
            differs("a dictionary is another kind")
        keys, items = self._plain.keys(value), there.items
        if len(items) != 2 * len(keys):
            differs("a dictionary is longer or shorter")
        self._waiting += zip(keys, items[::2], strict=True)
        self._waiting += zip(value.values(), items[1::2], strict=True)
        metadata = getattr(value, "_metadata", None)
        if metadata is None and there.state is None:
            return
        state = there.state
        if type(state) is not ReadMapping or state.ordered or state.state is not None:
            differs("the state of a dictionary is another")
        self._fresh(state)
        if metadata is None or len(state.items) != 2:
            differs("the state of a dictionary is another")
        self._waiting += zip(("_metadata", metadata), state.items, strict=True)

    def _sequence(self, value: Any, there: Any) -> None:
        name = type(value).__name__
        if type(there) is not type(value):
            differs(f"a {name} is another kind")
        if len(there) != len(value):
            differs(f"a {name} is longer or shorter")
        self._waiting += zip(value, there, strict=True)

    def _call(self, value: CallLeaf, there: object) -> None:
        if type(there) is not ReadCall:
            differs("a call is none")
        if there.function != f"{value.module} {value.name}":
            differs(f"{value.name} is another function")
        self._waiting.append((value.args, there.args))

    def _tensor(self, leaf: TensorLeaf, there: object) -> None:
        grad = leaf.requires_grad
        if leaf.parameter:
            there, *rest = _args(there, "torch._utils _rebuild_parameter", 3)
            self._flags(rest, grad)
            self._fresh(there)
            grad = False
        typed = leaf.dtype in _CLASSES
        if leaf.scheme is not None:
            args = _args(there, "torch._utils _rebuild_qtensor", 7)
            self._waiting.append((leaf.scheme, args[4]))
            self._flags(args[5:], grad)
        elif typed:
            args = _args(there, "torch._utils _rebuild_tensor_v2", 6)
            self._flags(args[4:], grad)
        else:
            args = _args(there, "torch._utils _rebuild_tensor_v3", 7)
            self._flags(args[4:6], grad)
            self._name(args[6], f"torch {leaf.dtype}")
        if args[1] is not leaf.offset:
            self._waiting.append((leaf.offset, args[1]))
        _check_numbers(leaf.shape, args[2], "shape")
        _check_numbers(leaf.stride, args[3], "stride")
        content = leaf.content
        if content is None or content.dtype != leaf.dtype:
            differs("the element type of a tensor is another")
        self._storage(content, args[0], typed=typed)

    def _flags(self, flags: Any, grad: object) -> None:
        """Compare whether a tensor asks for a gradient, and its hooks: none."""
        if flags[0] is not grad:
            self._waiting.append((grad, flags[0]))
        hooks = flags[1]
        if type(hooks) is not ReadMapping or not hooks.ordered or hooks.items:
            differs("a tensor has hooks")
        if hooks.state is not None:
            differs("a tensor has hooks")
        self._fresh(hooks)

    def _name(self, there: object, name: str) -> None:
        if type(there) is not ReadGlobal or there.name != name:
            differs(f"{name!r} is another name")

    def _storage(self, content: Content, there: object, *, typed: bool) -> None:
        pid = there.pid if type(there) is ReadStorage else None
        if type(pid) is not tuple or len(pid) != 5:
            differs("a tensor has no storage")
        word, kind, key, device, length = pid
        if type(key) is not str or type(length) is not int:
            differs("a storage is none")
        if word != "storage" or device != "cpu":
            differs("a storage lies elsewhere")
        name = _CLASSES[content.dtype] if typed else f"torch.storage {_UNTYPED}"
        self._name(kind, name)
        if length != (content.numel if typed else content.nbytes):
            differs("a storage is longer or shorter")
        known = self._keys.get(id(content))
        if known is None:
            self._key(content, key)
        elif known != key:
            differs("what was one storage is two")

    def _key(self, content: Content, key: str) -> None:
        """Check the bytes of a content that is met for the first time (rule 4)."""
        if key in self._used:
            differs("what were two storages is one")
        self._used.add(key)
        self._keys[id(content)] = key
        checksum = self._contents.get(id(content))
        if checksum is None:
            differs("the content of a tensor was not written")
        if self._storages.get(key) != (content.nbytes, checksum):
            differs("a storage has other bytes")


def _args(there: object, function: str, count: int) -> tuple[Any, ...]:
    if type(there) is not ReadCall or there.function != function:
        differs("a tensor is made otherwise")
    if len(there.args) != count:
        differs("a tensor is made of more or less")
    return there.args


def _check_float(value: float, there: object) -> None:
    if type(there) is not float or _BITS(there) != _BITS(value):
        differs("a float is another")


def _check_numbers(value: tuple[int, ...], there: object, what: str) -> None:
    # Types first: True equals 1, and what holds only integers is compared at once.
    if type(there) is not tuple or not _INT.issuperset(map(type, there)):
        differs(f"the {what} of a tensor is none")
    if there != value:
        differs(f"the {what} of a tensor is another")
