"""The call that rebuilds a tensor, thirty-odd opcodes, read in one step.

A shortcut as `text_runs` is one: it gives what the loop in `machine` would give for the
same bytes, or declines and leaves them to the loop; the tests run every pickle both
ways. It matches only LONG_BINPUT with the next free memo slot.
"""

from __future__ import annotations

import re
import sys
from array import array
from typing import TYPE_CHECKING, Any

from safemodel._unpickle.nodes import Call, GlobalRef, TensorCall, TensorForm
from safemodel._unpickle.text_runs import LONG_PICKLE

if TYPE_CHECKING:
    from safemodel._unpickle.windows import Spelling

_LITTLE_ENDIAN = sys.byteorder == "little"
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
_KEY = 3
_PUTS = (4, 6, 8, 10, 12, 13, 14)
"""Groups of the expression: the storage's key, and the memo slots in their order."""
_OPERATION = re.compile(rb"K.|M..|J....|h.|j....|.", re.DOTALL)
_TUPLE_SIZES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_HOOKS = ("collections", "OrderedDict")
# The last opcodes are REDUCE, where the call is, and the put of its result.
_AFTER_REDUCE = 6
_EARNED_FIRST = 1 << 12
_LARGEST_STRETCH = 1 << 20
_STRETCH_OF_EARNED = 16


class NotReadError(Exception):
    """A pickle wants a value that a shortcut passed over; it is read again without."""


class _Skipped:
    """In a memo slot: what a shortcut did not make, because nobody asks for it."""


SKIPPED = _Skipped()
# By how many slots the sequence fills: all but the storage's key and the tensor.
_SKIPPED_SLOTS = {count: (SKIPPED,) * (count - 2) for count in range(5, 8)}


class _Spelt:
    """One form of call in one spelling, and how often that was met.

    Attributes:
        form: What such calls have in common.
        skipped: What fills their memo slots but the first and the last.
        width: Bytes of one such call.
        earned: Bytes that calls of this spelling have filled.
        looked: Where looking for more of them ended.
    """

    __slots__ = ("earned", "form", "looked", "skipped", "width")

    def __init__(self, form: TensorForm, slots: int, width: int) -> None:
        self.form = form
        self.skipped = _SKIPPED_SLOTS[slots]
        self.width = width
        self.earned = 0
        self.looked = 0


class TensorRuns:
    """Reads the calls that rebuild tensors, for one pickle.

    Operands repeat from tensor to tensor, so what they decode to is kept by their
    bytes. Values from the memo are kept as well; `forget` drops those when a slot is
    written again. Values that only this call uses are not made at all: their memo
    slots hold `SKIPPED`, and whoever fetches one gets `NotReadError`.

    In a long pickle a spelling that has been met often is looked for ahead (`windows`),
    in a stretch at most sixteen times as long as what it has filled, so that looking
    never costs more than reading has.
    """

    def __init__(
        self, data: bytes, memo: list[Any], calls: list[Call | TensorCall]
    ) -> None:
        self._data = data
        self._memo = memo
        self._calls = calls
        # Operand bytes, without key and memo slots → spelling; None where it is not
        # what torch writes.
        self._spelt: dict[tuple[object, ...], _Spelt | None] = {}
        # Offset → spelling, key and first memo slot of a call found ahead.
        self._ahead: dict[int, tuple[_Spelt, str, int]] = {}
        self._rebuild: GlobalRef | None = None
        self._puts = b""
        self._long = len(data) >= LONG_PICKLE

    def forget(self) -> None:
        """Forget what memo slots held."""
        self._spelt.clear()
        self._ahead.clear()
        self._rebuild = None

    def read(self, at: int, end: int, stack: list[Any]) -> int:
        """Read one call whose two MARKs are at an offset; 0 if it is not one."""
        ahead = self._ahead.pop(at, None)
        memo = self._memo
        if ahead is None or ahead[2] != len(memo) or at + ahead[0].width > end:
            return self._match(at, end, stack)
        if not stack or stack[-1] is not self._rebuild:
            return 0
        spelt, key, _ = ahead
        after = at + spelt.width
        stack[-1] = call = TensorCall(spelt.form, key, after - _AFTER_REDUCE)
        self._calls.append(call)
        # The key is fetched again by every other tensor of the same storage.
        memo.append(key)
        memo += spelt.skipped
        memo.append(call)
        return after

    def _match(self, at: int, end: int, stack: list[Any]) -> int:
        """Read one call by the expression; 0 if it is not one."""
        match = _TENSOR.match(self._data, at, end)
        if match is None:
            return 0
        (head, length, key, put1, where, put2, view, put3, stride, put4, last, put5,
         put6, put7) = match.groups()  # fmt: skip
        puts = put1 + put2 + put3 + put4 + put5 + put6 + put7
        if len(key) != length[0] or not self._are_next(puts):
            return 0
        if not stack or (
            stack[-1] is not self._rebuild and not self._is_rebuild(stack)
        ):
            return 0
        operands = (head, length, where, view, put3 != b"", stride, put4 != b"", last)
        if operands in self._spelt:
            spelt = self._spelt[operands]
        else:
            form = self._form(stack[-1], *operands)
            width = match.end() - at
            spelt = None if form is None else _Spelt(form, len(puts) // 5, width)
            self._spelt[operands] = spelt
        if spelt is None:
            return 0
        name = key.decode("ascii")
        stack[-1] = call = TensorCall(spelt.form, name, match.end() - _AFTER_REDUCE)
        self._calls.append(call)
        self._memo += (name, *spelt.skipped, call)
        if self._long:
            spelt.earned += spelt.width
            if spelt.earned >= _EARNED_FIRST and at >= spelt.looked:
                self._look(match, spelt, end)
        return match.end()

    def _look(self, match: re.Match[bytes], spelt: _Spelt, end: int) -> None:
        """Find the calls behind one that are spelled as it is."""
        from safemodel._unpickle.windows import Spelling, calls_like

        at, start = match.start(), match.end()
        key = slice(match.start(_KEY) - at, match.end(_KEY) - at)
        puts = [match.start(group) - at for group in _PUTS if match[group]]
        spelling: Spelling = Spelling(match[0], key, tuple(puts))
        stretch = min(_LARGEST_STRETCH, spelt.earned * _STRETCH_OF_EARNED)
        stop = min(end, start + stretch)
        found = calls_like(self._data, start, stop, spelling)
        for place, name, slot in found:
            self._ahead[place] = (spelt, name, slot)
        filled = len(found) * spelt.width
        if filled * _STRETCH_OF_EARNED < stretch:
            spelt.earned = 0
        spelt.earned += filled
        spelt.looked = stop - spelt.width

    def _is_rebuild(self, stack: list[Any]) -> bool:
        """Say whether the function that is called is the one that rebuilds tensors."""
        target = stack[-1]
        if type(target) is GlobalRef and (target.module, target.name) == _REBUILD:
            # There is one record of a name in a pickle.
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

    def _form(
        self,
        target: GlobalRef,
        head: bytes,
        _length: bytes,
        where: bytes,
        view: bytes,
        shape_is_put: bool,
        stride: bytes,
        stride_is_put: bool,
        last: bytes,
    ) -> TensorForm | None:
        """Decode operands not seen before; None if they are not what torch writes."""
        tag, storage_class = map(self._fetch, _OPERATION.findall(head))
        get, count = _OPERATION.findall(where)
        location = self._fetch(get)
        offset, *sizes = _OPERATION.findall(view)
        shape = _tuple_of_ints(sizes)
        steps = _tuple_of_ints(_OPERATION.findall(stride))
        grad, get = _OPERATION.findall(last)
        hooks = self._fetch(get)
        if (
            type(storage_class) is not GlobalRef
            or tag != "storage"
            or type(location) is not str
            or shape is None
            or steps is None
            # An empty tuple is never put in the memo, any other always is.
            or shape_is_put is (shape == ())
            or stride_is_put is (steps == ())
            or type(hooks) is not GlobalRef
            or (hooks.module, hooks.name) != _HOOKS
        ):
            return None
        return TensorForm(
            target, storage_class, location, _operand(count), _operand(offset),
            shape, steps, grad == b"\x88",
        )  # fmt: skip

    def _fetch(self, get: bytes) -> Any:
        """Return the value of a memo slot; None where there is none."""
        slot = _operand(get)
        return self._memo[slot] if slot < len(self._memo) else None


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
