"""The index of a sharded checkpoint: which tensors are in which file beside it.

Rules:

1. The index is a JSON object with a ``weight_map`` from tensor names to file names.
2. A file name is bare: no separator of any system, no drive, no ``..``, not hidden, no
   control character. It is joined to the folder of the index, and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safemodel._containers.json_text import parse_json
from safemodel.errors import LimitExceededError, MalformedFileError, quote

if TYPE_CHECKING:
    from safemodel.limits import Limits

_MAX_DEPTH = 16
_MAX_NAME = 255
_BARE_NAME = re.compile(
    r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:.~ ][^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:]*"
)


def read_shard_index(data: bytes, *, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Return, for each shard in order of mention, the names of its tensors.

    Raises:
        LimitExceededError: The index or the number of tensors is too large.
        MalformedFileError: It breaks a rule of this module.
    """
    index = parse_json(data, max_depth=_MAX_DEPTH, limits=limits)
    weight_map = index.get("weight_map") if type(index) is dict else None
    if type(weight_map) is not dict:
        raise MalformedFileError("the index has no weight_map")
    if len(weight_map) > limits.max_tensors:
        raise LimitExceededError(
            "max_tensors", allowed=limits.max_tensors, requested=len(weight_map)
        )
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if type(shard) is not str:
            raise MalformedFileError(
                f"the shard of tensor '{quote(tensor)}' is not a file name"
            )
        shards.setdefault(shard, []).append(tensor)
    folded: dict[str, str] = {}
    for shard in shards:
        _check_file_name(shard)
        other = folded.setdefault(shard.casefold(), shard)
        if other != shard:
            raise MalformedFileError(
                f"'{quote(shard)}' and '{quote(other)}' are one file on some systems"
            )
    return {shard: tuple(tensors) for shard, tensors in shards.items()}


def _check_file_name(shard: str) -> None:
    """Check that a shard's name stays within the folder (rule 2)."""
    if not _BARE_NAME.fullmatch(shard) or len(shard.encode()) > _MAX_NAME:
        raise MalformedFileError(
            f"the shard name '{quote(shard)}' is not the bare name of a file"
        )
