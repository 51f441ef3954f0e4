"""The canonical `.pt`: a torch archive of one pickle and the storages it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from safemodel._rewrite.pickle_writer import PickleWriter
from safemodel._rewrite.zip_writer import Entry, ZipWriter

if TYPE_CHECKING:
    from safemodel._rewrite.contents import Content, Reader
    from safemodel._rewrite.output import Output
    from safemodel._rewrite.plain import Plain

ROOT = "archive"


class WrittenTorch(NamedTuple):
    """What an archive was made of.

    Attributes:
        records: Its records.
        contents: Each content, and the CRC-32 it had when it was read.
    """

    records: list[Entry]
    contents: list[tuple[Content, int]]


def write_torch(out: Output, root: object, plain: Plain, read: Reader) -> WrittenTorch:
    """Write an archive; return what it was made of.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes.
        OSError: Writing failed.
    """
    pickle = PickleWriter(plain)
    data = pickle.write(root)
    archive = ZipWriter(out)
    archive.add(f"{ROOT}/data.pkl", len(data), [data])
    archive.add(f"{ROOT}/byteorder", 6, [b"little"])
    contents = [
        (content, archive.add(f"{ROOT}/data/{key}", content.nbytes, read(content)))
        for key, content in enumerate(pickle.contents)
    ]
    archive.add(f"{ROOT}/version", 2, [b"3\n"])
    archive.close()
    return WrittenTorch(archive.entries, contents)
