"""Types whose values are leaves of a graph: one of these is never looked into.

Decimals, fractions and UUIDs are leaves, too; few files have one, and their modules
take 10 ms to import. They join when the first of them is made.
"""

from __future__ import annotations

import datetime

SCALARS: set[type] = {
    str, int, float, bool, type(None), bytes, complex, range, slice, type(...),
    type(NotImplemented),
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    datetime.timezone,
}  # fmt: skip
"""Leaves that may be hashed: keys of dictionaries, elements of sets."""

ATOMS: set[type] = SCALARS | {bytearray}
"""All leaves."""


def leaf(value: object) -> object:
    """Return a value, after noting that its type is one of leaves that are hashed."""
    SCALARS.add(type(value))
    ATOMS.add(type(value))
    return value
