"""Type names used in public signatures; torch only for the type checker."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from typing_extensions import Buffer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

StrPath: TypeAlias = str | os.PathLike[str]
FileLike: TypeAlias = StrPath | IO[bytes] | Buffer
MapLocation: TypeAlias = (
    "str | torch.device | Mapping[str, str] | Callable[[Any, str], Any] | None"
)
