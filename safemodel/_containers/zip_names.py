"""Which names the records of an archive may have.

Rules, for every name, whatever the container:

1. No control character, no backslash, not absolute, no drive letter (C18).
2. No component that is empty, ``.`` or ``..``; a directory may end in one slash.
3. No name is longer than 4,096 characters: putting the marks of one in order takes
   quadratic time.
4. No two names that some file system or reader takes for the same: none equal after
   case folding and NFC normalisation (C7, C8).
"""

from __future__ import annotations

import re
from unicodedata import normalize

from safemodel.errors import MalformedFileError, quote

_MAX_CHARACTERS = 4096
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|^/|^[A-Za-z]:")


def check_names(names: list[str]) -> None:
    """Check every name of an archive, directories included.

    Raises:
        MalformedFileError: A name, or a pair of names, breaks a rule.
    """
    joined = f"/{'/'.join(names)}/"
    # Whole-text searches decide for ordinary archives; only what they find odd is
    # looked at name by name.
    if (
        not joined.isprintable()
        or "\\" in joined
        or ":" in joined
        or "//" in joined
        or "/./" in joined
        or "/../" in joined
    ):
        for name in names:
            check_name(name)
    if len(max(names, key=len, default="")) > _MAX_CHARACTERS:
        raise MalformedFileError(
            f"a record's name has more than {_MAX_CHARACTERS:,} characters"
        )
    folded = set(map(str.lower, names)) if joined.isascii() else set(map(_fold, names))
    if len(folded) != len(names) or "//" in joined:
        _check_collisions(names)


def check_name(name: str) -> None:
    """Check one name by itself.

    Raises:
        MalformedFileError: It breaks rule 1 or 2.
    """
    if _FORBIDDEN.search(name):
        raise MalformedFileError("a record's name is not a plain path", record=name)
    for component in name.removesuffix("/").split("/"):
        if component in {"", ".", ".."}:
            raise MalformedFileError(
                "a record's name has an empty, '.' or '..' component", record=name
            )


def _fold(name: str) -> str:
    """Return the form in which two confusable names are equal."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _check_collisions(names: list[str]) -> None:
    """Raise if two names are the same to some reader."""
    seen: dict[str, str] = {}
    for name in names:
        folded = _fold(name.removesuffix("/"))
        if folded in seen:
            other = quote(seen[folded])
            raise MalformedFileError(
                f"some reader takes its name for that of record '{other}'", record=name
            )
        seen[folded] = name
