"""The exceptions safemodel raises about files, and nothing else.

Told apart by what the caller should do next:

* `UnsafeFileError`: well-formed, but asks for something not allowed: quarantine it.
* `MalformedFileError`: not a well-formed file: download it again, and never try a
  laxer loader, because an attacker chooses when this error appears.
* `UnsupportedFormatError`: recognised, but not ours to read: use another tool.
* `VerificationError`: a protected file was changed, or an older one put in its place:
  keep it as evidence, and get the file again from where it was made.
* `KeyRequiredError`: nothing is wrong with the file: find the key it names.
* `KeyFormatError`: nothing is wrong with the file: put the key file right.
* `StateFormatError`: nothing is wrong with the file: what remembers epochs is damaged.
* `UnpatchedCallError`: nothing is wrong with the file: import what reads it later.

No error holds a byte of a key. No class here derives from `pickle.UnpicklingError` or
`ValueError`: callers answer the first by loading again without protection, and swallow
the second by accident.
File content inside a message is escaped and cut by `quote`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_QUOTED = 80
_MAX_QUOTED_BITS = 200
_MAX_LISTED_GLOBALS = 20
_MAX_LISTED_CHANGES = 10


def quote(content: object) -> str:
    """Return file content as printable ASCII, at most 80 characters long.

    A container or a very long integer is named by its kind: writing it out could
    recurse, or take longer than reading the file did.
    """
    if type(content) is str:
        text = content[: MAX_QUOTED + 1]
    elif type(content) is bytes:
        text = content[: MAX_QUOTED + 1].decode("latin-1")
    elif type(content) is int and content.bit_length() > _MAX_QUOTED_BITS:
        text = f"an integer of {content.bit_length()} bits"
    elif type(content) in (int, float, bool, type(None)):
        text = str(content)
    else:
        text = f"a {type(content).__name__}"
    escaped = text.encode("unicode_escape").decode("ascii")
    if len(escaped) > MAX_QUOTED:
        escaped = escaped[: MAX_QUOTED - 3] + "..."
    return escaped


def _at(record: str, position: int | None) -> str:
    """Return the place an error speaks of, as ``record@position: ``."""
    if position is None:
        return f"{quote(record)}: " if record else ""
    return f"{quote(record)}@{position}: "


class SafeModelError(Exception):
    """Base of every error safemodel raises about a file. Never raised itself.

    Attributes:
        record: The record concerned; "" for the whole file.
        position: Byte offset of the opcode or field within that record, if known.
    """

    record: str = ""
    position: int | None = None

    def locate(self, *, record: str = "", position: int | None = None) -> Self:
        """Return this error, with where it happened if the raiser did not know.

        Args:
            record: The record it happened in.
            position: Byte offset of the opcode within its pickle.
        """
        self.record = self.record or record
        if self.position is None:
            self.position = position
        return self

    def __str__(self) -> str:
        # Composed when shown: the layer that knows the record is not the one that
        # raises.
        return _at(self.record, self.position) + super().__str__()

    def __reduce__(self) -> tuple[object, ...]:
        # By default the message would be passed to `__init__`, which takes other
        # arguments: the error of a worker process would end the pool.
        return _again, (type(self), self.args), vars(self)


def _again(kind: type[SafeModelError], args: tuple[object, ...]) -> SafeModelError:
    """Return an error without calling its `__init__`; its attributes come after."""
    return kind.__new__(kind, *args)


class UnsafeFileError(SafeModelError):
    """A well-formed file asks for something that is not allowed."""


class ForbiddenGlobalError(UnsafeFileError):
    """A file names globals outside the allowlist.

    Attributes:
        globals: Every refused global of the file, as (module, name, record,
            position), in file order.
        module: Module of the first one.
        name: Name of the first one.
        record: The record whose pickle names it; "" for a bare pickle.
        position: Byte offset of the opcode within that pickle.
    """

    def __init__(self, refused: Sequence[tuple[str, str, str, int]]) -> None:
        self.globals = tuple(refused)
        self.module, self.name, self.record, self.position = self.globals[0]
        listed = [
            f"{quote(f'{module}.{name}')} ({quote(record)}@{position})"
            for module, name, record, position in self.globals[:_MAX_LISTED_GLOBALS]
        ]
        more = len(self.globals) - len(listed)
        if more:
            listed.append(f"and {more:,} more")
        super().__init__(
            "the file names globals that are not allowed: "
            + ", ".join(listed)
            + ". Nothing was run. weights_only=False, or policy=SALVAGE, puts an inert"
            " Opaque in their place (it still runs nothing); Policy.with_extra()"
            " accepts your own class"
        )

    def __str__(self) -> str:
        return Exception.__str__(self)


class ForbiddenOpcodeError(UnsafeFileError):
    """A pickle uses an opcode that reaches outside the file.

    Attributes:
        opcode: Name of the opcode, as in `pickletools`.
        record: The record that holds the pickle.
        position: Byte offset of the opcode within the pickle.
    """

    def __init__(self, opcode: str, *, position: int, record: str = "") -> None:
        super().__init__(f"opcode {opcode} is not allowed")
        self.opcode, self.position, self.record = opcode, position, record


class ForbiddenCallError(UnsafeFileError):
    """An allowed global is used with arguments outside its schema.

    Attributes:
        name: Dotted name of the global.
        reason: What is wrong with the arguments.
        record: The record that holds the pickle.
        position: Byte offset of the opcode; None where no pickle is involved.
    """

    def __init__(
        self, name: str, reason: str, *, position: int | None = None, record: str = ""
    ) -> None:
        super().__init__(f"{quote(name)}: {reason}")
        self.name, self.reason = name, reason
        self.position, self.record = position, record


class LimitExceededError(UnsafeFileError):
    """A file asks for more than `safemodel.limits.Limits` allows.

    Attributes:
        limit: Name of the field of `Limits`.
        allowed: Its value.
        requested: What the file asks for, or how far it was counted.
    """

    def __init__(self, limit: str, *, allowed: float, requested: float) -> None:
        super().__init__(f"{limit}: file asks for {requested:,}, allowed {allowed:,}")
        self.limit, self.allowed, self.requested = limit, allowed, requested


class MalformedFileError(SafeModelError):
    """Not a well-formed container, pickle or header.

    Attributes:
        reason: What is wrong.
        record: The record concerned; "" for the whole file.
        position: Byte offset within the record, where one is known.
    """

    def __init__(
        self, reason: str, *, record: str = "", position: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.record, self.position = reason, record, position


class TruncatedFileError(MalformedFileError):
    """The file ends before what it announces.

    Attributes:
        needed: Bytes the file announces.
        available: Bytes that are there.
    """

    def __init__(
        self,
        what: str,
        *,
        needed: int,
        available: int,
        record: str = "",
        position: int | None = None,
    ) -> None:
        super().__init__(
            f"{what}: needs {needed:,} bytes, {available:,} available",
            record=record,
            position=position,
        )
        self.needed, self.available = needed, available


class StorageBoundsError(MalformedFileError):
    """A view reaches past its storage, or a storage past its record.

    Attributes:
        needed: Elements (view) or bytes (storage) that are asked for.
        available: Elements or bytes that are there.
    """

    def __init__(
        self,
        what: str,
        *,
        needed: int,
        available: int,
        record: str = "",
        position: int | None = None,
    ) -> None:
        super().__init__(
            f"{what}: needs {needed:,}, {available:,} available",
            record=record,
            position=position,
        )
        self.needed, self.available = needed, available


class ChecksumError(MalformedFileError):
    """A record's bytes do not match the CRC-32 the archive gives for them.

    Attributes:
        expected: The archive's CRC-32.
        actual: The CRC-32 of the bytes.
    """

    def __init__(self, record: str, *, expected: int, actual: int) -> None:
        super().__init__(
            f"CRC-32 is {actual:08x}, the archive says {expected:08x}", record=record
        )
        self.expected, self.actual = expected, actual


class UnsupportedFormatError(SafeModelError):
    """Recognised for what it is, but not a format safemodel reads.

    Attributes:
        what: What the file is, in one sentence.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class VerificationError(SafeModelError):
    """A protected file is not what the holder of its key made.

    Attributes:
        reason: What does not hold.
        tensors: Names of the tensors with changed bytes, as far as they are known.
        ranges: What changed, as (pool, first byte, one past the last byte); empty where
            it is not the tensors.
    """

    def __init__(
        self,
        reason: str,
        *,
        tensors: Sequence[str] = (),
        ranges: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        self.reason = reason
        self.tensors, self.ranges = tuple(tensors), tuple(ranges)
        places = [f"pool {pool}, bytes {a:,} to {b:,}" for pool, a, b in self.ranges]
        text = reason + _listed(": ", [quote(name) for name in self.tensors])
        super().__init__(text + _listed("; ", places))


def _listed(before: str, items: list[str]) -> str:
    """Return a list for a message, cut where it gets long; "" for an empty one."""
    if len(items) > _MAX_LISTED_CHANGES:
        more = len(items) - _MAX_LISTED_CHANGES
        items = [*items[:_MAX_LISTED_CHANGES], f"and {more:,} more"]
    return before + ", ".join(items) if items else ""


class KeyRequiredError(SafeModelError):
    """A key is needed that was not given.

    Attributes:
        key_id: Id of the key that is needed; "" if it is not known.
        given: Ids of the keys that were there.
    """

    def __init__(
        self, reason: str, *, key_id: str = "", given: Sequence[str] = ()
    ) -> None:
        super().__init__(reason)
        self.key_id, self.given = key_id, tuple(given)


class KeyFormatError(SafeModelError):
    """What should be a key is not one, or lies open to others.

    Attributes:
        reason: What is wrong; never any text of the key.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StateFormatError(SafeModelError):
    """What should remember epochs is damaged or full, or others may write it.

    Put back a copy of it: without it, nobody can tell an old version from the newest.

    Attributes:
        reason: What is wrong.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DisarmError(SafeModelError):
    """A file that was just written does not read as it should; it was thrown away.

    The disk, or a fault of safemodel: never what the input holds.
    """


class UnpatchedCallError(SafeModelError):
    """A loader was reached past `safemodel.patch`, and would have run what files say.

    Nothing is wrong with the file: code took the loader before it was replaced, as
    ``from torch import load`` does.

    Attributes:
        call: Dotted name of what was reached.
    """

    def __init__(self, call: str, hint: str) -> None:
        super().__init__(f"{call} was reached past safemodel.patch(): {hint}")
        self.call = call


class SafeModelWarning(UserWarning):
    """Code asked for something that safemodel does otherwise, or could not be reached.

    Given by `safemodel.patch` only, once for a line of code.
    """
