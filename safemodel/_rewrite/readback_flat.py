"""Flat files, read back: `.safetensors` by `json` and its library, `.npz` by numpy.

1. What is expected of a tensor comes from its leaf: element type, shape, span, bytes.
2. The tables of element types are the readers', or numpy's own; the writers' are not
   used here.
3. Notes are compared as text with what was written, and their parts with the value.
"""

from __future__ import annotations

import json
from math import prod
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib import format as npy

from safemodel._formats.safetensors import DTYPES
from safemodel._graph.reconstructors.torch_values import DTYPE_ITEMSIZE
from safemodel._rewrite.contents import Gathered, Stretch, row_major
from safemodel._rewrite.readback import check_records, opened_archive
from safemodel._rewrite.readback_pickle import differs

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from safemodel._rewrite.contents import Content
    from safemodel._rewrite.flatten import Flat
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._rewrite.safetensors_writer import Written
    from safemodel._rewrite.zip_writer import Entry

Header: TypeAlias = "tuple[tuple[int, ...], bool, np.dtype[Any]]"
"""Of an `.npy` file: shape, whether in Fortran's order, element type."""

_AS_NUMBERS = {
    "complex128": ("F64", [2]), "complex32": ("F16", [2]),
    "qint8": ("I8", []), "quint8": ("U8", []), "qint32": ("I32", []),
}  # fmt: skip
"""Element types the format lacks, and what stands for them; for others, bytes do."""
_INTEGERS = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
_NUMPY = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
    " complex64 complex128".split()
)
_TITLES = frozenset({"names", "same", "data", "views"})
_NOTES = "safemodel.json.npy"
_WORDS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
_LONGEST_HEADER = 1 << 20
_USUAL_HEADER = 128


def check_safetensors(
    path: Path, written: Written, flat: Flat, found: Mapping[tuple[int, int], int]
) -> None:
    """Compare a safetensors file with the tensors that were to be written.

    Args:
        path: The file.
        written: How they were written.
        flat: The tensors, and everything else.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    header, start = _header(path)
    metadata = header.pop("__metadata__", None)
    if metadata != written.metadata or start != written.start:
        differs("its metadata is other text")
    notes = _notes(written.metadata.get("safemodel"), flat)
    if list(header) != [part.name for part in written.parts]:
        differs("its tensors are others")
    parts = {id(part.leaf): part for part in written.parts}
    if parts.keys() != {id(leaf) for leaf in flat.tensors.values()}:
        differs("its tensors are others")
    for name, leaf in flat.tensors.items():
        part = parts[id(leaf)]
        _check_name(name, part.name, notes)
        entry = header[part.name]
        _check_content(name, leaf, part.content)
        _check_element(name, entry["dtype"], entry["shape"], leaf, notes)
    at = start
    for part, checksum in zip(written.parts, written.checksums, strict=True):
        end = at + part.content.nbytes
        offsets = header[part.name]["data_offsets"]
        if offsets != [at - start, end - start]:
            differs(f"{part.name!r} lies elsewhere")
        if found.get((at, end)) != checksum:
            differs(f"the bytes of {part.name!r} are others")
        at = end
    _check_with_library(path, header, written.metadata)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the tensors start."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            differs("its header is longer than the file")
        text = file.read(size)
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        differs(f"its header is no JSON: {type(error).__name__}")
    if type(header) is not dict or any(type(v) is not dict for v in header.values()):
        differs("its header is no table")
    keys = {"dtype", "shape", "data_offsets"}
    for name, entry in header.items():
        if name != "__metadata__" and entry.keys() != keys:
            differs(f"{name!r} has other members")
    return header, 8 + size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        differs("its header has a name twice")
    return made


def _check_with_library(
    path: Path, header: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Compare what the format's library says with what `json` reads."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if set(file.keys()) != header.keys() or file.metadata() != metadata:
                differs("its tensors are others to the library of the format")
            for name, entry in header.items():
                tensor = file.get_slice(name)
                shape, dtype = tensor.get_shape(), tensor.get_dtype()
                if shape != entry["shape"] or dtype != entry["dtype"]:
                    differs(f"{name!r} is another to the library of the format")
    except SafetensorError as error:
        differs(str(error))


def _check_element(
    name: str, dtype: str, shape: object, leaf: TensorLeaf, notes: _Notes
) -> None:
    """Compare the element type and the shape of a tensor in a safetensors file."""
    own = list(leaf.shape)
    view = notes.views.get(name) if notes.by_name else None
    if DTYPES.get(dtype, ("",))[0] == leaf.dtype and shape == own and view is None:
        return
    size = DTYPE_ITEMSIZE[leaf.dtype]
    as_number, more = _AS_NUMBERS.get(leaf.dtype, ("U8", [size]))
    if dtype != as_number or shape != own + more:
        differs(f"{name!r} has another element type or shape")
    if view != leaf.dtype and notes.by_name:
        differs(f"what {name!r} was written as is not noted")


def check_npz(
    path: Path,
    members: Sequence[Entry],
    contents: Sequence[Content],
    flat: Flat,
    found: Mapping[tuple[int, int], int],
) -> None:
    """Compare an `.npz` archive with the tensors that were to be written.

    Args:
        path: The archive.
        members: Its members: one a tensor in order, and the notes if there are any.
        contents: What was read for each tensor.
        flat: The tensors, and everything else.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    names = [entry.name for entry in members]
    with opened_archive(path) as archive, path.open("rb") as raw:
        starts = check_records(archive, path, members, found)
        text = None
        if names and names[-1] == _NOTES:
            text = _text(archive, names.pop())
        notes = _notes(text, flat)
        if not len(names) == len(contents) == len(flat.tensors):
            differs("its members are others")
        headers = _Headers(raw)
        for at, (name, leaf) in enumerate(flat.tensors.items()):
            _check_name(name, names[at].removesuffix(".npy"), notes)
            _check_content(name, leaf, contents[at])
            header, length = headers.at(starts[at])
            _check_array(name, leaf, header, members[at].size - length, notes)


def check_npy(
    path: Path,
    leaf: TensorLeaf,
    checksum: int,
    found: Mapping[tuple[int, int], int],
) -> None:
    """Compare the file of an array with what was written.

    Args:
        path: The file.
        leaf: The array.
        checksum: CRC-32 of the whole file.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        header, length = _Headers(raw).at(0)
    _check_array("the array", leaf, header, size - length, _Notes({}, {}, by_name=True))
    if found.get((0, size)) != checksum:
        differs("the bytes of the array are others")


def _check_array(
    name: str,
    leaf: TensorLeaf,
    header: Header,
    length: int,
    notes: _Notes,
) -> None:
    """Compare the header of a member, and how many bytes follow it."""
    expected = _INTEGERS.get(leaf.dtype, leaf.dtype)
    size = DTYPE_ITEMSIZE[leaf.dtype]
    as_bits = expected not in _NUMPY
    dtype = np.dtype(f"uint{8 * size}" if as_bits else expected)
    if header != (leaf.shape, False, dtype.newbyteorder("<")):
        differs(f"{name!r} has another element type or shape")
    if length != prod(leaf.shape) * size:
        differs(f"{name!r} is longer or shorter")
    view = leaf.dtype if as_bits else None
    if notes.by_name and notes.views.get(name) != view:
        differs(f"what {name!r} was written as is not noted")


class _Headers:
    """Reads headers of `.npy` members; the same bytes are taken apart once."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._known: dict[bytes, tuple[Header, int]] = {}

    def at(self, start: int) -> tuple[Header, int]:
        """Return the header at a byte of the file, and how long it is."""
        self._raw.seek(start)
        head = self._raw.read(_USUAL_HEADER)
        known = self._known.get(head)
        if known is None:
            self._raw.seek(start)
            header = _array_header(self._raw)
            length = self._raw.tell() - start
            known = (header, length)
            if length == len(head):
                self._known[head] = known
        return known


def _array_header(file: IO[bytes]) -> Header:
    """Return shape, order and element type of an `.npy` file, as numpy reads them."""
    try:
        if npy.read_magic(file) == (1, 0):
            return npy.read_array_header_1_0(file, max_header_size=_LONGEST_HEADER)
        return npy.read_array_header_2_0(file, max_header_size=_LONGEST_HEADER)
    except ValueError as error:
        differs(str(error))


def _text(archive: zipfile.ZipFile, member: str) -> str:
    """Return the text of an array of bytes."""
    with archive.open(member) as file:
        header = _array_header(file)
        raw = file.read()
    if header != ((len(raw),), False, np.dtype("uint8")):
        differs("its notes are no text")
    return raw.decode("latin-1")


class _Notes(NamedTuple):
    """What a file notes of its tensors.

    Attributes:
        names: Name → what it is written under, if that is another.
        views: Name → element type, if the format lacks it.
        by_name: Whether tensors stand here under their names: JSON has no halves of
            surrogate pairs, and what takes their place may push other names aside.
    """

    names: Mapping[str, Any]
    views: Mapping[str, Any]
    by_name: bool


def _notes(text: str | None, flat: Flat) -> _Notes:
    """Return what a file notes, compared with the value but for names (rule 3)."""
    try:
        notes = json.loads(text or "{}")
    except ValueError as error:
        differs(f"its notes are no JSON: {type(error).__name__}")
    if type(notes) is not dict or not notes.keys() <= _TITLES:
        differs("its notes are others")
    for title, expected in (("same", flat.same), ("data", flat.data)):
        if not _agree(expected, notes.get(title, {})):
            differs(f"its notes of {title} are others")
    by_name = _is_text("\n".join(flat.tensors))
    return _Notes(notes.get("names", {}), notes.get("views", {}), by_name=by_name)


def _check_content(name: str, leaf: TensorLeaf, content: Content) -> None:
    """Check that what was read for a tensor are its own elements, row by row."""
    expected = row_major(leaf.spec, DTYPE_ITEMSIZE[leaf.dtype], leaf.content)
    if _identity(content) != _identity(expected):
        differs(f"{name!r} is made of other bytes")


def _identity(content: Content) -> tuple[object, ...]:
    """Return what two contents have in common that are the same bytes."""
    size = (content.dtype, content.nbytes)
    if isinstance(content, Stretch):
        return (*size, id(content.storage), content.start)
    if isinstance(content, Gathered):
        view = (content.offset, content.shape, content.stride)
        return (*size, id(content.storage), view, content.conj, content.neg)
    return (*size, id(content))


def _check_name(name: str, written: str, notes: _Notes) -> None:
    if notes.by_name and notes.names.get(name, name) != written:
        differs(f"{name!r} has another name")


def _agree(expected: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    """Say whether a part of the notes reads as what was to be noted.

    JSON joins two halves of a surrogate pair, so where one stands only the number of
    notes is compared here; their text is compared in any case.
    """
    if not _is_text(json.dumps(expected, ensure_ascii=False)):
        return len(expected) == len(read)
    return _canonical(expected) == _canonical(read)


def _canonical(note: Mapping[str, Any]) -> str:
    """Return JSON that tells True from 1 and 0.0 from -0.0, as `==` does not."""
    once = json.loads(json.dumps(note), parse_constant=_WORDS.__getitem__)
    return json.dumps(once)


def _is_text(text: str) -> bool:
    """Say whether a text can be encoded: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
