"""`.npy`: one array; `.npz`: a zip of them.

An array of Python objects is a pickle after the header; it goes through the same
machine and policy as every other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.npy_header import read_npy_header
from safemodel._containers.records import STORED, Record
from safemodel._containers.source import copy_of, open_source
from safemodel._graph.array_specs import ArraySpec
from safemodel._graph.reconstructors.common import INDEX_END
from safemodel._graph.reconstructors.numpy_descr import dtype_from_descr
from safemodel.errors import MalformedFileError, TruncatedFileError, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading

_SUFFIX = ".npy"


def read_npy(reading: Reading, source: Source, prefix: str) -> tuple[object, int]:
    """Return the array of a source, and how many bytes of it it takes.

    Raises:
        MalformedFileError: The header is not one, or does not fit the bytes.
        UnsafeFileError: An object array asks for something outside the policy.
    """
    descr, fortran, shape, start = read_npy_header(source, limits=reading.limits)
    dtype = dtype_from_descr(descr, reading.limits)
    if dtype.has_objects:
        pickle = reading.parse(source.read(0, source.size), start, prefix)
        return reading.check_pickle(pickle, prefix), pickle.end
    size = dtype.itemsize
    # What numpy multiplies: it leaves out axes of no length.
    extent = max(size, 1)
    for length in shape:
        size *= length
        extent *= length or 1
    if extent >= INDEX_END:
        raise MalformedFileError(
            "the number of elements is out of range", record=prefix
        )
    if size > source.size - start:
        raise TruncatedFileError(
            f"array of {quote(' × '.join(map(str, shape)))}",
            needed=size,
            available=source.size - start,
            record=prefix,
            position=start,
        )
    data: Record | bytes = Record(prefix, source, start, size)
    if not dtype.itemsize:
        # No bytes bound how many elements of no bytes there are.
        reading.check.add_amplified(0 if 0 in shape else extent)
        data = b""
    spec = ArraySpec(dtype, shape, fortran, data)
    reading.check.add_specs([dtype, spec])
    return spec, start + size


def read_npz(reading: Reading, records: Mapping[str, Record], prefix: str) -> object:
    """Return a dictionary of the arrays of an archive, by name without ".npy".

    Every name has that suffix: this is what tells such an archive from others.
    """
    arrays: dict[str, object] = {}
    for name, record in records.items():
        # An array's header and its bytes are one record, with one CRC-32 for both;
        # reading it whole checks that, whatever is mapped later.
        source = record_source(reading, record)
        arrays[name[: -len(_SUFFIX)]], _ = read_npy(reading, source, prefix + name)
    return arrays


def record_source(reading: Reading, record: Record) -> Source:
    """Return a record as a source: a span of the file, or its inflated bytes."""
    if record.method == STORED and (record.crc32 is None or not reading.verify):
        return record.source.part(record.offset, record.size)
    if not reading.spools_record(record):
        data = reading.read_record(record)
        if record.method != STORED:
            return open_source(data)
        return copy_of(record.source.part(record.offset, record.size), data)
    reading.check.add_record(record)
    if record.method == STORED:
        record.verify(limits=reading.limits)
        return record.source.part(record.offset, record.size)
    return reading.spooled(record)
