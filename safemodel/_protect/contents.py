"""What a seal holds beside tensors and tags: where everything lies, and the skeleton.

Little-endian numbers, in this order:

1. what the file is (1): 1 safetensors, 2 torch,
2. its bytes (8), and the length of the hole of the seal (8),
3. where each hole begins (8 each): that of the seal, and one for each stored tensor, in
   the order of the file,
4. the skeleton after its length (8): all of the plain file that is not tensors,
5. zero bytes up to a multiple of a 32nd of the whole, at least of 1,024: so that the
   length says little about the skeleton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._protect.encoding import Reader, Writer
from safemodel._protect.frames import SAFETENSORS, TORCH
from safemodel._value import Value
from safemodel.errors import MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._protect.manifest import Data

_LEAST_STEP = 1024
_STEP_SHIFT = 5


class Contents(Value):
    """Where everything lies.

    Attributes:
        kind: `SAFETENSORS` or `TORCH`.
        size: Bytes of the protected file.
        starts: Where each hole begins; the first is that of the seal.
        room: Length of the hole of the seal.
        skeleton: All of the plain file that is not tensors.
    """

    kind: int
    size: int
    starts: tuple[int, ...]
    room: int
    skeleton: bytes | memoryview

    def __repr__(self) -> str:
        return f"<Contents of {self.size} bytes>"

    def encoded(self) -> Data:
        """Return the encoding, in pieces: the skeleton, which may be large, is one."""
        out = Writer()
        out.number(self.kind, 1)
        out.numbers(self.size, self.room, *self.starts)
        out.number(len(self.skeleton))
        head = out.joined()
        return head, self.skeleton, bytes(_padding(len(head) + len(self.skeleton)))

    def gaps(self, lengths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Yield where each gap between holes begins and ends.

        Args:
            lengths: Of the stored tensors.
        """
        at = 0
        for start, length in zip(self.starts, (self.room, *lengths), strict=True):
            yield at, start
            at = start + length
        yield at, self.size


def decode(data: bytes | memoryview, stored: int) -> Contents:
    """Return what an encoding says.

    Args:
        data: The encoding, out of a seal that was opened. The skeleton is a part of it.
        stored: How many stored tensors the manifest has.

    Raises:
        MalformedFileError: It is not one.
    """
    reader = Reader(data)
    kind = reader.number(1)
    if kind not in (SAFETENSORS, TORCH):
        raise MalformedFileError(f"a protected file of no kind: {kind}")
    size, room, *starts = reader.numbers(3 + stored)
    skeleton = reader.view(reader.number())
    padding = _padding(reader.at)
    if reader.left != padding or any(reader.raw(padding)):
        raise MalformedFileError("what is sealed ends in other bytes than zeros")
    return Contents(
        kind=kind, size=size, starts=tuple(starts), room=room, skeleton=skeleton
    )


def check(contents: Contents, lengths: tuple[int, ...]) -> None:
    """Raise unless holes and gaps follow each other within the file.

    Args:
        contents: What was decoded.
        lengths: Of the stored tensors.

    Raises:
        MalformedFileError: They do not.
    """
    if any(start > end for start, end in contents.gaps(lengths)):
        raise MalformedFileError("two tensors of a protected file share bytes")


def _padding(length: int) -> int:
    """Return how many zero bytes make a length a multiple (5)."""
    step = max(_LEAST_STEP, 1 << max(length.bit_length() - _STEP_SHIFT, 0))
    return -length % step
