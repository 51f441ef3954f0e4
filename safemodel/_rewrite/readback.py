"""Written files, read back by other people's readers before they get their name.

1. None of our own parsers takes part: `zipfile`, `pickletools`, numpy, and the library
   of the safetensors format.
2. A pickle is walked opcode by opcode; each has to be one of those the writer knows,
   each global one of its constants, and no slot of the memo is used twice.
3. `zipfile` says where each record lies; the CRC-32 of the bytes there, read from the
   file again, is compared with its own and with what the writer was given.
"""

from __future__ import annotations

import pickletools
import zipfile
from typing import IO, TYPE_CHECKING, NoReturn

import numpy as np

from safemodel.errors import DisarmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from safemodel._rewrite.safetensors_writer import Written
    from safemodel._rewrite.zip_writer import Entry

OPCODES = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT"
    " BINUNICODE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
    " SETITEMS APPENDS BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BUILD"
    " BINPERSID".split()
)
"""All that a pickle of ours consists of."""
FUNCTIONS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_meta_tensor_no_storage",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_qtensor",
        "torch._utils _rebuild_sparse_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch.serialization _get_layout",
        "torch.storage UntypedStorage",
    }
)
"""All that it names, beside constants of torch."""
_PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
_LOCAL_HEADER = 30
_LENGTHS_AT = 26


def check_archive(
    path: Path, entries: Sequence[Entry], found: Mapping[tuple[int, int], int]
) -> None:
    """Compare the records of a zip archive with those that were written.

    Args:
        path: The archive.
        entries: What was written.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: They are others.
        OSError: Reading failed.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            listed = archive.infolist()
            if [info.filename for info in listed] != [entry.name for entry in entries]:
                _differs("its records are others")
            for info, entry in zip(listed, entries, strict=True):
                start = _start(raw, info)
                actual = found.get((start, start + info.file_size))
                if info.compress_type != zipfile.ZIP_STORED:
                    _differs(f"{entry.name} is compressed")
                if not actual == info.CRC == entry.checksum:
                    _differs(f"the bytes of {entry.name} are others")
    except zipfile.BadZipFile as error:
        raise DisarmError(f"what was written reads otherwise: {error}") from error


def _start(raw: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a record start: behind its own header."""
    raw.seek(info.header_offset + _LENGTHS_AT)
    lengths = raw.read(4)
    name, extra = lengths[:2], lengths[2:]
    return (
        info.header_offset
        + _LOCAL_HEADER
        + int.from_bytes(name, "little")
        + int.from_bytes(extra, "little")
    )


def check_pickle(path: Path, name: str, constants: frozenset[str]) -> None:
    """Walk the pickle of an archive (rule 2).

    Raises:
        DisarmError: It holds an opcode or a global that none of ours holds, or another
            slot of the memo than the next one.
        OSError: Reading failed.
    """
    with zipfile.ZipFile(path) as archive:
        data = archive.read(name)
    position, slots = None, 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in OPCODES:
            _differs(f"its pickle has {opcode.name} at {position}")
        if opcode.name in _PUTS:
            if argument != slots:
                _differs(f"its pickle puts something in slot {argument} at {position}")
            slots += 1
        if opcode.name == "GLOBAL" and argument not in FUNCTIONS | constants:
            _differs(f"its pickle names {argument!r} at {position}")
    if position != len(data) - 1:
        _differs("its pickle ends early")


def check_array(
    path: Path,
    shape: tuple[int, ...],
    checksum: int,
    found: Mapping[tuple[int, int], int],
) -> None:
    """Compare the file of an array with what was written, by numpy.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    try:
        array = np.load(path, mmap_mode="r" if 0 not in shape and shape else None)
    except ValueError as error:
        raise DisarmError(f"what was written reads otherwise: {error}") from error
    if array.shape != shape:
        _differs("its shape is another")
    if found.get((0, path.stat().st_size)) != checksum:
        _differs("its bytes are others")


def check_safetensors(
    path: Path, written: Written, found: Mapping[tuple[int, int], int]
) -> None:
    """Compare a safetensors file with what was written, by the format's library.

    Args:
        path: The file.
        written: What it is to hold.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise DisarmError(f"what was written reads otherwise: {error}") from error
    if names != written.names:
        _differs("its tensors are others")
    if found.get((written.start, written.end)) != written.checksum:
        _differs("the bytes of its tensors are others")


def _differs(what: str) -> NoReturn:
    raise DisarmError(f"what was written reads otherwise: {what}")
