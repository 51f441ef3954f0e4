"""A protected folder as `safe_load` reads it: an index and shards, all in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._containers.source import open_source
from safemodel._protect.folder_opening import open_folder, opened_shard
from safemodel._protect.restoring import restore_in_memory
from safemodel._protect.verifying import of_shard, open_trusted, remember
from safemodel.errors import UnsupportedFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from safemodel._containers.source import Source
    from safemodel._protect.verifying import Trust

_INDEX = ".index.json"


def folder_in_memory(folder: Path, trust: Trust) -> Source:
    """Return the index of a folder, or its one model, once all of it is verified.

    Raises:
        KeyRequiredError: Another key is needed.
        UnsupportedFormatError: It holds several models.
        VerificationError: It was changed, is too old, or is not protected.
    """
    opened = open_folder(folder, trust)
    shards: dict[str, Source] = {}
    for file in opened.shards:
        each = of_shard(trust, opened.accept(file.name))
        with opened_shard(file) as source:
            shards[file.name] = restore_in_memory(
                open_trusted(source, each), trust.limits
            )
    remember(trust, opened.manifest.file_id, opened.manifest.epoch)
    indices = [
        data
        for name, data in opened.contents.files.items()
        if name.endswith(_INDEX) and "/" not in name
    ]
    if len(indices) == 1:
        index = open_source(indices[0])
        index.beside = shards
        return index
    if len(shards) != 1:
        raise UnsupportedFormatError(
            f"a folder of {len(shards):,} models; load one of them by its path"
        )
    return next(iter(shards.values()))
