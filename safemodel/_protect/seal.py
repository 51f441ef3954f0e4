"""Seals: a manifest that only holders of its key can read, make or change.

1. A seal is a header (`header`), the manifest encrypted with ChaCha20-Poly1305
   (RFC 8439), and, if it is signed, 64 bytes of Ed25519 (RFC 8032).
2. HKDF-SHA-256 of the protection key gives 64 bytes: label "seal", salt field 10 of the
   header, info its fields 1 to 12. The first 32 are the key of the cipher, the others
   the commitment, field 13. The cipher's associated data is the whole header.
3. That key is for one seal, so its nonce is 0. The salt is HKDF-SHA-256, label "salt",
   of 32 random bytes and the BLAKE3 of what is sealed: even if the random bytes came
   twice, two seals would have two keys, unless they are the same seal.
4. The commitment is compared before anything is decrypted, in constant time. Without
   it, one file could open under many keys, which helps to guess passphrases.
5. A wrong key is known by its id alone. All else that does not fit is one error, which
   does not say what: `VerificationError`.
6. The signature is over ``safemodel seal signed 1``, a zero byte, header and
   ciphertext. Whoever made the seal chose the signer, so holders of the key check it,
   too; others bring the public key they trust.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING

from blake3 import blake3

from safemodel._protect import manifest as encoding
from safemodel._protect.header import (
    COMMITMENT_BYTES,
    HEADER_BYTES,
    SALT_BYTES,
    SIGNATURE_BYTES,
    SIGNER_BYTES,
    Header,
    check_size,
    read_header,
)
from safemodel._protect.keys import KEY_BYTES, key_for
from safemodel._protect.layout import ENCRYPTED, PLAIN, STORED
from safemodel._protect.tags import TAG_BYTES, Tagger
from safemodel._report.words import time_text
from safemodel.errors import VerificationError
from safemodel.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from safemodel._protect.keys import KeyProvider, ProtectionKey
    from safemodel._protect.manifest import Manifest

_NONCE = bytes(12)
_CIPHER_TAG_BYTES = 16
_SIGNED = b"safemodel seal signed 1\0"
_CHANGED = "the seal was changed, or made with another key of the same id"


def seal(
    manifest: Manifest,
    key: ProtectionKey,
    *,
    signer: Ed25519PrivateKey | None = None,
    public_root: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Return a sealed manifest, different each time.

    Args:
        manifest: What to seal.
        key: The key to open it with.
        signer: Signs, for readers who hold no key.
        public_root: The root of the public tags, which these readers compare; given
            with ``signer``, and only then.
        limits: What readers will allow.

    Raises:
        LimitExceededError: Readers would not accept it.
        ValueError: There is a signer and no public root, or the other way round.
    """
    draft = Draft(manifest, signed=signer is not None)
    return bytes(draft.seal(manifest, key, signer, public_root, limits))


class Draft:
    """Room for a seal. What is large in it is there from the start, and only there.

    Args:
        manifest: What is to be sealed; of its tags only the number counts.
        signed: Whether it will be signed.

    Attributes:
        data: The manifest's data, in their place.
    """

    def __init__(self, manifest: Manifest, *, signed: bool) -> None:
        # Once: of very many tensors it takes a while.
        self._pools = encoding.packed(manifest.pools)
        size = encoding.encoded_size(manifest, self._pools)
        self._room = memoryview(bytearray(len(_SIGNED) + _seal_size(size, signed)))
        # So that a signature needs no copy of what it is about.
        self._room[: len(_SIGNED)] = _SIGNED
        self._signed = signed
        start = len(_SIGNED) + HEADER_BYTES
        self._text = self._room[start : start + size]
        blank = bytes(TAG_BYTES)
        self.data = encoding.encode_into(manifest, blank, self._text, self._pools)

    def __repr__(self) -> str:
        return f"<Draft of {len(self._room)} bytes>"

    def seal(
        self,
        manifest: Manifest,
        key: ProtectionKey,
        signer: Ed25519PrivateKey | None,
        public_root: bytes | None,
        limits: Limits,
    ) -> memoryview:
        """Return the sealed manifest; see `seal`. It can be done once.

        Args:
            manifest: As it was drafted, but for its tags; its data are `data`.
            key: The key to open it with.
            signer: Signs, for readers who hold no key.
            public_root: The root of the public tags.
            limits: What readers will allow.
        """
        if (signer is None) != (public_root is None):
            raise ValueError("a signer and a public root, or neither")
        if public_root is not None and len(public_root) != TAG_BYTES:
            raise ValueError(f"a root is {TAG_BYTES} bytes")
        if encoding.encoded_size(manifest, self._pools) != len(self._text):
            raise AssertionError("a manifest is of another length than drafted")
        header = self._written(manifest, key, signer, public_root, limits)
        noise = secrets.token_bytes(SALT_BYTES)
        said = blake3(header.encoded()).update(self._text).digest()
        salt = key._derive("salt", SALT_BYTES, salt=noise, info=said)
        return self._encrypted(Header(**{**vars(header), "salt": salt}), key, signer)

    def _written(
        self,
        manifest: Manifest,
        key: ProtectionKey,
        signer: Ed25519PrivateKey | None,
        public_root: bytes | None,
        limits: Limits,
    ) -> Header:
        """Write the manifest; return its header, without salt and commitment."""
        root = _root(manifest, key)
        encoding.encode_into(manifest, root, self._text, self._pools)
        header = Header(
            key_id=key.id,
            file_id=manifest.file_id,
            epoch=manifest.epoch,
            expires=manifest.expires,
            confidential=manifest.confidential,
            tensor_bytes=manifest.tensor_bytes,
            sealed_bytes=len(self._text) + _CIPHER_TAG_BYTES,
            salt=bytes(SALT_BYTES),
            public_root=public_root,
            signer=None if signer is None else signer.public_key().public_bytes_raw(),
            commitment=bytes(COMMITMENT_BYTES),
        )
        # Nothing is sealed that would not open.
        check_size(header, limits)
        read, same_root = encoding.decode(self._text, header, limits)
        if not read.same_as(manifest) or same_root != root:
            raise ValueError("not a manifest that reads back as it was")
        return header

    def _encrypted(
        self, header: Header, key: ProtectionKey, signer: Ed25519PrivateKey | None
    ) -> memoryview:
        """Encrypt the manifest in its place (rule 2), and sign it (rule 6)."""
        seal = self._room[len(_SIGNED) :]
        public = header.bound() + _keys_of(header, key)[1]
        seal[:HEADER_BYTES] = public
        end = HEADER_BYTES + header.sealed_bytes
        cipher, sealed = _cipher_of(header, key), seal[HEADER_BYTES:end]
        if hasattr(cipher, "encrypt_into"):
            cipher.encrypt_into(_NONCE, self._text, public, sealed)
        else:  # an older version of the library, and one copy more
            sealed[:] = cipher.encrypt(_NONCE, self._text, public)
        if signer is not None:
            seal[end:] = signer.sign(self._room[: len(_SIGNED) + end])
        return seal


def sealed_size(manifest: Manifest, *, signed: bool) -> int:
    """Return how long the seal of a manifest is, whatever its tags are.

    Args:
        manifest: What is to be sealed.
        signed: Whether it will be signed.
    """
    return _seal_size(encoding.encoded_size(manifest), signed)


def _seal_size(encoded: int, signed: bool) -> int:
    """Return how long a seal is, by the length of its manifest."""
    signature = SIGNATURE_BYTES if signed else 0
    return HEADER_BYTES + encoded + _CIPHER_TAG_BYTES + signature


def open_sealed(
    data: bytes | memoryview,
    keys: ProtectionKey | KeyProvider,
    *,
    limits: Limits = DEFAULT_LIMITS,
    in_place: bool = False,
) -> Manifest:
    """Return the manifest of a seal that nobody without the key has changed.

    Args:
        data: The seal.
        keys: Its key, or where keys come from.
        limits: How much it may ask for.
        in_place: Whether the manifest may be decrypted where it lies, in bytes that
            can be written. They are no seal afterwards.

    Raises:
        KeyRequiredError: The key is another one, or not there.
        LimitExceededError: It asks for too much.
        MalformedFileError: It is not a seal.
        UnsupportedFormatError: It is of a later version.
        VerificationError: It was changed, or is not by a holder of the key.
    """
    header = read_header(data, limits)
    key = key_for(header.key_id, keys)
    # In this order: no frame of an error holds what was sealed.
    text = None
    if _signature_holds(data, header):
        text = _decrypted(data, header, key, in_place=in_place)
    if text is None:
        raise VerificationError(_CHANGED)
    manifest, root = encoding.decode(text, header, limits)
    if not hmac.compare_digest(root, _root(manifest, key)):
        raise VerificationError("the tags of the manifest are not those of its root")
    return manifest


def verify_signature(
    data: bytes | memoryview, public_key: bytes, *, limits: Limits = DEFAULT_LIMITS
) -> Header:
    """Return the header of a seal that the holder of an Ed25519 key has signed.

    Args:
        data: The seal.
        public_key: The 32 bytes of the key to trust.
        limits: How much the seal may ask for.

    Raises:
        MalformedFileError: It is not a seal.
        UnsupportedFormatError: It is of a later version.
        ValueError: ``public_key`` is not 32 bytes.
        VerificationError: It is not signed, or by another key, or was changed.
    """
    if len(public_key) != SIGNER_BYTES:
        raise ValueError(f"an Ed25519 public key is {SIGNER_BYTES} bytes")
    header = read_header(data, limits)
    if header.signer is None:
        raise VerificationError("the seal is not signed")
    if header.signer != public_key:
        raise VerificationError("the seal is signed by another key")
    if not _signature_holds(data, header):
        raise VerificationError("the signature of the seal does not hold")
    return header


def check_fresh(
    of: Header | Manifest, *, min_epoch: int = 0, now: float | None = None
) -> None:
    """Refuse what was put in the place of something newer.

    Args:
        of: A manifest that was opened, or a header whose signature was verified.
        min_epoch: The lowest epoch to accept.
        now: Seconds since 1970; None for the clock of this machine.

    Raises:
        VerificationError: It is older, or has expired.
    """
    if of.epoch < min_epoch:
        raise VerificationError(
            f"epoch {of.epoch:,} where {min_epoch:,} is the lowest to accept: an older"
            " file in the place of a newer one"
        )
    if of.expires is not None and (time.time() if now is None else now) >= of.expires:
        raise VerificationError(f"it expired at {time_text(of.expires)}")


def _decrypted(
    data: bytes | memoryview, header: Header, key: ProtectionKey, *, in_place: bool
) -> bytes | memoryview | None:
    """Return what is sealed, or None."""
    from cryptography.exceptions import InvalidTag

    if not hmac.compare_digest(_keys_of(header, key)[1], header.commitment):
        return None
    # A view: neither seal nor text is there twice.
    sealed = memoryview(data)[HEADER_BYTES : HEADER_BYTES + header.sealed_bytes]
    cipher, public = _cipher_of(header, key), bytes(data[:HEADER_BYTES])
    try:
        if in_place and hasattr(cipher, "decrypt_into"):
            text = sealed[:-_CIPHER_TAG_BYTES]
            cipher.decrypt_into(_NONCE, sealed, public, text)
            return text
        return cipher.decrypt(_NONCE, sealed, public)
    except InvalidTag:
        return None


def _cipher_of(header: Header, key: ProtectionKey) -> ChaCha20Poly1305:
    """Return the cipher.

    Not its key: frames of an error would hold that, such as one for want of memory.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(_keys_of(header, key)[0])


def _keys_of(header: Header, key: ProtectionKey) -> tuple[bytes, bytes]:
    """Return the key of the cipher, and what it commits to."""
    both = key._derive(
        "seal", KEY_BYTES + COMMITMENT_BYTES, salt=header.salt, info=header.bound()
    )
    return both[:KEY_BYTES], both[KEY_BYTES:]


def _signature_holds(data: bytes | memoryview, header: Header) -> bool:
    """Return whether the signature is the signer's; true where there is none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if header.signer is None:
        return True
    end = HEADER_BYTES + header.sealed_bytes
    try:
        Ed25519PublicKey.from_public_bytes(header.signer).verify(
            bytes(data[end:]), b"".join((_SIGNED, memoryview(data)[:end]))
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def _root(manifest: Manifest, key: ProtectionKey) -> bytes:
    """Return the root of a manifest's tags."""
    tagger = Tagger.keyed(key, manifest.file_id, manifest.epoch)
    plain = ENCRYPTED if manifest.confidential else PLAIN
    return tagger.root(
        manifest.pools, manifest.leaves, manifest.frame, orders=(STORED, plain)
    )
