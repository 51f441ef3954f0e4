"""Python's own containers and scalars: builtins, collections, copyreg, _codecs.

Rules:

1. Content comes from literals of the pickle. A number never makes content: the size
   of ``bytearray(10**12)`` is nothing the file paid for.
2. Keys and elements are hashed by the walk over the graph, which checks them first;
   here they are only put in order.
3. NEWOBJ makes the empty container whatever its arguments say, so it takes none.
4. A defaultdict's factory is the name of a builtin type or of a container here.
"""

from __future__ import annotations

from safemodel._graph.composite_specs import MappingSpec, OpaqueSpec, SequenceSpec
from safemodel._graph.reconstructors.common import (
    INT64_END,
    NEWOBJ,
    CheckContext,
    Entry,
    Table,
    arguments,
    encode,
    flag,
    global_name,
    integer,
    items_of,
    only_arguments,
    ref_name,
    text,
)
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef
from safemodel.errors import quote

_CODECS = {
    "latin1": "latin-1",
    "latin-1": "latin-1",
    "iso-8859-1": "latin-1",
    "utf8": "utf-8",
    "utf-8": "utf-8",
    "ascii": "ascii",
}
"""Codecs whose cost is linear; others are quadratic or run code of their own."""

FACTORIES = frozenset(
    {
        *(("builtins", name) for name in ("int", "float", "complex", "bool", "str")),
        *(("builtins", name) for name in ("list", "dict", "set", "tuple", "frozenset")),
        *(("collections", name) for name in ("OrderedDict", "Counter", "deque")),
        ("collections", "defaultdict"),
    }
)
"""Types that may be a defaultdict's factory (rule 4)."""


def _stateless(call: Call, ctx: CheckContext) -> None:
    """Refuse keyword arguments and a state; items or elements may be there."""
    if call.kwargs:
        ctx.refuse(call, "it is given keyword arguments")
    if call.state is not UNCHECKED and call.state not in (None, {}):
        ctx.refuse(call, "its result is given a state")


def _contents(call: Call, ctx: CheckContext, most: int = 1) -> tuple[object, ...]:
    """Return the arguments of a container, of which NEWOBJ takes none (rule 3)."""
    args = arguments(call, ctx, *range(most + 1))
    if args and call.opcode == NEWOBJ:
        ctx.refuse(call, "NEWOBJ with content")
    return args


def _pairs(value: object, call: Call, ctx: CheckContext) -> list[object]:
    """Return keys and values, alternating, of a dictionary or a list of pairs."""
    value = ctx.value_of(value, call)
    if type(value) is MappingSpec:
        ctx.copy(value.pairs, 8 * len(value.pairs))
        return list(value.pairs)
    if type(value) is dict:
        ctx.copy(value, 16 * len(value))
        return [part for pair in value.items() for part in pair]
    pairs: list[object] = []
    for item in items_of(value, call, ctx):
        if (type(item) is not tuple and type(item) is not list) or len(item) != 2:
            ctx.refuse(call, "its argument is not a list of pairs")
        pairs += item
    return pairs


# Short, because every tensor of a file brings an empty one for its backward hooks.
def check_ordered_dict(call: Call, ctx: CheckContext) -> object:
    """collections.OrderedDict([pairs]); of its attributes only `_metadata` is kept."""
    if call.args or call.kwargs or call.elements is not None:
        return _ordered_dict(call, ctx)
    spec = MappingSpec("OrderedDict", call.pairs or [])
    if call.state is not UNCHECKED:
        spec.metadata = _metadata(call, ctx)
    return spec


def _ordered_dict(call: Call, ctx: CheckContext) -> object:
    """Check an OrderedDict that is given its items, as Python 2 wrote it."""
    if call.kwargs or call.elements is not None:
        ctx.refuse(call, "elements or keyword arguments of a dictionary")
    pairs = _pairs(_contents(call, ctx)[0], call, ctx)
    spec = MappingSpec("OrderedDict", pairs + (call.pairs or []))
    if call.state is not UNCHECKED:
        spec.metadata = _metadata(call, ctx)
    return spec


def _metadata(call: Call, ctx: CheckContext) -> object:
    """Return `_metadata` of an attribute dictionary; the rest would shadow methods."""
    state = call.state
    if state is None:
        return None
    if type(state) is not dict:
        ctx.refuse(call, "its state is not a dictionary")
    ctx.drop("collections.OrderedDict", state, "_metadata" in state)
    return state.get("_metadata")


def check_counter(call: Call, ctx: CheckContext) -> object:
    """collections.Counter([counts])."""
    return _mapping("Counter", call, ctx)


def check_dict(call: Call, ctx: CheckContext) -> object:
    """dict([items])."""
    return _mapping("dict", call, ctx)


def _mapping(kind: str, call: Call, ctx: CheckContext) -> MappingSpec:
    """Check a dictionary kind that takes its items as an argument."""
    _stateless(call, ctx)
    if call.elements is not None:
        ctx.refuse(call, "elements are added to a dictionary")
    args = _contents(call, ctx)
    pairs = _pairs(args[0], call, ctx) if args else []
    return MappingSpec(kind, pairs + call.pairs if call.pairs else pairs)


def check_defaultdict(call: Call, ctx: CheckContext) -> object:
    """collections.defaultdict([factory[, items]]); rule 4."""
    _stateless(call, ctx)
    if call.elements is not None:
        ctx.refuse(call, "elements are added to a dictionary")
    args = _contents(call, ctx, 2)
    factory = None
    if args and args[0] is not None:
        name = global_name(args[0])
        if type(args[0]) is not GlobalRef or name is None:
            made = ctx.value_of(args[0], call)
            if type(made) is OpaqueSpec:  # such as a `functools.partial`
                return _other_factory(made.name, call, ctx)
            ctx.refuse(call, "its factory is not a class")
        if name not in FACTORIES:
            return _other_factory(ref_name(args[0]), call, ctx)
        factory = name[1]
    pairs = _pairs(args[1], call, ctx) if len(args) == 2 else []
    if call.pairs:
        pairs = pairs + call.pairs
    return MappingSpec("defaultdict", pairs, factory)


def _other_factory(name: str, call: Call, ctx: CheckContext) -> object:
    """Refuse the factory by its name; what is opaque is the defaultdict."""
    made = ctx.opaque_or_refuse(call, name)
    if type(made) is not OpaqueSpec:
        ctx.refuse(call, "its factory is a class of the caller's")
    made.name = "collections.defaultdict"
    return made


def check_deque(call: Call, ctx: CheckContext) -> object:
    """collections.deque([items[, maxlen]])."""
    _stateless(call, ctx)
    if call.pairs is not None:
        ctx.refuse(call, "items are set on its result")
    args = _contents(call, ctx, 2)
    items = items_of(args[0], call, ctx) if args else []
    length = None
    if len(args) == 2 and args[1] is not None:
        length = integer(args[1], call, ctx, "maxlen", 0, INT64_END)
    return SequenceSpec("deque", items + (call.elements or []), length)


def _sequence(kind: str, call: Call, ctx: CheckContext) -> SequenceSpec:
    """Check a container that takes its elements as a list or tuple."""
    _stateless(call, ctx)
    if call.pairs is not None:
        ctx.refuse(call, "items are set on its result")
    if kind in ("list", "set"):
        args = _contents(call, ctx)
    else:
        args = arguments(call, ctx, 0, 1)
    items = items_of(args[0], call, ctx) if args else []
    if call.elements:
        if kind != "list":
            ctx.refuse(call, "elements are added to its result")
        items += call.elements
    return SequenceSpec(kind, items)


def check_list(call: Call, ctx: CheckContext) -> object:
    """list([items])."""
    return _sequence("list", call, ctx)


def check_tuple(call: Call, ctx: CheckContext) -> object:
    """tuple([items])."""
    return _sequence("tuple", call, ctx)


def check_set(call: Call, ctx: CheckContext) -> object:
    """set([elements])."""
    return _sequence("set", call, ctx)


def check_frozenset(call: Call, ctx: CheckContext) -> object:
    """frozenset([elements])."""
    return _sequence("frozenset", call, ctx)


def _codec(value: object, call: Call, ctx: CheckContext) -> str:
    """Return the name of a codec that is allowed."""
    name = text(value, call, ctx, "the codec").lower().replace("_", "-")
    if name not in _CODECS:
        ctx.refuse(call, f"codec {quote(name)} is not allowed")
    return _CODECS[name]


def check_encode(call: Call, ctx: CheckContext) -> object:
    """_codecs.encode(text, codec): how bytes are written before protocol 3."""
    value, codec = only_arguments(call, ctx, 2)
    if type(value) is not str:
        ctx.refuse(call, "its argument is not text")
    return encode(value, _codec(codec, call, ctx), call, ctx)


def _literal(call: Call, ctx: CheckContext) -> bytes | bytearray:
    """Return the content of bytes(content) or bytes(text, codec); rule 1."""
    _stateless(call, ctx)
    if call.pairs is not None or call.elements is not None:
        ctx.refuse(call, "its result is edited")
    args = arguments(call, ctx, 0, 1, 2)
    if not args:
        return b""
    value = ctx.value_of(args[0], call)
    if len(args) == 2:
        if type(value) is not str:
            ctx.refuse(call, "its argument is not text")
        return encode(value, _codec(args[1], call, ctx), call, ctx)
    if type(value) is not bytes and type(value) is not bytearray:
        ctx.refuse(call, "its content is not bytes")
    return value


def check_bytes(call: Call, ctx: CheckContext) -> object:
    """bytes([content]) or bytes(text, codec)."""
    content = _literal(call, ctx)
    if type(content) is bytearray:
        ctx.copy(content, len(content))
    return bytes(content)


def check_bytearray(call: Call, ctx: CheckContext) -> object:
    """bytearray([content]) or bytearray(text, codec)."""
    if call.args and call.opcode == NEWOBJ:
        ctx.refuse(call, "NEWOBJ with content")
    content = _literal(call, ctx)
    ctx.copy(content, len(content))
    return bytearray(content)


def check_complex(call: Call, ctx: CheckContext) -> object:
    """complex(real, imaginary)."""
    parts = []
    for part in only_arguments(call, ctx, 0, 1, 2):
        if type(part) is not float and type(part) is not int:
            ctx.refuse(call, "its parts are not numbers")
        parts.append(part)
    try:
        return complex(*parts)
    except OverflowError:
        ctx.refuse(call, "a part is out of range")


def check_slice(call: Call, ctx: CheckContext) -> object:
    """slice(start, stop, step)."""
    parts = only_arguments(call, ctx, 1, 2, 3)
    if any(type(part) not in (int, float, str, bool, type(None)) for part in parts):
        ctx.refuse(call, "its parts are not plain values")
    return slice(*parts)


def check_range(call: Call, ctx: CheckContext) -> object:
    """range(start, stop, step) of 64-bit integers."""
    parts = [
        integer(part, call, ctx, "a bound", -INT64_END, INT64_END)
        for part in only_arguments(call, ctx, 1, 2, 3)
    ]
    if len(parts) == 3 and not parts[2]:
        ctx.refuse(call, "its step is zero")
    return range(*parts)


def check_int(call: Call, ctx: CheckContext) -> object:
    """int(number), never of text."""
    args = only_arguments(call, ctx, 0, 1)
    if args and type(args[0]) is not int:
        ctx.refuse(call, "its argument is not an integer")
    return args[0] if args else 0


def check_float(call: Call, ctx: CheckContext) -> object:
    """float(number), never of text."""
    args = only_arguments(call, ctx, 0, 1)
    if args and type(args[0]) is not float:
        ctx.refuse(call, "its argument is not a float")
    return args[0] if args else 0.0


def check_str(call: Call, ctx: CheckContext) -> object:
    """str(text)."""
    args = only_arguments(call, ctx, 0, 1)
    if args and type(args[0]) is not str:
        ctx.refuse(call, "its argument is not text")
    return args[0] if args else ""


def check_bool(call: Call, ctx: CheckContext) -> object:
    """bool(flag)."""
    args = only_arguments(call, ctx, 0, 1)
    return flag(args[0], call, ctx, "its argument") if args else False


_ITEMS = "its items, from the file; keys are checked before they are hashed"
_BYTES = "content from the file, never a length"

CALLS: Table = {
    ("collections", "OrderedDict"): Entry(
        check_ordered_dict, "OrderedDict", _ITEMS + "; attributes but _metadata dropped"
    ),
    ("collections", "defaultdict"): Entry(
        check_defaultdict,
        "defaultdict",
        _ITEMS + "; the factory is a builtin type or one of `collections`",
    ),
    ("collections", "Counter"): Entry(check_counter, "Counter", _ITEMS),
    ("collections", "deque"): Entry(check_deque, "deque", "its items, from the file"),
    ("builtins", "dict"): Entry(check_dict, "dict", _ITEMS),
    ("builtins", "list"): Entry(check_list, "list", "its items, from the file"),
    ("builtins", "tuple"): Entry(check_tuple, "tuple", "its items, from the file"),
    ("builtins", "set"): Entry(check_set, "set", _ITEMS),
    ("builtins", "frozenset"): Entry(check_frozenset, "frozenset", _ITEMS),
    ("builtins", "bytes"): Entry(check_bytes, "bytes", _BYTES),
    ("builtins", "bytearray"): Entry(check_bytearray, "bytearray", _BYTES),
    ("builtins", "complex"): Entry(check_complex, "complex", "two numbers"),
    ("builtins", "slice"): Entry(check_slice, "slice", "plain values"),
    ("builtins", "range"): Entry(check_range, "range", "64-bit integers"),
    ("builtins", "int"): Entry(check_int, "int", "an integer, never text"),
    ("builtins", "float"): Entry(check_float, "float", "a float, never text"),
    ("builtins", "str"): Entry(check_str, "str", "text"),
    ("builtins", "bool"): Entry(check_bool, "bool", "a bool"),
    ("_codecs", "encode"): Entry(
        check_encode, "bytes", "codec latin-1, utf-8 or ascii"
    ),
}
