"""Sharded checkpoints: an index file, and the shards beside it.

Rules:

1. The index names files in its own folder; `shard_index` has refused anything else.
2. Every shard is opened as what its content says, under the same check.
3. Every tensor the index promises is in the shard it names, and in no other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safemodel._containers.shard_index import read_shard_index
from safemodel._containers.source import open_source
from safemodel._graph.composite_specs import MappingSpec
from safemodel._graph.walk import settle
from safemodel.errors import MalformedFileError, UnsupportedFormatError, quote

if TYPE_CHECKING:
    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading


def read_sharded(reading: Reading, source: Source) -> object:
    """Return one dictionary of the tensors of all shards.

    Raises:
        MalformedFileError: A shard is missing, or does not hold what the index says.
        UnsupportedFormatError: The index is not a file in a folder.
    """
    # An index among the shards could name all files beside it again, and again.
    beside = source.beside
    if (not source.name and beside is None) or reading.check.nesting:
        raise UnsupportedFormatError(
            "the index of a sharded checkpoint; load it by its path, beside its shards"
        )
    folder = os.path.dirname(source.name)  # noqa: PTH120 - pathlib costs start-up time
    shards = read_shard_index(source.read(0, source.size), limits=reading.limits)
    tensors: dict[str, object] = {}
    reading.check.nested()
    for name, promised in shards.items():
        shard = _open_beside(folder, name) if beside is None else beside.get(name)
        if shard is None:
            raise MalformedFileError("the shard is missing", record=name)
        reading.sources.append(shard)
        reading.check.add_bytes(shard.size)
        value, _ = reading.read_any(reading, shard, f"{name}/")
        held = _mapping(value, name)
        for tensor in promised:
            if tensor not in held:
                raise MalformedFileError(
                    f"the shard lacks {quote(tensor)}", record=name
                )
        for tensor, spec in held.items():
            if tensor in tensors:
                raise MalformedFileError(
                    f"{quote(tensor)} is in two shards", record=name
                )
            tensors[tensor] = spec
    reading.check.unnested()
    return tensors


def _open_beside(folder: str, name: str) -> Source | None:
    """Open a file of a folder; None if it is not there."""
    path = os.path.join(folder, name)  # noqa: PTH118 - as above
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        return None
    return open_source(path)


def _mapping(value: object, shard: str) -> dict[str, Any]:
    """Return the names and values of a shard."""
    value = settle(value)
    if type(value) is MappingSpec:
        keys: list[Any] = value.pairs[::2]
        values = value.pairs[1::2]
    elif type(value) is dict:
        keys, values = list(value), list(value.values())
    else:
        raise MalformedFileError("the shard is not a mapping of tensors", record=shard)
    if not all(type(key) is str for key in keys):
        raise MalformedFileError("the shard has names that are not text", record=shard)
    return dict(zip(keys, values, strict=True))
