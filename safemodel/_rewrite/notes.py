"""What a flat file says beside its tensors, as JSON that every reader takes.

JSON has no word for numbers that are not finite, and no reader has to take half of a
surrogate pair: the first become the text that Python reads back, the second an escape.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from safemodel._rewrite.names import Names, encodable

if TYPE_CHECKING:
    from collections.abc import Mapping


def notes_text(notes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return notes as JSON in ASCII; None if there are none."""
    kept = {title: _plain(note) for title, note in notes.items() if note}
    return json.dumps(kept, allow_nan=False) if kept else None


def _plain(note: Mapping[str, Any]) -> dict[str, Any]:
    names = Names("~")
    return {names.new(encodable(name)): _value(value) for name, value in note.items()}


def _value(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return encodable(value)
    return value if kind is not float or isfinite(value) else str(value)
