"""The canonical `.pt`: a torch archive of one pickle and the storages it names."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from safemodel._rewrite.pickle_writer import PickleWriter
from safemodel._rewrite.zip_writer import ZipWriter

if TYPE_CHECKING:
    from safemodel._rewrite.contents import Reader
    from safemodel._rewrite.plain import Plain

ROOT = "archive"


def write_torch(
    file: IO[bytes], root: object, plain: Plain, read: Reader
) -> dict[str, int]:
    """Write an archive; return the CRC-32 of each record.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    pickle = PickleWriter(plain)
    data = pickle.write(root)
    archive = ZipWriter(file)
    archive.add(f"{ROOT}/data.pkl", len(data), [data])
    archive.add(f"{ROOT}/byteorder", 6, [b"little"])
    for key, content in enumerate(pickle.contents):
        archive.add(f"{ROOT}/data/{key}", content.nbytes, read(content))
    archive.add(f"{ROOT}/version", 2, [b"3\n"])
    archive.close()
    return archive.checksums
