"""What a judge of prototypes knows, as a `.safetensors` file, and the bundled one.

The file is read by the reader of `safe_load`, with its checks and limits, and then each
array is checked: which there are, their types and shapes, and their numbers. A pickle
is refused, whatever is in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from safemodel._detector.prototypes import FORM, SHAPES, Arrays, Prototypes
from safemodel.errors import MalformedFileError, UnsupportedFormatError, quote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits

BUNDLED = Path(__file__).with_name("prototypes.safetensors")
BUNDLED_SHA256 = "2e6688bfe980ce18935fd60028a15801cea32f71c63d7a406799298870375219"
"""Of that file; training/detector.py makes it, and says what belongs here."""
_FORM = "form"


def read(f: FileLike, limits: Limits | None = None) -> Prototypes:
    """Return the judge that a file holds.

    Raises:
        MalformedFileError: It is no `.safetensors` file, or its arrays are not those of
            a judge.
        UnsupportedFormatError: It belongs to a version that has other traits.
        OSError: It cannot be read.
    """
    from safemodel._containers.sniff import Format
    from safemodel._detector.opening import opened

    with opened(f, limits=limits) as file:
        if file.format != Format.SAFETENSORS.value:
            raise MalformedFileError(f"a detector is .safetensors, not {file.format}")
        shapes = {one.name: (one.dtype, one.shape) for one in file.tensors}
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            name: ("float64", shape) for name, shape in SHAPES.items()
        }
        expected[_FORM] = ("uint8", (len(FORM),))
        if shapes.get(_FORM) == expected[_FORM] and _form(file.tensors) != FORM:
            raise UnsupportedFormatError("a detector of another version of safemodel")
        if shapes != expected:
            odd = sorted(
                name for name in shapes.keys() | expected.keys()
                if shapes.get(name) != expected.get(name)
            )  # fmt: skip
            raise MalformedFileError(
                f"not a detector: {quote(odd[0])} is missing, unknown, or not as it"
                " should be"
            )
        arrays = {one.name: _array(one) for one in file.tensors if one.name != _FORM}
    try:
        return Prototypes(Arrays(**arrays))
    except ValueError as error:
        raise MalformedFileError(f"not a detector: {error}") from error


def write(judge: Prototypes, path: StrPath) -> None:
    """Write a judge to a file, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors.numpy import save

    arrays: dict[str, Any] = judge.arrays._asdict()
    arrays[_FORM] = np.frombuffer(FORM, np.uint8)
    data = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    target = Path(os.fsdecode(path))
    with NamedTemporaryFile(
        dir=target.parent, prefix=".detector-", delete=False
    ) as new:
        try:
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise


def bundled() -> Prototypes:
    """Return the judge that comes with the package.

    Raises:
        MalformedFileError: The file is not the one this version was made with.
    """
    from hashlib import sha256

    data = BUNDLED.read_bytes()
    if sha256(data).hexdigest() != BUNDLED_SHA256:
        raise MalformedFileError("the bundled detector is not the one it should be")
    return read(data)


def _form(tensors: Any) -> bytes:
    (one,) = (one for one in tensors if one.name == _FORM)
    return b"".join(bytes(piece) for piece in one.pieces())


def _array(held: Any) -> NDArray[np.float64]:
    data = b"".join(bytes(piece) for piece in held.pieces())
    return np.frombuffer(data, "<f8").reshape(held.shape).astype(np.float64)
