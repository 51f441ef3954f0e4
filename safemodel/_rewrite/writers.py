"""One function a format: it writes a file, and returns what reads it back.

`_disarm` gives the file its name only after that second function has returned.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Literal, TypeAlias

from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE, QSCHEMES
from safemodel._rewrite.npz_writer import write_npz
from safemodel._rewrite.pickle_writer import STORAGE_CLASSES
from safemodel._rewrite.readback import (
    check_archive,
    check_pickle,
    check_safetensors,
)
from safemodel._rewrite.safetensors_writer import write_safetensors
from safemodel._rewrite.torch_writer import ROOT, write_torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from safemodel._rewrite.contents import Reader
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.plain import Plain

Form: TypeAlias = Literal["safetensors", "pt", "npz"]
Check: TypeAlias = "Callable[[Path], None]"
_CONSTANTS = frozenset(
    f"torch {name}" for name in (*DTYPE_ITEMSIZE, *QSCHEMES, *STORAGE_CLASSES.values())
)


def write(
    form: Form,
    file: IO[bytes],
    root: object,
    flat: Flat,
    plain: Plain,
    read: Reader,
) -> Check:
    """Write a value in one of the formats; return what reads the file back.

    Args:
        form: The format.
        file: Receives it.
        root: The value.
        flat: The same value without its structure.
        plain: What made it, and makes the rest of it, plain.
        read: Gives the bytes of tensors.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    if form == "pt":
        checksums = write_torch(file, root, plain, read)

        def check(path: Path) -> None:
            check_archive(path, checksums)
            check_pickle(path, f"{ROOT}/data.pkl", _CONSTANTS)

        return check
    if form == "npz":
        members = write_npz(file, flat, read)
        return lambda path: check_archive(path, members)
    written = write_safetensors(file, flat, read)
    return lambda path: check_safetensors(path, *written)
