"""The operands that are text lines, the strings of Python 2, and names of globals.

Strict ASCII grammars: where two unpicklers could read a line differently ("0x10",
"1_000", Arabic digits), the line is malformed. Every function raises
`MalformedFileError` or `LimitExceededError` and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    quote,
)

if TYPE_CHECKING:
    from safemodel.limits import Limits

_INTEGER = re.compile(rb"-?[0-9]+")
_DECIMAL = re.compile(rb"-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,6})?|inf|nan)")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\n": b"",
}


def check_name(module: str, name: str, limits: Limits) -> None:
    """Bound the name of a global: a memo puts one long text into many names."""
    longest = max(len(module), len(name))
    if longest > limits.max_key_bytes:
        raise LimitExceededError(
            "max_key_bytes", allowed=limits.max_key_bytes, requested=longest
        )


def text_line(data: bytes, position: int) -> tuple[bytes, int]:
    """Return the line at a position without its newline, and where the next starts."""
    end = data.find(b"\n", position)
    if end < 0:
        raise TruncatedFileError(
            "text line without end",
            needed=len(data) - position + 1,
            available=len(data) - position,
            position=position,
        )
    return data[position:end], end + 1


def decode_integer(line: bytes, limits: Limits) -> int:
    """Return a decimal integer; its length is bounded before it is converted."""
    digits = limits.max_integer_bytes * 5 // 2
    if len(line) > digits:
        raise LimitExceededError(
            "max_integer_bytes",
            allowed=limits.max_integer_bytes,
            requested=len(line) * 2 // 5,
        )
    if not _INTEGER.fullmatch(line):
        raise MalformedFileError(f"not a decimal integer: {quote(line)}")
    return int(line)


def decode_int_line(line: bytes, limits: Limits) -> int | bool:
    """Return the operand of INT: "00" and "01" are the booleans of protocol 1."""
    if line == b"00":
        return False
    if line == b"01":
        return True
    return decode_integer(line, limits)


def decode_long_line(line: bytes, limits: Limits) -> int:
    """Return the operand of LONG, with or without its trailing "L"."""
    return decode_integer(line[:-1] if line.endswith(b"L") else line, limits)


def decode_float_line(line: bytes) -> float:
    """Return the operand of FLOAT."""
    if len(line) > 400 or not _DECIMAL.fullmatch(line):
        raise MalformedFileError(f"not a decimal number: {quote(line)}")
    return float(line)


def _unescape(match: re.Match[bytes]) -> bytes:
    what = match.group(1)
    if what[:1] == b"x" and len(what) == 3:
        return bytes((int(what[1:], 16),))
    if what[:1] in b"01234567":
        return bytes((int(what, 8) & 0xFF,))
    return _SIMPLE_ESCAPES.get(what, b"\\" + what)


def decode_quoted(line: bytes) -> bytes:
    """Return the bytes of a STRING operand: a quoted Python 2 literal."""
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise MalformedFileError(f"STRING is not quoted: {quote(line)}")
    body = line[1:-1]
    return _ESCAPE.sub(_unescape, body) if b"\\" in body else body


def decode_raw_unicode(line: bytes) -> str:
    """Return the text of a UNICODE operand (raw-unicode-escape)."""
    try:
        return line.decode("raw-unicode-escape")
    except UnicodeDecodeError as error:
        raise MalformedFileError(f"UNICODE does not decode: {quote(line)}") from error


def decode_utf8(raw: bytes) -> str:
    """Return UTF-8 text; lone surrogates pass, as pickle itself writes them."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise MalformedFileError(f"text is not UTF-8: {quote(raw)}") from error
