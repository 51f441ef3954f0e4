"""Where a storage goes: `map_location`, with the protocol of `torch.load`.

1. A location the *caller* gives (string, device, value of a dictionary) is restored
   as torch restores it, errors included: a device that is not there is the caller's
   mistake.
2. A location the *file* gives is a wish. It is honoured where that device is
   available and has memory (the meta device would lose the bytes); else the storage
   stays on the CPU, where `torch.load` raises.
3. A file's location string is matched against a fixed grammar before anyone sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.serialization import default_restore_location

from safemodel._graph.storages import checked_location

if TYPE_CHECKING:
    from safemodel._types import MapLocation


def _restore(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
    """Put a storage where torch takes that location to be (rule 1)."""
    place: Callable[..., torch.UntypedStorage] = default_restore_location
    return place(storage, location)


def _restore_wish(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
    """Put a storage where the file wants it, if that device is there (rule 2)."""
    if location == "meta":
        return storage
    try:
        return _restore(storage, location)
    except (RuntimeError, AttributeError, ValueError):
        # No such backend in this build, no such device on this machine.
        return storage


class Placement:
    """A caller's `map_location`, ready to be asked once per storage.

    Attributes:
        meta: Everything goes to the meta device: no bytes are read at all.

    Raises:
        TypeError: `map_location` is none of the kinds `torch.load` takes.
    """

    __slots__ = ("_call", "_fixed", "_known", "_table", "meta")

    def __init__(self, map_location: MapLocation) -> None:
        self._fixed: str | None = None
        self._table: Mapping[str, str] | None = None
        self._call: Callable[[Any, str], Any] | None = None
        self._known: dict[str, bool] = {}
        if isinstance(map_location, (str, torch.device)):
            self._fixed = str(map_location)
        elif isinstance(map_location, Mapping):
            self._table = map_location
        elif callable(map_location):
            self._call = map_location
        elif map_location is not None:
            raise TypeError(
                "map_location must be a string, a torch.device, a mapping, a callable"
                f" or None, not {type(map_location).__name__}"
            )
        self.meta = self._fixed is not None and self._fixed.split(":")[0] == "meta"

    def keeps_cpu(self, location: str) -> bool:
        """Whether a storage with this location stays in CPU memory as it is."""
        known = self._known.get(location)
        if known is None:
            known = self._known[location] = self._keeps_cpu(location)
        return known

    def _keeps_cpu(self, location: str) -> bool:
        if self._call is not None:
            return False
        if self._fixed is not None:
            return self._fixed == "cpu"
        if self._table is not None:
            location = self._table.get(location, location)
        return location == "cpu"

    def place(
        self, storage: torch.UntypedStorage, location: str
    ) -> torch.UntypedStorage:
        """Return the storage on its device: itself, or a copy of it.

        Raises:
            MalformedFileError: The file's location is needed and is not one.
            RuntimeError: The caller's location cannot be restored (torch's error).
            TypeError: The caller's function returns something else than a storage.
        """
        if self._fixed is not None:
            return _restore(storage, self._fixed)
        location = checked_location(location)
        if self._table is not None and location in self._table:
            return _restore(storage, str(self._table[location]))
        if self._call is not None:
            result = self._call(storage, location)
            if isinstance(result, torch.storage.TypedStorage):
                result = result._untyped_storage  # no warning
            if isinstance(result, torch.UntypedStorage):
                return result
            if result is not None:
                raise TypeError(
                    "map_location must return a storage or None,"
                    f" not {type(result).__name__}"
                )
        return _restore_wish(storage, location)
