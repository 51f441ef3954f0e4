"""What the machine makes of one pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call, GlobalRef, PersistentRef, TensorCall


class Pickle:
    """One pickle, parsed.

    Attributes:
        root: The value STOP found.
        globals: Every global it names, in order, each once.
        calls: Every call, in order: what a call takes comes before it. A call whose
            result is given a state is listed twice: when made, and with its state.
        persistent: Every persistent id, in order.
        start: Offset of its first byte.
        end: Offset of the byte after STOP.
    """

    __slots__ = ("calls", "end", "globals", "persistent", "root", "start")

    def __init__(self) -> None:
        self.root: object = None
        self.globals: list[GlobalRef] = []
        self.calls: list[Call | TensorCall] = []
        self.persistent: list[PersistentRef] = []
        self.start = 0
        self.end = 0
