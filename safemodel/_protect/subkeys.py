"""Keys for one purpose each, and the random words that come of them.

A key that is used for two things ties them together. Everything random about the order
of a pool comes from a sub-key of its own: HKDF-SHA-256 (RFC 5869) of the protection
key, label "permute", salt the file id, info the epoch (8 bytes), the pool and the
purpose (each after its length, 8 bytes). Numbers are little-endian. The words are the
keystream of ChaCha20 (RFC 8439) under the sub-key. A kernel makes it: docs/adr/0024.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.layout import Pool
    from safemodel._protect.tags import Tagger

FILE_ID_BYTES = 32
_SUB_KEY_BYTES = 32


class PoolKey:
    """The sub-keys of the permutation of one pool.

    Args:
        key: The key all of them come from.
        file_id: 32 random bytes, which no other file has.
        epoch: How often the file was protected anew; from 0 to 2**64 - 1.
        pool: What is permuted together, such as all elements of one dtype.

    Raises:
        ValueError: A length or a number is another.
    """

    __slots__ = ("_file_id", "_info", "_key")

    def __init__(
        self, key: ProtectionKey, file_id: bytes, *, epoch: int, pool: str
    ) -> None:
        if len(file_id) != FILE_ID_BYTES:
            raise ValueError(f"a file id has {FILE_ID_BYTES} bytes")
        if not 0 <= epoch < 1 << 64:
            raise ValueError(f"epoch must be from 0 to 2**64 - 1: {epoch}")
        self._key, self._file_id = key, file_id
        self._info = struct.pack("<Q", epoch) + _counted(pool)

    @classmethod
    def of(cls, tagger: Tagger, key: ProtectionKey, number: int, pool: Pool) -> Self:
        """Return the sub-keys of a pool: of its file, epoch, number and dtype.

        Args:
            tagger: The file's.
            key: The key all of them come from.
            number: Number of the pool in its file.
            pool: The pool.
        """
        name = f"{number} {pool.dtype}"
        return cls(key, tagger.file_id, epoch=tagger.epoch, pool=name)

    def use(self, use: str) -> bytes:
        """Return the sub-key for one use, such as one round; no two have one name."""
        info = self._info + _counted(use)
        return self._key._derive(
            "permute", _SUB_KEY_BYTES, salt=self._file_id, info=info
        )


def _counted(text: str) -> bytes:
    """Return a text after its length: none can end where another one begins."""
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


class Keystream:
    """The keystream of a sub-key, from its beginning; the words are little-endian.

    Args:
        key: The sub-key.
        number: Which of its keystreams; each is one nonce of the cipher, and holds
            256 GiB.
    """

    __slots__ = ("_batch", "_cipher", "_left", "_next", "_number")

    def __init__(self, key: bytes, number: int = 0) -> None:
        import numpy as np

        from safemodel._kernels import keystream

        self._cipher, self._number = keystream.Cipher(key), number
        self._batch = np.empty(keystream.BATCH_BYTES, np.uint8)
        self._next, self._left = 0, 0

    def fill(self, words: NDArray[Any]) -> None:
        """Write the next words into an array, C-contiguous."""
        import numpy as np

        data = words.reshape(-1).view(np.uint8)
        data = data[self._take(data) :]
        whole = data.size // self._batch.size * self._batch.size
        if whole:
            self._cipher.fill(self._number, self._next, data[:whole])
            self._next += whole // self._batch.size
        if whole < data.size:
            self._cipher.fill(self._number, self._next, self._batch)
            self._next, self._left = self._next + 1, self._batch.size
            self._take(data[whole:])

    def _take(self, data: NDArray[Any]) -> int:
        """Write what was made before, as much as is needed; return how many bytes."""
        taken = min(self._left, data.size)
        start = self._batch.size - self._left
        data[:taken] = self._batch[start : start + taken]
        self._left -= taken
        return taken

    def words(self, shape: int | tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return the next words as a new array of a type such as "u4"."""
        import numpy as np

        made = np.empty(shape, dtype)
        self.fill(made)
        return made

    def below(self, bound: int) -> int:
        """Return an integer from 0 to bound - 1, each with the same chance.

        A word of 32 bits where the bound is at most 2**32, and of 64 bits otherwise.

        Source: Lemire, "Fast random integer generation in an interval", 2019.
        """
        size = 4 if bound <= 1 << 32 else 8
        span = 1 << 8 * size
        while True:
            product = int(self.words(1, f"u{size}")[0]) * bound
            if product % span >= span % bound:
                return product // span

    def draws(self, first: int, shape: tuple[int, int]) -> NDArray[Any]:
        """Return rows of integers, the k-th of a row from 0 to first + k.

        Words that were refused are drawn again after all others, in their order.
        """
        import numpy as np

        from safemodel._kernels import permute

        rows, count = shape
        if first + count > 1 << 32:
            made = [
                [self.below(first + k + 1) for k in range(count)] for _ in range(rows)
            ]
            return np.array(made, np.int64).reshape(shape)
        draws = np.empty(shape, np.int64)
        refused = np.empty(rows * count, np.int64)
        found = permute.bounded(self.words(shape, "u4"), first, draws, refused)
        for index in refused[:found].tolist():
            draws.reshape(-1)[index] = self.below(first + index % count + 1)
        return draws
