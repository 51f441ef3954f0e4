"""Two sequences of opcodes that fill large checkpoints, read in one step each.

A shortcut gives what the loop in `machine` would give for the same bytes, or declines
and leaves them to the loop; the tests run every pickle both ways. They exist for
speed alone: `unpickle(..., shortcuts=False)` must lead to the same result.

Both match only LONG_BINPUT with the next free memo slot, which is what every pickler
writes after its first 256 values.
"""

from __future__ import annotations

import re
import sys
from array import array
from struct import Struct
from typing import Any

from safemodel._unpickle.nodes import Call, GlobalRef, TensorCall

# LONG_BINPUT, index, opcode, its operand, opcode, its operand.
_PUT_THEN_TWO = Struct("<BIBiBI").unpack_from
_PUT_THEN_TWO_BYTES = 15
_UINT32 = Struct("<I").unpack_from
_LITTLE_ENDIAN = sys.byteorder == "little"


def text_run(
    data: bytes, pos: int, end: int, stack: list[Any], memo: list[Any], max_text: int
) -> int:
    """Read BINUNICODE LONG_BINPUT [integer], again and again: keys and values.

    Args:
        data: The pickle.
        pos: Offset of a BINUNICODE opcode.
        end: Where the frame or the pickle ends; nothing past it is read.
        stack: Receives the text and the integers.
        memo: Receives the text.
        max_text: Longest text, in bytes, that is handled here.

    Returns:
        Offset of the first opcode left to the loop; ``pos`` if it is that one.
    """
    push, remember, unpack = stack.append, memo.append, _PUT_THEN_TWO
    slot = len(memo)
    last = end - _PUT_THEN_TWO_BYTES
    (length,) = _UINT32(data, pos + 1)
    while True:
        start = pos + 5
        after: int = start + length
        if length > max_text or after > last:
            return pos
        try:
            text = data[start:after].decode()
        except UnicodeDecodeError:
            return pos
        put, index, code, operand, following, length = unpack(data, after)
        if put != 0x72 or index != slot:
            return pos
        slot += 1
        push(text)
        remember(text)
        if code == 0x4A:  # BININT
            push(operand)
            pos = after + 10
            if following != 0x58:
                return pos
            pos, length = _pair_run(data, pos, last, stack, memo, max_text)
            slot = len(memo)
        elif code == 0x58:  # BINUNICODE
            pos = after + 5
            length = operand & 0xFFFFFFFF
        elif code == 0x4D or code == 0x4B:  # BININT2, BININT1  # noqa: PLR1714
            if code == 0x4D:
                push(operand & 0xFFFF)
                pos = after + 8
            else:
                push(operand & 0xFF)
                pos = after + 7
            if data[pos] != 0x58:
                return pos
            (length,) = _UINT32(data, pos + 1)
        else:
            return after + 5


def _pair_run(
    data: bytes, pos: int, last: int, stack: list[Any], memo: list[Any], max_text: int
) -> tuple[int, int]:
    """Read BINUNICODE LONG_BINPUT BININT, again and again, as `text_run` would.

    Half a million entries are read here one by one, so whatever can be done once for
    many is: the longest text is looked for in windows no longer than it may be, and
    the memo gets its share of the stack at the end.

    Returns:
        Offset of the first BINUNICODE left, and the length it announces.
    """
    push, unpack = stack.append, _PUT_THEN_TWO
    base, slot = len(stack), len(memo)
    stop = min(last, pos + max_text)
    (length,) = _UINT32(data, pos + 1)
    try:
        while True:
            start = pos + 5
            after = start + length
            if after > stop:
                if after > last or length > max_text:
                    break
                stop = min(last, after + max_text)
            text = data[start:after].decode()
            put, index, code, operand, following, next_length = unpack(data, after)
            if put != 0x72 or index != slot or code != 0x4A or following != 0x58:
                break
            slot += 1
            push(text)
            push(operand)
            pos = after + 10
            length = next_length
    except UnicodeDecodeError:
        # `text_run` meets the same bytes again and leaves them to the loop.
        pass
    memo += stack[base::2]
    return pos, length


_GET = rb"(?:h.|j....)"
_INT = rb"(?:K.|M..|J....)"
_PUT = rb"r...."
_TUPLE_OF_INTS = rb"\(?" + _INT + rb"*[\x85-\x87t)]"
# What torch.save writes for a tensor whose storage no earlier tensor used:
# rebuild(persistent(("storage", class, key, location, numel)), offset, shape, stride,
# requires_grad, OrderedDict()).  Every opcode's length follows from its first byte,
# so there is one way to match and no backtracking to speak of.
_TENSOR = re.compile(
    rb"\(\((" + _GET + _GET + rb")X(.)\0\0\0([0-9]{1,9})(" + _PUT + rb")"
    rb"(" + _GET + _INT + rb")t(" + _PUT + rb")Q"
    rb"(" + _INT + _TUPLE_OF_INTS + rb")((?:" + _PUT + rb")?)"
    rb"(" + _TUPLE_OF_INTS + rb")((?:" + _PUT + rb")?)"
    rb"([\x88\x89]" + _GET + rb")\)R(" + _PUT + rb")t(" + _PUT + rb")R(" + _PUT
    + rb")",
    re.DOTALL,
)  # fmt: skip
_OPERATION = re.compile(rb"K.|M..|J....|h.|j....|.", re.DOTALL)
_TUPLE_SIZES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_HOOKS = ("collections", "OrderedDict")


class NotReadError(Exception):
    """A pickle wants a value that a shortcut passed over; it is read again without."""


class _Skipped:
    """In a memo slot: what a shortcut did not make, because nobody asks for it."""


SKIPPED = _Skipped()
# By how many slots the sequence fills: all but the storage's key and the tensor.
_SKIPPED_SLOTS = {count: (SKIPPED,) * (count - 2) for count in range(5, 8)}


def _operand(operation: bytes) -> int:
    """Return the operand of BININT, BININT1, BININT2, BINGET or LONG_BINGET."""
    signed = operation[:1] == b"J"
    value: int = int.from_bytes(operation[1:], "little", signed=signed)
    return value


def _tuple_of_ints(operations: list[bytes]) -> tuple[int, ...] | None:
    """Return the tuple these opcodes make; None if they make something else."""
    marked = operations[0] == b"("
    found = tuple(map(_operand, operations[marked:-1]))
    last = operations[-1][0]
    if marked:
        return found if last == 0x74 and found else None
    return found if _TUPLE_SIZES.get(last) == len(found) else None


class TensorShortcut:
    """Reads the calls that rebuild tensors, for one pickle.

    Operands repeat from tensor to tensor, so what they decode to is kept by their
    bytes. Values from the memo are kept as well; `forget` drops those when a slot is
    written again. Values that only this call uses are not made at all: their memo
    slots hold `SKIPPED`, and whoever fetches one gets `NotReadError`.
    """

    def __init__(self, memo: list[Any], calls: list[Call | TensorCall]) -> None:
        self._memo = memo
        self._calls = calls
        # Operand bytes → (storage class,), (location, count), (offset, shape),
        # (stride,), (requires_grad,); None where they are not what torch writes.
        self._decoded: dict[bytes, Any] = {}
        self._rebuild: GlobalRef | None = None
        self._puts = b""

    def forget(self) -> None:
        """Forget what memo slots held."""
        self._decoded.clear()

    def read(self, data: bytes, at: int, end: int, stack: list[Any]) -> int:
        """Read one call whose two MARKs are at an offset; 0 if it is not one."""
        match = _TENSOR.match(data, at, end)
        if match is None:
            return 0
        (head, length, key, put1, where, put2, view, put3, stride, put4, last, put5,
         put6, put7) = match.groups()  # fmt: skip
        memo = self._memo
        puts = put1 + put2 + put3 + put4 + put5 + put6 + put7
        if len(key) != length[0] or not self._are_next(puts):
            return 0
        decoded = self._decoded
        try:
            (storage_class,) = decoded[head]
            location, numel = decoded[where]
            offset, shape = decoded[view]
            (steps,) = decoded[stride]
            (requires_grad,) = decoded[last]
        except KeyError:
            self._learn(head, where, view, stride, last)
            return self.read(data, at, end, stack)
        except TypeError:
            # One of them is None.
            return 0
        # An empty tuple is never put in the memo, any other always is.
        if (put3 == b"") is (shape != ()) or (put4 == b"") is (steps != ()):
            return 0
        if not stack or (
            stack[-1] is not self._rebuild and not self._is_rebuild(stack)
        ):
            return 0
        name = key.decode("ascii")
        stack[-1] = call = TensorCall(
            stack[-1], storage_class, name, location, numel, offset,
            shape, steps, requires_grad, match.end() - 6,
        )  # fmt: skip
        self._calls.append(call)
        # The key is fetched again by every other tensor of the same storage.
        memo.append(name)
        memo += _SKIPPED_SLOTS[len(puts) // 5]
        memo.append(call)
        return match.end()

    def _is_rebuild(self, stack: list[Any]) -> bool:
        """Say whether the function that is called is the one that rebuilds tensors."""
        target = stack[-1]
        if type(target) is GlobalRef and (target.module, target.name) == _REBUILD:
            self._rebuild = target
            return True
        return False

    def _are_next(self, puts: bytes) -> bool:
        """Say whether LONG_BINPUT opcodes fill the next free memo slots in order."""
        first = len(self._memo) * 5
        if first + len(puts) > len(self._puts):
            self._extend_puts(len(self._memo))
        return self._puts[first : first + len(puts)] == puts

    def _extend_puts(self, slots: int) -> None:
        """Spell out the LONG_BINPUT opcodes of twice as many slots as are in use."""
        count = max(1024, slots * 2)
        raw = array("I", range(count)).tobytes()
        puts = bytearray(b"r" * (count * 5))
        for byte in range(4):
            puts[byte + 1 :: 5] = raw[byte if _LITTLE_ENDIAN else 3 - byte :: 4]
        self._puts = bytes(puts)

    def _learn(
        self, head: bytes, where: bytes, view: bytes, stride: bytes, last: bytes
    ) -> None:
        """Decode operands not seen before, as far as they are what torch writes."""
        decoded = self._decoded
        tag, storage_class = map(self._fetch, _OPERATION.findall(head))
        plain = type(storage_class) is GlobalRef and tag == "storage"
        decoded[head] = (storage_class,) if plain else None
        get, count = _OPERATION.findall(where)
        location = self._fetch(get)
        decoded[where] = (location, _operand(count)) if type(location) is str else None
        offset, *sizes = _OPERATION.findall(view)
        shape = _tuple_of_ints(sizes)
        decoded[view] = None if shape is None else (_operand(offset), shape)
        steps = _tuple_of_ints(_OPERATION.findall(stride))
        decoded[stride] = None if steps is None else (steps,)
        grad, get = _OPERATION.findall(last)
        hooks = self._fetch(get)
        empty = type(hooks) is GlobalRef and (hooks.module, hooks.name) == _HOOKS
        decoded[last] = (grad == b"\x88",) if empty else None

    def _fetch(self, get: bytes) -> Any:
        """Return the value of a memo slot; None where there is none."""
        slot = _operand(get)
        return self._memo[slot] if slot < len(self._memo) else None
