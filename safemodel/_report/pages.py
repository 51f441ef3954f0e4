"""What the pages of reports are made of: text that is data, tables, bounds.

Rules:

1. Text of a file is data for the template and never part of it; jinja2 escapes all of
   it. The template is ours and lies beside this module.
2. What cannot be seen, changes the direction of text or stacks up over other lines is
   written as an escape, and marked as one.
3. The page is bounded: so many characters of a text, so many rows of a list, so many
   files in detail. What is cut says by how much.
4. The page runs nothing and asks for nothing: no script, and a policy that forbids the
   rest.
"""

from __future__ import annotations

import unicodedata
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LONGEST = 300
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that count as letters or symbols and show nothing."""


class Cell(NamedTuple):
    """One cell of a table: its text, and how it is set."""

    text: str
    kind: str = ""


class Table(NamedTuple):
    """One table: what it is of, its rows, and how many more rows there are."""

    anchor: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    more: int
    empty: str


def filled_in(template: str, **values: object) -> str:
    """Return a template of ours, filled in with values."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pieces"] = pieces
    environment.filters["plain"] = plain
    return environment.get_template(template).render(values)


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    r"""Yield the pieces of a text, and whether each is an escape (rules 2 and 3).

    >>> list(pieces("a\u202eb\n"))
    [('a', False), ('\\u202e', True), ('b', False), ('\\n', True)]
    """
    for hidden, characters in groupby(text[:_LONGEST], _is_hidden):
        if hidden:
            yield "".join(ascii(one)[1:-1] for one in characters), True
        else:
            yield "".join(characters), False
    if len(text) > _LONGEST:
        yield f"… {len(text):,} characters", True


def plain(text: str) -> str:
    """Return a text with its escapes, where nothing can mark them."""
    return "".join(piece for piece, _ in pieces(text))


def _is_hidden(character: str) -> bool:
    """Rule 2."""
    return (
        not character.isprintable()
        or character in _BLANK
        or unicodedata.category(character) in ("Mn", "Me")
    )


def table(
    anchor: str,
    title: str,
    caption: str,
    columns: tuple[str, ...],
    all_of_them: Sequence[object] | dict[str, int],
    rows: Sequence[tuple[Cell, ...]],
    empty: str,
) -> Table:
    """Return a table that says how many rows it has (rule 3)."""
    more = len(all_of_them) - len(rows)
    return Table(
        anchor, f"{title} ({len(all_of_them):,})", caption, columns, rows, more, empty
    )
