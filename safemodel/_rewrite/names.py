"""Names for what is written: no two alike, and none that a format keeps for itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever follows the first dot."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Names:
    """Gives out names, each once.

    Args:
        mark: Stands before the number that tells a name from one like it.
        taken: What is never given out.
        alike: Names for which this returns the same are alike.
    """

    def __init__(
        self,
        mark: str,
        taken: Iterable[str] = (),
        alike: Callable[[str], str] = str,
    ) -> None:
        self._mark = mark
        self._taken = set(taken)
        self._alike = alike
        # Where to go on counting: a file may have a million names that are alike.
        self._turns: dict[str, int] = {}

    def new(self, name: str) -> str:
        """Return a name that was not given out, this one if possible."""
        alike = self._alike(name)
        if alike not in self._taken:
            self._taken.add(alike)
            return name
        turn = self._turns.get(alike, 1)
        unique = alike
        while unique in self._taken:
            turn += 1
            unique = f"{alike}{self._mark}{turn}"
        self._turns[alike] = turn
        self._taken.add(unique)
        return f"{name}{self._mark}{turn}"


def encodable(text: str) -> str:
    """Return a text with escapes for lone surrogates, which no encoding has."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
