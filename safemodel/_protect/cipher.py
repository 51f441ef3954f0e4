"""Encryption of pools: AES-256 in counter mode, with a key for each pool and epoch.

The key is HKDF-SHA-256 of the protection key, label "tensor bytes", salt the file id,
info the epoch (8 bytes) and the number of the pool (4), little-endian. So no two pools,
epochs or files share a keystream, and the counter begins at 0: block k of the cipher
(16 bytes, big-endian k) is for bytes 16 k to 16 k + 15 of the pool as it is stored. The
tags are taken of what is encrypted; by itself this notices no change.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safemodel._protect.keys import ProtectionKey

_BLOCK = 16


class PoolCipher:
    """Encrypts and decrypts one pool in place, any part of it. Threads may share one.

    Args:
        key: The protection key.
        file_id: The file's id.
        epoch: Which of the file's versions.
        number: Number of the pool in its file.
    """

    __slots__ = ("_key",)

    def __init__(
        self, key: ProtectionKey, file_id: bytes, epoch: int, number: int
    ) -> None:
        info = pack("<QI", epoch, number)
        self._key = key._derive("tensor bytes", 32, salt=file_id, info=info)

    def apply(self, at: int, view: memoryview) -> None:
        """Encrypt bytes that are not, or decrypt those that are.

        Args:
            at: First byte in the pool.
            view: The bytes, which are replaced.
        """
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        block, inside = divmod(at, _BLOCK)
        counter = modes.CTR(block.to_bytes(_BLOCK, "big"))
        cipher = Cipher(algorithms.AES(self._key), counter).encryptor()
        cipher.update(bytes(inside))
        cipher.update_into(view, view)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        raise TypeError("it holds a key, and is not pickled")
