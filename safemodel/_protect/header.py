"""What everyone may read of a seal: 220 bytes of fixed fields before the sealed ones.

Little-endian numbers, in this order:

1. ``SFMDSEAL`` (8 bytes),
2. the version of the format, 1 (2),
3. flags (2): 1 the tensors are encrypted, 2 the seal is signed; no others,
4. the id of the key (16),
5. the file id (32): random, another one for each protected file,
6. the epoch (8), below 2**63,
7. when it expires, in seconds since 1970 (8), below 2**63; 0 for never,
8. the bytes of all tensors (8),
9. the bytes that are sealed, with their tag (8),
10. the salt of the seal (32),
11. the root of the public tags (32), and
12. the Ed25519 key that signed (32); both zero without a signature,
13. what the key of the seal commits to (32).

Nothing here can be believed before the seal is open, or the signature verified.
"""

from __future__ import annotations

from safemodel._protect.encoding import Reader, Writer
from safemodel._protect.keys import ID_BYTES
from safemodel._protect.tags import FILE_ID_BYTES, TAG_BYTES
from safemodel._value import Value
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    TruncatedFileError,
    UnsupportedFormatError,
    VerificationError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits

MAGIC = b"SFMDSEAL"
VERSION = 1
HEADER_BYTES = 220
COMMITMENT_BYTES = 32
SALT_BYTES = 32
SIGNER_BYTES = 32
SIGNATURE_BYTES = 64
MAX_TIME = (1 << 63) - 1
_CONFIDENTIAL, _SIGNED = 1, 2


class Header(Value):
    """The public fields of a seal.

    Attributes:
        key_id: Id of the key, as `ProtectionKey.id`.
        file_id: The file's own id.
        epoch: Which of the file's versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether the tensors are encrypted.
        tensor_bytes: Bytes of all tensors.
        sealed_bytes: Bytes after the header, without a signature.
        salt: Makes the key of each seal another one.
        public_root: Root of the public tags; None without a signature.
        signer: The public key that signed; None without a signature.
        commitment: Says which key it is, when that is known.
    """

    key_id: str
    file_id: bytes
    epoch: int
    expires: int | None
    confidential: bool
    tensor_bytes: int
    sealed_bytes: int
    salt: bytes
    public_root: bytes | None
    signer: bytes | None
    commitment: bytes

    def encoded(self) -> bytes:
        """Return the header as it is written."""
        return self.bound() + self.commitment

    def bound(self) -> bytes:
        """Return fields 1 to 12, on which the key of the seal depends."""
        out = Writer()
        out.raw(MAGIC)
        out.number(VERSION, 2)
        signed = self.signer is not None
        out.number(_CONFIDENTIAL * self.confidential + _SIGNED * signed, 2)
        out.raw(bytes.fromhex(self.key_id))
        out.raw(self.file_id)
        out.numbers(self.epoch, self.expires or 0, self.tensor_bytes, self.sealed_bytes)
        out.raw(self.salt)
        out.raw(self.public_root or bytes(TAG_BYTES))
        out.raw(self.signer or bytes(SIGNER_BYTES))
        return out.joined()

    @property
    def size(self) -> int:
        """Bytes of the whole seal."""
        signature = 0 if self.signer is None else SIGNATURE_BYTES
        return HEADER_BYTES + self.sealed_bytes + signature


def read_header(data: bytes | memoryview, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Return the public fields of a seal, which may be anybody's words.

    Args:
        data: The whole seal.
        limits: `Limits.max_header_bytes` bounds what is sealed.

    Raises:
        LimitExceededError: It announces too much.
        MalformedFileError: It is not a seal, or of another length than it says.
        UnsupportedFormatError: It is of a later version.
        VerificationError: It is of a version that never was.
    """
    if len(data) < HEADER_BYTES:
        raise TruncatedFileError("seal", needed=HEADER_BYTES, available=len(data))
    reader = Reader(bytes(data[:HEADER_BYTES]))
    if reader.raw(len(MAGIC)) != MAGIC:
        raise MalformedFileError("not the seal of a protected file", position=0)
    _check_version(reader.number(2))
    flags = reader.number(2)
    if flags & ~(_CONFIDENTIAL | _SIGNED):
        raise MalformedFileError(f"unknown flags {flags:#06x}", position=10)
    header = _fields(reader, flags)
    check_size(header, limits)
    if len(data) < header.size:
        raise TruncatedFileError("seal", needed=header.size, available=len(data))
    if len(data) > header.size:
        raise MalformedFileError(
            f"{len(data) - header.size:,} bytes after the seal", position=header.size
        )
    return header


def check_size(header: Header, limits: Limits) -> None:
    """Raise if more is sealed than a reader allows."""
    if header.sealed_bytes > limits.max_header_bytes:
        raise LimitExceededError(
            "max_header_bytes",
            allowed=limits.max_header_bytes,
            requested=header.sealed_bytes,
        )


def _check_version(version: int) -> None:
    """Raise unless it is the one version there is."""
    if version < VERSION:
        raise VerificationError(
            f"a seal of version {version}, which never was: somebody wants it read by"
            " other rules"
        )
    if version > VERSION:
        raise UnsupportedFormatError(
            f"a file protected by a later safemodel (format {version}, this one reads"
            f" {VERSION})"
        )


def _fields(reader: Reader, flags: int) -> Header:
    """Return fields 4 to 13."""
    key_id = reader.raw(ID_BYTES).hex()
    file_id = reader.raw(FILE_ID_BYTES)
    epoch, expires, tensor_bytes, sealed_bytes = reader.numbers(4)
    if max(epoch, expires) > MAX_TIME:
        raise MalformedFileError("an epoch or time out of range", position=60)
    salt = reader.raw(SALT_BYTES)
    public_root, signer = reader.raw(TAG_BYTES), reader.raw(SIGNER_BYTES)
    signed = bool(flags & _SIGNED)
    if not signed and any(public_root + signer):
        raise MalformedFileError("a signer without a signature", position=124)
    return Header(
        key_id=key_id,
        file_id=file_id,
        epoch=epoch,
        expires=expires or None,
        confidential=bool(flags & _CONFIDENTIAL),
        tensor_bytes=tensor_bytes,
        sealed_bytes=sealed_bytes,
        salt=salt,
        public_root=public_root if signed else None,
        signer=signer if signed else None,
        commitment=reader.raw(COMMITMENT_BYTES),
    )
