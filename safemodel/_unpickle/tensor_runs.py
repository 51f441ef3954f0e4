"""The call that rebuilds a tensor, thirty-odd opcodes, read in one step.

A shortcut as `text_runs` is one: it gives what the loop in `machine` would give for the
same bytes, or declines and leaves them to the loop; the tests run every pickle both
ways. It matches only puts into the next free memo slot, as picklers of protocol 1 to 3
write them: BINPUT for the first 256, LONG_BINPUT from there on.
"""

from __future__ import annotations

import re
import sys
from array import array
from typing import Any

from safemodel._unpickle.nodes import Call, GlobalRef, TensorCall, TensorForm
from safemodel._unpickle.text_runs import LONG_PICKLE

_LITTLE_ENDIAN = sys.byteorder == "little"
_GET = rb"(?:h.|j....)"
_INT = rb"(?:K.|M..|J....)"
_PUT = rb"(?:q.|r....)"
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
_LAST_PUT = 14
"""Groups of the expression: the storage's key, and the memo slots in their order."""
_OPERATION = re.compile(rb"K.|M..|J....|h.|j....|.", re.DOTALL)
_VALUES = 9
_TUPLE_SIZES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_HOOKS = ("collections", "OrderedDict")
# The last opcodes are REDUCE, where the call is, and the put of its result.
_AFTER_REDUCE = 6
_MARK, _TUPLE, _NEWTRUE, _NEWFALSE = 0x28, 0x74, 0x88, 0x89
_BINGET, _LONG_BINGET, _BINPUT, _LONG_BINPUT = 0x68, 0x6A, 0x71, 0x72
_EARNED_FIRST = 1 << 12
# Bytes of a call that others are looked for; no tensor that torch can use takes more.
_WIDEST = 1 << 10
_LARGEST_STRETCH = 1 << 20
_STRETCH_OF_EARNED = 16


class NotReadError(Exception):
    """A pickle wants a value that a shortcut passed over; it is read again without."""


class _Skipped:
    """In a memo slot: what a shortcut did not make, because nobody asks for it."""


SKIPPED = _Skipped()
_SHORT_PUTS = b"".join(bytes((_BINPUT, slot)) for slot in range(256))
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

    def __init__(
        self, form: TensorForm, skipped: tuple[_Skipped, ...], width: int
    ) -> None:
        self.form = form
        self.skipped = skipped
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
        # Bytes of operands → what they push.
        self._decoded: dict[bytes, list[Any]] = {}
        # All operands but key and memo slots → form; None where it is not torch's.
        self._forms: dict[tuple[object, ...], TensorForm | None] = {}
        self._spelt: dict[tuple[TensorForm, int], _Spelt] = {}
        # Offset → spelling, key and first memo slot of a call found ahead.
        self._ahead: dict[int, tuple[_Spelt, str, int]] = {}
        self._rebuild: GlobalRef | None = None
        self._puts = _SHORT_PUTS
        self._long = len(data) >= LONG_PICKLE

    def forget(self) -> None:
        """Forget what memo slots held."""
        self._decoded.clear()
        self._forms.clear()
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
        operands = (head, where, view, put3 != b"", stride, put4 != b"", last)
        if operands in self._forms:
            form = self._forms[operands]
        else:
            form = self._forms[operands] = self._form(stack[-1], *operands)
        if form is None:
            return 0
        name = key.decode("ascii")
        stack[-1] = call = TensorCall(form, name, match.start(_LAST_PUT) - 1)
        self._calls.append(call)
        skipped = _SKIPPED_SLOTS[5 + (put3 != b"") + (put4 != b"")]
        self._memo += (name, *skipped, call)
        if self._long and put1[0] == _LONG_BINPUT and len(match[0]) <= _WIDEST:
            self._count(match, form, skipped, end)
        return match.end()

    def _count(
        self,
        match: re.Match[bytes],
        form: TensorForm,
        skipped: tuple[_Skipped, ...],
        end: int,
    ) -> None:
        """Note a call; look for others that are spelled as it is, once that pays."""
        at, start = match.span()
        key = slice(match.start(_KEY) - at, match.end(_KEY) - at)
        spelt = self._spelt.get((form, key.stop))
        if spelt is None:
            spelt = _Spelt(form, skipped, start - at)
            self._spelt[form, key.stop] = spelt
        spelt.earned += spelt.width
        if spelt.earned < _EARNED_FIRST or at < spelt.looked:
            return
        from safemodel._unpickle.windows import Spelling, calls_like

        puts = [match.start(group) - at for group in _PUTS if match[group]]
        stretch = min(_LARGEST_STRETCH, spelt.earned * _STRETCH_OF_EARNED)
        stop = min(end, start + stretch)
        spelling = Spelling(match[0], key, tuple(puts))
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
        """Say whether puts fill the next free memo slots in order."""
        slots = len(self._memo)
        first = slots * 2 if slots < 256 else slots * 5 - 768
        if first + len(puts) > len(self._puts):
            self._extend_puts(slots)
        return self._puts[first : first + len(puts)] == puts

    def _extend_puts(self, slots: int) -> None:
        """Spell out the puts of twice as many slots as are in use."""
        count = max(1024, slots * 2) - 256
        raw = array("I", range(256, 256 + count)).tobytes()
        puts = bytearray(b"r" * (count * 5))
        for byte in range(4):
            puts[byte + 1 :: 5] = raw[byte if _LITTLE_ENDIAN else 3 - byte :: 4]
        self._puts = _SHORT_PUTS + puts

    def _form(
        self,
        target: GlobalRef,
        head: bytes,
        where: bytes,
        view: bytes,
        shape_is_put: bool,
        stride: bytes,
        stride_is_put: bool,
        last: bytes,
    ) -> TensorForm | None:
        """Decode operands not seen before; None if they are not what torch writes."""
        values = [
            value
            for part in (head, where, view, stride, last)
            for value in self._values(part)
        ]
        if len(values) != _VALUES:
            return None
        (tag, storage_class, location, numel, offset, shape, steps, requires_grad,
         hooks) = values  # fmt: skip
        if (
            type(storage_class) is not GlobalRef
            or tag != "storage"
            or type(location) is not str
            or type(shape) is not tuple
            or type(steps) is not tuple
            # An empty tuple is never put in the memo, any other always is.
            or shape_is_put is (shape == ())
            or stride_is_put is (steps == ())
            or type(hooks) is not GlobalRef
            or (hooks.module, hooks.name) != _HOOKS
        ):
            return None
        return TensorForm(
            target, storage_class, location, numel, offset, shape, steps, requires_grad
        )

    def _values(self, operations: bytes) -> list[Any]:
        """Return what some opcodes push; what cannot be right for one that is odd."""
        known = self._decoded.get(operations)
        if known is None:
            known = self._decoded[operations] = self._pushed(operations)
        return known

    def _pushed(self, operations: bytes) -> list[Any]:
        values: list[Any] = []
        mark = -1
        for operation in _OPERATION.findall(operations):
            code = operation[0]
            if code == _MARK:
                mark = len(values)
            elif code == _TUPLE or code in _TUPLE_SIZES:
                count = _TUPLE_SIZES.get(code, len(values) - mark)
                if (mark < 0) is (code == _TUPLE) or count > len(values):
                    return []
                first = len(values) - count
                values[first:] = [tuple(values[first:])]
                mark = -1
            elif code in (_NEWTRUE, _NEWFALSE):
                values.append(code == _NEWTRUE)
            elif code in (_BINGET, _LONG_BINGET):
                values.append(self._fetch(operation))
            else:
                signed = operation[:1] == b"J"
                values.append(int.from_bytes(operation[1:], "little", signed=signed))
        return values

    def _fetch(self, get: bytes) -> Any:
        """Return the value of a memo slot; None where there is none."""
        slot = int.from_bytes(get[1:], "little")
        return self._memo[slot] if slot < len(self._memo) else None
