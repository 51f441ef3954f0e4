"""Serialised fields in JSON: base64 of a cloudpickle, as Stable-Baselines3 writes.

`safe_load` keeps them as the text they are. Stable-Baselines3 decodes and unpickles
them, so a scan says what they would have run.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Any

from safemodel._containers.json_text import parse_json
from safemodel._scan.render import printable
from safemodel.errors import SafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel.limits import Limits

_FIELD = ":serialized:"
_MAX_DEPTH = 64
_MAX_KEY = 60
_RAW = re.compile(rb'":serialized:"\s*:\s*"((?:[A-Za-z0-9+/=_-]|\\[n/])*)"')


def serialized(data: bytes, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the decoded bytes of every serialised field."""
    # An escape could spell the name of the field differently.
    if b"serialized" not in data and b"\\u" not in data:
        return
    try:
        value = parse_json(data, max_depth=_MAX_DEPTH, limits=limits)
    except SafeModelError:
        # Not JSON to us; some reader may still take it for that.
        for found in _RAW.finditer(data):
            decoded = _decode(found[1].replace(b"\\n", b"").replace(b"\\/", b"/"))
            if decoded:
                yield f"@{found.start()}", decoded
        return
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, value = waiting.pop()
        if type(value) is list:
            waiting += [(f"{key}[{at}]", item) for at, item in enumerate(value)]
        elif type(value) is dict:
            field = value.get(_FIELD)
            decoded = _decode(field.encode()) if type(field) is str else b""
            if decoded:
                yield key, decoded
            waiting += [
                (printable(f"{key}.{name}" if key else name, _MAX_KEY), item)
                for name, item in value.items()
                if type(item) in (list, dict)
            ]


def _decode(text: bytes) -> bytes:
    """Return base64 text decoded; b"" where it is not."""
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        return b""
