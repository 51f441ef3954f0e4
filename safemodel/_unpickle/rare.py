"""The state of one run of the machine, and the opcodes too rare for its loop.

The rules are those of `machine`; only `machine` may use this module.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from safemodel._unpickle import opcodes as op
from safemodel._unpickle.keys import KeyGuard
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
    TensorCall,
)
from safemodel._unpickle.operands import (
    check_name,
    decode_float_line,
    decode_int_line,
    decode_integer,
    decode_long_line,
    decode_quoted,
    decode_raw_unicode,
    decode_utf8,
    text_line,
)
from safemodel._unpickle.parsed import Pickle
from safemodel._unpickle.tensor_runs import SKIPPED, NotReadError, TensorRuns
from safemodel._unpickle.text_runs import TextRuns
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenOpcodeError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    TruncatedFileError,
    UnsupportedFormatError,
)

if TYPE_CHECKING:
    from safemodel.limits import Limits

_UINT32 = Struct("<I").unpack_from
_INT32 = Struct("<i").unpack_from
_UINT64 = Struct("<Q").unpack_from

_UINT8 = Struct("<B").unpack_from

FROM_MARK = frozenset({op.LIST, op.DICT, op.ADDITEMS, op.FROZENSET, op.INST, op.OBJ})
_TEXT_LINES = frozenset(
    {op.INT, op.LONG, op.FLOAT, op.STRING, op.UNICODE, op.PERSID, op.GET, op.PUT}
)
_OUTSIDE = frozenset({op.EXT1, op.EXT2, op.EXT4, op.NEXT_BUFFER})
_COUNTED = {
    op.LONG1: (1, _UINT8),
    op.LONG4: (4, _INT32),
    op.BINSTRING: (4, _INT32),
    op.SHORT_BINSTRING: (1, _UINT8),
    op.BINUNICODE8: (8, _UINT64),
    op.BINBYTES: (4, _UINT32),
    op.SHORT_BINBYTES: (1, _UINT8),
    op.BINBYTES8: (8, _UINT64),
    op.BYTEARRAY8: (8, _UINT64),
}
_OPERAND_BYTES = {
    op.BINPUT: 1,
    op.BININT1: 1,
    op.PROTO: 1,
    op.SHORT_BINUNICODE: 1,
    op.BININT2: 2,
    op.LONG_BINPUT: 4,
    op.BININT: 4,
    op.BINUNICODE: 4,
    op.BINFLOAT: 8,
    op.FRAME: 8,
} | {code: width for code, (width, _) in _COUNTED.items()}


class _NeverSet:
    """Fills skipped memo slots. No later stage knows it, so none accepts it."""


_NEVER_SET = _NeverSet()


class RareOpcodes:
    """The state of one run, and every opcode that is not worth a place in the loop."""

    def __init__(
        self,
        data: bytes,
        start: int,
        limits: Limits,
        encoding: str,
        errors: str,
        *,
        shortcuts: bool,
    ) -> None:
        self.data = data
        self.start = start
        self.limits = limits
        self.encoding = encoding
        self.errors = errors
        self.guard = KeyGuard(limits)
        self.pickle = Pickle()
        self.pickle.start = start
        self.interned: dict[tuple[str, str], GlobalRef] = {}
        self.memo: list[Any] = []
        self.frame_end = 0
        self.shortcuts = shortcuts
        self.within = False  # an array of objects, which joblib puts between opcodes
        self.tensors = TensorRuns(data, self.memo, self.pickle.calls)
        self.texts = TextRuns(data, self.memo, limits.max_key_bytes)

    def missing(self, at: int, pos: int) -> MalformedFileError:
        """Say which of three things an opcode did not find."""
        size = len(self.data)
        code = self.data[at] if at < size else 0
        if pos >= size:
            return TruncatedFileError(
                "pickle without end", needed=pos + 1, available=size, position=at
            )
        if code in (op.BINGET, op.LONG_BINGET, op.GET):
            return MalformedFileError("a memo slot that was never set", position=at)
        if code in _OPERAND_BYTES and at + 1 + _OPERAND_BYTES[code] > size:
            return TruncatedFileError(
                op.OPCODE_NAMES[code],
                needed=1 + _OPERAND_BYTES[code],
                available=size - at,
                position=at,
            )
        return MalformedFileError("the stack or the marks run out", position=at)

    def put(self, index: int, value: object, at: int) -> None:
        """Store into the memo out of turn; rule 4 bounds the gap."""
        memo = self.memo
        if index < 0:
            raise MalformedFileError(f"memo slot {index}")
        # Not all of the data: many pickles may follow each other in it.
        allowed = at - self.start
        if index > allowed:
            raise LimitExceededError("memo index", allowed=allowed, requested=index)
        if index >= len(memo):
            memo.extend([_NEVER_SET] * (index + 1 - len(memo)))
        self.tensors.forget()
        memo[index] = value

    def fetch(self, index: int) -> object:
        """Return a memo slot that a shortcut may have passed over."""
        value: object = self.memo[index]
        if value is SKIPPED:
            raise NotReadError
        return value

    def text(self, raw: bytes, length: int) -> str:
        """Decode text that is not plain UTF-8, or not all there."""
        if len(raw) < length:
            raise TruncatedFileError("text", needed=length, available=len(raw))
        return decode_utf8(raw)

    def persistent(self, pid: object, at: int) -> PersistentRef:
        """Record a persistent id; only plain kinds, so that none can hold another."""
        if type(pid) is not tuple and type(pid) is not str and type(pid) is not int:
            raise MalformedFileError("a persistent id of no known kind")
        ref = PersistentRef(pid, at)
        self.pickle.persistent.append(ref)
        return ref

    def global_ref(self, module: object, name: object, at: int) -> GlobalRef:
        """Return the one record of a name. Rule 1: nothing is looked up."""
        if type(module) is not str or type(name) is not str:
            raise MalformedFileError("a global is named by something that is not text")
        ref = self.interned.get((module, name))
        if ref is None:
            check_name(module, name, self.limits)
            ref = self.interned[module, name] = GlobalRef(module, name, at)
            self.pickle.globals.append(ref)
        return ref

    def set_items(self, target: object, items: list[Any]) -> None:
        """SETITEM and SETITEMS: keys and values, alternating."""
        if len(items) & 1:
            raise MalformedFileError("a key without a value")
        if type(target) is dict:
            keys = items[::2]
            self.guard.check(target, keys)
            target.update(zip(keys, items[1::2], strict=True))
        elif type(target) is Call:
            if target.pairs is None:
                target.pairs = items
            else:
                target.pairs += items
        else:
            raise self.wrong_target("items are set on", target)

    def append_all(self, target: object, items: list[Any]) -> None:
        """APPEND and APPENDS."""
        if type(target) is list:
            target += items
        elif type(target) is Call:
            if target.elements is None:
                target.elements = items
            else:
                target.elements += items
        else:
            raise self.wrong_target("items are appended to", target)

    def add_items(self, target: object, items: list[Any]) -> None:
        """ADDITEMS."""
        if type(target) is not SetNode and type(target) is not Call:
            raise self.wrong_target("items are added to", target)
        if target.elements is None:
            target.elements = items
        else:
            target.elements += items

    def build(self, target: object, state: object) -> None:
        """BUILD: record the state, once."""
        if type(target) is not Call:
            raise self.wrong_target("a state is given to", target)
        if target.state is not UNCHECKED:
            raise MalformedFileError("a second state for the same object")
        target.state = state
        self.pickle.calls.append(target)

    def wrong_target(self, what: str, target: object) -> SafeModelError:
        """Rule 2: say what an opcode tried to change."""
        if type(target) is TensorCall:
            raise NotReadError
        if type(target) is GlobalRef:
            return ForbiddenCallError(
                f"{target.module}.{target.name}",
                f"{what} a global, which would edit it",
            )
        return MalformedFileError(f"{what} a {type(target).__name__}")

    def frame(self, at: int) -> int:
        """FRAME: return where it ends."""
        size = len(self.data)
        (length,) = _UINT64(self.data, at + 1)
        if at < self.frame_end:
            raise MalformedFileError("a frame within a frame")
        if at + 9 + length > size:
            raise TruncatedFileError("frame", needed=length, available=size - at - 9)
        self.frame_end = at + 9 + length
        return self.frame_end

    def from_mark(self, code: int, at: int, stack: list[Any], items: list[Any]) -> int:
        """Run an opcode that takes all down to the mark; return the next position."""
        pos = at + 1
        if code == op.LIST:
            stack.append(items)
        elif code == op.DICT:
            stack.append({})
            self.set_items(stack[-1], items)
        elif code == op.ADDITEMS:
            self.add_items(stack[-1], items)
        elif code == op.FROZENSET:
            stack.append(FrozenSetNode(tuple(items)))
        else:
            if code == op.INST:
                target, pos = self.global_line(at)
            else:
                target = items.pop(0)
            call = Call(target, tuple(items), code, at)
            stack.append(call)
            self.pickle.calls.append(call)
        return pos

    def global_line(self, at: int) -> tuple[GlobalRef, int]:
        """Read the two lines of GLOBAL or INST."""
        module, pos = text_line(self.data, at + 1)
        name, pos = text_line(self.data, pos)
        return self.global_ref(decode_utf8(module), decode_utf8(name), at), pos

    def rare(self, code: int, at: int, stack: list[Any]) -> int:
        """Run an opcode that is not worth a place in the loop."""
        if code == op.GLOBAL:
            ref, pos = self.global_line(at)
            stack.append(ref)
            return pos
        if code in _TEXT_LINES:
            line, pos = text_line(self.data, at + 1)
            self.line(code, line, at, stack)
            return pos
        if code in _COUNTED:
            return self.counted(code, at, stack)
        if code == op.PROTO:
            version = self.data[at + 1]
            if version > op.HIGHEST_PROTOCOL:
                raise UnsupportedFormatError(f"pickle protocol {version}")
            if at != self.start:
                raise MalformedFileError("PROTO after the beginning")
            return at + 2
        if code == op.EMPTY_SET:
            stack.append(SetNode())
        elif code == op.DUP:
            stack.append(stack[-1])
        elif code == op.NEWOBJ_EX:
            self.new_with_keywords(at, stack)
        elif code == op.READONLY_BUFFER:
            if type(stack[-1]) not in (bytes, bytearray):
                raise self.wrong_target("READONLY_BUFFER on", stack[-1])
        elif code in _OUTSIDE:
            raise ForbiddenOpcodeError(op.OPCODE_NAMES[code], position=at)
        else:
            raise MalformedFileError(f"0x{code:02x} is not an opcode")
        return at + 1

    def new_with_keywords(self, at: int, stack: list[Any]) -> None:
        """NEWOBJ_EX."""
        keywords, args = stack.pop(), stack.pop()
        if type(args) is not tuple or type(keywords) is not dict:
            raise MalformedFileError("the arguments are not a tuple and a dictionary")
        stack[-1] = call = Call(stack[-1], args, op.NEWOBJ_EX, at, keywords)
        self.pickle.calls.append(call)

    def line(self, code: int, line: bytes, at: int, stack: list[Any]) -> None:
        """Run an opcode whose operand is a line of text."""
        limits = self.limits
        if code == op.INT:
            stack.append(decode_int_line(line, limits))
        elif code == op.LONG:
            stack.append(decode_long_line(line, limits))
        elif code == op.FLOAT:
            stack.append(decode_float_line(line))
        elif code == op.STRING:
            stack.append(self.old_string(decode_quoted(line)))
        elif code == op.UNICODE:
            self.note_length(len(line))
            stack.append(decode_raw_unicode(line))
        elif code == op.PERSID:
            stack.append(self.persistent(decode_utf8(line), at))
        elif code == op.GET:
            index = decode_integer(line, limits)
            if index < 0:
                raise MalformedFileError("a memo slot that was never set")
            stack.append(self.fetch(index))
        else:
            self.put(decode_integer(line, limits), stack[-1], at)

    def counted(self, code: int, at: int, stack: list[Any]) -> int:
        """Run an opcode whose operand starts with its own length."""
        width, unpack = _COUNTED[code]
        (length,) = unpack(self.data, at + 1)
        start = at + 1 + width
        available = len(self.data) - start
        if length < 0:
            raise MalformedFileError(f"a length of {length}")
        if length > available:
            raise TruncatedFileError(
                op.OPCODE_NAMES[code], needed=length, available=available
            )
        if code in (op.LONG1, op.LONG4):
            if length > self.limits.max_integer_bytes:
                raise LimitExceededError(
                    "max_integer_bytes",
                    allowed=self.limits.max_integer_bytes,
                    requested=length,
                )
        else:
            self.note_length(length)
        raw = self.data[start : start + length]
        value: object = raw
        if code in (op.LONG1, op.LONG4):
            value = int.from_bytes(raw, "little", signed=True)
        elif code in (op.BINSTRING, op.SHORT_BINSTRING):
            value = self.old_string(raw)
        elif code == op.BINUNICODE8:
            value = decode_utf8(raw)
        elif code == op.BYTEARRAY8:
            value = bytearray(raw)
        stack.append(value)
        end: int = start + length
        return end

    def note_length(self, length: int) -> None:
        """Tell the guard that text or bytes may be too long for a key."""
        if length > self.limits.max_key_bytes:
            self.guard.has_long_text = True

    def old_string(self, raw: bytes) -> str | bytes:
        """Decode a Python 2 string; bytes where it is not text in that encoding.

        torch raises there and asks for another `encoding`; keeping the bytes loses
        nothing and needs no second attempt.
        """
        self.note_length(len(raw))
        if self.encoding == "bytes":
            return raw
        try:
            return raw.decode(self.encoding, self.errors)
        except UnicodeError:
            return raw
