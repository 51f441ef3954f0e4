"""The canonical `.pt`: a torch archive of one pickle and the storages it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._rewrite.pickle_writer import PickleWriter
from safemodel._rewrite.zip_writer import Entry, ZipWriter

if TYPE_CHECKING:
    from safemodel._rewrite.contents import Reader
    from safemodel._rewrite.output import Output
    from safemodel._rewrite.plain import Plain

ROOT = "archive"


def write_torch(out: Output, root: object, plain: Plain, read: Reader) -> list[Entry]:
    """Write an archive; return its records.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    pickle = PickleWriter(plain)
    data = pickle.write(root)
    archive = ZipWriter(out)
    archive.add(f"{ROOT}/data.pkl", len(data), [data])
    archive.add(f"{ROOT}/byteorder", 6, [b"little"])
    for key, content in enumerate(pickle.contents):
        archive.add(f"{ROOT}/data/{key}", content.nbytes, read(content))
    archive.add(f"{ROOT}/version", 2, [b"3\n"])
    archive.close()
    return archive.entries
