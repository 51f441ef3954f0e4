"""What of a file is not in the one that is written: counted, never handed on.

Sizes are bytes of the input, where it has them in one place: of attributes there is a
count alone. What a pickle is made of besides the values it gives
(memo, dead code, opcodes) is not counted: no byte of it is in the output either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.sniff import Format
from safemodel._rewrite.contents import Gathered, Stretch
from safemodel._scan.render import printable
from safemodel.reports import LeftBehind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safemodel._containers.source import Source
    from safemodel._containers.zip_archive import ZipArchive
    from safemodel._graph.composite_specs import TensorGraph
    from safemodel._rewrite.leaves import TensorLeaf
    from safemodel._scan.recording import RecordingReading

_MOST = 1000
_NOTES = frozenset(
    {"version", "byteorder", ".format_version", ".storage_alignment",
     ".data/serialization_id"}
)  # fmt: skip
"""Short records that torch adds to each archive; written anew, or not needed."""
_LONGEST_NOTE = 64
_ONE_BY_ONE = frozenset({Format.TORCH_ZIP, Format.TORCHSCRIPT})


def left_behind(
    source: Source,
    reading: RecordingReading,
    graph: TensorGraph,
    leaves: Iterable[TensorLeaf],
) -> tuple[LeftBehind, ...]:
    """Return what is left behind; the largest of each kind, and a sum of the rest."""
    reached = _reached(leaves)
    found = [*_of_archives(reading, graph), *_of_storages(graph, reached)]
    found += [
        LeftBehind(kind="attribute", name=kind, size=0,
                   why=f"{count:,} of them, which would hide its methods")
        for kind, count in graph.dropped.items()
    ]  # fmt: skip
    if reading.members is not None:
        found += reading.members.left
    if 0 < reading.consumed < source.size:
        size = source.size - reading.consumed
        found.append(LeftBehind(kind="bytes", name="", size=size,
                                why="behind the end of the file"))  # fmt: skip
    return tuple(_longest(found))


def _of_archives(reading: RecordingReading, graph: TensorGraph) -> Iterator[LeftBehind]:
    """Yield records nothing refers to, and what archives consist of beside records."""
    used = {parsed.record for parsed in reading.parsed} | graph.storages.keys()
    for prefix, archive in reading.archives.items():
        if reading.forms[prefix] in _ONE_BY_ONE:
            yield from _of_records(prefix, archive, used)
        if archive.comment:
            yield LeftBehind(kind="comment", name=printable(prefix),
                             size=len(archive.comment),
                             why="the comment of the archive")  # fmt: skip
        records = list(archive.records.values())
        around = records[0].source.size - len(archive.comment)
        around -= sum(record.stored_size for record in records)
        yield LeftBehind(kind="headers", name=printable(prefix), size=around,
                         why="headers, names, extra fields and padding")  # fmt: skip


def _of_records(
    prefix: str, archive: ZipArchive, used: set[str]
) -> Iterator[LeftBehind]:
    for name, record in archive.records.items():
        full = prefix + name
        is_note = name.partition("/")[2] in _NOTES and record.size <= _LONGEST_NOTE
        if full in used or is_note:
            continue
        yield LeftBehind(kind="record", name=printable(full), size=record.size,
                         why="nothing in the result is from it")  # fmt: skip


def _reached(leaves: Iterable[TensorLeaf]) -> dict[int, int]:
    """Return how many bytes of each storage are written, by its id; at most that."""
    reached: dict[int, int] = {}
    seen: set[int] = set()
    for leaf in leaves:
        content = leaf.content
        if isinstance(content, (Stretch, Gathered)) and id(content) not in seen:
            seen.add(id(content))
            key = id(content.storage)
            reached[key] = reached.get(key, 0) + content.distinct_bytes
    return reached


def _of_storages(graph: TensorGraph, reached: dict[int, int]) -> Iterator[LeftBehind]:
    for name, spec in graph.storages.items():
        held = 0 if spec.record is None else spec.record.size
        size = held - reached.get(id(spec), 0)
        if size > 0:
            yield LeftBehind(kind="storage", name=printable(name), size=size,
                             why="no tensor reaches these bytes")  # fmt: skip


def _longest(found: list[LeftBehind]) -> Iterator[LeftBehind]:
    """Yield the largest ones of each kind, and one that stands for all others."""
    by_kind: dict[str, list[LeftBehind]] = {}
    for one in found:
        by_kind.setdefault(one.kind, []).append(one)
    for kind, listed in by_kind.items():
        if len(listed) <= _MOST:
            yield from listed
            continue
        listed.sort(key=lambda one: -one.size)
        yield from listed[:_MOST]
        rest = listed[_MOST:]
        yield LeftBehind(kind=kind, name=f"{len(rest):,} more",
                         size=sum(one.size for one in rest),
                         why=rest[0].why)  # fmt: skip
