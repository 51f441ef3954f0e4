"""Which bytes of which storages a written file holds, and how they are read.

Rules:

1. What no tensor reaches is not written. Tensors that lie densely in a storage keep
   sharing it, as far as they overlap; the stretches between them are left out.
2. A tensor that skips or repeats elements (a slice with a step, an expanded one) is
   written out whole, by itself.
3. How storages are read, and what is checked of them: see `storage_bytes`.
4. What is written is bounded by what it is taken from, however many tensors repeat it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from safemodel._rewrite.gather import gathered
from safemodel._rewrite.storage_bytes import PIECE
from safemodel.errors import LimitExceededError
from safemodel.scrub import scrub_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from safemodel._graph.specs import StorageSpec, TensorSpec
    from safemodel._rewrite.storage_bytes import StorageReader
    from safemodel.limits import Limits
    from safemodel.scrub import Scrub

_SIGN_BITS = {2: 0x8000, 4: 0x8000_0000, 8: 0x8000_0000_0000_0000}


class Content:
    """Bytes that a written file will hold: a stretch of a storage, or a tensor's own.

    Attributes:
        dtype: Element type, by torch's name.
        itemsize: Bytes an element.
        numel: Elements.
    """

    __slots__ = ("dtype", "itemsize", "numel")

    def __init__(self, dtype: str, itemsize: int, numel: int) -> None:
        self.dtype = dtype
        self.itemsize = itemsize
        self.numel = numel

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the written file."""
        return self.numel * self.itemsize

    def pieces(self, storages: StorageReader) -> Iterator[memoryview]:
        """Yield its bytes in order, in pieces that are valid until the next one.

        Raises:
            SafeModelError: They are not what the file describes.
        """
        raise NotImplementedError


class InMemory(Content):
    """Bytes that are there already: of an array, or of a text of bytes."""

    __slots__ = ("data",)

    def __init__(self, dtype: str, itemsize: int, data: bytes | memoryview) -> None:
        super().__init__(dtype, itemsize, memoryview(data).nbytes // itemsize)
        self.data = data

    def pieces(self, storages: StorageReader) -> Iterator[memoryview]:  # noqa: ARG002 - as `Content.pieces`
        """Yield the bytes; see `Content.pieces`."""
        whole = memoryview(self.data)
        for start in range(0, whole.nbytes, PIECE):
            yield whole[start : start + PIECE]


class Stretch(Content):
    """Elements of a storage that lie one behind the other (rule 1)."""

    __slots__ = ("start", "storage")

    def __init__(
        self, storage: StorageSpec, dtype: str, itemsize: int, start: int, numel: int
    ) -> None:
        super().__init__(dtype, itemsize, numel)
        self.storage = storage
        self.start = start * itemsize

    @property
    def distinct_bytes(self) -> int:
        """Bytes of the storage that it takes in."""
        return self.nbytes

    def pieces(self, storages: StorageReader) -> Iterator[memoryview]:
        """Yield the bytes of the stretch; see `Content.pieces`."""
        yield from storages.pieces(self.storage, self.start, self.start + self.nbytes)


class Gathered(Content):
    """A tensor that does not lie densely in its storage, row by row (rule 2)."""

    __slots__ = ("conj", "neg", "offset", "shape", "storage", "stride")

    def __init__(
        self,
        storage: StorageSpec,
        dtype: str,
        itemsize: int,
        view: tuple[int, tuple[int, ...], tuple[int, ...]],
        *,
        conj: bool,
        neg: bool,
    ) -> None:
        self.offset, self.shape, self.stride = view
        super().__init__(dtype, itemsize, prod(self.shape))
        self.storage = storage
        self.conj = conj
        self.neg = neg

    @property
    def distinct_bytes(self) -> int:
        """Bytes of the storage that it takes in, if no two of its elements are one."""
        axes = zip(self.shape, self.stride, strict=True)
        return prod(n for n, step in axes if step or not n) * self.itemsize

    def pieces(self, storages: StorageReader) -> Iterator[memoryview]:
        """Yield the elements in row-major order; see `Content.pieces`."""

        def read(at: int, target: NDArray[np.uint8]) -> None:
            storages.read(self.storage, at, target)

        axes = tuple(zip(self.shape, self.stride, strict=True))
        for flat in gathered(read, self.itemsize, self.offset, axes):
            if self.conj or self.neg:
                _change_signs(flat, self)
            yield flat.data


class Reader:
    """How the contents of one output are read: scrubbed or not."""

    def __init__(self, storages: StorageReader, scrub: Scrub | None = None) -> None:
        self._storages = storages
        self._scrub = scrub

    def __call__(self, content: Content) -> Iterator[memoryview]:
        """Yield the bytes of a content; see `Content.pieces`."""
        scrub = self._scrub
        if scrub is None or not scrub.bits_for(content.dtype):
            yield from content.pieces(self._storages)
            return
        for piece in content.pieces(self._storages):
            words = np.frombuffer(piece, np.uint8)
            if not words.flags.writeable:
                words = words.copy()
            scrub_array(words, content.dtype, scrub)
            yield words.data


def row_major(
    spec: TensorSpec, itemsize: int, content: Content | None = None
) -> Content:
    """Return the elements of a tensor in row-major order, as content of their own."""
    if isinstance(content, InMemory):
        return content
    if not (spec.conj or spec.neg) and _is_row_major(spec):
        numel = prod(spec.shape)
        return Stretch(spec.storage, spec.dtype, itemsize, spec.offset, numel)
    view = (spec.offset, spec.shape, spec.stride)
    return Gathered(
        spec.storage, spec.dtype, itemsize, view, conj=spec.conj, neg=spec.neg
    )


def check_repeats(taken: Iterable[tuple[StorageSpec, int]], limits: Limits) -> None:
    """Check how many bytes are written of storages, given by parts (rule 4).

    Raises:
        LimitExceededError: They are many more than the storages have.
    """
    total = once = 0
    seen: dict[int, StorageSpec] = {}
    for storage, nbytes in taken:
        total += nbytes
        if id(storage) not in seen:
            seen[id(storage)] = storage
            once += storage.numel * storage.itemsize
    allowed = max(
        once + limits.min_amplified_bytes, round(limits.max_amplification * once)
    )
    if total > allowed:
        raise LimitExceededError("max_amplification", allowed=allowed, requested=total)


def _is_row_major(spec: TensorSpec) -> bool:
    expected = 1
    for length, step in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if length != 1 and step != expected:
            return not prod(spec.shape)
        expected *= length
    return True


def _change_signs(flat: NDArray[np.uint8], content: Gathered) -> None:
    """Apply the conjugate and negative bits, which are not bytes of the storage."""
    is_complex = content.dtype.startswith("complex")
    unit = content.itemsize // 2 if is_complex else content.itemsize
    words = flat.view(f"u{unit}")
    sign = words.dtype.type(_SIGN_BITS[unit])
    if content.neg:
        words ^= sign
    if content.conj:
        words[1::2] ^= sign
