"""Which tensors there are, noted while their weights pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel._detector.roles import Role
    from safemodel._detector.weights import Weights


class Known(NamedTuple):
    """A tensor that has passed by.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        role: What it is for.
        size: Its words.
        itemsize: Bytes of a word.
    """

    name: str
    dtype: str
    role: Role
    size: int
    itemsize: int


class Census:
    """Notes every tensor, however small.

    Attributes:
        tensors: In the order they came in.
    """

    def __init__(self) -> None:
        self.tensors: list[Known] = []

    def passing(self, items: Iterable[Weights]) -> Iterator[Weights]:
        """Hand weights on."""
        for item in items:
            if item.start == 0:
                known = Known(
                    item.name, item.dtype, item.role,
                    item.size or item.bits.size, item.bits.itemsize,
                )  # fmt: skip
                self.tensors.append(known)
            yield item

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.size * one.itemsize for one in self.tensors)
