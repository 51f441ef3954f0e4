"""A zip of model files, as Stable-Baselines3 and others write: every member by itself.

Rules:

1. A member that is a model file of any format is read as one, under the same check.
2. JSON becomes plain data, other UTF-8 text stays text, the rest stays bytes.
   Nothing in them is decoded further: a pickle inside a JSON string is a string.
3. An archive without any model file in it is somebody else's.
4. A reading with `Members` keeps only what they say of rule 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.json_text import parse_json
from safemodel._containers.sniff import Format, sniff
from safemodel._formats.arrays import record_source
from safemodel._formats.members import MAX_TEXT
from safemodel.errors import SafeModelError, UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel._containers.records import Record
    from safemodel._containers.source import Source
    from safemodel._formats.members import Members
    from safemodel._formats.reading import Reading

_PLAIN = frozenset({Format.JSON, Format.UNKNOWN, Format.SHARD_INDEX})


def read_bundle(reading: Reading, records: Mapping[str, Record], prefix: str) -> object:
    """Return a dictionary of what the members hold, by name.

    Raises:
        UnsupportedFormatError: None of them is a model file (rule 3).
    """
    members: dict[str, object] = {}
    kinds: dict[str, Format] = {}
    models = 0
    reading.check.nested()
    for name, record in records.items():
        source = record_source(reading, record)
        form = sniff(source)
        if form not in _PLAIN:
            value, _ = reading.read_any(reading, source, f"{prefix}{name}/")
            form = reading.forms.get(f"{prefix}{name}/", form)
            models += 1
        elif reading.members is None:
            value = _plain(reading, source)
        else:
            value, kind = _kept(reading, reading.members, source, f"{prefix}{name}")
            if kind is None:
                continue
            form = kind
        members[name] = value
        kinds[name] = form
    reading.check.unnested()
    if not models:
        raise UnsupportedFormatError("a zip archive with no model file in it")
    if reading.members is not None:
        reading.members.kinds[prefix] = kinds
    return members


def _kept(
    reading: Reading, members: Members, source: Source, name: str
) -> tuple[object, Format | None]:
    """Return what is kept of a member, and what it is: None if nothing (rule 4)."""
    limits = reading.limits
    form = Format.UNKNOWN if sniff(source) is Format.UNKNOWN else Format.JSON
    most = MAX_TEXT if form is Format.UNKNOWN else limits.max_header_bytes
    if source.size > most:
        members.leave(name, source.size, f"a text or other bytes of more than {most:,}")
        return None, None
    data = source.read(0, source.size)
    if form is Format.JSON:
        try:
            value = parse_json(data, max_depth=limits.max_depth // 4, limits=limits)
        except SafeModelError:
            # Other readers may see one in it.
            members.leave(name, len(data), "JSON that not all readers read alike")
            return None, None
        return value, form if members.keep_json(name, value, data) else None
    text = members.keep_text(name, data)
    return text, None if text is None else form


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
