"""Protected files are not read here: without their key they hold numbers in no order.

`safemodel._protect` puts a seal into each; wherever one lies, within an archive or as a
shard of a folder, it is refused rather than read as what it looks like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel.errors import KeyRequiredError

if TYPE_CHECKING:
    from collections.abc import Iterable

SEAL_NAME = "safemodel.seal"
"""Key of the metadata, and last part of the name of a record, that holds a seal."""


def refuse_protected(names: Iterable[str], prefix: str) -> None:
    """Raise if one of the names is that of a seal.

    Args:
        names: Keys of the metadata, or names of records.
        prefix: Where the file is within others.

    Raises:
        KeyRequiredError: The file is protected.
    """
    for name in names:
        if name.rpartition("/")[2] == SEAL_NAME:
            raise KeyRequiredError(
                "a protected file: without its key it is numbers in no order"
            ).locate(record=prefix)
