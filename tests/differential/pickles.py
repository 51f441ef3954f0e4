"""Pickles put together opcode by opcode, for classes that are not installed here.

`assemble` writes what Python's own pickler writes for objects of those classes, at the
protocol asked for; nothing needs to be importable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Global:
    """A class or function, by its dotted name; the last part is its name."""

    dotted: str


@dataclass
class Made:
    """A call of a global, and what is done to its result.

    Attributes:
        target: Dotted name of the global, or another call.
        args: What it is given.
        state: What BUILD restores, or nothing.
        pairs: Items set on it.
        elements: Elements appended to it.
        new: The class is made with `__new__` (NEWOBJ) and not called (REDUCE).
    """

    target: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    pairs: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    new: bool = True


def member(enumeration: str, value: object) -> Made:
    """Return an enum member: the class called with its value."""
    return Made(enumeration, (value,), new=False)


def instance(cls: str, **attributes: object) -> Made:
    """Return an ordinary object with attributes."""
    return Made(cls, state=attributes)


@dataclass(frozen=True)
class Floats:
    """A tensor of floats, over a storage of its own."""

    key: str
    count: int


def assemble(value: object, protocol: int = 2) -> bytes:
    """Return the pickle of a value, at protocol 2 or 4."""
    return bytes([0x80, protocol]) + _Writer(protocol).write(value) + b"."


class _Writer:
    def __init__(self, protocol: int) -> None:
        self.protocol = protocol

    def write(self, value: Any) -> bytes:
        if value is None:
            return b"N"
        if isinstance(value, Global):
            module, _, name = value.dotted.rpartition(".")
            if self.protocol >= 4:
                return self.write(module) + self.write(name) + b"\x93"
            return b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        if isinstance(value, Made):
            return self.made(value)
        if isinstance(value, Floats):
            return self.tensor(value)
        return self.plain(value)

    def plain(self, value: Any) -> bytes:
        match value:
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return b"J" + struct.pack("<i", value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                text = value.encode()
                return b"X" + struct.pack("<I", len(text)) + text
            case bytes():
                return b"B" + struct.pack("<I", len(value)) + value
            case dict():
                return b"}(" + self.pairs(value) + b"u"
            case list():
                return b"](" + b"".join(map(self.write, value)) + b"e"
            case tuple():
                return b"(" + b"".join(map(self.write, value)) + b"t"
        raise TypeError(type(value))

    def pairs(self, items: dict[Any, Any]) -> bytes:
        return b"".join(self.write(key) + self.write(items[key]) for key in items)

    def made(self, value: Made) -> bytes:
        target = value.target
        target = Global(target) if isinstance(target, str) else target
        code = self.write(target) + self.write(value.args)
        code += b"\x81" if value.new else b"R"
        if value.elements:
            code += b"(" + b"".join(map(self.write, value.elements)) + b"e"
        if value.pairs:
            code += b"(" + self.pairs(value.pairs) + b"u"
        if value.state is not None:
            code += self.write(value.state) + b"b"
        return code

    def tensor(self, value: Floats) -> bytes:
        pid = ("storage", Global("torch.FloatStorage"), value.key, "cpu", value.count)
        arguments = (0, (value.count,), (1,), False)
        hooks = Made("collections.OrderedDict", new=False)
        return (
            self.write(Global("torch._utils._rebuild_tensor_v2"))
            + b"("
            + self.write(pid)
            + b"Q"
            + b"".join(map(self.write, arguments))
            + self.write(hooks)
            + b"tR"
        )
