"""Two sequences of opcodes that fill large checkpoints, read in one step each.

A shortcut does exactly what the loop in `machine` would do with the same bytes, or
declines and leaves them to the loop; the tests run every pickle both ways. They
exist for speed alone: `unpickle(..., shortcuts=False)` must give the same result.

Both match only LONG_BINPUT with the next free memo slot, which is what every pickler
writes after its first 256 values.
"""

from __future__ import annotations

import re
import sys
from array import array
from struct import Struct
from typing import Any

from safemodel._unpickle.nodes import Call, GlobalRef, PersistentRef

# LONG_BINPUT, index, opcode, its operand, opcode, its operand.
_PUT_THEN_TWO = Struct("<BIBIBI").unpack_from
_PUT_THEN_TWO_BYTES = 15
_UINT32 = Struct("<I").unpack_from


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
        after = start + length
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
            push(operand if operand < 0x80000000 else operand - 0x100000000)
            pos = after + 10
            if following != 0x58:
                return pos
        elif code == 0x58:  # BINUNICODE
            pos = after + 5
            length = operand
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


_GET = rb"(?:h.|j....)"
_INT = rb"(?:K.|M..|J....)"
_PUT = rb"r...."
_TUPLE_OF_INTS = rb"(\(?" + _INT + rb"*[\x85-\x87t)])((?:" + _PUT + rb")?)"
# What torch.save writes for a tensor whose storage no earlier tensor used:
# rebuild(persistent(("storage", class, key, location, numel)), offset, shape, stride,
# requires_grad, OrderedDict()).  Every opcode's length follows from its first byte,
# so there is one way to match and no backtracking to speak of.
_TENSOR = re.compile(
    rb"\(\((" + _GET + _GET + rb")X(.)\0\0\0([0-9]{1,9})(" + _PUT + rb")"
    rb"(" + _GET + rb")(" + _INT + rb")t(" + _PUT + rb")Q"
    rb"(" + _INT + rb")" + _TUPLE_OF_INTS + _TUPLE_OF_INTS +
    rb"([\x88\x89])(" + _GET + rb")\)R(" + _PUT + rb")t(" + _PUT + rb")R(" + _PUT
    + rb")",
    re.DOTALL,
)  # fmt: skip
_ONE_INT = re.compile(_INT, re.DOTALL)
_ONE_GET = re.compile(_GET, re.DOTALL)
_TUPLE_SIZES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}


def _integer(operation: bytes) -> int:
    """Return the operand of BININT, BININT1 or BININT2."""
    return int.from_bytes(operation[1:], "little", signed=operation[0] == 0x4A)


def _tuple_of_ints(operations: bytes) -> tuple[int, ...] | None:
    """Return the tuple these opcodes make; None if they make something else."""
    marked = operations[0] == 0x28
    found = tuple(map(_integer, _ONE_INT.findall(operations[marked:-1])))
    if marked:
        return found if operations[-1] == 0x74 and found else None
    return found if _TUPLE_SIZES.get(operations[-1]) == len(found) else None


class TensorShortcut:
    """Reads the calls that rebuild tensors, for one pickle.

    Operands repeat from tensor to tensor, so what they decode to is kept by their
    bytes. Values from the memo are kept as well; `forget` drops those when a slot is
    written again.
    """

    def __init__(
        self,
        memo: list[Any],
        calls: list[Call],
        persistent: list[PersistentRef],
    ) -> None:
        self._memo = memo
        self._calls = calls
        self._persistent = persistent
        self._tuples: dict[bytes, tuple[int, ...] | None] = {}
        self._integers: dict[bytes, int] = {}
        self._fetched: dict[bytes, tuple[Any, ...]] = {}
        self._puts = b""

    def forget(self) -> None:
        """Forget what memo slots held."""
        self._fetched.clear()

    def read(self, data: bytes, at: int, end: int, stack: list[Any]) -> int:
        """Read one call whose two MARKs are at an offset; 0 if it is not one."""
        match = _TENSOR.match(data, at, end)
        if match is None:
            return 0
        (head, length, key, put1, where, numel, put2, offset, shape, put3, stride, put4,
         grad, hooks, put5, put6, put7) = match.groups()  # fmt: skip
        memo = self._memo
        puts = b"".join((put1, put2, put3, put4, put5, put6, put7))
        first = len(memo) * 5
        if self._expected(first, len(puts)) != puts or len(key) != length[0]:
            return 0
        if not stack:
            return 0
        try:
            shape_tuple = self._tuples[shape]
            stride_tuple = self._tuples[stride]
            integers = self._integers
            numel_int, offset_int = integers[numel], integers[offset]
            tag, storage_class = self._fetched[head]
            (location,) = self._fetched[where]
            (ordered_dict,) = self._fetched[hooks]
        except KeyError:
            if not self._learn(shape, stride, numel, offset, head, where, hooks):
                return 0
            return self.read(data, at, end, stack)
        if shape_tuple is None or stride_tuple is None:
            return 0
        # An empty tuple is never put in the memo, any other always is.
        if (not put3) is not (not shape_tuple) or (not put4) is not (not stride_tuple):
            return 0
        name = key.decode("ascii")
        pid = (tag, storage_class, name, location, numel_int)
        storage = PersistentRef(pid, match.end(7))
        no_hooks = Call(ordered_dict, (), 0x52, match.end(14) + 1)
        args = (
            storage, offset_int, shape_tuple, stride_tuple, grad == b"\x88", no_hooks,
        )  # fmt: skip
        call = Call(stack[-1], args, 0x52, match.end(16))
        remember = memo.append
        remember(name)
        remember(pid)
        if put3:
            remember(shape_tuple)
        if put4:
            remember(stride_tuple)
        memo += (no_hooks, args, call)
        self._calls += (no_hooks, call)
        self._persistent.append(storage)
        stack[-1] = call
        return match.end()

    def _expected(self, first: int, size: int) -> bytes:
        """Return the LONG_BINPUT opcodes of the next free memo slots."""
        if first + size > len(self._puts):
            # Twice as many slots as needed, so that this runs seldom.
            count = max(1024, (first + size) * 2 // 5)
            indices = array("I", range(count))
            if sys.byteorder == "big":
                indices.byteswap()
            raw = indices.tobytes()
            puts = bytearray(b"r" * (count * 5))
            for byte in range(4):
                puts[byte + 1 :: 5] = raw[byte::4]
            self._puts = bytes(puts)
        return self._puts[first : first + size]

    def _learn(
        self, shape: bytes, stride: bytes, numel: bytes, offset: bytes, *gets: bytes
    ) -> bool:
        """Decode operands not seen before; say whether all of them can be."""
        for operations in (shape, stride):
            self._tuples[operations] = _tuple_of_ints(operations)
        for operation in (numel, offset):
            self._integers[operation] = _integer(operation)
        for operations in gets:
            slots = [
                int.from_bytes(get[1:], "little")
                for get in _ONE_GET.findall(operations)
            ]
            if max(slots) >= len(self._memo):
                return False
            self._fetched[operations] = tuple(self._memo[slot] for slot in slots)
        ordered_dict = self._fetched[gets[-1]][0]
        return type(ordered_dict) is GlobalRef
