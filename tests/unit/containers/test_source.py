"""Sources: every kind of input gives the same bytes, and none is trusted."""

from __future__ import annotations

import array
import gzip
import io
import os
from typing import TYPE_CHECKING

import pytest

from safemodel._containers.source import open_source
from safemodel.errors import TruncatedFileError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT)
    return target


@pytest.fixture(
    params=["path", "str", "bytes", "memoryview", "file", "bytesio", "gzip"]
)
def opened(request: pytest.FixtureRequest, path: Path, tmp_path: Path):
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    make = {
        "path": lambda: path,
        "str": lambda: str(path),
        "bytes": lambda: CONTENT,
        "memoryview": lambda: memoryview(CONTENT),
        "file": lambda: path.open("rb"),
        "bytesio": lambda: io.BytesIO(CONTENT),
        "gzip": lambda: gzip.open(packed),
    }[request.param]
    given = make()
    with open_source(given) as source:
        yield source
    if hasattr(given, "close"):
        given.close()


def test_every_kind_of_input_gives_the_same_bytes(opened):
    """All four ways to read agree with the content."""
    target = bytearray(100)
    opened.read_into(300, memoryview(target))

    assert opened.size == len(CONTENT)
    assert opened.read(300, 100) == CONTENT[300:400] == target
    assert opened.view(300, 100) == CONTENT[300:400]
    assert opened.part(300, 100).read(50, 50) == CONTENT[350:400]
    assert opened.part(300, 100).part(10, 20).view(5, 5) == CONTENT[315:320]


def test_the_last_byte_is_readable_and_the_next_is_not(opened):
    """Each way to read ends exactly with the source."""
    assert opened.read(len(CONTENT) - 1, 1) == CONTENT[-1:]
    assert opened.view(len(CONTENT), 0) == b""
    for read in (opened.read, opened.view, opened.part):
        with pytest.raises(TruncatedFileError) as caught:
            read(len(CONTENT) - 1, 2)
        assert (caught.value.needed, caught.value.available) == (
            len(CONTENT) + 1,
            len(CONTENT),
        )
    with pytest.raises(TruncatedFileError):
        opened.read_into(len(CONTENT) - 1, memoryview(bytearray(2)))


def test_a_part_ends_where_it_was_cut(opened):
    """A part never shows the bytes behind it."""
    part = opened.part(10, 20)
    assert part.read(0, 20) == CONTENT[10:30]
    with pytest.raises(TruncatedFileError) as caught:
        part.view(0, 21)
    assert (caught.value.needed, caught.value.available) == (21, 20)


def test_an_absurd_length_is_refused_before_it_is_allocated(opened):
    """A length far beyond memory costs nothing."""
    with pytest.raises(TruncatedFileError):
        opened.read(0, 1 << 62)


def test_a_negative_span_is_the_callers_mistake(opened):
    """Offsets and sizes below zero are refused as misuse."""
    with pytest.raises(ValueError, match="not a span"):
        opened.read(-1, 1)
    with pytest.raises(ValueError, match="not a span"):
        opened.view(5, -1)


def test_views_are_read_only(opened):
    """Nobody can write into the file's bytes through a view."""
    assert opened.view(0, 4).readonly


def test_many_small_views_in_sequence_agree_with_the_content(path):
    """The window moves along without losing or repeating bytes."""
    with open_source(path) as source:
        spans = [bytes(source.view(at, 13)) for at in range(0, 16_000, 16)]
    assert spans == [CONTENT[at : at + 13] for at in range(0, 16_000, 16)]


def test_a_file_object_is_read_from_where_it_stands(path):
    """What lies before the current position does not exist for us."""
    with path.open("rb") as file:
        file.read(100)
        source = open_source(file)
        assert (source.size, source.read(0, 4)) == (
            len(CONTENT) - 100,
            CONTENT[100:104],
        )
        source.finish(28)
        assert file.read(4) == CONTENT[128:132]


def test_a_buffer_object_is_read_from_where_it_stands():
    """In-memory files keep their position, and are left behind what was used."""
    file = io.BytesIO(CONTENT)
    file.seek(100)
    source = open_source(file)
    assert source.read(0, 4) == CONTENT[100:104]
    source.finish(28)
    assert file.read(4) == CONTENT[128:132]


def test_a_file_object_being_written_is_flushed_first(tmp_path):
    """Pending writes of an update-mode file are seen."""
    with (tmp_path / "new").open("w+b") as file:
        file.write(b"pending")
        file.seek(0)
        assert open_source(file).read(0, 7) == b"pending"


def test_a_pipe_is_read_to_its_end():
    """A stream that cannot seek is read whole; finishing it does nothing."""
    reading, writing = os.pipe()
    os.write(writing, b"through the pipe")
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        source = open_source(file)
        source.finish(3)
        assert source.read(0, source.size) == b"through the pipe"


def test_a_file_that_shrinks_is_truncated_not_a_crash(path):
    """Bytes that vanish after opening give our error."""
    with open_source(path) as source:
        os.truncate(path, 10)
        with pytest.raises(TruncatedFileError) as caught:
            source.read(0, 100)
    assert (caught.value.needed, caught.value.available) == (100, 10)


def test_a_private_map_never_writes_to_the_file(path):
    """Writing to the map changes neither the file nor what we read."""
    with open_source(path) as source:
        mapped = source.private_map()
        mapped[0] = 77
        assert source.read(0, 1) == CONTENT[:1]
    assert path.read_bytes() == CONTENT
    assert (mapped[0], bytes(mapped[1:5])) == (77, CONTENT[1:5])


def test_only_a_path_with_content_is_mapped(path, tmp_path):
    """Buffers, file objects, parts and empty files have no map."""
    (tmp_path / "empty").touch()
    with path.open("rb") as file:
        assert open_source(file).private_map() is None
    assert open_source(CONTENT).private_map() is None
    assert open_source(tmp_path / "empty").private_map() is None
    assert open_source(path).part(0, 1).private_map() is None


def test_mapping_a_file_that_shrank_is_truncation(path):
    """A map never reaches past the file."""
    with open_source(path) as source:
        os.truncate(path, 10)
        with pytest.raises(TruncatedFileError) as caught:
            source.private_map()
    assert (caught.value.needed, caught.value.available) == (len(CONTENT), 10)


def test_other_buffers_are_taken_as_bytes():
    """Items wider than a byte, gaps and empty shapes are no obstacle."""
    assert open_source(array.array("H", [1, 2])).size == 4
    assert open_source(memoryview(b"abcdef")[::2]).read(0, 3) == b"ace"


def test_paths_that_are_no_files_are_the_callers_mistake(tmp_path):
    """Folders, missing files and pipes pass the operating system's error on."""
    with pytest.raises(IsADirectoryError):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_source(tmp_path / "pipe")


def test_text_mode_and_foreign_types_are_type_errors(path):
    """What cannot give bytes is refused as misuse."""
    with (
        path.open("r", encoding="latin-1") as file,
        pytest.raises(TypeError, match="text"),
    ):
        open_source(file)
    with pytest.raises(TypeError, match="int"):
        open_source(3)


def test_what_comes_in_parts_is_read_to_its_end(path, monkeypatch):
    """The system may give less than was asked for at a time."""
    read = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, views, at: read(file, [views[0][:3]], at)
    )
    content, target = path.read_bytes(), bytearray(8)

    with open_source(path) as source:
        source.read_into(1, memoryview(target))

    assert bytes(target) == content[1:9]
