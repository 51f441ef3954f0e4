"""Arrays that joblib writes between the opcodes of a pickle, behind a BUILD.

`joblib.dump` pickles a `NumpyArrayWrapper` in the place of an array and, behind the
BUILD that gives it shape and dtype, writes the array itself: a byte that says how much
padding follows, the padding, and the elements; or a whole pickle, if they are objects.

Rules:

1. How many bytes there are follows from shape and dtype alone, and is compared with
   the bytes there are before anything else. Whether the dtype means that size is
   checked again where all dtypes are (`_graph`).
2. No array lies within a frame, and none within the pickle of an array of objects.
3. What is found is put where no opcode can put it: a `memoryview` or a `Pickle` as the
   wrapper's one element.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from safemodel._unpickle.nodes import Call, GlobalRef
from safemodel.errors import MalformedFileError, TruncatedFileError

if TYPE_CHECKING:
    from safemodel._unpickle.parsed import Pickle

WRAPPERS = frozenset(
    {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"),
    }
)
_MOST_BYTES = 1 << 62
_MOST_AXES = 64
_CHARACTER = {"U": 4, "S": 1, "a": 1, "V": 1}


class Elements(NamedTuple):
    """How the elements of an array are written.

    Attributes:
        itemsize: Bytes of each; -1 for objects, which are a pickle.
    """

    itemsize: int


def is_wrapper(target: object) -> bool:
    """Return whether an array is to follow behind the BUILD of this."""
    if type(target) is not Call or type(target.target) is not GlobalRef:
        return False
    return (target.target.module, target.target.name) in WRAPPERS


def elements_of(state: object) -> Elements:
    """Return how the elements are written, from what BUILD gives the wrapper.

    Raises:
        MalformedFileError: It is not what joblib writes.
    """
    dtype = state.get("dtype") if type(state) is dict else None
    if type(dtype) is not Call or not dtype.args or type(dtype.args[0]) is not str:
        raise MalformedFileError("an array of joblib's without a dtype")
    code, given = dtype.args[0], dtype.state
    kind, digits = code[:1], code[1:]
    if kind == "O":
        return Elements(-1)
    size = given[5] if type(given) is tuple and len(given) > 5 else -1
    if type(size) is int and size >= 0:
        return Elements(size)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise MalformedFileError("an array of joblib's with a dtype of unknown size")
    return Elements(int(digits) * _CHARACTER.get(kind, 1))


def bytes_behind(
    data: bytes, pos: int, state: dict[str, Any], itemsize: int
) -> tuple[memoryview, int]:
    """Return the bytes of an array that starts at an offset, and where they end.

    Raises:
        MalformedFileError: Shape or padding are not what joblib writes.
        TruncatedFileError: The bytes are not all there.
    """
    shape = state.get("shape")
    if type(shape) is not tuple or len(shape) > _MOST_AXES:
        raise MalformedFileError("an array of joblib's without a shape")
    if not all(type(size) is int and 0 <= size < _MOST_BYTES for size in shape):
        raise MalformedFileError("an array of joblib's with a shape of something else")
    length = prod(shape) * itemsize
    # Before joblib 1.2 there was no padding, and nothing that says so.
    if state.get("numpy_array_alignment_bytes") is not None:
        if pos >= len(data):
            raise TruncatedFileError("padding", needed=1, available=0)
        padding = data[pos]
        if data[pos + 1 : pos + 1 + padding] != b"\xff" * padding:
            raise MalformedFileError("the padding before an array holds something")
        pos += 1 + padding
    if length > len(data) - pos:
        raise TruncatedFileError("array", needed=length, available=len(data) - pos)
    return memoryview(data)[pos : pos + length], pos + length


def put(target: Any, found: memoryview | Pickle) -> None:
    """Give a wrapper its array (rule 3).

    Raises:
        MalformedFileError: Opcodes have given it something before.
    """
    if target.elements is not None:
        raise MalformedFileError("items are appended to an array of joblib's")
    target.elements = [found]
