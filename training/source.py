"""A file that the detector is trained or measured on; those that packages carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from packages import PACKAGES, TABLE, members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARRIERS = 2
"""Files of a repository, or of an owner, into which attacks go: the largest."""
LEAST_WORDS = 20_000
"""Of such a file."""
BY_OTHERS = ("zoo", "package")
"""Kinds of files that somebody else trained."""
DRAWN = "drawn"
"""Kind of files that nobody trained (`initialised.py`)."""


class Source(NamedTuple):
    """A file, and with which others it has something in common.

    Attributes:
        name: Unique, short; without a path of this machine.
        path: Where it is.
        group: Repository or owner, or training run: never independent of each other.
        family: Architecture, or field of use.
        kind: "zoo", "package" or `DRAWN`; of networks, what `networks.py` says.
        attack: What is in the file already; "" if it is clean.
        carrier: Whether attacks go into it.
    """

    name: str
    path: Path
    group: str
    family: str
    kind: str
    attack: str
    carrier: bool


def of_packages(
    side: str, folder: Path = PACKAGES, table: Path = TABLE
) -> Iterator[Source]:
    """Yield the files of one side that `packages.py` fetched, the largest first."""
    seen: dict[str, int] = {}
    rows = [one for one in members(table) if one.side == side]
    for one in sorted(rows, key=lambda row: (-row.bytes, row.sha256)):
        number = seen[one.owner] = seen.get(one.owner, 0) + 1
        carrier = number <= CARRIERS and one.bytes >= 4 * LEAST_WORDS
        path = folder / one.sha256
        if path.is_file():
            yield Source(f"{one.package} {one.sha256[:8]}", path, one.owner, one.field,
                         "package", "", carrier)  # fmt: skip
