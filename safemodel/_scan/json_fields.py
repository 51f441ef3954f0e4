"""Serialised fields in JSON: base64 of a cloudpickle, as Stable-Baselines3 writes.

`safe_load` keeps them as the text they are. Stable-Baselines3 decodes and unpickles
them, so a scan says what they would have run.

The text is not parsed: what is no JSON to us (NaN, a key twice) is to other readers,
and its values could take a hundred times its size. A field is a string, a colon and
another string, wherever it stands.
"""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING

from safemodel._containers.json_text import STRING
from safemodel._scan.render import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = ":serialized:"
_MAX_KEY = 60
# Every character of the name escaped, and the quotes.
_LONGEST_SPELLING = 6 * len(_FIELD) + 2


def may_have(data: bytes | memoryview) -> bool:
    """Say whether a text, or a part of one, may name such a field."""
    # An escape could spell the name of the field differently.
    text = bytes(data)
    return b"serialized" in text or b"\\u" in text


def serialized(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the owner and the decoded bytes of every serialised field."""
    before, key, owner = 0, b"", ""
    for match in STRING.finditer(data):
        between = data[before : match.start()].strip(b" \t\r\n")
        if between == b":" and _text(key) == _FIELD:
            decoded = _decode(match[0])
            if decoded:
                yield owner or f"@{match.start()}", decoded
        elif between[:1] == b":" and between[1:].lstrip()[:1] in (b"{", b"["):
            # An object or list has begun, whose name this was.
            owner = printable(_text(key), _MAX_KEY)
        before = match.end()
        key = match[0] if len(match[0]) <= _LONGEST_SPELLING else b""


def _text(string: bytes) -> str:
    """Return what a JSON string stands for, "" where it stands for nothing."""
    try:
        value: str = json.loads(string.decode("utf-8", "replace"), strict=False)
    except ValueError:
        return ""
    return value


def _decode(string: bytes) -> bytes:
    """Return the bytes of base64 text in a JSON string; b"" where it is none."""
    try:
        return binascii.a2b_base64(_text(string).encode("utf-8", "replace"))
    except binascii.Error:
        return b""
