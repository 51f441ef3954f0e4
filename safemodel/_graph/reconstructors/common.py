"""What every checker needs: the context of a file, and how to refuse.

Rules all checkers follow (numbers are cited where they are enforced):

1. Types are compared exactly; a bool is not an int.
2. What a file does to the result of a call (BUILD, SETITEMS, APPENDS, keyword
   arguments) is refused unless the checker knows what it means: editing an object
   we made is the classic attack.
3. Content that a call copies is counted the second time it is copied, because a memo
   lets two bytes of pickle name a megabyte.
4. Arguments are nodes or plain values. A node is read through `CheckContext.value_of`
   only, and is checked before whoever uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
    TensorCall,
)
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    quote,
)

if TYPE_CHECKING:
    from safemodel._containers.records import Record
    from safemodel._graph.specs import Spec, StorageSpec
    from safemodel.limits import Limits

INDEX_END = 1 << 62
"""Sizes, strides and offsets are below this, so torch's 64-bit sums cannot wrap."""

INT64_END = 1 << 63

NEWOBJ = 0x81

_NODES = (Call, TensorCall, GlobalRef, PersistentRef, SetNode, FrozenSetNode)


def _no_nested(data: bytes, call: Call) -> object:
    raise ForbiddenCallError(
        target_name(call),
        f"{len(data):,} bytes of another file cannot be read here",
        position=call.position,
    )


def _no_record(data: bytes) -> Record:
    raise ForbiddenCallError("numpy", f"{len(data):,} bytes cannot become a record")


class CheckContext:
    """One file being checked: its limits, and what has been counted so far.

    Attributes:
        limits: The caller's limits.
        record: Name of the record that holds the pickle, for messages.
        byte_count: Bytes of the file.
        storages: Storages by key, as the format layer fills them.
        specs: Every leaf spec made so far, in order.
        load_nested: Reads the bytes of a pickled storage; the format layer's.
        memory_record: Turns bytes into a record; the format layer's.
        refused: Called for a call that stays outside the allowlist although its
            target is on it; returns what takes its place. Without one: refuse.
        amplified: Bytes counted by `add_amplified`.
        copied: Content that was copied before, by identity (rule 3). It is kept,
            as is what `decoded` and `encoded` hold: a later pickle of the file must
            not find its own content under the identity of what is gone.
        decoded: Bytes that were read as text before, by identity, and the text.
        encoded: Text that was encoded before, by identity and codec, and the bytes.
        dropped: What a value is → how many attributes of such values are dropped.
        dtype_weight: Depth and expanded size of a numpy dtype, by identity.
        objects: Estimated memory of the objects counted by `charge`.
        pickle_bytes: Bytes of the pickles so far.
    """

    __slots__ = (
        "amplified",
        "byte_count",
        "copied",
        "decoded",
        "dropped",
        "dtype_weight",
        "encoded",
        "limits",
        "load_nested",
        "memory_record",
        "objects",
        "pickle_bytes",
        "record",
        "refused",
        "specs",
        "storages",
    )

    def __init__(
        self,
        limits: Limits,
        *,
        record: str = "",
        byte_count: int = 0,
        storages: dict[str, StorageSpec] | None = None,
        specs: list[Spec] | None = None,
        dropped: dict[str, int] | None = None,
        load_nested: Callable[[bytes, Call], object] = _no_nested,
        memory_record: Callable[[bytes], Record] = _no_record,
        refused: Callable[[Call, str], object] | None = None,
    ) -> None:
        self.limits = limits
        self.record = record
        self.byte_count = byte_count
        self.storages: dict[str, StorageSpec] = {} if storages is None else storages
        self.specs: list[Spec] = [] if specs is None else specs
        self.dropped: dict[str, int] = {} if dropped is None else dropped
        self.load_nested = load_nested
        self.memory_record = memory_record
        self.refused = refused
        self.amplified = 0
        self.copied: dict[int, object] = {}
        self.decoded: dict[int, tuple[bytes, str]] = {}
        self.encoded: dict[tuple[int, str], tuple[str, bytes]] = {}
        self.dtype_weight: dict[int, tuple[int, int]] = {}
        self.objects = 0
        self.pickle_bytes = 0

    def drop(self, kind: str, state: object, kept: int = 0) -> None:
        """Count the attributes in a state but for some: what is made lacks the rest."""
        # Attributes, and the values of slots beside them. One state may serve any
        # number of calls, so nothing here goes through it.
        parts: tuple[object, ...] = (state,)
        if type(state) is tuple and len(state) == 2:
            parts = state
        count = -kept
        for part in parts:
            if part is not None:
                count += len(part) if type(part) is dict else 1
        if count:
            self.dropped[kind] = self.dropped.get(kind, 0) + count

    def value_of(self, value: object, call: Call) -> object:
        """Return the checked value of a node; anything else is its own value.

        Raises:
            ForbiddenCallError: ``call`` uses a node before the file has made it.
        """
        if type(value) not in _NODES:
            return value
        checked: object = value.value  # type: ignore[attr-defined]  # every node's
        if checked is UNCHECKED:
            raise ForbiddenCallError(
                target_name(call),
                "an argument is used before it is made",
                position=call.position,
                record=self.record,
            )
        return checked

    def refuse(self, call: Call, reason: str) -> NoReturn:
        """Raise the error for a call outside its schema."""
        raise ForbiddenCallError(
            target_name(call), reason, position=call.position, record=self.record
        )

    def opaque_or_refuse(self, call: Call, dotted_name: str) -> object:
        """Return what stands in for a call that needs a class we do not build.

        Raises:
            ForbiddenGlobalError: ``dotted_name`` is not allowed, and nothing stands in.
        """
        if self.refused is not None:
            return self.refused(call, dotted_name)
        module, _, name = dotted_name.rpartition(".")
        raise ForbiddenGlobalError([(module, name, self.record, call.position)])

    def add_amplified(self, nbytes: int) -> None:
        """Count bytes that the file asks for without holding them.

        Raises:
            LimitExceededError: More than the file's size allows.
        """
        self.amplified += nbytes
        limits = self.limits
        allowed = max(
            float(limits.min_amplified_bytes),
            limits.max_amplification * self.byte_count,
        )
        if self.amplified > allowed:
            raise LimitExceededError(
                "max_amplification", allowed=int(allowed), requested=self.amplified
            )

    def charge(self, weight: int) -> None:
        """Count the estimated memory of one more object.

        A memo lets five bytes repeat a call with all its arguments.

        Raises:
            LimitExceededError: More than the pickles' size allows.
        """
        self.objects += weight
        limits = self.limits
        if self.objects > max(
            limits.min_object_bytes, limits.max_object_bytes * self.pickle_bytes
        ):
            raise LimitExceededError(
                "max_object_bytes",
                allowed=limits.max_object_bytes,
                requested=self.objects,
            )

    def copy(self, content: object, nbytes: int) -> None:
        """Count a copy of ``content``; the file pays for the first one (rule 3)."""
        if id(content) in self.copied:
            self.add_amplified(nbytes)
        else:
            self.copied[id(content)] = content


Checker = Callable[[Call, CheckContext], object]
Value = Callable[[], object]


class Entry(NamedTuple):
    """One line of the allowlist: what checks it, and how documentation puts it."""

    checker: Checker
    becomes: str
    checks: str


class ValueEntry(NamedTuple):
    """One name that is a value without being called; a new spec for each file."""

    make: Value
    becomes: str


Table = dict[tuple[str, str], Entry]


def target_name(call: Call) -> str:
    """Return the dotted name a call aims at, for messages."""
    # No checker sees a call of anything but a global.
    target: Any = call.target
    return f"{target.module}.{target.name}"


def global_name(value: object) -> tuple[str, str] | None:
    """Return the canonical name of a global, or None for anything else."""
    if type(value) is GlobalRef:
        return canonical(value.module, value.name)
    return None


def dotted(name: tuple[str, str]) -> str:
    """Return ``module.name``."""
    return f"{name[0]}.{name[1]}"


def ref_name(ref: GlobalRef) -> str:
    """Return the dotted name of a global: one text, however often it is named."""
    spec = ref.value
    return spec.name if type(spec) is OpaqueSpec else dotted((ref.module, ref.name))


def only_arguments(call: Call, ctx: CheckContext, *counts: int) -> tuple[object, ...]:
    """Return the arguments of a call that was left alone afterwards (rule 2)."""
    unedited(call, ctx)
    if call.state is not UNCHECKED:
        ctx.refuse(call, "its result is given a state")
    return arguments(call, ctx, *counts)


def unedited(call: Call, ctx: CheckContext) -> None:
    """Refuse keyword arguments, items and elements; a state may be there (rule 2)."""
    if call.kwargs:
        ctx.refuse(call, "it is given keyword arguments")
    if call.pairs is not None:
        ctx.refuse(call, "items are set on its result")
    if call.elements is not None:
        ctx.refuse(call, "elements are added to its result")


def arguments(call: Call, ctx: CheckContext, *counts: int) -> tuple[object, ...]:
    """Return the arguments if their number is one of ``counts``."""
    if len(call.args) not in counts:
        ctx.refuse(call, f"it is given {len(call.args)} arguments")
    return call.args


def integer(
    value: object, call: Call, ctx: CheckContext, what: str, low: int, end: int
) -> int:
    """Return an int in ``low <= value < end`` (rule 1)."""
    if type(value) is not int:
        ctx.refuse(call, f"{what} is not an integer")
    if not low <= value < end:
        ctx.refuse(call, f"{what} is out of range")
    return value


def flag(value: object, call: Call, ctx: CheckContext, what: str) -> bool:
    """Return a bool."""
    if type(value) is not bool:
        ctx.refuse(call, f"{what} is not a bool")
    return value


def text(value: object, call: Call, ctx: CheckContext, what: str) -> str:
    """Return text; bytes of a Python 2 string count as such, decoded once (rule 3)."""
    value = ctx.value_of(value, call)
    if type(value) is bytes:
        known = ctx.decoded.get(id(value))
        if known is None:
            known = ctx.decoded[id(value)] = (value, value.decode("latin-1"))
        return known[1]
    if type(value) is not str:
        ctx.refuse(call, f"{what} is not text")
    return value


def raw(value: object, call: Call, ctx: CheckContext, what: str) -> bytes | bytearray:
    """Return bytes; Python 2 wrote them as text, one character a byte."""
    value = ctx.value_of(value, call)
    if type(value) is bytes or type(value) is bytearray:
        return value
    if type(value) is not str:
        ctx.refuse(call, f"{what} is not bytes")
    return encode(value, "latin-1", call, ctx)


def encode(value: str, codec: str, call: Call, ctx: CheckContext) -> bytes:
    """Return text encoded, once per text and codec (rule 3)."""
    key = (id(value), codec)
    known = ctx.encoded.get(key)
    if known is None:
        try:
            known = ctx.encoded[key] = (value, value.encode(codec))
        except UnicodeEncodeError:
            ctx.refuse(call, f"the text is not {codec}: {quote(value)}")
    return known[1]


def items_of(value: object, call: Call, ctx: CheckContext) -> list[object]:
    """Return the items of a list or tuple, which the caller may change (rule 3)."""
    if type(value) is not list and type(value) is not tuple:
        ctx.refuse(call, "its argument is not a list or tuple")
    ctx.copy(value, 8 * len(value))
    return list(value)
