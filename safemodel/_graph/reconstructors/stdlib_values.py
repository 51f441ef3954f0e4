"""Small values of the standard library: dates, exact numbers, paths, namespaces.

Rules:

1. Each is made by its ordinary constructor from checked parts, never by restoring an
   internal state.
2. Numbers are short enough that nothing done with them is quadratic for long.
3. Attribute names are words, never the double-underscore names Python acts on.
"""

from __future__ import annotations

import datetime as dt
import re

from safemodel._graph.composite_specs import NamespaceSpec, SequenceSpec
from safemodel._graph.reconstructors.common import (
    CheckContext,
    Entry,
    Table,
    arguments,
    global_name,
    integer,
    only_arguments,
    raw,
    text,
    unedited,
)
from safemodel._graph.scalars import leaf
from safemodel._unpickle.nodes import UNCHECKED, Call
from safemodel.errors import quote

MAX_DIGITS = 4300
"""Digits of an exact number: as many as Python itself converts from text."""

_MAX_BITS = 14_285
_MAX_EXPONENT = 999_999
_DAY_END = 1_000_000_000
_ATTRIBUTE_BYTES = 100

_DECIMAL = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,18}))?"
    r"|inf(?:inity)?|s?nan[0-9]*)",
    re.ASCII | re.IGNORECASE,
)
_FRACTION = re.compile(r"([+-]?[0-9]+)(?:/([0-9]+))?", re.ASCII)
_ATTRIBUTE = re.compile(r"(?!__.*__\Z)[^\W\d][\w.\-]*\Z")
_METHODS = frozenset({"_get_kwargs", "_get_args"})


def check_decimal(call: Call, ctx: CheckContext) -> object:
    """decimal.Decimal(text); rule 2."""
    (value,) = only_arguments(call, ctx, 1)
    number = text(value, call, ctx, "the number")
    match = _DECIMAL.fullmatch(number) if len(number) <= MAX_DIGITS else None
    if match is None or abs(int(match[1] or 0)) > _MAX_EXPONENT:
        ctx.refuse(call, f"not a decimal number of this length: {quote(number)}")
    from decimal import Decimal

    return leaf(Decimal(number))


def check_fraction(call: Call, ctx: CheckContext) -> object:
    """fractions.Fraction(text) or Fraction(numerator, denominator); rule 2."""
    args = only_arguments(call, ctx, 1, 2)
    if type(args[0]) is str and len(args) == 1:
        number = args[0]
        match = _FRACTION.fullmatch(number) if len(number) <= MAX_DIGITS else None
        if match is None:
            ctx.refuse(call, f"not a fraction of this length: {quote(number)}")
        args = (int(match[1]), int(match[2] or 1))
    parts = []
    for part in args:
        if type(part) is not int or part.bit_length() > _MAX_BITS:
            ctx.refuse(call, "its parts are not integers of this length")
        parts.append(part)
    if len(parts) == 2 and not parts[1]:
        ctx.refuse(call, "its denominator is zero")
    from fractions import Fraction

    return leaf(Fraction(*parts))


def check_timedelta(call: Call, ctx: CheckContext) -> object:
    """datetime.timedelta([days[, seconds[, microseconds]]])."""
    parts = [
        integer(part, call, ctx, "a part", -_DAY_END, _DAY_END)
        for part in only_arguments(call, ctx, 0, 1, 2, 3)
    ]
    try:
        return dt.timedelta(*parts)
    except OverflowError:
        ctx.refuse(call, "it is out of range")


def check_timezone(call: Call, ctx: CheckContext) -> object:
    """datetime.timezone(offset[, name])."""
    offset, *rest = only_arguments(call, ctx, 1, 2)
    delta = ctx.value_of(offset, call)
    if type(delta) is not dt.timedelta:
        ctx.refuse(call, "its offset is not a timedelta")
    names = [text(name, call, ctx, "the name") for name in rest]
    try:
        return dt.timezone(delta, *names)
    except ValueError:
        ctx.refuse(call, "its offset is out of range")


def _fields(call: Call, ctx: CheckContext, size: int) -> tuple[bytes, object]:
    """Return the bytes of a date or time and its time zone (None, or opaque)."""
    payload, *rest = only_arguments(call, ctx, 1, 2)
    data = bytes(raw(payload, call, ctx, "its content"))
    if len(data) != size:
        ctx.refuse(call, f"its content is not {size} bytes")
    return data, ctx.value_of(rest[0], call) if rest else None


def check_date(call: Call, ctx: CheckContext) -> object:
    """datetime.date(4 bytes): year, month, day."""
    data, zone = _fields(call, ctx, 4)
    if zone is not None:
        ctx.refuse(call, "a date has no time zone")
    try:
        return dt.date(data[0] << 8 | data[1], data[2], data[3])
    except ValueError:
        ctx.refuse(call, "it is out of range")


def check_time(call: Call, ctx: CheckContext) -> object:
    """datetime.time(6 bytes[, zone]): hour (and fold), minute, second, microsecond."""
    data, zone = _fields(call, ctx, 6)
    if zone is not None and type(zone) is not dt.timezone:
        return ctx.opaque_or_refuse(call, "datetime.time")
    hour, minute, second = data[:3]
    micro = int.from_bytes(data[3:], "big")
    try:
        return dt.time(hour & 0x7F, minute, second, micro, tzinfo=zone, fold=hour >> 7)
    except ValueError:
        ctx.refuse(call, "it is out of range")


def check_datetime(call: Call, ctx: CheckContext) -> object:
    """datetime.datetime(10 bytes[, zone]): a date and a time, fold in the month."""
    data, zone = _fields(call, ctx, 10)
    if zone is not None and type(zone) is not dt.timezone:
        return ctx.opaque_or_refuse(call, "datetime.datetime")
    year, month = data[0] << 8 | data[1], data[2]
    day, hour, minute, second = data[3:7]
    micro = int.from_bytes(data[7:], "big")
    try:
        return dt.datetime(
            year, month & 0x7F, day, hour, minute, second, micro,
            tzinfo=zone, fold=month >> 7,
        )  # fmt: skip
    except ValueError:
        ctx.refuse(call, "it is out of range")


def check_struct_time(call: Call, ctx: CheckContext) -> object:
    """time.struct_time(items[, names])."""
    items, *_ = only_arguments(call, ctx, 1, 2)
    if type(items) is not tuple or len(items) not in (9, 10, 11):
        ctx.refuse(call, "its items are not a tuple of 9 to 11")
    return SequenceSpec("tuple", items)


def check_uuid(call: Call, ctx: CheckContext) -> object:
    """uuid.UUID() and a state that holds its integer."""
    unedited(call, ctx)
    arguments(call, ctx, 0)
    state = call.state
    if type(state) is not dict or not state.keys() <= {"int", "is_safe"}:
        ctx.refuse(call, "its state is not an integer")
    number = integer(state.get("int"), call, ctx, "it", 0, 1 << 128)
    from uuid import UUID

    return leaf(UUID(int=number))


def check_safe_uuid(call: Call, ctx: CheckContext) -> object:
    """uuid.SafeUUID(value): how a UUID was made; the number stands for it."""
    (value,) = only_arguments(call, ctx, 1)
    if value is not None and (type(value) is not int or value not in (-1, 0)):
        ctx.refuse(call, "not a value of SafeUUID")
    return value


def check_path(call: Call, ctx: CheckContext) -> object:
    """Pathlib paths of all kinds, as text: they are names, not places to go."""
    unedited(call, ctx)
    if call.state is not UNCHECKED:
        ctx.refuse(call, "its result is given a state")
    parts = [text(part, call, ctx, "a part") for part in call.args]
    # Joining copies, and a memo may name one long part many times.
    ctx.add_amplified(sum(map(len, parts)))
    name = global_name(call.target)
    from pathlib import PurePosixPath, PureWindowsPath

    if name is not None and "Windows" in name[1]:
        return str(PureWindowsPath(*parts))
    return str(PurePosixPath(*parts))


def check_namespace(call: Call, ctx: CheckContext) -> object:
    """argparse.Namespace or types.SimpleNamespace, and their attributes; rule 3."""
    unedited(call, ctx)
    arguments(call, ctx, 0)
    name = global_name(call.target)
    kind = name[1] if name else "Namespace"
    state = call.state
    if state is UNCHECKED or state is None:
        return NamespaceSpec(kind, {})
    if type(state) is not dict:
        ctx.refuse(call, "its state is not a dictionary")
    ctx.copy(state, _ATTRIBUTE_BYTES * len(state))
    for key in state:
        if type(key) is not str or not _ATTRIBUTE.match(key) or key in _METHODS:
            ctx.refuse(call, f"not an attribute name: {quote(key)}")
    return NamespaceSpec(kind, state)


_EXACT = f"at most {MAX_DIGITS:,} digits"
_NAMES = "attribute names are words without leading and trailing __"

CALLS: Table = {
    ("datetime", "date"): Entry(check_date, "datetime.date", "a date that exists"),
    ("datetime", "time"): Entry(check_time, "datetime.time", "a time that exists"),
    ("datetime", "datetime"): Entry(
        check_datetime, "datetime.datetime", "a date and time that exist"
    ),
    ("datetime", "timedelta"): Entry(
        check_timedelta, "datetime.timedelta", "three integers in range"
    ),
    ("datetime", "timezone"): Entry(
        check_timezone, "datetime.timezone", "an offset below a day"
    ),
    ("time", "struct_time"): Entry(check_struct_time, "tuple", "9 to 11 items"),
    ("decimal", "Decimal"): Entry(
        check_decimal, "decimal.Decimal", f"{_EXACT}, an exponent below a million"
    ),
    ("fractions", "Fraction"): Entry(check_fraction, "fractions.Fraction", _EXACT),
    ("uuid", "UUID"): Entry(check_uuid, "uuid.UUID", "a 128-bit integer"),
    ("uuid", "SafeUUID"): Entry(check_safe_uuid, "int or None", "0, -1 or None"),
    ("argparse", "Namespace"): Entry(check_namespace, "argparse.Namespace", _NAMES),
    ("types", "SimpleNamespace"): Entry(
        check_namespace, "types.SimpleNamespace", _NAMES
    ),
    **{
        ("pathlib", name): Entry(check_path, "str", "parts that are text")
        for name in (
            "Path", "PosixPath", "WindowsPath",
            "PurePath", "PurePosixPath", "PureWindowsPath",
        )
    },
}  # fmt: skip
