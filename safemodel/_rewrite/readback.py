"""Written files, read back by other people's readers before they get their name.

1. None of our own parsers takes part: `zipfile`, `pickletools`, numpy, `json`, and the
   library of the safetensors format.
2. What is read is compared with what was to be written: the value and its tensors.
   That comes from the leaves (see `readback_compare`, `readback_flat`), never from
   what a writer made of them.
3. `zipfile` says where each record lies; the CRC-32 of the bytes there, read from the
   file again, is compared with its own and with what the writer was given.
"""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from safemodel._rewrite.readback_compare import Comparison
from safemodel._rewrite.readback_pickle import (
    FUNCTIONS,
    OPCODES,
    differs,
    read_pickle,
)
from safemodel.errors import DisarmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.torch_writer import WrittenTorch
    from safemodel._rewrite.zip_writer import Entry

__all__ = [
    "FUNCTIONS", "OPCODES", "check_archive", "check_records", "check_torch",
    "opened_archive",
]  # fmt: skip
_LOCAL_HEADER = 30
_LENGTHS_AT = 26
_ROOT = "archive"
_FIXED = {f"{_ROOT}/byteorder": b"little", f"{_ROOT}/version": b"3\n"}


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive that was written.

    Raises:
        DisarmError: It is none.
        OSError: Reading failed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise DisarmError(f"what was written reads otherwise: {error}") from error


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
    with opened_archive(path) as archive:
        check_records(archive, path, entries, found)


def check_records(
    archive: zipfile.ZipFile,
    path: Path,
    entries: Sequence[Entry],
    found: Mapping[tuple[int, int], int],
) -> list[int]:
    """Do the same with an archive that is open; return where each record starts."""
    listed = archive.infolist()
    if [info.filename for info in listed] != [entry.name for entry in entries]:
        differs("its records are others")
    starts = []
    with path.open("rb") as raw:
        for info, entry in zip(listed, entries, strict=True):
            start = _start(raw, info)
            actual = found.get((start, start + info.file_size))
            if info.compress_type != zipfile.ZIP_STORED:
                differs(f"{entry.name} is compressed")
            if not actual == info.CRC == entry.checksum:
                differs(f"the bytes of {entry.name} are others")
            starts.append(start)
    return starts


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


def check_torch(
    path: Path,
    written: WrittenTorch,
    root: object,
    plain: Plain,
    constants: frozenset[str],
    found: Mapping[tuple[int, int], int],
) -> None:
    """Compare a torch archive with the value that was to be written.

    Args:
        path: The archive.
        written: Its records, and the contents that went into them.
        root: The value.
        plain: What made it plain.
        constants: Globals that its pickle may name beside functions.
        found: CRC-32 of what was read back, by where it lies.

    Raises:
        DisarmError: It holds something else.
        OSError: Reading failed.
    """
    with opened_archive(path) as archive:
        check_records(archive, path, written.records, found)
        pickle = archive.read(f"{_ROOT}/data.pkl")
        for name, expected in _FIXED.items():
            if archive.read(name) != expected:
                differs(f"the bytes of {name} are others")
        listed = archive.infolist()
    storages: dict[str, tuple[int, int]] = {}
    folder = f"{_ROOT}/data/"
    for info in listed:
        if info.filename.startswith(folder):
            key = info.filename[len(folder) :]
            storages[key] = (info.file_size, info.CRC)
        elif info.filename not in _FIXED and info.filename != f"{_ROOT}/data.pkl":
            differs(f"it has a record {info.filename}")
    if len(listed) != len(storages) + len(_FIXED) + 1:
        differs("it has a record twice")
    contents = {id(content): checksum for content, checksum in written.contents}
    read = read_pickle(pickle, constants)
    Comparison(plain, contents, storages).compare(root, read)
