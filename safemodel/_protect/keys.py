"""Keys of protected files: 256 bits, an id that says nothing of them, and a text form.

Rules:

1. A key is shown by its id only: in ``repr``, in errors, in what errors carry (cause,
   context, local variables of the frames they passed), in reports. It cannot be
   pickled, has no attribute dictionary and no conversion to bytes.
2. The id is public: 16 bytes of HKDF-SHA-256 under a label of its own. Every other use
   of a key has a label of its own, too.
3. The text form is one line, so that it fits a file and an environment variable, and
   begins with a word that secret scanners can look for::

       safemodel-key-1:<id, 32 digits>:<key, 64 digits>:<check, 8 digits>

   Digits are hexadecimal and lower case, so that a key has one text; the check is the
   beginning of the SHA-256 of all before its colon. A file may have comments (``#``)
   and empty lines around it.
4. A key file is a regular file of at most 4,096 bytes, owned by the user or by root,
   that nobody else may read or write; the names in its path may be links.
5. A key file appears whole or not at all, with mode 0600, and never replaces one: what
   was protected with a key is lost with it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NoReturn, Protocol, Self, final

from safemodel._protect.owned_files import NOT_READ, check_of, only_line, read_owned
from safemodel.errors import KeyFormatError, KeyRequiredError, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._types import StrPath

KEY_BYTES = 32
ID_BYTES = 16
_MAX_TEXT = 4096
_PREFIX = "safemodel-key-"
_VERSION = "1"
_LINE = re.compile(
    rf"{_PREFIX}{_VERSION}:([0-9a-f]{{{2 * ID_BYTES}}})"
    rf":([0-9a-f]{{{2 * KEY_BYTES}}}):([0-9a-f]{{8}})"
)
_COMMENT = """\
# Key of files protected by safemodel. Whoever has it can undo the protection and forge
# it; without it, nobody can restore them: keep a copy in a safe place.
"""
# scrypt: 128 * n * r bytes of memory; OWASP asks for at least n = 2**17, r = 8, p = 1.
_MIN_N, _MAX_N = 1 << 15, 1 << 20
_MIN_R, _MAX_R, _MAX_P = 8, 32, 16
_MAX_SCRYPT_BYTES = 1 << 30
_MIN_SALT, _MAX_SALT = 16, 1024
_MAX_PASSPHRASE = 1024


class KeyProvider(Protocol):
    """Where keys come from: a KMS, a vault, a `KeyRing`."""

    def get(self, key_id: str, /) -> ProtectionKey:
        """Return the key with this id, 32 lower-case hexadecimal digits.

        Raises:
            KeyRequiredError: There is none.
        """


@final
class ProtectionKey:
    """A key of 256 bits. Two are equal if their bits are; comparing takes one time.

    Args:
        secret: 32 bytes that nobody can guess, as a KMS gives them.

    Raises:
        ValueError: It is not 32 bytes.

    Attributes:
        id: Which key it is, as 32 hexadecimal digits; public.
    """

    __slots__ = ("_secret", "id")
    _secret: bytes
    id: str

    def __init__(self, secret: bytes) -> None:
        object.__setattr__(self, "id", "of nothing")  # shown if it is refused
        if type(secret) is not bytes or len(secret) != KEY_BYTES:
            del secret
            raise ValueError(f"a key is {KEY_BYTES} bytes")
        object.__setattr__(self, "_secret", secret)
        object.__setattr__(self, "id", self._derive("key id", ID_BYTES).hex())

    @classmethod
    def generate(cls) -> Self:
        """Return a new key, from the random numbers of the operating system."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_file(cls, path: StrPath, *, shared: bool = False) -> Self:
        """Return the key of a key file.

        Args:
            path: The file.
            shared: Accept a file that others may read too, as secrets mounted into a
                container often are.

        Raises:
            KeyFormatError: It is not a key file, or others may read or write it.
            OSError: It cannot be read.
        """
        found = _parsed(read_owned(path, _MAX_TEXT, others=0 if shared else NOT_READ))
        if isinstance(found, str):
            raise KeyFormatError(f"{quote(str(path))}: {found}")
        return cls(found)

    @classmethod
    def from_env(cls, name: str) -> Self:
        """Return the key that an environment variable holds, in the text form.

        Raises:
            KeyFormatError: It holds something else.
            KeyRequiredError: It is not set, or empty.
        """
        if not os.environ.get(name):
            raise KeyRequiredError(f"the environment variable {quote(name)} is not set")
        found = _parsed(os.environ[name].encode("ascii", "replace"))
        if isinstance(found, str):
            raise KeyFormatError(f"environment variable {quote(name)}: {found}")
        return cls(found)

    @classmethod
    def from_passphrase(
        cls, passphrase: str, salt: bytes, *, n: int = 1 << 17, r: int = 8, p: int = 1
    ) -> Self:
        """Return the key that scrypt makes of a passphrase (RFC 7914).

        A passphrase is as strong as it is hard to guess, and a protected file lets
        anyone guess: prefer `generate`.

        Args:
            passphrase: Any text; brought to Unicode's form NFC first, so that two
                keyboards give one key.
            salt: 16 bytes or more, random, public, one for each passphrase.
            n: Cost, a power of two from 2**15 to 2**20. It takes ``128 * n * r`` bytes.
            r: Block size, at most 32.
            p: Parallelisation, at most 16.

        Raises:
            ValueError: A parameter is out of bounds; the passphrase is empty, longer
                than 1,024 characters or not Unicode text; there is too little memory.
        """
        found = _refused(salt, n, r, p) or _scrypt(passphrase, salt, n, r, p)
        del passphrase
        if isinstance(found, str):
            raise ValueError(found)  # noqa: TRY004 - what it says, not its type
        return cls(found)

    def to_file(self, path: StrPath) -> None:
        """Write a new key file, for the user alone to read.

        Raises:
            FileExistsError: There is something of that name; it stays as it is.
            OSError: Writing failed, or the file system has no modes or hard links.
        """
        from pathlib import Path

        from safemodel._protect.key_files import write_private

        write_private(Path(path), self._text, len(self._text()))

    def _derive(
        self, label: str, length: int, *, salt: bytes = b"", info: bytes = b""
    ) -> bytes:
        """Return a key for one use, by HKDF-SHA-256 (RFC 5869).

        Args:
            label: The use. No two uses share a label; it is printable ASCII.
            length: Bytes.
            salt: Random bytes that make it another key for each file.
            info: What else it depends on.
        """
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        # The zero byte ends the label, so that no label and info read as another's.
        bound = b"safemodel " + label.encode("ascii") + b"\0" + info
        return HKDF(SHA256(), length, salt, bound).derive(self._secret)

    def _text(self) -> bytes:
        """Return the content of a key file."""
        line = f"{_PREFIX}{_VERSION}:{self.id}:{self._secret.hex()}"
        return f"{_COMMENT}{line}:{check_of(line)}\n".encode("ascii")

    def __eq__(self, other: object) -> bool:
        if type(other) is not ProtectionKey:
            return NotImplemented
        from hmac import compare_digest

        return compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.id)  # public, unlike the key

    def __repr__(self) -> str:
        return f"<ProtectionKey {self.id}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a key does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a key does not change")

    def __reduce_ex__(self, protocol: object = None) -> NoReturn:
        raise TypeError("a key is not pickled: write it to a file with to_file()")

    __reduce__ = __getstate__ = __reduce_ex__

    def __copy__(self) -> Self:
        return self  # it does not change, and one copy of a secret is enough

    def __deepcopy__(self, _: object) -> Self:
        return self


class KeyRing:
    """Several keys in memory, found by id: the old and the new one while rotating.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[ProtectionKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def add(self, key: ProtectionKey) -> None:
        """Take another key."""
        self._keys[key.id] = key

    def remove(self, key_id: str) -> None:
        """Forget a key, if it is there."""
        self._keys.pop(key_id, None)

    def get(self, key_id: str, /) -> ProtectionKey:
        """Return the key with this id.

        Raises:
            KeyRequiredError: There is none.
        """
        found = self._keys.get(key_id)
        if found is None:
            raise no_such_key(key_id, given=tuple(self._keys))
        return found

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}>"


def key_for(key_id: str, keys: ProtectionKey | KeyProvider) -> ProtectionKey:
    """Return the key with this id, from one key or from where keys come from.

    Raises:
        KeyRequiredError: There is none, or it is another one.
        TypeError: What keys come from returned something else.
    """
    key: object = keys if isinstance(keys, ProtectionKey) else keys.get(key_id)
    if type(key) is not ProtectionKey:
        # Its type alone: it may be the bits of one.
        kind = type(key).__name__
        del key
        raise TypeError(f"a KeyProvider returns a ProtectionKey, not {kind}")
    if key.id != key_id:
        raise no_such_key(key_id, given=(key.id,))
    return key


def no_such_key(key_id: str, *, given: tuple[str, ...]) -> KeyRequiredError:
    """Return the error of a key that is not there."""
    there = f"given: {', '.join(given[:4])}" if given else "none is given"
    return KeyRequiredError(
        f"key {quote(key_id)} is needed, {there}", key_id=key_id, given=given
    )


def _parsed(text: bytes | str) -> bytes | str:
    """Return the key that a text holds, or what is wrong with it.

    Nothing is raised here: a traceback would hold on to the text (rule 1).
    """
    if isinstance(text, str):
        return text
    line, problem = only_line(text, _MAX_TEXT, "key")
    if problem:
        return problem
    found = _LINE.fullmatch(line)
    if found is None:
        version = re.match(rf"{_PREFIX}([0-9]{{1,4}}):", line)
        if version is not None and version[1] != _VERSION:
            return "a key of another version of this format"
        return "not a key, or damaged"
    key_id, secret, check = found.groups()
    from hmac import compare_digest

    if not compare_digest(check, check_of(line.rpartition(":")[0])):
        return "the checksum does not match: the key is damaged"
    if ProtectionKey(bytes.fromhex(secret)).id != key_id:
        return "the key is not the one its id names"
    return bytes.fromhex(secret)


def _refused(salt: bytes, n: int, r: int, p: int) -> str:
    """Return why scrypt's parameters are not safe to use or to pay for, or ""."""
    if not (type(salt) is bytes and _MIN_SALT <= len(salt) <= _MAX_SALT):
        return f"a salt is {_MIN_SALT} to {_MAX_SALT:,} bytes"
    if not (_MIN_N <= n <= _MAX_N and n & (n - 1) == 0):
        return f"n is a power of two from {_MIN_N:,} to {_MAX_N:,}"
    if not (_MIN_R <= r <= _MAX_R and 1 <= p <= _MAX_P):
        return f"r is {_MIN_R} to {_MAX_R}, p is 1 to {_MAX_P}"
    if 128 * n * r > _MAX_SCRYPT_BYTES:
        return f"scrypt would take {128 * n * r:,} bytes"
    return ""


def _scrypt(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes | str:
    """Return the key of a passphrase, or what is wrong with it."""
    import unicodedata

    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if type(passphrase) is not str:
        return "a passphrase is text"
    if not 0 < len(passphrase) <= _MAX_PASSPHRASE:
        return f"a passphrase has 1 to {_MAX_PASSPHRASE:,} characters"
    # The error of `encode` would hold the passphrase.
    if any("\ud800" <= character <= "\udfff" for character in passphrase):
        return "the passphrase is not Unicode text"
    text = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    try:
        return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(text)
    except MemoryError:
        # Its traceback would hold this frame.
        return f"there is too little memory: scrypt takes {128 * n * r:,} bytes"
