"""copyreg's own functions, which make an object of another class.

Protocols 0 and 1 write ``_reconstructor(class, base, value)`` where later ones write
NEWOBJ; ``__newobj__(class, *args)`` is NEWOBJ as a function. Both are checked as that
class: what is allowed is the class, and neither function may name the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.reconstructors.common import (
    NEWOBJ,
    CheckContext,
    Entry,
    Table,
    arguments,
    global_name,
    ref_name,
)
from safemodel._unpickle.nodes import Call, GlobalRef

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASES = frozenset({"int", "float", "str", "list", "dict", "tuple", "set", "bytes"})


def delegates(table: Mapping[tuple[str, str], Entry]) -> Table:
    """Return the entries of copyreg's functions for the classes of ``table``."""

    def reconstructor(call: Call, ctx: CheckContext) -> object:
        """copyreg._reconstructor(class, base, value)."""
        kind, base, value = arguments(call, ctx, 3)
        name = global_name(base)
        if name == ("builtins", "object") and value is None:
            args: tuple[object, ...] = ()
        elif name is not None and name[0] == "builtins" and name[1] in _BASES:
            args = (value,)
        else:
            ctx.refuse(call, "its base is not a builtin type")
        return _as_class(kind, args, call, ctx, table)

    def new_object(call: Call, ctx: CheckContext) -> object:
        """copyreg.__newobj__(class, *args)."""
        if not call.args:
            ctx.refuse(call, "it is given no class")
        return _as_class(call.args[0], call.args[1:], call, ctx, table)

    checks = "the checks of the class it names"
    return {
        ("copyreg", "_reconstructor"): Entry(
            reconstructor, "the class it names", checks
        ),
        ("copyreg", "__newobj__"): Entry(new_object, "the class it names", checks),
    }


def _as_class(
    kind: object,
    args: tuple[object, ...],
    call: Call,
    ctx: CheckContext,
    table: Mapping[tuple[str, str], Entry],
) -> object:
    """Check a call as NEWOBJ of the class it names, with all that was done to it."""
    name = global_name(kind)
    if type(kind) is not GlobalRef or name is None:
        ctx.refuse(call, "its class is not a class")
    inner = Call(kind, args, NEWOBJ, call.position, call.kwargs)
    inner.state, inner.pairs, inner.elements = call.state, call.pairs, call.elements
    entry = table.get(name)
    if entry is None:
        return ctx.opaque_or_refuse(inner, ref_name(kind))
    return entry.checker(inner, ctx)
