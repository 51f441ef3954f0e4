"""The zip archive `torch.save` writes since 1.6, and the TorchScript archive.

Rules:

1. One root folder holds everything; `data.pkl` in it is the object.
2. A storage is the record `data/KEY`, found by its exact name.
3. `byteorder` says "little" or "big"; the other small records are not acted on.
4. In a TorchScript archive classes are named under `__torch__`. They are code of the
   archive, which is never read; their attributes come back as opaque values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.storages import StorageTable
from safemodel.errors import MalformedFileError, quote

if TYPE_CHECKING:
    from safemodel._containers.records import Record
    from safemodel._containers.zip_archive import ZipArchive
    from safemodel._formats.reading import Reading


def root_folder(archive: ZipArchive) -> str:
    """Return the one folder everything is in, with its slash (rule 1).

    There is one, and `data.pkl` in it: this is what tells such an archive from others.
    """
    return next(iter(archive.records)).partition("/")[0] + "/"


def read_torch_zip(reading: Reading, archive: ZipArchive, prefix: str) -> object:
    """Return the object of an archive.

    Args:
        reading: The call.
        archive: Its records.
        prefix: Where the archive itself is, for names of records within records.
    """
    root = root_folder(archive)
    return _read_part(reading, archive, (root, "data.pkl", "data/"), prefix)


def read_torchscript(reading: Reading, archive: ZipArchive, prefix: str) -> object:
    """Return the attributes of a TorchScript archive (rule 4).

    The constants of its code, where it has any, stand under "constants".
    """
    root = root_folder(archive)
    # Only here: what is beside or around this archive gets no more names for it.
    outside, reading.check.script = reading.check.script, True
    try:
        value = _read_part(reading, archive, (root, "data.pkl", "data/"), prefix)
        if f"{root}constants.pkl" not in archive.records:
            return value
        part = (root, "constants.pkl", "constants/")
        return {"data": value, "constants": _read_part(reading, archive, part, prefix)}
    finally:
        reading.check.script = outside


def _read_part(
    reading: Reading, archive: ZipArchive, part: tuple[str, str, str], prefix: str
) -> object:
    """Return the object of one pickle and its folder of storages."""
    root, pickle_name, folder = part
    records = archive.records
    folder = root + folder
    name = prefix + root + pickle_name
    data = reading.read_record(records[root + pickle_name])

    def find_record(key: str) -> Record | None:
        record = records.get(folder + key)
        if record is not None and record.size != record.stored_size:
            reading.check.add_record(record)
        return record

    table = StorageTable(
        find_record, record=name, big_endian=_is_big_endian(reading, archive, root)
    )
    value = reading.check_pickle(reading.parse(data, 0, name), name, table=table)
    reading.check.add_storages(table.storages.values(), prefix + folder)
    used = {folder + key for key in table.storages}
    reading.check.add_unused(
        prefix + other
        for other in records
        if other not in used and other.startswith(folder)
    )
    return value


def _is_big_endian(reading: Reading, archive: ZipArchive, root: str) -> bool:
    """Rule 3."""
    record = archive.records.get(f"{root}byteorder")
    if record is None:
        return False
    order = reading.read_record(record)
    if order not in (b"little", b"big"):
        raise MalformedFileError(
            f"byte order is {quote(order)}", record=f"{root}byteorder"
        )
    return order == b"big"
