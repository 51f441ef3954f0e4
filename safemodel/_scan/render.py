"""Nodes as text: what a file would have called, in a line that is safe to print.

Rules:

1. Printable ASCII only: everything else is escaped, quotes and brackets included as
   they are. Nothing of a file reaches a terminal as it is.
2. Bounded: at most `MAX_TEXT` characters, `_MAX_NODES` nodes and `_MAX_DEPTH` levels,
   however large or shared the arguments are.
"""

from __future__ import annotations

from typing import Any

from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
    TensorCall,
)

MAX_TEXT = 200
_MAX_NODES = 60
_MAX_DEPTH = 5
_MAX_ITEMS = 8
_MAX_LEAF = 120
_CUT = "..."
_BRACKETS = {list: "[]", tuple: "()", SetNode: "{}", FrozenSetNode: "{}"}


def printable(text: str, limit: int = MAX_TEXT) -> str:
    r"""Return text as printable ASCII, cut.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    escaped = text[: limit + 1].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + _CUT


def one_line(message: str, limit: int = MAX_TEXT) -> str:
    """Return a message of ours, whose parts of a file are escaped already, cut."""
    text = message.encode("ascii", "backslashreplace").decode("ascii")
    if not text.isprintable():
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return text if len(text) <= limit else text[: limit - 3] + _CUT


def record_name(record: str) -> str:
    """Return the name of a record for people: files in it are named with a slash."""
    return printable(record.removesuffix("/"))


def global_text(module: str, name: str) -> str:
    """Return the dotted name of a global."""
    # Cut before they are joined: a memo puts one long text into many names.
    return printable(f"{module[: MAX_TEXT + 1]}.{name[: MAX_TEXT + 1]}")


def dotted_name(node: Any) -> str:
    """Return the name of what a call aims at."""
    if type(node) is GlobalRef:
        return global_text(node.module, node.name)
    return printable(_Renderer().text(node, 0))


def call_arguments(call: Call) -> str:
    """Return the arguments of a call, with its state and items where it has any."""
    renderer = _Renderer()
    parts = [renderer.text(arg, 1) for arg in call.args[:_MAX_ITEMS]]
    if len(call.args) > _MAX_ITEMS:
        parts.append(_CUT)
    if call.kwargs:
        parts += [
            f"{renderer.text(key, 1)}={renderer.text(value, 1)}"
            for key, value in list(call.kwargs.items())[:_MAX_ITEMS]
        ]
    text = "(" + ", ".join(parts) + ")"
    if call.state is not UNCHECKED:
        text += " state=" + renderer.text(call.state, 1)
    if call.pairs is not None:
        text += f" with {len(call.pairs) // 2:,} items"
    if call.elements is not None:
        text += f" with {len(call.elements):,} elements"
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + _CUT


class _Renderer:
    """Turns one value into text within one budget."""

    def __init__(self) -> None:
        self._left = _MAX_NODES

    def text(self, value: Any, depth: int) -> str:  # noqa: C901 - a case a kind
        """Return a value as text; recursion is bounded by rule 2."""
        self._left -= 1
        kind = type(value)
        if kind is str or kind is bytes or kind is bytearray:
            return self._leaf(value)
        if value is None or kind in (bool, float):
            return repr(value)
        if kind is int:
            # Decimal digits of a long integer take quadratic time.
            return str(value) if -(1 << 64) < value < 1 << 64 else hex(value)[:40]
        if kind is GlobalRef:
            return printable(dotted_name(value), _MAX_LEAF)
        if self._left < 0 or depth > _MAX_DEPTH:
            return _CUT
        if kind is dict:
            return self._mapping(value, depth)
        if kind in _BRACKETS:
            items = value.elements if kind in (SetNode, FrozenSetNode) else value
            return self._items(items or (), _BRACKETS[kind], depth)
        if kind is Call:
            target = self.text(value.target, depth + 1)
            return target + self._items(value.args, "()", depth, call=True)
        if kind is TensorCall:
            return "tensor(" + "x".join(map(str, value.form.shape[:_MAX_ITEMS])) + ")"
        if kind is PersistentRef:
            return "persistent" + self._items((value.pid,), "()", depth, call=True)
        return f"<{kind.__name__}>"

    def _leaf(self, value: str | bytes | bytearray) -> str:
        """Return text or bytes as a literal, cut."""
        cut = ascii(value[:_MAX_LEAF])
        return cut if len(value) <= _MAX_LEAF else f"{cut}{_CUT}({len(value):,})"

    def _items(
        self, items: Any, brackets: str, depth: int, *, call: bool = False
    ) -> str:
        """Return a sequence between brackets."""
        shown = [self.text(item, depth + 1) for item in items[:_MAX_ITEMS]]
        if len(items) > _MAX_ITEMS:
            shown.append(_CUT)
        inner = ", ".join(shown)
        if brackets == "()" and len(items) == 1 and not call:
            inner += ","
        return brackets[0] + inner + brackets[1]

    def _mapping(self, value: dict[Any, Any], depth: int) -> str:
        """Return a dictionary."""
        shown: list[str] = []
        for key, item in value.items():
            if len(shown) == _MAX_ITEMS:
                shown.append(_CUT)
                break
            shown.append(f"{self.text(key, depth + 1)}: {self.text(item, depth + 1)}")
        return "{" + ", ".join(shown) + "}"
