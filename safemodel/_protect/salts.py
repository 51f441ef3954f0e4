"""Salts of keys that come of passphrases: with both, the key can be made again.

A salt file is one line, with comments (``#``) and empty lines around it::

    safemodel-salt-1:<key id, 32 digits>:<salt, 64 digits>:<n>:<r>:<p>:<check, 8 digits>

Digits are hexadecimal and lower case; n, r and p are decimal, the costs of scrypt; the
check is the beginning of the SHA-256 of all before its colon. It is no secret, but who
writes it decides how dear guesses are: others must not.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safemodel._protect.keys import ID_BYTES, ProtectionKey
from safemodel._protect.owned_files import NOT_WRITTEN, check_of, only_line, read_owned
from safemodel.errors import KeyFormatError, quote

if TYPE_CHECKING:
    from safemodel._types import StrPath

SALT_BYTES = 32
_MAX_TEXT = 4096
_N, _R, _P = 1 << 17, 8, 1
_LINE = re.compile(
    rf"safemodel-salt-1:([0-9a-f]{{{2 * ID_BYTES}}}):([0-9a-f]{{{2 * SALT_BYTES}}})"
    r":([1-9][0-9]{0,6}):([1-9][0-9]?):([1-9][0-9]?):([0-9a-f]{8})"
)
_COMMENT = """\
# Salt of a key that safemodel made from a passphrase. It is no secret, but without it
# the passphrase gives another key: keep a copy.
"""


class _Salt(NamedTuple):
    key_id: str
    salt: bytes
    n: int
    r: int
    p: int


def new_key(passphrase: str, path: StrPath) -> ProtectionKey:
    """Return the key of a passphrase and a new salt, which is written to a file.

    Raises:
        FileExistsError: There is something of that name; it stays as it is.
        OSError: Writing failed, or the file system has no modes or hard links.
        ValueError: The passphrase is empty, too long or not Unicode text.
    """
    from safemodel._protect.key_files import write_private

    salt = secrets.token_bytes(SALT_BYTES)
    key = ProtectionKey.from_passphrase(passphrase, salt, n=_N, r=_R, p=_P)
    text = _text(_Salt(key.id, salt, _N, _R, _P))
    write_private(Path(path), lambda: text, len(text))
    return key


def same_key(passphrase: str, path: StrPath) -> ProtectionKey:
    """Return the key of a passphrase and the salt in a file.

    Raises:
        KeyFormatError: The passphrase is another one; it is not a salt file, or others
            may write it.
        OSError: The file cannot be read.
        ValueError: The passphrase is empty, too long or not Unicode text; the file asks
            for costs that are out of bounds.
    """
    found = _parsed(read_owned(Path(path), _MAX_TEXT, others=NOT_WRITTEN))
    if isinstance(found, str):
        raise KeyFormatError(f"{quote(str(path))}: {found}")
    key = ProtectionKey.from_passphrase(
        passphrase, found.salt, n=found.n, r=found.r, p=found.p
    )
    if key.id != found.key_id:
        raise KeyFormatError(
            f"{quote(str(path))}: the passphrase is not the one of key {found.key_id}"
        )
    return key


def _text(salt: _Salt) -> bytes:
    """Return the content of a salt file."""
    line = f"safemodel-salt-1:{salt.key_id}:{salt.salt.hex()}:{salt.n}:{salt.r}"
    line = f"{line}:{salt.p}"
    return f"{_COMMENT}{line}:{check_of(line)}\n".encode("ascii")


def _parsed(text: bytes | str) -> _Salt | str:
    """Return the salt that a text holds, or what is wrong with it."""
    if isinstance(text, str):
        return text
    line, problem = only_line(text, _MAX_TEXT, "salt")
    if problem:
        return problem
    found = _LINE.fullmatch(line)
    if found is None:
        return "not a salt, or damaged"
    if found[6] != check_of(line.rpartition(":")[0]):
        return "the checksum does not match: the salt is damaged"
    key_id, salt, *costs, _ = found.groups()
    return _Salt(key_id, bytes.fromhex(salt), *map(int, costs))
