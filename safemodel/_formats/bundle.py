"""A zip of model files, as Stable-Baselines3 and others write: every member by itself.

Rules:

1. A member that is a model file of any format is read as one, under the same check.
2. JSON becomes plain data, other UTF-8 text stays text, the rest stays bytes.
   Nothing in them is decoded further: a pickle inside a JSON string is a string.
3. An archive without any model file in it is somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.json_text import parse_json
from safemodel._containers.sniff import Format, sniff
from safemodel._formats.arrays import record_source
from safemodel.errors import SafeModelError, UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._containers.records import Record
    from safemodel._containers.source import Source
    from safemodel._formats.reading import Reading

_PLAIN = frozenset({Format.JSON, Format.UNKNOWN, Format.SHARD_INDEX})


def read_bundle(reading: Reading, records: Mapping[str, Record], prefix: str) -> object:
    """Return a dictionary of what the members hold, by name.

    Raises:
        UnsupportedFormatError: None of them is a model file (rule 3).
    """
    members: dict[str, object] = {}
    models = 0
    reading.check.nested()
    for name, record in records.items():
        source = record_source(reading, record)
        if sniff(source) in _PLAIN:
            members[name] = _plain(reading, source)
        else:
            value, _ = reading.read_any(reading, source, f"{prefix}{name}/")
            members[name] = value
            models += 1
    reading.check.unnested()
    if not models:
        raise UnsupportedFormatError("a zip archive with no model file in it")
    return members


def _plain(reading: Reading, source: Source) -> object:
    """Rule 2."""
    data = source.read(0, source.size)
    try:
        return parse_json(
            data, max_depth=reading.limits.max_depth // 4, limits=reading.limits
        )
    except SafeModelError:
        pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
