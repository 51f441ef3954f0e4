"""The pickle machine: bytes in, inert nodes out.

Rules (numbers are cited where they are enforced):

1. Nothing the pickle names is imported, looked up or called. GLOBAL and its kin make
   a `GlobalRef`, calls make a `Call`.
2. Lists, tuples, dictionaries, text and numbers are real Python values; they are the
   only objects the machine changes, told apart by exact type. Whatever else APPEND,
   SETITEM or BUILD aims at is a `Call`, which records it, or malformed.
3. Keys are checked by `KeyGuard` before they are hashed.
4. A length is compared with the bytes that are there before anything is allocated;
   a memo index is at most the bytes read so far. One byte makes at most 100 bytes.
5. PROTO comes first or not at all, no opcode crosses the end of its frame, and STOP
   finds exactly one value and no open mark.
6. EXT1/2/4 and NEXT_BUFFER reach outside the file and are refused.

A pickle that breaks a rule raises `MalformedFileError` (`TruncatedFileError` where
bytes are missing), `LimitExceededError` or `ForbiddenOpcodeError`.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from safemodel._unpickle.joblib_arrays import bytes_behind, elements_of, is_wrapper, put
from safemodel._unpickle.nodes import Call
from safemodel._unpickle.rare import FROM_MARK, RareOpcodes
from safemodel._unpickle.tensor_runs import SKIPPED, NotReadError
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from safemodel._unpickle.parsed import Pickle

_UINT32 = Struct("<I").unpack_from
_INT32 = Struct("<i").unpack_from
_DOUBLE = Struct(">d").unpack_from
# Runs of text match LONG_BINPUT only, which starts behind this memo slot.
_FIRST_LONG_PUT = 255


class _Machine(RareOpcodes):
    """One run over one pickle."""

    # One function, because a call for each opcode would cost more than the opcode.
    # Opcodes stand in the order of how often checkpoints use them.
    def run(self) -> Pickle:
        """Run the pickle; every error knows the position of its opcode."""
        data, size = self.data, len(self.data)
        end, pos = size, self.start
        stack: list[Any] = []
        below: list[list[Any]] = []
        memo, calls, guard = self.memo, self.pickle.calls, self.guard
        uint32, shortcuts = _UINT32, self.shortcuts
        read_tensor, read_texts = self.tensors.read, self.texts.read
        max_text = self.limits.max_key_bytes
        at = pos
        try:
            while True:
                if pos >= end:
                    # Rule 5: a frame ends between two opcodes.
                    if end == size:
                        raise IndexError
                    if pos > end:
                        raise MalformedFileError("the frame ends inside this opcode")
                    end = size
                at = pos
                code = data[at]
                pos = at + 1
                if code == 0x71:  # BINPUT
                    index = data[pos]
                    pos += 1
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        self.put(index, stack[-1], at)
                elif code == 0x68:  # BINGET
                    last = memo[data[pos]]
                    if last is SKIPPED:
                        raise NotReadError
                    stack.append(last)
                    pos += 1
                elif code == 0x4B:  # BININT1
                    stack.append(data[pos])
                    pos += 1
                elif code == 0x58:  # BINUNICODE
                    (length,) = uint32(data, pos)
                    pos += 4 + length
                    text = data[at + 5 : pos]
                    try:
                        stack.append(text.decode())
                    except UnicodeDecodeError:
                        stack.append(self.text(text, length))
                    if length > max_text:
                        guard.has_long_text = True
                elif code == 0x28:  # MARK
                    if shortcuts and pos < end:
                        if data[pos] == 0x28:
                            after = read_tensor(at, end, stack)
                            if after:
                                pos = after
                                continue
                        elif data[pos] == 0x58 and len(memo) > _FIRST_LONG_PUT:
                            below.append(stack)
                            stack = []
                            pos = read_texts(pos, end, stack)
                            continue
                    below.append(stack)
                    stack = []
                elif code == 0x74:  # TUPLE
                    items = tuple(stack)
                    stack = below.pop()
                    stack.append(items)
                elif code == 0x72:  # LONG_BINPUT
                    (index,) = uint32(data, pos)
                    pos += 4
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        self.put(index, stack[-1], at)
                elif code == 0x94:  # MEMOIZE
                    memo.append(stack[-1])
                elif code == 0x6A:  # LONG_BINGET
                    stack.append(self.fetch(uint32(data, pos)[0]))
                    pos += 4
                elif code == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif code == 0x52 or code == 0x81:  # REDUCE, NEWOBJ  # noqa: PLR1714 - builds no tuple
                    args = stack.pop()
                    if type(args) is not tuple:
                        raise MalformedFileError("the arguments are not a tuple")
                    stack[-1] = call = Call(stack[-1], args, code, at)
                    calls.append(call)
                elif code == 0x51:  # BINPERSID
                    stack[-1] = self.persistent(stack[-1], at)
                elif code == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif code == 0x89:  # NEWFALSE
                    stack.append(False)
                elif code == 0x86:  # TUPLE2
                    last = stack.pop()
                    stack[-1] = (stack[-1], last)
                elif code == 0x87:  # TUPLE3
                    last = stack.pop()
                    middle = stack.pop()
                    stack[-1] = (stack[-1], middle, last)
                elif code == 0x8C:  # SHORT_BINUNICODE
                    length = data[pos]
                    pos += 1 + length
                    text = data[at + 2 : pos]
                    try:
                        stack.append(text.decode())
                    except UnicodeDecodeError:
                        stack.append(self.text(text, length))
                elif code == 0x4D:  # BININT2
                    stack.append(data[pos] | data[pos + 1] << 8)
                    pos += 2
                elif code == 0x4A:  # BININT
                    stack.append(_INT32(data, pos)[0])
                    pos += 4
                elif code == 0x75:  # SETITEMS
                    items_list = stack
                    stack = below.pop()
                    self.set_items(stack[-1], items_list)
                elif code == 0x47:  # BINFLOAT
                    stack.append(_DOUBLE(data, pos)[0])
                    pos += 8
                elif code == 0x7D:  # EMPTY_DICT
                    stack.append({})
                elif code == 0x4E:  # NONE
                    stack.append(None)
                elif code == 0x88:  # NEWTRUE
                    stack.append(True)
                elif code == 0x5D:  # EMPTY_LIST
                    stack.append([])
                elif code == 0x65:  # APPENDS
                    items_list = stack
                    stack = below.pop()
                    self.append_all(stack[-1], items_list)
                elif code == 0x61:  # APPEND
                    last = stack.pop()
                    self.append_all(stack[-1], [last])
                elif code == 0x73:  # SETITEM
                    last = stack.pop()
                    middle = stack.pop()
                    self.set_items(stack[-1], [middle, last])
                elif code == 0x62:  # BUILD
                    last = stack.pop()
                    if is_wrapper(stack[-1]):
                        pos, end = self.array_behind(stack[-1], last, pos), size
                    self.build(stack[-1], last)
                elif code == 0x93:  # STACK_GLOBAL
                    last = stack.pop()
                    stack[-1] = self.global_ref(stack[-1], last, at)
                elif code == 0x30:  # POP
                    if stack:
                        stack.pop()
                    else:
                        stack = below.pop()
                elif code == 0x31:  # POP_MARK
                    stack = below.pop()
                elif code == 0x95:  # FRAME
                    end = self.frame(at)
                    pos += 8
                elif code == 0x2E:  # STOP
                    if len(stack) != 1 or below:
                        raise MalformedFileError("STOP finds more or less than a value")
                    self.pickle.root, self.pickle.end = stack[0], pos
                    return self.pickle
                elif code in FROM_MARK:
                    items_list = stack
                    stack = below.pop()
                    pos = self.from_mark(code, at, stack, items_list)
                else:
                    pos = self.rare(code, at, stack)
        except (IndexError, StructError) as error:
            raise self.missing(at, pos) from error
        except SafeModelError as error:
            raise error.locate(position=at) from error.__cause__

    def array_behind(self, target: Any, state: Any, pos: int) -> int:
        """Read the array that follows a BUILD of joblib's; return where it ends."""
        if pos < self.frame_end:
            raise MalformedFileError("an array within a frame")
        if self.within:
            raise MalformedFileError("an array of joblib's within one of objects")
        itemsize = elements_of(state).itemsize
        if itemsize >= 0:
            found, pos = bytes_behind(self.data, pos, state, itemsize)
            put(target, found)
            return pos
        inner = _Machine(
            self.data, pos, self.limits, self.encoding, self.errors, shortcuts=False
        )
        inner.within = True
        try:
            pickle = inner.run()
        finally:
            # What it names is named, even if it is broken further on.
            self.pickle.globals += inner.pickle.globals
            self.pickle.calls += inner.pickle.calls
        if pickle.persistent:
            raise MalformedFileError("persistent ids in an array of objects")
        put(target, pickle)
        return pickle.end


def parse(
    data: bytes,
    start: int = 0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    encoding: str = "utf-8",
    errors: str = "strict",
    shortcuts: bool = True,
) -> tuple[Pickle, SafeModelError | None]:
    """Parse one pickle as far as it goes: what it names, and what ended it.

    For `scan`, which has to tell what a broken pickle would have run before it broke.
    """
    machine = _Machine(data, start, limits, encoding, errors, shortcuts=shortcuts)
    try:
        if len(data) - start > limits.max_pickle_bytes:
            raise LimitExceededError(
                "max_pickle_bytes",
                allowed=limits.max_pickle_bytes,
                requested=len(data) - start,
            )
        return machine.run(), None
    except NotReadError:
        return parse(
            data,
            start,
            limits=limits,
            encoding=encoding,
            errors=errors,
            shortcuts=False,
        )
    except SafeModelError as error:
        return machine.pickle, error


def unpickle(
    data: bytes,
    start: int = 0,
    *,
    record: str = "",
    limits: Limits = DEFAULT_LIMITS,
    encoding: str = "utf-8",
    errors: str = "strict",
    shortcuts: bool = True,
) -> Pickle:
    r"""Parse one pickle into inert nodes.

    Args:
        data: Bytes that hold the pickle; anything may follow it.
        start: Where it starts.
        record: Name of the record, for errors.
        limits: Bounds.
        encoding: Of Python 2 strings, as in `pickle.load`; "bytes" keeps them.
        errors: How that encoding answers what it cannot decode.
        shortcuts: Read common sequences in one step; the result is the same without.

    Returns:
        The pickle's value and everything it names, calls or refers to.

    Raises:
        MalformedFileError: It is not a well-formed pickle.
        ForbiddenOpcodeError: It reaches outside the file.
        ForbiddenCallError: It would change a global.
        LimitExceededError: It asks for more than the limits allow.
        UnsupportedFormatError: Its protocol is newer than 5.

    >>> unpickle(b"\x80\x02]q\x00(K\x01K\x02e.").root
    [1, 2]
    """
    pickle, error = parse(
        data,
        start,
        limits=limits,
        encoding=encoding,
        errors=errors,
        shortcuts=shortcuts,
    )
    if error is not None:
        raise error.locate(record=record)
    return pickle
