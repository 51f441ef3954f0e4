"""Real model files by other people: ours is what torch's is, and nothing is lost."""

from __future__ import annotations

import csv
import zipfile

import pytest
import torch

import safemodel
from safemodel._containers.source import open_source
from safemodel._formats.formats import read_file
from safemodel.limits import DEFAULT_LIMITS
from tests.conftest import ZOO
from tests.differential.reach import contents
from tests.differential.same import assert_same
from tools import compatibility

_MANIFEST = ZOO / "manifest.csv"


def _rows(*containers):
    """Return the files of some containers, or of all; one stands in for no zoo."""
    if not _MANIFEST.is_file():
        return [pytest.param({}, id="no zoo")]
    with _MANIFEST.open(newline="", encoding="utf-8") as lines:
        return [
            pytest.param(row, id=row["file"])
            for row in csv.DictReader(lines)
            if not containers or row["container"] in containers
        ]


@pytest.mark.parametrize("row", _rows())
def test_a_real_file_opens_as_torch_opens_it_and_loses_nothing(row, zoo):
    """The same as torch where torch loads it; else every storage is in the result."""
    path = zoo / row["file"]
    if row["container"] in compatibility.NO_MODEL:
        with pytest.raises(safemodel.UnsupportedFormatError) as caught:
            safemodel.safe_load(path, weights_only=False)
        what = {"hdf5": "an HDF5 file (Keras or other)", "onnx": "an ONNX model"}
        assert caught.value.what == what[row["container"]]
        return
    found = compatibility.examine(row["file"], row["container"])
    assert found.opaque == "loads"
    if found.torch.startswith("loads"):
        assert (found.strict, found.same) == ("loads", "yes")
    assert (found.torch != "n/a") == (row["container"] != "torchscript")
    if row["loads_weights_only"].startswith("yes"):
        assert found.torch.startswith("loads")


@pytest.mark.parametrize("row", _rows("zip", "zip-of-pth(sb3)", "torchscript"))
def test_the_records_of_a_real_archive_are_all_accounted_for(row, zoo):
    """Another zip reader finds no storage that we neither give nor list."""
    path = zoo / row["file"]
    held = contents(safemodel.safe_load(path, weights_only=False))
    listed = safemodel.inspect_file(path).unreachable
    for name, content in _storages(path):
        assert content in held or name in listed, name


def _storages(path):
    """Yield name and bytes of every storage, in archives within the archive too."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith((".pth", ".pt")):
                with archive.open(name) as inner:
                    if zipfile.is_zipfile(inner):
                        inner.seek(0)
                        for part, content in _storages(inner):
                            yield f"{name}/{part}", content
            elif "/data/" in name or "/constants/" in name:
                yield name, archive.read(name)


@pytest.mark.parametrize("row", _rows("legacy"))
def test_a_real_stream_is_read_to_its_end(row, zoo):
    """A pre-1.6 stream is pickles and storages up to its last byte."""
    path = zoo / row["file"]
    with open_source(path) as source:
        _, reading = read_file(source, policy=safemodel.SALVAGE, limits=DEFAULT_LIMITS)
        reading.close()
    assert reading.consumed == path.stat().st_size


@pytest.mark.parametrize("row", _rows("zip", "legacy", "torchscript", "safetensors"))
def test_a_mapped_real_file_is_the_same_as_a_copied_one(row, zoo):
    """`mmap=True` changes where bytes live, and nothing else."""
    path = zoo / row["file"]
    copied = safemodel.safe_load(path, weights_only=False)
    assert_same(copied, safemodel.safe_load(path, mmap=True, weights_only=False))


def test_the_page_says_what_the_files_say(zoo):
    """docs/compatibility.md is what `make zoo` writes, whatever the versions."""
    written = compatibility.PAGE.read_text(encoding="utf-8")
    if f"torch {compatibility.version(torch.__version__)}," not in written:
        pytest.skip("written with another version of torch")
    fresh = compatibility.page(compatibility.rows())
    assert _without_versions(fresh) == _without_versions(written)


def _without_versions(page):
    (line,) = [line for line in page.splitlines() if "read with torch" in line]
    return page.replace(line, "")


def test_without_the_zoo_there_is_nothing_to_do(tmp_path, monkeypatch, capsys):
    """The script says so, and leaves the page as it is."""
    monkeypatch.setattr(compatibility, "ZOO", tmp_path)
    monkeypatch.setattr(compatibility, "PAGE", tmp_path / "page.md")
    assert compatibility.main() == 0
    assert "nothing done" in capsys.readouterr().out
    assert not (tmp_path / "page.md").exists()
