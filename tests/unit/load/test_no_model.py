"""Files that are no model are named for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

import safemodel
from safemodel import safe_load

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
FILES = {
    "empty": (b"", "an empty file"),
    "html": (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "an HTML page"),
    "html in capitals": (b"\n  <HTML><head></head></HTML>", "an HTML page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "a Git-LFS pointer",
    ),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(60), "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(60), "a JPEG image"),
    "gzip": (gzip.compress(b"x" * 100), "compressed with gzip"),
    "bzip2": (bz2.compress(b"x" * 100), "compressed with bzip2"),
    "xz": (lzma.compress(b"x" * 100), "compressed with xz"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(60), "a 7-Zip archive"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(60), "a RAR archive"),
    "hdf5": (HDF5, "an HDF5 file"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(60), "a GGUF model"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0:\x10", "an ONNX model"),
    "zeros": (bytes(5000), "zero bytes"),
    "json": (b'{"error": "not found"}', "a JSON text"),
    "text": (b"Access denied. Please log in to read this file.\n", "a plain text file"),
    "python": (
        b"import torch\n\nmodel = torch.nn.Linear(1, 1)\n",
        "Python source code",
    ),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(60), "an ELF program"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    "other": (b"\xaa\xbb\xcc\x00\x01" * 20, "not a model file"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("weights_only", [None, False])
def test_it_is_named_for_what_it_is(name, weights_only, tmp_path):
    """By its content: the extension says `.pt` all the same."""
    data, what = FILES[name]
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    for given in (path, data, io.BytesIO(data)):
        with pytest.raises(safemodel.UnsupportedFormatError) as caught:
            safe_load(given, weights_only=weights_only)
        assert what in caught.value.what
        assert "\n" not in str(caught.value)


def archive(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in names:
            made.writestr(name, b"content")
    return file.getvalue()


FOREIGN = {
    "office": (["[Content_Types].xml", "word/document.xml"], "an Office document"),
    "jar": (["META-INF/MANIFEST.MF", "A.class"], "a Java archive"),
    "keras": (["config.json", "model.weights.h5"], "a Keras archive"),
    "mar": (["MAR-INF/MANIFEST.json", "model.pt"], "a TorchServe model archive"),
    "package": (["p/.data/extern_modules", "p/a.py"], "a torch.package archive"),
    "empty": ([], "without any record"),
    "source code": (["project/a.py", "project/b.txt"], "with no model file in it"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_archive_is_named(name):
    """Zip archives of others."""
    names, what = FOREIGN[name]
    with pytest.raises(safemodel.UnsupportedFormatError) as caught:
        safe_load(archive(names))
    assert what in caught.value.what


def test_an_encrypted_archive_is_named():
    """Its flag is set; nothing of it is read."""
    data = bytearray(archive(["archive/data.pkl"]))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(safemodel.UnsupportedFormatError, match="encrypted"):
        safe_load(bytes(data))


def test_a_missing_file_is_the_systems_error(tmp_path):
    """`OSError`, as with `open`."""
    with pytest.raises(FileNotFoundError):
        safe_load(tmp_path / "absent.pt")
    with pytest.raises(OSError, match=r"."):
        safe_load(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights_only": 1.5},
        {"unknown": 1},
        {"map_location": 3},
        {"verify_checksums": "yes"},
        {"verify_checksums": None},
    ],
)
def test_misuse_is_a_type_error(arguments, tmp_path):
    """What torch would not take either."""
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x80\x02N.")
    with pytest.raises(TypeError):
        safe_load(path, **arguments)


def test_a_file_of_the_wrong_kind_is_a_type_error(tmp_path):
    """Text files and numbers."""
    path = tmp_path / "x"
    path.write_text("x")
    with path.open() as text:
        for given in (text, 5, None, object()):
            with pytest.raises(TypeError):
                safe_load(given)


def test_mapping_needs_a_path():
    """As with torch."""
    with pytest.raises(ValueError, match="path"):
        safe_load(io.BytesIO(b"\x80\x02N."), mmap=True)


def test_arguments_of_pickle_are_taken_as_torch_takes_them():
    """`encoding` for strings of Python 2; `pickle_module` is never looked at."""
    data = b"\x80\x02U\x01\xe9."
    assert safe_load(data, encoding="latin1") == "é"
    assert safe_load(data, encoding="bytes") == b"\xe9"
    assert safe_load(data, None, object(), encoding="latin1") == "é"
    # torch raises UnicodeDecodeError; nothing is lost by keeping the bytes.
    assert safe_load(data) == b"\xe9"
    assert safe_load(data, encoding="ascii", errors="replace") == "\ufffd"
    with pytest.raises(LookupError):
        safe_load(data, encoding="no such codec")
