"""Written files, read back by other people's readers before they get their name.

1. None of our own parsers takes part: `zipfile`, `pickletools`, numpy, and the library
   of the safetensors format.
2. A pickle is walked opcode by opcode; each has to be one of those the writer knows,
   each global one of its constants.
3. Every byte that was written is read from the file again, and compared by CRC-32 with
   what the writer was given.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from typing import TYPE_CHECKING, NoReturn

from safemodel.errors import DisarmError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
_STEP = 1 << 22


def check_archive(path: Path, checksums: Mapping[str, int]) -> None:
    """Compare the records of a zip archive with those that were written.

    Raises:
        DisarmError: They are others.
        OSError: Reading failed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names != list(checksums):
                _differs("its records are others")
            for name in names:
                if _checksum_of(archive, name) != checksums[name]:
                    _differs(f"the bytes of {name} are others")
    except zipfile.BadZipFile as error:
        raise DisarmError(f"what was written reads otherwise: {error}") from error


def _checksum_of(archive: zipfile.ZipFile, name: str) -> int:
    actual = 0
    with archive.open(name) as record:
        while piece := record.read(_STEP):
            actual = zlib.crc32(piece, actual)
    return actual


def check_pickle(path: Path, name: str, constants: frozenset[str]) -> None:
    """Walk the pickle of an archive (rule 2).

    Raises:
        DisarmError: It holds an opcode or a global that none of ours holds.
        OSError: Reading failed.
    """
    with zipfile.ZipFile(path) as archive:
        data = archive.read(name)
    position = None
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in OPCODES:
            _differs(f"its pickle has {opcode.name} at {position}")
        if opcode.name == "GLOBAL" and argument not in FUNCTIONS | constants:
            _differs(f"its pickle names {argument!r} at {position}")
    if position != len(data) - 1:
        _differs("its pickle ends early")


def check_safetensors(
    path: Path, names: frozenset[str], start: int, checksum: int
) -> None:
    """Compare a safetensors file with what was written, by the format's library.

    Args:
        path: The file.
        names: Its tensors.
        start: Where their bytes start.
        checksum: CRC-32 of all of these bytes.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        if set(file.keys()) != names:
            _differs("its tensors are others")
    actual = 0
    with path.open("rb") as raw:
        raw.seek(start)
        while piece := raw.read(_STEP):
            actual = zlib.crc32(piece, actual)
    if actual != checksum:
        _differs("the bytes of its tensors are others")


def _differs(what: str) -> NoReturn:
    raise DisarmError(f"what was written reads otherwise: {what}")
