"""JSON from a file: bounded before it is parsed, and without duplicate keys.

Rules:

1. Brackets nest at most as deep as the caller says: the parser recurses on them.
2. No number has more than 20 digits in a row, unless the caller allows more:
   converting long ones is not linear.
3. UTF-8, no lone surrogates, no duplicate key in any object, and none of the words
   beyond JSON (NaN, Infinity).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from safemodel.errors import LimitExceededError, MalformedFileError, quote

if TYPE_CHECKING:
    from safemodel.limits import Limits

_MAX_DIGITS = 20
# The closing quote is optional, so that a string without end matches once, to the end
# of the text: failing there would be tried again from every quote within it. Nothing is
# given back, or each escape of a long text would be remembered.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"[{]}", b"(())")


def parse_json(
    text: bytes, *, max_depth: int, limits: Limits, max_digits: int = _MAX_DIGITS
) -> Any:
    """Return the value of a JSON text.

    Args:
        text: The text, UTF-8.
        max_depth: Arrays and objects within each other.
        limits: `Limits.max_header_bytes` applies.
        max_digits: Digits in a row of a number (rule 2).

    Raises:
        LimitExceededError: The text is too long.
        MalformedFileError: It is not JSON, or breaks a rule of this module.
    """
    check_json(text, max_depth=max_depth, limits=limits, max_digits=max_digits)
    return load_json(decoded(text), unique=True)


def check_json(
    text: bytes, *, max_depth: int, limits: Limits, max_digits: int = _MAX_DIGITS
) -> int:
    """Check what must hold before parsing; return how many names the text has.

    Raises:
        LimitExceededError: The text is too long.
        MalformedFileError: It breaks rule 1 or 2.
    """
    if len(text) > limits.max_header_bytes:
        raise LimitExceededError(
            "max_header_bytes", allowed=limits.max_header_bytes, requested=len(text)
        )
    if b"\\" in text:
        outside = STRING.sub(b"", text)
    else:
        outside = b"".join(text.split(b'"')[::2])
    brackets = outside.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(max_depth):
        # Takes away the innermost level, so a text this deep has none left after it.
        brackets = brackets.replace(b"()", b"")
    if brackets:
        raise MalformedFileError(
            f"the JSON text nests more than {max_depth} deep, or its brackets do not"
            " match"
        )
    if re.search(rb"[0-9]{%d}" % (max_digits + 1), outside):
        raise MalformedFileError(
            f"the JSON text has a number of more than {max_digits} digits"
        )
    return outside.count(b":")


def decoded(text: bytes) -> str:
    """Return a text as such; a caller may then let go of its bytes.

    Raises:
        MalformedFileError: It is not UTF-8.
    """
    try:
        return text.decode("utf-8")
    except ValueError as error:
        raise MalformedFileError(f"not JSON: {quote(str(error))}") from error


def load_json(text: str, *, unique: bool) -> Any:
    """Parse a text that `check_json` has accepted.

    Args:
        text: The text, `decoded`.
        unique: Whether to refuse duplicate keys here; a caller who knows how many
            names there must be does so faster by counting.

    Raises:
        MalformedFileError: It is not JSON, or breaks rule 3.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique if unique else None,
            parse_constant=_refuse_constant,
        )
        if "\\u" in text:
            # Lone surrogates, which only an escape can make, cannot be encoded.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise MalformedFileError(f"not JSON: {quote(str(error))}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dictionary, if no key is there twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has two equal keys")
    return members


def _refuse_constant(word: str) -> NoReturn:
    """Raise for a word that JSON does not have."""
    raise ValueError(f"{word} is not JSON")
