"""The pickle of a written file, read back as inert values; nothing in it is called.

1. `pickletools` splits it into opcodes. This module knows the two dozen of the writer,
   and a small stack for them; any other opcode is an error.
2. A global is one of a fixed list, spelt byte for byte as the writer spells it.
3. The memo is filled slot by slot: no slot is given twice, none is left out.
4. Time and memory are linear in the length of the pickle; nothing recurses.

None, bool, int, float, str, list and tuple are themselves. A tuple that was built twice
is two tuples, so that what is shared can be told from what is only equal.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING, Any, NoReturn

from safemodel.errors import DisarmError

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERED_DICT = "collections OrderedDict"
FUNCTIONS = frozenset(
    {
        ORDERED_DICT,
        "torch._utils _rebuild_meta_tensor_no_storage",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_qtensor",
        "torch._utils _rebuild_sparse_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch.serialization _get_layout",
        "torch.storage UntypedStorage",
    }
)
"""All that a pickle names, beside constants of torch."""
_PROTOCOL = b"\x80\x02"
_PUSHED = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
_GETS = frozenset({"BINGET", "LONG_BINGET"})
_PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class ReadGlobal:
    """A global: the module and the name, with a space between them."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class ReadCall:
    """A call that was not made."""

    __slots__ = ("args", "function")

    def __init__(self, function: str, args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args


class ReadStorage:
    """A persistent id."""

    __slots__ = ("pid",)

    def __init__(self, pid: object) -> None:
        self.pid = pid


class ReadMapping:
    """A dictionary: keys and values in turn, as they were set, and a state if any."""

    __slots__ = ("items", "ordered", "state")

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.items: list[Any] = []
        self.state: object = None


def differs(what: str) -> NoReturn:
    """Raise the error of everything that reads otherwise."""
    raise DisarmError(f"what was written reads otherwise: {what}")


def read_pickle(data: bytes, constants: frozenset[str]) -> object:
    """Return the value of a pickle.

    Args:
        data: The pickle.
        constants: Globals it may name beside `FUNCTIONS`.

    Raises:
        DisarmError: It is not one that the writer could have written.
    """
    try:
        return _Machine(data, FUNCTIONS | constants).run()
    except (ValueError, IndexError) as error:
        # What pickletools cannot split; a stack or a memo that lacks something.
        differs(f"its pickle is none: {type(error).__name__}")


class _Machine:
    """Runs one pickle (rules 1 to 3)."""

    def __init__(self, data: bytes, known: frozenset[str]) -> None:
        self._data = data
        self._known = known
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what was on the stack before each mark

    def run(self) -> object:
        memo: list[Any] = []
        handlers, stack = _HANDLERS, self._stack
        position = None
        if not self._data.startswith(_PROTOCOL):
            differs("its pickle has no protocol of ours")
        for opcode, argument, position in pickletools.genops(self._data):
            name = opcode.name
            if name in _PUSHED:
                stack.append(argument)
            elif name in _GETS:
                stack.append(memo[argument])  # type: ignore[index]  # an int here
            elif name in _PUTS:
                if argument != len(memo):
                    differs(f"its pickle gives slot {argument} at {position}")
                memo.append(stack[-1])
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in handlers:
                handlers[name](self, argument, position or 0)
                stack = self._stack
            else:
                differs(f"its pickle has {name} at {position}")
        if position != len(self._data) - 1:
            differs("its pickle ends early")
        return stack[0]

    def _mark(self, _: object, __: int) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """Return what came after the last mark, and go back to what was before it."""
        marked, self._stack = self._stack, self._below.pop()
        return marked

    def _list(self, _: object, __: int) -> None:
        self._stack.append([])

    def _dict(self, _: object, __: int) -> None:
        self._stack.append(ReadMapping(ordered=False))

    def _tuple(self, _: object, __: int) -> None:
        marked, self._stack = self._stack, self._below.pop()
        self._stack.append(tuple(marked))

    def _tuple1(self, _: object, __: int) -> None:
        stack = self._stack
        stack[-1] = (stack[-1],)

    def _tuple2(self, _: object, __: int) -> None:
        stack = self._stack
        last = stack.pop()
        stack[-1] = (stack[-1], last)

    def _tuple3(self, _: object, __: int) -> None:
        stack = self._stack
        last, middle = stack.pop(), stack.pop()
        stack[-1] = (stack[-1], middle, last)

    def _set_items(self, _: object, at: int) -> None:
        items = self._marked()
        target = self._stack[-1]
        if type(target) is not ReadMapping or len(items) % 2:
            differs(f"its pickle sets items of no dictionary at {at}")
        target.items += items

    def _append(self, _: object, at: int) -> None:
        items = self._marked()
        target = self._stack[-1]
        if type(target) is not list:
            differs(f"its pickle appends to no list at {at}")
        target += items

    def _global(self, name: str, at: int) -> None:
        # pickletools reads escapes in names, as no unpickler does: compare the bytes.
        spelt = b"c%b\n" % name.replace(" ", "\n").encode()
        if name not in self._known or not self._data.startswith(spelt, at):
            differs(f"its pickle names {name!r} at {at}")
        self._stack.append(ReadGlobal(name))

    def _call(self, _: object, at: int) -> None:
        args, function = self._stack.pop(), self._stack[-1]
        if type(function) is not ReadGlobal or type(args) is not tuple:
            differs(f"its pickle calls what is no function at {at}")
        if function.name == ORDERED_DICT:
            if args:
                differs(f"its pickle makes an OrderedDict of something at {at}")
            self._stack[-1] = ReadMapping(ordered=True)
        else:
            self._stack[-1] = ReadCall(function.name, args)

    def _build(self, _: object, at: int) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is not ReadMapping or target.state is not None:
            differs(f"its pickle sets a state at {at}")
        target.state = state

    def _storage(self, _: object, __: int) -> None:
        self._stack[-1] = ReadStorage(self._stack[-1])

    def _protocol(self, _: object, at: int) -> None:
        if at:
            differs(f"its pickle has a protocol at {at}")

    def _stop(self, _: object, at: int) -> None:
        if self._below or len(self._stack) != 1:
            differs(f"its pickle leaves something at {at}")


_HANDLERS: dict[str, Callable[[_Machine, Any, int], None]] = {
    "MARK": _Machine._mark, "EMPTY_LIST": _Machine._list,
    "EMPTY_DICT": _Machine._dict, "TUPLE": _Machine._tuple,
    "TUPLE1": _Machine._tuple1, "TUPLE2": _Machine._tuple2,
    "TUPLE3": _Machine._tuple3, "SETITEMS": _Machine._set_items,
    "APPENDS": _Machine._append, "GLOBAL": _Machine._global,
    "REDUCE": _Machine._call, "BUILD": _Machine._build,
    "BINPERSID": _Machine._storage, "PROTO": _Machine._protocol,
    "STOP": _Machine._stop,
}  # fmt: skip
OPCODES = _PUSHED | _GETS | _PUTS | _CONSTANTS.keys() | _HANDLERS.keys()
"""All that a pickle of ours consists of."""
