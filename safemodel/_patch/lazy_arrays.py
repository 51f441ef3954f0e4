"""Archives of arrays, which are opened now and read later.

numpy reads a member of an ``.npz`` when it is asked for, which may be after the patch:
a pickle in it would then be numpy's business again, and run. So an archive that was
opened under a patch replaces what reads its members, each time.
"""

from __future__ import annotations

import sys
from typing import Any

from safemodel._patch.settings import current, default_settings


def lazy_archive(original: Any) -> Any:
    """Return a class like numpy's `NpzFile`, whose pickles are data for good."""

    class LazyArchive(original):  # type: ignore[misc]  # numpy's own class
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._safemodel = current() or default_settings()
            super().__init__(*arguments, **named)

        def __getitem__(self, key: Any) -> Any:
            from safemodel._patch.switch import held

            with held(self._safemodel):
                return super().__getitem__(key)

    LazyArchive.__name__ = LazyArchive.__qualname__ = original.__name__
    return LazyArchive


def lazy_archive_of_old(original: Any) -> Any:
    """Return the same for numpy 1, which has the class elsewhere; else what it is."""
    later = "numpy.lib._npyio_impl" in sys.modules
    return original if later else lazy_archive(original)
