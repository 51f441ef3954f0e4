"""JSON and text beside a model: parsed, and written again from what was parsed.

Rules:

1. JSON is parsed strictly (`json_text`); what makes a loader run code is taken out
   (`code_fields`); the rest is written as ASCII, in the same order.
2. Text is UTF-8 without control characters but tab and line ends, and nothing that
   another reader takes for a pickle, an archive, a script or a page.
3. Both are read back before they get their names.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

from safemodel.errors import (
    DisarmError,
    LimitExceededError,
    MalformedFileError,
    UnsupportedFormatError,
    quote,
)
from safemodel.reports import DisarmReport, Finding

if TYPE_CHECKING:
    from pathlib import Path

    from safemodel._containers.source import Source
    from safemodel._disarm.one_file import Settings
    from safemodel.reports import FileReport

_STEP = 1 << 20
_MAX_DIGITS = 400
"""Digits of a number: ``model_max_length`` is 10³⁰ in many a tokenizer_config.json."""
_MAX_JSON = 48 << 20
"""Bytes of a JSON text, which may take ten times its size of memory; the largest
tokenizer.json there are have 33 million."""
_MAX_VALUES = 3_000_000
"""Values of a JSON text, each of which takes a hundred bytes of memory."""
_MAX_INDENTED = 1 << 20
"""Bytes of a text that is written with line breaks; a larger one is for machines."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TEXTS = ("a plain text file", "Python source code", "an empty file", "JSON text")
"""What a text may look like; README files show code, and begin with brackets."""


def rewrite_json(
    source: Source, target: Path, file_name: str, settings: Settings
) -> DisarmReport:
    """Write a JSON file anew, without what makes a loader run code.

    Raises:
        SafeModelError: It is not JSON, is too large, or is another kind of file.
        OSError: Reading or writing failed.
    """
    from safemodel._containers.json_text import parse_json
    from safemodel._containers.sniff import Format, sniff
    from safemodel._disarm.code_fields import as_findings, without_code

    if sniff(source) not in (Format.JSON, Format.SHARD_INDEX):
        raise UnsupportedFormatError("not a JSON text, as its name says")
    limits = settings.limits
    _check_size(source, min(_MAX_JSON, limits.max_header_bytes))
    findings = _would_run(_look(source, settings))
    text = source.read(0, source.size)
    values = sum(map(text.count, (b",", b"[", b"{")))
    if values > _MAX_VALUES:
        raise LimitExceededError(
            "values of a JSON text", allowed=_MAX_VALUES, requested=values
        )
    value = parse_json(
        text, max_depth=limits.max_depth, limits=limits, max_digits=_MAX_DIGITS
    )
    del text  # here and below: what is not needed any more may be a large part of all
    if type(value) is dict and "weight_map" in value:
        raise UnsupportedFormatError("an index of shards, but its name is not of one")
    value, removed, count = without_code(value, file_name)
    new, indent = _json_text(value)
    del value
    if json.dumps(json.loads(new), indent=indent) != new:
        raise DisarmError("the JSON text does not read back as what was parsed")
    data = new.encode("ascii")
    del new
    report = write_text(source, target, [data], "json", settings)
    findings += as_findings(removed, count)
    return DisarmReport(**{**vars(report), "removed": tuple(findings)})


def rewrite_text(
    source: Source, target: Path, _file_name: str, settings: Settings
) -> DisarmReport:
    """Write a text file anew, from its characters.

    Raises:
        SafeModelError: It is not text, is too large, or is another kind of file.
        OSError: Reading or writing failed.
    """
    _check_size(source, settings.limits.max_header_bytes)
    pieces = _decoded(source)
    _check_is_only_text(source, settings)
    return write_text(source, target, pieces, "text", settings)


def _check_size(source: Source, allowed: int) -> None:
    if source.size > allowed:
        raise LimitExceededError(
            "max_header_bytes", allowed=allowed, requested=source.size
        )


def _decoded(source: Source) -> list[bytes]:
    """Return the pieces of a text, decoded and encoded again (rule 2)."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    pieces = []
    for start in range(0, source.size, _STEP):
        step = min(_STEP, source.size - start)
        data = bytes(source.view(start, step))
        try:
            text = decoder.decode(data, final=start + step == source.size)
        except UnicodeDecodeError as error:
            raise MalformedFileError("not text: its bytes are not UTF-8") from error
        found = _CONTROLS.search(text)
        if found:
            raise MalformedFileError(
                f"not text: it has the control character '{quote(found[0])}'"
            )
        pieces.append(text.encode("utf-8"))
    return pieces


def _check_is_only_text(source: Source, settings: Settings) -> None:
    """Check that no other reader takes a text for something else (rule 2)."""
    from safemodel._containers.sniff import Format, sniff

    form = sniff(source)
    seen = _look(source, settings)
    if _would_run(seen):
        raise UnsupportedFormatError("a text that would run as a pickle")
    if form is Format.PICKLE and seen.error is not None:
        # It starts like one by chance; no reader gets far with it.
        return
    if form not in (Format.UNKNOWN, Format.JSON) or seen.format not in _TEXTS:
        raise UnsupportedFormatError(f"not a plain text: {seen.format}")


def _look(source: Source, settings: Settings) -> FileReport:
    """Return what a scan says of a file."""
    from safemodel._scan.look import look_at
    from safemodel.policy import STRICT

    return look_at(
        source, path="", policy=STRICT, limits=settings.limits, tensors=False,
        checksums=False,
    )  # fmt: skip


def _would_run(seen: FileReport) -> list[Finding]:
    """Return what a reader of pickles would run of a file, and archives within it."""
    from safemodel._disarm.findings import sorted_out

    found = sorted_out(seen.findings)
    return [*found.removed, *found.anomalies]


def _json_text(value: Any) -> tuple[str, int | None]:
    """Return the text of a value, and how its lines are indented (rule 1).

    Each line of what nests deeply begins with many blanks: a text of 1 MB could become
    one of 250 MB. So it is made with line breaks only as far as it stays short.
    """
    pieces: list[str] = []
    room = _MAX_INDENTED
    try:
        for piece in json.JSONEncoder(allow_nan=False, indent=2).iterencode(value):
            room -= len(piece)
            if room < 0:
                del piece, pieces  # one text may be nearly all of it
                return json.dumps(value, allow_nan=False), None
            pieces.append(piece)
    except ValueError as error:
        raise MalformedFileError("a number is too large for any reader") from error
    return "".join(pieces), 2


def write_text(
    source: Source, target: Path, pieces: list[bytes], form: str, settings: Settings
) -> DisarmReport:
    """Write a side file, and read it back (rule 3); return what is to be said of it.

    Raises:
        DisarmError: It does not read back as it was written.
        OSError: Reading or writing failed.
    """
    from safemodel._graph.allowlist import policy_version
    from safemodel._rewrite.digests import SourceDigests
    from safemodel._rewrite.output import whole_file
    from safemodel._version import VERSION

    started = time.perf_counter()
    whole = whole_file(
        target,
        overwrite=settings.overwrite,
        digests=settings.digests,
        durable=settings.durable,
    )
    with (
        SourceDigests(source, wanted=settings.digests) as digests,
        whole as (out, commit),
    ):
        checksum = 0
        for piece in pieces:
            out.write(piece)
            checksum = crc32(piece, checksum)
        out.record(0, out.at)
        found, result = out.finish()
        if found != {(0, out.at): checksum}:
            raise DisarmError(f"{quote(target.name)} does not read back as written")
        read = digests.result()
        commit()
    return DisarmReport(
        path="",
        out=str(target),
        source=read,
        result=result,
        format="plain text" if form == "text" else "JSON text",
        out_format=form,
        changed={},
        version=VERSION,
        policy=policy_version(settings.policy),
        seconds=round(time.perf_counter() - started, 3),
    )
