"""What a file is, by its bytes; never by its name.

Rules:

1. A format is named here only where a reader for it exists; everything else is
   `Format.UNKNOWN`, and `describe_unknown` says in a sentence what it looks like.
2. A failed parse later is an error; it never leads to trying another format (C2).
3. What a zip archive holds is told from the names in it: `classify_zip`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from safemodel._containers.npy_header import MAGIC as _NPY_MAGIC
from safemodel._containers.tar_archive import BLOCK, is_tar_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safemodel._containers.source import Source


class Format(Enum):
    """A format that safemodel has a reader for, or says something about."""

    ZIP = "zip archive"
    TORCH_ZIP = "torch zip archive"
    TORCHSCRIPT = "TorchScript archive"
    NPZ = "npz archive"
    ZIP_OF_MODELS = "zip archive of several members"
    EMPTY_ZIP = "a zip archive without any record"
    TORCH_PACKAGE = "a torch.package archive, which holds Python code"
    TORCH_EXPORT = "a torch.export archive (.pt2)"
    OLD_TORCHSCRIPT = "a TorchScript archive of torch 1.0"
    MODEL_ARCHIVE = "a TorchServe model archive (.mar)"
    KERAS = "a Keras archive (.keras)"
    OFFICE = "an Office document"
    OPEN_DOCUMENT = "an OpenDocument or EPUB document"
    JAVA = "a Java archive or Android package"
    PICKLE = "pickle"
    LEGACY = "torch stream (before 1.6)"
    TAR = "tar archive"
    NPY = "npy array"
    SAFETENSORS = "safetensors"
    SHARD_INDEX = "index of a sharded checkpoint"
    JSON = "JSON text"
    UNKNOWN = "unknown"


HEAD_BYTES = 4096
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_PROTO = 0x80
# Torch's magic number as LONG1 (or, in protocols 0 and 1, as LONG) and STOP: nothing
# but these bytes, so that nothing can be computed there (C25).
_LEGACY = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\."
    rb"|L119547037146038801333356L\n\.",
    re.DOTALL,
)
# How a pickle without PROTO can start, in text that could be something else.
_TEXT_PICKLE = re.compile(
    rb"[(\]})N][(\]})\[{.lditNSVIFLcpaes]"
    rb"|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n"
    rb"|[IL]-?[0-9]+L?\n[.p]"
    rb"|F[-+0-9.einfa]+\n[.p]"
    rb"|S(?:'[^'\n]*'|\"[^\"\n]*\")\n[.p]"
    rb"|[VP][^\n]*\n[.pQ]"
)
# First opcodes of binary pickles without PROTO (protocol 1, or written by hand).
_FIRST_OPCODES = frozenset(
    b"(})]NIJKMLGFSTUXVBCcP\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96"
)
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")
_WEIGHT_MAP = b'"weight_map"'
_INDEX_BYTES = 1 << 16

_MAGICS = (
    (b"version https://git-lfs", "a Git-LFS pointer: the file itself was not fetched"),
    (b"SFMDSEAL", "the seal of a protected folder"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x1f\x8b", "compressed with gzip; pass gzip.open(path) instead of the path"),
    (b"BZh", "compressed with bzip2; pass bz2.open(path) instead of the path"),
    (b"\xfd7zXZ\0", "compressed with xz; pass lzma.open(path) instead of the path"),
    (b"\x5d\0\0", "compressed with LZMA"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\x04\x22\x4d\x18", "compressed with lz4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras or other)"),
    (b"GGUF", "a GGUF model (llama.cpp)"),
    (b"tjgg", "a GGML model (llama.cpp)"),
    (b"lmgg", "a GGML model (llama.cpp)"),
    (b"fmgg", "a GGML model (llama.cpp)"),
    (b"\x7fELF", "an ELF program"),
    (b"MZ", "a Windows program"),
    (b"\xfe\xed\xfa\xce", "a macOS program"),
    (b"\xfe\xed\xfa\xcf", "a macOS program"),
    (b"\xce\xfa\xed\xfe", "a macOS program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xca\xfe\xba\xbe", "a macOS program or a Java class"),
    (b"ARROW1", "an Apache Arrow file"),
    (b"PAR1", "an Apache Parquet file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"ZF", "a joblib file compressed in joblib's old format"),
    (b"Obj\x01", "an Apache Avro file"),
    (b"\0asm", "a WebAssembly program"),
)
_PARTS = (
    (0, b"RIFF", 8, b"WEBP", "a WebP image"),
    (0, b"RIFF", 8, b"WAVE", "a WAV recording"),
    (4, b"TFL3", 4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ftyp", 4, b"ftyp", "an MP4 video"),
)
# A comment never ends later than at the first "-->": there is one way to match many.
_HTML = re.compile(
    rb"\s*+(?:<!--(?>.*?-->)\s*+)*+<(?:!doctype html|html|head|body)",
    re.IGNORECASE | re.DOTALL,
)
_XML = re.compile(rb"\s*<\?xml")
# ir_version, then the producer's name or a domain: how exporters start an ONNX file.
_ONNX = re.compile(
    rb"\x08[\x01-\x20](?:\x12.[a-zA-Z][ -~]*|[:*\x1a\x22\x28\x32\x42])", re.DOTALL
)
# schema version, then the first meta graph with its meta info.
_SAVED_MODEL = re.compile(rb"\x08\x01\x12[\x80-\xff]{1,4}[\x00-\x7f]\x0a")
_PYTHON = re.compile(
    r"^(?:import \w|from [\w.]+ import |def \w+\(|class \w+[:(]|@\w|if __name__)",
    re.MULTILINE,
)


def sniff(source: Source) -> Format:
    """Return the format of a file, by its first bytes."""
    head = bytes(source.view(0, min(HEAD_BYTES, source.size)))
    if head.startswith(_ZIP_MAGICS):
        return Format.ZIP
    if head.startswith(_NPY_MAGIC):
        return Format.NPY
    if _is_safetensors(head, source.size):
        return Format.SAFETENSORS
    if _LEGACY.match(head):
        return Format.LEGACY
    if head[:1] == b"\x80":
        return Format.PICKLE
    if is_tar_header(head[:BLOCK]):
        return Format.TAR
    if head.lstrip()[:1] in {b"{", b"["}:
        start = bytes(source.view(0, min(_INDEX_BYTES, source.size)))
        return Format.SHARD_INDEX if _WEIGHT_MAP in start else Format.JSON
    if _known_magic(head) is None and _starts_like_pickle(head):
        return Format.PICKLE
    return Format.UNKNOWN


def _is_safetensors(head: bytes, size: int) -> bool:
    """Tell whether a file starts with the length of a JSON object, and the object."""
    # A length with 0x80 as its lowest byte looks like PROTO, so this comes first; the
    # zeros of the length are no opcodes.
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= size - 8 and head[4:8] == bytes(4)


def _starts_like_pickle(head: bytes) -> bool:
    """Tell whether a file without PROTO may be a pickle all the same."""
    if _is_text(head):
        return _TEXT_PICKLE.match(head) is not None
    return bool(head) and head[0] in _FIRST_OPCODES


def classify_zip(names: Iterable[str]) -> Format:
    """Tell what a zip archive holds, from the names of its records.

    The value of a format that is no model is a sentence about it.
    """
    whole = set(names)
    if not whole:
        return Format.EMPTY_ZIP
    roots = {name.partition("/")[0] for name in whole}
    leaves = {name.partition("/")[2] for name in whole}
    for telling, form in _FOREIGN.items():
        if telling in whole or telling in leaves:
            return form
    if all(name.endswith(".npy") for name in whole):
        return Format.NPZ
    if len(roots) == 1 and "data.pkl" in leaves:
        if "constants.pkl" in leaves or any(map(_is_code, leaves)):
            return Format.TORCHSCRIPT
        return Format.TORCH_ZIP
    if len(roots) == 1 and "model.json" in leaves:
        return Format.OLD_TORCHSCRIPT
    return Format.ZIP_OF_MODELS


def _is_code(leaf: str) -> bool:
    """Tell whether a record lies in TorchScript's folder of source code."""
    return leaf.startswith("code/")


_FOREIGN = {
    ".data/extern_modules": Format.TORCH_PACKAGE,
    "MAR-INF/MANIFEST.json": Format.MODEL_ARCHIVE,
    "archive_format": Format.TORCH_EXPORT,
    "serialized_exported_program.json": Format.TORCH_EXPORT,
    "model.weights.h5": Format.KERAS,
    "[Content_Types].xml": Format.OFFICE,
    "mimetype": Format.OPEN_DOCUMENT,
    "META-INF/MANIFEST.MF": Format.JAVA,
    "AndroidManifest.xml": Format.JAVA,
}


def describe_unknown(head: bytes, size: int) -> str:
    """Say in a sentence what a file is that is no model file.

    Args:
        head: Its first `HEAD_BYTES` bytes.
        size: Its size.
    """
    if not size:
        return "an empty file"
    known = _known_magic(head)
    if known is not None:
        return known
    if _HTML.match(head):
        return "an HTML page, probably an error or login page saved as the file"
    if not head.strip(b"\0"):
        return (
            f"a file that starts with {len(head):,} zero bytes: an interrupted download"
        )
    if _is_text(head):
        return _describe_text(head)
    if _SAVED_MODEL.match(head):
        return "a TensorFlow SavedModel"
    if _ONNX.match(head):
        return "an ONNX model"
    if (
        head[:1] == b"\x78"
        and len(head) > 1
        and not int.from_bytes(head[:2], "big") % 31
    ):
        return "compressed with zlib, as joblib does"
    return "not a model file that safemodel knows"


def _known_magic(head: bytes) -> str | None:
    """Return what a file is whose first bytes are a well-known magic."""
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return what
    for at, first, then_at, then, what in _PARTS:
        if head[at:].startswith(first) and head[then_at:].startswith(then):
            return what
    return None


def _is_text(head: bytes) -> bool:
    """Tell whether bytes are text: UTF-8 without control characters."""
    if any(byte < 32 and byte not in _TEXT_CONTROLS for byte in head):
        return False
    try:
        # The last character may be cut.
        head[: len(head) - 3].decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) - 3 - error.start < 4
    return True


def _describe_text(head: bytes) -> str:
    """Say what kind of text a file is."""
    text = head.decode("utf-8", "replace")
    if text.startswith("#!"):
        return (
            "a script" if "python" not in text.split("\n", 1)[0] else "a Python script"
        )
    if _XML.match(head):
        return "an XML document"
    if text.lstrip()[:1] in {"{", "["}:
        return "a JSON text"
    if _PYTHON.search(text):
        return "Python source code"
    return "a plain text file"
