"""Ed25519 keys for readers who hold no protection key, and the files they are in.

1. A private key is PEM (PKCS #8, not encrypted) or its 32 bytes; a public key is PEM
   (SubjectPublicKeyInfo) or its 32 bytes. Neither file has more than 4,096 bytes.
2. A private key is read and written as a protection key is: for the user alone.
3. No error and none of our frames that it passed holds a private key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safemodel._protect.owned_files import NOT_READ, read_owned
from safemodel.errors import KeyFormatError, quote

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._types import StrPath

RAW_BYTES = 32
_MAX_BYTES = 4096
_ENCRYPTED = b"ENCRYPTED"


def check_signer(signer: object) -> None:
    """Raise unless it signs, or is nobody; the error does not show what else it is."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if signer is not None and not isinstance(signer, Ed25519PrivateKey):
        kind = type(signer).__name__
        del signer
        raise TypeError(f"signer is an Ed25519PrivateKey, not {kind}")


def write_signing_key(private: StrPath, public: StrPath) -> bytes:
    """Write a new pair of keys as PEM; return the 32 bytes of the public one.

    Args:
        private: The file for who signs; for the user alone to read.
        public: The file to hand to readers.

    Raises:
        FileExistsError: There is something of one of the names; it stays as it is.
        OSError: Writing failed, or the file system has no modes or hard links.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from safemodel._protect.key_files import write_private
    from safemodel._rewrite.output import whole_file

    key = Ed25519PrivateKey.generate()
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    size = len(key.private_bytes(*form))
    shown = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    # The public one gets its name last: whoever sees it can count on the other.
    with whole_file(Path(public), overwrite=False, digests=False) as (out, commit):
        out.write(shown)
        out.finish()
        write_private(Path(private), lambda: key.private_bytes(*form), size)
        commit()
    return key.public_key().public_bytes_raw()


def read_signing_key(path: StrPath, *, shared: bool = False) -> Ed25519PrivateKey:
    """Return the private key of a file.

    Args:
        path: The file.
        shared: Accept a file that others may read too, as secrets mounted into a
            container often are.

    Raises:
        KeyFormatError: It is not an Ed25519 key, or others may read or write it.
        OSError: It cannot be read.
    """
    found = _private(
        read_owned(Path(path), _MAX_BYTES, others=0 if shared else NOT_READ)
    )
    if isinstance(found, str):
        raise KeyFormatError(f"{quote(str(path))}: {found}")
    return found


def read_public_key(path: StrPath) -> bytes:
    """Return the 32 bytes of the public key of a file.

    Raises:
        KeyFormatError: It is not an Ed25519 public key.
        OSError: It cannot be read.
    """
    found = _public(read_owned(Path(path), _MAX_BYTES, others=0))
    if isinstance(found, str):
        raise KeyFormatError(f"{quote(str(path))}: {found}")
    return found


def _private(data: bytes | str) -> Ed25519PrivateKey | str:
    """Return a private key, or what is wrong with it (rule 3)."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if isinstance(data, str):
        return data
    if len(data) == RAW_BYTES:
        return Ed25519PrivateKey.from_private_bytes(data)
    if reason := _no_pem(data):
        return reason
    if _ENCRYPTED in data:
        return "the key is encrypted with a passphrase; decrypt it first"
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "not a private key in PEM, or damaged"
    return key if isinstance(key, Ed25519PrivateKey) else "not an Ed25519 key"


def _public(data: bytes | str) -> bytes | str:
    """Return the bytes of a public key, or what is wrong with it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if isinstance(data, str) or len(data) == RAW_BYTES:
        return data
    if reason := _no_pem(data):
        return reason
    if b"PRIVATE KEY" in data:
        return "a private key; readers get the public one"
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return "not a public key in PEM, or damaged"
    if not isinstance(key, Ed25519PublicKey):
        return "not an Ed25519 key"
    return key.public_bytes_raw()


def _no_pem(data: bytes) -> str:
    """Return why bytes are not worth parsing, or ""."""
    if len(data) > _MAX_BYTES:
        return f"a key file has at most {_MAX_BYTES:,} bytes"
    if not data.lstrip().startswith(b"-----BEGIN "):
        return f"not a key: neither PEM nor {RAW_BYTES} bytes"
    return ""
