"""Calls that nothing on the allowlist answers: what stands for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.composite_specs import OpaqueSpec, SequenceSpec
from safemodel._unpickle import opcodes as op
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    GlobalRef,
    PersistentRef,
    TensorCall,
)

if TYPE_CHECKING:
    from safemodel._graph.reconstructors.common import CheckContext
    from safemodel._unpickle.parsed import Pickle

_NAMED_TUPLE_FIELDS = 2


def name_classes(pickle: Pickle) -> None:
    """Put a class in the place of the persistent id that came with its source code."""

    def named(value: Any) -> Any:
        known = type(value) is PersistentRef and type(value.value) is GlobalRef
        return value.value if known else value

    for call in pickle.calls:
        if isinstance(call, TensorCall):
            continue
        call.target = named(call.target)
        if any(type(arg) is PersistentRef for arg in call.args):
            call.args = tuple(map(named, call.args))


def state_of(call: Call) -> object:
    """Return the state a call was given; None if it was given none."""
    return None if call.state is UNCHECKED else call.state


def opaque_record(
    call: Call, name: str, args: tuple[object, ...], context: CheckContext
) -> object:
    """Return the record of a call; a named tuple comes back as a tuple.

    Only named tuples are made by NEWOBJ with several arguments and get nothing after.
    """
    if (
        call.opcode == op.NEWOBJ
        and len(args) >= _NAMED_TUPLE_FIELDS
        and call.state is UNCHECKED
        and call.pairs is None
        and call.elements is None
    ):
        context.copy(args, 8 * len(args))
        return SequenceSpec("tuple", args)
    return OpaqueSpec(
        name, args, call.kwargs, state_of(call), call.pairs, call.elements
    )
