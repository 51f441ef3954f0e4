"""The header of a ``.npy`` file: what the array is, and where its bytes start.

Rules:

1. Magic, version 1.0, 2.0 or 3.0, and a length within the file and within bounds.
2. The text is one dictionary literal with exactly the keys ``descr``,
   ``fortran_order`` and ``shape``, in any order, padded with spaces and a newline.
3. Read by the grammar below and by nothing else: strings without escapes, decimal
   integers of at most 20 digits, True and False, tuples and lists at most 16 deep.
4. ``descr`` is a string or a list of fields: (name, descr) or (name, descr, shape),
   where name is a string or a pair of strings.
5. ``shape`` is a tuple of at most `Limits.max_dimensions` integers, none negative.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from safemodel.errors import LimitExceededError, MalformedFileError, TruncatedFileError

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel.limits import Limits

MAGIC = b"\x93NUMPY"
_VERSION_AT = len(MAGIC)
_LENGTH_AT = _VERSION_AT + 2
_LENGTH_BYTES = {b"\x01\0": 2, b"\x02\0": 4, b"\x03\0": 4}
_MAX_TEXT_BYTES = 1 << 20
_MAX_DEPTH = 16
_KEYS = {"descr", "fortran_order", "shape"}
_FIELD_LENGTHS = (2, 3)
_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<string>'[^'\\\n]*'|"[^"\\\n]*")
      | (?P<integer>0|[1-9][0-9]{0,19})L?(?![0-9.A-Za-z_])
      | (?P<word>True|False)(?![A-Za-z0-9_])
      | (?P<mark>[][(){},:])
    )""",
    re.VERBOSE,
)

Descr: TypeAlias = str | list[Any]


class NpyHeader(NamedTuple):
    """What a ``.npy`` header says.

    Attributes:
        descr: The dtype: a string, or a list of fields.
        fortran_order: Whether the first axis varies fastest.
        shape: Length of each axis.
        data_offset: Where the array's bytes start.
    """

    descr: Descr
    fortran_order: bool
    shape: tuple[int, ...]
    data_offset: int


def read_npy_header(source: Source, *, limits: Limits) -> NpyHeader:
    """Read the header of a ``.npy`` file.

    Raises:
        LimitExceededError: The header is too long or the array has too many axes.
        MalformedFileError: It breaks a rule of this module.
    """
    text, data_offset = _read_text(source, limits)
    value = _Parser(text).parse()
    if type(value) is not dict or value.keys() != _KEYS:
        _refuse("it has not exactly the keys descr, fortran_order and shape")
    descr, fortran_order, shape = (
        value["descr"],
        value["fortran_order"],
        value["shape"],
    )
    if type(fortran_order) is not bool:
        _refuse("fortran_order is neither True nor False")
    _check_shape(shape)
    if len(shape) > limits.max_dimensions:
        raise LimitExceededError(
            "max_dimensions", allowed=limits.max_dimensions, requested=len(shape)
        )
    _check_descr(descr)
    return NpyHeader(descr, fortran_order, shape, data_offset)


def _read_text(source: Source, limits: Limits) -> tuple[str, int]:
    """Return the header's text and where it ends (rule 1)."""
    start = bytes(source.view(0, min(_LENGTH_AT + 4, source.size)))
    if not start.startswith(MAGIC):
        _refuse("it does not start with the magic of the format")
    version = start[_VERSION_AT:_LENGTH_AT]
    if len(version) == 2 and version not in _LENGTH_BYTES:
        _refuse(f"its version {version[0]}.{version[1]} is none of 1.0, 2.0, 3.0")
    width = _LENGTH_BYTES.get(version, 2)
    text_at = _LENGTH_AT + width
    if len(start) < text_at:
        raise TruncatedFileError("npy header", needed=text_at, available=source.size)
    length = int.from_bytes(start[_LENGTH_AT:text_at], "little")
    allowed = min(limits.max_header_bytes, _MAX_TEXT_BYTES)
    if length > source.size - text_at:
        raise TruncatedFileError(
            "npy header", needed=length, available=source.size - text_at
        )
    if length > allowed:
        raise LimitExceededError("max_header_bytes", allowed=allowed, requested=length)
    encoding = "utf-8" if version == b"\x03\0" else "latin-1"
    try:
        text = source.read(text_at, length).decode(encoding)
    except UnicodeDecodeError as error:
        raise MalformedFileError("npy header: it is not UTF-8") from error
    return text, text_at + length


def _check_shape(shape: Any) -> None:
    """Check that a value is a tuple of lengths (rule 5); the grammar has no minus."""
    if type(shape) is not tuple or any(type(length) is not int for length in shape):
        _refuse("a shape is not a tuple of lengths")


def _check_descr(descr: Any) -> None:
    """Check that a value describes a dtype (rule 4)."""
    # A list of what is still to check; the grammar bounds how deep it goes.
    waiting = [descr]
    while waiting:
        current = waiting.pop()
        if type(current) is str:
            continue
        if type(current) is not list or not current:
            _refuse("descr is neither a string nor a list of fields")
        for field in current:
            if type(field) is not tuple or len(field) not in _FIELD_LENGTHS:
                _refuse("a field of descr is not (name, descr) or (name, descr, shape)")
            if not _is_field_name(field[0]):
                _refuse("a field of descr has no proper name")
            if len(field) > 2 and type(field[2]) is not int:
                _check_shape(field[2])
            waiting.append(field[1])


def _is_field_name(name: Any) -> bool:
    """Tell whether a value is a field's name, or a pair of title and name."""
    if type(name) is tuple:
        return len(name) == 2 and all(type(part) is str for part in name)
    return type(name) is str


def _refuse(reason: str) -> NoReturn:
    """Raise the error for a header that breaks a rule."""
    raise MalformedFileError(f"npy header: {reason}")


class _Parser:
    """Reads one literal of the grammar of rule 3; recursion is bounded by it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Any:
        """Return the value of the whole text."""
        value = self._value(0)
        # Padding after the closing brace; numpy ends it with a newline.
        if self._text[self._at :].strip(" \t\r\n"):
            _refuse("something follows the dictionary")
        return value

    def _token(self) -> re.Match[str]:
        """Return the next token."""
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            _refuse("its text is not the literal that it must be")
        self._at = match.end()
        return match

    def _value(self, depth: int, match: re.Match[str] | None = None) -> Any:
        """Return the value that starts here, or with a token already read."""
        match = match or self._token()
        token = match[match.lastgroup or 0]
        if match.lastgroup == "string":
            return token[1:-1]
        if match.lastgroup == "integer":
            return int(token)
        if match.lastgroup == "word":
            return token == "True"
        if depth == _MAX_DEPTH:
            _refuse(f"it nests more than {_MAX_DEPTH} deep")
        if token == "{":
            return self._dictionary(depth + 1)
        if token == "[":
            return self._items("]", depth + 1)[0]
        if token == "(":
            items, commas = self._items(")", depth + 1)
            if len(items) == 1 and not commas:
                _refuse("a tuple of one value has no comma")
            return tuple(items)
        return _refuse("a value is missing")

    def _items(self, closing: str, depth: int) -> tuple[list[Any], int]:
        """Return the values up to a closing bracket, and how many commas there are."""
        items: list[Any] = []
        commas = 0
        while (match := self._token())["mark"] != closing:
            items.append(self._value(depth, match))
            mark = self._token()["mark"]
            if mark == closing:
                break
            if mark != ",":
                _refuse("two values have no comma between them")
            commas += 1
        return items, commas

    def _dictionary(self, depth: int) -> dict[str, Any]:
        """Return a dictionary with text keys, none of them twice."""
        members: dict[str, Any] = {}
        while (match := self._token())["mark"] != "}":
            key = self._value(depth, match)
            if type(key) is not str or key in members:
                _refuse("a key of the dictionary is not text, or there twice")
            if self._token()["mark"] != ":":
                _refuse("a key of the dictionary has no value")
            members[key] = self._value(depth)
            mark = self._token()["mark"]
            if mark == "}":
                break
            if mark != ",":
                _refuse("two values have no comma between them")
        return members
