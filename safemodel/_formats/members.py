"""Members of an archive of models that are no models: what of them `disarm` hands on.

Rules:

1. JSON is handed on as what was parsed, unless it is hidden. Members ":serialized:",
   which Stable-Baselines3 decodes and unpickles, are not, however deep they are; nor
   is what the caller takes out.
2. Text is handed on if it is plain: UTF-8, printable, under a name that is no
   program's, and no pickle to whoever takes it for one.
3. All else is left behind: what starts like JSON and is none to us, source code,
   programs, anything of bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from safemodel._unpickle import opcodes as op
from safemodel.errors import quote
from safemodel.reports import LeftBehind

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._containers.sniff import Format

SERIALIZED = ":serialized:"
_Path: TypeAlias = "tuple[_Path, object] | None"
_TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".csv", ".tsv", ".log"})
_TEXT_NAMES = frozenset(
    {"_stable_baselines3_version", "version", "readme", "license", "licence", "notice"}
)
"""Without a suffix: others are programs to somebody, as Makefile and .profile."""
_LAYOUT = {ord(character): None for character in "\t\n\r"}
MAX_TEXT = 4 << 20
"""Bytes of the longest text that is kept."""
_MOST_FIELDS = 1000
_LONGEST_PATH = 500
_LINES = {
    **dict.fromkeys((op.INT, op.LONG, op.FLOAT, op.STRING, op.UNICODE), 1),
    **dict.fromkeys((op.PERSID, op.GET, op.PUT), 1),
}
_FIXED = {
    op.BININT1: 1, op.BININT2: 2, op.BININT: 4, op.BINFLOAT: 8, op.BINGET: 1,
    op.LONG_BINGET: 4, op.BINPUT: 1, op.LONG_BINPUT: 4, op.PROTO: 1, op.FRAME: 8,
}  # fmt: skip
_COUNTED = {
    op.SHORT_BINSTRING: 1, op.SHORT_BINBYTES: 1, op.SHORT_BINUNICODE: 1, op.LONG1: 1,
    op.BINSTRING: 4, op.BINBYTES: 4, op.BINUNICODE: 4, op.LONG4: 4,
    op.BINUNICODE8: 8, op.BINBYTES8: 8, op.BYTEARRAY8: 8,
}  # fmt: skip
_RESOLVING = frozenset({op.GLOBAL, op.INST, op.STACK_GLOBAL, op.EXT1, op.EXT2, op.EXT4})


class Members:
    """What is known of the members of the archives of models in one file.

    Args:
        clean: Takes out of a JSON value, in place, what else is not handed on, given
            the name of its member.

    Attributes:
        kinds: Prefix of an archive → name of each member that is kept → what it is.
        left: What is not kept.
    """

    def __init__(self, clean: Callable[[Any, str], None]) -> None:
        self._clean = clean
        self.kinds: dict[str, dict[str, Format]] = {}
        self.left: list[LeftBehind] = []
        self._fields = 0

    def keep_json(self, name: str, value: Any, data: bytes) -> bool:
        """Take out of a JSON value what is not handed on; say whether it is kept.

        Args:
            name: The member, with the names of the archives around it.
            value: What was parsed of it; changed in place.
            data: Its bytes.
        """
        if _is_hidden(name):
            self.leave(name, len(data), "hidden: settings of some program")
            return False
        try:
            text = json.dumps(value, allow_nan=False)
        except ValueError:
            self.leave(name, len(data), "JSON with a number that is out of range")
            return False
        # However it was spelled in the file, here it is spelled in one way.
        if f'"{SERIALIZED}"' in text:
            self._strip(name, value)
        self._clean(value, name)
        return True

    def keep_text(self, name: str, data: bytes) -> str | None:
        """Return the text of a member that is plain text; None if it is not kept."""
        why = "bytes of no model"
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.leave(name, len(data), why)
            return None
        if not text.translate(_LAYOUT).isprintable():
            why = "text with characters that do not show"
        elif not _is_text(name):
            why = "text under a name that is not one of a text"
        elif text.startswith("#!") or _resolves(data):
            why = "text that is a program or a pickle to other readers"
        else:
            return text
        self.leave(name, len(data), why)
        return None

    def leave(self, name: str, size: int, why: str) -> None:
        """Note a member that is not kept."""
        left = LeftBehind(kind="member", name=quote(name), size=size, why=why)
        self.left.append(left)

    def _strip(self, name: str, root: object) -> None:
        """Rule 1."""
        waiting: list[tuple[object, _Path]] = [(root, None)]
        while waiting:
            value, path = waiting.pop()
            if type(value) is list:
                pairs: list[tuple[object, object]] = list(enumerate(value))
            elif type(value) is dict:
                if SERIALIZED in value:
                    self._field(name, path, value.pop(SERIALIZED))
                pairs = list(value.items())
            else:
                continue
            for key, part in reversed(pairs):
                if type(part) in (dict, list):
                    waiting.append((part, (path, key)))

    def _field(self, name: str, path: _Path, value: object) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            return
        why = "base64 of a pickle that a loader would run"
        if self._fields == _MOST_FIELDS:
            why = "base64 of pickles; this field and all after it"
        keys: list[str] = []
        while path is not None:
            path, key = path
            keys.insert(0, quote(key))
        # A deep path is cut: its end says more than its start.
        inside = f"[{'.'.join(keys)[-_LONGEST_PATH:]}]" if keys else ""
        place = f"{quote(name)}{inside}.{SERIALIZED}"
        size = len(value) if type(value) is str else len(json.dumps(value))
        self.left.append(LeftBehind(kind="field", name=place, size=size, why=why))


def _is_hidden(name: str) -> bool:
    """Say whether a member, or a folder it is in, does not show."""
    return name.startswith(".") or "/." in name


def _is_text(name: str) -> bool:
    """Say whether a member has the name of a text that nobody runs."""
    file = name.rpartition("/")[2].lower()
    dot = file.rfind(".")
    if _is_hidden(name):
        return False
    return file in _TEXT_NAMES if dot < 0 else file[dot:] in _TEXT_SUFFIXES


def _resolves(data: bytes) -> bool:
    """Say whether bytes, taken for pickles, lead to an opcode that resolves a name.

    Nothing is made of them and no stack is kept: a reader that fails earlier than
    this walk runs nothing, and one that fails later cannot be.
    """
    at, end = 0, len(data)
    while at < end:
        code = data[at]
        if code in _RESOLVING:
            return True
        if code not in op.OPCODE_NAMES:
            return False
        at += 1
        if code in _LINES:
            newline = data.find(b"\n", at)
            if newline < 0:
                return False
            at = newline + 1
        elif code in _COUNTED:
            width = _COUNTED[code]
            at += width + int.from_bytes(data[at : at + width], "little")
        else:
            at += _FIXED.get(code, 0)
    return False
