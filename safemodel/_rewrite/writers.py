"""One function a format: it writes a file, and returns what reads it back.

`_disarm` gives the file its name only after that second function has returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE, QSCHEMES
from safemodel._rewrite.contents import Reader
from safemodel._rewrite.leaves import STORAGE_CLASSES
from safemodel._rewrite.npz_writer import write_npz
from safemodel._rewrite.readback import check_torch
from safemodel._rewrite.readback_flat import check_npz, check_safetensors
from safemodel._rewrite.safetensors_writer import write_safetensors
from safemodel._rewrite.torch_writer import write_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from safemodel._rewrite.contents import Content
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.output import Output
    from safemodel._rewrite.plain import Plain

Form: TypeAlias = Literal["safetensors", "pt", "pt-1.13", "npz", "zip"]
TORCH: frozenset[Form] = frozenset({"pt", "pt-1.13"})
"""Forms that are torch archives; the second one holds nothing that torch 1.13 lacks."""
Check: TypeAlias = "Callable[[Path, Mapping[tuple[int, int], int]], None]"
_CONSTANTS = frozenset(
    f"torch {name}" for name in (*DTYPE_ITEMSIZE, *QSCHEMES, *STORAGE_CLASSES.values())
)


def write(
    form: Form, out: Output, root: object, flat: Flat, plain: Plain, read: Reader
) -> Check:
    """Write a value in one of the formats; return what compares the file with it.

    Args:
        form: The format; an archive of models has a writer of its own.
        out: Receives it.
        root: The value.
        flat: The same value without its structure.
        plain: What made it, and makes the rest of it, plain.
        read: Gives the bytes of tensors.

    Returns:
        A function of the file's path and of the CRC-32 of each record as it was read
        back, by where it lies.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    if form in TORCH:
        made = write_torch(out, root, plain, read)
        return lambda path, found: check_torch(
            path, made, root, plain, _CONSTANTS, found
        )
    if form == "npz":
        noting = _NotingReader(read)
        members = write_npz(out, flat, noting)
        contents = noting.contents
        return lambda path, found: check_npz(path, members, contents, flat, found)
    written = write_safetensors(out, flat, read)
    return lambda path, found: check_safetensors(path, written, flat, found)


class _NotingReader(Reader):
    """A reader that notes what was asked of it.

    Attributes:
        contents: All of it, in order.
    """

    def __init__(self, read: Reader) -> None:
        self._read = read
        self.contents: list[Content] = []

    def __call__(self, content: Content) -> Iterator[memoryview]:
        """Yield the bytes of a content, as the other reader does."""
        self.contents.append(content)
        yield from self._read(content)
