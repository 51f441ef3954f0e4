"""A pickle of plain values: two dozen opcodes, and globals from a fixed list.

1. Protocol 2, as torch writes it, so that the restricted loaders of all versions since
   1.13 read it.
2. Nothing named here comes from a file: modules and names are constants of ours.
3. Whatever is shared is written once and fetched from the memo.
4. Nothing recurses: a value is a generator that yields what comes before its end.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, Any

from safemodel._rewrite.leaves import (
    STORAGE_CLASSES,
    CallLeaf,
    GlobalLeaf,
    TensorLeaf,
)
from safemodel.errors import ForbiddenCallError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from safemodel._rewrite.contents import Content
    from safemodel._rewrite.plain import Plain

_UINT16 = Struct("<H").pack
_INT32 = Struct("<i").pack
_UINT32 = Struct("<I").pack
_DOUBLE = Struct(">d").pack
_BATCH = 1000
_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


class PickleWriter:
    """Writes one value.

    Attributes:
        contents: What the storages hold, in the order of their keys.
    """

    def __init__(self, plain: Plain) -> None:
        self._plain = plain
        self._out = bytearray()
        self._memo: dict[object, int] = {}
        self._slots = 0  # not the length of the memo, which also has open tuples
        self._kept: list[object] = []
        self._keys: dict[int, int] = {}
        self.contents: list[Content] = []

    def write(self, root: object) -> bytes:
        """Return the pickle of a value.

        Raises:
            ForbiddenCallError: A tuple holds itself.
        """
        self._out += b"\x80\x02"
        pending = [self._value(root)]
        while pending:
            part = next(pending[-1], self)
            if part is self:
                pending.pop()
            else:
                pending.append(self._value(part))
        self._out += b"."
        return bytes(self._out)

    def _value(self, value: Any) -> Generator[Any, None, None]:
        value = self._plain.of(value)
        kind = type(value)
        if kind is str:
            self._text(value)
        elif kind is dict or kind is OrderedDict:
            yield from self._mapping(value)
        elif kind is list:
            yield from self._list(value)
        elif kind is tuple:
            yield from self._tuple(value)
        elif kind is TensorLeaf:
            yield from self._tensor(value)
        elif kind is CallLeaf:
            if not self._fetch(id(value)):
                self._global(value.module, value.name)
                yield value.args
                self._out += b"R"
                self._put(id(value), value)
        elif kind is GlobalLeaf:
            self._global(value.module, value.name)
        else:
            self._scalar(value)

    def _scalar(self, value: Any) -> None:
        out = self._out
        if value is None:
            out += b"N"
        elif value is True or value is False:
            out += b"\x88" if value else b"\x89"
        elif type(value) is float:
            out += b"G" + _DOUBLE(value)
        elif 0 <= value < 1 << 8:
            out += bytes((0x4B, value))
        elif 0 <= value < 1 << 16:
            out += b"M" + _UINT16(value)
        elif -(1 << 31) <= value < 1 << 31:
            out += b"J" + _INT32(value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out += bytes((0x8A, len(raw))) + raw

    def _text(self, text: str) -> None:
        if self._fetch(text):
            return
        raw = text.encode("utf-8", "surrogatepass")
        self._out += b"X" + _UINT32(len(raw)) + raw
        self._put(text)

    def _mapping(self, value: dict[Any, Any]) -> Generator[Any, None, None]:
        if self._fetch(id(value)):
            return
        if type(value) is OrderedDict:
            self._global("collections", "OrderedDict")
            self._out += b")R"
        else:
            self._out += b"}"
        self._put(id(value), value)
        yield from self._items(
            zip(self._plain.keys(value), value.values(), strict=True)
        )
        metadata = getattr(value, "_metadata", None)
        if metadata is not None:
            yield {"_metadata": metadata}
            self._out += b"b"

    def _items(self, items: Iterable[tuple[Any, Any]]) -> Generator[Any, None, None]:
        open_items = 0
        for key, item in items:
            if not open_items:
                self._out += b"("
            yield key
            yield item
            open_items += 1
            if open_items == _BATCH:
                self._out += b"u"
                open_items = 0
        if open_items:
            self._out += b"u"

    def _list(self, value: list[Any]) -> Generator[Any, None, None]:
        if self._fetch(id(value)):
            return
        self._out += b"]"
        self._put(id(value), value)
        for start in range(0, len(value), _BATCH):
            self._out += b"("
            yield from value[start : start + _BATCH]
            self._out += b"e"

    def _tuple(self, value: tuple[Any, ...]) -> Generator[Any, None, None]:
        if not value:
            self._out += b")"
            return
        if self._fetch(id(value)):
            return
        marked = len(value) not in _TUPLES
        if marked:
            self._out += b"("
        self._memo[id(value)] = -1
        yield from value
        del self._memo[id(value)]
        self._out += b"t" if marked else _TUPLES[len(value)]
        self._put(id(value), value)

    def _tensor(self, leaf: TensorLeaf) -> Generator[Any, None, None]:
        if self._fetch(id(leaf)):
            return
        content = leaf.content
        if content is None:
            raise TypeError("a tensor without content")
        typed = leaf.dtype in STORAGE_CLASSES
        name = "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3"
        if leaf.scheme is not None:
            name = "_rebuild_qtensor"
        if leaf.parameter:
            self._global("torch._utils", "_rebuild_parameter")
            self._out += b"("
        self._global("torch._utils", name)
        self._out += b"("
        self._storage(content)
        self._scalar(leaf.offset)
        self._numbers(leaf.shape)
        self._numbers(leaf.stride)
        if leaf.scheme is not None:
            yield leaf.scheme
        self._scalar(leaf.requires_grad and not leaf.parameter)
        self._hooks()
        if not typed:
            self._global("torch", leaf.dtype)
        self._out += b"tR"
        if leaf.parameter:
            self._scalar(leaf.requires_grad)
            self._hooks()
            self._out += b"tR"
        self._put(id(leaf), leaf)

    def _numbers(self, numbers: tuple[int, ...]) -> None:
        """Write a shape or a stride: equal ones once, since nobody can change them."""
        if not numbers:
            self._out += b")"
            return
        if self._fetch(numbers):
            return
        marked = len(numbers) not in _TUPLES
        if marked:
            self._out += b"("
        for number in numbers:
            self._scalar(number)
        self._out += b"t" if marked else _TUPLES[len(numbers)]
        self._put(numbers)

    def _hooks(self) -> None:
        self._global("collections", "OrderedDict")
        self._out += b")R"

    def _storage(self, content: Content) -> None:
        key = self._keys.get(id(content))
        if key is None:
            key = self._keys[id(content)] = len(self.contents)
            self.contents.append(content)
        typed = content.dtype in STORAGE_CLASSES
        self._out += b"("
        self._text("storage")
        if typed:
            self._global("torch", STORAGE_CLASSES[content.dtype])
        else:
            self._global("torch.storage", "UntypedStorage")
        self._text(str(key))
        self._text("cpu")
        self._scalar(content.numel if typed else content.nbytes)
        self._out += b"tQ"

    def _global(self, module: str, name: str) -> None:
        if not self._fetch((module, name)):
            self._out += f"c{module}\n{name}\n".encode()
            self._put((module, name))

    def _fetch(self, key: object) -> bool:
        """Write a get of something that is in the memo; say whether it is."""
        slot = self._memo.get(key)
        if slot is None:
            return False
        if slot < 0:
            raise ForbiddenCallError("tuple", "holds itself")
        self._out += bytes((0x68, slot)) if slot < 256 else b"j" + _UINT32(slot)
        return True

    def _put(self, key: object, value: object = None) -> None:
        """Write a put into the next slot; a value known by its id is kept alive."""
        slot = self._slots
        self._slots += 1
        self._memo[key] = slot
        self._kept.append(value)
        self._out += bytes((0x71, slot)) if slot < 256 else b"r" + _UINT32(slot)
